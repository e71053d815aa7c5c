// Mean pooling in the place of a video Q-Former, as in Video-ChatGPT (Maaz et al., arXiv 2306.05424, section 3.1): the mean
// over frames at each place, then the mean over places of each frame. It is what a spatio-temporal Q-Former pools before
// any training, with nothing but a projection behind.
//
// B batch · T frames · N patch tokens · Dv encoder width

public import Torch
public import TorchNN

/// Means over time and over space, projected to a language model: N + T tokens.
public struct MeanPoolingConnector: CountedConnector {
  /// Its widths.
  public let configuration: PooledProjectionConfiguration
  private let project: PooledProjection

  /// Takes `vision_model.post_layernorm`, `hidden_projection` and `language_projection` from the scope.
  ///
  /// - Throws: ``QFormerError/invalidConfiguration(_:)``.
  public init(_ configuration: PooledProjectionConfiguration, _ scope: ParameterScope) throws {
    self.configuration = configuration
    project = try PooledProjection(configuration, scope)
  }

  /// Dv.
  public var encoderWidth: Int { configuration.encoderHiddenSize }
  /// The width of the projection's output.
  public var languageSize: Int? { configuration.languageSize }

  /// The means of a clip's own frames.
  ///
  /// - Parameter clip: Encoder features `[B, T, N, Dv]`.
  /// - Returns: One vector for each place, `[B, N, Dv]`, and one for each frame, `[B, T, Dv]`; a clip of fewer frames than
  ///   T is stretched over them.
  /// - Throws: ``QFormerError``.
  public func pool(_ clip: TimedFeatures) throws -> (places: Tensor, frames: Tensor) {
    try clip.requireFrames(width: encoderWidth)
    let weights = clip.weights / clip.weights.sum(1, keepDimension: true)
    let x = clip.replacing(project.embeds(clip))
    let places = (x.features * weights.reshaped(clip.batch, clip.frames, 1, 1)).sum(1)  // [B, T] → [B, T, 1, 1]
    return (places, try x.stretched().features.mean(2))
  }

  /// Token embeddings: those of places, then those of frames, `[B, N + T, languageSize]`.
  ///
  /// - Throws: ``QFormerError``.
  public func languageTokens(of clip: TimedFeatures, isTraining: Bool = false) throws -> Tensor {
    let (places, frames) = try pool(clip)
    return project(.cat([places, frames], 1))
  }

  /// N + T.
  public func tokens(frames: Int, imageTokens: Int) -> Int { imageTokens + frames }

  /// Two layers on each pooled vector.
  public func multiplyAccumulates(frames: Int, imageTokens: Int) -> Int {
    configuration.multiplyAccumulates(vectors: tokens(frames: frames, imageTokens: imageTokens))
  }
}
