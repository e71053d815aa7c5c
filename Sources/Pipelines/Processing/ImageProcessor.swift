public import Media
public import Torch

/// Turns images into what an encoder takes: squashed to a square, scaled to 0 … 1, normalised per channel.
public struct ImageProcessor: Sendable, Equatable {
  /// Side of the square, in pixels. The aspect ratio is not kept and nothing is cropped, as in BLIP-2.
  public let size: Int
  /// Subtracted from each channel, of values 0 … 1.
  public let mean: [Float]
  /// Divided by, after that.
  public let standardDeviation: [Float]

  /// A processor with the given constants, one for each of red, green and blue.
  public init(size: Int, mean: [Float], standardDeviation: [Float]) {
    self.size = size
    self.mean = mean
    self.standardDeviation = standardDeviation
  }

  /// The constants of ImageNet, which DINOv2 was trained with.
  public static func imageNet(size: Int) -> ImageProcessor {
    ImageProcessor(size: size, mean: [0.485, 0.456, 0.406], standardDeviation: [0.229, 0.224, 0.225])
  }

  /// The constants of CLIP, which EVA-CLIP and CLIP were trained with.
  public static func clip(size: Int) -> ImageProcessor {
    ImageProcessor(
      size: size, mean: [0.48145466, 0.4578275, 0.40821073], standardDeviation: [0.26862954, 0.26130258, 0.27577711])
  }

  /// `[B, 3, size, size]` in `float32`.
  ///
  /// - Throws: `MediaError` when an image cannot be resized.
  public func pixels(_ images: [Image]) throws -> Tensor {
    let planes = try images.map { image -> Tensor in
      let resized =
        image.width == size && image.height == size ? image : try image.resized(width: size, height: size)
      return Tensor(resized.pixels, [size, size, 3])
    }
    let x = Tensor.stack(planes).permuted(0, 3, 1, 2).to(.float32) / 255  // [B, 3, S, S]
    let shape = [3, 1, 1]
    return ((x - Tensor(mean, shape)) / Tensor(standardDeviation, shape)).contiguous()
  }
}
