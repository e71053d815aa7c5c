extension Tensor {
  /// What a function that does not throw returns for arguments it cannot use: takes note of a failure for the open
  /// ``withError(_:)`` scope, or ends the process with these words when there is none.
  public static func failed(_ message: String) -> Tensor {
    ErrorBox.record(TorchError(message))
    return .invalid
  }
}
