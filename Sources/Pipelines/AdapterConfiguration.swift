import Checkpoints
public import Foundation
public import QFormer
public import TorchNN

/// The `config.json` of an adapter folder: the adapter's sizes and the frozen models it stands between.
public struct AdapterConfiguration: Codable, Sendable, Equatable {
  /// The kinds of adapter that this package knows.
  public enum Kind: String, Codable, Sendable, CaseIterable {
    /// `ImageTextQFormer`: comparing images and texts.
    case imageText = "qformer_image_text"
    /// `ImageLanguageQFormer`: image to language model.
    case imageLanguage = "qformer_image_language"
    /// `CascadedVideoQFormer`: video to language model, and comparing videos with texts.
    case cascadedVideo = "qformer_cascaded_video"
    /// `SpatioTemporalQFormer`: the same, over space and time at once.
    case spatioTemporalVideo = "qformer_spatio_temporal_video"
    /// `AudioQFormer` alone: sound to language model.
    case audioLanguage = "qformer_audio_language"

    /// Whether it reads clips.
    public var readsVideo: Bool { self == .cascadedVideo || self == .spatioTemporalVideo }
  }

  /// The image encoder whose features the adapter reads.
  public struct Encoder: Codable, Sendable, Equatable {
    /// Name or folder of the model.
    public var model = "dinov2-small-focus"
    /// The block whose output is read, from 0; the last one with its final norm when left out.
    public var block: Int? = 10
    /// Side of the square that images are resized to, in pixels.
    public var imageSize = 224

    /// The default encoder.
    public init() {}

    /// Whether another encoder gives features of the same kind: the same model and block. How many there are of a picture,
    /// which its size in pixels says, does not matter to a Q-Former.
    ///
    /// - Parameter other: The encoder to compare with.
    public func givesFeatures(like other: Encoder) -> Bool { model == other.model && block == other.block }

    enum CodingKeys: String, CodingKey {
      case model, block
      case imageSize = "image_size"
    }
  }

  /// The text model that gives the tokenizer and the word table.
  public struct Text: Codable, Sendable, Equatable {
    /// Name or folder of the model.
    public var model = "minilm-l6"
    /// Longer texts are cut to so many tokens, `[CLS]` and `[SEP]` included.
    public var maximumLength = 32

    /// The default text model.
    public init() {}

    enum CodingKeys: String, CodingKey {
      case model
      case maximumLength = "max_length"
    }
  }

  /// Which frames of a clip a video adapter was trained on; other choices can be made when it is used.
  public struct Frames: Codable, Sendable, Equatable {
    /// How frames at even distances are placed.
    public enum Place: String, Codable, Sendable, CaseIterable {
      /// Each part's left edge, as Video-LLaMA takes them.
      case uniform
      /// Each part's middle.
      case uniformMiddle = "uniform_middle"
    }

    /// T, the number of frames; shorter clips give all they have.
    public var count = 8
    /// Where they lie.
    public var place = Place.uniformMiddle

    /// Eight frames, each from the middle of its part.
    public init() {}
  }

  /// The branch for sound, beside that for frames or alone.
  public struct Audio: Codable, Sendable, Equatable {
    /// The audio encoder, and how a sound is cut for it.
    public var encoder: AudioEncoderConfiguration
    /// Sizes of the Q-Former that reads the pieces.
    public var sizes: AudioQFormerConfiguration

    /// Puts a Q-Former behind an encoder.
    public init(encoder: AudioEncoderConfiguration = .init(), sizes: AudioQFormerConfiguration = .small) {
      (self.encoder, self.sizes) = (encoder, sizes)
    }

    enum CodingKeys: String, CodingKey {
      case encoder
      case sizes = "config"
    }
  }

  /// The frozen language model.
  public struct Language: Codable, Sendable, Equatable {
    /// Name or folder of the model.
    public var model = "smollm2-135m-instruct"
    /// What the model reads around picture and text; the picture, the begin token and the text when left out.
    public var template: PromptTemplate?
    /// Whether prompts become tokens as a published model's processor does it, and not as this package trains.
    public var usesPublishedPrompts: Bool?
    /// Video-LLaMA's words around clip and question, in the place of a template.
    public var conversation: VideoLLaMAConversation?
    /// With how many beams texts are looked for unless told otherwise; 1 when left out.
    public var beams: Int?
    /// Stands for each picture token where repeated tokens are counted; they are not counted when it is left out.
    public var imageTokenID: Int?

    /// The default language model.
    public init() {}

    enum CodingKeys: String, CodingKey {
      case model, template, conversation, beams
      case usesPublishedPrompts = "published_prompts"
      case imageTokenID = "image_token_index"
    }
  }

