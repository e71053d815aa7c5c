import Checkpoints
public import Foundation
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

extension ImageProcessor {
  /// Reads `preprocessor_config.json` of a published model; without that file, CLIP's constants.
  ///
  /// - Parameters:
  ///   - folder: The model's folder.
  ///   - size: Side of the square when the file does not say.
  /// - Throws: ``PipelineError/badConfiguration(file:reason:)`` for what would give other pixels than this type can make.
  public init(folder: URL, size: Int) throws {
    let file = folder.appendingPathComponent("preprocessor_config.json")
    func bad(_ reason: String) -> PipelineError { .badConfiguration(file: file.path, reason: reason) }
    guard FileManager.default.fileExists(atPath: file.path) else {
      self = .clip(size: size)
      return
    }
    let data = try SmallFile.configuration(file)
    guard let settings = try? JSONDecoder().decode(Settings.self, from: data) else {
      throw bad("expected a JSON object with size, image_mean and image_std")
    }
    let side = settings.size.map(\.side) ?? size
    guard let side, (1...4096).contains(side) else { throw bad("size: expected one square side up to 4096 pixels") }
    let clip = ImageProcessor.clip(size: side)
    let (mean, deviation) = (settings.mean ?? clip.mean, settings.deviation ?? clip.standardDeviation)
    guard mean.count == 3, deviation.count == 3, deviation.allSatisfy({ $0 > 0 }), mean.allSatisfy(\.isFinite) else {
      throw bad("image_mean and image_std: expected three numbers each, deviations above 0")
    }
    guard settings.resample ?? 3 == 3 else {
      throw bad("resample is \(settings.resample ?? 0), expected 3 (bicubic)")
    }
    for (name, value) in [("do_resize", settings.resizes), ("do_normalize", settings.normalizes)] where value == false {
      throw bad("\(name) is false, expected true")
    }
    guard settings.crops != true else { throw bad("do_center_crop is true, expected false") }
    self.init(size: side, mean: mean, standardDeviation: deviation)
  }

  private struct Settings: Decodable {
    /// One number, or height and width; nil inside when they differ.
    struct Size: Decodable {
      let side: Int?

      private struct Sides: Decodable {
        let height: Int?
        let width: Int?
      }

      init(from decoder: any Decoder) throws {
        if let number = try? decoder.singleValueContainer().decode(Int.self) {
          side = number
        } else {
          let sides = try Sides(from: decoder)
          side = sides.height == sides.width ? sides.height : nil
        }
      }
    }

    let size: Size?
    let mean: [Float]?
    let deviation: [Float]?
    let resample: Int?
    let resizes: Bool?
    let normalizes: Bool?
    let crops: Bool?

    enum CodingKeys: String, CodingKey {
      case size, resample
      case mean = "image_mean"
      case deviation = "image_std"
      case resizes = "do_resize"
      case normalizes = "do_normalize"
      case crops = "do_center_crop"
    }
  }
}
