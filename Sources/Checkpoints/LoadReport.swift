public import Torch

/// What became of every key when a model was loaded.
public struct LoadReport: Sendable, Equatable {
  /// A tensor whose shape the model cannot use.
  public struct Misshaped: Sendable, Equatable {
    /// The key.
    public let name: String
    /// The shape the model needs.
    public let expected: [Int]
    /// The shape in the file.
    public let found: [Int]
  }

  /// A tensor of integers or truth values where the model needs numbers.
  public struct Mistyped: Sendable, Equatable {
    /// The key.
    public let name: String
    /// The type in the file.
    public let found: DType
  }

  /// Where the weights came from.
  public var file: String
  /// Keys that were loaded.
  public var loaded: [String] = []
  /// Keys that the file lacks although they are needed.
  public var missing: [String] = []
  /// Keys that the file lacks and that may be missing: freshly initialised.
  public var initialised: [String] = []
  /// Keys of the file that are no weights and were left out: stray buffers, copies of other tensors.
  public var ignored: [String] = []
  /// Keys of the file that nothing asked for.
  public var unused: [String] = []
  /// Keys whose shape does not fit.
  public var misshaped: [Misshaped] = []
  /// Keys whose element type is none of floating-point numbers.
  public var mistyped: [Mistyped] = []
  /// Keys that were stored in another floating-point type.
  public var converted: [String] = []

  /// What the file's names suggest that it is, in a few words; nil when they suggest nothing.
  public var apparentKind: String?

  /// Whether the file fits the model exactly, apart from what was allowed to be missing.
  public var isStrict: Bool { missing.isEmpty && unused.isEmpty && misshaped.isEmpty && mistyped.isEmpty }

  /// One line, then one for every key that does not fit.
  public var summary: String {
    var lines = [
      "\(file): \(loaded.count) tensors loaded, \(missing.count) missing, \(unused.count) unused, "
        + "\(misshaped.count) of another shape"
    ]
    if !isStrict, let apparentKind { lines.append("  the file looks like \(apparentKind)") }
    lines += missing.map { "  missing: \($0)" }
    lines += unused.map { "  unused: \($0)" }
    lines += misshaped.map { "  shape: \($0.name): expected \($0.expected), found \($0.found)" }
    lines += mistyped.map { "  type: \($0.name): expected floating-point numbers, found \($0.found)" }
    return lines.joined(separator: "\n")
  }
}
