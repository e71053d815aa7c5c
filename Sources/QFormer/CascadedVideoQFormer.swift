// The cascaded video Q-Former of Video-LLaMA (Zhang et al., arXiv 2306.02858): a shared image Q-Former reads every
// frame, a second Q-Former with queries of its own reads what the first has said of all frames, and a projection leads
// to the language model. Its video branch with K clips in a window is TimeChat's (Ren et al., arXiv 2312.02051); see
// `Streaming`.
//
// B batch · T frames · N patch tokens · Dv encoder width · M queries of a frame · M′ queries of the video · D hidden
// L text tokens

public import Torch
public import TorchNN

/// Where the embedding of a frame's time is added.
public enum FrameEmbeddingSite: String, Codable, Sendable, CaseIterable {
  /// To what the image Q-Former has said of the frame, width D; the same vector for all its queries (Video-LLaMA).
  case afterFrameQFormer
  /// To the patch features that it reads, width Dv (MA-LMM, arXiv 2404.05726, where the table starts at zero).
  case beforeFrameQFormer
}

/// Sizes of a ``CascadedVideoQFormer``.
public struct CascadedVideoConfiguration: Codable, Sendable, Equatable {
  /// The image Q-Former that reads every frame.
  public var frame: QFormerConfiguration = {
    var configuration = QFormerConfiguration.small
    configuration.readsText = false
    configuration.separateDecoderToken = false
    return configuration
  }()
  /// The Q-Former that reads the queries of all frames, in every layer.
  public var temporal: QFormerConfiguration = {
    var configuration = QFormerConfiguration.small
    configuration.layers = 2
    configuration.crossAttentionFrequency = 1
    return configuration
  }()
  /// How time is told.
  public var time = TimeConfiguration()
  /// Where it is told.
  public var site = FrameEmbeddingSite.afterFrameQFormer
  /// Added to the variance by the LayerNorm on encoder features.
  public var visionNormEps = 1e-6
  /// The width of the language model's token embeddings; nil for a model without a projection.
  public var languageSize: Int? = 576
  /// The heads for comparing videos with texts; nil for none. They need a temporal Q-Former that reads text.
  public var objectives: ObjectiveConfiguration? = ObjectiveConfiguration()

  /// The small scale of this package: features of width 384, for SmolLM2-135M, with text and heads.
  public init() {}

  /// The small scale of this package.
  public static let small = CascadedVideoConfiguration()

  /// The published sizes: BLIP-2's image Q-Former, two temporal layers, 32 queries, no text, a 7 B language model.
  public static let videoLLaMA: CascadedVideoConfiguration = {
    var configuration = CascadedVideoConfiguration()
    configuration.frame = .blip2
    configuration.temporal = .blip2
    configuration.temporal.layers = 2
    configuration.temporal.crossAttentionFrequency = 1
    configuration.temporal.encoderHiddenSize = 768
    // LAVIS' ln_vision is PyTorch's LayerNorm with its own default.
    configuration.visionNormEps = 1e-5
    configuration.languageSize = 4096
    configuration.objectives = nil
    return configuration
  }()

  enum CodingKeys: String, CodingKey {
    case frame = "qformer_config"
    case temporal = "video_qformer_config"
    case time = "time_encoding"
    case site = "frame_embedding_site"
    case visionNormEps = "vision_norm_eps"
    case languageSize = "language_hidden_size"
    case objectives
  }

  /// Both Q-Formers must be there; of the other fields, those that are absent take the default, and a projection or
  /// heads that are absent are not built.
  public init(from decoder: any Decoder) throws {
    let fields = try decoder.container(keyedBy: CodingKeys.self)
    frame = try fields.decode(QFormerConfiguration.self, forKey: .frame)
    temporal = try fields.decode(QFormerConfiguration.self, forKey: .temporal)
    time = try fields.decodeIfPresent(TimeConfiguration.self, forKey: .time) ?? time
    site = try fields.decodeIfPresent(FrameEmbeddingSite.self, forKey: .site) ?? site
    visionNormEps = try fields.decodeIfPresent(Double.self, forKey: .visionNormEps) ?? visionNormEps
    languageSize = try fields.decodeIfPresent(Int.self, forKey: .languageSize)
    objectives = try fields.decodeIfPresent(ObjectiveConfiguration.self, forKey: .objectives)
  }

