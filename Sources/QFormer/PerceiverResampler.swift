// The Perceiver resampler of Flamingo (Alayrac et al., arXiv 2204.14198, section 3.1 and figure 5) in the place of a video
// Q-Former: learned latents read the patches of all frames and themselves at once, layer after layer. Pre-norm, without
// biases; the time of a frame is added to its patches.
//
// The published one is as wide as the encoder. Here features are brought to the hidden width first, so that it has the
// width and the heads of the Q-Formers it is compared with.
//
// B batch · T frames · N patch tokens · Dv encoder width · M latents · D hidden · H heads · d = D / H

public import Torch
public import TorchNN

/// Sizes of a ``PerceiverResampler``.
public struct PerceiverConfiguration: Codable, Sendable, Equatable {
  /// Dv, the width of encoder features.
  public var encoderHiddenSize = 384
  /// D.
  public var hiddenSize = 384
  /// Number of layers.
  public var layers = 6
  /// H.
  public var heads = 12
  /// Width of the feed-forward parts.
  public var intermediateSize = 1536
  /// M.
  public var latents = 32
  /// Added to the variance in every LayerNorm but that on encoder features.
  public var layerNormEps = 1e-5
  /// Added to the variance by the LayerNorm on encoder features.
  public var visionNormEps = 1e-6
  /// How the time of a frame is told.
  public var time = TimeConfiguration()
  /// The width of the language model's token embeddings.
  public var languageSize = 576

  /// The small scale of this package.
  public init() {}

  /// Checks that the numbers make a model.
  ///
  /// - Throws: ``QFormerError/invalidConfiguration(_:)``.
  public func validate() throws {
    for (name, size) in [
      ("encoder_hidden_size", encoderHiddenSize), ("hidden_size", hiddenSize), ("num_hidden_layers", layers),
      ("num_attention_heads", heads), ("intermediate_size", intermediateSize), ("num_latents", latents),
    ] where !(1...1_000_000).contains(size) {
      throw QFormerError.invalidConfiguration("\(name) is \(size), expected 1 … 10⁶")
    }
    guard hiddenSize % heads == 0, layers <= 512 else {
      throw QFormerError.invalidConfiguration(
        layers > 512
          ? "num_hidden_layers is \(layers), expected at most 512"
          : "hidden_size \(hiddenSize) is no multiple of \(heads) heads")
    }
    try checkLanguageSize(languageSize)
  }

  /// Multiply–accumulates of one clip, the projection to the language model left out.
  ///
  /// - Parameters:
  ///   - frames: T.
  ///   - imageTokens: N, the number of tokens of a frame.
  public func multiplyAccumulates(frames: Int, imageTokens: Int) -> Int {
    let (m, d, seen) = (latents, hiddenSize, frames * imageTokens)
    let attention = 2 * m * d * d + 2 * (seen + m) * d * d + 2 * m * (seen + m) * d
    return seen * encoderHiddenSize * d + layers * (attention + 2 * m * d * intermediateSize)
  }
}

/// Learned latents that read all patches of all frames.
public struct PerceiverResampler: CountedConnector {
  /// Its sizes.
  public let configuration: PerceiverConfiguration
  private let visionNorm: LayerNorm
  private let input: Linear
  private let time: TimeEmbedding
  /// `[1, M, D]`.
  private let latents: Tensor
  private let layers: [PerceiverLayer]
  private let norm: LayerNorm
  private let projection: Linear

  /// Takes `vision_model.post_layernorm`, `input_projection`, `time_embedding`, `latents`, `layers.*`, `norm` and
  /// `language_projection` from the scope.
  ///
  /// - Throws: ``QFormerError/invalidConfiguration(_:)``.
  public init(_ configuration: PerceiverConfiguration, _ scope: ParameterScope) throws {
    try configuration.validate()
    self.configuration = configuration
    let width = configuration.hiddenSize
    visionNorm = LayerNorm(
      configuration.encoderHiddenSize, eps: configuration.visionNormEps, scope["vision_model.post_layernorm"])
    input = Linear(configuration.encoderHiddenSize, width, scope["input_projection"])
    time = try TimeEmbedding(
      configuration.time, width, scope["time_embedding"], initializer: TimeEmbedding.asLargeAsTokens)
    latents = scope.parameter("latents", [1, configuration.latents, width], .normal(standardDeviation: 0.02))
    layers = (0..<configuration.layers).map { PerceiverLayer(configuration, scope["layers"][$0]) }
    norm = LayerNorm(width, eps: configuration.layerNormEps, scope["norm"])
    projection = Linear(width, configuration.languageSize, scope["language_projection"])
  }

