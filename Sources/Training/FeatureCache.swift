import Checkpoints
public import Foundation
import Media
public import Pipelines
public import Torch

/// Features of a data set's pictures or clips on disk: each is encoded once, whatever number of passes follow.
///
/// One memory-mapped file of `float16`: `[images, views, N, Dv]` for pictures, view 1 being the mirrored picture;
/// `[clips, T, N, Dv]` for clips, with `seconds` and `mask` `[clips, T]` beside it: clips of fewer frames are padded with
/// zeros. Clips are never mirrored, since their captions tell left from right. A clip that is played backwards is not encoded
/// again: its frames are read in the opposite order.
public final class FeatureCache {
  private let features: Tensor  // [rows, T, N, Dv] in float16; rows are images · views, or clips
  private let seconds: Tensor?  // [rows, T]; nil for pictures
  private let mask: Tensor?  // [rows, T]; nil for pictures
  private let views: Int
  private let rows: [Int]  // for each image or clip its row among those that are stored
  private let isReversed: [Bool]
  private let lengths: [Int]  // frames of each stored clip; empty where none is reversed
  /// The number of images or clips.
  public var count: Int { rows.count }
  /// T, the frames of the longest clip; 1 for pictures.
  public var frames: Int { features.size(1) }
  /// Dv.
  public var width: Int { features.size(3) }

  private init(
    features: Tensor, seconds: Tensor?, mask: Tensor?, views: Int, rows: [Int], isReversed: [Bool]
  ) {
    (self.features, self.seconds, self.mask) = (features, seconds, mask)
    (self.views, self.rows, self.isReversed) = (views, rows, isReversed)
    lengths = isReversed.contains(true) ? mask?.sum(1).values(as: Float.self).map { Int($0) } ?? [] : []
  }

  /// Opens the features of a data set, encoding what is not there yet. An interrupted encoding is taken up again.
  ///
  /// - Parameters:
  ///   - images: The data set.
  ///   - views: 1, or 2 with mirrored images.
  ///   - frames: Which frames of clips; nil to read the first picture of each item. A data set without any clip is read
  ///     in the same way whatever it is.
  ///   - configuration: The encoder and its image size.
  ///   - folder: Where files lie; the name follows from the encoder and the data set.
  ///   - showsProgress: Whether a progress line is printed.
  ///   - encoder: Called only when something is missing.
  /// - Throws: What reading an image or a video or encoding it throws; `DataError.badSetting` for a video without
  ///   `frames`; `CheckpointError` for the file.
  public static func open(
    _ images: CaptionedImages, views: Int, frames: AdapterConfiguration.Frames? = nil,
    configuration: AdapterConfiguration.Encoder, folder: URL, showsProgress: Bool, encoder: () throws -> ImageEncoder
  ) throws -> FeatureCache {
    let all = images
    let (images, rows) = all.files
    let isReversed = all.map(\.isReversed)
    let encoding = "\(configuration.model)|\(configuration.block ?? -1)|\(configuration.imageSize)"
    guard let frames, images.contains(where: { $0.isVideo || $0.frames.count > 1 }) else {
      if let video = images.first(where: \.isVideo) {
        throw DataError.badSetting(
          "\(video.location)", expected: "pictures, for an objective that reads pictures", found: "a video")
      }
      guard !isReversed.contains(true) else {
        throw DataError.badSetting(
          "reversed", expected: "an objective that reads clips", found: "one that reads pictures")
      }
      let file = folder.appendingPathComponent("\(hash("\(encoding)|\(views)|\(fingerprint(images))")).safetensors")
      return try openPictures(images, views: views, file: file, showsProgress: showsProgress, encoder: encoder)
    }
    let key = "\(encoding)|\(frames.count) \(frames.place.rawValue)|\(clipFingerprint(images))"
    let file = folder.appendingPathComponent("\(hash(key)).safetensors")
    return try openClips(
      images, frames, rows: rows, isReversed: isReversed, file: file, showsProgress: showsProgress, encoder: encoder)
  }

  /// Features `[rows, N, Dv]` in `float32` of pictures, or of the first frames of clips.
  ///
  /// - Parameters:
  ///   - rows: Numbers of images.
  ///   - mirrored: For each row whether to take the mirrored view, where there is one.
  public func batch(_ rows: [Int], mirrored: [Bool] = []) -> Tensor {
    features.select(1, 0).indexSelect(0, indices(rows, mirrored)).to(.float32)
  }

  /// Frames of clips in time; a picture is a clip of one frame at 0 seconds.
  ///
  /// - Parameters:
  ///   - rows: Numbers of clips.
  ///   - mirrored: For each row whether to take the mirrored view, where there is one.
  /// - Returns: Features `[rows, T, N, Dv]`, mask and seconds `[rows, T]`, all in `float32`.
  func clips(_ rows: [Int], mirrored: [Bool] = []) -> (features: Tensor, mask: Tensor, seconds: Tensor) {
    let indices = indices(rows, mirrored)
    let (mask, seconds) = (
      mask?.indexSelect(0, indices) ?? .ones([rows.count, 1]),
      seconds?.indexSelect(0, indices) ?? .zeros([rows.count, 1])
    )
    guard rows.contains(where: { isReversed[$0] }) else {
      return (features.indexSelect(0, indices).to(.float32), mask, seconds)
    }
    return turned(rows, mask: mask, seconds: seconds)
  }

