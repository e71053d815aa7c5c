public import Torch

/// A model that reads a video with queries and, where it was built so, compares it with texts.
public protocol VideoQFormer: VideoConnector {
  /// The Q-Former whose queries stand for the video and which reads texts.
  var textQFormer: QFormer { get }
  /// The heads for comparing videos with texts, where there are any.
  var heads: ObjectiveHeads? { get }
  /// What the video's queries look at.
  ///
  /// - Parameters:
  ///   - clip: Encoder features `[B, T, N, Dv]`.
  ///   - isTraining: Whether dropout is on.
  /// - Throws: ``QFormerError``.
  func keyValues(_ clip: TimedFeatures, isTraining: Bool) throws -> ImageKeyValues
  /// Encoder features `[…, Dv]` after the LayerNorm that the adapter has on them.
  func imageEmbeds(_ features: Tensor) -> Tensor
  /// Hidden states of the video's queries `[B, M, D]` as token embeddings of the language model.
  ///
  /// - Throws: ``QFormerError/missingPart(_:)`` without a projection.
  func languageTokens(_ hidden: Tensor) throws -> Tensor
}

extension VideoQFormer {
  /// The heads.
  ///
  /// - Throws: ``QFormerError/missingPart(_:)`` when the model was built without.
  public func requireHeads() throws -> ObjectiveHeads {
    guard let heads else { throw QFormerError.missingPart("heads for comparing videos with texts") }
    return heads
  }

  /// Computes VTC, VTM and VTG for a batch of pairs: ITC, ITM and ITG of BLIP-2 (arXiv 2301.12597, section 3.2) with
  /// videos in the place of images, as VideoChat2 does (arXiv 2311.17005).
  ///
  /// - Parameters:
  ///   - clip: Encoder features of V videos `[V, T, N, Dv]`; images are clips of one frame.
  ///   - ids: Texts `int64 [B, L]`, `[CLS]` … `[SEP]`, padded at the end.
  ///   - mask: `[B, L]`, 1 for text and 0 for padding.
  ///   - videoOfText: For each text the row of its video; when left out, V = B and each text has its own.
  ///   - videoIDs: `int64 [B]`, equal for texts of one video; when left out they follow from `videoOfText`.
  ///   - generator: Draws the negatives, and the parts.
  ///   - matchingPart: The part of the pairs that the matching loss is computed on, drawn anew; 0 for none.
  ///   - uniformNegatives: The part of the matching loss's negatives that is drawn without regard to similarity.
  ///   - generationPart: The part of the pairs that the generation loss is computed on; 0 for none.
  ///   - labelSmoothing: Of the contrastive and the generation loss.
  ///   - isTraining: Whether dropout is on, and the temperature is brought into its range first.
  /// - Throws: ``QFormerError`` for wrong shapes or a missing head.
  public func losses(
    clip: TimedFeatures, ids: Tensor, mask: Tensor, videoOfText: [Int]? = nil, videoIDs: Tensor? = nil,
    generator: Generator, matchingPart: Double = 1, uniformNegatives: Double = 0, generationPart: Double = 1,
    labelSmoothing: Double = 0.1, isTraining: Bool = true
  ) throws -> ImageTextLosses {
    try requireHeads().losses(
      textQFormer, keyValues(clip, isTraining: isTraining),
      TextPairs(ids: ids, mask: mask, imageOfText: videoOfText, imageIDs: videoIDs), generator: generator,
      matchingPart: matchingPart, uniformNegatives: uniformNegatives, generationPart: generationPart,
      labelSmoothing: labelSmoothing, isTraining: isTraining)
  }
}
