import Foundation
public import Torch
public import TorchNN

/// A table that turns the names of a model into the names of a file.
///
/// A rule is two paths, in which `*` stands for one component: `layer.*.attention.self` fits `layer.3.attention.self.query`
/// and carries the `3` and the rest over. Rules are tried in order; the first that fits the start of a name is applied.
public struct KeyMap: Sendable, Equatable {
  /// One row of the table.
  public struct Rule: Sendable, Equatable {
    /// The start of the model's name; empty fits every name.
    public let model: String
    /// What stands there in the file.
    public let file: String

    /// Makes a row.
    public init(_ model: String, _ file: String) {
      self.model = model
      self.file = file
    }

    fileprivate func apply(_ name: [Substring]) -> String? {
      let pattern = model.split(separator: ".")
      guard pattern.count <= name.count else { return nil }
      var captured: [Substring] = []
      for (expected, found) in zip(pattern, name) {
        if expected == "*" { captured.append(found) } else if expected != found { return nil }
      }
      var replaced = file.split(separator: ".")
      for index in replaced.indices where replaced[index] == "*" && !captured.isEmpty {
        replaced[index] = captured.removeFirst()
      }
      return (replaced + name.dropFirst(pattern.count)).joined(separator: ".")
    }
  }

  /// All rows in order.
  public let rules: [Rule]

  /// Makes a table.
  public init(_ rules: [Rule]) { self.rules = rules }

  /// Every name stands for itself.
  public static let identity = KeyMap([])

  /// The file's name for a name of the model.
  public func callAsFunction(_ name: String) -> String {
    let components = name.split(separator: ".")
    for rule in rules {
      if let mapped = rule.apply(components) { return mapped }
    }
    return name
  }
}

/// Weights that a file leaves out because they are another model's, unchanged.
public struct BaseCheckpoint: Sendable {
  let checkpoint: Checkpoint
  let keyMap: KeyMap

  /// Names a checkpoint to look into for what the first one lacks; what it has beyond that is no matter.
  public init(_ checkpoint: Checkpoint, keyMap: KeyMap = .identity) {
    self.checkpoint = checkpoint
    self.keyMap = keyMap
  }
}

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
  /// Keys of the file that nothing asked for.
  public var unused: [String] = []
  /// Keys whose shape does not fit.
  public var misshaped: [Misshaped] = []
  /// Keys whose element type is none of floating-point numbers.
  public var mistyped: [Mistyped] = []
  /// Keys that were stored in another floating-point type.
  public var converted: [String] = []

  /// Whether the file fits the model exactly, apart from what was allowed to be missing.
  public var isStrict: Bool { missing.isEmpty && unused.isEmpty && misshaped.isEmpty && mistyped.isEmpty }

  /// One line, then one for every key that does not fit.
  public var summary: String {
    var lines = [
      "\(file): \(loaded.count) tensors loaded, \(missing.count) missing, \(unused.count) unused, "
        + "\(misshaped.count) of another shape"
    ]
    lines += missing.map { "  missing: \($0)" }
    lines += unused.map { "  unused: \($0)" }
    lines += misshaped.map { "  shape: \($0.name): expected \($0.expected), found \($0.found)" }
    lines += mistyped.map { "  type: \($0.name): expected floating-point numbers, found \($0.found)" }
    return lines.joined(separator: "\n")
  }
}

/// Gives a model under construction the tensors of a checkpoint.
public final class CheckpointParameters: ParameterSource {
  private let checkpoint: Checkpoint
  private let keyMap: KeyMap
  private let bases: [BaseCheckpoint]
  private let allowMissing: [String]
  private let fresh: FreshParameters
  private var report: LoadReport
  private var asked: Set<String> = []

  /// A source over a checkpoint.
  ///
  /// - Parameters:
  ///   - checkpoint: The file or folder of weights.
  ///   - keyMap: From the model's names to the file's.
  ///   - bases: Where to look, in order, for what the checkpoint lacks.
  ///   - allowMissing: Patterns (`*` stands for anything) of model names that are initialised afresh when absent.
  ///   - seed: For what is initialised afresh.
  public init(
    _ checkpoint: Checkpoint, keyMap: KeyMap = .identity, bases: [BaseCheckpoint] = [], allowMissing: [String] = [],
    seed: UInt64 = 0
  ) {
    self.checkpoint = checkpoint
    self.keyMap = keyMap
    self.bases = bases
    self.allowMissing = allowMissing
    fresh = FreshParameters(seed: seed)
    report = LoadReport(file: checkpoint.url.path)
  }

