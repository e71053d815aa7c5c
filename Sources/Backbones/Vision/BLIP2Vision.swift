// The vision tower of BLIP-2 and InstructBLIP: EVA-CLIP ViT-g/14 (Fang et al., arXiv 2211.07636) without its last block.
//
// Original source: salesforce/LAVIS eva_vit.py; parameter names are those of Hugging Face's Blip2VisionModel, which
// InstructBlipVisionModel shares. Pre-norm, query, key and value in one matrix, erf GELU, no norm between the last block
// and `post_layernorm`.
// Shapes: B batch · H, W pixels · P patch side · N = (H/P)·(W/P) patch tokens · Dv width · A heads · d = Dv/A.
import Checkpoints
public import Foundation
public import Torch
public import TorchNN

/// Sizes of a BLIP-2 vision tower, as `vision_config` gives them; fields left out take the values below.
public struct BLIP2VisionConfiguration: Codable, Sendable, Equatable {
  /// Dv, a multiple of the number of heads.
  public var hiddenSize = 1408
  /// Width inside the feed-forward layer.
  public var intermediateSize = 6144
  /// Blocks.
  public var layers = 39
  /// A.
  public var heads = 16
  /// Side in pixels of the pictures that the position table was made for.
  public var imageSize = 224
  /// P in pixels.
  public var patchSize = 14
  /// Of all layer normalisations in the blocks.
  public var layerNormEps = 1e-6
  /// Of the normalisation of the output: that of the blocks when left out; LAVIS has 1e-5 here alone.
  public var outputNormEps = 1e-6
  /// Whether query, key and value have biases.
  public var qkvBias = true
  /// Between the matrices of the feed-forward layer.
  public var activation = Activation.gelu

  enum CodingKeys: String, CodingKey {
    case hiddenSize = "hidden_size"
    case intermediateSize = "intermediate_size"
    case layers = "num_hidden_layers"
    case heads = "num_attention_heads"
    case imageSize = "image_size"
    case patchSize = "patch_size"
    case layerNormEps = "layer_norm_eps"
    case outputNormEps = "post_layernorm_eps"
    case qkvBias = "qkv_bias"
    case activation = "hidden_act"
  }

  private enum ChoiceKeys: String, CodingKey {
    case modelType = "model_type"
    case channels = "num_channels"
  }

  /// The published tower: ViT-g/14 at 224 pixels, the values that a published configuration may leave out.
  public init() {}

  /// ViT-g/14 at 224 pixels with Hugging Face's epsilons.
  public static let giant = Self()

  /// The same tower as LAVIS runs it: 1e-5 in the normalisation of the output.
  public static let lavis: Self = {
    var configuration = Self()
    configuration.outputNormEps = 1e-5
    return configuration
  }()

  /// Decodes a `vision_config`; throws a `DecodingError` for fields that cannot be.
  public init(from decoder: any Decoder) throws {
    let choices = try decoder.container(keyedBy: ChoiceKeys.self)
    try choices.word(
      .modelType,
      oneOf: ["blip_2_vision_model", "instructblip_vision_model", "instructblipvideo_vision_model"])
    _ = try choices.size(.channels, default: 3, in: 3...3)
    let fields = try decoder.container(keyedBy: CodingKeys.self)
    hiddenSize = try fields.size(.hiddenSize, default: hiddenSize, in: Limit.width)
    intermediateSize = try fields.size(.intermediateSize, default: intermediateSize, in: Limit.inner)
    layers = try fields.size(.layers, default: layers, in: Limit.layers)
    heads = try fields.size(.heads, default: heads, in: 1...hiddenSize)
    imageSize = try fields.side(.imageSize, default: imageSize, in: Limit.side)
    patchSize = try fields.side(.patchSize, default: patchSize, in: 1...imageSize)
    layerNormEps = try fields.value(.layerNormEps, default: layerNormEps)
    outputNormEps = try fields.value(.outputNormEps, default: layerNormEps)
    qkvBias = try fields.value(.qkvBias, default: qkvBias)
    activation = try fields.activation(.activation, default: activation)
    guard hiddenSize.isMultiple(of: heads) else {
      throw fields.corrupted(.heads, "\(heads) heads do not divide hidden_size \(hiddenSize)")
    }
  }

  /// Side of the position table in patches. A rest of pixels that fill no patch is cut off.
  var gridSide: Int { imageSize / patchSize }
}

/// The picture encoder of BLIP-2 and InstructBLIP.
public final class BLIP2Vision: VisionTower {
  /// Its sizes.
  public let configuration: BLIP2VisionConfiguration
  private let classToken: Tensor  // [1, 1, Dv]
  private let positions: PatchPositions
  private let patchWeight: Tensor  // [Dv, 3, P, P]
  private let patchBias: Tensor  // [Dv]
  private let blocks: [Block]
  private let norm: LayerNorm?

