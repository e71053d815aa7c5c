import Checkpoints
public import Foundation
import Media
public import Pipelines
public import Torch

/// Features of a data set's images on disk: each image is encoded once, whatever number of passes follow.
///
/// One file of `float16`, `[images, views, N, Dv]`, memory-mapped; view 1 is the mirrored image.
public final class FeatureCache {
  private let features: Tensor  // [images · views, N, Dv] in float16
  private let views: Int
  /// The number of images.
  public let count: Int
  /// Dv.
  public var width: Int { features.size(2) }

  private init(features: Tensor, views: Int, count: Int) {
    self.features = features
    self.views = views
    self.count = count
  }

  /// Opens the features of a data set, encoding what is not there yet. An interrupted encoding is taken up again.
  ///
  /// - Parameters:
  ///   - images: The data set.
  ///   - views: 1, or 2 with mirrored images.
  ///   - configuration: The encoder and its image size.
  ///   - folder: Where files lie; the name follows from the encoder and the data set.
  ///   - showsProgress: Whether a progress line is printed.
  ///   - encoder: Called only when something is missing.
  /// - Throws: What reading an image or encoding it throws; `CheckpointError` for the file.
  public static func open(
    _ images: CaptionedImages, views: Int, configuration: AdapterConfiguration.Encoder, folder: URL,
    showsProgress: Bool, encoder: () throws -> ImageEncoder
  ) throws -> FeatureCache {
    let encoding = "\(configuration.model)|\(configuration.block ?? -1)|\(configuration.imageSize)|\(views)"
    let key = "\(encoding)|\(fingerprint(images))"
    let file = folder.appendingPathComponent("\(hash(key)).safetensors")
    if !FileManager.default.fileExists(atPath: file.path) {
      try encode(images, views: views, to: file, showsProgress: showsProgress, encoder: try encoder())
    }
    let features = try SafetensorsFile(contentsOf: file).tensor("features")
    let shape = features.shape
    guard shape.count == 4, shape[0] == images.count, shape[1] == views else {
      throw CheckpointError.malformed(
        file: file.path, expected: "features [\(images.count), \(views), N, Dv]", found: "\(shape)")
    }
    return FeatureCache(
      features: features.reshaped(shape[0] * views, shape[2], shape[3]), views: views, count: shape[0])
  }

  /// Features `[rows, N, Dv]` in `float32`.
  ///
  /// - Parameters:
  ///   - rows: Numbers of images.
  ///   - mirrored: For each row whether to take the mirrored view, where there is one.
  public func batch(_ rows: [Int], mirrored: [Bool] = []) -> Tensor {
    let indices = rows.enumerated().map { index, row in
      row * views + (views > 1 && mirrored.indices.contains(index) && mirrored[index] ? 1 : 0)
    }
    return features.indexSelect(0, Tensor(indices)).to(.float32)
  }

  // Written in blocks of rows, each a file of its own, so that an interruption loses at most one block.
  private static func encode(
    _ images: CaptionedImages, views: Int, to file: URL, showsProgress: Bool, encoder: ImageEncoder
  ) throws {
    let parts = file.deletingPathExtension().appendingPathExtension("parts")
    do {
      try FileManager.default.createDirectory(at: parts, withIntermediateDirectories: true)
    } catch {
      throw CheckpointError.cannotWrite(file: parts.path, reason: error.localizedDescription)
    }
    let blockSize = 256
    let batchSize = 8
    let progress = Progress("encoding", total: images.count, isOn: showsProgress)
    let starts = Array(stride(from: 0, to: images.count, by: blockSize))
    for start in starts {
      let part = parts.appendingPathComponent("\(start).safetensors")
      let end = min(start + blockSize, images.count)
      if FileManager.default.fileExists(atPath: part.path) { continue }
      var blocks: [Tensor] = []
      for first in stride(from: start, to: end, by: batchSize) {
        let batch = try (first..<min(first + batchSize, end)).map { try image(images[$0]) }
        let encoded = try (0..<views).map { try encoder.features(batch, flipped: $0 == 1).to(.float16) }
        blocks.append(Tensor.stack(encoded, 1))  // [batch, views, N, Dv]
        progress.update(min(first + batchSize, end))
      }
      try SafetensorsFile.write([("features", Tensor.cat(blocks, 0))], to: part)
    }
    let tensors = try starts.map {
      try SafetensorsFile(contentsOf: parts.appendingPathComponent("\($0).safetensors")).tensor("features")
    }
    try SafetensorsFile.writeConcatenated("features", tensors, to: file)
    try? FileManager.default.removeItem(at: parts)
  }

  private static func image(_ item: CaptionedImage) throws -> Image {
    try Image(data: item.location.read(), name: item.location.description)
  }

  /// What tells one list of images from another: their ids and where their bytes lie.
  private static func fingerprint(_ images: CaptionedImages) -> String {
    images.map { "\($0.id)|\($0.location)|\($0.location.offset)" }.joined(separator: "\n")
  }

  /// FNV-1a over the key's bytes, as a file name.
  private static func hash(_ key: String) -> String {
    let value = key.utf8.reduce(0xcbf2_9ce4_8422_2325 as UInt64) { ($0 ^ UInt64($1)) &* 0x100_0000_01b3 }
    return String(value, radix: 16)
  }
}
