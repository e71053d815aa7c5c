// Llama (Touvron et al., arXiv 2302.13971): a causal language model with RMS norms, rotary positions, SwiGLU and
// grouped-query attention. Also the architecture of SmolLM2, TinyLlama and Vicuna.
//
// Original source: meta-llama/llama; parameter names are those of Hugging Face's LlamaForCausalLM.
// Shapes: B batch · L new tokens · S all tokens · D width · H heads · H_kv key and value heads · d width of a head ·
// V vocabulary.
import Checkpoints
public import Foundation
public import Torch
public import TorchNN

/// Sizes of a Llama model, as its `config.json` gives them; fields left out take the values below.
public struct LlamaConfiguration: Codable, Sendable, Equatable {
  /// V.
  public var vocabularySize = 32_000
  /// D.
  public var hiddenSize = 4096
  /// Width inside the feed-forward layer.
  public var intermediateSize = 11_008
  /// Blocks.
  public var layers = 32
  /// H.
  public var heads = 32
  /// H_kv; H when left out.
  public var keyValueHeads = 32
  /// d; D / H when left out.
  public var headWidth = 128
  /// Of all RMS norms.
  public var rmsNormEps = 1e-6
  /// The longest text that the model was trained on, in tokens.
  public var maxPositions = 2048
  /// Whether the projections of attention have biases.
  public var attentionBias = false
  /// Whether the feed-forward layers have biases.
  public var mlpBias = false
  /// Whether the head is the table of word embeddings.
  public var tiesEmbeddings = false
  /// The wavelengths of the rotary positions.
  public var rope = RotaryConfiguration()
  /// Ends a text; several in some models.
  public var endIDs: [Int] = [2]

  enum CodingKeys: String, CodingKey {
    case vocabularySize = "vocab_size"
    case hiddenSize = "hidden_size"
    case intermediateSize = "intermediate_size"
    case layers = "num_hidden_layers"
    case heads = "num_attention_heads"
    case keyValueHeads = "num_key_value_heads"
    case headWidth = "head_dim"
    case rmsNormEps = "rms_norm_eps"
    case maxPositions = "max_position_embeddings"
    case attentionBias = "attention_bias"
    case mlpBias = "mlp_bias"
    case tiesEmbeddings = "tie_word_embeddings"
    case rope = "rope_parameters"
    case endIDs = "eos_token_id"
  }

  private enum ChoiceKeys: String, CodingKey {
    case modelType = "model_type"
    case activation = "hidden_act"
    case ropeTheta = "rope_theta"
    case ropeScaling = "rope_scaling"
  }

  /// The values that a published configuration may leave out.
  public init() {}

  /// Decodes a `config.json`; throws a `DecodingError` for fields that cannot be.
  public init(from decoder: any Decoder) throws {
    let choices = try decoder.container(keyedBy: ChoiceKeys.self)
    try choices.word(.modelType, oneOf: ["llama"])
    try choices.word(.activation, oneOf: ["silu", "swish"])
    let fields = try decoder.container(keyedBy: CodingKeys.self)
    vocabularySize = try fields.size(.vocabularySize, default: vocabularySize, in: Limit.vocabulary)
    hiddenSize = try fields.size(.hiddenSize, default: hiddenSize, in: Limit.width)
    intermediateSize = try fields.size(.intermediateSize, default: intermediateSize, in: 1...1_048_576)
    layers = try fields.size(.layers, default: layers, in: Limit.layers)
    heads = try fields.size(.heads, default: heads, in: 1...hiddenSize)
    keyValueHeads = try fields.size(.keyValueHeads, default: heads, in: 1...heads)
    guard heads.isMultiple(of: keyValueHeads) else {
      throw fields.corrupted(.keyValueHeads, "\(keyValueHeads) do not divide num_attention_heads \(heads)")
    }
    headWidth = try fields.size(.headWidth, default: max(hiddenSize / heads, 1), in: 2...8_192)
    guard headWidth.isMultiple(of: 2) else { throw fields.corrupted(.headWidth, "\(headWidth) is odd") }
    rmsNormEps = try fields.value(.rmsNormEps, default: rmsNormEps)
    maxPositions = try fields.size(.maxPositions, default: maxPositions, in: Limit.positions)
    attentionBias = try fields.value(.attentionBias, default: attentionBias)
    mlpBias = try fields.value(.mlpBias, default: mlpBias)
    tiesEmbeddings = try fields.value(.tiesEmbeddings, default: tiesEmbeddings)
    if let rope = try fields.decodeIfPresent(RotaryConfiguration.self, forKey: .rope) {
      self.rope = rope
    } else if let rope = try choices.decodeIfPresent(RotaryConfiguration.self, forKey: .ropeScaling) {
      self.rope = rope
    }
    // Older files keep the base outside.
    if let base = try choices.decodeIfPresent(Double.self, forKey: .ropeTheta) { rope.base = base }
    endIDs = try fields.oneOrMore(.endIDs, default: endIDs)
  }
}

