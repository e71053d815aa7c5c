import Foundation
import Torch

/// What T5 adds to the attention scores for the distance of two tokens (Raffel et al., arXiv 1910.10683, section 2.1).
///
/// Small distances have a bucket each, larger ones share buckets that grow with the logarithm of the distance.
struct RelativePositions: Sendable {
  /// `[buckets, H]`.
  let table: Tensor
  /// Distances from here on share the last bucket.
  let maxDistance: Int
  /// Whether tokens behind have buckets of their own; in a decoder they are never seen.
  let isBidirectional: Bool

  init(_ table: Tensor, maxDistance: Int, isBidirectional: Bool) {
    self.table = table
    self.maxDistance = maxDistance
    self.isBidirectional = isBidirectional
  }

  /// Added to the scores of the tokens `start ..< start + length` over all tokens up to the last of them,
  /// `[1, H, length, start + length]`.
  func bias(start: Int, length: Int) -> Tensor {
    let all = start + length
    // Distances from the newest token back to the first one, and from the oldest query on to the last token.
    let (indices, distances) = withNoGrad {
      let queries = Tensor.arange(start, all).unsqueezed(1)  // [length, 1]
      let offsets = Tensor.arange(all).unsqueezed(0) - queries + Tensor(all - 1)  // [length, all]
      return (offsets.flattened(), Tensor.arange(1 - all, length))
    }
    let values = table.embedding(bucketNumbers(distances)).indexSelect(0, indices)  // [length · all, H]
    return values.reshaped(length, all, table.size(-1)).permuted(2, 0, 1).unsqueezed(0)
  }

  /// The bucket of each distance (position of the token that is seen minus that of the one that sees), `int64 [n]`.
  func bucketNumbers(_ distances: Tensor) -> Tensor {
    withNoGrad {
      let count = isBidirectional ? table.size(0) / 2 : table.size(0)
      let far = isBidirectional ? distances.abs() : (-distances).clamped(min: 0).to(.int64)
      let exact = count / 2
      // In float32 and in this order, as the models were trained: 16 tokens away lies on the border of two buckets.
      let steps = (far.to(.float32) / Double(exact)).log() / Foundation.log(Double(maxDistance) / Double(exact))
      let logarithmic = ((steps * Double(count - exact)).to(.int64) + Tensor(exact)).clamped(max: Double(count - 1))
      let buckets = far.chosen(where: far.less(Double(exact)), else: logarithmic.to(.int64))
      guard isBidirectional else { return buckets }
      let isAhead = (-distances).less(0)
      return buckets + isAhead.to(.int64) * Tensor(count)
    }
  }
}
