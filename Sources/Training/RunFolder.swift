import Checkpoints
public import Foundation
import Torch
import TorchNN

/// The folder of a run: `config.yaml`, `metrics.jsonl`, the same numbers as TensorBoard events, `checkpoints/step-N/`, and
/// the adapter at the end.
///
/// Everything is written under a temporary name first: killing the program at any moment leaves the last complete
/// checkpoint usable.
public struct RunFolder: Sendable {
  /// Where it lies.
  public let url: URL
  private var checkpoints: URL { url.appendingPathComponent("checkpoints") }
  private var metricsFile: URL { url.appendingPathComponent("metrics.jsonl") }
  private var events: EventFile { EventFile(folder: url) }
  private var configFile: URL { url.appendingPathComponent("config.yaml") }

  /// Makes the folder for a new run, or opens one to resume.
  ///
  /// - Throws: ``TrainingError/badRun(folder:reason:)`` for a new run in a folder that holds another, or to resume a run
  ///   with another recipe; `CheckpointError.cannotWrite`.
  public init(_ url: URL, recipe: Recipe, resumes: Bool) throws {
    self.url = url
    let yaml = try recipe.yaml()
    let manager = FileManager.default
    if manager.fileExists(atPath: configFile.path) {
      guard resumes else {
        throw TrainingError.badRun(
          folder: url.path, reason: "holds a run already; go on with --resume or choose another --output")
      }
      guard let old = manager.contents(atPath: configFile.path), String(data: old, encoding: .utf8) == yaml else {
        throw TrainingError.badRun(
          folder: url.path, reason: "was started with another recipe (config.yaml): resume with the same settings")
      }
    }
    do {
      try manager.createDirectory(at: checkpoints, withIntermediateDirectories: true)
    } catch {
      throw CheckpointError.cannotWrite(file: url.path, reason: error.localizedDescription)
    }
    // What a killed run was writing; a run has one writer.
    for name in (try? manager.contentsOfDirectory(atPath: checkpoints.path)) ?? [] where name.hasSuffix(".partial") {
      try? manager.removeItem(at: checkpoints.appendingPathComponent(name))
    }
    if !manager.fileExists(atPath: configFile.path) { try AtomicFile.write(Data(yaml.utf8), to: configFile) }
  }

  // MARK: Checkpoints

  /// Saves model, optimiser and generator, then removes all but the two newest checkpoints.
  ///
  /// - Throws: `CheckpointError.cannotWrite`, also when the disk is full; earlier checkpoints stay.
  func save(step: Int, parameters: [(name: String, tensor: Tensor)], optimizer: AdamW, generator: Generator) throws {
    let folder = checkpoints.appendingPathComponent("step-\(step)")
    let temporary = checkpoints.appendingPathComponent(".step-\(step).\(getpid()).partial")
    let manager = FileManager.default
    try? manager.removeItem(at: temporary)
    do {
      try manager.createDirectory(at: temporary, withIntermediateDirectories: true)
      try SafetensorsFile.write(parameters, to: temporary.appendingPathComponent("model.safetensors"))
      let state =
        optimizer.state + [
          ("generator.default", Generator.default.state), ("generator.run", generator.state),
          ("step", Tensor(Int64(step))),
        ]
      try SafetensorsFile.write(state, to: temporary.appendingPathComponent("state.safetensors"))
      try remove(step: step)
      try manager.moveItem(at: temporary, to: folder)
    } catch {
      try? manager.removeItem(at: temporary)
      if error is CheckpointError { throw error }
      throw CheckpointError.cannotWrite(file: folder.path, reason: error.localizedDescription)
    }
    for old in savedSteps().dropLast(2) { try? remove(step: old) }
  }

  /// Removes a checkpoint if it is there. It loses its name first: half of one must not be taken for a whole.
  private func remove(step: Int) throws {
    let manager = FileManager.default
    let folder = checkpoints.appendingPathComponent("step-\(step)")
    guard manager.fileExists(atPath: folder.path) else { return }
    let leaving = checkpoints.appendingPathComponent(".step-\(step).\(getpid()).old.partial")
    try manager.moveItem(at: folder, to: leaving)
    try manager.removeItem(at: leaving)
  }

