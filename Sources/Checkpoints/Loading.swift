import Foundation
public import Torch
public import TorchNN

/// Gives a model under construction the tensors of a checkpoint.
public final class CheckpointParameters: ParameterSource {
  private let checkpoint: Checkpoint
  private let keyMap: KeyMap
  private let bases: [BaseCheckpoint]
  private let allowMissing: [String]
  private let readsTensors: Bool
  private let fresh: FreshParameters
  private var report: LoadReport
  private var asked: Set<String> = []
  /// The first error of reading a tensor that is there and fits.
  private(set) var failure: (any Error)?

  /// A source over a checkpoint.
  ///
  /// - Parameters:
  ///   - checkpoint: The file or folder of weights.
  ///   - keyMap: From the model's names to the file's.
  ///   - bases: Where to look, in order, for what the checkpoint lacks.
  ///   - allowMissing: Patterns (`*` stands for anything) of model names that are initialised afresh when absent.
  ///   - seed: For what is initialised afresh.
  ///   - readsTensors: Off to compare names, shapes and types alone: every parameter is then a tensor
  ///     without elements.
  public init(
    _ checkpoint: Checkpoint, keyMap: KeyMap = .identity, bases: [BaseCheckpoint] = [], allowMissing: [String] = [],
    seed: UInt64 = 0, readsTensors: Bool = true
  ) {
    self.checkpoint = checkpoint
    self.keyMap = keyMap
    self.bases = bases
    self.allowMissing = allowMissing
    self.readsTensors = readsTensors
    fresh = FreshParameters(seed: seed)
    report = LoadReport(file: checkpoint.url.path)
  }

  /// The tensor in `float32`, borrowed from the file where it is stored so.
  public func parameter(_ name: String, shape: [Int], initializer: Initializer) -> Tensor {
    guard let (source, recipe) = find(name) else {
      let keys = keyMap.recipe(name) { checkpoint.shape($0) != nil }.names
      guard allowMissing.contains(where: { matches(name, pattern: $0) }) else {
        report.missing += keys
        return Tensor.shapeOnly(shape)  // The model will not be used: spend neither time nor memory on it.
      }
      report.initialised.append(name)
      guard readsTensors else { return Tensor.shapeOnly(shape) }
      return fresh.parameter(name, shape: shape, initializer: initializer)
    }
    let key = recipe.names.joined(separator: " + ")
    if source === checkpoint { asked.formUnion(recipe.names) }
    let found = recipe.shape(in: source)
    guard found == shape else {
      let pieces = recipe.names.first.flatMap(source.shape) ?? []
      report.misshaped.append(LoadReport.Misshaped(name: key, expected: shape, found: found ?? pieces))
      return Tensor.shapeOnly(shape)
    }
    let types = recipe.names.compactMap(source.dtype)
    if let other = types.first(where: { !$0.isFloatingPoint }) {
      report.mistyped.append(LoadReport.Mistyped(name: key, found: other))
      return Tensor.shapeOnly(shape)
    }
    do {
      let tensor = try readsTensors ? recipe.tensor(in: source, as: .float32) : Tensor.shapeOnly(shape)
      report.loaded += recipe.names
      if types.contains(where: { $0 != .float32 }) { report.converted += recipe.names }
      return tensor
    } catch {
      failure = failure ?? error
      return Tensor.shapeOnly(shape)
    }
  }

  /// Whether the file, or a base, has the tensor.
  public func has(_ name: String) -> Bool { find(name) != nil }

  private func find(_ name: String) -> (source: Checkpoint, recipe: Recipe)? {
    for base in [BaseCheckpoint(checkpoint, keyMap: keyMap)] + bases where base.provides(name) {
      let recipe = base.keyMap.recipe(name) { base.checkpoint.shape($0) != nil }
      if recipe.names.allSatisfy({ base.checkpoint.shape($0) != nil }) { return (base.checkpoint, recipe) }
    }
    return nil
  }

  /// The report, once the model has been built.
  ///
  /// - Parameter ignoring: Patterns of file keys that may stay unused, beside those that the key map lists.
  public func finish(ignoring: [String]) -> LoadReport {
    var report = report
    let unused = checkpoint.names.filter { !asked.contains($0) }
    let ignored = unused.isEmpty ? [] : Set(checkpoint.ignored(by: keyMap, also: ignoring))
    report.ignored = unused.filter { ignored.contains($0) }
    report.unused = unused.filter { !ignored.contains($0) }
    if !report.isStrict { report.apparentKind = checkpoint.apparentKind }
    return report
  }
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
    throw source.failure ?? (fits ? error : CheckpointError.mismatch(report))
  }
  if let failure = source.failure { throw failure }
  let report = source.finish(ignoring: ignoring)
  guard report.isStrict else { throw CheckpointError.mismatch(report) }
  return (model, report)
}
