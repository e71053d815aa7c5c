import Backbones
import Checkpoints
import Foundation
import Tokenizers

/// What a file or folder can lend to a model that lacks it: frozen towers with their sizes, tokenizers.
struct ConversionBase {
  let url: URL
  /// The tower or towers.
  var weights: BaseCheckpoint?
  /// The configuration of a whole published model.
  var config: JSONObject?
  /// `vision_config`.
  var vision: JSONObject?
  /// `text_config`.
  var text: JSONObject?
  /// The folder of the language model's tokenizer.
  var tokenizer: URL?
  /// The folder of the tokenizer of the Q-Former's text.
  var textTokenizer: URL?

  /// Only the frozen towers: what was trained belongs to the source.
  private static let towers = ["vision_model.embeddings.*", "vision_model.encoder.*", "language_model.*"]

  /// Finds out what a path holds.
  ///
  /// - Throws: ``PipelineError/wrongModel(folder:expected:found:)`` for what cannot be a base, what reading throws.
  static func read(_ url: URL, store: ModelStore) throws -> [ConversionBase] {
    var isFolder: ObjCBool = false
    guard FileManager.default.fileExists(atPath: url.path, isDirectory: &isFolder) else {
      throw CheckpointError.notFound(file: url.path, expected: "a file of weights or a folder")
    }
    guard isFolder.boolValue else { return [try Self(file: url)] }
    guard FileManager.default.fileExists(atPath: url.appendingPathComponent("config.json").path) else {
      return [try Self(tokenizer: url)]
    }
    let type = try ModelType(folder: url).name ?? ""
    if AdapterConfiguration.Kind(rawValue: type) != nil {
      let configuration = try AdapterConfiguration(folder: url)
      let models = [configuration.encoder.model, configuration.language?.model, configuration.text?.model]
      return try models.compactMap { $0 }.flatMap { try read(store.frozenModel($0), store: store) }
    }
    return [try Self(folder: url, type: type)]
  }

  private init(file url: URL) throws {
    self.url = url
    let checkpoint = try Checkpoint(contentsOf: url)
    func has(_ pattern: String) -> Bool { checkpoint.names.contains { KeyMap.fits($0, pattern) } }
    if has("blocks.*.attn.*"), has("patch_embed.proj.weight") {
      weights = BaseCheckpoint(checkpoint, keyMap: LAVIS.vision, providing: Self.towers)
    } else if has("visual_encoder.*") || has("*_model.*.weight"), has("Qformer.bert.*") {
      weights = BaseCheckpoint(checkpoint, keyMap: LAVIS.model, providing: Self.towers)
    } else {
      throw PipelineError.wrongModel(
        folder: url.path, expected: "a base: EVA's vision tower, a file of LAVIS with towers, or a model folder",
        found: checkpoint.apparentKind ?? "tensors such as \(checkpoint.names.prefix(3).joined(separator: ", "))")
    }
  }

  private init(tokenizer folder: URL) throws {
    url = folder
    assign(try Tokenizer(contentsOf: folder), folder)
  }

  private init(folder: URL, type: String) throws {
    url = folder
    let object = try jsonObject(contentsOf: folder.appendingPathComponent("config.json"))
    switch type {
    case "opt", "t5", "llama":
      text = object
      let checkpoint = try Checkpoint(contentsOf: folder)
      // Some files of OPT start one level deeper.
      let isShort = checkpoint.names.contains { $0.hasPrefix("decoder.layers.") }
      let rules = isShort ? [KeyMap.Rule("language_model.model.decoder", "decoder")] : []
      weights = BaseCheckpoint(
        checkpoint, keyMap: KeyMap(rules + LAVIS.language.rules, ignorable: LAVIS.strayBuffers),
        providing: ["language_model.*"])
      if TokenizerFiles.areThere(in: folder) { assign(try Tokenizer(contentsOf: folder), folder) }
    case "bert": textTokenizer = folder
    case let type where type.hasSuffix("vision_model") && type.contains("blip"):
      vision = object
      let checkpoint = try Checkpoint(contentsOf: folder)
      let isPrefixed = checkpoint.names.contains { $0.hasPrefix("vision_model.") }
      let map = isPrefixed ? KeyMap.identity : KeyMap([KeyMap.Rule("vision_model", "")])
      weights = BaseCheckpoint(checkpoint, keyMap: map, providing: Self.towers)
    case let type where BLIPConfiguration.modelTypes.contains(type):
      let configuration = try readConfiguration(BLIPConfiguration.self, folder: folder)
      config = object
      vision = object["vision_config"] as? JSONObject ?? [:]
      if configuration.architecture.hasLanguageModel { text = object["text_config"] as? JSONObject }
      weights = try Self.weights(folder).map {
        BaseCheckpoint($0, keyMap: configuration.architecture.keyMap, providing: Self.towers)
      }
      (tokenizer, textTokenizer) = configuration.tokenizers(folder)
    default:
      let known = ["opt", "t5", "llama", "bert", "blip_2_vision_model"] + BLIPConfiguration.modelTypes
      throw PipelineError.wrongModel(
        folder: folder.path, expected: "a base of model_type \(known.joined(separator: ", "))",
        found: "model_type \(type.isEmpty ? "none" : type)")
    }
  }

  /// The weights of a folder; nil for one that has a configuration alone.
  private static func weights(_ folder: URL) throws -> Checkpoint? {
    do { return try Checkpoint(contentsOf: folder) } catch CheckpointError.notFound(folder.path, _) { return nil }
  }

  /// BERT's tokenizers are for the Q-Former.
  private mutating func assign(_ tokenizer: Tokenizer, _ folder: URL) {
    if tokenizer.id(of: "[CLS]") != nil { textTokenizer = folder } else { self.tokenizer = folder }
  }
}

extension BLIPConfiguration {
  /// Where the tokenizers of a published model lie, as far as they are there: the language model's, and that of the
  /// Q-Former's text.
  func tokenizers(_ folder: URL) -> (language: URL?, text: URL?) {
    func located(_ folder: URL) -> URL? { TokenizerFiles.areThere(in: folder) ? folder : nil }
    guard architecture.hasLanguageModel else { return (nil, located(folder)) }
    let own = folder.appendingPathComponent("qformer_tokenizer")
    return (located(folder), architecture.readsText ? located(own) : nil)
  }
}
