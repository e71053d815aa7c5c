import CMedia
public import Foundation

/// Sound as the models here take it: 16,000 samples a second, one channel.
///
/// Reads WAV, FLAC, MP3, OGG, M4A and the sound track of a video. Several channels are averaged; other rates are
/// converted by FFmpeg's resampler (windowed sinc, 32 taps at the lower rate, cutoff 0.97), so that the samples are those of
/// `ffmpeg -af aresample=16000:rematrix_maxval=1 -ac 1` in float. Of several tracks FFmpeg's choice is read.
public struct AudioClip: Sendable, Equatable {
  /// Samples a second.
  public static let sampleRate = 16_000

  /// From -1 to 1 (a lossy codec may go slightly beyond).
  public let samples: [Float]
  /// The time of the first sample, in seconds from the file's start. A track may begin later than its file.
  public let start: Double
  /// Compressed pieces that could not be read or decoded. The sound after them moves up.
  public let lostPackets: Int

  /// Seconds of sound.
  public var duration: Double { Double(samples.count) / Double(AudioClip.sampleRate) }

  /// Decodes the sound of a file.
  ///
  /// - Parameters:
  ///   - file: a sound or a video.
  ///   - from: Seconds from the file's start.
  ///   - to: Where it ends, in seconds; nil is the end of the track.
  ///   - limits: ``MovieLimits/maxSoundSeconds`` above all.
  /// - Throws: ``MediaError``: the path leads nowhere, no sound in the file, damaged, longer than the limit; a range
  ///   that begins after the end.
  public init(
    contentsOf file: URL, from: Double = 0, to: Double? = nil, limits: MovieLimits = .default
  ) throws {
    let name = file.isFileURL ? file.path(percentEncoded: false) : file.absoluteString
    guard file.isFileURL else { throw MediaError.notAFile(name, found: "an address that is no file") }
    try self.init(.file(name), start: firstBytes(of: name), name: name, from: from, to: to, limits: limits)
  }

  /// Decodes the sound of a file in memory.
  ///
  /// - Parameters:
  ///   - data: a whole file.
  ///   - name: what errors call it.
  ///   - from: Seconds from the file's start.
  ///   - to: Where it ends, in seconds; nil is the end of the track.
  ///   - limits: as for files.
  /// - Throws: ``MediaError`` as for files.
  public init(
    data: Data, name: String, from: Double = 0, to: Double? = nil, limits: MovieLimits = .default
  ) throws {
    guard data.count <= limits.maxFileBytes else {
      throw MediaError.fileTooLarge(name, bytes: data.count, limit: limits.maxFileBytes)
    }
    guard !data.isEmpty else { throw MediaError.empty(name) }
    let source = MovieSource.memory(MovieBytes(data))
    try self.init(source, start: data.prefix(64), name: name, from: from, to: to, limits: limits)
  }

  private init(
    _ source: MovieSource, start: Data, name: String, from: Double, to: Double?, limits: MovieLimits
  ) throws {
    guard from >= 0, from <= 1e9, to.map({ $0 > from && $0 <= 1e9 }) ?? true else {
      throw MediaError.outOfRange(
        name, expected: "a range of seconds from 0 on", found: "\(from) to \(to.map { "\($0)" } ?? "the end")")
    }
    let movie = try openMovie(source, start: start, name: name, limits: limits)
    (samples, self.start) = try movie.sound(from: from, to: to ?? .infinity)
    lostPackets = movie.lost
    guard !samples.isEmpty else {
      let end = movie.info.duration < 0 ? "its end" : "its end at \(movie.info.duration)"
      throw MediaError.outOfRange(name, expected: "a range that begins before \(end)", found: "\(from) seconds")
    }
  }

  /// Sound from samples at hand.
  ///
  /// - Parameters:
  ///   - samples: 16,000 a second.
  ///   - start: the time of the first one, in seconds.
  public init(samples: [Float], start: Double = 0) {
    (self.samples, self.start, lostPackets) = (samples, start, 0)
  }
}