  /// Which adapter it is.
  public var kind: Kind
  /// The image encoder; an adapter for sound alone has none, and does not write this field.
  public var encoder = Encoder()
  /// The text model, of an adapter whose Q-Former reads text.
  public var text: Text?
  /// The language model, of an image–language adapter.
  public var language: Language?
  /// Sizes of an image–text adapter.
  public var imageText: ImageTextConfiguration?
  /// Sizes of an image–language adapter.
  public var imageLanguage: ImageLanguageConfiguration?
  /// Sizes of a cascaded video adapter.
  public var cascaded: CascadedVideoConfiguration?
  /// Sizes of a spatio-temporal video adapter.
  public var spatioTemporal: SpatioTemporalConfiguration?
  /// The frames that a video adapter reads.
  public var frames: Frames?
  /// The branch for sound, of an adapter that hears.
  public var audio: Audio?
  /// The published model that it was converted from.
  public var published: BLIPConfiguration.Architecture?

  enum CodingKeys: String, CodingKey {
    case kind = "model_type"
    case encoder, text, language
    case imageText = "image_text_config"
    case imageLanguage = "image_language_config"
    case cascaded = "cascaded_video_config"
    case spatioTemporal = "spatio_temporal_video_config"
    case frames, audio
    case published = "published_architecture"
  }

  /// The kind must be there, and the image encoder unless the adapter is for sound alone.
  public init(from decoder: any Decoder) throws {
    let fields = try decoder.container(keyedBy: CodingKeys.self)
    kind = try fields.decode(Kind.self, forKey: .kind)
    if kind != .audioLanguage { encoder = try fields.decode(Encoder.self, forKey: .encoder) }
    text = try fields.decodeIfPresent(Text.self, forKey: .text)
    language = try fields.decodeIfPresent(Language.self, forKey: .language)
    imageText = try fields.decodeIfPresent(ImageTextConfiguration.self, forKey: .imageText)
    imageLanguage = try fields.decodeIfPresent(ImageLanguageConfiguration.self, forKey: .imageLanguage)
    cascaded = try fields.decodeIfPresent(CascadedVideoConfiguration.self, forKey: .cascaded)
    spatioTemporal = try fields.decodeIfPresent(SpatioTemporalConfiguration.self, forKey: .spatioTemporal)
    frames = try fields.decodeIfPresent(Frames.self, forKey: .frames)
    audio = try fields.decodeIfPresent(Audio.self, forKey: .audio)
    published = try fields.decodeIfPresent(BLIPConfiguration.Architecture.self, forKey: .published)
  }

  /// Writes what is there; no image encoder for sound alone.
  public func encode(to encoder: any Swift.Encoder) throws {
    var fields = encoder.container(keyedBy: CodingKeys.self)
    try fields.encode(kind, forKey: .kind)
    if kind != .audioLanguage { try fields.encode(self.encoder, forKey: .encoder) }
    try fields.encodeIfPresent(text, forKey: .text)
    try fields.encodeIfPresent(language, forKey: .language)
    try fields.encodeIfPresent(imageText, forKey: .imageText)
    try fields.encodeIfPresent(imageLanguage, forKey: .imageLanguage)
    try fields.encodeIfPresent(cascaded, forKey: .cascaded)
    try fields.encodeIfPresent(spatioTemporal, forKey: .spatioTemporal)
    try fields.encodeIfPresent(frames, forKey: .frames)
    try fields.encodeIfPresent(audio, forKey: .audio)
    try fields.encodeIfPresent(published, forKey: .published)
  }

  /// An adapter for comparing images and texts.
  public init(imageText: ImageTextConfiguration, encoder: Encoder = Encoder(), text: Text = Text()) {
    kind = .imageText
    self.encoder = encoder
    self.text = text
    self.imageText = imageText
  }

  /// An adapter between an image encoder and a language model.
  public init(imageLanguage: ImageLanguageConfiguration, encoder: Encoder = Encoder(), language: Language = Language())
  {
    kind = .imageLanguage
    self.encoder = encoder
    self.language = language
    self.imageLanguage = imageLanguage
  }

  /// A cascaded video adapter.
  ///
  /// - Parameters:
  ///   - cascaded: Its sizes.
  ///   - frames: The frames that it reads.
  ///   - encoder: The image encoder.
  ///   - text: The text model, where the adapter compares videos with texts.
  ///   - language: The language model, where the adapter has a projection to it.
  public init(
    cascaded: CascadedVideoConfiguration, frames: Frames = Frames(), encoder: Encoder = Encoder(), text: Text? = Text(),
    language: Language? = Language()
  ) {
    kind = .cascadedVideo
    (self.cascaded, self.frames) = (cascaded, frames)
    (self.encoder, self.text, self.language) = (encoder, text, language)
  }

