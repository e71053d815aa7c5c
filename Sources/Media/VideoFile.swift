import CMedia
public import Foundation

/// A frame of a video.
public struct VideoFrame: Sendable, Equatable {
  /// The picture, upright.
  public let image: Image
  /// When it appears, in seconds from the file's start.
  public let seconds: Double
  /// Parts of the frame were lost and made up by the decoder.
  public let isDamaged: Bool
}

/// Frames of a video, and what was lost on the way to them.
public struct VideoClip: Sendable, Equatable {
  /// In the order of the choice; ascending in time except for ``FrameChoice/seconds(_:)``.
  public let frames: [VideoFrame]
  /// Compressed frames that were missing, incomplete or could not be decoded, among those that were looked at. Frames
  /// before and after them are as they should be.
  public let lostPackets: Int
}

/// A video that can be read anywhere: MP4, MOV, WebM, MKV, AVI, MPEG, OGG and others through FFmpeg, animated GIF and
/// WebP through libvips.
///
/// What comes out does not depend on how the file keeps its frames: rotation metadata is applied, limited range and the
/// colour matrix are undone as the file states them (BT.601 where it states nothing, as ffmpeg does), chroma is
/// interpolated. Pixels are not stretched for a sample aspect ratio. Of several video tracks the one marked default is
/// read, else the largest.
///
/// Times are seconds from the file's start, that is from where its earliest track begins. A value holds no open file:
/// every call opens it anew, so that copies may be used by several tasks at once. FFmpeg itself opens nothing: play
/// lists and files that name other files are refused.
public struct VideoFile: Sendable {
  enum Content {
    case movie(MovieSource)
    case animation(MovieBytes, StillFormat)
  }

  let name: String
  let limits: MovieLimits
  let content: Content

  /// FFmpeg's short name of the container, such as `mov,mp4,m4a,3gp,3g2,mj2`; `gif` or `webp` for animations.
  public let container: String
  /// FFmpeg's short name of the codec, such as `h264`.
  public let codec: String
  /// Pixels in a row, upright.
  public let width: Int
  /// Rows, upright.
  public let height: Int
  /// By how many degrees the stored frames are turned clockwise: 0, 90, 180 or 270.
  public let rotation: Int
  /// Seconds from the beginning to the end of the file as its headers say; nil when they do not.
  public let duration: Double?
  /// Mean frames a second; nil when unknown.
  public let frameRate: Double?
  /// Video tracks, cover pictures not counted.
  public let videoTracks: Int
  /// Sound tracks.
  public let soundTracks: Int

  /// Whether there is a sound track.
  public var hasSound: Bool { soundTracks > 0 }

  /// Opens a file and reads its headers.
  ///
  /// - Throws: ``MediaError``: the path leads nowhere or to no regular file, the file is empty, no video, damaged, or
  ///   beyond `limits`.
  public init(contentsOf file: URL, limits: MovieLimits = .default) throws {
    let name = file.isFileURL ? file.path(percentEncoded: false) : file.absoluteString
    guard file.isFileURL else { throw MediaError.notAFile(name, found: "an address that is no file") }
    let start = try firstBytes(of: name)
    if let format = VideoFile.animationFormat(start) {
      let data = try readWhole(name, limit: limits.maxFileBytes)
      try self.init(animation: MovieBytes(data), format: format, name: name, limits: limits)
    } else {
      try self.init(movie: .file(name), start: start, name: name, limits: limits)
    }
  }

  /// Opens bytes in memory, which are copied.
  ///
  /// - Parameters:
  ///   - data: a whole file.
  ///   - name: what errors call it.
  ///   - limits: The largest and longest that is read.
  /// - Throws: ``MediaError`` as for files.
  public init(data: Data, name: String, limits: MovieLimits = .default) throws {
    guard data.count <= limits.maxFileBytes else {
      throw MediaError.fileTooLarge(name, bytes: data.count, limit: limits.maxFileBytes)
    }
    guard !data.isEmpty else { throw MediaError.empty(name) }
    let start = data.prefix(64)
    if let format = VideoFile.animationFormat(start) {
      try self.init(animation: MovieBytes(data), format: format, name: name, limits: limits)
    } else {
      try self.init(movie: .memory(MovieBytes(data)), start: start, name: name, limits: limits)
    }
  }

