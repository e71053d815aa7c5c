import CMedia
import Foundation

/// Where a movie's bytes come from.
enum MovieSource: Sendable {
  case file(String)
  case memory(MovieBytes)
  /// A file that may still grow, believed to have ended after so many silent seconds; or a named pipe.
  case growing(String, patience: Double)
  case descriptor(Int32)
}

/// Bytes with a fixed address, shared by all who read them.
final class MovieBytes: Sendable {
  // Written once, in `init`.
  nonisolated(unsafe) let pointer: UnsafeMutablePointer<UInt8>
  let count: Int

  init(_ data: Data) {
    count = data.count
    pointer = .allocate(capacity: max(data.count, 1))
    data.copyBytes(to: pointer, count: data.count)
  }

  deinit { pointer.deallocate() }
}

/// An open file: FFmpeg's demultiplexer and a decoder. One thread at a time.
final class Movie {
  /// A frame's time and size, before its pixels are converted.
  struct Frame {
    /// In units of the track's time base.
    var presentation: Int64
    var width: Int
    var height: Int
    var isDamaged: Bool
  }

  let name: String
  let limits: MovieLimits
  private let source: MovieSource
  private var handle = cm_movie(ctx: nil)
  private var lostBefore = 0
  private(set) var info = cm_movie_info()

  init(_ source: MovieSource, name: String, limits: MovieLimits) throws {
    (self.source, self.name, self.limits) = (source, name, limits)
    try open()
  }

  deinit { cm_movie_close(handle) }

  private func open() throws {
    var settings = limits.forDecoder
    let status =
      switch source {
      case .file(let path): cm_movie_open_file(path, &settings, 0, &handle)
      case .growing(let path, let patience): cm_movie_open_file(path, &settings, patience, &handle)
      case .memory(let bytes): cm_movie_open_memory(bytes.pointer, bytes.count, &settings, &handle)
      case .descriptor(let number): cm_movie_open_descriptor(number, &settings, &handle)
      }
    try check(status, expected: "a video or sound (MP4, MOV, WebM, MKV, AVI, OGG, WAV, FLAC, MP3, …)")
    try check(cm_movie_describe(handle, &info), expected: "a video or sound")
  }

  /// Goes back to the beginning by opening the file again.
  func restart() throws {
    lostBefore = lost
    cm_movie_close(handle)
    handle.ctx = nil
    try open()
  }

  /// Packets that could not be decoded so far.
  var lost: Int { max(lostBefore, Int(cm_movie_lost(handle))) }

  /// For `Canceller`.
  var cancelHandle: cm_movie { handle }

  // MARK: Times

  /// Seconds from the file's start.
  func seconds(_ presentation: Int64) -> Double {
    Double(presentation) * Double(info.time_base_numerator) / Double(info.time_base_denominator) - info.start
  }

  /// The last tick that is not after `seconds`; times that miss a tick by rounding count as on it.
  func ticks(_ seconds: Double) -> Int64 {
    let ticks = (seconds + info.start) * Double(info.time_base_denominator) / Double(info.time_base_numerator)
    return Int64(exactly: (ticks + 1e-3).rounded(.down)) ?? (ticks < 0 ? .min : .max)
  }

  /// A duration in ticks.
  func length(_ seconds: Double) -> Int64 {
    let ticks = seconds * Double(info.time_base_denominator) / Double(info.time_base_numerator)
    return Int64(exactly: ticks.rounded(.up)) ?? .max
  }

  /// How far beyond the duration a frame may be shown, in seconds: MP4 and MKV state when frames are shown, elsewhere the
  /// duration follows from the times at which they are decoded, which are earlier.
  var overhang: Double {
    let container = String(cString: info.container)
    if container.hasPrefix("mov") || container.hasPrefix("matroska") { return 0.001 }
    return Double(info.reorder_delay + 2) * (seconds(frameLength) + info.start)
  }

  /// A frame's mean duration in ticks.
  var frameLength: Int64 {
    guard info.rate_numerator > 0, info.rate_denominator > 0 else { return max(1, length(0.04)) }
    let seconds = Double(info.rate_denominator) / Double(info.rate_numerator)
    return max(1, ticks(seconds - info.start))
  }

  // MARK: Frames

  /// The places of all frames, read without decoding; leaves the movie at its end.
  func scan() throws -> FrameIndex {
    var index = FrameIndex()
    var room = [cm_movie_packet](repeating: cm_movie_packet(), count: 1024)
    while true {
      try Task.checkCancellation()
      var count = 0
      let status = cm_movie_scan(handle, &room, room.count, &count)
      if status == CM_END { break }
      try check(status, expected: "a whole video")
      index.append(room.prefix(count))
      guard index.times.count <= limits.maxFrames else {
        throw MediaError.outOfRange(name, expected: "at most \(limits.maxFrames) frames", found: "more")
      }
    }
    index.finish(delay: Int(info.reorder_delay), frameLength: frameLength)
    return index
  }

