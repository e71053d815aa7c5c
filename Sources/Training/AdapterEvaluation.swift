public import Backbones
import Foundation
public import Pipelines
import Torch

/// A trained adapter's numbers on the validation sets of a recipe, beside their baselines.
public struct AdapterEvaluation: Codable, Sendable {
  /// The numbers of one set.
  public struct Result: Codable, Sendable {
    /// The set.
    public let set: String
    /// How many images it has.
    public let images: Int
    /// Retrieval, of an image–text adapter.
    public var retrieval: RetrievalEvaluation?
    /// Retrieval with ridge regression on the same features.
    public var ridge: RetrievalEvaluation.Recall?
    /// Captions, of an image–language adapter.
    public var captions: CaptionEvaluation?
  }

  /// The adapter's folder.
  public let model: String
  /// One entry for each set.
  public let results: [Result]

  /// Evaluates an adapter.
  ///
  /// - Parameters:
  ///   - recipe: What to do.
  ///   - model: A name or a folder.
  ///   - split: Replaces the split of every validation source.
  ///   - store: Where models lie.
  ///   - showsProgress: Whether a progress line is printed.
  ///   - options: How text is generated.
  /// - Throws: ``TrainingError``, `PipelineError`, `CheckpointError`, `DataError`.
  public static func run(
    _ recipe: Recipe, model: String, split: String?, store: ModelStore = ModelStore(), showsProgress: Bool,
    options: GenerationOptions = GenerationOptions()
  ) throws -> AdapterEvaluation {
    var recipe = recipe
    if let split { for index in recipe.validation.indices { recipe.validation[index].split = split } }
    let configuration = try AdapterConfiguration(folder: store.adapter(model))
    recipe.encoder = configuration.encoder
    let data = try TrainingData(recipe, store: store, showsProgress: showsProgress)
    var results: [Result] = []
    switch configuration.kind {
    case .imageText:
      let pipeline = try ImageTextPipeline(model, store: store)
      let text = configuration.text ?? .init()
      for set in data.validation {
        var result = Result(set: set.name, images: set.features.count)
        result.retrieval = try RetrievalEvaluation.run(
          pipeline.adapter, features: set.features, captions: set.captions, texts: pipeline.texts,
          rerank: recipe.imageText.rerank)
        result.ridge = try RidgeBaseline.run(
          train: data.train, set: set, textModel: store.frozenModel(text.model), maximumLength: text.maximumLength
        ).recall
        results.append(result)
      }
    case .imageLanguage:
      let pipeline = try ImageLanguagePipeline(model, store: store)
      for set in data.validation {
        var result = Result(set: set.name, images: set.features.count)
        let progress = Progress("captioning \(set.name)", total: set.features.count, isOn: showsProgress)
        result.captions = try CaptionEvaluation.run(
          pipeline.adapter, pipeline.language, features: set.features, captions: set.captions, options: options,
          isBlindToo: true, training: (data.train.features, data.train.captions), progress: progress)
        results.append(result)
      }
    case .cascadedVideo, .spatioTemporalVideo:
      throw PipelineError.wrongModel(
        folder: model, expected: "an adapter of images", found: configuration.kind.rawValue)
    }
    return AdapterEvaluation(model: model, results: results)
  }
}
