import Torch
import TorchNN

/// Takes note of names and shapes; one number stands for all elements.
final class Shapes: ParameterSource {
  private(set) var found: [(name: String, shape: [Int])] = []
  var count: Int { found.reduce(0) { $0 + $1.shape.reduce(1, *) } }

  func parameter(_ name: String, shape: [Int], initializer: Initializer) -> Tensor {
    found.append((name, shape))
    return Tensor.zeros([1]).expanded(shape.reduce(1, *)).reshaped(shape)
  }

  func has(_ name: String) -> Bool { true }
}
