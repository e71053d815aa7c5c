// CLIP's picture encoder (Radford et al., arXiv 2103.00020), as far as adapters read it: up to the second-to-last block.
//
// Original source: openai/CLIP and salesforce/LAVIS clip_vit.py; parameter names are those of Hugging Face's
// CLIPVisionModel. A norm before the first block, QuickGELU, a patch convolution without bias, no norm at the end.
// Shapes: B batch · H, W pixels · P patch side · N = (H/P)·(W/P) patch tokens · Dv width · A heads · d = Dv/A.
public import Checkpoints
public import Foundation
public import Torch
public import TorchNN

/// Sizes of a CLIP picture encoder, as `vision_config` gives them; fields left out take the values below.
public struct CLIPVisionConfiguration: Codable, Sendable, Equatable {
  /// Dv, a multiple of the number of heads.
  public var hiddenSize = 768
  /// Width inside the feed-forward layer.
  public var intermediateSize = 3072
  /// Blocks.
  public var layers = 12
  /// A.
  public var heads = 12
  /// Colour channels.
  public var channels = 3
  /// Side in pixels of the pictures that the position table was made for.
  public var imageSize = 224
  /// P in pixels.
  public var patchSize = 32
  /// Of all layer normalisations.
  public var layerNormEps = 1e-5
  /// Between the matrices of the feed-forward layer.
  public var activation = Activation.quickGELU
  /// Whether the outer patches keep their positions when the table is resized: LAVIS does so, transformers does not.
  public var alignsCorners = true

  enum CodingKeys: String, CodingKey {
    case hiddenSize = "hidden_size"
    case intermediateSize = "intermediate_size"
    case layers = "num_hidden_layers"
    case heads = "num_attention_heads"
    case channels = "num_channels"
    case imageSize = "image_size"
    case patchSize = "patch_size"
    case layerNormEps = "layer_norm_eps"
    case activation = "hidden_act"
    case alignsCorners = "interpolate_align_corners"
  }

  private enum ChoiceKeys: String, CodingKey { case modelType = "model_type" }

  /// The values that a published configuration may leave out: ViT-B/32 with all its blocks.
  public init() {}

  /// ViT-L/14 as LAVIS uses it: the last of 24 blocks is dropped.
  public static let large: Self = {
    var configuration = Self()
    (configuration.hiddenSize, configuration.intermediateSize) = (1024, 4096)
    (configuration.layers, configuration.heads, configuration.patchSize) = (23, 16, 14)
    return configuration
  }()

  /// Decodes a `vision_config`; throws a `DecodingError` for fields that cannot be.
  public init(from decoder: any Decoder) throws {
    let choices = try decoder.container(keyedBy: ChoiceKeys.self)
    try choices.word(.modelType, oneOf: ["clip_vision_model"])
    let fields = try decoder.container(keyedBy: CodingKeys.self)
    hiddenSize = try fields.size(.hiddenSize, default: hiddenSize, in: Limit.width)
    intermediateSize = try fields.size(.intermediateSize, default: intermediateSize, in: Limit.inner)
    layers = try fields.size(.layers, default: layers, in: Limit.layers)
    heads = try fields.size(.heads, default: heads, in: 1...hiddenSize)
    channels = try fields.size(.channels, default: channels, in: 1...1_024)
    imageSize = try fields.side(.imageSize, default: imageSize, in: Limit.side)
    patchSize = try fields.side(.patchSize, default: patchSize, in: 1...imageSize)
    layerNormEps = try fields.value(.layerNormEps, default: layerNormEps)
    activation = try fields.activation(.activation, default: activation)
    alignsCorners = try fields.value(.alignsCorners, default: alignsCorners)
    guard hiddenSize.isMultiple(of: heads) else {
      throw fields.corrupted(.heads, "\(heads) heads do not divide hidden_size \(hiddenSize)")
    }
  }

  /// Side of the position table in patches.
  var gridSide: Int { imageSize / patchSize }
}

/// CLIP's picture encoder without its final normalisation.
public final class CLIPVision: VisionTower {
  /// Its sizes.
  public let configuration: CLIPVisionConfiguration
  private let classToken: Tensor  // [Dv]
  private let positions: PatchPositions
  private let patchWeight: Tensor  // [Dv, channels, P, P]
  private let norm: LayerNorm
  private let blocks: [Block]

  /// Takes all weights from the scope, under the names of CLIPVisionModel (in published files: below `vision_model`).
  public init(_ configuration: CLIPVisionConfiguration, _ scope: ParameterScope) {
    self.configuration = configuration
    let (width, patch, side) = (configuration.hiddenSize, configuration.patchSize, configuration.gridSide)
    let embeddings = scope["embeddings"]
    let normal = Initializer.normal(standardDeviation: 0.02)
    classToken = embeddings.parameter("class_embedding", [width], normal)
    positions = PatchPositions(
      embeddings.parameter("position_embedding.weight", [1 + side * side, width], normal), side: side,
      alignsCorners: configuration.alignsCorners)
    patchWeight = embeddings.parameter("patch_embedding.weight", [width, configuration.channels, patch, patch], normal)
    // The published names have this misspelling.
    norm = LayerNorm(width, eps: configuration.layerNormEps, scope["pre_layrnorm"])
    blocks = (0..<configuration.layers).map { Block(configuration, scope["encoder.layers"][$0]) }
  }

