public import Foundation

/// A picture or a video, told apart by the first bytes whatever the file is called.
///
/// GIF and WebP may hold either and are videos here, of one frame or more.
public enum VisualFile: Sendable {
  /// A picture, decoded.
  case picture(Image)
  /// A video, its headers read.
  case video(VideoFile)

  /// Whether a file begins like a picture or an animation, and not like a video that may still be running. False for
  /// what cannot be read, or not without taking it away from others: a named pipe.
  public static func isPictureOrAnimation(_ file: URL) -> Bool {
    guard file.isFileURL, let start = try? firstBytes(of: file.path(percentEncoded: false)) else { return false }
    return start.withUnsafeBytes { StillFormat(firstBytes: $0) } != nil
  }

  /// Decodes a picture, or opens a video.
  ///
  /// - Throws: ``MediaError``: the path leads nowhere or to no regular file, the file is empty, neither picture nor
  ///   video, damaged, or beyond the limits.
  public init(contentsOf file: URL, imageLimits: ImageLimits = .default, movieLimits: MovieLimits = .default) throws {
    let name = file.isFileURL ? file.path(percentEncoded: false) : file.absoluteString
    guard file.isFileURL else { throw MediaError.notAFile(name, found: "an address that is no file") }
    switch try firstBytes(of: name).withUnsafeBytes({ StillFormat(firstBytes: $0) }) {
    case nil, .gif, .webp: self = .video(try VideoFile(contentsOf: file, limits: movieLimits))
    default: self = .picture(try Image(contentsOf: file, limits: imageLimits))
    }
  }
}
