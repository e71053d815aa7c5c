// The querying transformer of BLIP-2 (Li et al., arXiv 2301.12597) and InstructBLIP (Dai et al., arXiv 2305.06500).
//
// A BERT with learnable queries beside the text. Queries and text share self-attention; only queries read the image by
// cross-attention, in every second layer; each has feed-forward weights of its own. Post-LN, erf GELU.
// Names of parameters are those of Hugging Face transformers (`blip_2`, `instructblip`).
//
// B batch · M queries · L text tokens · N image tokens · D hidden · Dv image width · H heads · d = D / H

import Foundation
public import Torch
public import TorchNN

/// Sizes and constants of a ``QFormer``. Decodes the `qformer_config` of published checkpoints.
public struct QFormerConfiguration: Codable, Sendable, Equatable {
  /// D.
  public var hiddenSize = 768
  /// Number of layers.
  public var layers = 12
  /// H.
  public var heads = 12
  /// Width of the feed-forward parts.
  public var intermediateSize = 3072
  /// Added to the variance in every LayerNorm.
  public var layerNormEps = 1e-12
  /// Dropout of hidden states in training.
  public var hiddenDropout = 0.1
  /// Dropout of attention weights in training.
  public var attentionDropout = 0.1
  /// Layers 0, f, 2f … have cross-attention.
  public var crossAttentionFrequency = 2
  /// Dv, the width of what cross-attention reads.
  public var encoderHiddenSize = 1408
  /// M.
  public var queries = 32
  /// Rows of the word table.
  public var vocabularySize = 30522
  /// Rows of the position table.
  public var maxPositions = 512
  /// Whether there are text embeddings and a feed-forward part for text.
  public var readsText = false
  /// Whether the decoder's start token is a vector of its own instead of a row of the word table.
  public var separateDecoderToken = false

  /// The sizes of BLIP-2's Q-Former.
  public init() {}

  /// BLIP-2 (base BERT, ViT-g features), without text.
  public static let blip2 = QFormerConfiguration()

  /// The small adapter trained with this package: MiniLM's sizes, DINOv2-S features, text parts included.
  public static let small: QFormerConfiguration = {
    var configuration = QFormerConfiguration()
    configuration.hiddenSize = 384
    configuration.layers = 6
    configuration.intermediateSize = 1536
    configuration.encoderHiddenSize = 384
    configuration.readsText = true
    configuration.separateDecoderToken = true
    return configuration
  }()

  enum CodingKeys: String, CodingKey {
    case hiddenSize = "hidden_size"
    case layers = "num_hidden_layers"
    case heads = "num_attention_heads"
    case intermediateSize = "intermediate_size"
    case layerNormEps = "layer_norm_eps"
    case hiddenDropout = "hidden_dropout_prob"
    case attentionDropout = "attention_probs_dropout_prob"
    case crossAttentionFrequency = "cross_attention_frequency"
    case encoderHiddenSize = "encoder_hidden_size"
    case queries = "num_query_tokens"
    case vocabularySize = "vocab_size"
    case maxPositions = "max_position_embeddings"
    case readsText = "use_qformer_text_input"
    case separateDecoderToken = "separate_decoder_token"
  }

  /// Fields that are absent take the values of BLIP-2.
  public init(from decoder: any Decoder) throws {
    let fields = try decoder.container(keyedBy: CodingKeys.self)
    func read<Value: Decodable>(_ key: CodingKeys, _ fallback: Value) throws -> Value {
      try fields.decodeIfPresent(Value.self, forKey: key) ?? fallback
    }
    hiddenSize = try read(.hiddenSize, hiddenSize)
    layers = try read(.layers, layers)
    heads = try read(.heads, heads)
    intermediateSize = try read(.intermediateSize, intermediateSize)
    layerNormEps = try read(.layerNormEps, layerNormEps)
    hiddenDropout = try read(.hiddenDropout, hiddenDropout)
    attentionDropout = try read(.attentionDropout, attentionDropout)
    crossAttentionFrequency = try read(.crossAttentionFrequency, crossAttentionFrequency)
    encoderHiddenSize = try read(.encoderHiddenSize, encoderHiddenSize)
    queries = try read(.queries, queries)
    vocabularySize = try read(.vocabularySize, vocabularySize)
    maxPositions = try read(.maxPositions, maxPositions)
    readsText = try read(.readsText, readsText)
    separateDecoderToken = try read(.separateDecoderToken, separateDecoderToken)
  }

