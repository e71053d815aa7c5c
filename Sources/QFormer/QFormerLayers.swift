// The layers of a Q-Former: attention over tokens and over what the queries look at, feed-forward parts for text and
// for queries. Post-LN, as in BERT.
//
// B batch · M queries · L text tokens · N tokens looked at · D hidden · H heads · d = D / H

import Torch
import TorchNN

/// Which feed-forward parts the queries have: one for all of them, or in the last layers one for each group of queries
/// (experts with hard routing, as VLMo routes by modality, arXiv 2111.02358).
struct QueryExperts: Sendable {
  /// Name and number of queries of each group, in the order of the queries.
  let groups: [(name: String, queries: Int)]
  /// How many layers have experts, counted from the last.
  let lastLayers: Int

  /// One part for all queries in every layer.
  static let shared = QueryExperts(groups: [], lastLayers: 0)

  /// The groups of one layer; the names are those of its parameters.
  func groups(layer: Int, of layers: Int) -> [(name: String, queries: Int?)] {
    layer < layers - lastLayers || groups.isEmpty ? [("query", nil)] : groups.map { ($0.name, $0.queries) }
  }
}

/// Self-attention, cross-attention of queries, and feed-forward parts of one layer.
struct QFormerLayer: Sendable {
  let selfAttention: QFormerAttention
  let crossAttention: QFormerAttention?
  private let textFeedForward: FeedForward?
  /// One part, or one for each group of so many queries.
  private let queryFeedForward: [(queries: Int?, part: FeedForward)]

  init(
    _ configuration: QFormerConfiguration, hasCrossAttention: Bool, groups: [(name: String, queries: Int?)],
    _ scope: ParameterScope
  ) {
    selfAttention = QFormerAttention(configuration, keyWidth: configuration.hiddenSize, scope["attention"])
    crossAttention =
      hasCrossAttention
      ? QFormerAttention(configuration, keyWidth: configuration.encoderHiddenSize, scope["crossattention"]) : nil
    textFeedForward =
      configuration.readsText
      ? FeedForward(configuration, scope["intermediate.dense"], scope["output"]) : nil
    queryFeedForward = groups.map { name, queries in
      (queries, FeedForward(configuration, scope["intermediate_\(name).dense"], scope["output_\(name)"]))
    }
  }

  /// - Parameters:
  ///   - x: `[B, M + L, D]`, queries first.
  ///   - keyValue: What self-attention reads.
  ///   - queries: M, the number of queries in `x`.
  ///   - mask: Added to the scores of self-attention.
  ///   - image: What the queries look at.
  ///   - imageBias: Added to the scores of cross-attention, `[B, 1, 1 or M, N]`.
  func callAsFunction(
    _ x: Tensor, _ keyValue: KeyValue, queries: Int, mask: Tensor?, image: KeyValue?, imageBias: Tensor?,
    isTraining: Bool
  ) -> Tensor {
    let seen = selfAttention(x, keyValue, mask: mask, isTraining: isTraining)
    var parts: [Tensor] = []
    if queries > 0 {
      var query = seen.narrow(1, 0, queries)
      if let crossAttention, let image {
        query = crossAttention(query, image, mask: imageBias, isTraining: isTraining)
      }
      var first = 0
      for (count, part) in queryFeedForward {
        parts.append(part(count.map { query.narrow(1, first, $0) } ?? query, isTraining: isTraining))
        first += count ?? queries
      }
    }
    if let textFeedForward, x.size(1) > queries {
      parts.append(textFeedForward(seen.slice(1, queries), isTraining: isTraining))
    }
    return parts.count == 1 ? parts[0] : .cat(parts, 1)
  }

  /// Lets the queries' feed-forward parts add nothing to their residual.
  func silenceQueries() {
    for (_, part) in queryFeedForward { part.silence() }
  }
}

/// Multi-head attention with its output projection, residual and LayerNorm.
struct QFormerAttention: Sendable {
  let query: Linear
  let key: Linear
  let value: Linear
  let dense: Linear
  let norm: LayerNorm
  let heads: Int
  let hiddenDropout: Double
  let attentionDropout: Double

  init(_ configuration: QFormerConfiguration, keyWidth: Int, _ scope: ParameterScope) {
    let width = configuration.hiddenSize
    query = Linear(width, width, scope["attention.query"])
    key = Linear(keyWidth, width, scope["attention.key"])
    value = Linear(keyWidth, width, scope["attention.value"])
    dense = Linear(width, width, scope["output.dense"])
    norm = LayerNorm(width, eps: configuration.layerNormEps, scope["output.LayerNorm"])
    heads = configuration.heads
    hiddenDropout = configuration.hiddenDropout
    attentionDropout = configuration.attentionDropout
  }

  private func split(_ x: Tensor) -> Tensor {
    x.reshaped(x.size(0), x.size(1), heads, -1).transposed(1, 2)  // [B, H, S, d]
  }

  /// Keys and values of `[B, S, keyWidth]`, behind those of an earlier pass where there was one.
  func keyValue(_ x: Tensor, after past: KeyValue? = nil) -> KeyValue {
    let (keys, values) = (split(key(x)), split(value(x)))
    guard let past else { return KeyValue(key: keys, value: values) }
    return KeyValue(key: .cat([past.key, keys], 2), value: .cat([past.value, values], 2))
  }

  func callAsFunction(_ x: Tensor, _ keyValue: KeyValue, mask: Tensor?, isTraining: Bool) -> Tensor {
    let context = split(query(x)).attention(
      keyValue.key, keyValue.value, mask: mask, dropout: isTraining ? attentionDropout : 0)
    let merged = context.transposed(1, 2).reshaped(x.size(0), x.size(1), -1)  // [B, L, D]
    return norm(dense(merged).dropout(isTraining ? hiddenDropout : 0) + x)
  }

  /// Attention weights `[B, H, L, S]` without dropout; a mask is added to the scores.
  func weights(_ x: Tensor, _ keyValue: KeyValue, mask: Tensor?) -> Tensor {
    let scale = 1 / Double(keyValue.key.size(3)).squareRoot()
    let scores = split(query(x)).matmul(keyValue.key.transposed(2, 3)) * scale
    return (mask.map { scores + $0 } ?? scores).softmax()
  }
}

/// Two linear layers with GELU between, residual and LayerNorm.
private struct FeedForward: Sendable {
  let up: Linear
  let down: Linear
  let norm: LayerNorm
  let dropout: Double

  init(_ configuration: QFormerConfiguration, _ up: ParameterScope, _ output: ParameterScope) {
    self.up = Linear(configuration.hiddenSize, configuration.intermediateSize, up)
    down = Linear(configuration.intermediateSize, configuration.hiddenSize, output["dense"])
    norm = LayerNorm(configuration.hiddenSize, eps: configuration.layerNormEps, output["LayerNorm"])
    dropout = configuration.hiddenDropout
  }

  func callAsFunction(_ x: Tensor, isTraining: Bool) -> Tensor {
    norm(down(up(x).gelu()).dropout(isTraining ? dropout : 0) + x)
  }

  func silence() {
    down.weight.zero()
    down.bias?.zero()
  }
}