  private init(movie source: MovieSource, start: Data, name: String, limits: MovieLimits) throws {
    let movie = try openMovie(source, start: start, name: name, limits: limits)
    let info = movie.info
    guard info.video_tracks > 0 else {
      throw MediaError.noTrack(
        name, expected: "a video track", found: info.audio_tracks > 0 ? "sound alone" : "neither video nor sound")
    }
    guard info.orientation != 0 else {
      throw MediaError.unsupportedOrCorrupt(
        name, expected: "frames turned by a multiple of 90 degrees", found: "another angle")
    }
    (self.name, self.limits, content) = (name, limits, .movie(source))
    container = String(cString: info.container)
    codec = String(cString: info.video_codec)
    let turned = info.orientation >= 5
    width = Int(turned ? info.height : info.width)
    height = Int(turned ? info.width : info.height)
    rotation = [1: 0, 2: 0, 3: 180, 4: 180, 5: 90, 6: 90, 7: 270, 8: 270][info.orientation] ?? 0
    duration = info.duration < 0 ? nil : info.duration
    frameRate =
      info.rate_numerator > 0 && info.rate_denominator > 0
      ? Double(info.rate_numerator) / Double(info.rate_denominator) : nil
    videoTracks = Int(info.video_tracks)
    soundTracks = Int(info.audio_tracks)
  }

  private init(animation bytes: MovieBytes, format: StillFormat, name: String, limits: MovieLimits) throws {
    let animation = try Animation(bytes, format: format, name: name, limits: limits)
    (self.name, self.limits, content) = (name, limits, .animation(bytes, format))
    container = format.rawValue.lowercased()
    codec = container
    (width, height, rotation) = (animation.width, animation.height, 0)
    duration = animation.duration
    frameRate = Double(animation.times.count) / animation.duration
    (videoTracks, soundTracks) = (1, 0)
  }

  private static func animationFormat(_ start: Data) -> StillFormat? {
    start.withUnsafeBytes { StillFormat(firstBytes: $0) }.flatMap { $0 == .gif || $0 == .webp ? $0 : nil }
  }

  // MARK: Frames

  /// The times of all frames in seconds, ascending. The whole file is read, but nothing is decoded.
  ///
  /// - Throws: ``MediaError``; `CancellationError` in a task that was cancelled.
  public func frameTimes() throws -> [Double] {
    switch content {
    case .animation(let bytes, let format):
      return try Animation(bytes, format: format, name: name, limits: limits).times
    case .movie(let source):
      let movie = try Movie(source, name: name, limits: limits)
      return try movie.scan().times.map(movie.seconds)
    }
  }

  /// Decodes frames.
  ///
  /// - Parameters:
  ///   - choice: Which. Choices that count frames list all times first (the whole file is read, not decoded); choices
  ///     by time read only around those times where the container has an index.
  ///   - size: Their size. Asking for no more than is needed saves memory: a frame takes `3 * width * height` bytes.
  /// - Returns: The frames with their exact times; what was lost.
  /// - Throws: ``MediaError``: numbers out of range, a time beyond the end, no frame that can be decoded;
  ///   `CancellationError` in a task that was cancelled.
  public func frames(_ choice: FrameChoice, size: FrameSize = .full) throws -> VideoClip {
    var frames: [VideoFrame] = []
    guard case .seconds(let times) = choice else {
      let lost = try forEachFrame(choice, size: size) { frames.append($0) }
      return VideoClip(frames: frames, lostPackets: lost)
    }
    // Times in any order, some perhaps twice: each is decoded once, in order.
    if let objection = choice.objection {
      throw MediaError.outOfRange(name, expected: objection.expected, found: objection.found)
    }
    let sorted = Set(times).sorted()
    let lost = try forEachFrame(.seconds(sorted), size: size) { frames.append($0) }
    let place = Dictionary(uniqueKeysWithValues: zip(sorted, frames))
    return VideoClip(frames: times.compactMap { place[$0] }, lostPackets: lost)
  }