  /// The same where some of the clips are played backwards: of those the first frame keeps its time, and each step takes as
  /// long as it took.
  private func turned(
    _ rows: [Int], mask: Tensor, seconds: Tensor
  ) -> (features: Tensor, mask: Tensor, seconds: Tensor) {
    // Which frame of its clip stands in each place, [rows · T].
    let order = rows.flatMap { row in
      let length = lengths[self.rows[row]]
      return (0..<frames).map { isReversed[row] && $0 < length ? length - 1 - $0 : $0 }
    }
    func starts(_ rows: [Int]) -> [Int] { rows.flatMap { Array(repeating: $0 * frames, count: frames) } }
    let features = features.reshaped([-1] + features.shape.dropFirst(2))  // [stored, T, N, Dv] → [stored · T, N, Dv]
      .indexSelect(0, Tensor(zip(starts(rows.map { self.rows[$0] }), order).map(+)))
      .reshaped([rows.count, frames] + features.shape.dropFirst(2)).to(.float32)
    let opposite = seconds.reshaped(-1).indexSelect(0, Tensor(zip(starts(Array(rows.indices)), order).map(+)))
      .reshaped(rows.count, frames)
    let backwards = (seconds.narrow(1, 0, 1) + opposite.narrow(1, 0, 1) - opposite) * mask
    let isTurned = Tensor(rows.map { isReversed[$0] ? Float(1) : 0 }).unsqueezed(1)
    return (features, mask, seconds * (1 - isTurned) + backwards * isTurned)
  }

  private func indices(_ rows: [Int], _ mirrored: [Bool]) -> Tensor {
    Tensor(
      rows.enumerated().map { index, row in
        self.rows[row] * views + (views > 1 && mirrored.indices.contains(index) && mirrored[index] ? 1 : 0)
      })
  }

  // MARK: Pictures

  private static func openPictures(
    _ images: CaptionedImages, views: Int, file: URL, showsProgress: Bool, encoder: () throws -> ImageEncoder
  ) throws -> FeatureCache {
    if !FileManager.default.fileExists(atPath: file.path) {
      let encoder = try encoder()
      try write(to: file, count: images.count, blockSize: 256, batchSize: 8, showsProgress: showsProgress) { rows in
        let pictures = try rows.map { try picture(images[$0].location) }
        let encoded = try (0..<views).map { try encoder.features(pictures, flipped: $0 == 1).to(.float16) }
        return [("features", Tensor.stack(encoded, 1))]  // [batch, views, N, Dv]
      }
    }
    let features = try SafetensorsFile(contentsOf: file).tensor("features")
    let shape = features.shape
    guard shape.count == 4, shape[0] == images.count, shape[1] == views else {
      throw CheckpointError.malformed(
        file: file.path, expected: "features [\(images.count), \(views), N, Dv]", found: "\(shape)")
    }
    return FeatureCache(
      features: features.reshaped(shape[0] * views, 1, shape[2], shape[3]), seconds: nil, mask: nil, views: views,
      rows: Array(images.indices), isReversed: images.map(\.isReversed))
  }

  private static func picture(_ location: DataLocation) throws -> Image {
    try Image(data: location.read(), name: location.description)
  }

  // MARK: Clips

  private static func openClips(
    _ clips: CaptionedImages, _ frames: AdapterConfiguration.Frames, rows: [Int], isReversed: [Bool], file: URL,
    showsProgress: Bool, encoder: () throws -> ImageEncoder
  ) throws -> FeatureCache {
    let longest = clips.contains(where: \.isVideo) ? frames.count : clips.map(\.frames.count).max() ?? 0
    let length = min(longest, frames.count)
    if !FileManager.default.fileExists(atPath: file.path) {
      let encoder = try encoder()
      try write(
        to: file, count: clips.count, blockSize: max(1, 256 / length), batchSize: 1, showsProgress: showsProgress
      ) { rows in
        let clip = try encode(clips[rows.lowerBound], frames, encoder)
        let encoded = clip.features.to(.float16)  // [frames, N, Dv]
        let padding = length - clip.frames
        let rest = Tensor.zeros([padding, encoded.size(1), encoded.size(2)], dtype: .float16)
        func padded(_ values: [Double]) -> Tensor {
          Tensor(values.map(Float.init) + Array(repeating: 0, count: padding), [1, length])
        }
        return [
          ("features", Tensor.cat([encoded, rest], 0).unsqueezed(0)),  // [1, T, N, Dv]
          ("seconds", padded(clip.seconds)), ("mask", padded(clip.seconds.map { _ in 1 })),
        ]
      }
    }
    let stored = try SafetensorsFile(contentsOf: file)
    let (features, seconds, mask) = try (stored.tensor("features"), stored.tensor("seconds"), stored.tensor("mask"))
    let shape = features.shape
    guard shape.count == 4, Array(shape.prefix(2)) == [clips.count, length] else {
      throw CheckpointError.malformed(
        file: file.path, expected: "features [\(clips.count), \(length), N, Dv]", found: "\(shape)")
    }
    for (name, tensor) in [("seconds", seconds), ("mask", mask)] where tensor.shape != [clips.count, length] {
      throw CheckpointError.malformed(
        file: file.path, expected: "\(name) [\(clips.count), \(length)]", found: "\(tensor.shape)")
    }
    return FeatureCache(
      features: features, seconds: seconds, mask: mask, views: 1, rows: rows, isReversed: isReversed)
  }

