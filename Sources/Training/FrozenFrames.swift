import Pipelines
import QFormer
import Torch

/// What the frame Q-Former of a cascade says of the frames of clips while it stays as it is: read at the first look at each
/// clip and kept in half precision, so that later passes cost the temporal Q-Former alone.
///
/// Each clip is read by itself: what is kept does not depend on its neighbours in a batch, and a resumed run computes the same
/// losses.
final class FrozenFrames {
  /// No more bytes than these are kept, 16,000 clips of eight frames of the small scale with 32 queries.
  static let maximumBytes = 3_200_000_000

  private let model: CascadedVideoQFormer
  private let features: FeatureStack
  private var kept: [Int: VideoFeatures] = [:]

  /// Nil where the frames' tokens change from step to step, and where there are too many to keep.
  init?(_ recipe: Recipe, _ connector: any VideoConnector, _ features: FeatureStack) {
    guard recipe.video.freeze == .frameQFormer, recipe.patchPart == 1, let model = connector as? CascadedVideoQFormer,
      model.configuration.site == .afterFrameQFormer
    else { return nil }
    let sizes = model.configuration.frame
    let numbers = features.count * recipe.video.frames * sizes.queries * sizes.hiddenSize
    guard numbers * 2 <= Self.maximumBytes else { return nil }
    (self.model, self.features) = (model, features)
  }

  /// Tokens `[rows, M′, d_llm]` of clips.
  ///
  /// - Throws: `QFormerError`.
  func languageTokens(_ rows: [Int], isTraining: Bool) throws -> Tensor {
    let frames = try VideoFeatures.batch(rows.map(read)) { $0.to(.float32) }  // [rows, T, M, D]
    return try model.languageTokens(model.readVideo(frames: frames, isTraining: isTraining).hidden)
  }

  private func read(_ row: Int) throws -> VideoFeatures {
    if let known = kept[row] { return known }
    let clip = try features.clips([row])
    let tokens = try withNoGrad { try model.readFrames(clip).features.select(0, 0).to(.float16) }  // [T, M, D]
    let seconds = clip.seconds?.values(as: Float.self).map(Double.init)
    let read = try VideoFeatures(tokens, seconds: seconds ?? (0..<clip.frames).map(Double.init))
    kept[row] = read
    return read
  }
}
