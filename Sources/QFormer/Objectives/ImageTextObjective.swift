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
  /// The image's cross-attention keys and values are projected once and shared by all three losses, and by all texts of
  /// an image. Negatives are drawn over the batch.
  ///
  /// - Parameters:
  ///   - features: Encoder features `[I, N, Dv]`.
  ///   - ids: Texts `int64 [B, L]`, `[CLS]` … `[SEP]`, padded at the end.
  ///   - mask: `[B, L]`, 1 for text and 0 for padding.
  ///   - imageOfText: For each text the row of its image in `features`; when left out, I = B and each text has its own.
  ///   - imageIDs: `int64 [B]`, equal for texts of one image; when left out they follow from `imageOfText`.
  ///   - generator: Draws the negatives, and the parts.
  ///   - matchingPart: The part of the pairs that the matching loss is computed on, drawn anew; 0 for none. BLIP-2 takes
  ///     all; a part costs that much less.
  ///   - uniformNegatives: The part of the matching loss's negatives that is drawn without regard to similarity.
  ///   - generationPart: The same for the generation loss.
  ///   - labelSmoothing: Of the contrastive and the generation loss.
  ///   - isTraining: Whether dropout is on.
  /// - Throws: ``QFormerError`` for wrong shapes or a missing head.
  public func losses(
    features: Tensor, ids: Tensor, mask: Tensor, imageOfText: [Int]? = nil, imageIDs: Tensor? = nil,
    generator: Generator, matchingPart: Double = 1, uniformNegatives: Double = 0, generationPart: Double = 1,
    labelSmoothing: Double = 0.1, isTraining: Bool = true
  ) throws -> ImageTextLosses {
    let batch = ids.size(0)
    let images = imageOfText.map { Tensor($0) }
    let imageIDs = imageIDs ?? images
    guard images?.size(0) ?? features.size(0) == batch else {
      throw QFormerError.wrongShape(
        what: "texts", expected: "one for each of \(images?.size(0) ?? features.size(0)) pairs", found: ids.shape)
    }
    let image = try qformer.imageKeyValues(imageEmbeds(features))
    let seen = qformer.readImage(image, keepsKeyValues: generationPart > 0, isTraining: isTraining)
    let text = textFeature(try qformer.readText(ids, mask: mask, isTraining: isTraining))
    let ofImages = Contrastive.similarity(imageFeatures: imageFeatures(seen.hidden), textFeatures: text)  // [I, B]
    let similarity = images.map { ofImages.indexSelect(0, $0) } ?? ofImages  // [B, B]
    let pairs = Pairs(ids: ids, mask: mask, image: images ?? .arange(batch), imageIDs: imageIDs)
    return ImageTextLosses(
      contrastive: Contrastive.loss(
        similarity: similarity, temperature: temperature, imageIDs: imageIDs, labelSmoothing: labelSmoothing),
      matching: try matchingLoss(
        pairs, image, scores: similarity / temperature, part: matchingPart, uniformPart: uniformNegatives,
        generator: generator, isTraining: isTraining),
      generation: try generationLoss(
        pairs, queries: seen.selfKeyValues, part: generationPart, generator: generator,
        labelSmoothing: labelSmoothing, isTraining: isTraining))
  }

  /// Texts and the rows of their images.
  private struct Pairs {
    let ids: Tensor
    let mask: Tensor
    let image: Tensor
    let imageIDs: Tensor?

    /// All pairs, or a random part of them, at least one; none when the part is 0.
    func part(_ part: Double, generator: Generator) -> Tensor? {
      let batch = ids.size(0)
      let count = max(1, Int((Double(batch) * part).rounded()))
      guard part > 0 else { return nil }
      guard count < batch else { return .arange(batch) }
      return Tensor.ones([1, batch]).multinomial(count, generator: generator).reshaped(-1)
    }
  }

  /// 3 K pairs: texts [positive, positive, negative] with images [positive, negative, positive].
  private func matchingLoss(
    _ pairs: Pairs, _ image: ImageKeyValues, scores: Tensor, part: Double, uniformPart: Double, generator: Generator,
    isTraining: Bool
  ) throws -> Tensor? {
    guard let own = pairs.part(part, generator: generator),
      let negativeImages = Matching.hardNegatives(
        scores: scores.transposed(0, 1), ids: pairs.imageIDs, uniformPart: uniformPart, generator: generator),
      let negativeTexts = Matching.hardNegatives(
        scores: scores, ids: pairs.imageIDs, uniformPart: uniformPart, generator: generator)
    else { return nil }
    let texts = Tensor.cat([own, own, negativeTexts.indexSelect(0, own)], 0)
    let images = Tensor.cat([own, negativeImages.indexSelect(0, own), own], 0)
    let hidden = try qformer.readImageAndText(
      image.select(pairs.image.indexSelect(0, images)), pairs.ids.indexSelect(0, texts),
      mask: pairs.mask.indexSelect(0, texts), isTraining: isTraining
    ).hidden
    return Matching.loss(logits: matchingLogits(hidden), positives: own.size(0))
  }

  private func generationLoss(
    _ pairs: Pairs, queries: [KeyValue], part: Double, generator: Generator, labelSmoothing: Double, isTraining: Bool
  ) throws -> Tensor? {
    guard let own = pairs.part(part, generator: generator) else { return nil }
    let (ids, mask) = (pairs.ids.indexSelect(0, own), pairs.mask.indexSelect(0, own))
    let start = Tensor.full([ids.size(0), 1], Double(qformer.decoderTokenID), dtype: .int64)
    let images = pairs.image.indexSelect(0, own)
    let hidden = try qformer.causalText(
      .cat([start, ids.slice(1, 1)], 1), mask: mask, queries: queries.map { $0.select(images) }, isTraining: isTraining)
    return Generation.loss(
      logits: try generationLogits(hidden.slice(1, 0, -1)), targets: Generation.targets(ids: ids, mask: mask),
      labelSmoothing: labelSmoothing)
  }
}
