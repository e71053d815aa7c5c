// What stands behind pooling where no Q-Former does: two layers from pooled vectors to a language model, as LLaVA-1.5 has
// them (Liu et al., arXiv 2310.03744).
//
// K pooled vectors · Dv encoder width · D hidden

import Torch
import TorchNN

/// Widths of a connector that pools and projects.
public struct PooledProjectionConfiguration: Codable, Sendable, Equatable {
  /// Dv, the width of encoder features.
  public var encoderHiddenSize = 384
  /// D, the width between the two layers.
  public var hiddenSize = 384
  /// The width of the language model's token embeddings.
  public var languageSize = 576
  /// Added to the variance by the LayerNorm on encoder features.
  public var visionNormEps = 1e-6

  /// The small scale of this package.
  public init() {}

  /// Checks that the numbers make a model.
  ///
  /// - Throws: ``QFormerError/invalidConfiguration(_:)``.
  public func validate() throws {
    for (name, size) in [("encoder_hidden_size", encoderHiddenSize), ("hidden_size", hiddenSize)]
    where !(1...1_000_000).contains(size) {
      throw QFormerError.invalidConfiguration("\(name) is \(size), expected 1 … 10⁶")
    }
    try checkLanguageSize(languageSize)
  }

  /// Multiply–accumulates of projecting K vectors.
  func multiplyAccumulates(vectors: Int) -> Int {
    vectors * (encoderHiddenSize * hiddenSize + hiddenSize * languageSize)
  }
}

/// LayerNorm on encoder features, and Linear, GELU, Linear on what has been pooled of them.
struct PooledProjection: Sendable {
  let norm: LayerNorm
  private let hidden: Linear
  private let projection: Linear

  /// Takes `vision_model.post_layernorm`, `hidden_projection` and `language_projection` from the scope.
  init(_ configuration: PooledProjectionConfiguration, _ scope: ParameterScope) throws {
    try configuration.validate()
    let width = configuration.encoderHiddenSize
    norm = LayerNorm(width, eps: configuration.visionNormEps, scope["vision_model.post_layernorm"])
    hidden = Linear(width, configuration.hiddenSize, scope["hidden_projection"])
    projection = Linear(configuration.hiddenSize, configuration.languageSize, scope["language_projection"])
  }

  /// The features of a clip after the LayerNorm, `[B, T, N, Dv]`, zeros in the place of padding before it.
  func embeds(_ clip: TimedFeatures) -> Tensor { clip.areEmbeds ? clip.cleaned : norm(clip.cleaned) }

  /// Pooled vectors `[B, K, Dv]` to `[B, K, languageSize]`.
  func callAsFunction(_ pooled: Tensor) -> Tensor { projection(hidden(pooled).gelu()) }
}
