import Backbones
import Checkpoints
import Foundation
import QFormer
import Torch
import TorchNN

/// A model in parts, whatever files they lie in. Its configuration is that of a published model.
struct ConvertibleModel {
  /// The parts that weights belong to.
  enum Part: String, CaseIterable {
    case vision = "vision tower"
    case adapter
    case language = "language model"

    /// The part of a key. The last norm of the tower is the adapter's: it is trained with it.
    init(key: String) {
      self =
        key.hasPrefix("language_model.")
        ? .language
        : key.hasPrefix("vision_model.") && !key.hasPrefix("vision_model.post_layernorm.") ? .vision : .adapter
    }
  }

  let source: ConversionSource
  let configuration: BLIPConfiguration
  /// All weights under this library's names.
  let weights: Checkpoint
  /// The names of the model's weights that are there, in the model's order.
  let names: [String]
  /// What became of the source's keys.
  let report: LoadReport

  /// Compares keys and shapes of a source and its bases with what the model needs.
  ///
  /// - Throws: `CheckpointError.mismatch`, ``PipelineError`` for configurations.
  init(_ source: ConversionSource, allowMissing: [String]) throws {
    self.source = source
    var configuration = try decode(BLIPConfiguration.self, source.config, file: source.url.path)
    if source.config["text_config"] == nil { configuration.language = nil }
    self.configuration = configuration
    let bases = source.bases.compactMap(\.weights)
    // transformers drops the temperature and the head for generation together.
    let optional = source.hasGenerationHead ? [] : ["temp"]
    let asked = CheckpointParameters(
      source.weights.checkpoint, keyMap: source.weights.keyMap, bases: bases, allowMissing: allowMissing + optional,
      readsTensors: false)
    let parameters = Parameters()
    try withError { try Self.build(configuration, source, ParameterScope(asked, parameters: parameters)) }
    var report = asked.finish(ignoring: configuration.ignoredKeys(source.weights.checkpoint.names))
    report.initialised.removeAll { optional.contains($0) }
    for missing in source.missing(configuration) {
      if allowMissing.contains(where: { KeyMap.fits(missing, $0) }) {
        report.initialised.append(missing)
      } else {
        report.missing.append(missing)
      }
    }
    guard report.isStrict else { throw CheckpointError.mismatch(report) }
    self.report = report
    let weights = try Checkpoint(merging: [source.weights] + bases, precedence: .first)
    self.weights = weights
    names = parameters.names.filter { weights.shape($0) != nil }
  }

  private static func build(
    _ configuration: BLIPConfiguration, _ source: ConversionSource, _ scope: ParameterScope
  ) throws {
    _ = BLIP2Vision(configuration.vision, scope["vision_model"], hasOutputNorm: false)
    guard configuration.architecture.hasLanguageModel else {
      _ = try ImageTextQFormer(source.imageText(configuration), scope)
      return
    }
    _ = try ImageLanguageQFormer(configuration.imageLanguage(width: source.languageWidth(configuration)), scope)
    if let language = configuration.language { _ = LanguageTower(language, scope["language_model"]) }
  }
}
