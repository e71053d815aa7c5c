internal import CTorch

/// One argument of an ``Operator``.
public enum OperatorArgument {
  /// LibTorch's `None`.
  case none
  /// A tensor; `nil` is `None`.
  case tensor(Tensor?)
  /// An integer or an integer scalar.
  case int(Int)
  /// A floating-point number or scalar.
  case double(Double)
  /// A truth value.
  case bool(Bool)
  /// A list of integers: sizes, dimensions.
  case ints([Int])
  /// A list of floating-point numbers.
  case doubles([Double])
  /// A list of tensors.
  case tensors([Tensor])
  /// A list of tensors, some of which may be absent (`Tensor?[]`).
  case optionalTensors([Tensor?])
  /// A string, or a device where the schema asks for one.
  case string(String)
  /// A random generator.
  case generator(Generator?)
  /// An element type.
  case dtype(DType?)
}

extension OperatorArgument: ExpressibleByIntegerLiteral, ExpressibleByFloatLiteral, ExpressibleByBooleanLiteral,
  ExpressibleByNilLiteral
{
  /// An integer argument.
  public init(integerLiteral value: Int) { self = .int(value) }
  /// A floating-point argument.
  public init(floatLiteral value: Double) { self = .double(value) }
  /// A truth-value argument.
  public init(booleanLiteral value: Bool) { self = .bool(value) }
  /// `None`.
  public init(nilLiteral: ()) { self = .none }
}

/// An operator of LibTorch, found by its schema name; every one that LibTorch has can be called.
///
/// ```swift
/// static let gelu = Operator("aten::gelu")
/// let y = gelu(.tensor(x))
/// ```
///
/// Autograd records calls like any other. Arguments left out at the end take the schema's defaults. Make each operator
/// once (`static let`): finding it costs more than calling it.
public struct Operator: @unchecked Sendable {
  /// The schema's name with overload, as in `aten::add.Tensor`.
  public let name: String
  private let handle: ct_operator
  private let missing: TorchError?

  /// Finds an operator. One that does not exist fails when it is called, not here.
  public init(_ name: String, _ overload: String = "") {
    self.name = overload.isEmpty ? name : "\(name).\(overload)"
    var handle = ct_operator(ctx: nil)
    missing = ct_find(name, overload, &handle) == 0 ? nil : .last
    self.handle = handle
  }

  /// Calls the operator and returns its first result.
  public func callAsFunction(_ arguments: OperatorArgument...) -> Tensor {
    results(arguments, capacity: 8).first ?? Tensor.invalid
  }

  /// Calls the operator and returns all its results, lists flattened. None after a failure.
  ///
  /// - Parameters:
  ///   - arguments: In the schema's order.
  ///   - capacity: The largest number of results to make room for.
  public func results(_ arguments: [OperatorArgument], capacity: Int) -> [Tensor] {
    if let missing {
      ErrorBox.record(missing)
      return []
    }
    // All lists share one scratch array for each kind, so that every pointer stays valid during the call.
    var integers: [Int64] = []
    var doubles: [Double] = []
    var tensors: [ct_tensor] = []
    var bytes: [UInt8] = []
    for argument in arguments {
      switch argument {
      case .ints(let values): integers.append(contentsOf: values.map(Int64.init))
      case .doubles(let values): doubles.append(contentsOf: values)
      case .tensors(let values): tensors.append(contentsOf: values.map(\.handle))
      case .optionalTensors(let values): tensors.append(contentsOf: values.map { $0?.handle ?? ct_tensor(ctx: nil) })
      case .string(let value): bytes.append(contentsOf: value.utf8)
      default: break
      }
    }
    return integers.withUnsafeBufferPointer { integers in
      doubles.withUnsafeBufferPointer { doubles in
        tensors.withUnsafeBufferPointer { tensors in
          bytes.withUnsafeBufferPointer { bytes in
            var cursor = (integers: 0, doubles: 0, tensors: 0, bytes: 0)
            func list<Element>(
              _ tag: ct_tag, _ buffer: UnsafeBufferPointer<Element>, _ start: inout Int, _ count: Int
            ) -> ct_value {
              defer { start += count }
              var value = ct_value()
              value.tag = tag
              value.pointer = count == 0 ? nil : UnsafeRawPointer(buffer.baseAddress! + start)
              value.count = count
              return value
            }
            let values = arguments.map { argument -> ct_value in
              var value = ct_value()
              switch argument {
              case .none: value.tag = CT_NONE
              case .tensor(let tensor):
                value.tag = tensor == nil ? CT_NONE : CT_TENSOR
                if let tensor { value.tensor = tensor.handle }
                // An invalid tensor must not pass for an absent one.
                if let tensor, !tensor.isValid { value.tag = CT_INVALID }
              case .int(let number):
                value.tag = CT_INT
                value.i = Int64(number)
              case .double(let number):
                value.tag = CT_DOUBLE
                value.d = number
              case .bool(let flag):
                value.tag = CT_BOOL
                value.i = flag ? 1 : 0
              case .dtype(let dtype):
                value.tag = dtype == nil ? CT_NONE : CT_INT
                value.i = Int64(dtype?.rawValue ?? 0)
              case .generator(let generator):
                value.tag = generator == nil ? CT_NONE : CT_GENERATOR
                if let generator { value.generator = generator.handle }
              case .ints(let list_): value = list(CT_INTS, integers, &cursor.integers, list_.count)
              case .doubles(let list_): value = list(CT_DOUBLES, doubles, &cursor.doubles, list_.count)
              case .tensors(let list_): value = list(CT_TENSORS, tensors, &cursor.tensors, list_.count)
              case .optionalTensors(let list_):
                value = list(CT_OPTIONAL_TENSORS, tensors, &cursor.tensors, list_.count)
                if list_.contains(where: { $0?.isValid == false }) { value.tag = CT_INVALID }
              case .string(let text): value = list(CT_STRING, bytes, &cursor.bytes, text.utf8.count)
              }
              return value
            }
            return withUnsafeTemporaryAllocation(of: ct_tensor.self, capacity: capacity) { out in
              var written = 0
              let status = ct_call(handle, values, values.count, out.baseAddress!, capacity, &written)
              guard check(status) else { return [] }
              return (0..<written).map { Tensor(owning: out[$0]) }
            }
          }
        }
      }
    }
  }
}