  /// Checks that the numbers make a model.
  ///
  /// - Throws: ``QFormerError/invalidConfiguration(_:)``.
  public func validate() throws {
    func require(_ holds: Bool, _ words: String) throws {
      if !holds { throw QFormerError.invalidConfiguration(words) }
    }
    let sizes = [
      ("hidden_size", hiddenSize), ("num_hidden_layers", layers), ("num_attention_heads", heads),
      ("intermediate_size", intermediateSize), ("cross_attention_frequency", crossAttentionFrequency),
      ("encoder_hidden_size", encoderHiddenSize), ("num_query_tokens", queries), ("vocab_size", vocabularySize),
      ("max_position_embeddings", maxPositions),
    ]
    for (name, value) in sizes { try require((1...1_000_000).contains(value), "\(name) is \(value), expected 1 … 10⁶") }
    try require(hiddenSize % heads == 0, "hidden_size \(hiddenSize) is no multiple of \(heads) heads")
    try require(layers <= 512, "num_hidden_layers is \(layers), expected at most 512")
    try require(layerNormEps > 0 && layerNormEps < 1, "layer_norm_eps is \(layerNormEps), expected 0 < eps < 1")
    for (name, value) in [("hidden_dropout_prob", hiddenDropout), ("attention_probs_dropout_prob", attentionDropout)] {
      try require(value >= 0 && value < 1, "\(name) is \(value), expected 0 ≤ p < 1")
    }
  }
}

/// What can be wrong with an adapter or its input.
public enum QFormerError: Error, Sendable, Equatable, CustomStringConvertible {
  /// A configuration that makes no model.
  case invalidConfiguration(String)
  /// A tensor of the wrong shape.
  case wrongShape(what: String, expected: String, found: [Int])
  /// A part that this adapter was built without.
  case missingPart(String)
  /// An input of the right shape that this adapter cannot read.
  case invalidInput(String)

  /// One line.
  public var description: String {
    switch self {
    case .invalidConfiguration(let words): "the Q-Former configuration is invalid: \(words)"
    case .wrongShape(let what, let expected, let found): "\(what): expected the shape \(expected), found \(found)"
    case .missingPart(let part): "this adapter has no \(part)"
    case .invalidInput(let words): words
    }
  }
}

/// Checks the width of a language model that is projected to.
func checkLanguageSize(_ size: Int?) throws {
  if let size, !(1...1_000_000).contains(size) {
    throw QFormerError.invalidConfiguration("language_hidden_size is \(size), expected 1 … 10⁶")
  }
}

/// Keys and values of one attention, `[B, H, S, d]` each.
public struct KeyValue: Sendable {
  /// Keys.
  public let key: Tensor
  /// Values.
  public let value: Tensor

  /// Rows of the batch chosen by `int64 [k]` indices; gradient flows to the source.
  public func select(_ rows: Tensor) -> KeyValue {
    KeyValue(key: key.indexSelect(0, rows), value: value.indexSelect(0, rows))
  }
}

/// An image, or a video, as the cross-attention layers see it, computed once and shared by all passes over it.
public struct ImageKeyValues: Sendable {
  /// One entry for each layer; nil where there is no cross-attention.
  public let layers: [KeyValue?]
  /// Added to the scores of cross-attention, `[B, 1, 1 or M, N]`; none where every query sees everything.
  public let bias: Tensor?

  /// Images of the batch chosen by `int64 [k]` indices; gradient flows to the source.
  public func select(_ rows: Tensor) -> ImageKeyValues {
    ImageKeyValues(layers: layers.map { $0?.select(rows) }, bias: bias?.indexSelect(0, rows))
  }
}

/// The result of a pass that has queries.
public struct QFormerOutput: Sendable {
  /// Hidden states of queries, then text: `[B, M + L, D]`.
  public let hidden: Tensor
  /// Self-attention keys and values of each layer, where asked for.
  public let selfKeyValues: [KeyValue]
  /// Cross-attention weights `[B, H, M, N]` of each layer that has them, where asked for; rows sum to 1.
  public let crossAttention: [Tensor]
  /// Self-attention weights `[B, H, M + L, M + L]` of each layer, where asked for; rows sum to 1.
  public let selfAttention: [Tensor]
}

