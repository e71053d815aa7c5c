public import Torch

/// The three losses of BLIP-2's first stage on one batch, and their plain sum; with a video in the image's place they
/// are VTC, VTM and VTG.
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
  ///   - matchingPart: The part of the pairs that the matching loss is computed on, drawn anew; 0 for none. BLIP-2
  ///     takes all; a part costs that much less.
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
    try heads.losses(
      qformer, qformer.imageKeyValues(imageEmbeds(features)),
      TextPairs(ids: ids, mask: mask, imageOfText: imageOfText, imageIDs: imageIDs), generator: generator,
      matchingPart: matchingPart, uniformNegatives: uniformNegatives, generationPart: generationPart,
      labelSmoothing: labelSmoothing, isTraining: isTraining)
  }
}
