import Checkpoints
public import Foundation
public import QFormer

/// The `config.json` of an adapter folder: the adapter's sizes and the frozen models it stands between.
public struct AdapterConfiguration: Codable, Sendable, Equatable {
  /// The kinds of adapter that this package knows.
  public enum Kind: String, Codable, Sendable, CaseIterable {
    /// `ImageTextQFormer`: comparing images and texts.
    case imageText = "qformer_image_text"
    /// `ImageLanguageQFormer`: image to language model.
    case imageLanguage = "qformer_image_language"
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

  /// The frozen language model.
  public struct Language: Codable, Sendable, Equatable {
    /// Name or folder of the model.
    public var model = "smollm2-135m-instruct"
    /// What the model reads around picture and text; the picture, the begin token and the text when left out.
    public var template: PromptTemplate?
    /// Whether prompts become tokens as a published model's processor does it, and not as this package trains.
    public var usesPublishedPrompts: Bool?
    /// Stands for each picture token where repeated tokens are counted; they are not counted when it is left out.
    public var imageTokenID: Int?

    /// The default language model.
    public init() {}

    enum CodingKeys: String, CodingKey {
      case model, template
      case usesPublishedPrompts = "published_prompts"
      case imageTokenID = "image_token_index"
    }
  }

  /// Which adapter it is.
  public var kind: Kind
  /// The image encoder.
  public var encoder = Encoder()
  /// The text model, of an adapter whose Q-Former reads text.
  public var text: Text?
  /// The language model, of an image–language adapter.
  public var language: Language?
  /// Sizes of an image–text adapter.
  public var imageText: ImageTextConfiguration?
  /// Sizes of an image–language adapter.
  public var imageLanguage: ImageLanguageConfiguration?
  /// The published model that it was converted from.
  public var published: BLIPConfiguration.Architecture?

  enum CodingKeys: String, CodingKey {
    case kind = "model_type"
    case encoder, text, language
    case imageText = "image_text_config"
    case imageLanguage = "image_language_config"
    case published = "published_architecture"
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
