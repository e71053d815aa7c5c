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
  /// What became of every key.
  let report: LoadReport

  /// Loads a folder in Hugging Face layout.
  ///
  /// - Parameters:
  ///   - folder: The folder.
  ///   - allowMissing: Patterns of keys that may be missing.
  /// - Throws: `BackboneError` and ``PipelineError`` for configurations, `CheckpointError` for weights, what tokenizers
  ///   throw.
  init(folder: URL, allowMissing: [String] = []) throws {
    configuration = try readConfiguration(BLIPConfiguration.self, folder: folder)
    let configuration = configuration
    let processor = try ImageProcessor(folder: folder, size: configuration.vision.imageSize)
    let checkpoint = try Checkpoint(contentsOf: folder)
    let ((tower, text, language), report) = try loadModel(
      from: checkpoint, keyMap: configuration.architecture.keyMap,
      ignoring: configuration.ignoredKeys(checkpoint.names), allowMissing: ["temp"] + allowMissing,
      build: configuration.build)
    self.report = report
    encoder = try ImageEncoder(tower, processor: processor, name: folder.path)
    self.text = text
    self.language = try language.map { adapter, tower in
      (
        adapter,
        try LanguageModel(
          published: tower, folder: folder, beginID: configuration.beginID,
          imageTokenID: configuration.imageTokenID)
      )
    }
    texts = configuration.architecture.readsText ? try Self.texts(configuration, folder: folder) : nil
  }

  /// InstructBLIP has the Q-Former's tokenizer in a folder of its own.
  private static func texts(_ configuration: BLIPConfiguration, folder: URL) throws -> TextEncoder {
    let own = folder.appendingPathComponent("qformer_tokenizer")
    let isInstructed = configuration.architecture.hasLanguageModel
    return TextEncoder(
      try Tokenizer(contentsOf: isInstructed ? own : folder), maximumLength: configuration.qformer.maxPositions)
  }
}
