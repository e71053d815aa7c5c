public import Torch

/// The three losses of BLIP-2's first stage on one batch, and their plain sum.
public struct ImageTextLosses: Sendable {
  /// Image–text contrastive loss.
  public let contrastive: Tensor
  /// Image–text matching loss; nil where the batch has no negatives or it was not asked for.
  public let matching: Tensor?
  /// Image-grounded text generation loss; nil where it was not asked for.
  public let generation: Tensor?

  /// The sum of those that were computed.
  public var total: Tensor { [matching, generation].compactMap { $0 }.reduce(contrastive, +) }
}

extension ImageTextQFormer {
  /// Computes ITC, ITM and ITG for a batch of pairs (BLIP-2, section 3.2).
  ///
  /// The image's cross-attention keys and values are projected once and shared by all three. Negatives are drawn over
  /// the batch.
  ///
  /// - Parameters:
  ///   - features: Encoder features `[B, N, Dv]`.
  ///   - ids: Texts `int64 [B, L]`, `[CLS]` … `[SEP]`, padded at the end.
  ///   - mask: `[B, L]`, 1 for text and 0 for padding.
  ///   - imageIDs: `int64 [B]` where images may repeat in the batch.
  ///   - generator: Draws the negatives.
  ///   - matchingPart: The part of the pairs that the matching loss is computed on, drawn anew; 0 for none. BLIP-2 takes
  ///     all; a part costs that much less.
  ///   - computesGeneration: Whether the generation loss is computed.
  ///   - labelSmoothing: The weight of the uniform distribution.
  ///   - isTraining: Whether dropout is on.
  /// - Throws: ``QFormerError`` for wrong shapes or a missing head.
  public func losses(
    features: Tensor, ids: Tensor, mask: Tensor, imageIDs: Tensor? = nil, generator: Generator,
    matchingPart: Double = 1, computesGeneration: Bool = true, labelSmoothing: Double = 0.1,
    isTraining: Bool = true
  ) throws -> ImageTextLosses {
    let image = try qformer.imageKeyValues(imageEmbeds(features))
    let seen = qformer.readImage(image, keepsKeyValues: computesGeneration, isTraining: isTraining)
    let text = textFeature(try qformer.readText(ids, mask: mask, isTraining: isTraining))
    let similarity = Contrastive.similarity(imageFeatures: imageFeatures(seen.hidden), textFeatures: text)
    let contrastive = Contrastive.loss(
      similarity: similarity, temperature: temperature, imageIDs: imageIDs, labelSmoothing: labelSmoothing)
    return ImageTextLosses(
      contrastive: contrastive,
      matching: matchingPart > 0
        ? try matchingLoss(
          image, ids, mask, scores: similarity / temperature, imageIDs: imageIDs, part: matchingPart,
          generator: generator, isTraining: isTraining) : nil,
      generation: computesGeneration
        ? try generationLoss(
          ids, mask, queries: seen.selfKeyValues, labelSmoothing: labelSmoothing, isTraining: isTraining) : nil)
  }

  /// 3 B pairs: texts [positive, positive, negative] with images [positive, negative, positive].
  private func matchingLoss(
    _ image: ImageKeyValues, _ ids: Tensor, _ mask: Tensor, scores: Tensor, imageIDs: Tensor?, part: Double,
    generator: Generator, isTraining: Bool
  ) throws -> Tensor? {
    let batch = ids.size(0)
    guard
      let negativeImages = Matching.hardNegatives(
        scores: scores.transposed(0, 1), ids: imageIDs, generator: generator),
      let negativeTexts = Matching.hardNegatives(scores: scores, ids: imageIDs, generator: generator)
    else { return nil }
    // All pairs, or a random part of them.
    let count = max(1, Int((Double(batch) * part).rounded()))
    let own =
      count < batch
      ? Tensor.ones([1, batch]).multinomial(count, generator: generator).reshaped(-1) : Tensor.arange(batch)
    let texts = Tensor.cat([own, own, negativeTexts.indexSelect(0, own)], 0)
    let pairs = try qformer.readImageAndText(
      image.select(.cat([own, negativeImages.indexSelect(0, own), own], 0)), ids.indexSelect(0, texts),
      mask: mask.indexSelect(0, texts),
      isTraining: isTraining)
    return Matching.loss(logits: matchingLogits(pairs.hidden), positives: count)
  }

  private func generationLoss(
    _ ids: Tensor, _ mask: Tensor, queries: [KeyValue], labelSmoothing: Double, isTraining: Bool
  ) throws -> Tensor {
    let start = Tensor.full([ids.size(0), 1], Double(qformer.decoderTokenID), dtype: .int64)
    let input = Tensor.cat([start, ids.slice(1, 1)], 1)
    let hidden = try qformer.causalText(input, mask: mask, queries: queries, isTraining: isTraining)
    return Generation.loss(
      logits: try generationLogits(hidden.slice(1, 0, -1)), targets: Generation.targets(ids: ids, mask: mask),
      labelSmoothing: labelSmoothing)
  }
}
