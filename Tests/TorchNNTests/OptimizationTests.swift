import Checkpoints
import Foundation
import TestSupport
import Testing
import Torch
import TorchNN

/// AdamW and gradient clipping against PyTorch; the schedule against its formula.
@Suite struct OptimizationTests {
  static let names = ["matrix", "vector", "scalar", "slow"]
  let expected: Fixture

  init() throws { expected = try Fixture("torch/optimizers.safetensors") }

  func start() -> [(name: String, tensor: Tensor)] {
    Self.names.map { name in
      let tensor = expected["start.\(name)"].cloned()
      tensor.requiresGrad = true
      return (name, tensor)
    }
  }

  func optimizer(_ parameters: [(name: String, tensor: Tensor)]) -> AdamW {
    let groups = AdamW.groups(parameters, weightDecay: 0.05) { $0 == "slow" ? 0.25 : 1 }
    return AdamW(groups, betas: (0.9, 0.98), eps: 1e-8)
  }

  /// One step with the stored gradients; "slow" has none in step 3.
  func step(_ optimizer: AdamW, _ parameters: [(name: String, tensor: Tensor)], _ step: Int) {
    for (name, tensor) in parameters {
      let key = "gradient.\(step).\(name)"
      tensor.grad = expected.checkpoint.shape(key) == nil ? nil : expected[key]
    }
    optimizer.step(learningRate: 0.01 * Double(step + 1))
  }

  @Test func tenStepsEqualPyTorch() {
    let parameters = start()
    let optimizer = optimizer(parameters)
    for number in 0..<10 {
      step(optimizer, parameters, number)
      for (name, tensor) in parameters {
        expectClose(tensor, expected["after.\(number).\(name)"], relative: 2e-6, "step \(number), \(name)")
      }
    }
    // Matrices have moved by decay too: without it they would be elsewhere.
    let plain = start()
    let without = AdamW(AdamW.groups(plain, weightDecay: 0) { $0 == "slow" ? 0.25 : 1 })
    for number in 0..<10 { step(without, plain, number) }
    #expect(relativeError(plain[0].tensor, expected["after.9.matrix"]) > 1e-3)
    expectClose(plain[1].tensor, expected["after.9.vector"], relative: 2e-6)
    expectClose(plain[2].tensor, expected["after.9.scalar"], relative: 2e-6)
  }

  @Test func groupsSplitByRankAndFactor() {
    let groups = AdamW.groups(start(), weightDecay: 0.05) { $0 == "slow" ? 0.25 : 1 }
    #expect(groups.map { $0.parameters.map(\.name) } == [["matrix"], ["vector", "scalar"], ["slow"]])
    #expect(groups.map(\.weightDecay) == [0.05, 0, 0.05])
    #expect(groups.map(\.learningRateFactor) == [1, 1, 0.25])
  }

  @Test func gradientsWithGapsInMemory() {
    // LibTorch's fused step reads memory in order and heeds no strides.
    let parameters = start()
    let optimizer = optimizer(parameters)
    let gradient = expected["gradient.0.matrix"]
    parameters[0].tensor.grad = gradient.transposed(0, 1).contiguous().transposed(0, 1)
    parameters[1].tensor.grad = Tensor.stack([expected["gradient.0.vector"], .zeros([4])], 1).select(1, 0)
    parameters[2].tensor.grad = expected["gradient.0.scalar"]
    parameters[3].tensor.grad = expected["gradient.0.slow"]
    #expect(parameters[0].tensor.grad?.isContiguous == false)
    optimizer.step(learningRate: 0.01)
    for (name, tensor) in parameters { expectClose(tensor, expected["after.0.\(name)"], relative: 2e-6, name) }
  }

  @Test func aParameterWithGapsIsRefused() {
    let tensor = Tensor.ones([3, 2]).transposed(0, 1)
    tensor.requiresGrad = true
    let optimizer = AdamW(AdamW.groups([("turned", tensor)], weightDecay: 0))
    tensor.sum().backward()
    let error = #expect(throws: TorchError.self) { try withError { optimizer.step(learningRate: 0.1) } }
    #expect(error?.message.contains("turned") == true)
    #expect(tensor.values(as: Float.self) == [1, 1, 1, 1, 1, 1])
  }

