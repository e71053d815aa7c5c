extension Tensor {
  /// Element-wise sum with broadcasting.
  public static func + (a: Tensor, b: Tensor) -> Tensor { Ops.addTensor(.tensor(a), .tensor(b)) }
  /// Adds a number to every element.
  public static func + (a: Tensor, b: Double) -> Tensor { Ops.addScalar(.tensor(a), .double(b)) }
  /// Adds a number to every element.
  public static func + (a: Double, b: Tensor) -> Tensor { b + a }
  /// Element-wise difference with broadcasting.
  public static func - (a: Tensor, b: Tensor) -> Tensor { Ops.subTensor(.tensor(a), .tensor(b)) }
  /// Subtracts a number from every element.
  public static func - (a: Tensor, b: Double) -> Tensor { Ops.subScalar(.tensor(a), .double(b)) }
  /// Subtracts every element from a number.
  public static func - (a: Double, b: Tensor) -> Tensor { Ops.rsubScalar(.tensor(b), .double(a)) }
  /// Element-wise product with broadcasting.
  public static func * (a: Tensor, b: Tensor) -> Tensor { Ops.mulTensor(.tensor(a), .tensor(b)) }
  /// Multiplies every element by a number.
  public static func * (a: Tensor, b: Double) -> Tensor { Ops.mulScalar(.tensor(a), .double(b)) }
  /// Multiplies every element by a number.
  public static func * (a: Double, b: Tensor) -> Tensor { b * a }
  /// Element-wise quotient with broadcasting.
  public static func / (a: Tensor, b: Tensor) -> Tensor { Ops.divTensor(.tensor(a), .tensor(b)) }
  /// Divides every element by a number.
  public static func / (a: Tensor, b: Double) -> Tensor { Ops.divScalar(.tensor(a), .double(b)) }
  /// Divides a number by every element.
  public static func / (a: Double, b: Tensor) -> Tensor { Ops.reciprocal(.tensor(b)) * a }
  /// The negative of every element.
  public static prefix func - (a: Tensor) -> Tensor { Ops.neg(.tensor(a)) }

  /// self + a · b, in one pass over the memory.
  public func addingProduct(_ a: Tensor, _ b: Tensor) -> Tensor {
    Ops.addProduct(.tensor(self), .tensor(a), .tensor(b))
  }

  /// Adds in place, without a new tensor.
  public func add(inPlace other: Tensor) { _ = Ops.addInPlace(.tensor(self), .tensor(other)) }
  /// Multiplies in place, without a new tensor.
  public func multiply(inPlace other: Tensor) { _ = Ops.mulInPlace(.tensor(self), .tensor(other)) }

  /// Every element to the given power.
  public func pow(_ exponent: Double) -> Tensor { Ops.powScalar(.tensor(self), .double(exponent)) }
  /// A number to the power of every element.
  public static func pow(_ base: Double, _ exponent: Tensor) -> Tensor {
    Ops.scalarPow(.double(base), .tensor(exponent))
  }
  /// Products of pairs taken as complex numbers, with broadcasting: the last dimension of both is 2, real part first.
  ///
  /// A pair times (cos φ, sin φ) is that pair turned by φ. Makes one pass over the memory, and one for the gradient.
  public func complexProduct(_ other: Tensor) -> Tensor {
    let product = Ops.mulTensor(
      .tensor(Ops.viewAsComplex(.tensor(self))), .tensor(Ops.viewAsComplex(.tensor(other))))
    return Ops.viewAsReal(.tensor(product))
  }
  /// e to the power of every element.
  public func exp() -> Tensor { Ops.exp(.tensor(self)) }
  /// The natural logarithm of every element.
  public func log() -> Tensor { Ops.log(.tensor(self)) }
  /// The square root of every element.
  public func sqrt() -> Tensor { Ops.sqrt(.tensor(self)) }
  /// One over the square root of every element.
  public func rsqrt() -> Tensor { Ops.rsqrt(.tensor(self)) }
  /// The absolute value of every element.
  public func abs() -> Tensor { Ops.abs(.tensor(self)) }
  /// The cosine of every element, in radians.
  public func cos() -> Tensor { Ops.cos(.tensor(self)) }
  /// The sine of every element, in radians.
  public func sin() -> Tensor { Ops.sin(.tensor(self)) }
  /// Every element rounded to the nearest integer, halves to even.
  public func rounded() -> Tensor { Ops.round(.tensor(self)) }
  /// Every element limited to a range; a bound left out does not limit.
  public func clamped(min: Double? = nil, max: Double? = nil) -> Tensor {
    Ops.clamp(.tensor(self), min.map(OperatorArgument.double) ?? .none, max.map(OperatorArgument.double) ?? .none)
  }

  /// True where elements are equal.
  public func equal(_ other: Tensor) -> Tensor { Ops.eqTensor(.tensor(self), .tensor(other)) }
  /// True where elements equal a number.
  public func equal(_ value: Double) -> Tensor { Ops.eqScalar(.tensor(self), .double(value)) }
  /// True where elements differ from a number.
  public func notEqual(_ value: Double) -> Tensor { Ops.neScalar(.tensor(self), .double(value)) }
  /// True where elements are less than or equal to those of another tensor.
  public func lessOrEqual(_ other: Tensor) -> Tensor { Ops.leTensor(.tensor(self), .tensor(other)) }
  /// True where elements are below a number.
  public func less(_ value: Double) -> Tensor { Ops.ltScalar(.tensor(self), .double(value)) }
  /// True where elements are neither infinite nor NaN.
  public func isFinite() -> Tensor { Ops.isfinite(.tensor(self)) }
  /// The elements of `self` where the condition holds, else those of `other`.
  public func chosen(where condition: Tensor, else other: Tensor) -> Tensor {
    Ops.whereSelf(.tensor(condition), .tensor(self), .tensor(other))
  }
  /// A copy with a number wherever the mask holds.
  public func maskedFill(_ mask: Tensor, _ value: Double) -> Tensor {
    Ops.maskedFill(.tensor(self), .tensor(mask), .double(value))
  }
}
