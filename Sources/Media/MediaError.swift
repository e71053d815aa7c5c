public import Foundation

/// What can go wrong between a file and pixels, frames or samples. Every case names the file, and where it applies what
/// was expected and what was found.
public enum MediaError: Error, Equatable, Sendable {
  /// Nothing lies at the path.
  case noSuchFile(_ file: String)
  /// A folder, a pipe, a device or a socket lies at the path; `found` says which.
  case notAFile(_ file: String, found: String)
  /// The file has no bytes.
  case empty(_ file: String)
  /// The system refused to open or read the file; `reason` is its answer.
  case unreadable(_ file: String, reason: String)
  /// The file is larger than its limit (``ImageLimits/maxFileBytes``, ``MovieLimits/maxFileBytes``). Both in bytes.
  case fileTooLarge(_ file: String, bytes: Int, limit: Int)
  /// The bytes are no picture, video or sound of a known format, or a damaged or cut off one.
  case unsupportedOrCorrupt(_ file: String, expected: String, found: String)
  /// The header promises more pixels than the limit (``ImageLimits/maxPixels``, ``MovieLimits/maxPixels``). Sides in
  /// pixels, limit in pixels.
  case tooLarge(_ file: String, width: Int, height: Int, limit: Int)
  /// Sides and pixel bytes do not belong together, or a size that was asked for is out of range.
  case invalidSize(expected: String, found: String)
  /// The picture could not be written.
  case cannotWrite(_ file: String, reason: String)
  /// The system had no memory for the work.
  case outOfMemory(_ file: String, reason: String)
  /// There is no video, or no sound, in the file.
  case noTrack(_ file: String, expected: String, found: String)
  /// Times, a number of frames or of samples that the file, or a limit, does not allow.
  case outOfRange(_ file: String, expected: String, found: String)
  /// A stream brought nothing for too long, or one step of work took longer than ``MovieLimits/maxSeconds``.
  case timedOut(_ file: String, reason: String)
  /// ``VideoStreamCancellation/cancel()`` was called.
  case cancelled(_ file: String)
}

extension MediaError: CustomStringConvertible {
  /// One line, fit for a terminal.
  public var description: String {
    switch self {
    case .noSuchFile(let file): "\(file): no such file"
    case .notAFile(let file, let found): "\(file): expected a regular file, found \(found)"
    case .empty(let file): "\(file): expected a picture, video or sound, found an empty file"
    case .unreadable(let file, let reason): "\(file): cannot be read: \(reason)"
    case .fileTooLarge(let file, let bytes, let limit):
      "\(file): expected at most \(limit) bytes, found \(bytes)"
    case .unsupportedOrCorrupt(let file, let expected, let found), .noTrack(let file, let expected, let found),
      .outOfRange(let file, let expected, let found):
      "\(file): expected \(expected), found \(found)"
    case .tooLarge(let file, let width, let height, let limit):
      "\(file): expected at most \(limit) pixels, found \(width) x \(height)"
    case .invalidSize(let expected, let found): "picture size: expected \(expected), found \(found)"
    case .cannotWrite(let file, let reason): "\(file): cannot be written: \(reason)"
    case .outOfMemory(let file, let reason), .timedOut(let file, let reason): "\(file): \(reason)"
    case .cancelled(let file): "\(file): cancelled"
    }
  }
}

extension MediaError: LocalizedError {
  /// The same line as ``description``.
  public var errorDescription: String? { description }
}
