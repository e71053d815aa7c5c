// One Q-Former over the patches of all frames at once, as in VideoChat2 (Li et al., arXiv 2311.17005): space and time in one
// set of T · N keys, without any pooling. The time of a frame is added to its patches.
//
// B batch · T frames · N patch tokens · Dv encoder width · M queries · D hidden

public import Torch
public import TorchNN

/// An image–language Q-Former whose queries read T · N patches: M tokens however many frames there are.
public struct JointConnector: CountedConnector {
  /// The Q-Former.
  public let image: ImageLanguageQFormer
  /// How time is told.
  public let timeConfiguration: TimeConfiguration
  private let time: TimeEmbedding

  /// Wraps a Q-Former, and takes `time_embedding`, which starts at zero, from the scope.
  ///
  /// - Throws: ``QFormerError/invalidConfiguration(_:)``.
  public init(_ image: ImageLanguageQFormer, time configuration: TimeConfiguration, _ scope: ParameterScope) throws {
    self.image = image
    timeConfiguration = configuration
    time = try TimeEmbedding(
      configuration, image.configuration.qformer.encoderHiddenSize, scope["time_embedding"], initializer: .zeros)
  }

  /// Dv.
  public var encoderWidth: Int { image.configuration.qformer.encoderHiddenSize }
  /// The width of the projection's output.
  public var languageSize: Int? { image.configuration.languageSize }

  /// Token embeddings, one for each query, `[B, M, languageSize]`.
  ///
  /// - Parameters:
  ///   - clip: Encoder features `[B, T, N, Dv]`.
  ///   - isTraining: Whether dropout is on.
  /// - Throws: ``QFormerError``.
  public func languageTokens(of clip: TimedFeatures, isTraining: Bool = false) throws -> Tensor {
    try clip.requireFrames(width: encoderWidth)
    var x = clip.areEmbeds ? clip.cleaned : image.imageEmbeds(clip.cleaned)
    if let times = try time(clip) { x = x + times.unsqueezed(2) }  // [B, T, Dv] → [B, T, 1, Dv]
    let keys = x.reshaped(clip.batch, -1, encoderWidth)  // [B, T, N, Dv] → [B, T · N, Dv]
    let seen = try image.qformer.imageKeyValues(keys, mask: clip.tokenMask(clip.features.size(2)))
    return image.languageTokens(image.qformer.readImage(seen, isTraining: isTraining).hidden)
  }

  /// M.
  public func tokens(frames: Int, imageTokens: Int) -> Int { image.configuration.qformer.queries }

  /// The image Q-Former on T · N tokens, with the projection.
  public func multiplyAccumulates(frames: Int, imageTokens: Int) -> Int {
    let sizes = image.configuration.qformer
    return sizes.multiplyAccumulates(imageTokens: frames * imageTokens)
      + sizes.queries * sizes.hiddenSize * image.configuration.languageSize
  }
}
