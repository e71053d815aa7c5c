// The encoder half of Whisper (Radford et al., arXiv 2212.04356): what a recogniser of speech makes of sound.
//
// Original source: openai/whisper; parameter names are those of Hugging Face's WhisperEncoder.
// Shapes: B batch · F points in time of the log-mel picture · N = F/2 states · Dv width · A heads · d = Dv/A.
import Checkpoints
public import Foundation
public import Torch
public import TorchNN

/// Sizes of a Whisper encoder, as `config.json` gives them; fields left out take the values below, those of tiny.
public struct WhisperConfiguration: Codable, Sendable, Equatable {
  /// Dv, a multiple of the number of heads.
  public var hiddenSize = 384
  /// Width inside the feed-forward layer.
  public var intermediateSize = 1536
  /// Blocks.
  public var layers = 4
  /// A.
  public var heads = 6
  /// Mel bands: 80, or 128 for large-v3.
  public var melBands = 80
  /// Rows of the position table; 1,500 states are 30 seconds.
  public var positions = 1500
  /// Between the matrices of the feed-forward layer.
  public var activation = Activation.gelu

  /// Of all layer normalisations: published configurations have no field for it.
  static let layerNormEps = 1e-5

  enum CodingKeys: String, CodingKey {
    case hiddenSize = "d_model"
    case intermediateSize = "encoder_ffn_dim"
    case layers = "encoder_layers"
    case heads = "encoder_attention_heads"
    case melBands = "num_mel_bins"
    case positions = "max_source_positions"
    case activation = "activation_function"
  }

  private enum ChoiceKeys: String, CodingKey { case modelType = "model_type" }

  /// The values that a published configuration may leave out.
  public init() {}

  private init(_ hiddenSize: Int, layers: Int, melBands: Int = 80) {
    (self.hiddenSize, self.layers, self.melBands) = (hiddenSize, layers, melBands)
    (heads, intermediateSize) = (hiddenSize / 64, 4 * hiddenSize)
  }

  /// tiny and tiny.en, 8.2 M parameters.
  public static let tiny = Self()
  /// base and base.en, 20.6 M parameters.
  public static let base = Self(512, layers: 6)
  /// small and small.en, 88.2 M parameters.
  public static let small = Self(768, layers: 12)
  /// medium and medium.en, 307 M parameters.
  public static let medium = Self(1024, layers: 24)
  /// large and large-v2, 637 M parameters.
  public static let large = Self(1280, layers: 32)
  /// large-v3.
  public static let largeV3 = Self(1280, layers: 32, melBands: 128)

  /// Decodes a `config.json`; throws a `DecodingError` for fields that cannot be.
  public init(from decoder: any Decoder) throws {
    let choices = try decoder.container(keyedBy: ChoiceKeys.self)
    try choices.word(.modelType, oneOf: ["whisper"])
    let fields = try decoder.container(keyedBy: CodingKeys.self)
    hiddenSize = try fields.size(.hiddenSize, default: hiddenSize, in: Limit.width)
    intermediateSize = try fields.size(.intermediateSize, default: intermediateSize, in: Limit.inner)
    layers = try fields.size(.layers, default: layers, in: Limit.layers)
    heads = try fields.size(.heads, default: heads, in: 1...hiddenSize)
    melBands = try fields.size(.melBands, default: melBands, in: 1...1_024)
    positions = try fields.size(.positions, default: positions, in: 1...65_536)
    activation = try fields.activation(.activation, default: activation)
    guard hiddenSize.isMultiple(of: heads) else {
      throw fields.corrupted(.heads, "\(heads) heads do not divide d_model \(hiddenSize)")
    }
  }
}

/// Whisper's encoder.
public final class WhisperEncoder: Sendable {
  /// Its sizes.
  public let configuration: WhisperConfiguration
  private let firstWeight: Tensor  // [Dv, bands, 3]
  private let firstBias: Tensor  // [Dv]
  private let secondWeight: Tensor  // [Dv, Dv, 3]
  private let secondBias: Tensor  // [Dv]
  private let positions: Tensor  // [positions, Dv]
  private let blocks: [Block]
  private let norm: LayerNorm

  /// Takes all weights from the scope, under the names of WhisperEncoder (in published files: below `model.encoder`).
  public init(_ configuration: WhisperConfiguration, _ scope: ParameterScope) {
    self.configuration = configuration
    let width = configuration.hiddenSize
    let normal = Initializer.normal(standardDeviation: 0.02)
    firstWeight = scope["conv1"].parameter("weight", [width, configuration.melBands, 3], normal)
    firstBias = scope["conv1"].parameter("bias", [width], .zeros)
    secondWeight = scope["conv2"].parameter("weight", [width, width, 3], normal)
    secondBias = scope["conv2"].parameter("bias", [width], .zeros)
    positions = scope["embed_positions"].parameter("weight", [configuration.positions, width], normal)
    blocks = (0..<configuration.layers).map { Block(configuration, scope["layers"][$0]) }
    norm = LayerNorm(width, eps: WhisperConfiguration.layerNormEps, scope["layer_norm"])
  }