/// The Llama language model, frozen: its weights are taken, and partly joined, when it is made.
///
/// Gradients flow through it to the embeddings that go in; none are computed for its weights.
public final class Llama: CausalLanguageModel {
  /// Its sizes.
  public let configuration: LlamaConfiguration
  private let embeddings: Tensor  // [V, D]
  private let headWeight: Tensor  // [V, D]
  private let blocks: [Block]
  private let norm: RMSNorm
  private let rotary: RotaryTable

  /// Takes all weights from the scope, under the names of LlamaForCausalLM.
  public init(_ configuration: LlamaConfiguration, _ scope: ParameterScope) {
    self.configuration = configuration
    let model = scope["model"]
    let (width, vocabulary) = (configuration.hiddenSize, configuration.vocabularySize)
    embeddings = Embedding(vocabulary, width, model["embed_tokens"]).weight
    blocks = (0..<configuration.layers).map { Block(configuration, model["layers"][$0]) }
    norm = RMSNorm(width, eps: configuration.rmsNormEps, model["norm"])
    headWeight =
      configuration.tiesEmbeddings
      ? embeddings
      : scope["lm_head"].parameter("weight", [vocabulary, width], .normal(standardDeviation: 0.02))
    rotary = RotaryTable(configuration.rope, headWidth: configuration.headWidth)
  }

  /// Loads `config.json` and the weights of a folder in Hugging Face layout, strictly.
  ///
  /// - Throws: ``BackboneError`` for the configuration, `CheckpointError` for the weights.
  public static func load(folder: URL) throws -> Llama {
    let configuration = try readConfiguration(LlamaConfiguration.self, folder: folder)
    let checkpoint = try Checkpoint(contentsOf: folder)
    // Some files store the tied head once more, and old ones the wavelengths.
    let ignoring = ["*.rotary_emb.inv_freq"] + (configuration.tiesEmbeddings ? ["lm_head.weight"] : [])
    return try loadModel(from: checkpoint, ignoring: ignoring) { Llama(configuration, $0) }.model
  }

  /// D.
  public var hiddenSize: Int { configuration.hiddenSize }
  /// V.
  public var vocabularySize: Int { configuration.vocabularySize }
  /// Blocks, each with its part of a ``KVCache``.
  public var layerCount: Int { configuration.layers }

  /// Word embeddings: `int64` of any shape to `[…, D]`.
  public func embed(_ ids: Tensor) -> Tensor { embeddings.embedding(ids) }

  /// Hidden states `[B, L, D]` of embeddings `[B, L, D]`, after the final norm.
  ///
  /// - Parameters:
  ///   - inputsEmbeds: `[B, L, D]`: word embeddings, projected picture tokens, or both in a row.
  ///   - plan: Who sees whom, and where each token stands.
  ///   - remember: Gets a layer's new keys and values and gives those that its queries see.
  public func states(inputsEmbeds: Tensor, plan: AttentionPlan, remember: RememberKeyValues) -> Tensor {
    let shape = inputsEmbeds.shape
    let turns = rotary.turns(plan, length: shape[1])
    var x = inputsEmbeds
    for (number, block) in blocks.enumerated() {
      x = block(x, plan, turns) { remember(number, $0, $1) }
    }
    return norm(x)
  }

  /// Logits of hidden states: `[…, D]` to `[…, V]`.
  public func head(_ hidden: Tensor) -> Tensor { hidden.linear(headWeight) }
}

/// Pre-norm transformer block.
private struct Block: Sendable {
  let inputNorm: RMSNorm
  let attention: Attention
  let outputNorm: RMSNorm
  let gate: Linear
  let up: Linear
  let down: Linear