  /// A spatio-temporal video adapter.
  ///
  /// - Parameters:
  ///   - spatioTemporal: Its sizes.
  ///   - frames: The frames that it reads.
  ///   - encoder: The image encoder.
  ///   - text: The text model, where the adapter compares videos with texts.
  ///   - language: The language model, where the adapter has a projection to it.
  public init(
    spatioTemporal: SpatioTemporalConfiguration, frames: Frames = Frames(), encoder: Encoder = Encoder(),
    text: Text? = Text(), language: Language? = Language()
  ) {
    kind = .spatioTemporalVideo
    (self.spatioTemporal, self.frames) = (spatioTemporal, frames)
    (self.encoder, self.text, self.language) = (encoder, text, language)
  }

  /// An adapter between an audio encoder and a language model.
  public init(audio: Audio, language: Language = Language()) {
    kind = .audioLanguage
    (self.audio, self.language) = (audio, language)
  }

  /// How a video adapter tells time.
  public var time: TimeConfiguration? { cascaded?.time ?? spatioTemporal?.time }

  /// Builds the video adapter that the configuration describes, on the weights of a scope.
  ///
  /// - Throws: ``PipelineError/wrongModel(folder:expected:found:)`` for an adapter of images;
  ///   `QFormerError.invalidConfiguration`.
  public func videoQFormer(_ scope: ParameterScope, folder: URL) throws -> any VideoQFormer {
    switch kind {
    case .cascadedVideo:
      if let cascaded { return try CascadedVideoQFormer(cascaded, scope) }
    case .spatioTemporalVideo:
      if let spatioTemporal { return try SpatioTemporalQFormer(spatioTemporal, scope) }
    case .imageText, .imageLanguage, .audioLanguage:
      throw PipelineError.wrongModel(folder: folder.path, expected: "a video adapter", found: kind.rawValue)
    }
    throw PipelineError.badConfiguration(file: folder.path, reason: "lacks the sizes of its Q-Former")
  }

  /// Builds the branch for sound on the weights of a scope, all below `audio`; nil for an adapter that does not hear.
  ///
  /// - Throws: `QFormerError.invalidConfiguration`.
  public func audioQFormer(_ scope: ParameterScope) throws -> AudioQFormer? {
    try audio.map { try AudioQFormer($0.sizes, scope["audio"]) }
  }

  /// Reads `config.json` of a folder. Models that it names from `./` on lie in that folder: their names become paths.
  ///
  /// - Throws: ``PipelineError`` that names the file and the field.
  public init(folder: URL) throws {
    let file = folder.appendingPathComponent("config.json")
    let data = try SmallFile.configuration(file)
    struct Head: Decodable {
      let modelType: String?
      enum CodingKeys: String, CodingKey { case modelType = "model_type" }
    }
    guard let head = try? JSONDecoder().decode(Head.self, from: data) else {
      throw PipelineError.badConfiguration(file: file.path, reason: "expected a JSON object")
    }
    let known = Kind.allCases.map(\.rawValue)
    guard let type = head.modelType, known.contains(type) else {
      throw PipelineError.wrongModel(
        folder: folder.path, expected: "model_type \(known.joined(separator: " or "))",
        found: head.modelType.map { "model_type \($0)" } ?? "none")
    }
    do {
      self = try JSONDecoder().decode(AdapterConfiguration.self, from: data)
    } catch let error as DecodingError {
      throw PipelineError.badConfiguration(file: file.path, reason: error.words)
    }
    func located(_ name: String) -> String {
      name.hasPrefix("./") ? folder.appendingPathComponent(String(name.dropFirst(2))).path : name
    }
    encoder.model = located(encoder.model)
    if let name = audio?.encoder.model { audio?.encoder.model = located(name) }
    if let name = text?.model { text?.model = located(name) }
    if let name = language?.model { language?.model = located(name) }
  }

  /// Writes `config.json` into a folder.
  ///
  /// - Throws: `CheckpointError.cannotWrite`.
  public func write(to folder: URL) throws {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
    try AtomicFile.write(try encoder.encode(self), to: folder.appendingPathComponent("config.json"))
  }
}

extension SmallFile {
  /// The content of a configuration.
  ///
  /// - Throws: ``PipelineError/badConfiguration(file:reason:)``.
  static func configuration(_ file: URL) throws -> Data {
    do {
      return try read(file)
    } catch CheckpointError.unreadable(let file, let reason) {
      throw PipelineError.badConfiguration(file: file, reason: "cannot be read: \(reason)")
    }
  }
}

extension DecodingError {
  /// The field and what is wrong with it, in one line.
  var words: String {
    func path(_ context: DecodingError.Context) -> String {
      context.codingPath.map(\.stringValue).joined(separator: ".")
    }
    return switch self {
    case .keyNotFound(let key, let context): "\(path(context)).\(key.stringValue) is missing"
    case .typeMismatch(let type, let context): "\(path(context)): expected \(type)"
    case .valueNotFound(let type, let context): "\(path(context)): expected \(type), found null"
    case .dataCorrupted(let context): "\(path(context)): \(context.debugDescription)"
    @unknown default: "\(self)"
    }
  }
}
