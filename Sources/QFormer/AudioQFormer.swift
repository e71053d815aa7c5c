// The audio branch of Video-LLaMA (arXiv 2306.02858, section 2.1.2): a Q-Former reads what an audio encoder says of
// pieces of sound, each with a learned position, beside the video branch.
//
// B batch · S pieces of sound · Da encoder width · M queries · D hidden

public import Torch
public import TorchNN

/// Sizes of an ``AudioQFormer``.
public struct AudioQFormerConfiguration: Codable, Sendable, Equatable {
  /// The Q-Former that reads the pieces, in every layer.
  public var qformer: QFormerConfiguration = {
    var configuration = QFormerConfiguration.small
    configuration.layers = 2
    configuration.crossAttentionFrequency = 1
    configuration.queries = 8
    configuration.readsText = false
    configuration.separateDecoderToken = false
    return configuration
  }()
  /// How time is told.
  public var time: TimeConfiguration = {
    var time = TimeConfiguration()
    time.maxFrames = 8
    return time
  }()
  /// The width of the language model's token embeddings.
  public var languageSize = 576

  /// The small scale of this package: states of Whisper-tiny, width 384, for SmolLM2-135M.
  public init() {}

  /// The small scale of this package.
  public static let small = AudioQFormerConfiguration()

  /// The published sizes: ImageBind's vectors of width 1024, 8 pieces, 8 queries, a 7 B language model.
  public static let videoLLaMA: AudioQFormerConfiguration = {
    var configuration = AudioQFormerConfiguration()
    configuration.qformer = .blip2
    configuration.qformer.layers = 2
    configuration.qformer.crossAttentionFrequency = 1
    configuration.qformer.encoderHiddenSize = 1024
    configuration.qformer.queries = 8
    configuration.languageSize = 4096
    return configuration
  }()

  enum CodingKeys: String, CodingKey {
    case qformer = "audio_qformer_config"
    case time = "time_encoding"
    case languageSize = "language_hidden_size"
  }

  /// The Q-Former and the language model's width must be there; time that is absent takes the default.
  public init(from decoder: any Decoder) throws {
    let fields = try decoder.container(keyedBy: CodingKeys.self)
    qformer = try fields.decode(QFormerConfiguration.self, forKey: .qformer)
    time = try fields.decodeIfPresent(TimeConfiguration.self, forKey: .time) ?? time
    languageSize = try fields.decode(Int.self, forKey: .languageSize)
  }

  /// Checks that the parts fit together.
  ///
  /// - Throws: ``QFormerError/invalidConfiguration(_:)``.
  public func validate() throws {
    try qformer.validate()
    guard qformer.crossAttentionFrequency == 1 else {
      throw QFormerError.invalidConfiguration(
        "cross_attention_frequency of the audio Q-Former is \(qformer.crossAttentionFrequency), expected 1")
    }
    try checkLanguageSize(languageSize)
  }
}

/// A Q-Former over pieces of sound.
public struct AudioQFormer: Sendable {
  /// Its sizes.
  public let configuration: AudioQFormerConfiguration
  /// The querying transformer.
  public let qformer: QFormer
  private let positions: TimeEmbedding
  private let projection: Linear

  /// Takes the Q-Former, `position_embedding` and `language_projection` from the scope.
  ///
  /// - Throws: ``QFormerError/invalidConfiguration(_:)``.
  public init(_ configuration: AudioQFormerConfiguration, _ scope: ParameterScope) throws {
    try configuration.validate()
    self.configuration = configuration
    qformer = try QFormer(configuration.qformer, scope)
    positions = try TimeEmbedding(
      configuration.time, configuration.qformer.encoderHiddenSize, scope["position_embedding"],
      initializer: TimeEmbedding.asLargeAsTokens)
    projection = Linear(configuration.qformer.hiddenSize, configuration.languageSize, scope["language_projection"])
  }

  /// Hidden states of the queries.
  ///
  /// - Parameters:
  ///   - sound: What the audio encoder says of each piece, `[B, S, Da]`, with the mask of padded clips and the seconds
  ///     at which pieces start where time is a sinusoid.
  ///   - keepsAttention: Whether to return cross-attention weights `[B, H, M, S]`.
  ///   - isTraining: Whether dropout is on.
  /// - Returns: `[B, M, D]`.
  /// - Throws: ``QFormerError``.
  public func readSound(
    _ sound: TimedFeatures, keepsAttention: Bool = false, isTraining: Bool = false
  ) throws -> QFormerOutput {
    let width = configuration.qformer.encoderHiddenSize
    guard sound.features.rank == 3, sound.features.size(2) == width else {
      throw QFormerError.wrongShape(
        what: "features of sound", expected: "[B, S, \(width)]", found: sound.features.shape)
    }
    let timed = try positions(sound).map { sound.cleaned + $0 } ?? sound.cleaned
    return qformer.readImage(
      try qformer.imageKeyValues(timed, mask: sound.mask), keepsAttention: keepsAttention, isTraining: isTraining)
  }

  /// Hidden states `[B, M, D]` as token embeddings of the language model, `[B, M, languageSize]`.
  public func languageTokens(_ hidden: Tensor) -> Tensor { projection(hidden) }
}
