extension Tensor {
  /// Matrix product over the last two dimensions, with broadcasting over the others.
  public func matmul(_ other: Tensor) -> Tensor { Ops.matmul(.tensor(self), .tensor(other)) }

  /// x of `self · x = right`, for a square matrix.
  public func solve(_ right: Tensor) -> Tensor { Ops.solve(.tensor(self), .tensor(right)) }

  /// Eigenvalues in ascending order and eigenvectors, in columns, of a symmetric matrix.
  public func symmetricEigen() -> (values: Tensor, vectors: Tensor) {
    let results = Ops.eigh.results([.tensor(self)], capacity: 2)
    return results.count == 2 ? (results[0], results[1]) : (.invalid, .invalid)
  }

  /// U, the singular values in descending order, and Vᵀ of a matrix: `self = U · diag(S) · Vᵀ`, of the smaller side.
  public func singularValues() -> (u: Tensor, s: Tensor, vt: Tensor) {
    let results = Ops.svd.results([.tensor(self), .bool(false)], capacity: 3)
    return results.count == 3 ? (results[0], results[1], results[2]) : (.invalid, .invalid, .invalid)
  }

  /// `self · weightᵀ + bias` over the last dimension: `[…, in]` and `[out, in]` give `[…, out]`.
  public func linear(_ weight: Tensor, _ bias: Tensor? = nil) -> Tensor {
    Ops.linear(.tensor(self), .tensor(weight), .tensor(bias))
  }

  /// Rows of a table: `self` is the table `[rows, D]`, the indices `int64` of any shape; gives `[…, D]`.
  public func embedding(_ indices: Tensor) -> Tensor { Ops.embedding(.tensor(self), .tensor(indices)) }

  /// Layer normalisation over the last dimension (Ba et al., arXiv 1607.06450).
  public func layerNorm(_ weight: Tensor?, _ bias: Tensor?, eps: Double) -> Tensor {
    Ops.layerNorm(.tensor(self), .ints([size(-1)]), .tensor(weight), .tensor(bias), .double(eps))
  }

  /// Root-mean-square normalisation over the last dimension (Zhang and Sennrich, arXiv 1910.07467).
  public func rmsNorm(_ weight: Tensor?, eps: Double) -> Tensor {
    Ops.rmsNorm(.tensor(self), .ints([size(-1)]), .tensor(weight), .double(eps))
  }

  /// Gaussian error linear unit, exact with erf (Hendrycks and Gimpel, arXiv 1606.08415).
  public func gelu() -> Tensor { Ops.gelu(.tensor(self)) }

  /// Gaussian error linear unit by tanh, ½x(1 + tanh(√(2/π)(x + 0.044715x³))): the same paper's approximation.
  public func tanhGELU() -> Tensor { Ops.gelu(.tensor(self), .string("tanh")) }

  /// The larger of x and 0.
  public func relu() -> Tensor { Ops.relu(.tensor(self)) }

  /// 1 / (1 + e⁻ˣ).
  public func sigmoid() -> Tensor { Ops.sigmoid(.tensor(self)) }

  /// x · sigmoid(x).
  public func silu() -> Tensor { Ops.silu(.tensor(self)) }

  /// Softmax along a dimension.
  public func softmax(_ dimension: Int = -1) -> Tensor { Ops.softmax(.tensor(self), .int(dimension)) }

  /// Logarithm of the softmax along a dimension.
  public func logSoftmax(_ dimension: Int = -1) -> Tensor { Ops.logSoftmax(.tensor(self), .int(dimension)) }

  /// Sets elements to zero with the given probability and scales the others up. Uses ``Generator/default``.
  public func dropout(_ probability: Double) -> Tensor {
    probability > 0 ? Ops.dropout(.tensor(self), .double(probability), true) : self
  }

  /// Mean cross-entropy of logits against class numbers or class probabilities.
  ///
  /// - Parameters:
  ///   - target: `int64 [n]` class numbers, or `[n, classes]` probabilities, for logits `[n, classes]`.
  ///   - labelSmoothing: The weight given to the uniform distribution (Szegedy et al., arXiv 1512.00567).
  ///   - ignoreIndex: Class number of rows that do not count.
  public func crossEntropy(_ target: Tensor, labelSmoothing: Double = 0, ignoreIndex: Int = -100) -> Tensor {
    Ops.crossEntropy(.tensor(self), .tensor(target), .none, 1, .int(ignoreIndex), .double(labelSmoothing))
  }

