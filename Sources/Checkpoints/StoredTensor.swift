import Torch

/// Where a tensor lies in a file. Every number has been checked against the file by whoever made it.
struct StoredTensor: Sendable, Equatable {
  let dtype: DType
  let shape: [Int]
  /// Steps in elements for each dimension; nil when the elements lie in order without gaps.
  let strides: [Int]?
  /// From the first to behind the last byte that the tensor uses, counted from the start of the file.
  let range: Range<Int>

  init(dtype: DType, shape: [Int], strides: [Int]? = nil, range: Range<Int>) {
    self.dtype = dtype
    self.shape = shape
    self.strides = strides
    self.range = range
  }
}

extension MappedFile {
  /// Bytes that are converted at a time.
  private static let pieceSize = 4 << 20

  /// A tensor in the type it has in the file: on the file's own memory where it lies in order and aligned, else a copy.
  func tensor(_ stored: StoredTensor) throws -> Tensor {
    try withError {
      guard !stored.range.isEmpty else { return Tensor.zeros(stored.shape, dtype: stored.dtype) }
      if let strides = stored.strides {
        let elements = stored.range.count / stored.dtype.byteCount
        let span = try borrow(stored, shape: [elements])
        return Self.asStrided(.tensor(span), .ints(stored.shape), .ints(strides), .int(0)).contiguous()
      }
      return try borrow(stored, shape: stored.shape)
    }
  }

  private static let asStrided = Operator("aten::as_strided")

  private func borrow(_ stored: StoredTensor, shape: [Int]) throws -> Tensor {
    let start = UnsafeRawPointer(bytes.baseAddress!) + stored.range.lowerBound
    if Int(bitPattern: start) % stored.dtype.byteCount == 0 {
      return Tensor(borrowing: start, shape: shape, dtype: stored.dtype, owner: self)
    }
    let copy = AlignedMemory(byteCount: stored.range.count)
    try read(stored.range, into: copy.start)
    return Tensor(borrowing: copy.start, shape: shape, dtype: stored.dtype, owner: copy)
  }

  /// A tensor's bytes in order, a piece at a time and past the map: no page of the file stays in use.
  func forEachPiece(_ stored: StoredTensor, _ body: (UnsafeRawBufferPointer) throws -> Void) throws {
    guard stored.strides == nil else {
      let tensor = try tensor(stored)
      return try withError { try tensor.withBytes(body) }
    }
    let piece = AlignedMemory(byteCount: max(1, min(Self.pieceSize, stored.range.count)))
    var position = stored.range.lowerBound
    while position < stored.range.upperBound {
      let end = min(position + Self.pieceSize, stored.range.upperBound)
      try read(position..<end, into: piece.start)
      try body(UnsafeRawBufferPointer(start: piece.start, count: end - position))
      position = end
    }
  }

  /// A tensor in another type, in memory of its own. It is read a piece at a time and past the map: what stays in use is
  /// the result alone.
  func tensor(_ stored: StoredTensor, as dtype: DType) throws -> Tensor {
    guard dtype != stored.dtype, stored.strides == nil, !stored.range.isEmpty else {
      let tensor = try tensor(stored)
      return try withError { tensor.to(dtype) }
    }
    return try withError {
      let size = stored.dtype.byteCount
      let piece = AlignedMemory(byteCount: min(Self.pieceSize, stored.range.count))
      let result = Tensor.zeros([stored.range.count / size], dtype: dtype)
      var position = stored.range.lowerBound
      while position < stored.range.upperBound {
        let end = min(position + Self.pieceSize, stored.range.upperBound)
        try read(position..<end, into: piece.start)
        let elements = (end - position) / size
        let source = Tensor(borrowing: piece.start, shape: [elements], dtype: stored.dtype, owner: piece)
        result.narrow(0, (position - stored.range.lowerBound) / size, elements).copy(from: source)
        position = end
      }
      return result.reshaped(stored.shape)
    }
  }
}

/// Memory in which any element type may lie.
private final class AlignedMemory {
  let start: UnsafeMutableRawPointer

  init(byteCount: Int) { start = .allocate(byteCount: byteCount, alignment: 64) }

  deinit { start.deallocate() }
}
