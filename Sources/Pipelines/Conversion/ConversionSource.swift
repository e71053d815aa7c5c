import Backbones
import Checkpoints
import Foundation
import QFormer

/// What is converted, in whatever layout it lies, with what its bases lend it.
struct ConversionSource {
  /// The file or folder.
  let url: URL
  /// The source's own weights.
  let weights: BaseCheckpoint
  /// Where to look for the rest.
  let bases: [ConversionBase]
  /// The configuration, as a published model has it. Without `text_config` there is no language model to be had.
  let config: JSONObject
  /// The folder of the language model's tokenizer.
  var tokenizer: URL?
  /// The folder of the tokenizer of the Q-Former's text.
  var textTokenizer: URL?
  /// A published folder, for the small files beside its weights.
  var published: URL?
  /// How pictures are processed.
  var processor: ImageProcessor
  /// Whether the decoder's start token is a vector of its own.
  var hasDecoderToken = false
  /// The longest text that the Q-Former reads; all its positions when left out.
  var maximumTextLength: Int?

  /// Finds out what a path holds.
  ///
  /// - Throws: ``PipelineError/wrongModel(folder:expected:found:)`` for what cannot be converted, what reading throws.
  static func read(_ url: URL, bases: [ConversionBase], store: ModelStore) throws -> ConversionSource {
    var isFolder: ObjCBool = false
    guard FileManager.default.fileExists(atPath: url.path, isDirectory: &isFolder) else {
      throw CheckpointError.notFound(file: url.path, expected: "a file of LAVIS or a model folder")
    }
    guard isFolder.boolValue else { return try lavis(url, bases) }
    switch try ModelFolder(url) {
    case .blip(let configuration): return try published(url, configuration, bases)
    case .adapter(let configuration): return try adapter(url, configuration, bases, store)
    }
  }

  private static func lavis(_ file: URL, _ bases: [ConversionBase]) throws -> ConversionSource {
    let checkpoint = try Checkpoint(contentsOf: file)
    let others = ["video_Qformer.", "audio_Qformer.", "llama_proj."]
    let foreign = checkpoint.names.first { name in others.contains { name.hasPrefix($0) } }
    let isLAVIS =
      checkpoint.names.contains("query_tokens")
      && checkpoint.names.contains { $0.hasPrefix("Qformer.bert.") }
    guard isLAVIS, foreign == nil else {
      let kind =
        checkpoint.apparentKind ?? "tensors such as \(checkpoint.names.prefix(3).joined(separator: ", "))"
      let besides = isLAVIS ? foreign.map { ", besides \($0) of another model" } ?? "" : ""
      throw PipelineError.wrongModel(
        folder: file.path, expected: "LAVIS' BLIP-2 or InstructBLIP, a Hugging Face folder or an adapter folder",
        found: kind + besides)
    }
    let weights = BaseCheckpoint(checkpoint, keyMap: LAVIS.model)
    let all = try Checkpoint(merging: [weights] + bases.compactMap(\.weights), precedence: .first)
    let sizes = try LAVISSizes(file: file, names: checkpoint.names, weights: all, bases: bases)
    let config = try sizes.config()
    let vision = try decode(
      BLIP2VisionConfiguration.self, config["vision_config"] as? JSONObject ?? [:], file: file.path)
    return ConversionSource(
      url: file, weights: weights, bases: bases, config: config, tokenizer: sizes.tokenizer,
      textTokenizer: sizes.textTokenizer, published: sizes.published?.url, processor: .clip(size: vision.imageSize))
  }

  private static func published(
    _ folder: URL, _ configuration: BLIPConfiguration, _ bases: [ConversionBase]
  ) throws -> ConversionSource {
    var config = try jsonObject(contentsOf: folder.appendingPathComponent("config.json"))
    config["architectures"] = [configuration.architecture.rawValue]
    if configuration.architecture.hasLanguageModel, config["text_config"] == nil {
      config["text_config"] = ["model_type": "opt"]
    }
    let (language, text) = configuration.tokenizers(folder)
    return ConversionSource(
      url: folder,
      weights: BaseCheckpoint(try Checkpoint(contentsOf: folder), keyMap: configuration.architecture.keyMap),
      bases: bases, config: config, tokenizer: language ?? bases.firstValue(\.tokenizer),
      textTokenizer: text ?? bases.firstValue(\.textTokenizer),
      published: folder, processor: try ImageProcessor(folder: folder, size: configuration.vision.imageSize))
  }

  private static func adapter(
    _ folder: URL, _ adapter: AdapterConfiguration, _ others: [ConversionBase], _ store: ModelStore
  ) throws -> ConversionSource {
    let towers = try AdapterTowers(adapter, folder: folder, store: store)
    let bases = towers.bases + others
    let config = try towers.config(adapter, folder: folder)
    let sizes = adapter.imageText?.qformer ?? adapter.imageLanguage?.qformer
    return ConversionSource(
      url: folder, weights: BaseCheckpoint(try Checkpoint(contentsOf: folder)), bases: bases, config: config,
      tokenizer: bases.firstValue(\.tokenizer), textTokenizer: bases.firstValue(\.textTokenizer),
      processor: .clip(size: adapter.encoder.imageSize), hasDecoderToken: sizes?.separateDecoderToken ?? false,
      maximumTextLength: adapter.text?.maximumLength)
  }

