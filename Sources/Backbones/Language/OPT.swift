// OPT (Zhang et al., arXiv 2205.01068): a causal language model with learned positions and ReLU; BLIP-2's first one.
//
// Original source: facebookresearch/metaseq; parameter names are those of Hugging Face's OPTForCausalLM. Sizes from 125m
// on have their norms before the sub-layers; 350m alone has them after, and word embeddings narrower than the model.
// Shapes: B batch · L new tokens · S all tokens · D width of the blocks · E width of the word embeddings · H heads ·
// d = D / H · V vocabulary.
import Checkpoints
public import Foundation
public import Torch
public import TorchNN

/// Sizes of an OPT model, as its `config.json` gives them; fields left out take the values below.
public struct OPTConfiguration: Codable, Sendable, Equatable {
  /// V.
  public var vocabularySize = 50_272
  /// D.
  public var hiddenSize = 768
  /// E; D when left out.
  public var embeddingSize = 768
  /// Width inside the feed-forward layer.
  public var intermediateSize = 3072
  /// Blocks.
  public var layers = 12
  /// H.
  public var heads = 12
  /// The longest text, in tokens.
  public var maxPositions = 2048
  /// Whether norms stand before the sub-layers, and one after the last block.
  public var normalizesBefore = true
  /// Without the norm after the last block: models trained before it was added.
  public var lacksFinalNorm = false
  /// Between the matrices of the feed-forward layer.
  public var activation = Activation.relu
  /// Whether the linear layers have biases.
  public var hasBias = true
  /// Whether the norms have weights and biases.
  public var hasNormWeights = true
  /// Whether the head is the table of word embeddings.
  public var tiesEmbeddings = true
  /// Ends a text; several in some models.
  public var endIDs: [Int] = [2]

  enum CodingKeys: String, CodingKey {
    case vocabularySize = "vocab_size"
    case hiddenSize = "hidden_size"
    case embeddingSize = "word_embed_proj_dim"
    case intermediateSize = "ffn_dim"
    case layers = "num_hidden_layers"
    case heads = "num_attention_heads"
    case maxPositions = "max_position_embeddings"
    case normalizesBefore = "do_layer_norm_before"
    case lacksFinalNorm = "_remove_final_layer_norm"
    case activation = "activation_function"
    case hasBias = "enable_bias"
    case hasNormWeights = "layer_norm_elementwise_affine"
    case tiesEmbeddings = "tie_word_embeddings"
    case endIDs = "eos_token_id"
  }

  private enum ChoiceKeys: String, CodingKey { case modelType = "model_type" }

  /// The values that a published configuration may leave out: OPT-125m.
  public init() {}

  /// A published model with norms before the sub-layers.
  public init(hiddenSize: Int, layers: Int, heads: Int, vocabularySize: Int = 50_272) {
    (self.hiddenSize, self.layers, self.heads, self.vocabularySize) = (hiddenSize, layers, heads, vocabularySize)
    (embeddingSize, intermediateSize) = (hiddenSize, 4 * hiddenSize)
  }

  /// OPT-2.7B in BLIP-2: the vocabulary is padded, and a new line ends a text.
  public static let blip2: Self = {
    var configuration = Self(hiddenSize: 2560, layers: 32, heads: 32, vocabularySize: 50_304)
    configuration.endIDs = [50_118]
    return configuration
  }()

  /// Decodes a `config.json` or `text_config`; throws a `DecodingError` for fields that cannot be.
  public init(from decoder: any Decoder) throws {
    let choices = try decoder.container(keyedBy: ChoiceKeys.self)
    try choices.word(.modelType, oneOf: ["opt"])
    let fields = try decoder.container(keyedBy: CodingKeys.self)
    vocabularySize = try fields.size(.vocabularySize, default: vocabularySize, in: Limit.vocabulary)
    hiddenSize = try fields.size(.hiddenSize, default: hiddenSize, in: Limit.width)
    embeddingSize = try fields.size(.embeddingSize, default: hiddenSize, in: Limit.width)
    intermediateSize = try fields.size(.intermediateSize, default: intermediateSize, in: Limit.inner)
    layers = try fields.size(.layers, default: layers, in: Limit.layers)
    heads = try fields.size(.heads, default: heads, in: 1...hiddenSize)
    guard hiddenSize.isMultiple(of: heads) else {
      throw fields.corrupted(.heads, "\(heads) heads do not divide hidden_size \(hiddenSize)")
    }
    maxPositions = try fields.size(.maxPositions, default: maxPositions, in: Limit.positions)
    normalizesBefore = try fields.value(.normalizesBefore, default: normalizesBefore)
    lacksFinalNorm = try fields.value(.lacksFinalNorm, default: lacksFinalNorm)
    activation = try fields.activation(.activation, default: activation)
    hasBias = try fields.value(.hasBias, default: hasBias)
    hasNormWeights = try fields.value(.hasNormWeights, default: hasNormWeights)
    tiesEmbeddings = try fields.value(.tiesEmbeddings, default: tiesEmbeddings)
    endIDs = try fields.oneOrMore(.endIDs, default: endIDs)
  }
}

