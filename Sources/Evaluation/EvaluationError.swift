/// Why a measure could not be computed.
public enum EvaluationError: Error, Equatable, Sendable, CustomStringConvertible {
  /// There is nothing to score.
  case empty(what: String)
  /// Two lists that belong together differ in length.
  case countMismatch(what: String, expected: Int, found: Int)
  /// The item at this index has no reference.
  case noReferences(item: Int)
  /// An index points outside its list.
  case indexOutOfRange(what: String, index: Int, count: Int)
  /// The similarity of this image and this text is not a number.
  case notANumber(image: Int, text: Int)
  /// This image has no text, so that no search from it can succeed.
  case imageWithoutText(image: Int)
  /// A cut-off k must be at least 1.
  case badCutoff(Int)

  /// One sentence that names what was expected and what was found.
  public var description: String {
    switch self {
    case .empty(let what): "expected at least one \(what), found none"
    case .countMismatch(let what, let expected, let found): "expected \(expected) \(what), found \(found)"
    case .noReferences(let item): "item \(item) has no reference caption"
    case .indexOutOfRange(let what, let index, let count): "\(what) \(index) is outside 0..<\(count)"
    case .notANumber(let image, let text): "the similarity of image \(image) and text \(text) is not a number"
    case .imageWithoutText(let image): "image \(image) has no text"
    case .badCutoff(let k): "a cut-off k must be at least 1, found \(k)"
    }
  }
}
