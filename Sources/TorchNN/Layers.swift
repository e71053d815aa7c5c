public import Torch

/// y = x Wᵀ + b over the last dimension.
public struct Linear: Sendable {
  /// `[out, in]`.
  public let weight: Tensor
  /// `[out]`.
  public let bias: Tensor?

  /// Takes `weight [out, in]` and, unless turned off, `bias [out]` from the scope.
  public init(
    _ inputs: Int, _ outputs: Int, _ scope: ParameterScope, bias: Bool = true,
    initializer: Initializer = .normal(standardDeviation: 0.02)
  ) {
    weight = scope.parameter("weight", [outputs, inputs], initializer)
    self.bias = bias ? scope.parameter("bias", [outputs], .zeros) : nil
  }

  /// `[…, in]` to `[…, out]`.
  public func callAsFunction(_ x: Tensor) -> Tensor { x.linear(weight, bias) }
}

/// Layer normalisation over the last dimension.
public struct LayerNorm: Sendable {
  /// `[D]`.
  public let weight: Tensor
  /// `[D]`.
  public let bias: Tensor
  /// Added to the variance.
  public let eps: Double

  /// Takes `weight [D]` and `bias [D]` from the scope.
  public init(_ width: Int, eps: Double, _ scope: ParameterScope) {
    weight = scope.parameter("weight", [width], .ones)
    bias = scope.parameter("bias", [width], .zeros)
    self.eps = eps
  }

  /// `[…, D]` to the same shape.
  public func callAsFunction(_ x: Tensor) -> Tensor { x.layerNorm(weight, bias, eps: eps) }
}

/// Root-mean-square normalisation over the last dimension (Zhang and Sennrich, arXiv 1910.07467).
public struct RMSNorm: Sendable {
  /// `[D]`.
  public let weight: Tensor
  /// Added to the mean square.
  public let eps: Double

  /// Takes `weight [D]` from the scope.
  public init(_ width: Int, eps: Double, _ scope: ParameterScope) {
    weight = scope.parameter("weight", [width], .ones)
    self.eps = eps
  }

  /// `[…, D]` to the same shape.
  public func callAsFunction(_ x: Tensor) -> Tensor { x.rmsNorm(weight, eps: eps) }
}

/// A table of vectors.
public struct Embedding: Sendable {
  /// `[rows, D]`.
  public let weight: Tensor

  /// Takes `weight [rows, D]` from the scope.
  public init(
    _ rows: Int, _ width: Int, _ scope: ParameterScope, initializer: Initializer = .normal(standardDeviation: 0.02)
  ) {
    weight = scope.parameter("weight", [rows, width], initializer)
  }

  /// `int64` indices of any shape to `[…, D]`.
  public func callAsFunction(_ indices: Tensor) -> Tensor { weight.embedding(indices) }
}
