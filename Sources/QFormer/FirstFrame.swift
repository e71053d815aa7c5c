public import Torch

/// An image–text Q-Former in the place of a video's: it reads the first frame of each clip. A picture is a clip of one
/// frame, so that nothing is lost of it.
public struct FirstFrameQFormer: VideoQFormer {
  /// The Q-Former of images.
  public let image: ImageTextQFormer

  /// Wraps a Q-Former.
  public init(_ image: ImageTextQFormer) { self.image = image }

  /// The querying transformer.
  public var textQFormer: QFormer { image.qformer }
  /// The heads for comparing images with texts.
  public var heads: ObjectiveHeads? { image.heads }
  /// Dv.
  public var encoderWidth: Int { image.qformer.configuration.encoderHiddenSize }
  /// None: there is no projection.
  public var languageSize: Int? { nil }

  /// Encoder features `[…, Dv]` after the trained LayerNorm.
  public func imageEmbeds(_ features: Tensor) -> Tensor { image.imageEmbeds(features) }

  /// What the queries look at.
  ///
  /// - Throws: ``QFormerError``.
  public func keyValues(_ clip: TimedFeatures, isTraining: Bool) throws -> ImageKeyValues {
    try image.qformer.imageKeyValues(image.imageEmbeds(clip.features.select(1, 0)))  // [B, T, N, Dv] → [B, N, Dv]
  }

  /// There is no projection.
  ///
  /// - Throws: ``QFormerError/missingPart(_:)``, always.
  public func languageTokens(of clip: TimedFeatures, isTraining: Bool) throws -> Tensor {
    throw QFormerError.missingPart("projection to a language model")
  }

  /// There is no projection.
  ///
  /// - Throws: ``QFormerError/missingPart(_:)``, always.
  public func languageTokens(_ hidden: Tensor) throws -> Tensor {
    throw QFormerError.missingPart("projection to a language model")
  }
}

/// An image–language Q-Former in the place of a video's: it reads the first frame of each clip.
public struct FirstFrameConnector: VideoConnector {
  /// The Q-Former of images.
  public let image: ImageLanguageQFormer

  /// Wraps a Q-Former.
  public init(_ image: ImageLanguageQFormer) { self.image = image }

  /// Dv.
  public var encoderWidth: Int { image.configuration.qformer.encoderHiddenSize }
  /// The width of the projection's output.
  public var languageSize: Int? { image.configuration.languageSize }

  /// Token embeddings for the language model, `[B, M, languageSize]`.
  ///
  /// - Throws: ``QFormerError``.
  public func languageTokens(of clip: TimedFeatures, isTraining: Bool) throws -> Tensor {
    image.languageTokens(try image.readImage(clip.features.select(1, 0), isTraining: isTraining).hidden)
  }
}
