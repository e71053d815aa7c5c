import Foundation
import TestSupport
import Testing
import Torch
import TorchNN

@Suite struct ParameterTests {
  @Test func initialisersHaveTheirStatistics() {
    func draw(_ initializer: Initializer, _ shape: [Int] = [300, 500]) -> Tensor {
      initializer.tensor(shape, generator: Generator(seed: 3))
    }
    let normal = draw(.normal(standardDeviation: 0.02))
    #expect(abs(normal.mean().item) < 3e-4 && abs(normal.std().item - 0.02) < 3e-4)
    // A normal distribution has 4.55 % of its mass beyond two deviations.
    #expect(abs(normal.abs().less(0.04).to(.float32).mean().item - 0.9545) < 0.003)
    let uniform = draw(.uniform(bound: 0.3))
    #expect(uniform.max().item < 0.3 && (-uniform).max().item <= 0.3 && uniform.max().item > 0.299)
    #expect(abs(uniform.mean().item) < 3e-3 && abs(uniform.std().item - 0.3 / 3.0.squareRoot()) < 3e-3)
    let xavier = draw(.xavierUniform)
    let bound = (6.0 / 800).squareRoot()
    #expect(xavier.abs().max().item <= bound && xavier.abs().max().item > 0.999 * bound)
    #expect(draw(.zeros).abs().max().item == 0 && draw(.ones, [7]).values(as: Float.self) == [1, 1, 1, 1, 1, 1, 1])
    #expect(draw(.constant(0.07), []).item == Double(Float(0.07)) && draw(.constant(0.07), []).shape == [])
    for tensor in [normal, uniform, xavier] { #expect(tensor.dtype == .float32 && !tensor.requiresGrad) }
  }

  @Test func aSeedAndAnOrderGiveTheNumbers() {
    func build(_ seed: UInt64) -> [Data] {
      let parameters = Parameters()
      let scope = ParameterScope(FreshParameters(seed: seed), parameters: parameters)
      _ = Linear(4, 3, scope["a"])
      _ = Linear(4, 3, scope["b"])
      return parameters.all.map { $0.tensor.bytes() }
    }
    #expect(build(1) == build(1))
    #expect(build(1) != build(2))
    #expect(build(1)[0] != build(1)[2])
  }

  @Test func namesArePathsInTheOrderOfTheRequests() {
    let parameters = Parameters()
    let scope = ParameterScope(FreshParameters(seed: 0), parameters: parameters)
    _ = LayerNorm(4, eps: 1e-5, scope["norm"])
    for index in 0..<2 { _ = Linear(4, 2, scope["layers"][index]["dense.inner"], bias: index == 0) }
    _ = Embedding(5, 4, scope["words"])
    _ = RMSNorm(4, eps: 1e-6, scope)
    #expect(
      parameters.names == [
        "norm.weight", "norm.bias", "layers.0.dense.inner.weight", "layers.0.dense.inner.bias",
        "layers.1.dense.inner.weight", "words.weight", "weight",
      ])
    #expect(parameters.all.map(\.tensor.shape) == [[4], [4], [2, 4], [2], [2, 4], [5, 4], [4]])
    #expect(parameters.elementCount() == 4 + 4 + 8 + 2 + 8 + 20 + 4)
    #expect(parameters.elementCount { $0.hasPrefix("layers.0") } == 10)
    #expect(scope.path == "" && scope["a"]["b"][3].path == "a.b.3" && scope["a"].has("x"))
    let first = parameters["norm.weight"]
    parameters.insert("norm.weight", .zeros([2]))
    #expect(parameters.names.count == 7 && parameters.names[0] == "norm.weight")
    #expect(parameters["norm.weight"]?.shape == [2] && first?.shape == [4] && parameters["none"] == nil)
  }

  @Test func gradientsAreTurnedOnByName() {
    let parameters = Parameters()
    let scope = ParameterScope(FreshParameters(seed: 0), parameters: parameters)
    let (a, b) = (Linear(2, 2, scope["a"]), Linear(2, 2, scope["b"]))
    parameters.setRequiresGrad(true) { $0.hasPrefix("b") }
    #expect(parameters.trainable.map(\.name) == ["b.weight", "b.bias"])
    b(a(.ones([1, 2]))).sum().backward()
    #expect(a.weight.grad == nil && b.weight.grad != nil)
    parameters.clearGradients()
    #expect(b.weight.grad == nil)
    parameters.setRequiresGrad(false)
    #expect(parameters.trainable.isEmpty)
  }

  @Test func layersAreTheirOperators() throws {
    let expected = try Fixture("torch/operators.safetensors")
    final class Given: ParameterSource {
      let tensors: [String: Tensor]
      init(_ tensors: [String: Tensor]) { self.tensors = tensors }
      func parameter(_ name: String, shape: [Int], initializer: Initializer) -> Tensor {
        #expect(tensors[name]?.shape == shape)
        return tensors[name] ?? .zeros(shape)
      }
      func has(_ name: String) -> Bool { tensors[name] != nil }
    }
    let (x, row) = (expected["x"], expected["row"])
    let scope = ParameterScope(Given(["weight": row, "bias": row, "l.weight": expected["square"], "l.bias": row]))
    expectClose(LayerNorm(4, eps: 0.01, scope)(x), expected["layernorm"])
    expectClose(RMSNorm(4, eps: 0.01, scope)(x), expected["rmsnorm"])
    expectClose(Linear(4, 4, scope["l"])(x), expected["linear"])
    #expect(Linear(4, 4, scope["l"], bias: false).bias == nil)
    let table = ParameterScope(Given(["weight": x]))
    expectClose(Embedding(3, 4, table)(expected["index"]), expected["embedding"], relative: 0)
  }
}
