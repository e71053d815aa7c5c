import Checkpoints
import Foundation
import TestSupport
import Testing
import Torch
import TorchNN

@testable import Training

@Suite("Run folders")
struct RunFolderTests {
  /// A model of two parameters in training.
  private struct State {
    let parameters: [(name: String, tensor: Tensor)]
    let optimizer: AdamW
    let generator: Generator

    init(seed: UInt64) {
      generator = Generator(seed: seed)
      parameters = [("a.weight", Tensor.rand([3, 2], generator: generator)), ("a.bias", Tensor.zeros([3]))]
      for (_, tensor) in parameters { tensor.requiresGrad = true }
      optimizer = AdamW(AdamW.groups(parameters, weightDecay: 0.1) { _ in 1 })
    }

    /// One step; the random part makes the generator matter.
    func step() {
      let x = Tensor.rand([4, 2], generator: generator)
      ((x.linear(parameters[0].tensor, parameters[1].tensor) - 1).pow(2)).sum().backward()
      optimizer.step(learningRate: 0.1)
      optimizer.clearGradients()
    }

    var values: [Float] { parameters.flatMap { $0.tensor.detached().values(as: Float.self) } }

    func save(_ folder: RunFolder, _ step: Int) throws {
      try folder.save(step: step, parameters: parameters, optimizer: optimizer, generator: generator)
    }

    func restore(_ folder: RunFolder) throws -> Int {
      try folder.restore(parameters: parameters, optimizer: optimizer, generator: generator)
    }
  }

  private func recipe(_ seed: UInt64 = 1) -> Recipe {
    var recipe = Recipe()
    recipe.seed = seed
    return recipe
  }

  private func checkpoints(_ folder: URL) throws -> [String] {
    try FileManager.default.contentsOfDirectory(atPath: folder.appendingPathComponent("checkpoints").path).sorted()
  }

  @Test("A restored run goes on bit by bit")
  func restores() throws {
    try withTemporaryFolder { folder in
      let run = try RunFolder(folder, recipe: recipe(), resumes: false)
      let first = State(seed: 1)
      for _ in 0..<3 { first.step() }
      try first.save(run, 3)
      for _ in 0..<4 { first.step() }

      let second = State(seed: 99)
      let restored = try second.restore(RunFolder(folder, recipe: recipe(), resumes: true))
      #expect(restored == 3)
      for _ in 0..<4 { second.step() }
      #expect(second.values == first.values)
      #expect(second.generator.state.bytes() == first.generator.state.bytes())
    }
  }

  @Test("Without a checkpoint nothing is done yet")
  func nothing() throws {
    try withTemporaryFolder { folder in
      let state = State(seed: 1)
      let before = state.values
      let step = try state.restore(RunFolder(folder, recipe: recipe(), resumes: true))
      #expect(step == 0)
      #expect(state.values == before)
    }
  }

  @Test("The two newest checkpoints stay")
  func keepsTwo() throws {
    try withTemporaryFolder { folder in
      let run = try RunFolder(folder, recipe: recipe(), resumes: false)
      let state = State(seed: 1)
      for step in [8, 9, 10, 11] { try state.save(run, step) }
      #expect(run.savedSteps() == [10, 11])
      #expect(try checkpoints(folder) == ["step-10", "step-11"])
      // The same step again, after a resumed run stopped at once.
      try state.save(run, 11)
      #expect(run.savedSteps() == [10, 11])
    }
  }

  @Test("A checkpoint that was being written when the program was killed does not count, and goes")
  func partial() throws {
    try withTemporaryFolder { folder in
      let run = try RunFolder(folder, recipe: recipe(), resumes: false)
      let first = State(seed: 1)
      first.step()
      try first.save(run, 1)
      let partial = folder.appendingPathComponent("checkpoints/.step-2.77.partial")
      try FileManager.default.createDirectory(at: partial, withIntermediateDirectories: true)
      try Data("half".utf8).write(to: partial.appendingPathComponent("model.safetensors"))
      #expect(run.savedSteps() == [1])
      let second = State(seed: 2)
      let restored = try second.restore(RunFolder(folder, recipe: recipe(), resumes: true))
      #expect(restored == 1)
      #expect(second.values == first.values)
      #expect(try checkpoints(folder) == ["step-1"])
    }
  }

