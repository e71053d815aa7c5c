// T5 (Raffel et al., arXiv 1910.10683) and its 1.1 and Flan forms: an encoder-decoder language model with relative
// position buckets, RMS norms and attention without a scale.
//
// Original source: google-research/text-to-text-transfer-transformer; parameter names are those of Hugging Face's
// T5ForConditionalGeneration.
// Shapes: B batch · S tokens of the encoder · L tokens of the decoder · D width · H heads · d width of a head (H · d need
// not be D) · V vocabulary.
import Checkpoints
public import Foundation
public import Torch
public import TorchNN

/// Sizes of a T5 model, as its `config.json` gives them; fields left out take the values below.
public struct T5Configuration: Codable, Sendable, Equatable {
  /// V.
  public var vocabularySize = 32_128
  /// D.
  public var hiddenSize = 512
  /// d.
  public var headWidth = 64
  /// Width inside the feed-forward layer.
  public var intermediateSize = 2048
  /// Blocks of the encoder.
  public var layers = 6
  /// Blocks of the decoder; as many as the encoder's when left out.
  public var decoderLayers = 6
  /// H.
  public var heads = 8
  /// Relative distances that are told apart.
  public var buckets = 32
  /// Distances from here on share a bucket, in tokens.
  public var maxDistance = 128
  /// Of all RMS norms.
  public var rmsNormEps = 1e-6
  /// Whether the feed-forward layer multiplies two branches, as from version 1.1 on.
  public var isGated = false
  /// In the feed-forward layer. `gated-gelu` means the one by tanh unless `dense_act_fn` says otherwise.
  public var activation = Activation.relu
  /// Whether the head is the table of word embeddings.
  public var tiesEmbeddings = true
  /// Whether hidden states are divided by √D before the head; so it is where the head is tied.
  public var scalesHead = true
  /// What the decoder begins with.
  public var startID = 0
  /// Ends a text; several in some models.
  public var endIDs: [Int] = [1]

  enum CodingKeys: String, CodingKey {
    case vocabularySize = "vocab_size"
    case hiddenSize = "d_model"
    case headWidth = "d_kv"
    case intermediateSize = "d_ff"
    case layers = "num_layers"
    case decoderLayers = "num_decoder_layers"
    case heads = "num_heads"
    case buckets = "relative_attention_num_buckets"
    case maxDistance = "relative_attention_max_distance"
    case rmsNormEps = "layer_norm_epsilon"
    case feedForward = "feed_forward_proj"
    case activation = "dense_act_fn"
    case tiesEmbeddings = "tie_word_embeddings"
    case scalesHead = "scale_decoder_outputs"
    case startID = "decoder_start_token_id"
    case endIDs = "eos_token_id"
  }

  private enum ChoiceKeys: String, CodingKey {
    case modelType = "model_type"
    case paddingID = "pad_token_id"
  }

  /// The values that a published configuration may leave out: T5-small.
  public init() {}

  /// Flan-T5-XL as BLIP-2 uses it: 24 + 24 blocks, gated by the exact GELU, with a head of its own.
  public static let blip2: Self = {
    var configuration = Self()
    (configuration.hiddenSize, configuration.intermediateSize, configuration.heads) = (2048, 5120, 32)
    (configuration.layers, configuration.decoderLayers) = (24, 24)
    (configuration.isGated, configuration.activation) = (true, .gelu)
    (configuration.tiesEmbeddings, configuration.scalesHead) = (false, false)
    return configuration
  }()

