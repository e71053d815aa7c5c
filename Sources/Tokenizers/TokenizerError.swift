/// Why a tokenizer could not be read: what was wrong, where, and what would have been right.
public struct TokenizerError: Error, Equatable, Sendable, CustomStringConvertible {
  /// Path of the file that was read.
  public let file: String
  /// Where in the file: a key path such as `model.merges[3]`; empty for the file as a whole.
  public let keyPath: String
  /// What was expected there.
  public let expected: String
  /// What was found instead.
  public let found: String

  /// One line that names file, place, expectation and finding.
  public var description: String {
    let place = keyPath.isEmpty ? file : "\(file): \(keyPath)"
    return "\(place): expected \(expected), found \(found)"
  }
}