/// The Q-Former: learnable queries that read an image, alone or together with text.
public struct QFormer: Sendable {
  /// Its sizes.
  public let configuration: QFormerConfiguration
  /// The queries `[1, M, D]`.
  public let queryTokens: Tensor
  private let words: Embedding?
  private let positions: Embedding?
  private let decoderToken: Tensor?
  private let norm: LayerNorm
  let layers: [QFormerLayer]

  /// Takes `query_tokens`, `embeddings.*` (with text) and `qformer.*` from the scope.
  ///
  /// - Throws: ``QFormerError/invalidConfiguration(_:)``.
  public init(_ configuration: QFormerConfiguration, _ scope: ParameterScope) throws {
    try self.init(configuration, experts: .shared, scope)
  }

  /// The same with feed-forward parts of their own for groups of queries.
  init(_ configuration: QFormerConfiguration, experts: QueryExperts, _ scope: ParameterScope) throws {
    try configuration.validate()
    self.configuration = configuration
    let width = configuration.hiddenSize
    queryTokens = scope.parameter(
      "query_tokens", [1, configuration.queries, width], .normal(standardDeviation: 0.02))
    if configuration.readsText {
      words = Embedding(configuration.vocabularySize, width, scope["embeddings.word_embeddings"])
      positions = Embedding(configuration.maxPositions, width, scope["embeddings.position_embeddings"])
    } else {
      words = nil
      positions = nil
    }
    decoderToken =
      configuration.readsText && configuration.separateDecoderToken
      ? scope.parameter("embeddings.decoder_token", [1, width], .normal(standardDeviation: 0.02)) : nil
    norm = LayerNorm(width, eps: configuration.layerNormEps, scope["qformer.layernorm"])
    layers = (0..<configuration.layers).map { index in
      QFormerLayer(
        configuration, hasCrossAttention: index % configuration.crossAttentionFrequency == 0,
        groups: experts.groups(layer: index, of: configuration.layers), scope["qformer.encoder.layer"][index])
    }
  }

  /// The number that stands for the decoder's start token `[DEC]`: one past the word table, or its last row.
  public var decoderTokenID: Int {
    decoderToken == nil ? configuration.vocabularySize - 1 : configuration.vocabularySize
  }

  /// The word table `[vocabulary, D]`, to which the language-model head is tied.
  public var wordTable: Tensor? { words?.weight }

  // MARK: Passes

  /// Projects image features to the keys and values of every cross-attention layer.
  ///
  /// - Parameters:
  ///   - features: `[B, N, Dv]`.
  ///   - mask: `[B, N]`, 1 for what the queries see and 0 for padding; everything when left out.
  /// - Throws: ``QFormerError/wrongShape(what:expected:found:)``.
  public func imageKeyValues(_ features: Tensor, mask: Tensor? = nil) throws -> ImageKeyValues {
    if let mask, mask.shape != Array(features.shape.prefix(2)) {
      throw QFormerError.wrongShape(
        what: "the mask of image features", expected: "\(features.shape.prefix(2))", found: mask.shape)
    }
    let bias = mask.map { Self.additive($0).reshaped($0.size(0), 1, 1, -1) }  // [B, 1, 1, N]
    return try imageKeyValues(features, bias: bias)
  }

  /// The same with what is added to the scores of cross-attention, `[B, 1, 1 or M, N]`.
  func imageKeyValues(_ features: Tensor, bias: Tensor?) throws -> ImageKeyValues {
    guard features.rank == 3, features.size(2) == configuration.encoderHiddenSize else {
      throw QFormerError.wrongShape(
        what: "image features", expected: "[B, N, \(configuration.encoderHiddenSize)]", found: features.shape)
    }
    return ImageKeyValues(layers: layers.map { $0.crossAttention?.keyValue(features) }, bias: bias)
  }

