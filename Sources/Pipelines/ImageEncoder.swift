public import Backbones
import Checkpoints
import Foundation
public import Media
public import Torch

/// A frozen image encoder with its preprocessing: images in, features out.
public struct ImageEncoder: Sendable {
  /// Which model, block and image size; nil for the encoder inside a published model.
  public let configuration: AdapterConfiguration.Encoder?
  /// Side of the square that images are resized to, in pixels.
  public var imageSize: Int { processor.size }
  private let tower: any VisionTower
  private let block: Int?
  private let processor: ImageProcessor

  /// Puts preprocessing before a tower.
  ///
  /// - Parameters:
  ///   - tower: The model.
  ///   - processor: Its preprocessing; the size is a multiple of the tower's patch size.
  ///   - block: The block whose output is read, from 0; the tower's end when left out.
  ///   - name: What the tower is called in errors, a folder.
  /// - Throws: ``PipelineError/badConfiguration(file:reason:)`` for a size or a block that the tower does not have.
  public init(_ tower: any VisionTower, processor: ImageProcessor, block: Int? = nil, name: String) throws {
    try self.init(tower, processor: processor, block: block, name: name, configuration: nil)
  }

  /// Loads the encoder of an adapter. The model's kind follows from `model_type` of its `config.json`.
  ///
  /// - Throws: ``PipelineError`` when it has not been fetched or is of a kind that is not known, or what loading it throws.
  public init(_ configuration: AdapterConfiguration.Encoder, store: ModelStore = ModelStore()) throws {
    let folder = try store.frozenModel(configuration.model)
    let size = configuration.imageSize
    let (tower, processor): (any VisionTower, ImageProcessor) =
      switch try VisionKind(folder: folder) {
      case .dinov2: (try DINOv2.load(folder: folder), .imageNet(size: size))
      case .blip2: (try BLIP2Vision.load(folder: folder), .clip(size: size))
      case .clip: (try CLIPVision.load(folder: folder), .clip(size: size))
      }
    try self.init(
      tower, processor: processor, block: configuration.block, name: folder.path, configuration: configuration)
  }

  private init(
    _ tower: any VisionTower, processor: ImageProcessor, block: Int?, name: String,
    configuration: AdapterConfiguration.Encoder?
  ) throws {
    let (size, patch) = (processor.size, tower.patchSize)
    guard (patch...4096).contains(size), size % patch == 0 else {
      throw PipelineError.badConfiguration(
        file: name, reason: "image_size \(size) is no multiple of the patch size \(patch) up to 4096")
    }
    if let block, !(0..<tower.blockCount).contains(block) {
      throw PipelineError.badConfiguration(
        file: name, reason: "block \(block) does not exist: the model has \(tower.blockCount)")
    }
    (self.tower, self.processor, self.block, self.configuration) = (tower, processor, block, configuration)
  }

  /// P, the side of a patch in pixels, of the encoder that an adapter names; its weights are not loaded.
  ///
  /// - Throws: ``PipelineError``, `BackboneError`.
  public static func patchSize(_ configuration: AdapterConfiguration.Encoder, store: ModelStore = ModelStore()) throws
    -> Int
  {
    try sizes(configuration, store: store).patchSize
  }

  /// The side of an encoder's patches in pixels and Dv, the width of its features, without reading weights.
  ///
  /// - Throws: As ``patchSize(_:store:)``.
  public static func sizes(
    _ configuration: AdapterConfiguration.Encoder, store: ModelStore = ModelStore()
  ) throws -> (patchSize: Int, width: Int) {
    let folder = try store.frozenModel(configuration.model)
    switch try VisionKind(folder: folder) {
    case .dinov2:
      let sizes = try readConfiguration(DINOv2Configuration.self, folder: folder)
      return (sizes.patchSize, sizes.hiddenSize)
    case .blip2:
      let sizes = try readConfiguration(BLIP2VisionConfiguration.self, folder: folder)
      return (sizes.patchSize, sizes.hiddenSize)
    case .clip:
      let sizes = try readConfiguration(CLIPVisionConfiguration.self, folder: folder)
      return (sizes.patchSize, sizes.hiddenSize)
    }
  }

  /// Dv, the width of the features.
  public var width: Int { tower.width }

  /// N, the number of tokens of an image.
  public var tokens: Int {
    let side = processor.size / tower.patchSize
    return 1 + side * side
  }

  /// An image at the size that the encoder reads: a small copy of a large one, for those who collect several.
  ///
  /// - Throws: `MediaError` for an image that cannot be resized.
  public func fitted(_ image: Image) throws -> Image {
    let size = processor.size
    return image.width == size && image.height == size ? image : try image.resized(width: size, height: size)
  }

  /// Whether both give the same features, so that those of one can be handed to what reads the other's.
  public func givesFeatures(of other: ImageEncoder) -> Bool {
    guard let configuration, let others = other.configuration else { return false }
    return configuration == others
  }

  /// Features `[B, N, Dv]` of images of any size.
  ///
  /// - Parameters:
  ///   - images: Any number of images.
  ///   - flipped: Whether to mirror the images left to right, as augmentation.
  /// - Throws: `MediaError` for an image that cannot be resized, `TorchError`.
  public func features(_ images: [Image], flipped: Bool = false) throws -> Tensor {
    try withError {
      try withNoGrad {
        let pixels = try processor.pixels(images)
        return tower.tokens(flipped ? pixels.flipped(3) : pixels, block: block)
      }
    }
  }
}

/// The kinds of image encoder that an adapter can read.
enum VisionKind: String, CaseIterable {
  case dinov2
  case blip2 = "blip_2_vision_model"
  case clip = "clip_vision_model"

  /// What the folder of a model says that it is.
  init(folder: URL) throws {
    let type = try ModelType(folder: folder).name
    // Files made before model types were looked at are DINOv2's.
    guard let kind = type.map(VisionKind.init(rawValue:)) ?? .dinov2 else {
      throw PipelineError.wrongModel(
        folder: folder.path, expected: "model_type \(Self.allCases.map(\.rawValue).joined(separator: " or "))",
        found: "model_type \(type ?? "none")")
    }
    self = kind
  }
}

/// `model_type` of a folder's `config.json`.
struct ModelType: Decodable {
  let name: String?

  private enum CodingKeys: String, CodingKey { case name = "model_type" }

  /// - Throws: ``PipelineError/badConfiguration(file:reason:)``.
  init(folder: URL) throws {
    let file = folder.appendingPathComponent("config.json")
    let data = try SmallFile.configuration(file)
    guard let found = try? JSONDecoder().decode(ModelType.self, from: data) else {
      throw PipelineError.badConfiguration(file: file.path, reason: "expected a JSON object")
    }
    self = found
  }
}
