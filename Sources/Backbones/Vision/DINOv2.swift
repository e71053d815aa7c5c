// DINOv2 (Oquab et al., arXiv 2304.07193): a vision transformer trained without labels.
//
// Original source: facebookresearch/dinov2; parameter names are those of Hugging Face's Dinov2Model.
// Shapes: B batch · H, W pixels · P patch side · N = (H/P)·(W/P) patch tokens · Dv width · A heads · d = Dv/A.
import Checkpoints
public import Foundation
public import Torch
public import TorchNN

/// Sizes of a DINOv2 model, as its `config.json` gives them; fields left out take the values below.
public struct DINOv2Configuration: Codable, Sendable, Equatable {
  /// Dv, a multiple of the number of heads.
  public var hiddenSize = 768
  /// Blocks.
  public var layers = 12
  /// Attention heads.
  public var heads = 12
  /// Width of the feed-forward layer over Dv; two thirds of it, rounded up to a multiple of 8, for SwiGLU.
  public var mlpRatio = 4.0
  /// Of all layer normalisations.
  public var layerNormEps = 1e-6
  /// Side in pixels of the pictures that the position table was made for.
  public var imageSize = 224
  /// P in pixels.
  public var patchSize = 14
  /// Colour channels.
  public var channels = 3
  /// The scale of a fresh block's branches.
  public var layerScale = 1.0
  /// Whether query, key and value have biases.
  public var qkvBias = true
  /// SwiGLU (the giant model) in place of GELU.
  public var usesSwiGLU = false

  enum CodingKeys: String, CodingKey {
    case hiddenSize = "hidden_size"
    case layers = "num_hidden_layers"
    case heads = "num_attention_heads"
    case mlpRatio = "mlp_ratio"
    case layerNormEps = "layer_norm_eps"
    case imageSize = "image_size"
    case patchSize = "patch_size"
    case channels = "num_channels"
    case layerScale = "layerscale_value"
    case qkvBias = "qkv_bias"
    case usesSwiGLU = "use_swiglu_ffn"
  }

  private enum ChoiceKeys: String, CodingKey {
    case modelType = "model_type"
    case activation = "hidden_act"
  }

  /// The values that a published configuration may leave out.
  public init() {}

  /// A published model at 518 pixels.
  public init(hiddenSize: Int, layers: Int, heads: Int, usesSwiGLU: Bool = false) {
    (self.hiddenSize, self.layers, self.heads, self.usesSwiGLU) = (hiddenSize, layers, heads, usesSwiGLU)
    imageSize = 518
  }

  /// ViT-S/14, 22 M parameters.
  public static let small = Self(hiddenSize: 384, layers: 12, heads: 6)
  /// ViT-B/14, 86 M parameters.
  public static let base = Self(hiddenSize: 768, layers: 12, heads: 12)
  /// ViT-L/14, 304 M parameters.
  public static let large = Self(hiddenSize: 1024, layers: 24, heads: 16)
  /// ViT-g/14, 1.1 G parameters.
  public static let giant = Self(hiddenSize: 1536, layers: 40, heads: 24, usesSwiGLU: true)

  /// Decodes a `config.json`; throws a `DecodingError` for fields that cannot be.
  public init(from decoder: any Decoder) throws {
    let choices = try decoder.container(keyedBy: ChoiceKeys.self)
    try choices.word(.modelType, oneOf: ["dinov2"])
    try choices.word(.activation, oneOf: ["gelu"])
    let fields = try decoder.container(keyedBy: CodingKeys.self)
    hiddenSize = try fields.size(.hiddenSize, default: hiddenSize, in: Limit.width)
    layers = try fields.size(.layers, default: layers, in: Limit.layers)
    heads = try fields.size(.heads, default: heads, in: 1...hiddenSize)
    mlpRatio = try fields.value(.mlpRatio, default: mlpRatio)
    layerNormEps = try fields.value(.layerNormEps, default: layerNormEps)
    imageSize = try fields.side(.imageSize, default: imageSize, in: 1...16_384)
    patchSize = try fields.side(.patchSize, default: patchSize, in: 1...imageSize)
    channels = try fields.size(.channels, default: channels, in: 1...1_024)
    layerScale = try fields.value(.layerScale, default: layerScale)
    qkvBias = try fields.value(.qkvBias, default: qkvBias)
    usesSwiGLU = try fields.value(.usesSwiGLU, default: usesSwiGLU)
    guard hiddenSize.isMultiple(of: heads) else {
      throw fields.corrupted(.heads, "\(heads) heads do not divide hidden_size \(hiddenSize)")
    }
    guard mlpRatio > 0, mlpRatio <= 64 else { throw fields.corrupted(.mlpRatio, "expected 0 … 64, found \(mlpRatio)") }
    guard imageSize.isMultiple(of: patchSize) else {
      throw fields.corrupted(.imageSize, "\(imageSize) is no multiple of patch_size \(patchSize)")
    }
  }