  /// Decodes a `config.json` or `text_config`; throws a `DecodingError` for fields that cannot be.
  public init(from decoder: any Decoder) throws {
    let choices = try decoder.container(keyedBy: ChoiceKeys.self)
    try choices.word(.modelType, oneOf: ["t5"])
    let fields = try decoder.container(keyedBy: CodingKeys.self)
    vocabularySize = try fields.size(.vocabularySize, default: vocabularySize, in: Limit.vocabulary)
    hiddenSize = try fields.size(.hiddenSize, default: hiddenSize, in: Limit.width)
    headWidth = try fields.size(.headWidth, default: headWidth, in: 1...8_192)
    intermediateSize = try fields.size(.intermediateSize, default: intermediateSize, in: Limit.inner)
    layers = try fields.size(.layers, default: layers, in: Limit.layers)
    decoderLayers = try fields.size(.decoderLayers, default: layers, in: Limit.layers)
    heads = try fields.size(.heads, default: heads, in: 1...4_096)
    buckets = try fields.size(.buckets, default: buckets, in: 4...65_536)
    maxDistance = try fields.size(.maxDistance, default: maxDistance, in: buckets...Limit.positions.upperBound)
    rmsNormEps = try fields.value(.rmsNormEps, default: rmsNormEps)
    let words = try fields.value(.feedForward, default: "relu").split(separator: "-", maxSplits: 1)
    isGated = words.count == 2
    guard let name = words.last, !isGated || words[0] == "gated" else {
      throw fields.corrupted(.feedForward, "expected an activation or gated- and an activation")
    }
    guard let named = Activation(rawValue: String(name)) else {
      throw fields.corrupted(.feedForward, "expected \(Activation.known), with or without gated-; found \(name)")
    }
    activation = try fields.activation(.activation, default: isGated && named == .gelu ? .tanhGELU : named)
    tiesEmbeddings = try fields.value(.tiesEmbeddings, default: tiesEmbeddings)
    scalesHead = try fields.value(.scalesHead, default: tiesEmbeddings)
    startID = try choices.size(.paddingID, default: startID, in: 0...vocabularySize - 1)
    startID = try fields.size(.startID, default: startID, in: 0...vocabularySize - 1)
    endIDs = try fields.oneOrMore(.endIDs, default: endIDs)
  }

  /// Encodes what ``init(from:)`` decodes.
  public func encode(to encoder: any Encoder) throws {
    var fields = encoder.container(keyedBy: CodingKeys.self)
    try fields.encode(vocabularySize, forKey: .vocabularySize)
    try fields.encode(hiddenSize, forKey: .hiddenSize)
    try fields.encode(headWidth, forKey: .headWidth)
    try fields.encode(intermediateSize, forKey: .intermediateSize)
    try fields.encode(layers, forKey: .layers)
    try fields.encode(decoderLayers, forKey: .decoderLayers)
    try fields.encode(heads, forKey: .heads)
    try fields.encode(buckets, forKey: .buckets)
    try fields.encode(maxDistance, forKey: .maxDistance)
    try fields.encode(rmsNormEps, forKey: .rmsNormEps)
    let plain = activation == .tanhGELU && isGated ? Activation.gelu : activation
    try fields.encode((isGated ? "gated-" : "") + plain.rawValue, forKey: .feedForward)
    try fields.encode(activation, forKey: .activation)
    try fields.encode(tiesEmbeddings, forKey: .tiesEmbeddings)
    try fields.encode(scalesHead, forKey: .scalesHead)
    try fields.encode(startID, forKey: .startID)
    try fields.encode(endIDs, forKey: .endIDs)
  }
}

/// The T5 language model, frozen.
///
/// Gradients flow through it to the embeddings that go into the encoder; none are computed for its weights.
public final class T5: GenerativeModel {
  /// Its sizes.
  public let configuration: T5Configuration
  private let embeddings: Tensor  // [V, D]
  private let headWeight: Tensor  // [V, D]
  private let encoder: Stack
  private let decoder: Stack

  /// Takes all weights from the scope, under the names of T5ForConditionalGeneration.
  public init(_ configuration: T5Configuration, _ scope: ParameterScope) {
    self.configuration = configuration
    let (vocabulary, width) = (configuration.vocabularySize, configuration.hiddenSize)
    embeddings = Embedding(vocabulary, width, scope["shared"]).weight
    encoder = Stack(configuration, configuration.layers, scope["encoder"], isDecoder: false)
    decoder = Stack(configuration, configuration.decoderLayers, scope["decoder"], isDecoder: true)
    headWeight =
      Self.hasHead(configuration, scope.has("lm_head.weight"))
      ? scope["lm_head"].parameter("weight", [vocabulary, width], .normal(standardDeviation: 0.02)) : embeddings
  }

  /// transformers 5 writes "tied" also for heads that are not: such a model has a head and does not scale.
  private static func hasHead(_ configuration: T5Configuration, _ isThere: Bool) -> Bool {
    !configuration.tiesEmbeddings || !configuration.scalesHead && isThere
  }

