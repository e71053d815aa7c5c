import Backbones
public import Foundation
public import Media
public import Torch

/// A frozen image encoder with its preprocessing: images in, features out.
public struct ImageEncoder: Sendable {
  /// Which model, block and image size.
  public let configuration: AdapterConfiguration.Encoder
  /// The folder of the model.
  public let folder: URL
  private let model: DINOv2
  private let processor: ImageProcessor

  /// Loads the encoder of an adapter.
  ///
  /// - Throws: ``PipelineError`` when it has not been fetched, or what loading it throws.
  public init(_ configuration: AdapterConfiguration.Encoder, store: ModelStore = ModelStore()) throws {
    self.configuration = configuration
    folder = try store.frozenModel(configuration.model)
    model = try DINOv2.load(folder: folder)
    let (size, patch) = (configuration.imageSize, model.configuration.patchSize)
    guard (patch...4096).contains(size), size % patch == 0 else {
      throw PipelineError.badConfiguration(
        file: folder.path, reason: "image_size \(size) is no multiple of the patch size \(patch) up to 4096")
    }
    if let block = configuration.block, !(0..<model.configuration.layers).contains(block) {
      throw PipelineError.badConfiguration(
        file: folder.path, reason: "block \(block) does not exist: the model has \(model.configuration.layers)")
    }
    processor = .imageNet(size: size)
  }

  /// Dv, the width of the features.
  public var width: Int { model.configuration.hiddenSize }

  /// N, the number of tokens of an image.
  public var tokens: Int {
    let side = configuration.imageSize / model.configuration.patchSize
    return 1 + side * side
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
        return model.tokens(flipped ? pixels.flipped(3) : pixels, block: configuration.block)
      }
    }
  }
}
