// The audio trunk of ImageBind (Girdhar et al., arXiv 2305.05665): two seconds of sound as one vector in the space of
// pictures and texts. Video-LLaMA's published audio branch reads eight of them.
//
// Original source: facebookresearch/ImageBind; parameter names are those of Hugging Face's port (imagebind-huge), the
// original ones are mapped by `ImageBind.audio`. A vision transformer over the log-mel picture: overlapping patches, a norm
// behind the convolution, and in every attention one learned key and value beside those of the tokens.
// Shapes: B clips · H mel bands · W points in time · P patch side · S stride · N = ((H−P)/S+1)·((W−P)/S+1) patches ·
// Dv width · A heads · d = Dv/A · Da width of the vector.
import Checkpoints
public import Foundation
public import Torch
public import TorchNN

/// Sizes of ImageBind's audio trunk; fields left out of a `config.json` take the values below, those of ImageBind-huge.
public struct ImageBindAudioConfiguration: Codable, Sendable, Equatable {
  /// Dv, a multiple of the number of heads.
  public var hiddenSize = 768
  /// Blocks.
  public var layers = 12
  /// A.
  public var heads = 12
  /// Width of the feed-forward layer over Dv.
  public var mlpRatio = 4.0
  /// Da.
  public var projectionSize = 1024
  /// H.
  public var melBands = 128
  /// W; 100 are a second.
  public var frames = 204
  /// P in points of the picture.
  public var patchSize = 16
  /// S, from one patch to the next, either way.
  public var stride = 10
  /// Of the norms in and behind the blocks.
  public var layerNormEps = 1e-6
  /// Of the norm behind the patch convolution: published configurations have no field for it.
  public var stemNormEps = 1e-5
  /// The length of the vectors, for files that do not hold it.
  public var scale = 20.0

  enum CodingKeys: String, CodingKey {
    case hiddenSize = "hidden_size"
    case layers = "num_hidden_layers"
    case heads = "num_attention_heads"
    case mlpRatio = "mlp_ratio"
    case projectionSize = "projection_dim"
    case melBands = "num_mel_bins"
    case frames = "target_len"
    case patchSize = "patch_size"
    case stride
    case layerNormEps = "layer_norm_eps"
    case stemNormEps = "stem_layer_norm_eps"
    case scale = "logit_scale_init_value"
  }

  private enum ChoiceKeys: String, CodingKey {
    case modelType = "model_type"
    case activation = "hidden_act"
    case hasKeyBias = "add_kv_bias"
    case whole = "audio_config"
  }

  /// ImageBind-huge.
  public init() {}

  /// ImageBind-huge, 86.2 M parameters in the audio trunk.
  public static let huge = Self()

  /// Decodes a `config.json`, of the trunk alone (`imagebind_audio_model`) or of a whole model (`imagebind`, whose
  /// `audio_config` is read); throws a `DecodingError` for fields that cannot be.
  public init(from decoder: any Decoder) throws {
    let choices = try decoder.container(keyedBy: ChoiceKeys.self)
    try choices.word(.modelType, oneOf: ["imagebind_audio_model", "imagebind"])
    if let whole = try choices.decodeIfPresent(Self.self, forKey: .whole) {
      self = whole
      return
    }
    try choices.word(.activation, oneOf: ["gelu"])
    guard try choices.value(.hasKeyBias, default: true) else {
      throw choices.corrupted(.hasKeyBias, "expected true, found false")
    }
    let fields = try decoder.container(keyedBy: CodingKeys.self)
    hiddenSize = try fields.size(.hiddenSize, default: hiddenSize, in: Limit.width)
    layers = try fields.size(.layers, default: layers, in: Limit.layers)
    heads = try fields.size(.heads, default: heads, in: 1...hiddenSize)
    mlpRatio = try fields.value(.mlpRatio, default: mlpRatio)
    projectionSize = try fields.size(.projectionSize, default: projectionSize, in: Limit.width)
    melBands = try fields.size(.melBands, default: melBands, in: 1...1_024)
    frames = try fields.size(.frames, default: frames, in: 1...65_536)
    patchSize = try fields.side(.patchSize, default: patchSize, in: 1...min(melBands, frames))
    stride = try fields.side(.stride, default: stride, in: 1...1_024)
    layerNormEps = try fields.value(.layerNormEps, default: layerNormEps)
    stemNormEps = try fields.value(.stemNormEps, default: stemNormEps)
    scale = try fields.value(.scale, default: scale)
    guard hiddenSize.isMultiple(of: heads) else {
      throw fields.corrupted(.heads, "\(heads) heads do not divide hidden_size \(hiddenSize)")
    }
    guard mlpRatio > 0, mlpRatio <= 64 else { throw fields.corrupted(.mlpRatio, "expected 0 … 64, found \(mlpRatio)") }
    guard scale > 0, scale <= Self.mostScale else {
      throw fields.corrupted(.scale, "expected 0 … \(Self.mostScale), found \(scale)")
    }
  }

