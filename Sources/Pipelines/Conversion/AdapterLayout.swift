import Backbones
import Checkpoints
import Foundation
import QFormer
import Torch

/// Writes a model as an adapter folder of this package: the adapter with all that training needs, and the frozen models in
/// folders of their own inside it.
struct AdapterLayout {
  private let model: ConvertibleModel
  private let shardSize: Int

  init(_ model: ConvertibleModel, shardSize: Int) { (self.model, self.shardSize) = (model, shardSize) }

  /// Names of the folders, as the configuration refers to them.
  private enum Folder {
    static let encoder = "encoder"
    static let language = "language"
    static let text = "text"
  }

  /// Fills a folder.
  ///
  /// - Returns: The keys that the layout has no place for: none.
  func write(to folder: URL) throws -> [String] {
    try configuration().write(to: folder)
    let groups = Dictionary(grouping: model.names, by: ConvertibleModel.Part.init(key:))
    // Adapters that compare leave the word table to the text model.
    let comparing = model.configuration.architecture.hasLanguageModel ? [] : [ImageTextPipeline.wordTable]
    try write((groups[.adapter] ?? []).filter { !comparing.contains($0) }, without: "", to: folder)
    try writeEncoder(groups[.vision] ?? [], to: folder.appendingPathComponent(Folder.encoder))
    try writeLanguage(groups[.language] ?? [], to: folder.appendingPathComponent(Folder.language))
    if model.configuration.architecture.readsText {
      try writeText(comparing.filter(model.names.contains), to: folder.appendingPathComponent(Folder.text))
    }
    return []
  }

  /// The text model as far as an adapter needs it: its tokenizer and its word table.
  private func writeText(_ names: [String], to folder: URL) throws {
    try makeFolder(folder)
    let sizes = model.configuration.qformer
    try writeJSON(
      [
        "model_type": "bert", "vocab_size": sizes.vocabularySize, "hidden_size": sizes.hiddenSize,
        "max_position_embeddings": sizes.maxPositions,
      ], to: folder.appendingPathComponent("config.json"))
    if let tokenizer = model.source.textTokenizer { try TokenizerFiles.copy(from: tokenizer, to: folder) }
    if !names.isEmpty { try write(names, without: "", to: folder) }
  }

  private func configuration() throws -> AdapterConfiguration {
    let (configuration, source) = (model.configuration, model.source)
    guard source.processor == .clip(size: source.processor.size) else {
      throw PipelineError.badInput(
        "\(source.url.path): preprocessor_config.json has other means or deviations than CLIP's, which an adapter folder "
          + "cannot say")
    }
    var encoder = AdapterConfiguration.Encoder()
    encoder.model = "./\(Folder.encoder)"
    encoder.block = configuration.vision.layers - 1
    encoder.imageSize = source.processor.size
    var text = AdapterConfiguration.Text()
    text.model = "./\(Folder.text)"
    text.maximumLength = source.maximumTextLength ?? configuration.qformer.maxPositions
    guard configuration.architecture.hasLanguageModel else {
      return AdapterConfiguration(imageText: source.imageText(configuration), encoder: encoder, text: text)
    }
    var language = AdapterConfiguration.Language()
    language.model = "./\(Folder.language)"
    language.usesPublishedPrompts = true
    language.imageTokenID = configuration.imageTokenID
    var adapter = AdapterConfiguration(
      imageLanguage: configuration.imageLanguage(width: source.languageWidth(configuration)), encoder: encoder,
      language: language)
    adapter.text = configuration.architecture.readsText ? text : nil
    adapter.published = configuration.architecture
    return adapter
  }

  private func writeEncoder(_ names: [String], to folder: URL) throws {
    guard !names.isEmpty else { return }
    try makeFolder(folder)
    // The tower's own last norm, which the adapter has too: the folder is then a whole tower.
    let norm = model.names.filter { $0.hasPrefix("vision_model.post_layernorm.") }
    try write(names + norm, without: "vision_model.", to: folder)
    var config = model.source.config["vision_config"] as? JSONObject ?? [:]
    config["model_type"] = "blip_2_vision_model"
    try writeJSON(config, to: folder.appendingPathComponent("config.json"))
  }

  private func writeLanguage(_ names: [String], to folder: URL) throws {
    guard !names.isEmpty else { return }
    try makeFolder(folder)
    try write(names, without: "language_model.", to: folder)
    let config = model.source.config["text_config"] as? JSONObject ?? [:]
    try writeJSON(config, to: folder.appendingPathComponent("config.json"))
    if let tokenizer = model.source.tokenizer { try TokenizerFiles.copy(from: tokenizer, to: folder) }
    if let published = model.source.published {
      try TokenizerFiles.copy(["generation_config.json"], from: published, to: folder)
    }
  }

  private func write(_ names: [String], without prefix: String, to folder: URL) throws {
    let renamed = names.map { (name: $0, newName: String($0.dropFirst(prefix.count))) }
    try model.weights.writeModel(renamed, to: folder, shardSize: shardSize)
  }

  private func makeFolder(_ folder: URL) throws {
    do {
      try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    } catch {
      throw CheckpointError.cannotWrite(file: folder.path, reason: error.localizedDescription)
    }
  }
}
