public import Torch

/// Image-grounded text generation, ITG (BLIP-2, section 3.2), and next-token losses in general.
public enum Generation {
  /// Number of positions that do not count, as LibTorch's cross-entropy expects it.
  public static let ignored = -100

  /// The targets of next-token prediction: each position's successor, ``ignored`` where that is padding.
  ///
  /// - Parameters:
  ///   - ids: `int64 [B, L]`.
  ///   - mask: `[B, L]`, 1 for text and 0 for padding.
  /// - Returns: `int64 [B, L − 1]`.
  public static func targets(ids: Tensor, mask: Tensor) -> Tensor {
    ids.slice(1, 1).maskedFill(mask.slice(1, 1).equal(0), Double(ignored))
  }

  /// Mean cross-entropy over all counted positions.
  ///
  /// - Parameters:
  ///   - logits: `[B, L, vocabulary]`.
  ///   - targets: `int64 [B, L]`.
  ///   - labelSmoothing: The weight of the uniform distribution.
  public static func loss(logits: Tensor, targets: Tensor, labelSmoothing: Double = 0.1) -> Tensor {
    logits.reshaped(-1, logits.size(-1))
      .crossEntropy(targets.reshaped(-1), labelSmoothing: labelSmoothing, ignoreIndex: ignored)
  }
}