  /// ImageBind does not scale beyond it.
  static let mostScale = 100.0

  /// N.
  var patches: Int { ((melBands - patchSize) / stride + 1) * ((frames - patchSize) / stride + 1) }
}

/// ImageBind's audio trunk with its head.
public final class ImageBindAudio: Sendable {
  /// Its sizes.
  public let configuration: ImageBindAudioConfiguration
  private let classToken: Tensor  // [1, 1, Dv]
  private let positions: Tensor  // [1, 1 + N, Dv]
  private let patchWeight: Tensor  // [Dv, 1, P, P]
  private let patchNorm: LayerNorm
  private let blocks: [Block]
  private let norm: LayerNorm
  private let projection: Linear
  private let logScale: Tensor?  // []

  /// Takes all weights from the scope: `audio_model`, `audio_projection`, and `audio_postprocessor.log_logit_scale`
  /// where the source has it.
  public init(_ configuration: ImageBindAudioConfiguration, _ scope: ParameterScope) {
    self.configuration = configuration
    let (width, patch) = (configuration.hiddenSize, configuration.patchSize)
    let normal = Initializer.normal(standardDeviation: 0.02)
    let (model, embeddings) = (scope["audio_model"], scope["audio_model.embeddings"])
    classToken = embeddings.parameter("cls_token", [1, 1, width], normal)
    positions = embeddings.parameter("position_embeddings", [1, 1 + configuration.patches, width], normal)
    patchWeight = embeddings["patch_embedding.projection"].parameter("weight", [width, 1, patch, patch], normal)
    patchNorm = LayerNorm(width, eps: configuration.stemNormEps, embeddings["patch_embedding.layernorm"])
    blocks = (0..<configuration.layers).map { Block(configuration, model["encoder.layers"][$0]) }
    norm = LayerNorm(width, eps: configuration.layerNormEps, model["layernorm"])
    projection = Linear(width, configuration.projectionSize, scope["audio_projection"], bias: false)
    let (post, name) = (scope["audio_postprocessor"], "log_logit_scale")
    logScale = post.has(name) ? post.parameter(name, [], .constant(log(configuration.scale))) : nil
  }

  /// Loads `config.json` and the weights of a folder, in Hugging Face's names or in the original ones, strictly. The trunks
  /// of other senses are left where they are.
  ///
  /// - Throws: ``BackboneError`` for the configuration, `CheckpointError` for the weights.
  public static func load(folder: URL) throws -> ImageBindAudio {
    try load(Checkpoint(contentsOf: folder), readConfiguration(ImageBindAudioConfiguration.self, folder: folder))
  }

  /// Loads a file in the original names, `imagebind_huge.pth`, which says nothing of its sizes.
  ///
  /// - Throws: `CheckpointError`.
  public static func load(
    contentsOf file: URL, configuration: ImageBindAudioConfiguration = .huge
  ) throws -> ImageBindAudio {
    try load(Checkpoint(contentsOf: file), configuration)
  }

  private static func load(
    _ checkpoint: Checkpoint, _ configuration: ImageBindAudioConfiguration
  ) throws -> ImageBindAudio {
    let isOriginal = checkpoint.names.contains { $0.hasPrefix("modality_") }
    let others = checkpoint.names.filter { name in
      isOriginal ? name.hasPrefix("modality_") && !name.contains(".audio.") : !name.hasPrefix("audio_")
    }
    return try loadModel(
      from: checkpoint, keyMap: isOriginal ? ImageBind.audio : .identity, ignoring: others
    ) { ImageBindAudio(configuration, $0) }.model
  }