  /// The steps of all complete checkpoints, oldest first.
  func savedSteps() -> [Int] {
    let names = (try? FileManager.default.contentsOfDirectory(atPath: checkpoints.path)) ?? []
    return names.compactMap { $0.hasPrefix("step-") ? Int($0.dropFirst(5)) : nil }.sorted()
  }

  /// Restores the newest checkpoint and cuts metrics that were written after it.
  ///
  /// - Returns: The number of steps that are done; 0 when there is no checkpoint.
  /// - Throws: `CheckpointError` or `TorchError` when the checkpoint does not fit.
  func restore(parameters: [(name: String, tensor: Tensor)], optimizer: AdamW, generator: Generator) throws -> Int {
    guard let step = savedSteps().last else {
      try cutMetrics(after: 0)
      return 0
    }
    let folder = checkpoints.appendingPathComponent("step-\(step)")
    let model = try SafetensorsFile(contentsOf: folder.appendingPathComponent("model.safetensors"))
    let state = try SafetensorsFile(contentsOf: folder.appendingPathComponent("state.safetensors"))
    try withError {
      try withNoGrad {
        for (name, tensor) in parameters {
          let saved = try model.tensor(name)
          guard saved.shape == tensor.shape else {
            throw CheckpointError.malformed(
              file: folder.path, expected: "\(name) \(tensor.shape)", found: "\(saved.shape)")
          }
          tensor.copy(from: saved)
        }
        try optimizer.restore { try? state.tensor($0) }
        Generator.default.state = try state.tensor("generator.default").cloned()
        generator.state = try state.tensor("generator.run").cloned()
      }
    }
    try cutMetrics(after: step)
    return step
  }

  // MARK: Metrics

  /// Appends a line to `metrics.jsonl`, and its numbers to the TensorBoard events: those of a validation set under its
  /// name, the others under `training`.
  func log(_ values: [String: Any]) throws {
    var line = try JSONSerialization.data(withJSONObject: values, options: [.sortedKeys])
    line.append(0x0A)
    if !FileManager.default.fileExists(atPath: metricsFile.path) { try AtomicFile.write(Data(), to: metricsFile) }
    do {
      let handle = try FileHandle(forWritingTo: metricsFile)
      defer { try? handle.close() }
      try handle.seekToEnd()
      try handle.write(contentsOf: line)
    } catch {
      throw CheckpointError.cannotWrite(file: metricsFile.path, reason: error.localizedDescription)
    }
    let group = values["validation"] as? String ?? "training"
    let scalars = values.sorted { $0.key < $1.key }.compactMap { name, value -> (tag: String, value: Double)? in
      guard name != "step", let number = value as? Double ?? (value as? Int).map(Double.init) else { return nil }
      return ("\(group)/\(name)", number)
    }
    try events.append(step: values["step"] as? Int ?? 0, scalars)
  }

  /// How long the steps took that have lines of metrics, in seconds.
  var trainingSeconds: Double {
    metrics().reduce(0) { sum, line in
      sum + (line.values["validation"] == nil ? line.values["seconds"] as? Double ?? 0 : 0)
    }
  }

  /// Whether the validation after a step was cut short: fewer lines than sets. Those that are there are removed.
  func removeIncompleteValidation(step: Int, sets: Int) throws -> Bool {
    func isOfStep(_ line: [String: Any]) -> Bool { line["step"] as? Int == step && line["validation"] != nil }
    guard metrics().count(where: { isOfStep($0.values) }) < sets else { return false }
    try keepMetrics { !isOfStep($0) }
    return true
  }

  private func cutMetrics(after step: Int) throws {
    try keepMetrics { ($0["step"] as? Int ?? 0) <= step }
    try events.cut(after: step)
  }

  private func metrics() -> [(line: Data, values: [String: Any])] {
    (FileManager.default.contents(atPath: metricsFile.path) ?? Data()).split(separator: 0x0A).compactMap { line in
      (try? JSONSerialization.jsonObject(with: line) as? [String: Any]).map { (line, $0) }
    }
  }

  private func keepMetrics(_ isKept: ([String: Any]) -> Bool) throws {
    guard FileManager.default.fileExists(atPath: metricsFile.path) else { return }
    let kept = metrics().filter { isKept($0.values) }
    try AtomicFile.write(Data(kept.map { $0.line + [0x0A] }.joined()), to: metricsFile)
  }
}