  /// Dv.
  public var encoderWidth: Int { configuration.encoderHiddenSize }
  /// The width of the projection's output.
  public var languageSize: Int? { configuration.languageSize }

  /// The latents after all layers.
  ///
  /// - Parameter clip: Encoder features `[B, T, N, Dv]`.
  /// - Returns: `[B, M, D]`, however many frames there are.
  /// - Throws: ``QFormerError``.
  public func readVideo(_ clip: TimedFeatures) throws -> Tensor {
    try clip.requireFrames(width: encoderWidth)
    var x = input(clip.areEmbeds ? clip.cleaned : visionNorm(clip.cleaned))  // [B, T, N, D]
    if let times = try time(clip) { x = x + times.unsqueezed(2) }  // [B, T, D] → [B, T, 1, D]
    let media = x.reshaped(clip.batch, -1, configuration.hiddenSize)  // [B, T, N, D] → [B, T · N, D]
    let mask = clip.tokenMask(clip.features.size(2)).map { mask in
      let all = Tensor.cat([mask.to(.float32), .ones([clip.batch, configuration.latents])], 1)
      return QFormer.additive(all).reshaped(clip.batch, 1, 1, -1)  // [B, T · N + M] → [B, 1, 1, T · N + M]
    }
    var state = latents.expanded(clip.batch, -1, -1)
    for layer in layers { state = layer(state, media: media, mask: mask) }
    return norm(state)
  }

  /// Token embeddings, one for each latent, `[B, M, languageSize]`.
  ///
  /// - Throws: ``QFormerError``.
  public func languageTokens(of clip: TimedFeatures, isTraining: Bool = false) throws -> Tensor {
    projection(try readVideo(clip))
  }

  /// M.
  public func tokens(frames: Int, imageTokens: Int) -> Int { configuration.latents }

  /// As ``PerceiverConfiguration/multiplyAccumulates(frames:imageTokens:)``, with the projection.
  public func multiplyAccumulates(frames: Int, imageTokens: Int) -> Int {
    configuration.multiplyAccumulates(frames: frames, imageTokens: imageTokens)
      + configuration.latents * configuration.hiddenSize * configuration.languageSize
  }
}

/// Attention of latents over patches and latents, and a feed-forward part, each added to what it reads.
private struct PerceiverLayer: Sendable {
  let mediaNorm: LayerNorm
  let latentNorm: LayerNorm
  let query: Linear
  let key: Linear
  let value: Linear
  let output: Linear
  let feedForwardNorm: LayerNorm
  let up: Linear
  let down: Linear
  let heads: Int

  init(_ configuration: PerceiverConfiguration, _ scope: ParameterScope) {
    let width = configuration.hiddenSize
    func norm(_ name: String) -> LayerNorm { LayerNorm(width, eps: configuration.layerNormEps, scope[name]) }
    func linear(_ inputs: Int, _ outputs: Int, _ name: String) -> Linear {
      Linear(inputs, outputs, scope[name], bias: false)
    }
    (mediaNorm, latentNorm) = (norm("media_norm"), norm("latent_norm"))
    query = linear(width, width, "attention.query")
    key = linear(width, width, "attention.key")
    value = linear(width, width, "attention.value")
    output = linear(width, width, "attention.output")
    feedForwardNorm = norm("feed_forward.norm")
    up = linear(width, configuration.intermediateSize, "feed_forward.up")
    down = linear(configuration.intermediateSize, width, "feed_forward.down")
    heads = configuration.heads
  }

  /// - Parameters:
  ///   - latents: `[B, M, D]`.
  ///   - media: `[B, T · N, D]`.
  ///   - mask: Added to the scores, `[B, 1, 1, T · N + M]`.
  func callAsFunction(_ latents: Tensor, media: Tensor, mask: Tensor?) -> Tensor {
    func split(_ x: Tensor) -> Tensor { x.reshaped(x.size(0), x.size(1), heads, -1).transposed(1, 2) }  // [B, H, S, d]
    let own = latentNorm(latents)
    let seen = Tensor.cat([mediaNorm(media), own], 1)  // [B, T · N + M, D]
    let context = split(query(own)).attention(split(key(seen)), split(value(seen)), mask: mask)
    let merged = context.transposed(1, 2).reshaped(latents.size(0), latents.size(1), -1)  // [B, H, M, d] → [B, M, D]
    let attended = latents + output(merged)
    return attended + down(up(feedForwardNorm(attended)).gelu())
  }
}