  @Test("A folder with a run is neither overwritten nor taken for another recipe's")
  func otherRecipe() throws {
    try withTemporaryFolder { folder in
      _ = try RunFolder(folder, recipe: recipe(), resumes: false)
      #expect {
        try RunFolder(folder, recipe: recipe(), resumes: false)
      } throws: { error in
        guard case .badRun(let name, let reason) = error as? TrainingError else { return false }
        return name == folder.path && reason.contains("--resume")
      }
      #expect {
        try RunFolder(folder, recipe: recipe(2), resumes: true)
      } throws: { error in
        guard case .badRun(let name, let reason) = error as? TrainingError else { return false }
        return name == folder.path && reason.contains("another recipe")
      }
      _ = try RunFolder(folder, recipe: recipe(), resumes: true)
    }
  }

  @Test("A checkpoint of another model is refused by name")
  func otherModel() throws {
    try withTemporaryFolder { folder in
      let run = try RunFolder(folder, recipe: recipe(), resumes: false)
      let state = State(seed: 1)
      let wide: [(name: String, tensor: Tensor)] = [("a.weight", .zeros([4, 2])), ("a.bias", .zeros([3]))]
      try run.save(step: 1, parameters: wide, optimizer: state.optimizer, generator: state.generator)
      #expect {
        try state.restore(run)
      } throws: { error in
        guard case .malformed(_, let expected, let found) = error as? CheckpointError else { return false }
        return expected == "a.weight [3, 2]" && found == "[4, 2]"
      }
      let file = folder.appendingPathComponent("checkpoints/step-1/state.safetensors")
      try Data("no".utf8).write(to: file)
      #expect(throws: CheckpointError.self) { try state.restore(run) }
    }
  }

  @Test("Metrics written after the checkpoint are cut, and half a line")
  func metrics() throws {
    try withTemporaryFolder { folder in
      let run = try RunFolder(folder, recipe: recipe(), resumes: false)
      let state = State(seed: 1)
      try run.log(["step": 1, "itc": 0.5])
      try run.log(["step": 2, "itc": 0.25])
      try run.log(["step": 2, "validation": "a", "R@1": 3])
      try state.save(run, 2)
      try run.log(["step": 3, "itc": 0.125])
      let file = folder.appendingPathComponent("metrics.jsonl")
      let whole = try Data(contentsOf: file)
      try (whole + Data(#"{"step": 2, "it"#.utf8)).write(to: file)
      _ = try state.restore(run)
      let lines = try String(contentsOf: file, encoding: .utf8).split(separator: "\n").map(String.init)
      #expect(
        lines == [
          #"{"itc":0.5,"step":1}"#, #"{"itc":0.25,"step":2}"#, #"{"R@1":3,"step":2,"validation":"a"}"#,
        ])
      // One of two sets was validated: once more from the start.
      #expect(try !run.removeIncompleteValidation(step: 2, sets: 1))
      #expect(try run.removeIncompleteValidation(step: 2, sets: 2))
      #expect(try String(contentsOf: file, encoding: .utf8).split(separator: "\n").count == 2)
    }
  }

  @Test("A checkpoint that cannot be written is an error; the one before stays")
  func unwritable() throws {
    try withTemporaryFolder { folder in
      let run = try RunFolder(folder, recipe: recipe(), resumes: false)
      let state = State(seed: 1)
      try state.save(run, 1)
      // A file in the place of the new checkpoint's folder is replaced; a file in the place of the run is not.
      let file = folder.appendingPathComponent("file")
      try Data().write(to: file)
      #expect {
        try RunFolder(file.appendingPathComponent("run"), recipe: recipe(), resumes: false)
      } throws: { error in
        guard case .cannotWrite = error as? CheckpointError else { return false }
        return true
      }
      #expect(try state.restore(run) == 1)
    }
  }
}
