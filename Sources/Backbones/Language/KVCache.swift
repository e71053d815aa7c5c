public import Torch

/// Keys and values of the tokens that one generation has seen, for every layer of a causal language model.
///
/// Buffers grow in chunks, so that a step writes only its own tokens. Belongs to one generation; not thread-safe; holds
/// no gradients.
public final class KVCache {
  private struct Layer {
    var key: Tensor  // [B, H_kv, capacity, d]
    var value: Tensor
  }

  private var layers: [Layer?]
  /// S: tokens seen, padding included.
  public private(set) var length = 0
  /// `[B, S]`, 1 for tokens and 0 for padding; none as long as nothing was padded.
  private var mask: Tensor?
  private var batch: Int?

  /// An empty cache.
  ///
  /// - Parameter layers: Those of the model.
  public init(layers: Int) { self.layers = Array(repeating: nil, count: layers) }

  /// A cache of rows that all begin with the same text, which is not copied: the first new tokens get buffers of their own.
  init(_ prefix: TextPrefix, rows: Int) {
    layers = prefix.layerNumbers.map {
      let (key, value) = prefix.rows(rows, layer: $0)
      return Layer(key: key, value: value)
    }
    (length, batch) = (prefix.length, rows)
  }

  /// Keys and values of all layers, `[B, H_kv, S, d]` each; empty before anything was read.
  var contents: [(key: Tensor, value: Tensor)] {
    layers.compactMap { layer in
      layer.map { ($0.key.narrow(2, 0, length).cloned(), $0.value.narrow(2, 0, length).cloned()) }
    }
  }

  /// Writes the newest tokens of one layer and gives back all of them.
  ///
  /// - Parameters:
  ///   - layer: The number of the layer, from 0.
  ///   - key: `[B, H_kv, L, d]`, for the L tokens announced by ``attentionPlan(batch:length:mask:cache:)``.
  ///   - value: The same shape.
  /// - Returns: Keys and values `[B, H_kv, S, d]`, views of the cache.
  public func update(layer: Int, key: Tensor, value: Tensor) -> (key: Tensor, value: Tensor) {
    // After a failure there is nothing to keep: the open error scope has the reason.
    guard key.isValid, value.isValid else { return (key, value) }
    return withNoGrad {
      let shape = key.shape
      var state = layers[layer] ?? Layer(key: .zeros([shape[0], shape[1], 0, shape[3]]), value: .zeros([shape[0]]))
      if state.key.size(2) < length {
        // Whole chunks, and half as much again, so that growing stays cheap for long texts.
        let capacity = (max(length, state.key.size(2) * 3 / 2) + 63) / 64 * 64
        let kept = length - shape[2]
        func grown(_ old: Tensor) -> Tensor {
          let buffer = Tensor.zeros([shape[0], shape[1], capacity, shape[3]])
          if kept > 0 { buffer.narrow(2, 0, kept).copy(from: old.narrow(2, 0, kept)) }
          return buffer
        }
        state = Layer(key: grown(state.key), value: grown(state.value))
      }
      state.key.narrow(2, length - shape[2], shape[2]).copy(from: key)
      state.value.narrow(2, length - shape[2], shape[2]).copy(from: value)
      layers[layer] = state
      return (state.key.narrow(2, 0, length), state.value.narrow(2, 0, length))
    }
  }

  /// Keeps, repeats and reorders rows of the batch.
  ///
  /// - Parameter rows: For each new row the old row that it goes on from.
  public func reorder(_ rows: [Int]) {
    guard rows != Array(0..<(batch ?? 0)) else { return }
    let indices = Tensor(rows)
    for (number, layer) in layers.enumerated() {
      guard let layer else { continue }
      layers[number] = Layer(key: layer.key.indexSelect(0, indices), value: layer.value.indexSelect(0, indices))
    }
    mask = mask?.indexSelect(0, indices)
    batch = rows.count
  }

  /// Whether the rows are those seen before.
  fileprivate func accepts(batch: Int) -> Bool { self.batch == nil || self.batch == batch }

  /// Takes note of `count` new tokens for each row.
  ///
  /// - Returns: The mask over all tokens, `[B, S]`, if any was ever padding.
  fileprivate func extend(batch: Int, count: Int, mask new: Tensor?) -> Tensor? {
    self.batch = batch
    if mask != nil || new != nil {
      let past = mask ?? .ones([batch, length])
      mask = Tensor.cat([past, new ?? .ones([batch, count])], 1)
    }
    length += count
    return mask
  }
}

