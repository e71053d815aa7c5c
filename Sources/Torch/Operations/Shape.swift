extension Tensor {
  /// The elements in another shape; one size may be −1.
  public func reshaped(_ shape: Int...) -> Tensor { reshaped(shape) }
  /// The elements in another shape; one size may be −1.
  public func reshaped(_ shape: [Int]) -> Tensor { Ops.reshape(.tensor(self), .ints(shape)) }
  /// All elements in one dimension.
  public func flattened() -> Tensor { reshaped([-1]) }
  /// Two dimensions exchanged.
  public func transposed(_ a: Int, _ b: Int) -> Tensor { Ops.transpose(.tensor(self), .int(a), .int(b)) }
  /// The dimensions in a new order.
  public func permuted(_ order: Int...) -> Tensor { Ops.permute(.tensor(self), .ints(order)) }
  /// A view with sizes of 1 repeated; −1 keeps a size.
  public func expanded(_ shape: Int...) -> Tensor { Ops.expand(.tensor(self), .ints(shape)) }
  /// A new dimension of size 1.
  public func unsqueezed(_ dimension: Int) -> Tensor { Ops.unsqueeze(.tensor(self), .int(dimension)) }
  /// Without a dimension of size 1.
  public func squeezed(_ dimension: Int) -> Tensor { Ops.squeeze(.tensor(self), .int(dimension)) }
  /// One index of a dimension, which disappears.
  public func select(_ dimension: Int, _ index: Int) -> Tensor {
    Ops.select(.tensor(self), .int(dimension), .int(index))
  }
  /// A range of a dimension: `start ..< end`, negative from the end; the whole rest without an end.
  public func slice(_ dimension: Int, _ start: Int, _ end: Int? = nil, step: Int = 1) -> Tensor {
    Ops.slice(.tensor(self), .int(dimension), .int(start), .int(end ?? Int.max), .int(step))
  }
  /// `length` indices of a dimension from `start`.
  public func narrow(_ dimension: Int, _ start: Int, _ length: Int) -> Tensor {
    slice(dimension, start, start + length)
  }
  /// Tensors joined along a dimension.
  public static func cat(_ tensors: [Tensor], _ dimension: Int) -> Tensor {
    Ops.cat(.tensors(tensors), .int(dimension))
  }
  /// Tensors of one shape joined along a new dimension.
  public static func stack(_ tensors: [Tensor], _ dimension: Int = 0) -> Tensor {
    Ops.stack(.tensors(tensors), .int(dimension))
  }
  /// Equal parts along a dimension. Exactly `parts` of them, or none after a failure.
  public func chunked(_ parts: Int, _ dimension: Int) -> [Tensor] {
    Ops.chunk.results([.tensor(self), .int(parts), .int(dimension)], capacity: parts)
  }
  /// The order along a dimension reversed.
  public func flipped(_ dimension: Int) -> Tensor { Ops.flip(.tensor(self), .ints([dimension])) }
  /// Every index of a dimension repeated in place: a, a, b, b.
  public func repeatInterleaved(_ times: Int, _ dimension: Int) -> Tensor {
    Ops.repeatInterleave(.tensor(self), .int(times), .int(dimension))
  }
  /// The whole tensor repeated along its dimensions: a, b, a, b.
  public func repeated(_ times: Int...) -> Tensor { Ops.repeated(.tensor(self), .ints(times)) }
  /// The given indices `int64 [k]` of a dimension; gradient flows to the source.
  public func indexSelect(_ dimension: Int, _ indices: Tensor) -> Tensor {
    Ops.indexSelect(.tensor(self), .int(dimension), .tensor(indices))
  }
  /// Picks along a dimension by an index tensor of the same rank.
  public func gather(_ dimension: Int, _ indices: Tensor) -> Tensor {
    Ops.gather(.tensor(self), .int(dimension), .tensor(indices))
  }
}