  /// Decodes frames and hands over one after the other, so that only one of them is in memory.
  ///
  /// - Parameters:
  ///   - choice: Which. Times of ``FrameChoice/seconds(_:)`` must ascend here.
  ///   - size: Their size.
  ///   - body: Called for each frame, in order of time.
  /// - Returns: Compressed frames that were missing, incomplete or could not be decoded.
  /// - Throws: as ``frames(_:size:)``, and what `body` throws.
  @discardableResult
  public func forEachFrame(
    _ choice: FrameChoice, size: FrameSize = .full, _ body: (VideoFrame) throws -> Void
  ) throws -> Int {
    if let objection = choice.objection ?? size.objection {
      throw MediaError.outOfRange(name, expected: objection.expected, found: objection.found)
    }
    if case .seconds(let times) = choice, zip(times, times.dropFirst()).contains(where: { $0 > $1 }) {
      throw MediaError.outOfRange(name, expected: "ascending times", found: "others")
    }
    switch content {
    case .animation(let bytes, let format):
      let animation = try Animation(bytes, format: format, name: name, limits: limits)
      try animation.forEachFrame(choice, size: size, body)
      return 0
    case .movie(let source):
      let movie = try Movie(source, name: name, limits: limits)
      return try VideoFile.read(movie, choice, size: size, duration: duration, body)
    }
  }

  private static func read(
    _ movie: Movie, _ choice: FrameChoice, size: FrameSize, duration: Double?, _ body: (VideoFrame) throws -> Void
  ) throws -> Int {
    var targets: any Sequence<Int64> = []
    var index: FrameIndex?
    switch choice {
    case .uniform, .uniformMiddle, .headTail:
      let found = try movie.scan()
      guard !found.times.isEmpty, let places = choice.places(of: found.times.count) else {
        throw MediaError.unsupportedOrCorrupt(
          movie.name, expected: "at least one frame", found: "a video track without any")
      }
      index = found
      targets = places.map { found.times[$0] }
    case .seconds(let times):
      if let duration, let late = times.last, late > duration + movie.overhang {
        throw MediaError.outOfRange(
          movie.name, expected: "times up to the end at \(duration) seconds", found: "\(late)")
      }
      targets = times.map(movie.ticks)
    case .rate(let rate):
      targets = (0...).lazy.map { movie.ticks(Double($0) / rate) }
    }

    var reader = FrameReader(movie, index: index)
    var given: (presentation: Int64, frame: VideoFrame)?
    for target in targets {
      try Task.checkCancellation()
      guard let (frame, isEarlier) = try reader.frame(at: target) else {
        throw MediaError.unsupportedOrCorrupt(
          movie.name, expected: "at least one frame", found: "none that can be decoded")
      }
      let isAgain = given?.presentation == frame.presentation
      if case .rate = choice {
        // The last frame is shown until the end of the file, or for a frame's time where that is longer.
        let isOver =
          isAgain || target >= frame.presentation + movie.frameLength && movie.seconds(target) >= duration ?? 0
        if reader.isAtEnd && isOver { break }
        if isAgain { continue }
      }
      if !isAgain {
        let (width, height) = size.size(width: frame.width, height: frame.height)
        let image = try movie.picture(width: width, height: height, earlier: isEarlier)
        let seconds = movie.seconds(frame.presentation)
        given = (frame.presentation, VideoFrame(image: image, seconds: seconds, isDamaged: frame.isDamaged))
      }
      if let given { try body(given.frame) }
    }
    return movie.lost
  }
}
