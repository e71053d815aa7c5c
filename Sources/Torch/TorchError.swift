internal import CTorch

/// A failure inside LibTorch, with its own words.
public struct TorchError: Error, Sendable, Equatable, CustomStringConvertible {
  /// LibTorch's message, without the C++ back-trace.
  public let message: String

  /// Makes an error with the given words.
  public init(_ message: String) { self.message = message }

  /// The message.
  public var description: String { message }

  /// What LibTorch said last on this thread; its first line, since the rest is C++ detail.
  static var last: TorchError {
    let text = String(cString: ct_last_error())
    return TorchError(text.split(separator: "\nException raised from", maxSplits: 1).first.map(String.init) ?? text)
  }
}

/// Holds the first failure of a ``withError(_:)`` scope.
final class ErrorBox: @unchecked Sendable {
  // Written only by the task that opened the scope: tensor operators are synchronous.
  var first: TorchError?

  @TaskLocal static var current: ErrorBox?

  /// Takes note of a failure, or ends the process when no scope is open to hear of it.
  static func record(_ error: TorchError) {
    guard let box = current else { fatalError(error.message) }
    if box.first == nil { box.first = error }
  }
}

/// Runs `body` and throws the first failure of any tensor operator in it.
///
/// Tensor operators do not throw, so that formulas stay readable. Inside this scope the first failure is kept, later
/// operators see an invalid tensor and do nothing, and the scope throws at its end. Outside, a failure ends the process.
///
/// - Throws: ``TorchError``, or what `body` throws by itself when no operator failed before.
public func withError<Result>(_ body: () throws -> Result) throws -> Result {
  let box = ErrorBox()
  let result: Result
  do {
    result = try ErrorBox.$current.withValue(box, operation: body)
  } catch {
    throw box.first ?? error
  }
  if let error = box.first { throw error }
  return result
}

/// Hands a status of the C interface to the open error scope. True when the call worked.
@discardableResult
func check(_ status: Int32) -> Bool {
  if status == 0 { return true }
  ErrorBox.record(.last)
  return false
}
