import Torch

/// Texts and the rows of their images or videos.
struct TextPairs {
  let ids: Tensor
  let mask: Tensor
  /// For each text the row of its image; when left out, each text has its own.
  let imageOfText: [Int]?
  /// `int64 [B]`, equal for texts of one image; when left out they follow from `imageOfText`.
  let imageIDs: Tensor?

  init(ids: Tensor, mask: Tensor, imageOfText: [Int]?, imageIDs: Tensor?) {
    self.ids = ids
    self.mask = mask
    self.imageOfText = imageOfText
    self.imageIDs = imageIDs ?? imageOfText.map { Tensor($0) }
  }

  /// `int64 [B]`.
  var image: Tensor { imageOfText.map { Tensor($0) } ?? .arange(ids.size(0)) }

  /// All pairs, or a random part of them, at least one; none when the part is 0.
  func part(_ part: Double, generator: Generator) -> Tensor? {
    let batch = ids.size(0)
    let count = max(1, Int((Double(batch) * part).rounded()))
    guard part > 0 else { return nil }
    guard count < batch else { return .arange(batch) }
    return Tensor.ones([1, batch]).multinomial(count, generator: generator).reshaped(-1)  // [1, K] → [K]
  }
}

extension ObjectiveHeads {
  /// The contrastive, matching and generation losses of a batch of pairs, whatever it is that the queries look at.
  ///
  /// Keys and values are projected once and shared by all three losses, and by all texts of an image.
  ///
  /// - Throws: ``QFormerError`` for wrong shapes or a missing head.
  func losses(
    _ qformer: QFormer, _ image: ImageKeyValues, _ pairs: TextPairs, generator: Generator, matchingPart: Double,
    uniformNegatives: Double, generationPart: Double, labelSmoothing: Double, isTraining: Bool
  ) throws -> ImageTextLosses {
    let images = image.layers.lazy.compactMap { $0 }.first?.key.size(0) ?? 0
    let expected = pairs.imageOfText?.count ?? images
    guard pairs.ids.size(0) == expected else {
      throw QFormerError.wrongShape(
        what: "texts", expected: "one for each of \(expected) pairs", found: pairs.ids.shape)
    }
    if isTraining { clampTemperature() }
    let seen = qformer.readImage(image, keepsKeyValues: generationPart > 0, isTraining: isTraining)
    let text = textFeature(try qformer.readText(pairs.ids, mask: pairs.mask, isTraining: isTraining))
    let ofImages = self.similarity(imageFeatures: imageFeatures(seen.hidden), textFeatures: text)  // [I, B]
    let similarity = pairs.imageOfText == nil ? ofImages : ofImages.indexSelect(0, pairs.image)  // [B, B]
    return ImageTextLosses(
      contrastive: Contrastive.loss(
        similarity: similarity, temperature: temperature, imageIDs: pairs.imageIDs, labelSmoothing: labelSmoothing),
      matching: try matchingLoss(
        qformer, pairs, image, scores: similarity / temperature, part: matchingPart, uniformPart: uniformNegatives,
        generator: generator, isTraining: isTraining),
      generation: try generationLoss(
        qformer, pairs, queries: seen.selfKeyValues, part: generationPart, generator: generator,
        labelSmoothing: labelSmoothing, isTraining: isTraining))
  }

  /// 3 K pairs: texts [positive, positive, negative] with images [positive, negative, positive].
  private func matchingLoss(
    _ qformer: QFormer, _ pairs: TextPairs, _ image: ImageKeyValues, scores: Tensor, part: Double,
    uniformPart: Double, generator: Generator, isTraining: Bool
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
    return Matching.loss(logits: try matchingLogits(hidden), positives: own.size(0))
  }

  private func generationLoss(
    _ qformer: QFormer, _ pairs: TextPairs, queries: [KeyValue], part: Double, generator: Generator,
    labelSmoothing: Double, isTraining: Bool
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
