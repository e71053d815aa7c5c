extension Tensor {
  /// Zeros of the given shape.
  public static func zeros(_ shape: [Int], dtype: DType = .float32) -> Tensor {
    Ops.zeros(.ints(shape), .dtype(dtype))
  }

  /// A tensor that has a shape and a type but no elements and takes no memory: operators on it compute shapes alone.
  public static func shapeOnly(_ shape: [Int], dtype: DType = .float32) -> Tensor {
    Ops.expand(.tensor(zeros([], dtype: dtype).to(device: "meta")), .ints(shape))
  }

  /// Ones of the given shape.
  public static func ones(_ shape: [Int], dtype: DType = .float32) -> Tensor { full(shape, 1, dtype: dtype) }

  /// One number everywhere.
  public static func full(_ shape: [Int], _ value: Double, dtype: DType = .float32) -> Tensor {
    Ops.full(.ints(shape), .double(value), .dtype(dtype))
  }

  /// The integers `start ..< end` as `int64`.
  public static func arange(_ start: Int, _ end: Int) -> Tensor {
    Ops.arange(.int(start), .int(end), 1, .dtype(.int64))
  }

  /// The integers `0 ..< end` as `int64`.
  public static func arange(_ end: Int) -> Tensor { arange(0, end) }

  /// Normal random numbers of mean 0 and standard deviation 1 in `float32`.
  public static func randn(_ shape: [Int], generator: Generator? = nil) -> Tensor {
    Ops.randn(.ints(shape), .generator(generator))
  }

  /// Uniform random numbers in [0, 1) in `float32`.
  public static func rand(_ shape: [Int], generator: Generator? = nil) -> Tensor {
    Ops.rand(.ints(shape), .generator(generator))
  }

  /// Draws column numbers from rows of weights.
  ///
  /// - Parameters:
  ///   - count: Draws from each row, without replacement.
  ///   - generator: The source of random numbers; ``Generator/default`` when left out.
  /// - Returns: `int64`, `[rows, count]` for weights `[rows, columns]`.
  public func multinomial(_ count: Int, generator: Generator? = nil) -> Tensor {
    Ops.multinomial(.tensor(self), .int(count), false, .generator(generator))
  }

  /// The identity matrix `[n, n]` in `float64`.
  public static func identity(_ n: Int) -> Tensor { Ops.eye(.int(n), .dtype(.float64)) }

  /// A lower-triangular matrix of ones, `[n, n]`: row i sees columns 0 … i.
  public static func causal(_ n: Int) -> Tensor { Ops.tril(.tensor(ones([n, n]))) }

  /// This tensor in another element type; itself when it has that type already.
  public func to(_ dtype: DType) -> Tensor { Ops.to(.tensor(self), .dtype(dtype)) }

  /// This tensor on another device, such as `cpu` or `cuda:0`.
  public func to(device: String) -> Tensor { Ops.toDevice(.tensor(self), .string(device), .dtype(dtype)) }

  /// A copy in storage of its own.
  public func cloned() -> Tensor { Ops.clone(.tensor(self)) }

  /// The same elements in order without gaps; itself when they are already.
  public func contiguous() -> Tensor { Ops.contiguous(.tensor(self)) }

  /// Overwrites the elements with those of a tensor of the same or a broadcastable shape.
  public func copy(from source: Tensor) { _ = Ops.copy(.tensor(self), .tensor(source)) }

  /// Overwrites the elements with zeros.
  public func zero() { _ = Ops.zeroInPlace(.tensor(self)) }
}
