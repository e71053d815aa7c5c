// BERT (Devlin et al., arXiv 1810.04805): a bidirectional text encoder. Used for sentence embeddings (MiniLM).
//
// Original source: google-research/bert; parameter names are those of Hugging Face's BertModel.
// Shapes: B batch · L tokens · D width · H heads · d = D / H.
import Checkpoints
public import Foundation
public import Torch
public import TorchNN

/// Sizes of a BERT model, as its `config.json` gives them; fields left out take the values below.
public struct BERTConfiguration: Codable, Sendable, Equatable {
  /// Rows of the word table.
  public var vocabularySize = 30_522
  /// D.
  public var hiddenSize = 768
  /// Layers.
  public var layers = 12
  /// H.
  public var heads = 12
  /// Width inside the feed-forward layer.
  public var intermediateSize = 3072
  /// The longest text, in tokens.
  public var maxPositions = 512
  /// Kinds of segments.
  public var segmentKinds = 2
  /// Of all layer normalisations.
  public var layerNormEps = 1e-12

  enum CodingKeys: String, CodingKey {
    case vocabularySize = "vocab_size"
    case hiddenSize = "hidden_size"
    case layers = "num_hidden_layers"
    case heads = "num_attention_heads"
    case intermediateSize = "intermediate_size"
    case maxPositions = "max_position_embeddings"
    case segmentKinds = "type_vocab_size"
    case layerNormEps = "layer_norm_eps"
  }

  private enum ChoiceKeys: String, CodingKey {
    case modelType = "model_type"
    case activation = "hidden_act"
    case positions = "position_embedding_type"
  }

  /// The values that a published configuration may leave out: bert-base-uncased.
  public init() {}

  /// Decodes a `config.json`; throws a `DecodingError` for fields that cannot be.
  public init(from decoder: any Decoder) throws {
    let choices = try decoder.container(keyedBy: ChoiceKeys.self)
    try choices.word(.modelType, oneOf: ["bert"])
    try choices.word(.activation, oneOf: ["gelu"])
    try choices.word(.positions, oneOf: ["absolute"])
    let fields = try decoder.container(keyedBy: CodingKeys.self)
    vocabularySize = try fields.size(.vocabularySize, default: vocabularySize, in: Limit.vocabulary)
    hiddenSize = try fields.size(.hiddenSize, default: hiddenSize, in: Limit.width)
    layers = try fields.size(.layers, default: layers, in: Limit.layers)
    heads = try fields.size(.heads, default: heads, in: 1...hiddenSize)
    intermediateSize = try fields.size(.intermediateSize, default: intermediateSize, in: 1...1_048_576)
    maxPositions = try fields.size(.maxPositions, default: maxPositions, in: Limit.positions)
    segmentKinds = try fields.size(.segmentKinds, default: segmentKinds, in: 1...1_024)
    layerNormEps = try fields.value(.layerNormEps, default: layerNormEps)
    guard hiddenSize.isMultiple(of: heads) else {
      throw fields.corrupted(.heads, "\(heads) heads do not divide hidden_size \(hiddenSize)")
    }
  }
}

/// The BERT text encoder.
public final class BERT: Sendable {
  /// Its sizes.
  public let configuration: BERTConfiguration
  private let words: Embedding
  private let positions: Embedding
  private let segments: Embedding
  private let norm: LayerNorm
  private let layers: [Layer]

  /// Takes all weights from the scope, under the names of BertModel.
  public init(_ configuration: BERTConfiguration, _ scope: ParameterScope) {
    self.configuration = configuration
    let width = configuration.hiddenSize
    let embeddings = scope["embeddings"]
    words = Embedding(configuration.vocabularySize, width, embeddings["word_embeddings"])
    positions = Embedding(configuration.maxPositions, width, embeddings["position_embeddings"])
    segments = Embedding(configuration.segmentKinds, width, embeddings["token_type_embeddings"])
    norm = LayerNorm(width, eps: configuration.layerNormEps, embeddings["LayerNorm"])
    layers = (0..<configuration.layers).map { Layer(configuration, scope["encoder.layer"][$0]) }
  }