  /// Loads `config.json` and the weights of a folder in Hugging Face layout, strictly.
  ///
  /// - Throws: ``BackboneError`` for the configuration, `CheckpointError` for the weights.
  public static func load(folder: URL) throws -> T5 {
    let configuration = try readConfiguration(T5Configuration.self, folder: folder)
    let checkpoint = try Checkpoint(contentsOf: folder)
    let isThere = checkpoint.names.contains("lm_head.weight")
    return try loadModel(from: checkpoint, ignoring: copies(configuration, hasHead: isThere)) {
      T5(configuration, $0)
    }.model
  }

  /// Patterns of keys that files hold beside the weights: the word table again, and a table of old files without use.
  static func copies(_ configuration: T5Configuration, hasHead: Bool) -> [String] {
    ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "*.EncDecAttention.relative_attention_bias.weight"]
      + (Self.hasHead(configuration, hasHead) ? [] : ["lm_head.weight"])
  }

  /// D.
  public var hiddenSize: Int { configuration.hiddenSize }
  /// V.
  public var vocabularySize: Int { configuration.vocabularySize }

  /// Word embeddings: `int64` of any shape to `[…, D]`.
  public func embed(_ ids: Tensor) -> Tensor { embeddings.embedding(ids) }

  /// What the decoder begins with: the prompt is the encoder's and does not count.
  public func penalizedIDs(prompt: [Int]) -> [Int] { [configuration.startID] }

  /// The encoder's states.
  ///
  /// - Parameters:
  ///   - inputsEmbeds: `[B, S, D]`: word embeddings, projected picture tokens, or both in a row.
  ///   - attentionMask: `[B, S]`, 1 for tokens, 0 for padding on either side; none when nothing is padded.
  /// - Returns: `[B, S, D]`. A wrong shape is a failure for `withError`.
  public func encode(inputsEmbeds: Tensor, attentionMask: Tensor? = nil) -> Tensor {
    let shape = inputsEmbeds.shape
    guard shape.count == 3, shape[2] == hiddenSize, shape[1] > 0 else {
      return .failed("T5 takes embeddings [B, S, \(hiddenSize)], S > 0; found \(shape)")
    }
    if let found = attentionMask?.shape, found != [shape[0], shape[1]] {
      return .failed("T5 expected an attention mask [\(shape[0]), \(shape[1])], found \(found)")
    }
    let bias = encoder.positions.bias(start: 0, length: shape[1])  // [1, H, S, S]
    return encoder(inputsEmbeds, hidden(attentionMask).map { bias + $0 } ?? bias, nil, nil, nil)
  }

  /// The decoder's states after given tokens, to be given to ``head(_:)``.
  ///
  /// - Parameters:
  ///   - decoderIDs: `int64 [B, L]`, the start token first; padded on the right.
  ///   - encoded: `[B, S, D]` from ``encode(inputsEmbeds:attentionMask:)``.
  ///   - attentionMask: `[B, S]`, the encoder's.
  /// - Returns: `[B, L, D]`.
  public func decode(_ decoderIDs: Tensor, encoded: Tensor, attentionMask: Tensor? = nil) -> Tensor {
    decode(decoderIDs, decoder.remember(encoded), hidden(attentionMask), nil)
  }

  /// Logits of hidden states: `[…, D]` to `[…, V]`.
  public func head(_ states: Tensor) -> Tensor {
    let scaled = configuration.scalesHead ? states * pow(Double(hiddenSize), -0.5) : states
    return scaled.linear(headWeight)
  }

  /// Logits that predict each token of targets from the embeddings and the targets before it.
  ///
  /// - Parameters:
  ///   - inputsEmbeds: `[B, S, D]`, the encoder's.
  ///   - attentionMask: `[B, S]`, 1 for tokens and 0 for padding on either side.
  ///   - targets: `int64 [B, L]`, padded on the right with any token.
  /// - Returns: `[B, L, V]`.
  public func targetLogits(inputsEmbeds: Tensor, attentionMask: Tensor?, targets: Tensor) -> Tensor {
    let shape = targets.shape
    guard shape.count == 2, shape[1] > 0 else { return .failed("expected targets [B, L], L > 0; found \(shape)") }
    let start = Tensor.full([shape[0], 1], Double(configuration.startID), dtype: .int64)
    let shifted = Tensor.cat([start, targets.narrow(1, 0, shape[1] - 1)], 1)
    let encoded = encode(inputsEmbeds: inputsEmbeds, attentionMask: attentionMask)
    return head(decode(shifted, encoded: encoded, attentionMask: attentionMask))
  }

  /// Encodes a prompt and decodes the start token.
  public func read(inputsEmbeds: Tensor, attentionMask: Tensor?) -> (logits: Tensor, state: any TextState) {
    let encoded = encode(inputsEmbeds: inputsEmbeds, attentionMask: attentionMask)
    let rows = inputsEmbeds.size(0)
    let state = Reading(self, decoder.remember(encoded), hidden(attentionMask), rows: rows)
    return (state.next(Array(repeating: configuration.startID, count: rows)), state)
  }

  fileprivate func decode(_ ids: Tensor, _ memory: [Memory], _ hidden: Tensor?, _ cache: KVCache?) -> Tensor {
    let shape = ids.shape
    guard shape.count == 2, shape[1] > 0 else { return .failed("T5 decodes ids [B, L], L > 0; found \(shape)") }
    guard let plan = attentionPlan(batch: shape[0], length: shape[1], mask: nil, cache: cache) else {
      return .failed("T5 has no attention plan")
    }
    let bias = decoder.positions.bias(start: plan.start, length: shape[1])  // [1, H, L, start + L]
    let causal = plan.isCausal ? (Tensor.causal(shape[1]) - 1) * -AttentionPlan.hidden : plan.mask
    return decoder(embed(ids), causal.map { bias + $0 } ?? bias, memory, hidden, cache)
  }

  /// What hides padding: added to scores, `[B, 1, 1, S]`, finite so that a row of padding alone is not NaN.
  private func hidden(_ mask: Tensor?) -> Tensor? {
    mask.map { (1 - $0.to(.float32)).unsqueezed(1).unsqueezed(1) * AttentionPlan.hidden }
  }

  /// A text under way.
  private final class Reading: TextState {
    private let model: T5
    private let cache: KVCache
    private var memory: [Memory]
    private var hidden: Tensor?
    /// For each row the prompt that it belongs to.
    private var prompts: [Int]

    init(_ model: T5, _ memory: [Memory], _ hidden: Tensor?, rows: Int) {
      (self.model, self.memory, self.hidden) = (model, memory, hidden)
      cache = KVCache(layers: model.configuration.decoderLayers)
      prompts = Array(0..<rows)
    }

    func next(_ ids: [Int]) -> Tensor {
      model.head(model.decode(Tensor(ids, [ids.count, 1]), memory, hidden, cache).select(1, 0))
    }

    func reorder(_ rows: [Int]) {
      cache.reorder(rows)
      let moved = rows.map { prompts[$0] }
      // Beams change places within their prompt, whose keys and values are the same for all of them.
      guard moved != prompts else { return }
      prompts = moved
      let indices = Tensor(rows)
      memory = memory.map { Memory(key: $0.key.indexSelect(0, indices), value: $0.value.indexSelect(0, indices)) }
      hidden = hidden?.indexSelect(0, indices)
    }
  }
}