  /// softmax(self · keyᵀ · scale + mask) · value (Vaswani et al., arXiv 1706.03762).
  ///
  /// - Parameters:
  ///   - key: `[B, H, S, d]` for a query `[B, H, L, d]`.
  ///   - value: `[B, H, S, d]`.
  ///   - mask: Added to the scores, broadcastable to `[B, H, L, S]`; finite, so that no row turns into NaN.
  ///   - causal: Row i sees columns 0 … i; exclusive with a mask.
  ///   - dropout: Probability of dropping an attention weight.
  ///   - scale: 1/√d when left out.
  ///   - groupedQuery: Keys and values have fewer heads, each serving H / H_kv query heads in order.
  public func attention(
    _ key: Tensor, _ value: Tensor, mask: Tensor? = nil, causal: Bool = false, dropout: Double = 0,
    scale: Double? = nil, groupedQuery: Bool = false
  ) -> Tensor {
    Ops.attention(
      .tensor(self), .tensor(key), .tensor(value), .tensor(mask), .double(dropout), .bool(causal),
      scale.map(OperatorArgument.double) ?? .none, .bool(groupedQuery))
  }

  /// One-dimensional convolution: `[B, C, T]` and a kernel `[out, C, k]` give `[B, out, (T + 2 · padding − k) / stride + 1]`.
  ///
  /// - Parameters:
  ///   - weight: `[out, C, k]`.
  ///   - bias: `[out]`.
  ///   - stride: Steps from one result to the next.
  ///   - padding: Zeros before the first and after the last step.
  public func conv1d(_ weight: Tensor, _ bias: Tensor?, stride: Int = 1, padding: Int = 0) -> Tensor {
    Ops.conv1d(.tensor(self), .tensor(weight), .tensor(bias), .ints([stride]), .ints([padding]))
  }

  /// Two-dimensional convolution: `[B, C, H, W]` and a kernel `[out, C, h, w]`, without padding.
  public func conv2d(_ weight: Tensor, _ bias: Tensor?, stride: Int) -> Tensor {
    Ops.conv2d(.tensor(self), .tensor(weight), .tensor(bias), .ints([stride, stride]))
  }

  /// Bicubic resize of `[B, C, H, W]` with a = −0.75 and no antialias, as `interpolate(mode="bicubic")`.
  public func bicubic(height: Int, width: Int, alignCorners: Bool = false) -> Tensor {
    Ops.bicubic(.tensor(self), .ints([height, width]), .bool(alignCorners), .none, .none)
  }

  /// Bicubic resize of `[B, C, H, W]` with antialias and a = −0.5, as Pillow resizes pictures.
  public func bicubicAntialiased(height: Int, width: Int) -> Tensor {
    Ops.bicubicAntialias(.tensor(self), .ints([height, width]), false, .none, .none)
  }
}

/// One AdamW step over many tensors at once (Loshchilov and Hutter, arXiv 1711.05101), in place.
///
/// - Parameters:
///   - parameters: The weights; gradients, moments and step counters (`float32 []`) in the same order.
///   - gradients: One for each parameter.
///   - firstMoments: Running means of gradients, updated.
///   - secondMoments: Running means of squared gradients, updated.
///   - steps: Step counters `float32 []`, counted up by the caller.
///   - learningRate: Of this step.
///   - beta1: Decay of the first moment.
///   - beta2: Decay of the second moment.
///   - weightDecay: Decoupled weight decay.
///   - eps: Added to the denominator.
public func fusedAdamW(
  _ parameters: [Tensor], gradients: [Tensor], firstMoments: [Tensor], secondMoments: [Tensor], steps: [Tensor],
  learningRate: Double, beta1: Double, beta2: Double, weightDecay: Double, eps: Double
) {
  _ = Ops.fusedAdamW.results(
    [
      .tensors(parameters), .tensors(gradients), .tensors(firstMoments), .tensors(secondMoments), .tensors([]),
      .tensors(steps), .double(learningRate), .double(beta1), .double(beta2), .double(weightDecay), .double(eps),
      false, false,
    ], capacity: 1)
}
