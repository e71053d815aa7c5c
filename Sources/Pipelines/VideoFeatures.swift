public import Media
public import QFormer
public import Torch

/// What an encoder says of the frames of one clip. A picture is a clip of one frame.
public struct VideoFeatures: Sendable {
  /// Encoder features `[T, N, Dv]`.
  public let features: Tensor
  /// When each of the T frames is shown, in seconds from the file's start.
  public let seconds: [Double]
  /// Compressed frames that were missing, incomplete or could not be decoded.
  public let lostPackets: Int
  /// What the audio encoder says of the clip's sound, `[1, S, Da]`; nil for a clip without a sound track, and where nobody
  /// listens.
  public var sound: TimedFeatures?

  /// Features that are there already.
  ///
  /// - Parameters:
  ///   - features: `[T, N, Dv]`.
  ///   - seconds: T times.
  ///   - lostPackets: Compressed frames that were lost.
  ///   - sound: `[1, S, Da]`, from ``AudioBranch/features(of:)``.
  /// - Throws: ``PipelineError/badInput(_:)`` for a clip without frames and for another number of times.
  public init(_ features: Tensor, seconds: [Double], lostPackets: Int = 0, sound: TimedFeatures? = nil) throws {
    guard features.rank == 3, features.size(0) > 0, features.size(0) == seconds.count else {
      throw PipelineError.badInput(
        "features of a clip: expected [T, N, Dv] of at least one frame and T times, found \(features.shape) and "
          + "\(seconds.count) times")
    }
    (self.features, self.seconds, self.lostPackets) = (features, seconds, lostPackets)
    self.sound = sound
  }

  /// T.
  public var frames: Int { seconds.count }

  /// The most frames of a clip that are encoded for one reading; longer videos are for streams.
  public static let maximumFrames = 2048

  /// Clips as one batch `[B, T, N, Dv]` with a frame mask and seconds, shorter ones padded with zeros.
  ///
  /// - Parameters:
  ///   - clips: At least one; all of the same N and Dv.
  ///   - transform: What becomes of the features of each, `[T, N, Dv]`, before they are padded.
  ///   - areEmbeds: As in `TimedFeatures`.
  /// - Throws: `QFormerError`, `TorchError`.
  public static func batch(
    _ clips: [VideoFeatures], areEmbeds: Bool = false, _ transform: (Tensor) throws -> Tensor = { $0 }
  ) throws -> TimedFeatures {
    let longest = clips.map(\.frames).max() ?? 0
    return try withError {
      let rows = try clips.map { clip in
        let features = try transform(clip.features)
        let padding = longest - clip.frames
        return padding == 0 ? features : .cat([features, .zeros([padding] + features.shape.dropFirst())], 0)
      }
      func padded(_ values: (VideoFeatures) -> [Double]) -> Tensor {
        Tensor(
          clips.flatMap { values($0) + Array(repeating: 0, count: longest - $0.frames) }, [clips.count, longest])
      }
      let isEven = clips.allSatisfy { $0.frames == longest }
      return try TimedFeatures(
        .stack(rows), mask: isEven ? nil : padded { $0.seconds.map { _ in 1 } }.to(.int64), seconds: padded(\.seconds),
        areEmbeds: areEmbeds)
    }
  }
}

extension ImageEncoder {
  /// Frames go through the encoder in groups of so many.
  private static let frameGroup = 16

  /// Features of the frames of a video, or of a picture as a clip of one frame.
  ///
  /// Frames are decoded one after the other and encoded in groups: beside the features, memory does not grow with the
  /// number of frames.
  ///
  /// - Parameters:
  ///   - file: A picture or a video.
  ///   - choice: Which frames of a video. Times must ascend.
  ///   - name: What errors call the file.
  ///   - limit: The most frames that are taken.
  ///   - onFrame: Gets each frame as it is decoded, before it is made smaller.
  /// - Throws: `MediaError`; ``PipelineError/badInput(_:)`` for more frames than the limit, or none; `TorchError`; what
  ///   `onFrame` throws.
  public func features(
    of file: VisualFile, frames choice: FrameChoice, name: String, limit: Int = VideoFeatures.maximumFrames,
    onFrame: (Image) throws -> Void = { _ in }
  ) throws -> VideoFeatures {
    var (parts, group, seconds): ([Tensor], [Image], [Double]) = ([], [], [])
    func encodeGroup() throws {
      guard !group.isEmpty else { return }
      parts.append(try features(group))
      group = []
    }
    var lost = 0
    switch file {
    case .picture(let image):
      try onFrame(image)
      (group, seconds) = ([image], [0])
    case .video(let video):
      lost = try video.forEachFrame(choice) { frame in
        guard seconds.count < limit else {
          throw PipelineError.badInput("\(name): expected at most \(limit) frames of a clip, found more")
        }
        try onFrame(frame.image)
        group.append(try fitted(frame.image))
        seconds.append(frame.seconds)
        if group.count == Self.frameGroup { try encodeGroup() }
      }
    }
    try encodeGroup()
    guard !parts.isEmpty else { throw PipelineError.badInput("\(name): expected at least one frame, found none") }
    return try VideoFeatures(withError { .cat(parts, 0) }, seconds: seconds, lostPackets: lost)
  }
}