/// Keys and values of the encoder's states for one block of the decoder, `[B, H, S, d]`.
private struct Memory {
  let key: Tensor
  let value: Tensor
}

/// The encoder or the decoder.
private struct Stack: Sendable {
  let positions: RelativePositions
  let blocks: [Block]
  let norm: RMSNorm

  init(_ configuration: T5Configuration, _ layers: Int, _ scope: ParameterScope, isDecoder: Bool) {
    // The first block keeps the table for all of them.
    let first = scope["block.0.layer.0.SelfAttention.relative_attention_bias"]
    positions = RelativePositions(
      Embedding(configuration.buckets, configuration.heads, first).weight, maxDistance: configuration.maxDistance,
      isBidirectional: !isDecoder)
    blocks = (0..<layers).map { Block(configuration, scope["block"][$0], isDecoder: isDecoder) }
    norm = RMSNorm(configuration.hiddenSize, eps: configuration.rmsNormEps, scope["final_layer_norm"])
  }

  /// `[B, L, D]` to the same shape; `mask` is added to the scores of self-attention and `hidden` to those of the memory.
  func callAsFunction(
    _ x: Tensor, _ mask: Tensor, _ memory: [Memory]?, _ hidden: Tensor?, _ cache: KVCache?
  ) -> Tensor {
    var x = x
    for (number, block) in blocks.enumerated() {
      x = block(x, mask, memory?[number], hidden) { key, value in
        cache?.update(layer: number, key: key, value: value) ?? (key, value)
      }
    }
    return norm(x)
  }