  /// Width inside the feed-forward layer.
  var mlpWidth: Int {
    let width = Int(Double(hiddenSize) * mlpRatio)
    return usesSwiGLU ? (width * 2 / 3 + 7) / 8 * 8 : width
  }

  /// Side of the position table in patches.
  var gridSide: Int { imageSize / patchSize }
}

/// The DINOv2 picture encoder.
public final class DINOv2: VisionTower {
  /// Its sizes.
  public let configuration: DINOv2Configuration
  private let classToken: Tensor  // [1, 1, Dv]
  private let positions: PatchPositions
  private let patchWeight: Tensor  // [Dv, channels, P, P]
  private let patchBias: Tensor  // [Dv]
  private let blocks: [Block]
  private let norm: LayerNorm

  /// Takes all weights from the scope, under the names of Dinov2Model.
  public init(_ configuration: DINOv2Configuration, _ scope: ParameterScope) {
    self.configuration = configuration
    let width = configuration.hiddenSize
    let patch = configuration.patchSize
    let embeddings = scope["embeddings"]
    let normal = Initializer.normal(standardDeviation: 0.02)
    classToken = embeddings.parameter("cls_token", [1, 1, width], normal)
    // Pre-training alone uses the mask token; it is held so that a strict load knows it.
    if embeddings.has("mask_token") { _ = embeddings.parameter("mask_token", [1, width], .zeros) }
    let side = configuration.gridSide
    positions = PatchPositions(
      embeddings.parameter("position_embeddings", [1, 1 + side * side, width], normal), side: side)
    let projection = embeddings["patch_embeddings.projection"]
    patchWeight = projection.parameter("weight", [width, configuration.channels, patch, patch], normal)
    patchBias = projection.parameter("bias", [width], .zeros)
    blocks = (0..<configuration.layers).map { Block(configuration, scope["encoder.layer"][$0]) }
    norm = LayerNorm(width, eps: configuration.layerNormEps, scope["layernorm"])
  }

  /// Loads `config.json` and the weights of a folder in Hugging Face layout, strictly.
  ///
  /// Weights of an image classifier (names that start with `dinov2.`) are taken without its head.
  /// - Throws: ``BackboneError`` for the configuration, `CheckpointError` for the weights.
  public static func load(folder: URL) throws -> DINOv2 {
    let configuration = try readConfiguration(DINOv2Configuration.self, folder: folder)
    let checkpoint = try Checkpoint(contentsOf: folder)
    let isPrefixed = checkpoint.names.contains { $0.hasPrefix("dinov2.") }
    let keyMap = isPrefixed ? KeyMap([KeyMap.Rule("", "dinov2.")]) : .identity
    return try loadModel(from: checkpoint, keyMap: keyMap, ignoring: isPrefixed ? ["classifier.*"] : []) {
      DINOv2(configuration, $0)
    }.model
  }

  /// Dv.
  public var width: Int { configuration.hiddenSize }
  /// The number of blocks.
  public var blockCount: Int { blocks.count }
  /// P in pixels.
  public var patchSize: Int { configuration.patchSize }