  /// Checks that the parts fit together.
  ///
  /// - Throws: ``QFormerError/invalidConfiguration(_:)``.
  public func validate() throws {
    try frame.validate()
    try temporal.validate()
    guard temporal.crossAttentionFrequency == 1 else {
      throw QFormerError.invalidConfiguration(
        "cross_attention_frequency of the temporal Q-Former is \(temporal.crossAttentionFrequency), expected 1")
    }
    guard temporal.encoderHiddenSize == frame.hiddenSize else {
      throw QFormerError.invalidConfiguration(
        "encoder_hidden_size of the temporal Q-Former is \(temporal.encoderHiddenSize), expected the frame Q-Former's "
          + "hidden_size \(frame.hiddenSize)")
    }
    try checkLanguageSize(languageSize)
  }
}

/// A Q-Former over frames behind a Q-Former over patches.
public struct CascadedVideoQFormer: VideoQFormer {
  /// Its sizes.
  public let configuration: CascadedVideoConfiguration
  /// The image Q-Former that reads every frame.
  public let frameQFormer: QFormer
  /// The Q-Former that reads the frames' queries; texts are read by it.
  public let textQFormer: QFormer
  /// The heads for comparing videos with texts, where there are any.
  public let heads: ObjectiveHeads?
  private let visionNorm: LayerNorm
  private let frameEmbedding: TimeEmbedding
  private let projection: Linear?

  /// Takes the image Q-Former and `vision_model.post_layernorm` from the scope under Hugging Face's names, then
  /// `frame_position_embedding`, `temporal.*`, `language_projection` and the heads.
  ///
  /// - Throws: ``QFormerError/invalidConfiguration(_:)``.
  public init(_ configuration: CascadedVideoConfiguration, _ scope: ParameterScope) throws {
    try configuration.validate()
    self.configuration = configuration
    frameQFormer = try QFormer(configuration.frame, scope)
    visionNorm = LayerNorm(
      configuration.frame.encoderHiddenSize, eps: configuration.visionNormEps, scope["vision_model.post_layernorm"])
    let isAfter = configuration.site == .afterFrameQFormer
    frameEmbedding = try TimeEmbedding(
      configuration.time, isAfter ? configuration.frame.hiddenSize : configuration.frame.encoderHiddenSize,
      scope["frame_position_embedding"], initializer: isAfter ? TimeEmbedding.asLargeAsTokens : .zeros)
    textQFormer = try QFormer(configuration.temporal, scope["temporal"])
    projection = configuration.languageSize.map {
      Linear(configuration.temporal.hiddenSize, $0, scope["language_projection"])
    }
    let qformer = textQFormer
    heads = try configuration.objectives.map { try ObjectiveHeads($0, on: qformer, scope) }
  }

  /// Whether a parameter belongs to what reads single frames: the image Q-Former and the LayerNorm before it.
  ///
  /// - Parameter name: The parameter's name.
  public static func isOfFrames(_ name: String) -> Bool {
    name == "query_tokens" || name.hasPrefix("qformer.") || name.hasPrefix("vision_model.")
  }

  // MARK: Frames

  /// Encoder features `[…, Dv]` after the LayerNorm that the adapter has on them.
  public func imageEmbeds(_ features: Tensor) -> Tensor { visionNorm(features) }