  /// Parts without keys that the model needs and nobody has.
  func missing(_ configuration: BLIPConfiguration) -> [String] {
    var missing: [String] = []
    if configuration.architecture.hasLanguageModel {
      if configuration.language == nil {
        missing.append("language_model.*")
      } else if tokenizer == nil {
        missing.append("tokenizer")
      }
    }
    if configuration.architecture.readsText, textTokenizer == nil { missing.append("qformer_tokenizer") }
    return missing
  }

  /// Whether the source can describe pictures without a language model.
  var hasGenerationHead: Bool { weights.checkpoint.names.contains(weights.keyMap("cls.predictions.bias")) }

  /// Sizes of an adapter with matching heads, with what the source has beyond a published one.
  func imageText(_ configuration: BLIPConfiguration) -> ImageTextConfiguration {
    var sizes = configuration.imageText
    sizes.objectives.hasGenerationHead = hasGenerationHead
    sizes.qformer.separateDecoderToken = hasDecoderToken
    return sizes
  }

  /// The width of the language model's embeddings: its own, or that of the projection when there is no language model.
  func languageWidth(_ configuration: BLIPConfiguration) -> Int {
    if let language = configuration.language { return language.hiddenSize }
    let view = try? weights.checkpoint.renamed(by: weights.keyMap)
    return view?.shape("language_projection.weight")?.first ?? 1
  }
}

extension [ConversionBase] {
  /// The first base that has something.
  func firstValue<Value>(_ part: (ConversionBase) -> Value?) -> Value? { lazy.compactMap(part).first }
}

/// The frozen models that an adapter of this package names, as bases.
private struct AdapterTowers {
  let bases: [ConversionBase]
  private let vision: JSONObject
  private let text: JSONObject?

  init(_ adapter: AdapterConfiguration, folder: URL, store: ModelStore) throws {
    let encoder = try store.frozenModel(adapter.encoder.model)
    let type = try ModelType(folder: encoder).name ?? "none"
    guard type != VisionKind.dinov2.rawValue, type != VisionKind.clip.rawValue else {
      throw PipelineError.wrongModel(
        folder: encoder.path, expected: "a vision tower of BLIP-2, the only one that a published model can have",
        found: "model_type \(type)")
    }
    guard var tower = try ConversionBase.read(encoder, store: store).first, var vision = tower.vision,
      let weights = tower.weights
    else {
      throw PipelineError.wrongModel(
        folder: encoder.path, expected: "a vision tower of BLIP-2", found: "model_type \(type)")
    }
    guard let block = adapter.encoder.block else {
      throw PipelineError.badConfiguration(
        file: folder.appendingPathComponent("config.json").path,
        reason: "encoder.block is left out: the tower's own norm would come before the adapter's, which no published "
          + "model has")
    }
    // What was trained on an inner block becomes a model whose tower ends there.
    vision["num_hidden_layers"] = block + 1
    (tower.vision, tower.text, tower.config, tower.tokenizer, tower.textTokenizer) = (vision, nil, nil, nil, nil)
    tower.weights = BaseCheckpoint(
      weights.checkpoint, keyMap: weights.keyMap,
      providing: ["vision_model.embeddings.*", "vision_model.encoder.*"])
    var bases = [tower]
    if let model = adapter.language?.model {
      bases += try ConversionBase.read(store.frozenModel(model), store: store)
    }
    if let model = adapter.text?.model {
      let folder = try store.frozenModel(model)
      for var base in try ConversionBase.read(folder, store: store) {
        // The word table that an adapter's file does not repeat.
        if let words = try? Checkpoint(contentsOf: folder) {
          base.weights = BaseCheckpoint(words, providing: [ImageTextPipeline.wordTable])
        }
        bases.append(base)
      }
    }
    (self.bases, self.vision, text) = (bases, vision, bases.firstValue(\.text))
  }

  /// The configuration of the published model that the adapter amounts to.
  func config(_ adapter: AdapterConfiguration, folder: URL) throws -> JSONObject {
    var vision = vision
    let architecture: BLIPConfiguration.Architecture
    var config: JSONObject = [:]
    if let sizes = adapter.imageText {
      architecture = .blip2Matching
      config["image_text_hidden_size"] = sizes.objectives.contrastiveSize
      config["qformer_config"] = try jsonObject(sizes.qformer)
      vision["post_layernorm_eps"] = sizes.visionNormEps
      config["num_query_tokens"] = sizes.qformer.queries
    } else if let sizes = adapter.imageLanguage {
      guard adapter.language?.template == nil else {
        throw PipelineError.badInput(
          "\(folder.path): language.template is part of the adapter, and no published model has one")
      }
      architecture = adapter.published ?? (sizes.qformer.readsText ? .instructBLIP : .blip2)
      config["qformer_config"] = try jsonObject(sizes.qformer)
      vision["post_layernorm_eps"] = sizes.visionNormEps
      config["num_query_tokens"] = sizes.qformer.queries
      config["text_config"] = text
    } else {
      throw PipelineError.badConfiguration(file: folder.path, reason: "lacks the sizes of its Q-Former")
    }
    config["vision_config"] = vision
    config["architectures"] = [architecture.rawValue]
    config["model_type"] = architecture.modelType
    config[architecture.imageTokenKey] = adapter.language?.imageTokenID
    return config
  }
}
