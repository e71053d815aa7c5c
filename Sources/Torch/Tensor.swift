internal import CTorch
public import Foundation

/// An n-dimensional array with a run-time element type, on a device, that autograd can differentiate.
///
/// A tensor is a reference to LibTorch's own; assigning it shares storage. Operators do not throw: see ``withError(_:)``.
public final class Tensor: @unchecked Sendable {
  // LibTorch counts references atomically. Concurrent *mutation* of one tensor is the caller's to avoid.
  let handle: ct_tensor

  /// Takes ownership of a handle of the C interface.
  init(owning handle: ct_tensor) { self.handle = handle }

  deinit { ct_free(handle) }

  /// What an operator returns after a failure.
  static var invalid: Tensor { Tensor(owning: ct_tensor(ctx: nil)) }

  /// False for the result of an operator that failed, and for an absent result.
  public var isValid: Bool { handle.ctx != nil }

  /// Copies numbers into a new tensor.
  ///
  /// - Parameters:
  ///   - values: The elements, last dimension fastest; as many as `shape` says.
  ///   - shape: The sizes; one dimension of all the values when left out.
  public convenience init<Scalar: TensorScalar>(_ values: [Scalar], _ shape: [Int]? = nil) {
    let shape = shape ?? [values.count]
    precondition(shape.reduce(1, *) == values.count, "\(values.count) values do not fill the shape \(shape)")
    var out = ct_tensor(ctx: nil)
    let sizes = shape.map(Int64.init)
    values.withUnsafeBytes { bytes in
      _ = check(ct_copy_in(bytes.baseAddress, sizes, sizes.count, Scalar.dtype.rawValue, &out))
    }
    self.init(owning: out)
  }

  /// A tensor of no dimensions that holds one number.
  public convenience init<Scalar: TensorScalar>(_ value: Scalar) { self.init([value], []) }

  /// Borrows memory without a copy. The owner is kept alive for as long as any tensor uses the memory.
  ///
  /// - Parameters:
  ///   - memory: The first element, aligned for the type; at least `shape`'s product × the type's bytes.
  ///   - shape: The sizes.
  ///   - dtype: The element type.
  ///   - owner: What keeps the memory valid, a memory-mapped file for instance.
  public convenience init(borrowing memory: UnsafeRawPointer, shape: [Int], dtype: DType, owner: AnyObject) {
    var out = ct_tensor(ctx: nil)
    let sizes = shape.map(Int64.init)
    let retained = Unmanaged.passRetained(owner)
    let status = ct_wrap(
      UnsafeMutableRawPointer(mutating: memory), sizes, sizes.count, dtype.rawValue, retained.toOpaque(),
      { Unmanaged<AnyObject>.fromOpaque($0!).release() }, &out)
    if !check(status) { retained.release() }
    self.init(owning: out)
  }

  /// The number of dimensions.
  public var rank: Int { ct_rank(handle) }

  /// The sizes of all dimensions.
  public var shape: [Int] {
    let rank = rank
    return withUnsafeTemporaryAllocation(of: Int64.self, capacity: Swift.max(rank, 1)) { sizes in
      ct_sizes(handle, sizes.baseAddress!)
      return (0..<rank).map { Int(sizes[$0]) }
    }
  }

  /// The size of one dimension; a negative one counts from the end.
  public func size(_ dimension: Int) -> Int {
    let shape = shape
    let index = dimension < 0 ? shape.count + dimension : dimension
    return shape.indices.contains(index) ? shape[index] : 0
  }

  /// The number of elements.
  public var count: Int { isValid ? shape.reduce(1, *) : 0 }

  /// The element type. Types that ``DType`` does not name read as `float32` after a recorded error.
  public var dtype: DType {
    let raw = ct_dtype(handle)
    if let dtype = DType(rawValue: raw) { return dtype }
    if isValid { ErrorBox.record(TorchError("element type number \(raw) is not supported")) }
    return .float32
  }

  /// Where the elements lie: `cpu`, `cuda:0`, `mps:0` …
  public var device: String {
    var buffer = [CChar](repeating: 0, count: 64)
    guard isValid, check(ct_device(handle, &buffer, buffer.count)) else { return "none" }
    return String(decoding: buffer.prefix { $0 != 0 }.map(UInt8.init(bitPattern:)), as: UTF8.self)
  }

  /// Whether the elements lie in order without gaps.
  public var isContiguous: Bool { ct_is_contiguous(handle) }

  /// A copy of the elements, converted to the type asked for. Empty after a failure.
  public func values<Scalar: TensorScalar>(as type: Scalar.Type = Scalar.self) -> [Scalar] {
    let source = to(Scalar.dtype)
    let count = source.count
    guard count > 0 else { return [] }
    return [Scalar](unsafeUninitializedCapacity: count) { buffer, initialised in
      let bytes = count * MemoryLayout<Scalar>.stride
      initialised = check(ct_copy_out(source.handle, buffer.baseAddress, bytes)) ? count : 0
    }
  }

  /// A copy of the elements as raw little-endian bytes, in the tensor's own type.
  public func bytes() -> Data {
    var data = Data(count: count * dtype.byteCount)
    data.withUnsafeMutableBytes { buffer in
      if buffer.count > 0 { check(ct_copy_out(handle, buffer.baseAddress, buffer.count)) }
    }
    return data
  }

  /// Calls `body` with the elements in place when the tensor is contiguous and on the CPU, else with a copy.
  public func withBytes<Result>(_ body: (UnsafeRawBufferPointer) throws -> Result) rethrows -> Result {
    let source = isContiguous ? self : contiguous()
    guard let start = ct_data(source.handle) else { return try bytes().withUnsafeBytes(body) }
    defer { withExtendedLifetime(source) {} }
    return try body(UnsafeRawBufferPointer(start: start, count: source.count * source.dtype.byteCount))
  }

  /// The only element as a floating-point number; NaN after a failure.
  public var item: Double {
    var value = Double.nan
    check(ct_item(handle, &value))
    return value
  }

  /// The only element as an integer; 0 after a failure.
  public var intItem: Int {
    var value: Int64 = 0
    check(ct_item_int(handle, &value))
    return Int(value)
  }
}

extension Tensor: CustomStringConvertible {
  /// Type, shape and the first elements.
  public var description: String {
    guard isValid else { return "Tensor(invalid)" }
    let first = flattened().narrow(0, 0, Swift.min(count, 8)).values(as: Double.self).map { "\($0)" }
    return "Tensor(\(dtype), \(shape), [\(first.joined(separator: ", "))\(count > 8 ? ", …" : "")])"
  }
}