  /// What the blocks keep of the encoder's states `[B, S, D]`.
  func remember(_ encoded: Tensor) -> [Memory] {
    blocks.compactMap { block in
      block.cross.map { Memory(key: $0.split($0.key(encoded)), value: $0.split($0.value(encoded))) }
    }
  }
}

/// Pre-norm transformer block, in the decoder with attention to the encoder's states.
private struct Block: Sendable {
  let attentionNorm: RMSNorm
  let attention: Attention
  let crossNorm: RMSNorm?
  let cross: Attention?
  let norm: RMSNorm
  let first: Linear
  let gate: Linear?
  let second: Linear
  let activation: Activation

  init(_ configuration: T5Configuration, _ scope: ParameterScope, isDecoder: Bool) {
    let (width, inner, eps) = (configuration.hiddenSize, configuration.intermediateSize, configuration.rmsNormEps)
    attention = Attention(configuration, scope["layer.0.SelfAttention"])
    attentionNorm = RMSNorm(width, eps: eps, scope["layer.0.layer_norm"])
    cross = isDecoder ? Attention(configuration, scope["layer.1.EncDecAttention"]) : nil
    crossNorm = isDecoder ? RMSNorm(width, eps: eps, scope["layer.1.layer_norm"]) : nil
    let last = scope["layer"][isDecoder ? 2 : 1]
    let dense = last["DenseReluDense"]
    first = Linear(width, inner, dense[configuration.isGated ? "wi_0" : "wi"], bias: false)
    gate = configuration.isGated ? Linear(width, inner, dense["wi_1"], bias: false) : nil
    second = Linear(inner, width, dense["wo"], bias: false)
    norm = RMSNorm(width, eps: eps, last["layer_norm"])
    activation = configuration.activation
  }

  /// `[B, L, D]` to the same shape.
  func callAsFunction(
    _ x: Tensor, _ mask: Tensor, _ memory: Memory?, _ hidden: Tensor?, _ remember: Remember
  ) -> Tensor {
    let normed = attentionNorm(x)
    let (key, value) = remember(attention.split(attention.key(normed)), attention.split(attention.value(normed)))
    var x = x + attention(normed, key, value, mask)
    if let cross, let crossNorm, let memory { x = x + cross(crossNorm(x), memory.key, memory.value, hidden) }
    let wide = norm(x)
    let active = activation(first(wide))
    return x + second(gate.map { active * $0(wide) } ?? active)
  }
}

private struct Attention: Sendable {
  let heads: Int
  let query: Linear
  let key: Linear
  let value: Linear
  let output: Linear

  init(_ configuration: T5Configuration, _ scope: ParameterScope) {
    heads = configuration.heads
    let (width, inner) = (configuration.hiddenSize, configuration.heads * configuration.headWidth)
    query = Linear(width, inner, scope["q"], bias: false)
    key = Linear(width, inner, scope["k"], bias: false)
    value = Linear(width, inner, scope["v"], bias: false)
    output = Linear(inner, width, scope["o"], bias: false)
  }

  /// `[B, L, H · d]` to `[B, H, L, d]`.
  func split(_ x: Tensor) -> Tensor { x.reshaped(x.size(0), x.size(1), heads, -1).transposed(1, 2) }

  /// `[B, L, D]` to the same shape, reading keys and values `[B, H, S, d]`; `mask` is added to the scores.
  func callAsFunction(_ x: Tensor, _ key: Tensor, _ value: Tensor, _ mask: Tensor?) -> Tensor {
    let mixed = split(query(x)).attention(key, value, mask: mask, scale: 1)
    return output(mixed.transposed(1, 2).reshaped(x.size(0), x.size(1), -1))
  }
}