  /// Queries alone read the image.
  ///
  /// - Parameters:
  ///   - image: From ``imageKeyValues(_:mask:)``.
  ///   - keepsKeyValues: Whether to return self-attention keys and values, for
  ///     ``causalText(_:mask:queries:isTraining:)``.
  ///   - keepsAttention: Whether to return cross-attention weights.
  ///   - isTraining: Whether dropout is on.
  /// - Returns: Hidden states `[B, M, D]`.
  public func readImage(
    _ image: ImageKeyValues, keepsKeyValues: Bool = false, keepsAttention: Bool = false, isTraining: Bool = false
  ) -> QFormerOutput {
    let batch = image.layers.lazy.compactMap { $0 }.first?.key.size(0) ?? 1
    let x = normalized(queryTokens.expanded(batch, -1, -1), isTraining)
    return encode(
      x, queries: configuration.queries, image: image, keepsKeyValues: keepsKeyValues, keepsAttention: keepsAttention,
      isTraining: isTraining)
  }

  /// Queries alone read the image, and in self-attention what the queries of earlier passes were (MA-LMM).
  ///
  /// - Parameters:
  ///   - image: From ``imageKeyValues(_:mask:)``.
  ///   - memory: A bank for each layer, of `[B, M, D]`. Each takes up this pass.
  /// - Returns: Hidden states `[B, M, D]`.
  func readImage(_ image: ImageKeyValues, memory: inout [MemoryBank]) -> Tensor {
    let batch = image.layers.lazy.compactMap { $0 }.first?.key.size(0) ?? 1
    var banks = memory
    let x = normalized(queryTokens.expanded(batch, -1, -1), false)
    let hidden = encode(
      x, queries: configuration.queries, image: image,
      selfSource: { layer, x in
        let source = banks[layer].tokens(with: x)
        banks[layer].append(x)
        return source
      }, isTraining: false
    ).hidden
    memory = banks
    return hidden
  }

  /// Text alone, every token seeing every other.
  ///
  /// - Parameters:
  ///   - ids: `int64 [B, L]`.
  ///   - mask: `[B, L]`, 1 for text and 0 for padding.
  ///   - isTraining: Whether dropout is on.
  /// - Returns: Hidden states `[B, L, D]`.
  /// - Throws: ``QFormerError/missingPart(_:)`` when the adapter reads no text, or ``QFormerError`` for a wrong shape.
  public func readText(_ ids: Tensor, mask: Tensor, isTraining: Bool = false) throws -> Tensor {
    let x = normalized(try embed(ids), isTraining)
    return encode(x, queries: 0, mask: Self.additive(mask).reshaped(mask.size(0), 1, 1, -1), isTraining: isTraining)
      .hidden
  }

  /// Queries and text together, every token seeing every other; queries read the image.
  ///
  /// - Parameters:
  ///   - image: From ``imageKeyValues(_:mask:)``.
  ///   - ids: `int64 [B, L]`.
  ///   - mask: `[B, L]`, 1 for text and 0 for padding.
  ///   - keepsAttention: Whether to return cross-attention weights.
  ///   - keepsSelfAttention: Whether to return self-attention weights.
  ///   - isTraining: Whether dropout is on.
  /// - Returns: Hidden states `[B, M + L, D]`, queries first.
  /// - Throws: as ``readText(_:mask:isTraining:)``.
  public func readImageAndText(
    _ image: ImageKeyValues, _ ids: Tensor, mask: Tensor, keepsAttention: Bool = false,
    keepsSelfAttention: Bool = false, isTraining: Bool = false
  ) throws -> QFormerOutput {
    let batch = ids.size(0)
    let x = Tensor.cat([queryTokens.expanded(batch, -1, -1), try embed(ids)], 1)
    let all = Tensor.cat([Tensor.ones([batch, configuration.queries]), mask.to(.float32)], 1)
    return encode(
      normalized(x, isTraining), queries: configuration.queries,
      mask: Self.additive(all).reshaped(batch, 1, 1, -1),  // [B, 1, 1, M + L]
      image: image, keepsAttention: keepsAttention, keepsSelfAttention: keepsSelfAttention, isTraining: isTraining)
  }

