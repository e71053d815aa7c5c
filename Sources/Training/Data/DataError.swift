/// Why a data set could not be read.
public enum DataError: Error, Equatable, Sendable, CustomStringConvertible {
  /// A file or folder is missing, or not of the expected kind.
  case missing(path: String, expected: String)
  /// The system refused to open or read a file.
  case unreadable(path: String, reason: String)
  /// A file's content is not what its format demands; `place` names the byte, line or member.
  case malformed(path: String, place: String, expected: String, found: String)
  /// A sample lacks something.
  case badSample(path: String, key: String, expected: String, found: String)
  /// A data set holds nothing.
  case empty(path: String, expected: String)
  /// A setting has a value that cannot be used.
  case badSetting(String, expected: String, found: String)

  /// One sentence that names the file, the place, what was expected and what was found.
  public var description: String {
    switch self {
    case .missing(let path, let expected): "\(path): expected \(expected), found none"
    case .unreadable(let path, let reason): "\(path): \(reason)"
    case .malformed(let path, let place, let expected, let found):
      "\(path): \(place): expected \(expected), found \(found)"
    case .badSample(let path, let key, let expected, let found):
      "\(path): sample \(key): expected \(expected), found \(found)"
    case .empty(let path, let expected): "\(path): expected at least one \(expected), found none"
    case .badSetting(let name, let expected, let found): "\(name): expected \(expected), found \(found)"
    }
  }
}
