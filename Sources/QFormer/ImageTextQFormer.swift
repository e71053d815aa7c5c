// Stage 1 of BLIP-2 (arXiv 2301.12597, section 3.2): the Q-Former with its contrastive, matching and generation heads.
//
// B batch · M queries · L text tokens · N image tokens · D hidden · Dv image width · E contrastive width

public import Torch
public import TorchNN

/// Sizes of an ``ImageTextQFormer``.
public struct ImageTextConfiguration: Codable, Sendable, Equatable {
  /// The Q-Former.
  public var qformer = QFormerConfiguration.small
  /// Added to the variance by the LayerNorm on image features.
  public var visionNormEps = 1e-6
  /// The heads.
  public var objectives = ObjectiveConfiguration()

  /// The default adapter of this package.
  public init() {}

  enum CodingKeys: String, CodingKey {
    case qformer = "qformer_config"
    case visionNormEps = "vision_norm_eps"
  }

  /// Fields that are absent take the defaults. Those of the heads stand beside the others.
  public init(from decoder: any Decoder) throws {
    let fields = try decoder.container(keyedBy: CodingKeys.self)
    qformer = try fields.decodeIfPresent(QFormerConfiguration.self, forKey: .qformer) ?? qformer
    visionNormEps = try fields.decodeIfPresent(Double.self, forKey: .visionNormEps) ?? visionNormEps
    objectives = try ObjectiveConfiguration(from: decoder)
  }

  /// Encodes all fields beside each other.
  public func encode(to encoder: any Encoder) throws {
    var fields = encoder.container(keyedBy: CodingKeys.self)
    try fields.encode(qformer, forKey: .qformer)
    try fields.encode(visionNormEps, forKey: .visionNormEps)
    try objectives.encode(to: encoder)
  }
}

/// A Q-Former that compares images with texts and describes images without a language model.
public struct ImageTextQFormer: Sendable {
  /// Its sizes.
  public let configuration: ImageTextConfiguration
  /// The querying transformer.
  public let qformer: QFormer
  /// What compares images with texts.
  public let heads: ObjectiveHeads
  private let visionNorm: LayerNorm

  /// Takes `vision_model.post_layernorm`, the Q-Former, `vision_projection`, `text_projection`, `itm_head`, `temp` and
  /// `cls.predictions` from the scope.
  ///
  /// - Throws: ``QFormerError/invalidConfiguration(_:)``.
  public init(_ configuration: ImageTextConfiguration, _ scope: ParameterScope) throws {
    self.configuration = configuration
    qformer = try QFormer(configuration.qformer, scope)
    visionNorm = LayerNorm(
      configuration.qformer.encoderHiddenSize, eps: configuration.visionNormEps, scope["vision_model.post_layernorm"])
    heads = try ObjectiveHeads(configuration.objectives, on: qformer, scope)
  }

  /// The temperature that contrastive similarities are divided by, a parameter of one element.
  public var temperature: Tensor { heads.temperature }

  /// What the Q-Former reads: encoder features `[B, N, Dv]` after the trained LayerNorm.
  public func imageEmbeds(_ features: Tensor) -> Tensor { visionNorm(features) }

  /// Contrastive features `[B, M, E]` of hidden states of queries `[B, M, D]`, each of length 1.
  public func imageFeatures(_ hidden: Tensor) -> Tensor { heads.imageFeatures(hidden) }

  /// The contrastive feature `[B, E]` of hidden states of text `[B, L, D]`: its first token, of length 1.
  public func textFeature(_ hidden: Tensor) -> Tensor { heads.textFeature(hidden) }

  /// Matching logits `[B, 2]` of hidden states of queries (and text): per query, then averaged; index 1 is "match".
  ///
  /// - Throws: ``QFormerError/missingPart(_:)`` when the adapter has no such head.
  public func matchingLogits(_ hidden: Tensor) throws -> Tensor { try heads.matchingLogits(hidden) }

  /// Next-token logits `[…, vocabulary]` of hidden states of text `[…, D]`.
  ///
  /// - Throws: ``QFormerError/missingPart(_:)`` when the adapter has no such head.
  public func generationLogits(_ hidden: Tensor) throws -> Tensor { try heads.generationLogits(hidden) }
}
