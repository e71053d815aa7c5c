import Checkpoints
import Foundation
import Media
import Pipelines
import QFormer
import Torch

/// What the audio encoder says of the sound of a data set's clips, on disk: each sound is encoded once.
///
/// A memory-mapped file of its own beside that of the frames, with the same promises as ``FeatureCache``: features
/// `[clips, S, Da]` in `float16`, `mask` and `seconds` `[clips, S]`; a clip without a sound track has a mask of zeros.
final class SoundCache {
  private let features: Tensor  // [clips, S, Da] in float16
  private let mask: Tensor  // [clips, S]
  private let seconds: Tensor  // [clips, S]
  private let hasSound: [Bool]
  private let rows: [Int]  // for each clip its row among those that are stored

  /// The number of clips.
  var count: Int { rows.count }
  /// Da.
  var width: Int { features.size(2) }

  private init(features: Tensor, mask: Tensor, seconds: Tensor, rows: [Int]) {
    (self.features, self.mask, self.seconds, self.rows) = (features, mask, seconds, rows)
    hasSound = mask.amax(1).values(as: Float.self).map { $0 > 0 }
  }

  /// Opens the sounds of a data set, encoding what is not there yet. An interrupted encoding is taken up again.
  ///
  /// - Parameters:
  ///   - clips: The data set.
  ///   - configuration: The encoder, and how sounds are cut.
  ///   - folder: Where files lie; the name follows from the encoder and the clips, the age of their files included.
  ///   - showsProgress: Whether a progress line is printed.
  ///   - encoder: Called only when something is missing.
  /// - Throws: What reading or encoding a sound throws; `CheckpointError` for the file.
  static func open(
    _ clips: CaptionedImages, configuration: AudioEncoderConfiguration, folder: URL, showsProgress: Bool,
    encoder: () throws -> AudioEncoder
  ) throws -> SoundCache {
    // A clip that is played backwards sounds as it did.
    let (clips, rows) = clips.files
    let cut =
      "\(configuration.clips)|\(configuration.clipSeconds)|\(configuration.strideSeconds ?? -1)|"
      + "\(configuration.tokensPerClip)|\(configuration.windowSeconds ?? -1)"
    let key = "sound|\(configuration.model)|\(cut)|\(FeatureCache.clipFingerprint(clips, readsSound: true))"
    let file = folder.appendingPathComponent("\(FeatureCache.hash(key)).safetensors")
    let pieces = configuration.pieces
    if !FileManager.default.fileExists(atPath: file.path) {
      let encoder = try encoder()
      try FeatureCache.write(
        to: file, count: clips.count, blockSize: 64, batchSize: 1, showsProgress: showsProgress
      ) { rows in
        guard let sound = try track(of: clips[rows.lowerBound]) else {
          return [
            ("features", .zeros([1, pieces, encoder.width], dtype: .float16)), ("mask", .zeros([1, pieces])),
            ("seconds", .zeros([1, pieces])),
          ]
        }
        let heard = try encoder.features([sound])
        return [
          ("features", heard.features.to(.float16)), ("mask", heard.mask ?? .ones([1, pieces])),
          ("seconds", heard.seconds ?? .zeros([1, pieces])),
        ]
      }
    }
    let stored = try SafetensorsFile(contentsOf: file)
    let (features, mask, seconds) = try (stored.tensor("features"), stored.tensor("mask"), stored.tensor("seconds"))
    let shape = [clips.count, pieces]
    guard features.rank == 3, Array(features.shape.prefix(2)) == shape else {
      throw CheckpointError.malformed(
        file: file.path, expected: "features [\(shape[0]), \(pieces), Da]", found: "\(features.shape)")
    }
    for (name, tensor) in [("mask", mask), ("seconds", seconds)] where tensor.shape != shape {
      throw CheckpointError.malformed(file: file.path, expected: "\(name) \(shape)", found: "\(tensor.shape)")
    }
    return SoundCache(features: features, mask: mask, seconds: seconds, rows: rows)
  }

  /// The sound that a line of the data set names, or the video's own track; nil without either.
  private static func track(of clip: CaptionedImage) throws -> AudioClip? {
    guard let location = clip.sound ?? (clip.isVideo ? clip.location : nil) else { return nil }
    let file = URL(fileURLWithPath: location.path)
    do {
      guard location.member != nil else {
        // A sound that is named must be one.
        return clip.sound == nil ? try AudioClip.track(of: file) : try AudioClip(contentsOf: file)
      }
      return try AudioClip(data: location.read(), name: location.description)
    } catch MediaError.noTrack where clip.sound == nil { return nil }
  }

  /// Pieces `[1, S, Da]` of a clip's sound in `float32`; nil for a clip without any.
  func sound(_ row: Int) -> (features: Tensor, mask: Tensor, seconds: Tensor)? {
    let row = rows[row]
    guard hasSound[row] else { return nil }
    return (features.narrow(0, row, 1).to(.float32), mask.narrow(0, row, 1), seconds.narrow(0, row, 1))
  }
}

/// The sounds of several clips: those that have one.
struct Sounds {
  /// The clips' number.
  let clips: Int
  /// Which of them have sound, ascending.
  let rows: [Int]
  /// Of those, `[rows, S, Da]`; nil when none has.
  let pieces: TimedFeatures?
}

/// Several sound caches behind each other, addressed by one row number.
struct SoundStack {
  let caches: [SoundCache]

  /// Da.
  var width: Int { caches.first?.width ?? 0 }

  /// The sounds of clips, in the order of the rows.
  ///
  /// - Throws: `QFormerError`.
  func sounds(_ rows: [Int]) throws -> Sounds {
    let found = rows.map { row -> (features: Tensor, mask: Tensor, seconds: Tensor)? in
      var row = row
      for cache in caches {
        if row < cache.count { return cache.sound(row) }
        row -= cache.count
      }
      return nil
    }
    let parts = found.compactMap { $0 }
    guard !parts.isEmpty else { return Sounds(clips: rows.count, rows: [], pieces: nil) }
    return Sounds(
      clips: rows.count, rows: found.indices.filter { found[$0] != nil },
      pieces: try TimedFeatures(
        .cat(parts.map(\.features), 0), mask: .cat(parts.map(\.mask), 0), seconds: .cat(parts.map(\.seconds), 0)))
  }
}
