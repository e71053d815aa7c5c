public import Torch

/// Image–text contrastive learning, ITC (BLIP-2, section 3.2), and video–text, VTC.
public enum Contrastive {
  /// Similarity of every image with every text: the largest cosine over the image's queries, or another aggregation.
  ///
  /// - Parameters:
  ///   - imageFeatures: `[B, M, E]`, vectors of length 1.
  ///   - textFeatures: `[T, E]`, vectors of length 1.
  ///   - aggregation: Over the queries.
  /// - Returns: `[B, T]`, without temperature; the gradient of the largest goes to the best query.
  public static func similarity(
    imageFeatures: Tensor, textFeatures: Tensor, aggregation: QueryAggregation = .max
  ) -> Tensor {
    let (batch, queries) = (imageFeatures.size(0), imageFeatures.size(1))
    let all = imageFeatures.reshaped(batch * queries, -1).matmul(textFeatures.transposed(0, 1))
    let each = all.reshaped(batch, queries, -1)  // [B, M, T]
    switch aggregation {
    case .max: return each.max(1).values
    case .mean: return each.mean(1)
    case .summary: return each.select(1, queries - 1)
    }
  }

  /// Target probabilities `[B, B]` where some rows show the same image: equal ids share the weight.
  ///
  /// - Parameter ids: `int64 [B]`, equal for texts of one image.
  public static func softTargets(ids: Tensor) -> Tensor {
    let same = ids.unsqueezed(0).equal(ids.unsqueezed(1)).to(.float32)
    return same / same.sum(1, keepDimension: true)
  }

  /// The mean of both directions' cross-entropies over a batch of pairs.
  ///
  /// - Parameters:
  ///   - similarity: `[B, B]`; row i and column i belong together.
  ///   - temperature: Similarities are divided by it.
  ///   - imageIDs: `int64 [B]` where images may repeat; else every pair is an image of its own.
  ///   - labelSmoothing: The weight of the uniform distribution.
  public static func loss(
    similarity: Tensor, temperature: Tensor, imageIDs: Tensor? = nil, labelSmoothing: Double = 0.1
  ) -> Tensor {
    let scores = similarity / temperature
    let target = imageIDs.map(softTargets) ?? .arange(similarity.size(0))
    return
      (scores.crossEntropy(target, labelSmoothing: labelSmoothing)
      + scores.transposed(0, 1).crossEntropy(target, labelSmoothing: labelSmoothing)) * 0.5
  }
}