/// The OPT language model, frozen.
///
/// Gradients flow through it to the embeddings that go in; none are computed for its weights.
public final class OPT: CausalLanguageModel {
  /// Its sizes.
  public let configuration: OPTConfiguration
  private let embeddings: Tensor  // [V, E]
  private let headWeight: Tensor  // [V, E]
  /// The first two rows are for padding.
  private let positions: Tensor  // [2 + positions, D]
  private let inward: Linear?  // E → D
  private let outward: Linear?  // D → E
  private let blocks: [Block]
  private let norm: Norm?

  /// Takes all weights from the scope, under the names of OPTForCausalLM.
  public init(_ configuration: OPTConfiguration, _ scope: ParameterScope) {
    self.configuration = configuration
    let decoder = scope["model.decoder"]
    let (width, inner, vocabulary) = (
      configuration.hiddenSize, configuration.embeddingSize, configuration.vocabularySize
    )
    embeddings = Embedding(vocabulary, inner, decoder["embed_tokens"]).weight
    positions = Embedding(configuration.maxPositions + 2, width, decoder["embed_positions"]).weight
    inward = inner == width ? nil : Linear(inner, width, decoder["project_in"], bias: false)
    outward = inner == width ? nil : Linear(width, inner, decoder["project_out"], bias: false)
    blocks = (0..<configuration.layers).map { Block(configuration, decoder["layers"][$0]) }
    let isNormalized = configuration.normalizesBefore && !configuration.lacksFinalNorm
    norm = isNormalized ? Norm(configuration, decoder["final_layer_norm"]) : nil
    headWeight =
      configuration.tiesEmbeddings
      ? embeddings
      : scope["lm_head"].parameter("weight", [vocabulary, inner], .normal(standardDeviation: 0.02))
  }

  /// Loads `config.json` and the weights of a folder in Hugging Face layout, strictly.
  ///
  /// Names may start with `decoder.` in place of `model.decoder.`, as in the first published files.
  /// - Throws: ``BackboneError`` for the configuration, `CheckpointError` for the weights.
  public static func load(folder: URL) throws -> OPT {
    let configuration = try readConfiguration(OPTConfiguration.self, folder: folder)
    let checkpoint = try Checkpoint(contentsOf: folder)
    let isShort = checkpoint.names.contains { $0.hasPrefix("decoder.") }
    return try loadModel(
      from: checkpoint, keyMap: isShort ? KeyMap([KeyMap.Rule("model.decoder", "decoder")]) : .identity,
      ignoring: configuration.tiesEmbeddings ? ["lm_head.weight"] : []
    ) { OPT(configuration, $0) }.model
  }

  /// E, the width of the embeddings that go in.
  public var hiddenSize: Int { configuration.embeddingSize }
  /// V.
  public var vocabularySize: Int { configuration.vocabularySize }
  /// Blocks, each with its part of a ``KVCache``.
  public var layerCount: Int { configuration.layers }

  /// Word embeddings: `int64` of any shape to `[…, E]`.
  public func embed(_ ids: Tensor) -> Tensor { embeddings.embedding(ids) }