  init(_ configuration: LlamaConfiguration, _ scope: ParameterScope) {
    let (width, inner) = (configuration.hiddenSize, configuration.intermediateSize)
    inputNorm = RMSNorm(width, eps: configuration.rmsNormEps, scope["input_layernorm"])
    attention = Attention(configuration, scope["self_attn"])
    outputNorm = RMSNorm(width, eps: configuration.rmsNormEps, scope["post_attention_layernorm"])
    gate = Linear(width, inner, scope["mlp.gate_proj"], bias: configuration.mlpBias)
    up = Linear(width, inner, scope["mlp.up_proj"], bias: configuration.mlpBias)
    down = Linear(inner, width, scope["mlp.down_proj"], bias: configuration.mlpBias)
  }

  /// `[B, L, D]` to the same shape.
  func callAsFunction(_ x: Tensor, _ plan: AttentionPlan, _ turns: Tensor, _ remember: Remember) -> Tensor {
    let attended = x + attention(inputNorm(x), plan, turns, remember)
    let normed = outputNorm(attended)
    return attended + down(gate(normed).silu() * up(normed))
  }
}

/// Grouped-query attention (Ainslie et al., arXiv 2305.13245) with rotary positions.
private struct Attention: Sendable {
  let heads: Int
  let keyValueHeads: Int
  let headWidth: Int
  /// Query, key and value in one product, `[(H + 2 H_kv) · d, D]`. Within each head of query and key the two halves that
  /// rotary positions pair are interleaved, which no score notices: a pair is then a complex number.
  let weight: Tensor
  let bias: Tensor?
  let output: Linear

  init(_ configuration: LlamaConfiguration, _ scope: ParameterScope) {
    let width = configuration.hiddenSize
    (heads, keyValueHeads) = (configuration.heads, configuration.keyValueHeads)
    headWidth = configuration.headWidth
    let (inner, innerKV) = (heads * headWidth, keyValueHeads * headWidth)
    let query = Linear(width, inner, scope["q_proj"], bias: configuration.attentionBias)
    let key = Linear(width, innerKV, scope["k_proj"], bias: configuration.attentionBias)
    let value = Linear(width, innerKV, scope["v_proj"], bias: configuration.attentionBias)
    output = Linear(inner, width, scope["o_proj"], bias: configuration.attentionBias)
    let half = headWidth / 2
    (weight, bias) = withNoGrad {
      // [heads · d, …] → [heads, 2, d/2, …] → [heads, d/2, 2, …] → [heads · d, …]
      func interleaved(_ rows: Tensor) -> Tensor {
        rows.reshaped(-1, 2, half, rows.rank == 1 ? 1 : width).transposed(1, 2).reshaped(rows.shape)
      }
      let joined = Tensor.cat([interleaved(query.weight), interleaved(key.weight), value.weight], 0)
      guard let q = query.bias, let k = key.bias, let v = value.bias else { return (joined, nil) }
      return (joined, Tensor.cat([interleaved(q), interleaved(k), v], 0))
    }
  }

  /// `[B, L, D]` to the same shape.
  func callAsFunction(_ x: Tensor, _ plan: AttentionPlan, _ turns: Tensor, _ remember: Remember) -> Tensor {
    let (batch, length) = (x.size(0), x.size(1))
    let joined = x.linear(weight, bias)  // [B, L, (H + 2 H_kv) · d]
    let turning = (heads + keyValueHeads) * headWidth
    let turned = joined.narrow(-1, 0, turning)
      .reshaped(batch, length, heads + keyValueHeads, headWidth / 2, 2)
      .complexProduct(turns)
      .reshaped(batch, length, heads + keyValueHeads, headWidth)
      .transposed(1, 2)  // [B, H + H_kv, L, d]
    let newValue = joined.narrow(-1, turning, keyValueHeads * headWidth)
      .reshaped(batch, length, keyValueHeads, headWidth).transposed(1, 2)  // [B, H_kv, L, d]
    let query = turned.narrow(1, 0, heads)
    let (key, value) = remember(turned.narrow(1, heads, keyValueHeads), newValue)
    let attended = query.attention(
      key, value, mask: plan.mask, causal: plan.isCausal, groupedQuery: heads != keyValueHeads)
    return output(attended.transposed(1, 2).reshaped(batch, length, heads * headWidth))
  }
}
