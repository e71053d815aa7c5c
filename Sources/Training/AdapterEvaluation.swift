public import Backbones
import Foundation
public import Pipelines
import QFormer
import Torch

/// A trained adapter's numbers on the validation sets of a recipe, beside their baselines.
public struct AdapterEvaluation: Codable, Sendable {
  /// The numbers of one set.
  public struct Result: Codable, Sendable {
    /// The set.
    public let set: String
    /// How many images or clips it has.
    public let images: Int
    /// Retrieval, of an image–text adapter.
    public var retrieval: RetrievalEvaluation?
    /// Retrieval with ridge regression on the same features.
    public var ridge: RetrievalEvaluation.Recall?
    /// Retrieval with canonical correlations of the same features and the text model's first token.
    public var canonical: RetrievalEvaluation.Recall?
    /// Captions, of an adapter before a language model.
    public var captions: CaptionEvaluation?
    /// Questions, of such an adapter and a set that has some.
    public var answers: AnswerEvaluation?
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
    switch configuration.kind {
    case .imageText: recipe.objective = .imageText
    case .imageLanguage: recipe.objective = .imageLanguage
    case .cascadedVideo, .spatioTemporalVideo:
      recipe.objective = configuration.language == nil ? .videoText : .videoLanguage
      if let frames = configuration.frames { (recipe.video.frames, recipe.video.place) = (frames.count, frames.place) }
    case .audioLanguage:
      throw PipelineError.wrongModel(
        folder: try store.adapter(model).path, expected: "an adapter of pictures or videos",
        found: "one for sound alone")
    }
    // What the adapter listens to, and not what the recipe would train.
    recipe.audio = configuration.language == nil ? nil : configuration.audio.map { Recipe.Audio(encoder: $0.encoder) }
    // Each image once: what a baseline chooses its penalty on must not be among what it is fitted to.
    for index in recipe.train.indices { recipe.train[index].repeats = 1 }
    let data = try TrainingData(recipe, store: store, showsProgress: showsProgress)
    var results = data.validation.map { Result(set: $0.name, images: $0.features.count) }
    func retrieve(_ adapter: any VideoQFormer, _ texts: TextEncoder, _ text: AdapterConfiguration.Text) throws {
      let baselines = try LinearBaselines(
        train: data.train, textModel: store.frozenModel(text.model), maximumLength: text.maximumLength)
      for (index, set) in data.validation.enumerated() {
        results[index].retrieval = try RetrievalEvaluation.run(
          adapter, features: set.features, captions: set.captions, texts: texts, rerank: recipe.imageText.rerank)
        let linear = try baselines.score(set)
        (results[index].ridge, results[index].canonical) = (linear.ridge, linear.canonical)
      }
    }
    func write(_ adapter: ClipConnector, _ language: LanguageModel) throws {
      for (index, set) in data.validation.enumerated() {
        let count = set.features.count
        results[index].captions = try CaptionEvaluation.run(
          adapter, language, set, options: options, isBlindToo: true,
          training: (data.train.features, data.train.captions),
          progress: Progress("captioning \(set.name)", total: count, isOn: showsProgress))
        results[index].answers = try AnswerEvaluation.run(
          adapter, language, set, isBlindToo: true,
          progress: Progress("asking \(set.name)", total: count, isOn: showsProgress))
      }
    }
    switch configuration.kind {
    case .imageText:
      let pipeline = try ImageTextPipeline(model, store: store)
      try retrieve(FirstFrameQFormer(pipeline.adapter), pipeline.texts, configuration.text ?? .init())
    case .imageLanguage:
      let pipeline = try ImageLanguagePipeline(model, store: store)
      try write(ClipConnector(video: FirstFrameConnector(pipeline.adapter)), pipeline.language)
    case .audioLanguage: break
    case .cascadedVideo, .spatioTemporalVideo:
      let pipeline = try VideoPipeline(model, store: store)
      if let texts = pipeline.texts, let text = configuration.text { try retrieve(pipeline.adapter, texts, text) }
      if let language = pipeline.language {
        try write(ClipConnector(video: pipeline.adapter, audio: pipeline.sound?.qformer), language)
      }
    }
    return AdapterEvaluation(model: model, results: results)
  }
}
