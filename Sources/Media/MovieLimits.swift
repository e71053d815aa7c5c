import CMedia

/// How large, how long and how slow a video or a sound may be. Files come from strangers: a header of a few bytes may
/// promise anything.
public struct MovieLimits: Sendable, Equatable {
  /// The most pixels (width times height) of one frame, checked before a decoder is opened and again by the decoder.
  public var maxPixels = 100_000_000
  /// The most bytes of one compressed frame or piece of sound; larger ones count as lost.
  public var maxPacketBytes = 256 << 20
  /// The most tracks.
  public var maxTracks = 64
  /// The most frames a file may have. Choosing some of all frames lists their times first, with 8 bytes for each.
  public var maxFrames = 16_000_000
  /// The most bytes of a file that is read into memory: animated GIF and WebP, which ``maxPages`` limits too.
  public var maxFileBytes = 512 << 20
  /// The most frames of an animated GIF or WebP.
  public var maxPages = 20_000
  /// The longest sound that is decoded at once, in seconds; four hours take 920 MB.
  public var maxSoundSeconds = 4.0 * 3600
  /// Seconds that one step (opening, one frame, one piece of sound) may take, and that a stream may stay silent.
  public var maxSeconds = 30.0
  /// Threads of the video decoder.
  public var threads = 2

  /// The values written beside each property.
  public init() {}

  /// The values written beside each property.
  public static let `default` = MovieLimits()

  var forDecoder: cm_movie_limits {
    cm_movie_limits(
      max_pixels: Int64(max(maxPixels, 0)), max_packet: Int64(max(maxPacketBytes, 0)),
      max_streams: Int32(clamping: max(maxTracks, 1)), threads: Int32(clamping: max(1, min(threads, 64))),
      seconds: max(maxSeconds, 0))
  }
}
