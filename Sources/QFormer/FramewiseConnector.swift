// An image Q-Former on every frame of a clip, as InstructBLIP reads videos (Dai et al., arXiv 2305.06500, section 3.2): the
// queries of all frames stand one after the other before the language model, which learns from their places which frame
// came when.
//
// B batch · T frames · N patch tokens · Dv encoder width · M queries of a frame · D hidden

public import Torch

/// An image–language Q-Former on every frame: T · M tokens.
public struct FramewiseConnector: CountedConnector {
  /// The Q-Former of images.
  public let image: ImageLanguageQFormer

  /// Wraps a Q-Former.
  public init(_ image: ImageLanguageQFormer) { self.image = image }

  /// Dv.
  public var encoderWidth: Int { image.configuration.qformer.encoderHiddenSize }
  /// The width of the projection's output.
  public var languageSize: Int? { image.configuration.languageSize }

  /// Token embeddings of all frames, frame after frame, `[B, T · M, languageSize]`; a clip of fewer frames than T is
  /// stretched over them.
  ///
  /// - Parameters:
  ///   - clip: Encoder features `[B, T, N, Dv]`.
  ///   - isTraining: Whether dropout is on.
  /// - Throws: ``QFormerError``.
  public func languageTokens(of clip: TimedFeatures, isTraining: Bool = false) throws -> Tensor {
    try clip.requireFrames(width: encoderWidth)
    let frames = try clip.stretched()
    let count = clip.batch * clip.frames
    let flat = frames.features.reshaped(count, frames.features.size(2), encoderWidth)  // [B, T, N, Dv] → [B · T, N, Dv]
    // Outside training in groups, so that long clips take little more memory than their features.
    let group = isTraining ? count : 32
    let read = try stride(from: 0, to: count, by: group).map { start in
      let part = flat.narrow(0, start, group)
      return try image.readEmbeds(clip.areEmbeds ? part : image.imageEmbeds(part), isTraining: isTraining).hidden
    }
    let hidden = read.count == 1 ? read[0] : .cat(read, 0)  // [B · T, M, D]
    // [B · T, M, D] → [B, T · M, D]
    return image.languageTokens(hidden.reshaped(clip.batch, clip.frames * hidden.size(1), hidden.size(2)))
  }

  /// T · M.
  public func tokens(frames: Int, imageTokens: Int) -> Int { frames * image.configuration.qformer.queries }

  /// The image Q-Former T times, with the projection.
  public func multiplyAccumulates(frames: Int, imageTokens: Int) -> Int {
    frames * image.configuration.qformer.multiplyAccumulates(imageTokens: imageTokens)
      + tokens(frames: frames, imageTokens: imageTokens) * image.configuration.qformer.hiddenSize
      * image.configuration.languageSize
  }
}
