// Stage 2 of BLIP-2 (arXiv 2301.12597, section 3.3): queries read the image and are projected to a language model.
//
// B batch · M queries · N image tokens · D hidden · Dv image width

public import Torch
public import TorchNN

/// Sizes of an ``ImageLanguageQFormer``.
public struct ImageLanguageConfiguration: Codable, Sendable, Equatable {
  /// The Q-Former; without text, as in BLIP-2, or with it, as in InstructBLIP.
  public var qformer: QFormerConfiguration = {
    var configuration = QFormerConfiguration.small
    configuration.readsText = false
    configuration.separateDecoderToken = false
    return configuration
  }()
  /// The width of the language model's token embeddings.
  public var languageSize = 576
  /// Added to the variance by the LayerNorm on image features.
  public var visionNormEps = 1e-6

  /// The default adapter of this package, for SmolLM2-135M.
  public init() {}

  enum CodingKeys: String, CodingKey {
    case qformer = "qformer_config"
    case languageSize = "language_hidden_size"
    case visionNormEps = "vision_norm_eps"
  }

  /// Fields that are absent take the defaults.
  public init(from decoder: any Decoder) throws {
    let fields = try decoder.container(keyedBy: CodingKeys.self)
    qformer = try fields.decodeIfPresent(QFormerConfiguration.self, forKey: .qformer) ?? qformer
    languageSize = try fields.decodeIfPresent(Int.self, forKey: .languageSize) ?? languageSize
    visionNormEps = try fields.decodeIfPresent(Double.self, forKey: .visionNormEps) ?? visionNormEps
  }
}

/// A Q-Former that turns image features into a short sequence for a language model.
public struct ImageLanguageQFormer: Sendable {
  /// Its sizes.
  public let configuration: ImageLanguageConfiguration
  /// The querying transformer.
  public let qformer: QFormer
  private let visionNorm: LayerNorm
  private let projection: Linear

  /// Takes `vision_model.post_layernorm`, the Q-Former and `language_projection` from the scope.
  ///
  /// - Throws: ``QFormerError/invalidConfiguration(_:)``.
  public init(_ configuration: ImageLanguageConfiguration, _ scope: ParameterScope) throws {
    try checkLanguageSize(configuration.languageSize)
    self.configuration = configuration
    qformer = try QFormer(configuration.qformer, scope)
    visionNorm = LayerNorm(
      configuration.qformer.encoderHiddenSize, eps: configuration.visionNormEps, scope["vision_model.post_layernorm"])
    projection = Linear(configuration.qformer.hiddenSize, configuration.languageSize, scope["language_projection"])
  }

  /// What the Q-Former reads: encoder features `[B, N, Dv]` after the trained LayerNorm.
  public func imageEmbeds(_ features: Tensor) -> Tensor { visionNorm(features) }

  /// Hidden states of the queries, and cross-attention weights where asked for.
  ///
  /// - Parameters:
  ///   - features: Encoder features `[B, N, Dv]`.
  ///   - text: What a Q-Former with text reads beside the image (InstructBLIP): `int64 [B, L]` from `[CLS]` to `[SEP]`,
  ///     padded at the end, and a mask of 1 and 0.
  ///   - keepsAttention: Whether to return cross-attention weights.
  ///   - isTraining: Whether dropout is on.
  /// - Returns: Hidden states `[B, M, D]`, those of the text left out.
  /// - Throws: ``QFormerError``.
  public func readImage(
    _ features: Tensor, text: (ids: Tensor, mask: Tensor)? = nil, keepsAttention: Bool = false,
    isTraining: Bool = false
  ) throws -> QFormerOutput {
    try readEmbeds(imageEmbeds(features), text: text, keepsAttention: keepsAttention, isTraining: isTraining)
  }

  /// As ``readImage(_:text:keepsAttention:isTraining:)``, from features that ``imageEmbeds(_:)`` has gone over already.
  ///
  /// - Throws: ``QFormerError``.
  public func readEmbeds(
    _ embeds: Tensor, text: (ids: Tensor, mask: Tensor)? = nil, keepsAttention: Bool = false,
    isTraining: Bool = false
  ) throws -> QFormerOutput {
    let image = try qformer.imageKeyValues(embeds)
    guard let text else { return qformer.readImage(image, keepsAttention: keepsAttention, isTraining: isTraining) }
    let seen = try qformer.readImageAndText(
      image, text.ids, mask: text.mask, keepsAttention: keepsAttention, isTraining: isTraining)
    return QFormerOutput(
      hidden: seen.hidden.narrow(1, 0, configuration.qformer.queries), selfKeyValues: seen.selfKeyValues,
      crossAttention: seen.crossAttention, selfAttention: seen.selfAttention)
  }

  /// Hidden states of queries `[B, M, D]` as token embeddings of the language model, `[B, M, languageSize]`.
  public func languageTokens(_ hidden: Tensor) -> Tensor { projection(hidden) }
}