  /// What the image Q-Former says of every frame. Depends on that frame alone, so that streams can keep it.
  ///
  /// - Parameters:
  ///   - clip: Encoder features `[B, T, N, Dv]`; padding is not computed.
  ///   - text: What a frame Q-Former with text reads beside each frame (TimeChat tells it the time in words):
  ///     `int64 [B, T, L]` from `[CLS]` to `[SEP]`, padded at the end, and a mask of 1 and 0.
  ///   - firstFrame: The number of the first frame in a longer video. Matters before the frame Q-Former only.
  ///   - isTraining: Whether dropout is on.
  /// - Returns: `[B, T, M, D]`, zeros for padding; without the embedding that is added after the frame Q-Former.
  /// - Throws: ``QFormerError``.
  public func readFrames(
    _ clip: TimedFeatures, text: (ids: Tensor, mask: Tensor)? = nil, firstFrame: Int = 0, isTraining: Bool = false
  ) throws -> TimedFeatures {
    let width = configuration.frame.encoderHiddenSize
    try clip.requireFrames(width: width)
    if let text {
      for tensor in [text.ids, text.mask]
      where tensor.rank != 3 || Array(tensor.shape.prefix(2)) != [clip.batch, clip.frames] {
        throw QFormerError.wrongShape(
          what: "texts of frames", expected: "[\(clip.batch), \(clip.frames), L]", found: tensor.shape)
      }
    }
    let time = configuration.site == .beforeFrameQFormer ? try frameEmbedding(clip, first: firstFrame) : nil
    return try clip.mapFrames { frames, rows in
      // What belongs to each frame, [B, T, …], for those frames that are computed, [K, …].
      func ofFrames(_ x: Tensor) -> Tensor {
        let flat = x.reshaped(clip.batch * clip.frames, -1)  // [B, T, …] → [B · T, …]
        return rows.map { flat.indexSelect(0, $0) } ?? flat
      }
      let (time, text) = (time.map(ofFrames), text.map { (ids: ofFrames($0.ids), mask: ofFrames($0.mask)) })
      let count = frames.size(0)
      let parts = try stride(from: 0, to: count, by: isTraining ? count : Self.frameGroup).map { start in
        func part(_ x: Tensor) -> Tensor { x.narrow(0, start, isTraining ? count : Self.frameGroup) }
        let image = try frameImage(part(frames), areEmbeds: clip.areEmbeds, time: time.map(part))  // [k, N, Dv]
        guard let text else { return frameQFormer.readImage(image, isTraining: isTraining).hidden }
        return try frameQFormer.readImageAndText(
          image, part(text.ids), mask: part(text.mask), isTraining: isTraining
        ).hidden.narrow(1, 0, configuration.frame.queries)
      }
      return parts.count == 1 ? parts[0] : .cat(parts, 0)
    }
  }

  /// Outside training, frames go through the frame Q-Former in groups of so many, so that long clips take little more
  /// memory than their features.
  private static let frameGroup = 32

  /// Where the frame Q-Former's queries look in each frame: cross-attention weights without text.
  ///
  /// - Parameters:
  ///   - clip: Encoder features `[B, T, N, Dv]`; padding is not computed.
  ///   - firstFrame: As in ``readFrames(_:text:firstFrame:isTraining:)``.
  /// - Returns: `[B, T, layers, H, M, N]`, rows of N sum to 1, zeros for padding; the layers are those with
  ///   cross-attention.
  /// - Throws: ``QFormerError``.
  public func frameAttention(_ clip: TimedFeatures, firstFrame: Int = 0) throws -> Tensor {
    let time = configuration.site == .beforeFrameQFormer ? try frameEmbedding(clip, first: firstFrame) : nil
    return try clip.mapFrames { frames, rows in
      let times = time.map { time in
        let flat = time.reshaped(clip.batch * clip.frames, -1)  // [B, T, Dv] → [B · T, Dv]
        return rows.map { flat.indexSelect(0, $0) } ?? flat
      }
      let image = try frameImage(frames, areEmbeds: clip.areEmbeds, time: times)
      return .stack(frameQFormer.readImage(image, keepsAttention: true).crossAttention, 1)  // [K, layers, H, M, N]
    }.features
  }

  /// What the frame Q-Former looks at in K frames `[K, N, Dv]`, with the embedding of their times `[K, Dv]` where that is
  /// added before it.
  private func frameImage(_ frames: Tensor, areEmbeds: Bool, time: Tensor?) throws -> ImageKeyValues {
    let embeds = areEmbeds ? frames : visionNorm(frames)  // [K, N, Dv]
    return try frameQFormer.imageKeyValues(time.map { embeds + $0.unsqueezed(1) } ?? embeds)
  }