  /// Hidden states `[B, L, E]` of embeddings `[B, L, E]`, to be given to ``head(_:)``; more tokens than positions are a
  /// failure for `withError`.
  ///
  /// - Parameters:
  ///   - inputsEmbeds: `[B, L, E]`: word embeddings, projected picture tokens, or both in a row.
  ///   - plan: Who sees whom, and where each token stands.
  ///   - remember: Gets a layer's new keys and values and gives those that its queries see.
  public func states(inputsEmbeds: Tensor, plan: AttentionPlan, remember: RememberKeyValues) -> Tensor {
    let length = inputsEmbeds.size(1)
    let known = configuration.maxPositions
    // Padding takes no position, so that a padded row may be longer.
    if plan.start + length > known, plan.positions.map({ $0.max().intItem >= known }) ?? true {
      return .failed("OPT has \(known) positions, found \(plan.start + length) tokens")
    }
    let places = plan.positions ?? Tensor.arange(plan.start, plan.start + length).unsqueezed(0)  // [B or 1, L]
    var x = (inward?(inputsEmbeds) ?? inputsEmbeds) + positions.embedding(places + Tensor(2))  // [B, L, D]
    for (number, block) in blocks.enumerated() {
      x = block(x, plan) { remember(number, $0, $1) }
    }
    if let norm { x = norm(x) }
    return outward?(x) ?? x
  }

  /// Logits of hidden states: `[…, E]` to `[…, V]`.
  public func head(_ hidden: Tensor) -> Tensor { hidden.linear(headWeight) }
}

/// Layer normalisation, with or without weights.
private struct Norm: Sendable {
  let weight: Tensor?
  let bias: Tensor?

  init(_ configuration: OPTConfiguration, _ scope: ParameterScope) {
    let has = configuration.hasNormWeights
    weight = has ? scope.parameter("weight", [configuration.hiddenSize], .ones) : nil
    bias = has ? scope.parameter("bias", [configuration.hiddenSize], .zeros) : nil
  }

  /// `[…, D]` to the same shape. The epsilon is PyTorch's own: no configuration says another.
  func callAsFunction(_ x: Tensor) -> Tensor { x.layerNorm(weight, bias, eps: 1e-5) }
}

/// Transformer block with its norms before or after the sub-layers.
private struct Block: Sendable {
  let heads: Int
  let normalizesBefore: Bool
  let attentionNorm: Norm
  let query: Linear
  let key: Linear
  let value: Linear
  let output: Linear
  let norm: Norm
  let first: Linear
  let second: Linear
  let activation: Activation

  init(_ configuration: OPTConfiguration, _ scope: ParameterScope) {
    let (width, inner, bias) = (configuration.hiddenSize, configuration.intermediateSize, configuration.hasBias)
    heads = configuration.heads
    normalizesBefore = configuration.normalizesBefore
    attentionNorm = Norm(configuration, scope["self_attn_layer_norm"])
    query = Linear(width, width, scope["self_attn.q_proj"], bias: bias)
    key = Linear(width, width, scope["self_attn.k_proj"], bias: bias)
    value = Linear(width, width, scope["self_attn.v_proj"], bias: bias)
    output = Linear(width, width, scope["self_attn.out_proj"], bias: bias)
    norm = Norm(configuration, scope["final_layer_norm"])
    first = Linear(width, inner, scope["fc1"], bias: bias)
    second = Linear(inner, width, scope["fc2"], bias: bias)
    activation = configuration.activation
  }

  /// `[B, L, D]` to the same shape.
  func callAsFunction(_ x: Tensor, _ plan: AttentionPlan, _ remember: Remember) -> Tensor {
    if normalizesBefore {
      let attended = x + attention(attentionNorm(x), plan, remember)
      return attended + second(activation(first(norm(attended))))
    }
    let attended = attentionNorm(x + attention(x, plan, remember))
    return norm(attended + second(activation(first(attended))))
  }

  /// `[B, L, D]` to the same shape.
  private func attention(_ x: Tensor, _ plan: AttentionPlan, _ remember: Remember) -> Tensor {
    let shape = x.shape
    // [B, L, D] → [B, H, L, d]
    func split(_ y: Tensor) -> Tensor { y.reshaped(y.size(0), y.size(1), heads, -1).transposed(1, 2) }
    let seen = remember(split(key(x)), split(value(x)))
    let mixed = split(query(x)).attention(seen.key, seen.value, mask: plan.mask, causal: plan.isCausal)
    return output(mixed.transposed(1, 2).reshaped(shape))
  }
}
