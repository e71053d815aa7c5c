/// One of the three families of Q-Formers for video, as a row of a table that compares them at one scale.
public struct VideoFamily: Sendable, Equatable {
  /// Which family.
  public enum Kind: String, Sendable, CaseIterable {
    /// An image Q-Former on every frame.
    case image = "image Q-Former"
    /// ``CascadedVideoQFormer``.
    case cascaded
    /// ``SpatioTemporalQFormer``.
    case spatioTemporal = "spatio-temporal"
  }

  /// Which family.
  public let kind: Kind
  /// Tokens for the language model at the number of frames asked for.
  public let tokens: Int
  /// Multiply–accumulates of one clip, the projection to the language model left out.
  public let multiplyAccumulates: Int
  /// Whether it is the model that was asked; the others have its sizes, as far as they have them.
  public let isOwn: Bool

  /// What the queries see.
  public var queriesSee: String {
    switch kind {
    case .image: "space"
    case .cascaded: "space, then time"
    case .spatioTemporal: "space and time at once"
    }
  }

  /// Whether ``tokens`` grows with the number of frames.
  public var growsWithFrames: Bool { kind == .image }

  /// How time is told.
  public var time: String {
    switch kind {
    case .image: "none"
    case .cascaded: "frame embedding"
    case .spatioTemporal: "time embedding, learned pooling"
    }
  }

  /// What it is trained on.
  public var objectives: String {
    switch kind {
    case .image: "ITC, ITM, ITG"
    case .cascaded: "VTC, VTM, VTG, LM"
    case .spatioTemporal: "VTC, VTM, VTG, attentive pooling"
    }
  }
}

extension CascadedVideoConfiguration {
  /// This model beside an image Q-Former and a spatio-temporal one of its sizes.
  ///
  /// - Parameters:
  ///   - frames: T.
  ///   - imageTokens: N, the number of tokens of a frame.
  public func families(frames: Int, imageTokens: Int) -> [VideoFamily] {
    var other = SpatioTemporalConfiguration()
    other.qformer = frame
    (other.spatialQueries, other.temporalQueries) = (frame.queries, temporal.queries)
    return VideoFamily.table(self, other, own: .cascaded, frames: frames, imageTokens: imageTokens)
  }
}

extension SpatioTemporalConfiguration {
  /// This model beside an image Q-Former and a cascade of its sizes, with two layers over time.
  ///
  /// - Parameters:
  ///   - frames: T.
  ///   - imageTokens: N, the number of tokens of a frame.
  public func families(frames: Int, imageTokens: Int) -> [VideoFamily] {
    var cascade = CascadedVideoConfiguration()
    cascade.frame = qformer
    cascade.frame.queries = spatialQueries > 0 ? spatialQueries : queries
    cascade.temporal = cascade.frame
    cascade.temporal.layers = 2
    cascade.temporal.crossAttentionFrequency = 1
    cascade.temporal.encoderHiddenSize = qformer.hiddenSize
    return VideoFamily.table(cascade, self, own: .spatioTemporal, frames: frames, imageTokens: imageTokens)
  }
}

extension VideoFamily {
  fileprivate static func table(
    _ cascade: CascadedVideoConfiguration, _ whole: SpatioTemporalConfiguration, own: Kind, frames: Int,
    imageTokens: Int
  ) -> [VideoFamily] {
    let tokens = whole.languageSize == nil ? whole.queries : whole.languageTokens
    let perFrame = cascade.frame.multiplyAccumulates(imageTokens: imageTokens)
    return [
      (Kind.image, frames * cascade.frame.queries, frames * perFrame),
      (.cascaded, cascade.temporal.queries, cascade.multiplyAccumulates(frames: frames, imageTokens: imageTokens)),
      (.spatioTemporal, tokens, whole.multiplyAccumulates(frames: frames, imageTokens: imageTokens)),
    ].map { kind, tokens, cost in
      VideoFamily(kind: kind, tokens: tokens, multiplyAccumulates: cost, isOwn: kind == own)
    }
  }
}