  /// Takes all weights from the scope, under the names of Blip2VisionModel (in a whole model: below `vision_model`).
  ///
  /// - Parameters:
  ///   - configuration: The sizes.
  ///   - scope: Where the weights come from.
  ///   - hasOutputNorm: Off for a tower without `post_layernorm`, as in `eva_vit_g.pth`, or when what comes after
  ///     the tower trains it.
  public init(_ configuration: BLIP2VisionConfiguration, _ scope: ParameterScope, hasOutputNorm: Bool = true) {
    self.configuration = configuration
    let (width, patch, side) = (configuration.hiddenSize, configuration.patchSize, configuration.gridSide)
    let embeddings = scope["embeddings"]
    let normal = Initializer.normal(standardDeviation: 0.02)
    classToken = embeddings.parameter("class_embedding", [1, 1, width], normal)
    positions = PatchPositions(
      embeddings.parameter("position_embedding", [1, 1 + side * side, width], normal), side: side)
    patchWeight = embeddings.parameter("patch_embedding.weight", [width, 3, patch, patch], normal)
    patchBias = embeddings.parameter("patch_embedding.bias", [width], .zeros)
    blocks = (0..<configuration.layers).map { Block(configuration, scope["encoder.layers"][$0]) }
    norm = hasOutputNorm ? LayerNorm(width, eps: configuration.outputNormEps, scope["post_layernorm"]) : nil
  }

  /// Loads `config.json` and the weights of a folder in Hugging Face layout, strictly.
  ///
  /// Of a whole BLIP-2 or InstructBLIP model, `vision_config` and what lies below `vision_model` are taken.
  /// - Throws: ``BackboneError`` for the configuration, `CheckpointError` for the weights.
  public static func load(folder: URL) throws -> BLIP2Vision {
    let configuration = try readConfiguration(Part<BLIP2VisionConfiguration>.self, folder: folder).value
    let (model, _) = try loadVisionPart(folder: folder, ignoring: []) { BLIP2Vision(configuration, $0) }
    return model
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
  ///   - pixels: `[B, 3, H, W]` `float32`, normalised by mean and deviation; H and W multiples of P. The position table is
  ///     resized (bicubic, corners not aligned) for other sizes than the configuration's.
  ///   - block: The block (from 0) after which to stop, without `post_layernorm`; later ones are not computed.
  ///     Left out: the last block, and `post_layernorm` where the tower has it.
  /// - Returns: `[B, 1 + N, Dv]`. A wrong shape or block is a failure for `withError`.
  public func tokens(_ pixels: Tensor, block: Int? = nil) -> Tensor {
    if let refusal = refusal(pixels, channels: 3, block: block) { return refusal }
    let (shape, patch) = (pixels.shape, patchSize)
    // [B, Dv, H/P, W/P] → [B, N, Dv]
    let patches = pixels.conv2d(patchWeight, patchBias, stride: patch).reshaped(shape[0], width, -1).transposed(1, 2)
    let table = positions(rows: shape[2] / patch, columns: shape[3] / patch)
    var x = Tensor.cat([classToken.expanded(shape[0], -1, -1), patches], 1) + table  // [B, 1 + N, Dv]
    for layer in blocks.prefix((block ?? blocks.count - 1) + 1) { x = layer(x) }
    guard block == nil, let norm else { return x }
    return norm(x)
  }
}

/// Pre-norm transformer block.
private struct Block: Sendable {
  let heads: Int
  let norm1: LayerNorm
  let qkv: Linear
  let output: Linear
  let norm2: LayerNorm
  let first: Linear
  let second: Linear
  let activation: Activation

  init(_ configuration: BLIP2VisionConfiguration, _ scope: ParameterScope) {
    let (width, eps) = (configuration.hiddenSize, configuration.layerNormEps)
    heads = configuration.heads
    norm1 = LayerNorm(width, eps: eps, scope["layer_norm1"])
    qkv = Linear(width, 3 * width, scope["self_attn.qkv"], bias: configuration.qkvBias)
    output = Linear(width, width, scope["self_attn.projection"])
    norm2 = LayerNorm(width, eps: eps, scope["layer_norm2"])
    first = Linear(width, configuration.intermediateSize, scope["mlp.fc1"])
    second = Linear(configuration.intermediateSize, width, scope["mlp.fc2"])
    activation = configuration.activation
  }

  /// `[B, 1 + N, Dv]` to the same shape.
  func callAsFunction(_ x: Tensor) -> Tensor {
    // [B, 1 + N, 3 · Dv] → [3, B, A, 1 + N, d]
    let joined = qkv(norm1(x)).reshaped(x.size(0), x.size(1), 3, heads, -1).permuted(2, 0, 3, 1, 4)
    let mixed = joined.select(0, 0).attention(joined.select(0, 1), joined.select(0, 2))
    let attended = x + output(mixed.transposed(1, 2).reshaped(x.shape))
    return attended + second(activation(first(norm2(attended))))
  }
}