  /// The features of a clip's chosen frames. Pictures without times are a second apart.
  private static func encode(
    _ clip: CaptionedImage, _ frames: AdapterConfiguration.Frames, _ encoder: ImageEncoder
  ) throws -> VideoFeatures {
    guard clip.isVideo else {
      let places = frames.choice.places(of: clip.frames.count) ?? []
      let pictures = try places.map { try picture(clip.frames[$0]) }
      return try VideoFeatures(
        encoder.features(pictures), seconds: places.map { clip.seconds?[$0] ?? Double($0) })
    }
    let location = clip.location
    let video =
      location.member == nil
      ? try VideoFile(contentsOf: URL(fileURLWithPath: location.path))
      : try VideoFile(data: location.read(), name: location.description)
    return try encoder.features(of: .video(video), frames: frames.choice, name: location.description)
  }

  // MARK: Files

  // Written in blocks of rows, each a file of its own, so that an interruption loses at most one block.
  static func write(
    to file: URL, count: Int, blockSize: Int, batchSize: Int, showsProgress: Bool,
    _ encode: (Range<Int>) throws -> [(name: String, tensor: Tensor)]
  ) throws {
    let parts = file.deletingPathExtension().appendingPathExtension("parts")
    do {
      try FileManager.default.createDirectory(at: parts, withIntermediateDirectories: true)
    } catch {
      throw CheckpointError.cannotWrite(file: parts.path, reason: error.localizedDescription)
    }
    let progress = Progress("encoding", total: count, isOn: showsProgress)
    let starts = Array(stride(from: 0, to: count, by: blockSize))
    for start in starts {
      let part = parts.appendingPathComponent("\(start).safetensors")
      let end = min(start + blockSize, count)
      if FileManager.default.fileExists(atPath: part.path) { continue }
      var batches: [[(name: String, tensor: Tensor)]] = []
      for first in stride(from: start, to: end, by: batchSize) {
        batches.append(try encode(first..<min(first + batchSize, end)))
        progress.update(min(first + batchSize, end))
      }
      let block = (batches.first ?? []).indices.map { index in
        (name: batches[0][index].name, tensor: Tensor.cat(batches.map { $0[index].tensor }, 0))
      }
      try SafetensorsFile.write(block, to: part)
    }
    let blocks = try starts.map { try SafetensorsFile(contentsOf: parts.appendingPathComponent("\($0).safetensors")) }
    try SafetensorsFile.writeConcatenated(
      try (blocks.first?.names ?? []).map { name in (name, try blocks.map { try $0.tensor(name) }) }, to: file)
    try? FileManager.default.removeItem(at: parts)
  }

  /// What tells one list of images from another: their ids and where their bytes lie.
  private static func fingerprint(_ images: CaptionedImages) -> String {
    images.map { "\($0.id)|\($0.location)|\($0.location.offset)" }.joined(separator: "\n")
  }

  /// The same for clips, with all their frames and times. Clips are made anew more often than pictures: the age of each
  /// file counts, too.
  ///
  /// - Parameter readsSound: Whether the files count that hold sound alone.
  static func clipFingerprint(_ clips: CaptionedImages, readsSound: Bool = false) -> String {
    var ages: [String: String] = [:]
    func age(_ path: String) -> String {
      if let known = ages[path] { return known }
      let attributes = try? FileManager.default.attributesOfItem(atPath: path)
      let date = (attributes?[.modificationDate] as? Date)?.timeIntervalSince1970 ?? 0
      ages[path] = "\(attributes?[.size] as? Int ?? 0) \(date)"
      return ages[path] ?? ""
    }
    return clips.map { clip in
      let frames = clip.frames.map { "\($0)|\($0.offset)|\(age($0.path))" }
      let sound = !readsSound ? "" : clip.sound.map { "|\($0)|\($0.offset)|\(age($0.path))" } ?? ""
      return "\(clip.id)|\(clip.isVideo)|\(clip.seconds ?? [])|\(frames.joined(separator: "|"))\(sound)"
    }.joined(separator: "\n")
  }

  /// FNV-1a over the key's bytes, as a file name.
  static func hash(_ key: String) -> String {
    let value = key.utf8.reduce(0xcbf2_9ce4_8422_2325 as UInt64) { ($0 ^ UInt64($1)) &* 0x100_0000_01b3 }
    return String(value, radix: 16)
  }
}