  /// Whether the index was read as a whole with the headers: then no place ``keyBefore(_:)`` could give is missing.
  var knowsAllKeys: Bool {
    let container = String(cString: info.container)
    return container.hasPrefix("mov") || container == "avi"
  }

  func keyBefore(_ decoding: Int64) -> Int64? {
    let place = cm_movie_key_before(handle, decoding)
    return place == .min ? nil : place
  }

  /// Whether the container could go there.
  func seek(_ decoding: Int64) throws -> Bool {
    let status = cm_movie_seek(handle, decoding)
    if status == CM_BAD_DATA { return false }
    try check(status, expected: "a whole video")
    return true
  }

  /// The next frame in order of presentation, nil after the last. Frames before `wanted` may be left out.
  func next(wanted: Int64 = .min) throws -> Frame? {
    var frame = cm_movie_frame()
    let status = cm_movie_next(handle, wanted, &frame)
    if status == CM_END { return nil }
    if status == CM_TOO_LARGE { throw tooLarge(width: frame.width, height: frame.height) }
    try check(status, expected: "a whole video")
    return Frame(
      presentation: frame.presentation, width: Int(frame.width), height: Int(frame.height),
      isDamaged: frame.is_damaged != 0)
  }

  /// The pixels of the frame that ``next(wanted:)`` gave last, or of the one before it.
  func picture(width: Int, height: Int, earlier: Bool) throws -> Image {
    let count = width * height * 3
    var status = CM_OK
    let pixels = [UInt8](unsafeUninitializedCapacity: count) { buffer, written in
      status = cm_movie_copy(handle, earlier ? 1 : 0, Int64(width), Int64(height), buffer.baseAddress, count)
      written = status == CM_OK ? count : 0
    }
    try check(status, expected: "frames that can be converted to RGB")
    return try Image(width: width, height: height, pixels: pixels)
  }

  // MARK: Sound

  /// 16 kHz mono from `from` to `to` seconds, and the time of the first sample.
  func sound(from: Double, to: Double) throws -> (samples: [Float], start: Double) {
    var samples: UnsafeMutablePointer<Float>?
    var count = 0
    var start = 0.0
    let limit = Int64(max(0, min(limits.maxSoundSeconds, 1e9)) * 16_000)
    let status = cm_movie_sound(handle, from, to, limit, &samples, &count, &start)
    defer { cm_samples_free(samples) }
    if status == CM_TOO_LARGE {
      throw MediaError.outOfRange(
        name, expected: "at most \(limits.maxSoundSeconds) seconds of sound at a time", found: "more")
    }
    try check(status, expected: "sound that can be decoded")
    return (Array(UnsafeBufferPointer(start: samples, count: count)), start)
  }

  // MARK: Errors

  private func tooLarge(width: Int32, height: Int32) -> MediaError {
    .tooLarge(name, width: Int(width), height: Int(height), limit: limits.maxPixels)
  }

  private func check(_ status: cm_status, expected: @autoclosure () -> String) throws {
    let words = lastMessage()
    switch status {
    case CM_OK: return
    case CM_NO_SUCH_FILE: throw MediaError.noSuchFile(name)
    case CM_IS_DIRECTORY, CM_NOT_REGULAR: throw MediaError.notAFile(name, found: words)
    case CM_UNREADABLE: throw MediaError.unreadable(name, reason: words)
    case CM_NO_MEMORY: throw MediaError.outOfMemory(name, reason: words)
    case CM_TIMED_OUT: throw MediaError.timedOut(name, reason: words)
    case CM_CANCELLED: throw MediaError.cancelled(name)
    case CM_NO_TRACK: throw MediaError.noTrack(name, expected: tracks(words), found: found)
    case CM_TOO_LARGE:
      let sides = words.split(separator: " ").compactMap { Int32($0) }
      throw tooLarge(width: sides.first ?? 0, height: sides.last ?? 0)
    default: throw MediaError.unsupportedOrCorrupt(name, expected: expected(), found: "an unreadable one (\(words))")
    }
  }

  private func tracks(_ words: String) -> String { words.contains("sound") ? "a sound track" : "a video track" }

  private var found: String {
    switch (info.video_tracks, info.audio_tracks) {
    case (0, 0): "neither video nor sound"
    case (0, _): "sound alone"
    default: "video without sound"
    }
  }
}