  /// The tensor in `float32`, borrowed from the file where it is stored so.
  public func parameter(_ name: String, shape: [Int], initializer: Initializer) -> Tensor {
    let key = keyMap(name)
    asked.insert(key)
    guard let (key, found, tensor) = find(name) else {
      guard allowMissing.contains(where: { matches(name, pattern: $0) }) else {
        report.missing.append(key)
        return Tensor.zeros([])  // The model will not be used: spend neither time nor memory on it.
      }
      report.initialised.append(name)
      return fresh.parameter(name, shape: shape, initializer: initializer)
    }
    guard found == shape else {
      report.misshaped.append(LoadReport.Misshaped(name: key, expected: shape, found: found))
      return Tensor.zeros([])
    }
    guard tensor.dtype.isFloatingPoint else {
      report.mistyped.append(LoadReport.Mistyped(name: key, found: tensor.dtype))
      return Tensor.zeros([])
    }
    report.loaded.append(key)
    if tensor.dtype == .float32 { return tensor }
    report.converted.append(key)
    return tensor.to(.float32)
  }

  /// Whether the file, or a base, has the tensor.
  public func has(_ name: String) -> Bool { find(name) != nil }

  private func find(_ name: String) -> (key: String, shape: [Int], tensor: Tensor)? {
    for base in [BaseCheckpoint(checkpoint, keyMap: keyMap)] + bases {
      let key = base.keyMap(name)
      if let shape = base.checkpoint.shape(key), let tensor = try? base.checkpoint.tensor(key) {
        return (key, shape, tensor)
      }
    }
    return nil
  }

  /// The report, once the model has been built.
  ///
  /// - Parameter ignoring: Patterns of file keys that may stay unused.
  public func finish(ignoring: [String]) -> LoadReport {
    var report = report
    report.unused = checkpoint.names.filter { name in
      !asked.contains(name) && !ignoring.contains { matches(name, pattern: $0) }
    }
    return report
  }
}

/// Whether a name fits a pattern in which `*` stands for any run of characters.
func matches(_ name: String, pattern: String) -> Bool {
  let parts = pattern.split(separator: "*", omittingEmptySubsequences: false)
  guard parts.count > 1, let first = parts.first, let last = parts.last else { return name == pattern }
  guard name.hasPrefix(first), name.count >= first.count + last.count else { return false }
  var rest = name.dropFirst(first.count)
  for part in parts.dropFirst().dropLast() where !part.isEmpty {
    guard let range = rest.range(of: part) else { return false }
    rest = rest[range.upperBound...]
  }
  return rest.hasSuffix(last)
}

/// Builds a model on the tensors of a checkpoint, strictly.
///
/// - Parameters:
///   - checkpoint: The file or folder of weights.
///   - keyMap: From the model's names to the file's.
///   - bases: Where to look, in order, for what the checkpoint lacks.
///   - ignoring: Patterns of file keys that may stay unused.
///   - allowMissing: Patterns of model names that may be initialised afresh.
///   - seed: For what is initialised afresh.
///   - build: Makes the model from the scope it is given.
/// - Throws: ``CheckpointError/mismatch(_:)`` with every key that is missing, unused or of another shape, what `build`
///   throws, or `TorchError`.
public func loadModel<Model>(
  from checkpoint: Checkpoint, keyMap: KeyMap = .identity, bases: [BaseCheckpoint] = [], ignoring: [String] = [],
  allowMissing: [String] = [], seed: UInt64 = 0, build: (ParameterScope) throws -> Model
) throws -> (model: Model, report: LoadReport) {
  let source = CheckpointParameters(
    checkpoint, keyMap: keyMap, bases: bases, allowMissing: allowMissing, seed: seed)
  let model: Model
  do {
    model = try withError { try build(ParameterScope(source)) }
  } catch let error as TorchError {
    // What stands for a tensor that does not fit may have failed inside a layer: the report says more than LibTorch does.
    let report = source.finish(ignoring: ignoring)
    let fits = report.missing.isEmpty && report.misshaped.isEmpty && report.mistyped.isEmpty
    throw fits ? error : CheckpointError.mismatch(report)
  }
  let report = source.finish(ignoring: ignoring)
  guard report.isStrict else { throw CheckpointError.mismatch(report) }
  return (model, report)
}
