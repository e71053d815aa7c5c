public import Backbones
import Foundation
public import QFormer

/// The `config.json` of a published BLIP-2 or InstructBLIP folder in Hugging Face layout.
///
/// Published files are sparse: what they leave out takes the values of the original models. Older revisions lack the image
/// token and call the Q-Former's text switch otherwise; the architecture decides about text in any case.
public struct BLIPConfiguration: Decodable, Sendable, Equatable {
  /// The model classes that this package knows, under transformers' names.
  public enum Architecture: String, Codable, Sendable, CaseIterable {
    /// BLIP-2 with a language model.
    case blip2 = "Blip2ForConditionalGeneration"
    /// BLIP-2 with contrastive and matching heads.
    case blip2Matching = "Blip2ForImageTextRetrieval"
    /// BLIP-2 whose Q-Former reads the instruction, too.
    case instructBLIP = "InstructBlipForConditionalGeneration"
    /// The same over the frames of a clip.
    case instructBLIPVideo = "InstructBlipVideoForConditionalGeneration"

    /// `model_type` of the configuration.
    public var modelType: String {
      switch self {
      case .blip2, .blip2Matching: "blip-2"
      case .instructBLIP: "instructblip"
      case .instructBLIPVideo: "instructblipvideo"
      }
    }

    /// Whether it writes text through a language model.
    public var hasLanguageModel: Bool { self != .blip2Matching }
    /// Whether the Q-Former reads text beside the picture.
    public var readsText: Bool { self != .blip2 }
  }

  /// Which model it is.
  public var architecture: Architecture
  /// The image encoder.
  public var vision = BLIP2VisionConfiguration()
  /// The Q-Former.
  public var qformer = QFormerConfiguration.blip2
  /// The language model; nil for the matching model.
  public var language: LanguageTowerConfiguration?
  /// E, the width of contrastive features.
  public var contrastiveSize = 256
  /// Begins a text without a prompt; nil where the configuration does not say.
  public var beginID: Int?
  /// Stands for a picture's tokens in the language model's vocabulary; nil in older files.
  public var imageTokenID: Int?

  private enum CodingKeys: String, CodingKey {
    case modelType = "model_type"
    case architectures
    case vision = "vision_config"
    case qformer = "qformer_config"
    case text = "text_config"
    case queries = "num_query_tokens"
    case contrastiveSize = "image_text_hidden_size"
    case imageToken = "image_token_index"
    case videoToken = "video_token_index"
  }

  /// Decodes a `config.json`; throws a `DecodingError` for fields that cannot be.
  public init(from decoder: any Decoder) throws {
    let fields = try decoder.container(keyedBy: CodingKeys.self)
    architecture = try Self.architecture(fields)
    vision = try fields.decodeIfPresent(BLIP2VisionConfiguration.self, forKey: .vision) ?? vision
    qformer = try fields.decodeIfPresent(QFormerConfiguration.self, forKey: .qformer) ?? qformer
    qformer.queries = try fields.decodeIfPresent(Int.self, forKey: .queries) ?? qformer.queries
    qformer.encoderHiddenSize = vision.hiddenSize
    qformer.readsText = architecture.readsText
    qformer.separateDecoderToken = false
    contrastiveSize = try fields.decodeIfPresent(Int.self, forKey: .contrastiveSize) ?? contrastiveSize
    imageTokenID =
      try fields.decodeIfPresent(Int.self, forKey: .imageToken)
      ?? fields.decodeIfPresent(Int.self, forKey: .videoToken)
    guard architecture.hasLanguageModel else { return }
    // transformers takes OPT where nothing is said.
    let text = try fields.decodeIfPresent(PublishedText.self, forKey: .text)
    language =
      text?.modelType == nil
      ? .opt(try fields.decodeIfPresent(OPTConfiguration.self, forKey: .text) ?? OPTConfiguration())
      : try fields.decode(LanguageTowerConfiguration.self, forKey: .text)
    beginID = (text ?? PublishedText()).usualBeginID
  }

  private static func architecture(_ fields: KeyedDecodingContainer<CodingKeys>) throws -> Architecture {
    let type = try fields.decodeIfPresent(String.self, forKey: .modelType)
    let names = try fields.decodeIfPresent([String].self, forKey: .architectures) ?? []
    if let name = names.first {
      guard let architecture = Architecture(rawValue: name) else {
        let known = Architecture.allCases.map(\.rawValue).joined(separator: ", ")
        throw DecodingError.dataCorruptedError(
          forKey: .architectures, in: fields, debugDescription: "\(name) is not known; expected one of \(known)")
      }
      return architecture
    }
    guard let architecture = Architecture.allCases.first(where: { $0.modelType == type }) else {
      throw DecodingError.dataCorruptedError(
        forKey: .modelType, in: fields,
        debugDescription: "\(type ?? "none") is not known; expected \(modelTypes.joined(separator: ", "))")
    }
    return architecture
  }

  /// Every `model_type` that is known.
  static let modelTypes = ["blip-2", "instructblip", "instructblipvideo"]
}

/// Fields of a published language model's configuration that the model itself does not need.
struct PublishedText: Decodable {
  var modelType: String?
  var beginID: Int?

  enum CodingKeys: String, CodingKey {
    case modelType = "model_type"
    case beginID = "bos_token_id"
  }

  /// What begins a text, or what transformers' own configurations say when the file does not.
  var usualBeginID: Int? {
    switch modelType ?? "opt" {
    case "opt": beginID ?? 2
    case "llama": beginID ?? 1
    default: beginID
    }
  }
}