  @Test func clearingRemovesGradients() {
    let parameters = start()
    let optimizer = optimizer(parameters)
    step(optimizer, parameters, 0)
    optimizer.clearGradients()
    #expect(parameters.allSatisfy { $0.tensor.grad == nil })
    let before = parameters.map { $0.tensor.bytes() }
    optimizer.step(learningRate: 1)
    #expect(parameters.map { $0.tensor.bytes() } == before)
  }

  @Test func aSavedStateGoesOnBitForBit() throws {
    try withTemporaryFolder { folder in
      let parameters = start()
      let optimizer = optimizer(parameters)
      for number in 0..<5 { step(optimizer, parameters, number) }
      let file = folder.appendingPathComponent("state.safetensors")
      try SafetensorsFile.write(optimizer.state + parameters, to: file)
      for number in 5..<10 { step(optimizer, parameters, number) }

      let saved = try Checkpoint(contentsOf: file)
      #expect(saved.names.count == 16)
      let again = start()
      for (name, tensor) in again { try withNoGrad { tensor.copy(from: try saved.tensor(name)) } }
      let other = self.optimizer(again)
      try other.restore { try? saved.tensor($0) }
      for number in 5..<10 { step(other, again, number) }
      for (mine, theirs) in zip(parameters, again) { #expect(mine.tensor.bytes() == theirs.tensor.bytes()) }
      for (mine, theirs) in zip(optimizer.state, other.state) {
        #expect(mine.name == theirs.name && mine.tensor.bytes() == theirs.tensor.bytes())
      }
      // "slow" stood still in step 3.
      let steps = Dictionary(uniqueKeysWithValues: other.state.map { ($0.name, $0.tensor) })
      #expect(steps["step.slow"]?.item == 9 && steps["step.matrix"]?.item == 10)
    }
  }

  @Test func aStateThatDoesNotFitIsNamed() {
    let optimizer = optimizer(start())
    let lacking = #expect(throws: TorchError.self) { try optimizer.restore { _ in nil } }
    #expect(lacking?.message.contains("first.matrix") == true)
    let state = Dictionary(uniqueKeysWithValues: optimizer.state.map { ($0.name, $0.tensor) })
    let named = #expect(throws: TorchError.self) {
      try optimizer.restore { $0 == "second.vector" ? .zeros([5]) : state[$0] }
    }
    #expect(named?.message.contains("second.vector") == true && named?.message.contains("[5]") == true)
  }

  @Test(arguments: [1.0, 100.0]) func clippingEqualsPyTorch(limit: Double) {
    let parameters = start()
    for (name, tensor) in parameters { tensor.grad = expected["gradient.1.\(name)"].cloned() }
    let norm = clipGradients(parameters, limit: limit)
    #expect(abs(norm - expected["clip.\(Int(limit)).norm"].item) < 1e-5 * norm)
    for (name, tensor) in parameters {
      expectClose(tensor.grad ?? .zeros([]), expected["clip.\(Int(limit)).\(name)"], relative: 2e-6, name)
    }
  }

  @Test func clippingOfNothingAndOfInfinity() {
    let parameters = start()
    #expect(clipGradients(parameters, limit: 1) == 0)
    parameters[1].tensor.grad = Tensor([Float(1), .infinity, 2, 3])
    #expect(clipGradients(parameters, limit: 1) == .infinity)
    #expect(parameters[1].tensor.grad?.values(as: Float.self) == [1, .infinity, 2, 3])
  }

  @Test func scheduleRisesThenFalls() throws {
    let schedule = WarmupCosine(peak: 1e-4, floor: 1e-5, warmupSteps: 4, totalSteps: 12)
    for step in 0..<4 { #expect(abs(schedule(step) - 0.25e-4 * Double(step + 1)) < 1e-18) }
    #expect(schedule(4) == 1e-4)
    #expect(abs(schedule(8) - 0.55e-4) < 1e-18, "half way down")
    #expect(abs(schedule(6) - (1e-5 + 9e-5 * 0.5 * (1 + cos(.pi / 4)))) < 1e-18)
    #expect(abs(schedule(12) - 1e-5) < 1e-18 && abs(schedule(1000) - 1e-5) < 1e-18)
    #expect(zip(4..<12, 5..<13).allSatisfy { schedule($0) > schedule($1) })
    let flat = WarmupCosine(peak: 1, floor: 0, warmupSteps: 0, totalSteps: 0)
    #expect(flat(0).isFinite && flat(5).isFinite)
    let again = try JSONDecoder().decode(WarmupCosine.self, from: JSONEncoder().encode(schedule))
    #expect(again == schedule)
  }
}
