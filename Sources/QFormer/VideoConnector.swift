public import Torch

/// Whatever stands between the features of a clip and a language model: the video Q-Formers, and simpler ways to compare
/// them with.
public protocol VideoConnector: Sendable {
  /// Dv, the width of the encoder features that it reads.
  var encoderWidth: Int { get }
  /// The width of the language model's token embeddings; nil without a projection to it.
  var languageSize: Int? { get }
  /// Token embeddings for the language model.
  ///
  /// - Parameters:
  ///   - clip: Encoder features `[B, T, N, Dv]`.
  ///   - isTraining: Whether dropout is on.
  /// - Returns: `[B, tokens, languageSize]`.
  /// - Throws: ``QFormerError``; ``QFormerError/missingPart(_:)`` without a projection.
  func languageTokens(of clip: TimedFeatures, isTraining: Bool) throws -> Tensor
}

/// A connector whose tokens and cost are known by formula, so that it can be compared with others before anything is run.
public protocol CountedConnector: VideoConnector {
  /// The number of tokens that the language model gets for a clip.
  ///
  /// - Parameters:
  ///   - frames: T.
  ///   - imageTokens: N, the number of tokens of a frame.
  func tokens(frames: Int, imageTokens: Int) -> Int
  /// Multiply–accumulates of one clip: all matrix products, with the projection to the language model.
  ///
  /// - Parameters:
  ///   - frames: T.
  ///   - imageTokens: N, the number of tokens of a frame.
  func multiplyAccumulates(frames: Int, imageTokens: Int) -> Int
}

extension CascadedVideoQFormer: CountedConnector {
  /// M′.
  public func tokens(frames: Int, imageTokens: Int) -> Int { configuration.temporal.queries }
  /// As ``CascadedVideoConfiguration/multiplyAccumulates(frames:imageTokens:)``, with the projection.
  public func multiplyAccumulates(frames: Int, imageTokens: Int) -> Int {
    configuration.multiplyAccumulates(frames: frames, imageTokens: imageTokens)
      + configuration.temporal.queries * configuration.temporal.hiddenSize * (languageSize ?? 0)
  }
}

extension SpatioTemporalQFormer: CountedConnector {
  /// The queries of the groups that are sent.
  public func tokens(frames: Int, imageTokens: Int) -> Int { configuration.languageTokens }
  /// As ``SpatioTemporalConfiguration/multiplyAccumulates(frames:imageTokens:)``, with the projection.
  public func multiplyAccumulates(frames: Int, imageTokens: Int) -> Int {
    configuration.multiplyAccumulates(frames: frames, imageTokens: imageTokens)
      + configuration.languageTokens * configuration.qformer.hiddenSize * (languageSize ?? 0)
  }
}

extension CascadedVideoQFormer {
  /// Dv.
  public var encoderWidth: Int { configuration.frame.encoderHiddenSize }
  /// The width of the projection's output; nil without one.
  public var languageSize: Int? { configuration.languageSize }

  /// As ``VideoConnector/languageTokens(of:isTraining:)``: one token for each query of the temporal Q-Former.
  public func languageTokens(of clip: TimedFeatures, isTraining: Bool = false) throws -> Tensor {
    try languageTokens(readVideo(clip, isTraining: isTraining).hidden)
  }
}

extension SpatioTemporalQFormer {
  /// Dv.
  public var encoderWidth: Int { configuration.qformer.encoderHiddenSize }
  /// The width of the projection's output; nil without one.
  public var languageSize: Int? { configuration.languageSize }

  /// As ``VideoConnector/languageTokens(of:isTraining:)``: one token for each query of the groups that are sent.
  public func languageTokens(of clip: TimedFeatures, isTraining: Bool = false) throws -> Tensor {
    try languageTokens(readVideo(clip, isTraining: isTraining).queries.hidden)
  }
}
