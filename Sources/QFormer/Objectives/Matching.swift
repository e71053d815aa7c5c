public import Torch

/// Image–text matching, ITM, with hard negatives (BLIP-2, section 3.2).
public enum Matching {
  /// Draws, for every row, a column that does not belong to it, likelier the more similar it is.
  ///
  /// - Parameters:
  ///   - scores: `[B, B]` similarities after division by the temperature.
  ///   - ids: `int64 [B]`, equal for pairs of one image; else only the diagonal belongs together.
  ///   - uniformPart: The part that is drawn without regard to similarity, 0 … 1. BLIP-2 draws none so; small batches
  ///     and short trainings need easy negatives to learn from before the hard ones say anything.
  ///   - generator: The source of random numbers.
  /// - Returns: `int64 [B]`, or nil when some row has no negative at all.
  public static func hardNegatives(
    scores: Tensor, ids: Tensor? = nil, uniformPart: Double = 0, generator: Generator
  ) -> Tensor? {
    withNoGrad {
      let batch = scores.size(0)
      let ids = ids ?? .arange(batch)
      let belongs = ids.unsqueezed(0).equal(ids.unsqueezed(1))
      if belongs.to(.int64).sum(1).max().intItem == batch { return nil }
      // Positives must not be drawn even where every negative's weight underflows.
      let hard = (scores.detached().maskedFill(belongs, -10_000).softmax(1) + 1e-9).maskedFill(belongs, 0)
      guard uniformPart > 0 else { return hard.multinomial(1, generator: generator).squeezed(1) }
      let uniform = Tensor.ones([batch, batch]).maskedFill(belongs, 0)
      let weights =
        hard / hard.sum(1, keepDimension: true) * (1 - uniformPart) + uniform / uniform.sum(1, keepDimension: true)
        * uniformPart
      return weights.multinomial(1, generator: generator).squeezed(1)
    }
  }

  /// Cross-entropy of matching logits.
  ///
  /// - Parameters:
  ///   - logits: `[K, 2]`.
  ///   - positives: The first so many rows match, the others do not.
  public static func loss(logits: Tensor, positives: Int) -> Tensor {
    logits.crossEntropy(
      .cat([.ones([positives], dtype: .int64), .zeros([logits.size(0) - positives], dtype: .int64)], 0))
  }
}
