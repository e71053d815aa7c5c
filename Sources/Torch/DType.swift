/// The element type of a ``Tensor``. Raw values are LibTorch's `c10::ScalarType` numbers.
public enum DType: Int32, Sendable, CaseIterable {
  case uint8 = 0
  case int8 = 1
  case int16 = 2
  case int32 = 3
  case int64 = 4
  case float16 = 5
  case float32 = 6
  case float64 = 7
  case bool = 11
  case bfloat16 = 15

  /// Bytes of one element.
  public var byteCount: Int {
    switch self {
    case .uint8, .int8, .bool: 1
    case .int16, .float16, .bfloat16: 2
    case .int32, .float32: 4
    case .int64, .float64: 8
    }
  }

  /// Whether values are floating-point numbers.
  public var isFloatingPoint: Bool {
    switch self {
    case .float16, .float32, .float64, .bfloat16: true
    case .uint8, .int8, .int16, .int32, .int64, .bool: false
    }
  }
}

/// A Swift number that a ``Tensor`` can be made of and read back as.
public protocol TensorScalar: Sendable, BitwiseCopyable {
  /// The element type of tensors that hold this number.
  static var dtype: DType { get }
}

extension Float: TensorScalar {
  /// `float32`.
  public static var dtype: DType { .float32 }
}
extension Double: TensorScalar {
  /// `float64`.
  public static var dtype: DType { .float64 }
}
extension UInt8: TensorScalar {
  /// `uint8`.
  public static var dtype: DType { .uint8 }
}
extension Int32: TensorScalar {
  /// `int32`.
  public static var dtype: DType { .int32 }
}
extension Int64: TensorScalar {
  /// `int64`.
  public static var dtype: DType { .int64 }
}
extension Int: TensorScalar {
  /// `int64`.
  public static var dtype: DType { .int64 }
}