  /// Da.
  public var width: Int { configuration.projectionSize }

  /// One vector for each clip, of the length that the model scales to (20).
  ///
  /// - Parameter mel: `[B, H, W]` `float32`, `LogMel.imageBind`'s picture of two seconds.
  /// - Returns: `[B, Da]`. A wrong shape is a failure for `withError`.
  public func vectors(_ mel: Tensor) -> Tensor {
    let (shape, configuration) = (mel.shape, configuration)
    guard shape.count == 3, shape[0] > 0, shape[1] == configuration.melBands, shape[2] == configuration.frames else {
      return .failed(
        "ImageBindAudio takes log-mel [B, \(configuration.melBands), \(configuration.frames)]; found \(shape)")
    }
    // [B, 1, H, W] → [B, Dv, rows, columns] → [B, N, Dv]
    let patches = mel.unsqueezed(1).conv2d(patchWeight, nil, stride: configuration.stride)
      .reshaped(shape[0], configuration.hiddenSize, -1).transposed(1, 2)
    var x = Tensor.cat([classToken.expanded(shape[0], -1, -1), patchNorm(patches)], 1) + positions  // [B, 1 + N, Dv]
    for block in blocks { x = block(x) }
    let direction = projection(norm(x.select(1, 0))).normalized()  // [B, Da]
    guard let logScale else { return direction * configuration.scale }
    return direction * logScale.exp().clamped(max: ImageBindAudioConfiguration.mostScale)
  }
}

/// Pre-norm transformer block whose attention has a learned key and value of its own, beside those of the tokens
/// (`add_bias_kv` of PyTorch's `MultiheadAttention`).
private struct Block: Sendable {
  let heads: Int
  let norm1: LayerNorm
  let projections: Linear
  let keyBias: Tensor  // [1, 1, Dv]
  let valueBias: Tensor  // [1, 1, Dv]
  let output: Linear
  let norm2: LayerNorm
  let first: Linear
  let second: Linear

  init(_ configuration: ImageBindAudioConfiguration, _ scope: ParameterScope) {
    let (width, eps) = (configuration.hiddenSize, configuration.layerNormEps)
    let inner = Int(Double(width) * configuration.mlpRatio)
    let normal = Initializer.normal(standardDeviation: 0.02)
    let attention = scope["self_attn"]
    heads = configuration.heads
    norm1 = LayerNorm(width, eps: eps, scope["layernorm_before"])
    projections = Linear(width, 3 * width, attention["qkv_proj"])
    keyBias = attention.parameter("k_bias", [1, 1, width], normal)
    valueBias = attention.parameter("v_bias", [1, 1, width], normal)
    output = Linear(width, width, attention["out_proj"])
    norm2 = LayerNorm(width, eps: eps, scope["layernorm_after"])
    first = Linear(width, inner, scope["mlp.fc1"])
    second = Linear(inner, width, scope["mlp.fc2"])
  }

  /// `[B, 1 + N, Dv]` to the same shape.
  func callAsFunction(_ x: Tensor) -> Tensor {
    let attended = x + attention(norm1(x))
    return attended + second(first(norm2(attended)).gelu())
  }

  private func attention(_ x: Tensor) -> Tensor {
    let (batch, width) = (x.size(0), x.size(2))
    // [B, L, Dv] → [B, A, L, d]
    func split(_ y: Tensor) -> Tensor { y.reshaped(batch, y.size(1), heads, -1).transposed(1, 2) }
    let mixed = projections(x)  // [B, 1 + N, 3 Dv]
    func part(_ number: Int) -> Tensor { mixed.narrow(2, number * width, width) }
    let keys = Tensor.cat([part(1), keyBias.expanded(batch, -1, -1)], 1)  // [B, 2 + N, Dv]
    let values = Tensor.cat([part(2), valueBias.expanded(batch, -1, -1)], 1)  // [B, 2 + N, Dv]
    let read = split(part(0)).attention(split(keys), split(values))
    return output(read.transposed(1, 2).reshaped(x.shape))  // [B, A, 1 + N, d] → [B, 1 + N, Dv]
  }
}
