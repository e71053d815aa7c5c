extension Tensor {
  /// The sum of all elements.
  public func sum() -> Tensor { Ops.sum(.tensor(self)) }
  /// Sums over one dimension.
  public func sum(_ dimension: Int, keepDimension: Bool = false) -> Tensor {
    Ops.sumDim(.tensor(self), .ints([dimension]), .bool(keepDimension))
  }
  /// The mean of all elements.
  public func mean() -> Tensor { Ops.mean(.tensor(self)) }
  /// Means over one dimension.
  public func mean(_ dimension: Int, keepDimension: Bool = false) -> Tensor {
    Ops.meanDim(.tensor(self), .ints([dimension]), .bool(keepDimension))
  }
  /// The standard deviation of all elements, divided by n − 1.
  public func std() -> Tensor { Ops.std(.tensor(self), .none, 1) }
  /// The largest element.
  public func max() -> Tensor { Ops.max(.tensor(self)) }
  /// The largest elements over one dimension; the gradient is shared evenly among ties.
  public func amax(_ dimension: Int, keepDimension: Bool = false) -> Tensor {
    Ops.amax(.tensor(self), .ints([dimension]), .bool(keepDimension))
  }
  /// The largest elements over one dimension and where they stand; the gradient goes to that one.
  public func max(_ dimension: Int) -> (values: Tensor, indices: Tensor) {
    let results = Ops.maxDim.results([.tensor(self), .int(dimension)], capacity: 2)
    return results.count == 2 ? (results[0], results[1]) : (.invalid, .invalid)
  }
  /// Where the largest element of one dimension stands, `int64`.
  public func argmax(_ dimension: Int) -> Tensor { Ops.argmax(.tensor(self), .int(dimension)) }
  /// The `k` largest elements of one dimension, largest first, and where they stand.
  public func topK(_ k: Int, _ dimension: Int = -1) -> (values: Tensor, indices: Tensor) {
    let results = Ops.topk.results([.tensor(self), .int(k), .int(dimension)], capacity: 2)
    return results.count == 2 ? (results[0], results[1]) : (.invalid, .invalid)
  }
  /// The elements of one dimension in order and where they stood.
  public func sorted(_ dimension: Int = -1, descending: Bool = false) -> (values: Tensor, indices: Tensor) {
    let results = Ops.sort.results([.tensor(self), .int(dimension), .bool(descending)], capacity: 2)
    return results.count == 2 ? (results[0], results[1]) : (.invalid, .invalid)
  }
  /// Running sums along a dimension.
  public func cumulativeSum(_ dimension: Int) -> Tensor { Ops.cumsum(.tensor(self), .int(dimension)) }
  /// Whether all elements are true (or non-zero).
  public func all() -> Tensor { Ops.all(.tensor(self)) }
  /// Whether any element is true (or non-zero).
  public func any() -> Tensor { Ops.any(.tensor(self)) }
  /// The Euclidean norm of all elements.
  public func norm() -> Tensor { Ops.vectorNorm(.tensor(self)) }
  /// Euclidean norms over one dimension.
  public func norm(_ dimension: Int, keepDimension: Bool = false) -> Tensor {
    Ops.vectorNorm(.tensor(self), 2, .ints([dimension]), .bool(keepDimension))
  }
  /// Vectors along a dimension scaled to length 1; those shorter than 1e-12 are divided by 1e-12.
  public func normalized(_ dimension: Int = -1) -> Tensor {
    self / norm(dimension, keepDimension: true).clamped(min: 1e-12)
  }
}