  /// Tokens of pictures: the class token, then the patches row by row.
  ///
  /// - Parameters:
  ///   - pixels: `[B, channels, H, W]` `float32`, normalised by mean and deviation; H and W multiples of P.
  ///   - block: The block (from 0) after which to stop, without the final normalisation; later ones are not computed.
  ///     Left out: the last block and the final normalisation.
  /// - Returns: `[B, 1 + N, Dv]`. A wrong shape or block is a failure for `withError`.
  public func tokens(_ pixels: Tensor, block: Int? = nil) -> Tensor {
    if let refusal = refusal(pixels, channels: configuration.channels, block: block) { return refusal }
    let shape = pixels.shape
    let patch = configuration.patchSize
    // [B, Dv, H/P, W/P] → [B, N, Dv]
    let patches = pixels.conv2d(patchWeight, patchBias, stride: patch)
      .reshaped(shape[0], configuration.hiddenSize, -1).transposed(1, 2)
    let table = positions(rows: shape[2] / patch, columns: shape[3] / patch)
    var x = Tensor.cat([classToken.expanded(shape[0], -1, -1), patches], 1) + table  // [B, 1 + N, Dv]
    for layer in blocks.prefix((block ?? blocks.count - 1) + 1) { x = layer(x) }
    return block == nil ? norm(x) : x
  }
}

/// Pre-norm transformer block whose branches are scaled (LayerScale, Touvron et al., arXiv 2103.17239).
private struct Block: Sendable {
  let norm1: LayerNorm
  let attention: Attention
  let scale1: Tensor
  let norm2: LayerNorm
  let feedForward: FeedForward
  let scale2: Tensor

  init(_ configuration: DINOv2Configuration, _ scope: ParameterScope) {
    let width = configuration.hiddenSize
    let scale = Initializer.constant(configuration.layerScale)
    norm1 = LayerNorm(width, eps: configuration.layerNormEps, scope["norm1"])
    attention = Attention(configuration, scope["attention"])
    scale1 = scope["layer_scale1"].parameter("lambda1", [width], scale)
    norm2 = LayerNorm(width, eps: configuration.layerNormEps, scope["norm2"])
    feedForward = FeedForward(configuration, scope["mlp"])
    scale2 = scope["layer_scale2"].parameter("lambda1", [width], scale)
  }

  /// `[B, 1 + N, Dv]` to the same shape.
  func callAsFunction(_ x: Tensor) -> Tensor {
    let attended = x.addingProduct(attention(norm1(x)), scale1)
    return attended.addingProduct(feedForward(norm2(attended)), scale2)
  }
}

private struct Attention: Sendable {
  let heads: Int
  let query: Linear
  let key: Linear
  let value: Linear
  let output: Linear

  init(_ configuration: DINOv2Configuration, _ scope: ParameterScope) {
    let width = configuration.hiddenSize
    heads = configuration.heads
    query = Linear(width, width, scope["attention.query"], bias: configuration.qkvBias)
    key = Linear(width, width, scope["attention.key"], bias: configuration.qkvBias)
    value = Linear(width, width, scope["attention.value"], bias: configuration.qkvBias)
    output = Linear(width, width, scope["output.dense"])
  }

  /// `[B, 1 + N, Dv]` to the same shape.
  func callAsFunction(_ x: Tensor) -> Tensor {
    let shape = x.shape
    // [B, 1 + N, Dv] → [B, A, 1 + N, d]
    func split(_ y: Tensor) -> Tensor { y.reshaped(y.size(0), y.size(1), heads, -1).transposed(1, 2) }
    let attended = split(query(x)).attention(split(key(x)), split(value(x)))
    return output(attended.transposed(1, 2).reshaped(shape))
  }
}

private struct FeedForward: Sendable {
  let first: Linear
  let second: Linear
  let isGated: Bool

  init(_ configuration: DINOv2Configuration, _ scope: ParameterScope) {
    let (width, inner) = (configuration.hiddenSize, configuration.mlpWidth)
    isGated = configuration.usesSwiGLU
    first = Linear(width, isGated ? 2 * inner : inner, scope[isGated ? "weights_in" : "fc1"])
    second = Linear(inner, width, scope[isGated ? "weights_out" : "fc2"])
  }

  /// `[B, 1 + N, Dv]` to the same shape.
  func callAsFunction(_ x: Tensor) -> Tensor {
    let inner = first(x)
    guard isGated else { return second(inner.gelu()) }
    let width = inner.size(-1) / 2
    return second(inner.narrow(-1, 0, width).silu() * inner.narrow(-1, width, width))
  }
}
