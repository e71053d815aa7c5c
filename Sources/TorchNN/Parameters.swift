public import Torch

/// The named tensors of a model, in the order in which its layers asked for them.
///
/// Names are paths joined by dots and equal the keys in a file: `qformer.encoder.layer.0.output.dense.weight`.
public final class Parameters: @unchecked Sendable {
  // Filled while a model is built, by one thread; read-only afterwards.
  private var tensors: [String: Tensor] = [:]
  /// All names in order.
  public private(set) var names: [String] = []

  /// An empty set.
  public init() {}

  /// The tensor of a name.
  public subscript(name: String) -> Tensor? { tensors[name] }

  /// Adds a tensor. A second one of the same name replaces the first in place.
  public func insert(_ name: String, _ tensor: Tensor) {
    if tensors.updateValue(tensor, forKey: name) == nil { names.append(name) }
  }

  /// Names and tensors in order.
  public var all: [(name: String, tensor: Tensor)] { names.map { ($0, tensors[$0]!) } }

  /// Those that autograd computes gradients for, in order.
  public var trainable: [(name: String, tensor: Tensor)] { all.filter { $0.tensor.requiresGrad } }

  /// The number of elements in all tensors whose name passes.
  public func elementCount(where include: (String) -> Bool = { _ in true }) -> Int {
    all.reduce(0) { $0 + (include($1.name) ? $1.tensor.count : 0) }
  }

  /// Turns gradients on or off for all tensors whose name passes.
  public func setRequiresGrad(_ on: Bool, where include: (String) -> Bool = { _ in true }) {
    for (name, tensor) in all where include(name) { tensor.requiresGrad = on }
  }

  /// Removes all gradients.
  public func clearGradients() {
    for (_, tensor) in all where tensor.grad != nil { tensor.grad = nil }
  }
}

/// How a fresh parameter is filled.
public enum Initializer: Sendable, Equatable {
  /// Zeros.
  case zeros
  /// Ones.
  case ones
  /// One number everywhere.
  case constant(Double)
  /// Normal numbers of mean 0.
  case normal(standardDeviation: Double)
  /// Uniform numbers in ±√(6 / (in + out)) for a matrix `[out, in]` (Glorot and Bengio, 2010).
  case xavierUniform
  /// Uniform numbers in ±bound.
  case uniform(bound: Double)
  /// A square matrix that changes nothing.
  case identity

  /// A new tensor of the given shape in `float32`.
  public func tensor(_ shape: [Int], generator: Generator) -> Tensor {
    switch self {
    case .zeros: .zeros(shape)
    case .ones: .ones(shape)
    case .constant(let value): .full(shape, value)
    case .normal(let deviation): Tensor.randn(shape, generator: generator) * deviation
    case .uniform(let bound): (Tensor.rand(shape, generator: generator) * 2 - 1) * bound
    case .identity: Tensor.identity(shape.first ?? 0).to(.float32)
    case .xavierUniform:
      (Tensor.rand(shape, generator: generator) * 2 - 1)
        * (6 / Double((shape.first ?? 1) + (shape.last ?? 1))).squareRoot()
    }
  }
}

/// Where the tensors of a model under construction come from.
public protocol ParameterSource: AnyObject {
  /// The tensor for a name, of the shape asked for.
  ///
  /// A source that has no such tensor, or one of another shape, takes note of it and returns any tensor: the model is
  /// then thrown away.
  func parameter(_ name: String, shape: [Int], initializer: Initializer) -> Tensor
  /// Whether the source can give this parameter, for parts that a model may do without.
  func has(_ name: String) -> Bool
}

/// Fills every parameter anew from a seed.
public final class FreshParameters: ParameterSource {
  private let generator: Generator

  /// A source whose numbers follow from the seed and the order of the requests.
  public init(seed: UInt64) { generator = Generator(seed: seed) }

  /// A new tensor, filled by its initialiser.
  public func parameter(_ name: String, shape: [Int], initializer: Initializer) -> Tensor {
    initializer.tensor(shape, generator: generator)
  }

  /// Always true.
  public func has(_ name: String) -> Bool { true }
}

/// Takes note of what a model asks for and gives it nothing: names and shapes of a model that need not fit in memory.
///
/// The model is good for nothing else.
public final class ParameterShapes: ParameterSource {
  /// Names and shapes, in the order in which they were asked for.
  public private(set) var all: [(name: String, shape: [Int])] = []

  /// An empty list.
  public init() {}

  /// A tensor without elements; name and shape are kept.
  public func parameter(_ name: String, shape: [Int], initializer: Initializer) -> Tensor {
    all.append((name, shape))
    return Tensor.shapeOnly(shape)
  }

  /// Always false: a model asks for nothing that it can do without.
  public func has(_ name: String) -> Bool { false }
}

/// A place in the tree of names from which a layer takes its parameters.
///
/// ```swift
/// init(_ scope: ParameterScope) {
///   query = Linear(384, 384, scope["query"])     // asks for …query.weight and …query.bias
/// }
/// ```
public struct ParameterScope {
  private let source: any ParameterSource
  /// Takes every parameter that is asked for.
  public let parameters: Parameters
  /// The path up to here, without a dot at its end; empty at the root.
  public let path: String

  /// The root of a tree.
  public init(_ source: any ParameterSource, parameters: Parameters = Parameters(), path: String = "") {
    self.source = source
    self.parameters = parameters
    self.path = path
  }

  /// The full name of something in this scope.
  public func name(_ leaf: String) -> String { path.isEmpty ? leaf : "\(path).\(leaf)" }

  /// A scope below this one; dots in the name are levels.
  public subscript(name: String) -> ParameterScope {
    ParameterScope(source, parameters: parameters, path: self.name(name))
  }

  /// A numbered scope below this one.
  public subscript(index: Int) -> ParameterScope { self["\(index)"] }

  /// Asks for a parameter.
  ///
  /// - Parameters:
  ///   - leaf: Its name below this scope.
  ///   - shape: The shape that the layer needs.
  ///   - initializer: What fills it when the source makes fresh ones.
  public func parameter(_ leaf: String, _ shape: [Int], _ initializer: Initializer) -> Tensor {
    let tensor = source.parameter(name(leaf), shape: shape, initializer: initializer)
    parameters.insert(name(leaf), tensor)
    return tensor
  }

  /// Whether the source has a parameter of this name below this scope.
  public func has(_ leaf: String) -> Bool { source.has(name(leaf)) }
}