/// Where new keys and values of a layer go, `[B, H_kv, L, d]` each, and what its queries see, `[B, H_kv, S, d]`.
public typealias RememberKeyValues = (_ layer: Int, _ key: Tensor, _ value: Tensor) -> (key: Tensor, value: Tensor)
/// The same within one layer.
typealias Remember = (_ key: Tensor, _ value: Tensor) -> (key: Tensor, value: Tensor)

/// What the attention layers of a causal model share in one pass.
public struct AttentionPlan {
  /// Added to the scores, `[B, 1, L, S]`: 0 where a token is seen, a very negative number elsewhere. None when nothing is
  /// hidden, or when ``isCausal`` says it all.
  public let mask: Tensor?
  /// Row i sees columns 0 … i.
  public let isCausal: Bool
  /// The position of the first new token when nothing is padded.
  public let start: Int
  /// Positions `int64 [B, L]` when something is padded: tokens before this one in its row, padding not counted.
  public let positions: Tensor?

  init(mask: Tensor?, isCausal: Bool, start: Int, positions: Tensor?) {
    self.mask = mask
    self.isCausal = isCausal
    self.start = start
    self.positions = positions
  }

  /// Masks and positions of the caller's own, for several texts in one row for instance.
  ///
  /// - Parameters:
  ///   - seen: `[B, L, S]`, 1 where the token of the row sees the token of the column and 0 elsewhere; S is L, or more by
  ///     the tokens of a ``TextPrefix``, whose columns come first.
  ///   - positions: `int64 [B, L]`.
  public init(seen: Tensor, positions: Tensor) {
    mask = withNoGrad { ((seen.to(.float32) - 1) * -Self.hidden).unsqueezed(1) }
    isCausal = false
    start = 0
    self.positions = positions
  }

  /// Hidden scores get this much; finite, so that the rows of padding do not turn into NaN.
  static let hidden = -1e9
}

/// Works out masks and positions of L new tokens, and announces them to the cache.
///
/// Padding on the right costs nothing without a cache: tokens never see what comes after them.
/// - Parameters:
///   - batch: B, the number of rows.
///   - length: L, the number of new tokens.
///   - mask: `[B, L]` of any type, 1 for tokens and 0 for padding on either side.
///   - cache: What was seen before.
/// - Returns: None after a failure: a mask of another shape, or a cache of another batch.
public func attentionPlan(batch: Int, length: Int, mask: Tensor?, cache: KVCache?) -> AttentionPlan? {
  withNoGrad {
    var mask = mask?.to(.float32)
    if let found = mask?.shape, found != [batch, length] {
      _ = Tensor.failed("expected an attention mask [\(batch), \(length)], found \(found)")
      return nil
    }
    if let given = mask, given.isValid {
      let isRightPadded = length < 2 || given.slice(1, 1).lessOrEqual(given.slice(1, 0, -1)).all().intItem != 0
      if given.all().intItem != 0 || cache == nil && isRightPadded { mask = nil }
    }
    let start = cache?.length ?? 0
    if let cache {
      guard cache.accepts(batch: batch) else {
        _ = Tensor.failed("the cache holds another number of rows than \(batch)")
        return nil
      }
      mask = cache.extend(batch: batch, count: length, mask: mask)
    }
    if mask == nil, start == 0 { return AttentionPlan(mask: nil, isCausal: length > 1, start: 0, positions: nil) }
    if mask == nil, length == 1 { return AttentionPlan(mask: nil, isCausal: false, start: start, positions: nil) }
    // Rows start … start + L − 1 of the triangle over all S = start + L tokens.
    var seen = Tensor.causal(start + length).slice(0, start).reshaped(1, 1, length, start + length)
    var positions: Tensor?
    if let mask {
      seen = seen * mask.reshaped(batch, 1, 1, start + length)
      positions = (mask.cumulativeSum(1) - 1).clamped(min: 0).slice(1, start).to(.int64)
    }
    return AttentionPlan(
      mask: (seen - 1) * -AttentionPlan.hidden, isCausal: false, start: start, positions: positions)
  }
}
