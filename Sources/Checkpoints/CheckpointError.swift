public import Foundation

/// What can be wrong with a file of weights. Every case names the file.
public enum CheckpointError: Error, Sendable, Equatable, CustomStringConvertible, LocalizedError {
  /// There is no such file or folder, or no weights in it.
  case notFound(file: String, expected: String)
  /// The file exists but cannot be read.
  case unreadable(file: String, reason: String)
  /// The bytes are not what the format says.
  case malformed(file: String, expected: String, found: String)
  /// A tensor that was asked for is not there.
  case noSuchTensor(file: String, name: String)
  /// The weights do not fit the model; the report names every key.
  case mismatch(LoadReport)
  /// The file cannot be written.
  case cannotWrite(file: String, reason: String)

  /// One line, except for a mismatch, which is one line a key.
  public var description: String {
    switch self {
    case .notFound(let file, let expected): "\(file): not found; expected \(expected)"
    case .unreadable(let file, let reason): "\(file): cannot be read: \(reason)"
    case .malformed(let file, let expected, let found): "\(file): expected \(expected), found \(found)"
    case .noSuchTensor(let file, let name): "\(file): has no tensor named \(name)"
    case .mismatch(let report): report.summary
    case .cannotWrite(let file, let reason): "\(file): cannot be written: \(reason)"
    }
  }

  /// The same words as ``description``.
  public var errorDescription: String? { description }
}