  /// Loads `config.json` and the weights of a folder in Hugging Face layout, strictly.
  ///
  /// Names may start with `bert.`, as in models with a task head; pooler and heads are left aside.
  /// - Throws: ``BackboneError`` for the configuration, `CheckpointError` for the weights.
  public static func load(folder: URL) throws -> BERT {
    let configuration = try readConfiguration(BERTConfiguration.self, folder: folder)
    let checkpoint = try Checkpoint(contentsOf: folder)
    let isPrefixed = checkpoint.names.contains { $0.hasPrefix("bert.") }
    return try loadModel(
      from: checkpoint, keyMap: isPrefixed ? KeyMap([KeyMap.Rule("", "bert.")]) : .identity,
      ignoring: ["*pooler.dense.*", "*embeddings.position_ids"] + (isPrefixed ? ["cls.*", "classifier.*"] : [])
    ) { BERT(configuration, $0) }.model
  }

  /// Hidden states of the last layer.
  ///
  /// - Parameters:
  ///   - ids: `int64 [B, L]`, one segment.
  ///   - mask: `[B, L]`, 1 for tokens and 0 for padding; none when nothing is padded.
  /// - Returns: `[B, L, D]`. A wrong shape or too long a text is a failure for `withError`.
  public func hiddenStates(_ ids: Tensor, mask: Tensor? = nil) -> Tensor {
    let shape = ids.shape
    guard shape.count == 2, (1...configuration.maxPositions).contains(shape[1]) else {
      return .failed("BERT takes ids [B, L] with L from 1 to \(configuration.maxPositions); found \(shape)")
    }
    if let found = mask?.shape, found != shape { return .failed("BERT expected a mask \(shape), found \(found)") }
    let constant = positions.weight.narrow(0, 0, shape[1]) + segments.weight.narrow(0, 0, 1)  // [L, D]
    // Finite, so that a row of padding alone does not turn into NaN. [B, 1, 1, L]
    let hidden = mask.map { (1 - $0.to(.float32)).reshaped(shape[0], 1, 1, shape[1]) * -1e9 }
    var x = norm(words(ids) + constant)
    for layer in layers { x = layer(x, hidden) }
    return x
  }

  /// One vector of length 1 for each text: the mean of its tokens' hidden states, padding left out.
  ///
  /// - Returns: `[B, D]`.
  public func meanPooled(_ ids: Tensor, mask: Tensor? = nil) -> Tensor {
    Self.meanPooled(hiddenStates(ids, mask: mask), mask: mask)
  }

  /// The same of hidden states `[B, L, D]`.
  public static func meanPooled(_ states: Tensor, mask: Tensor?) -> Tensor {
    guard let mask else { return states.mean(1).normalized() }
    let weights = mask.to(.float32).unsqueezed(-1)  // [B, L, 1]
    return ((states * weights).sum(1) / weights.sum(1).clamped(min: 1e-9)).normalized()
  }
}

/// Post-norm transformer layer.
private struct Layer: Sendable {
  let heads: Int
  let query: Linear
  let key: Linear
  let value: Linear
  let attentionOutput: Linear
  let attentionNorm: LayerNorm
  let inner: Linear
  let output: Linear
  let outputNorm: LayerNorm

  init(_ configuration: BERTConfiguration, _ scope: ParameterScope) {
    let (width, eps) = (configuration.hiddenSize, configuration.layerNormEps)
    heads = configuration.heads
    query = Linear(width, width, scope["attention.self.query"])
    key = Linear(width, width, scope["attention.self.key"])
    value = Linear(width, width, scope["attention.self.value"])
    attentionOutput = Linear(width, width, scope["attention.output.dense"])
    attentionNorm = LayerNorm(width, eps: eps, scope["attention.output.LayerNorm"])
    inner = Linear(width, configuration.intermediateSize, scope["intermediate.dense"])
    output = Linear(configuration.intermediateSize, width, scope["output.dense"])
    outputNorm = LayerNorm(width, eps: eps, scope["output.LayerNorm"])
  }

  /// `[B, L, D]` to the same shape.
  func callAsFunction(_ x: Tensor, _ hidden: Tensor?) -> Tensor {
    let shape = x.shape
    // [B, L, D] → [B, H, L, d]
    func split(_ y: Tensor) -> Tensor { y.reshaped(y.size(0), y.size(1), heads, -1).transposed(1, 2) }
    let mixed = split(query(x)).attention(split(key(x)), split(value(x)), mask: hidden)
    let attended = attentionNorm(x + attentionOutput(mixed.transposed(1, 2).reshaped(shape)))
    return outputNorm(attended + output(inner(attended).gelu()))
  }
}