  /// Loads `config.json` and the encoder's weights of a folder in Hugging Face layout, strictly.
  ///
  /// The encoder is taken from below `model.encoder` (WhisperForConditionalGeneration) or `encoder` (WhisperModel), or
  /// the folder holds it alone. Decoder and head are left where they are.
  /// - Throws: ``BackboneError`` for the configuration, `CheckpointError` for the weights.
  public static func load(folder: URL) throws -> WhisperEncoder {
    let configuration = try readConfiguration(WhisperConfiguration.self, folder: folder)
    let checkpoint = try Checkpoint(contentsOf: folder)
    let prefix = ["model.encoder.", "encoder."].first { prefix in
      checkpoint.names.contains { $0.hasPrefix(prefix) }
    }
    let keyMap = prefix.map { KeyMap([KeyMap.Rule("", String($0.dropLast()))]) } ?? .identity
    let others = checkpoint.names.filter { name in !(prefix.map(name.hasPrefix) ?? true) }
    return try loadModel(from: checkpoint, keyMap: keyMap, ignoring: others) { WhisperEncoder(configuration, $0) }.model
  }

  /// Dv.
  public var width: Int { configuration.hiddenSize }

  /// States of sound, 50 a second.
  ///
  /// Whisper was trained on windows of 30 seconds, shorter sounds filled up with silence. A shorter window is read with
  /// the first rows of the position table, as a Whisper of fewer positions would: the states differ from those
  /// of the same sound before silence (nothing attends to silence), and cost what the window is long. Two seconds
  /// alone take a twenty-fifth of the time of 30 (tiny on one Zen 3 core: 37 and 920 ms). Whoever trains an adapter on the
  /// states of one length reads it with the same.
  ///
  /// - Parameter mel: `[B, bands, F]` `float32`, `LogMel.whisper`'s picture, 100 points a second; F even and at most twice the
  ///   number of positions.
  /// - Returns: `[B, F / 2, Dv]`. A wrong shape is a failure for `withError`.
  public func states(_ mel: Tensor) -> Tensor {
    let (shape, bands, most) = (mel.shape, configuration.melBands, 2 * configuration.positions)
    guard shape.count == 3, shape[0] > 0, shape[1] == bands, (2...most).contains(shape[2]), shape[2].isMultiple(of: 2)
    else { return .failed("WhisperEncoder takes log-mel [B, \(bands), F], F even up to \(most); found \(shape)") }
    let activated = mel.conv1d(firstWeight, firstBias, padding: 1).gelu()  // [B, Dv, F]
    let halved = activated.conv1d(secondWeight, secondBias, stride: 2, padding: 1).gelu()  // [B, Dv, F/2]
    var x = halved.transposed(1, 2) + positions.narrow(0, 0, shape[2] / 2)  // [B, F/2, Dv]
    for block in blocks { x = block(x) }
    return norm(x)
  }
}

/// Pre-norm transformer block; keys have no bias.
private struct Block: Sendable {
  let heads: Int
  let norm1: LayerNorm
  let query: Linear
  let key: Linear
  let value: Linear
  let output: Linear
  let norm2: LayerNorm
  let first: Linear
  let second: Linear
  let activation: Activation

  init(_ configuration: WhisperConfiguration, _ scope: ParameterScope) {
    let (width, eps) = (configuration.hiddenSize, WhisperConfiguration.layerNormEps)
    heads = configuration.heads
    norm1 = LayerNorm(width, eps: eps, scope["self_attn_layer_norm"])
    query = Linear(width, width, scope["self_attn.q_proj"])
    key = Linear(width, width, scope["self_attn.k_proj"], bias: false)
    value = Linear(width, width, scope["self_attn.v_proj"])
    output = Linear(width, width, scope["self_attn.out_proj"])
    norm2 = LayerNorm(width, eps: eps, scope["final_layer_norm"])
    first = Linear(width, configuration.intermediateSize, scope["fc1"])
    second = Linear(configuration.intermediateSize, width, scope["fc2"])
    activation = configuration.activation
  }

  /// `[B, N, Dv]` to the same shape.
  func callAsFunction(_ x: Tensor) -> Tensor {
    let shape = x.shape
    // [B, N, Dv] → [B, A, N, d]
    func split(_ y: Tensor) -> Tensor { y.reshaped(y.size(0), y.size(1), heads, -1).transposed(1, 2) }
    let normed = norm1(x)
    let mixed = split(query(normed)).attention(split(key(normed)), split(value(normed)))
    let attended = x + output(mixed.transposed(1, 2).reshaped(shape))
    return attended + second(activation(first(norm2(attended))))
  }
}
