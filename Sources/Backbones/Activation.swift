import Torch

/// What stands between the two matrices of a feed-forward layer. Raw values are the names in published configurations.
public enum Activation: String, Codable, Sendable, CaseIterable {
  /// max(x, 0).
  case relu
  /// Exact, with erf.
  case gelu
  /// By tanh.
  case tanhGELU = "gelu_new"
  /// x · sigmoid(1.702 x), OpenAI's CLIP.
  case quickGELU = "quick_gelu"
  /// x · sigmoid(x).
  case silu

  /// All names, for errors.
  static let known = allCases.map(\.rawValue).joined(separator: ", ")

  /// Any shape to the same shape.
  func callAsFunction(_ x: Tensor) -> Tensor {
    switch self {
    case .relu: x.relu()
    case .gelu: x.gelu()
    case .tanhGELU: x.tanhGELU()
    case .quickGELU: x * (x * 1.702).sigmoid()
    case .silu: x.silu()
    }
  }
}

extension KeyedDecodingContainer {
  /// An activation by name; an unknown one is named together with the known ones.
  func activation(_ key: Key, default value: Activation) throws -> Activation {
    guard let name = try decodeIfPresent(String.self, forKey: key) else { return value }
    guard let found = Activation(rawValue: name) else {
      throw corrupted(key, "expected one of \(Activation.known); found \(name)")
    }
    return found
  }
}