  /// Loads `config.json` and the weights of a folder in Hugging Face layout.
  ///
  /// Of a whole CLIP model, `vision_config` and what lies below `vision_model` are taken. The last block of the file is
  /// left out, as is the norm after it: adapters read what goes into it.
  /// - Throws: ``BackboneError`` for the configuration, `CheckpointError` for the weights.
  public static func load(folder: URL) throws -> CLIPVision {
    var configuration = try readConfiguration(Part<CLIPVisionConfiguration>.self, folder: folder).value
    configuration.layers = max(configuration.layers - 1, 1)
    let ignoring = ["*encoder.layers.\(configuration.layers).*", "*post_layernorm.*", "*embeddings.position_ids"]
    return try loadVisionPart(folder: folder, ignoring: ignoring) { CLIPVision(configuration, $0) }.model
  }

  /// The names in OpenAI's and LAVIS' files (`clip_vit_L.pth`), with query, key and value in one matrix.
  public static let originalNames: KeyMap = {
    let (ours, theirs) = ("encoder.layers.*", "transformer.resblocks.*")
    return KeyMap(
      [
        KeyMap.Rule("embeddings.class_embedding", "class_embedding"),
        KeyMap.Rule("embeddings.position_embedding.weight", "positional_embedding"),
        KeyMap.Rule("embeddings.patch_embedding", "conv1"),
        KeyMap.Rule("pre_layrnorm", "ln_pre"),
        KeyMap.Rule("\(ours).layer_norm1", "\(theirs).ln_1"),
        KeyMap.Rule("\(ours).layer_norm2", "\(theirs).ln_2"),
        KeyMap.Rule("\(ours).self_attn.out_proj", "\(theirs).attn.out_proj"),
        KeyMap.Rule("\(ours).mlp.fc1", "\(theirs).mlp.c_fc"),
        KeyMap.Rule("\(ours).mlp.fc2", "\(theirs).mlp.c_proj"),
      ],
      fusions: ["weight", "bias"].map { kind in
        KeyMap.Fusion(
          model: ["q", "k", "v"].map { .tensor("\(ours).self_attn.\($0)_proj.\(kind)") },
          file: [.tensor("\(theirs).attn.in_proj_\(kind)")])
      })
  }()

  /// Dv.
  public var width: Int { configuration.hiddenSize }
  /// The number of blocks.
  public var blockCount: Int { blocks.count }
  /// P in pixels.
  public var patchSize: Int { configuration.patchSize }

  /// Tokens of pictures: the class token, then the patches row by row.
  ///
  /// - Parameters:
  ///   - pixels: `[B, channels, H, W]` `float32`, normalised by mean and deviation; H and W multiples of P. The position
  ///     table is resized (bicubic) for other sizes than the configuration's.
  ///   - block: The block (from 0) after which to stop; the last one when left out. There is no norm in either case.
  /// - Returns: `[B, 1 + N, Dv]`. A wrong shape or block is a failure for `withError`.
  public func tokens(_ pixels: Tensor, block: Int? = nil) -> Tensor {
    if let refusal = refusal(pixels, channels: configuration.channels, block: block) { return refusal }
    let (shape, patch) = (pixels.shape, patchSize)
    // [B, Dv, H/P, W/P] → [B, N, Dv]
    let patches = pixels.conv2d(patchWeight, nil, stride: patch).reshaped(shape[0], width, -1).transposed(1, 2)
    let table = positions(rows: shape[2] / patch, columns: shape[3] / patch)
    let first = classToken.reshaped(1, 1, width).expanded(shape[0], -1, -1)  // [B, 1, Dv]
    var x = norm(Tensor.cat([first, patches], 1) + table)  // [B, 1 + N, Dv]
    for layer in blocks.prefix((block ?? blocks.count - 1) + 1) { x = layer(x) }
    return x
  }
}

/// Pre-norm transformer block.
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

  init(_ configuration: CLIPVisionConfiguration, _ scope: ParameterScope) {
    let (width, eps) = (configuration.hiddenSize, configuration.layerNormEps)
    heads = configuration.heads
    norm1 = LayerNorm(width, eps: eps, scope["layer_norm1"])
    query = Linear(width, width, scope["self_attn.q_proj"])
    key = Linear(width, width, scope["self_attn.k_proj"])
    value = Linear(width, width, scope["self_attn.v_proj"])
    output = Linear(width, width, scope["self_attn.out_proj"])
    norm2 = LayerNorm(width, eps: eps, scope["layer_norm2"])
    first = Linear(width, configuration.intermediateSize, scope["mlp.fc1"])
    second = Linear(configuration.intermediateSize, width, scope["mlp.fc2"])
    activation = configuration.activation
  }

  /// `[B, 1 + N, Dv]` to the same shape.
  func callAsFunction(_ x: Tensor) -> Tensor {
    let shape = x.shape
    // [B, 1 + N, Dv] → [B, A, 1 + N, d]
    func split(_ y: Tensor) -> Tensor { y.reshaped(y.size(0), y.size(1), heads, -1).transposed(1, 2) }
    let normed = norm1(x)
    let mixed = split(query(normed)).attention(split(key(normed)), split(value(normed)))
    let attended = x + output(mixed.transposed(1, 2).reshaped(shape))
    return attended + second(activation(first(norm2(attended))))
  }
}