  /// Text that sees all queries, through their cached keys and values, and itself up to each position.
  ///
  /// Together with ``readImage(_:keepsKeyValues:keepsAttention:isTraining:)`` this is the multimodal causal mask:
  /// queries never see text. Gradient flows into the queries.
  ///
  /// - Parameters:
  ///   - ids: `int64 [B, L]`, the first one ``decoderTokenID``.
  ///   - mask: `[B, L]`, 1 for text and 0 for padding at the end.
  ///   - queries: ``QFormerOutput/selfKeyValues`` of the query pass.
  ///   - isTraining: Whether dropout is on.
  /// - Returns: Hidden states `[B, L, D]`.
  /// - Throws: as ``readText(_:mask:isTraining:)``.
  public func causalText(_ ids: Tensor, mask: Tensor, queries: [KeyValue], isTraining: Bool = false) throws -> Tensor {
    let (batch, length) = (ids.size(0), ids.size(1))
    let seen = Tensor.causal(length).unsqueezed(0) * mask.to(.float32).unsqueezed(1)  // [B, L, L]
    let all = Tensor.cat([Tensor.ones([batch, length, configuration.queries]), seen], 2)
    return encode(
      normalized(try embed(ids), isTraining), queries: 0,
      mask: Self.additive(all).unsqueezed(1),  // [B, 1, L, M + L]
      past: queries, isTraining: isTraining
    ).hidden
  }

  // MARK: Parts

  /// Word plus position embeddings `[B, L, D]`, before the common LayerNorm.
  private func embed(_ ids: Tensor) throws -> Tensor {
    guard let words, let positions else { throw QFormerError.missingPart("text embeddings: it reads no text") }
    guard ids.rank == 2, (1...configuration.maxPositions).contains(ids.size(1)) else {
      throw QFormerError.wrongShape(
        what: "text", expected: "[B, L] with 1 ≤ L ≤ \(configuration.maxPositions)", found: ids.shape)
    }
    var x: Tensor
    if let decoderToken {
      let isStart = ids.equal(Double(decoderTokenID))
      x = decoderToken.chosen(where: isStart.unsqueezed(2), else: words(ids.maskedFill(isStart, 0)))
    } else {
      x = words(ids)
    }
    x = x + positions.weight.narrow(0, 0, ids.size(1))
    return x
  }

  func normalized(_ x: Tensor, _ isTraining: Bool) -> Tensor {
    norm(x).dropout(isTraining ? configuration.hiddenDropout : 0)
  }

  private func encode(
    _ x: Tensor, queries: Int, mask: Tensor? = nil, image: ImageKeyValues? = nil, past: [KeyValue]? = nil,
    selfSource: ((_ layer: Int, _ x: Tensor) -> Tensor)? = nil, keepsKeyValues: Bool = false,
    keepsAttention: Bool = false, keepsSelfAttention: Bool = false, isTraining: Bool
  ) -> QFormerOutput {
    var x = x
    var selfKeyValues: [KeyValue] = []
    var crossAttention: [Tensor] = []
    var selfAttention: [Tensor] = []
    for (index, layer) in layers.enumerated() {
      let keyValue = layer.selfAttention.keyValue(selfSource?(index, x) ?? x, after: past?[index])
      if keepsKeyValues { selfKeyValues.append(keyValue) }
      // Weights are computed beside the fused attention, and only on request.
      if keepsSelfAttention { selfAttention.append(layer.selfAttention.weights(x, keyValue, mask: mask)) }
      if keepsAttention, let attention = layer.crossAttention, let keys = image?.layers[index] {
        let seen = layer.selfAttention(x, keyValue, mask: mask, isTraining: isTraining)
        crossAttention.append(attention.weights(seen.narrow(1, 0, queries), keys, mask: image?.bias))
      }
      x = layer(
        x, keyValue, queries: queries, mask: mask, image: image?.layers[index], imageBias: image?.bias,
        isTraining: isTraining)
    }
    return QFormerOutput(
      hidden: x, selfKeyValues: selfKeyValues, crossAttention: crossAttention, selfAttention: selfAttention)
  }

  /// The numbers of the layers that have cross-attention, ascending: those that attention weights are returned of.
  public var crossAttentionLayers: [Int] { layers.indices.filter { layers[$0].crossAttention != nil } }

  /// 0 where a mask holds 1 and −10,000 where it holds 0: finite, so that a row that sees nothing gives no NaN.
  static func additive(_ mask: Tensor) -> Tensor { (mask.to(.float32) - 1) * 10_000 }
}