  /// The queries of frames with the embedding of their time added, where that is added after the frame Q-Former.
  ///
  /// - Parameters:
  ///   - frames: `[B, T, M, D]`, from ``readFrames(_:text:firstFrame:isTraining:)``.
  ///   - firstFrame: The number of the first frame in a longer video.
  /// - Returns: `[B, T, M, D]`.
  /// - Throws: ``QFormerError``.
  public func embedTime(_ frames: TimedFeatures, firstFrame: Int = 0) throws -> TimedFeatures {
    let width = configuration.frame.hiddenSize
    guard frames.features.rank == 4, frames.features.size(3) == width else {
      throw QFormerError.wrongShape(
        what: "queries of frames", expected: "[B, T, M, \(width)]", found: frames.features.shape)
    }
    guard configuration.site == .afterFrameQFormer, let time = try frameEmbedding(frames, first: firstFrame) else {
      return frames
    }
    return frames.replacing(frames.features + time.unsqueezed(2))  // [B, T, M, D] + [B, T, 1, D]
  }

  // MARK: Video

  /// Keys and values of frames whose time is embedded already.
  ///
  /// - Parameter frames: `[B, T, M, D]`, from ``embedTime(_:firstFrame:)``.
  /// - Throws: ``QFormerError``.
  public func frameKeyValues(_ frames: TimedFeatures) throws -> ImageKeyValues {
    let count = frames.features.size(2)
    let flat = frames.cleaned.reshaped(frames.batch, frames.frames * count, -1)  // [B, T, M, D] → [B, T · M, D]
    return try textQFormer.imageKeyValues(flat, mask: frames.tokenMask(count))
  }

  /// What the video's queries look at, for objectives.
  ///
  /// - Parameters:
  ///   - clip: Encoder features `[B, T, N, Dv]`.
  ///   - isTraining: Whether dropout is on.
  /// - Throws: ``QFormerError``.
  public func keyValues(_ clip: TimedFeatures, isTraining: Bool = false) throws -> ImageKeyValues {
    try frameKeyValues(embedTime(readFrames(clip, isTraining: isTraining)))
  }

  /// Hidden states of the video's queries.
  ///
  /// - Parameters:
  ///   - clip: Encoder features `[B, T, N, Dv]`.
  ///   - text: What the frame Q-Former reads beside each frame, as in ``readFrames(_:text:firstFrame:isTraining:)``.
  ///   - keepsAttention: Whether to return cross-attention weights over the frames' queries, `[B, H, M′, T · M]`.
  ///   - isTraining: Whether dropout is on.
  /// - Returns: `[B, M′, D]`, however many frames there are.
  /// - Throws: ``QFormerError``.
  public func readVideo(
    _ clip: TimedFeatures, text: (ids: Tensor, mask: Tensor)? = nil, keepsAttention: Bool = false,
    isTraining: Bool = false
  ) throws -> QFormerOutput {
    try readVideo(
      frames: readFrames(clip, text: text, isTraining: isTraining), keepsAttention: keepsAttention,
      isTraining: isTraining)
  }

  /// The same from what the image Q-Former has said of the frames.
  ///
  /// - Parameters:
  ///   - frames: `[B, T, M, D]`, from ``readFrames(_:text:firstFrame:isTraining:)``.
  ///   - firstFrame: The number of the first frame in a longer video.
  ///   - keepsAttention: As above.
  ///   - isTraining: Whether dropout is on.
  /// - Returns: `[B, M′, D]`.
  /// - Throws: ``QFormerError``.
  public func readVideo(
    frames: TimedFeatures, firstFrame: Int = 0, keepsAttention: Bool = false, isTraining: Bool = false
  ) throws -> QFormerOutput {
    textQFormer.readImage(
      try frameKeyValues(embedTime(frames, firstFrame: firstFrame)), keepsAttention: keepsAttention,
      isTraining: isTraining)
  }

  /// Hidden states `[B, M′, D]` as token embeddings of the language model, `[B, M′, languageSize]`.
  ///
  /// - Throws: ``QFormerError/missingPart(_:)`` without a projection.
  public func languageTokens(_ hidden: Tensor) throws -> Tensor {
    guard let projection else { throw QFormerError.missingPart("projection to a language model") }
    return projection(hidden)
  }
}
