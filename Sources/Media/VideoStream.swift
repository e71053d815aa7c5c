import CMedia
public import Foundation
import Synchronization

/// A video that is read once and in order, while it may still be coming: a pipe, a descriptor, or a file that grows.
///
/// Memory does not depend on the length. One task reads; ``cancellation`` ends it from any other.
///
/// ```swift
/// let stream = try VideoStream(descriptor: 0, name: "standard input", every: 0.5)
/// while let frame = try stream.next() { … }
/// ```
///
/// Containers that can be read in order: MKV, WebM, MPEG transport streams, fragmented MP4, AVI, OGG, FLV, NUT; an MP4
/// whose index comes last cannot.
public final class VideoStream {
  private let movie: Movie
  private let size: FrameSize
  private let interval: Double?
  private var due = -Double.infinity
  private let canceller: Canceller
  private var hasFrames = false

  /// Reads a descriptor from where it stands; it stays the caller's, who closes it after this object is gone.
  ///
  /// - Parameters:
  ///   - descriptor: of a pipe, a socket or a file.
  ///   - name: what errors call it.
  ///   - every: The least distance of frames in seconds; nil gives all. A frame is given when it is the first at or
  ///     after the next multiple of the distance, counted from the first frame.
  ///   - size: of the frames.
  ///   - limits: ``MovieLimits/maxSeconds`` is how long the other end may stay silent.
  /// - Throws: ``MediaError``: no video begins there, nothing came in time.
  public convenience init(
    descriptor: Int32, name: String, every: Double? = nil, size: FrameSize = .full, limits: MovieLimits = .default
  ) throws {
    try self.init(.descriptor(descriptor), name: name, every: every, size: size, limits: limits)
  }

  /// Follows a file that may still grow, or reads a named pipe.
  ///
  /// - Parameters:
  ///   - file: a regular file, or a named pipe.
  ///   - patience: A file that has not grown for so many seconds has ended.
  ///   - every: The least distance of frames in seconds; nil gives all.
  ///   - size: of the frames.
  ///   - limits: as for descriptors.
  /// - Throws: ``MediaError``.
  public convenience init(
    following file: URL, patience: Double = 5, every: Double? = nil, size: FrameSize = .full,
    limits: MovieLimits = .default
  ) throws {
    let name = file.isFileURL ? file.path(percentEncoded: false) : file.absoluteString
    guard file.isFileURL else { throw MediaError.notAFile(name, found: "an address that is no file") }
    guard patience > 0, patience <= 86_400 else {
      throw MediaError.outOfRange(name, expected: "a patience above 0 and at most a day", found: "\(patience) seconds")
    }
    try self.init(.growing(name, patience: patience), name: name, every: every, size: size, limits: limits)
  }

  private init(_ source: MovieSource, name: String, every: Double?, size: FrameSize, limits: MovieLimits) throws {
    if let objection = size.objection {
      throw MediaError.outOfRange(name, expected: objection.expected, found: objection.found)
    }
    if let every, !(every > 0 && every < 1e9) {
      throw MediaError.outOfRange(name, expected: "a distance above 0 seconds", found: "\(every)")
    }
    movie = try Movie(source, name: name, limits: limits)
    guard movie.info.video_tracks > 0 else {
      throw MediaError.noTrack(name, expected: "a video track", found: "none")
    }
    (self.size, interval) = (size, every)
    canceller = Canceller(movie.cancelHandle)
  }

  deinit { canceller.forget() }

  /// Compressed frames that could not be decoded so far.
  public var lostPackets: Int { movie.lost }

  /// The next frame, waited for when it is not there yet; nil after the last.
  ///
  /// - Throws: ``MediaError``: the stream stays silent for too long (``MediaError/timedOut(_:reason:)``), was cancelled,
  ///   or is no longer a video.
  public func next() throws -> VideoFrame? {
    while let frame = try movie.next() {
      hasFrames = true
      let seconds = movie.seconds(frame.presentation)
      if let interval {
        guard seconds >= due - 1e-6 else { continue }
        if due == -.infinity { due = seconds }
        // The next multiple of the distance that is not over yet.
        due += interval * max(1, ((seconds - due) / interval + 1e-6).rounded(.down) + 1)
      }
      let (width, height) = size.size(width: frame.width, height: frame.height)
      let image = try movie.picture(width: width, height: height, earlier: false)
      return VideoFrame(image: image, seconds: seconds, isDamaged: frame.isDamaged)
    }
    guard hasFrames else {
      throw MediaError.unsupportedOrCorrupt(
        movie.name, expected: "at least one frame",
        found: "none that can be decoded in order (an MP4 whose index comes last must be read as a file)")
    }
    return nil
  }

  /// A switch that ends a waiting ``next()`` with ``MediaError/cancelled(_:)`` from another task.
  public var cancellation: VideoStreamCancellation { VideoStreamCancellation(canceller: canceller) }
}

/// Ends a ``VideoStream`` from any task, once it is taken from ``VideoStream/cancellation``.
public struct VideoStreamCancellation: Sendable {
  let canceller: Canceller

  /// A waiting ``VideoStream/next()`` and all later ones throw ``MediaError/cancelled(_:)``.
  public func cancel() { canceller.cancel() }
}

/// The movie's handle for other threads, as long as the movie lives.
final class Canceller: Sendable {
  // `cm_movie_cancel` may be called from any thread until the movie is closed, which `forget` comes before.
  private struct Handle: @unchecked Sendable { var movie: cm_movie? }
  private let handle: Mutex<Handle>

  init(_ movie: cm_movie) { handle = Mutex(Handle(movie: movie)) }

  func cancel() {
    handle.withLock { if let movie = $0.movie { cm_movie_cancel(movie) } }
  }

  func forget() { handle.withLock { $0.movie = nil } }
}
