import Backbones
import Checkpoints
import Foundation
import QFormer
import Tokenizers
import TorchNN

/// The parts of a published BLIP-2 or InstructBLIP folder, built on one set of weights and loaded strictly.
struct BLIPModel {
  let configuration: BLIPConfiguration
  let encoder: ImageEncoder
  /// The adapter of a model that compares images with texts.
  let text: ImageTextQFormer?
  /// The adapter and the language model of a model that writes.
  let language: (adapter: ImageLanguageQFormer, model: LanguageModel)?
  /// The Q-Former's text side, of models whose Q-Former reads text.
  let texts: TextEncoder?

  /// Loads a folder in Hugging Face layout.
  ///
  /// - Throws: `BackboneError` and ``PipelineError`` for configurations, `CheckpointError` for weights, what tokenizers
  ///   throw.
  init(folder: URL) throws {
    configuration = try readConfiguration(BLIPConfiguration.self, folder: folder)
    let configuration = configuration
    let processor = try ImageProcessor(folder: folder, size: configuration.vision.imageSize)
    let checkpoint = try Checkpoint(contentsOf: folder)
    let (tower, text, language) = try loadModel(
      from: checkpoint, keyMap: Self.keyMap(configuration.architecture),
      ignoring: Self.ignored(configuration, checkpoint), allowMissing: ["temp"]
    ) { scope -> (BLIP2Vision, ImageTextQFormer?, (ImageLanguageQFormer, LanguageTower)?) in
      // The adapter takes the tower's last norm: it is trained with it.
      let tower = BLIP2Vision(configuration.vision, scope["vision_model"], hasOutputNorm: false)
      guard let language = configuration.language else {
        return (tower, try ImageTextQFormer(configuration.imageText, scope), nil)
      }
      let adapter = try ImageLanguageQFormer(configuration.imageLanguage(language), scope)
      return (tower, nil, (adapter, LanguageTower(language, scope["language_model"])))
    }.model
    encoder = try ImageEncoder(tower, processor: processor, name: folder.path)
    self.text = text
    self.language = try language.map { adapter, tower in
      (adapter, try Self.language(tower, configuration, folder: folder))
    }
    texts = configuration.architecture.readsText ? try Self.texts(configuration, folder: folder) : nil
  }

  /// InstructBLIP keeps all embeddings below the Q-Former.
  static func keyMap(_ architecture: BLIPConfiguration.Architecture) -> KeyMap {
    switch architecture {
    case .blip2, .blip2Matching: .identity
    case .instructBLIP, .instructBLIPVideo:
      KeyMap([
        KeyMap.Rule("qformer.layernorm", "qformer.embeddings.layernorm"),
        KeyMap.Rule("embeddings", "qformer.embeddings"),
      ])
    }
  }

  /// Buffers, copies of tied weights, and the text half of a Q-Former that is given none.
  private static func ignored(_ configuration: BLIPConfiguration, _ checkpoint: Checkpoint) -> [String] {
    let hasHead = checkpoint.names.contains("language_model.lm_head.weight")
    let copies = configuration.language?.ignoredKeys(hasHead: hasHead) ?? []
    let text = ["qformer.encoder.layer.*.intermediate.*", "qformer.encoder.layer.*.output.*"]
    return ["*.position_ids"] + copies.map { "language_model." + $0 }
      + (configuration.architecture.readsText ? [] : text)
  }

  private static func language(
    _ tower: LanguageTower, _ configuration: BLIPConfiguration, folder: URL
  ) throws -> LanguageModel {
    let tokenizer = try Tokenizer(contentsOf: folder)
    var beginID = configuration.beginID
    var endIDs = tower.configuration.endIDs
    if case .llama = tower {
      // Vicuna's published configuration says 0 and 1; its tokenizer knows better.
      beginID = tokenizer.id(of: .beginning) ?? beginID
      if let end = tokenizer.id(of: .end), !endIDs.contains(end) { endIDs.append(end) }
    }
    if let id = beginID, !(0..<tower.vocabularySize).contains(id) {
      throw PipelineError.badConfiguration(
        file: folder.appendingPathComponent("config.json").path,
        reason: "bos_token_id is \(id), expected 0 ..< \(tower.vocabularySize)")
    }
    return LanguageModel(
      tower, tokenizer: tokenizer, beginID: beginID, endIDs: endIDs, prompting: .template,
      imageTokenID: configuration.imageTokenID)
  }

  /// InstructBLIP has the Q-Former's tokenizer in a folder of its own.
  private static func texts(_ configuration: BLIPConfiguration, folder: URL) throws -> TextEncoder {
    let own = folder.appendingPathComponent("qformer_tokenizer")
    let isInstructed = configuration.architecture.hasLanguageModel
    return TextEncoder(
      try Tokenizer(contentsOf: isInstructed ? own : folder), maximumLength: configuration.qformer.maxPositions)
  }
}

extension BLIPConfiguration {
  /// Sizes of the adapter with contrastive and matching heads.
  var imageText: ImageTextConfiguration {
    var sizes = ImageTextConfiguration()
    sizes.qformer = qformer
    sizes.contrastiveSize = contrastiveSize
    sizes.visionNormEps = vision.outputNormEps
    sizes.hasGenerationHead = false
    return sizes
  }

  /// Sizes of the adapter before a language model.
  func imageLanguage(_ language: LanguageTowerConfiguration) -> ImageLanguageConfiguration {
    var sizes = ImageLanguageConfiguration()
    sizes.qformer = qformer
    sizes.languageSize = language.hiddenSize
    sizes.visionNormEps = vision.outputNormEps
    return sizes
  }
}
