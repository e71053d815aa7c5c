import Backbones
import Checkpoints
public import Foundation
public import Pipelines
import QFormer
import Torch
import TorchNN

/// Stage 2: the frozen language model's loss on captions, through its input to projection, Q-Former and queries; with the
/// objective `video-language` clips take the place of images, an image being a clip of one frame.
///
/// The language model reads [image tokens][begin][caption][end], or what the recipe's template makes of them, and is scored on
/// caption and end; of a question it reads [image tokens][begin][question][answer][end] and is scored on answer and end. The
/// same promises as in ``ImageTextTraining`` hold: everything random follows from the seed, and a resumed run computes the same
/// losses.
public enum ImageLanguageTraining {
  /// Trains and writes the adapter to `RUN/adapter`.
  ///
  /// - Parameters:
  ///   - recipe: What to do.
  ///   - output: The run folder.
  ///   - resumes: Whether to go on from the newest checkpoint in it.
  ///   - store: Where models lie.
  ///   - showsProgress: Whether a progress line is printed.
  ///   - shouldStop: Asked after every step; a checkpoint is written before stopping.
  /// - Returns: The adapter's folder, or nil when stopped early.
  /// - Throws: ``TrainingError``, `PipelineError`, `CheckpointError`, what reading data throws.
  public static func run(
    _ recipe: Recipe, output: URL, resumes: Bool, store: ModelStore = ModelStore(), showsProgress: Bool,
    shouldStop: () -> Bool = { false }
  ) throws -> URL? {
    let folder = try RunFolder(output, recipe: recipe, resumes: resumes)
    let data = try TrainingData(recipe, store: store, showsProgress: showsProgress)
    let language = try LanguageModel(
      folder: store.frozenModel(recipe.language.model), template: recipe.language.template)

    let (start, configuration) = try connector(
      recipe, store: store, languageSize: language.model.hiddenSize, data: data.train)
    let loop = try LanguageLoop(recipe, start, language, data.train)
    let progress = Progress("training", total: loop.totalSteps, isOn: showsProgress)
    var generation = GenerationOptions()
    generation.beams = 1
    generation.maxTokens = recipe.imageLanguage.maximumTokens
    func validate(_ step: Int) throws {
      let isLast = step == loop.totalSteps
      let limit = isLast ? Int.max : recipe.imageLanguage.captions
      for set in data.validation {
        let (right, wrong) = try rightAndWrong(start.model, language, set, limit: 256)
        let scores = try CaptionEvaluation.run(
          start.model, language, set, limit: limit, options: generation, isBlindToo: isLast,
          training: isLast ? (data.train.features, data.train.captions) : nil)
        let answers = try AnswerEvaluation.run(
          start.model, language, set, limit: limit, isBlindToo: isLast)
        try folder.log(
          ["step": step, "validation": set.name, "lm.right": right, "lm.wrong": wrong].merging(scores.metrics) { $1 }
            .merging(answers?.metrics ?? [:]) { $1 })
        progress.note(
          "step \(step) \(set.name): " + String(format: "right %.3f wrong %.3f ", right, wrong) + scores.summary
            + (answers.map { " · " + $0.summary } ?? ""))
      }
    }
    let steps = try loop.run(
      in: folder, resumes: resumes, progress: progress,
      validation: TrainingLoop.Validation(sets: data.validation.count, run: validate), shouldStop: { _ in shouldStop() }
    )
    guard steps == loop.totalSteps else { return nil }
    let adapter = output.appendingPathComponent("adapter")
    try AdapterFolder.write(configuration, start.parameters.all, to: adapter)
    return adapter
  }

  /// The mean next-token loss of captions, answers and end tokens (BLIP-2, section 3.3).
  ///
  /// - Parameters:
  ///   - tokens: What the language model reads of each clip.
  ///   - texts: For each clip its texts.
  static func loss(_ language: LanguageModel, tokens: SeenTokens, texts: [[SharedPrefix.Text]]) -> Tensor {
    let (logits, targets, _) = LanguageTexts.logits(language, tokens: tokens, texts: texts)
    return logits.crossEntropy(targets)
  }

  /// Losses with the right images and with those of the next rows: their difference tells whether the model looks.
  private static func rightAndWrong(
    _ model: ClipConnector, _ language: LanguageModel, _ set: TrainingData.Part, limit: Int
  ) throws -> (right: Double, wrong: Double) {
    let count = min(limit, set.features.count)
    let captions = set.captions.prefix(count).map { LanguageTexts.caption($0[0], language, maximum: 32) }
    func mean(_ shift: Int) throws -> Double {
      let batches = RetrievalEvaluation.batches(Array(0..<count), 32)
      let sum = try withError {
        try withNoGrad {
          try batches.reduce(0.0) { sum, rows in
            let clips = try set.clips(rows.map { ($0 + shift) % set.features.count })
            let tokens = try model.languageTokens(of: clips, isTraining: false)
            return sum + loss(language, tokens: tokens, texts: rows.map { [captions[$0]] }).item
          }
        }
      }
      return sum / Double(batches.count)
    }
    return (try mean(0), try mean(max(set.features.count / 2, 1)))
  }

  /// The model that the recipe trains, of images or of clips, with its branch for sound where the recipe has one, and what its
  /// folder says of it.
  static func connector(
    _ recipe: Recipe, store: ModelStore, languageSize: Int, data: TrainingData.Part
  ) throws -> (start: ConnectorStart, configuration: AdapterConfiguration) {
    if recipe.objective.readsVideo {
      let video = try AdapterStart.make(
        recipe, store: store, encoderWidth: data.features.width, languageSize: languageSize)
      var (start, configuration) = (video.connector, video.configuration)
      guard let options = recipe.audio, let sounds = data.sounds else { return (start, configuration) }
      guard video.isProjecting || !options.freezeVideo else {
        throw TrainingError.badRecipe(
          file: "recipe",
          reason: "audio.freezeVideo is true, but adapter.start has no projection to this language model")
      }
      let audio = try AudioStart.make(
        recipe, options, store: store, encoderWidth: sounds.width, languageSize: languageSize)
      for (name, tensor) in audio.parameters.all { start.parameters.insert(name, tensor) }
      (start.model.audio, start.model.isVideoFrozen) = (audio.model, options.freezeVideo)
      start.inherited.formUnion(audio.inherited)
      start.isProjectingSound = audio.isProjecting
      configuration.audio = audio.configuration
      return (start, configuration)
    }
    let (model, parameters, isProjecting) = try start(
      recipe, store: store, languageSize: languageSize, features: data.features)
    let configuration = AdapterConfiguration(
      imageLanguage: model.configuration, encoder: recipe.encoder, language: recipe.language)
    let inherited = Set(parameters.names.filter { !$0.hasPrefix("language_projection") })
    return (
      ConnectorStart(
        video: FirstFrameConnector(model), parameters: parameters, inherited: inherited, isProjecting: isProjecting),
      configuration
    )
  }

  /// A model of images at the start: from a stage-1 adapter with a new projection, from an image–language adapter, or from
  /// the text model.
  ///
  /// - Returns: Also whether the projection has been trained.
  private static func start(
    _ recipe: Recipe, store: ModelStore, languageSize: Int, features: FeatureStack
  ) throws -> (model: ImageLanguageQFormer, parameters: Parameters, isProjecting: Bool) {
    func configuration(_ sizes: QFormerConfiguration) -> ImageLanguageConfiguration {
      var configuration = ImageLanguageConfiguration()
      configuration.languageSize = languageSize
      configuration.qformer = sizes
      configuration.qformer.readsText = false
      configuration.qformer.separateDecoderToken = false
      configuration.qformer.hiddenDropout = recipe.adapter.hiddenDropout
      configuration.qformer.attentionDropout = recipe.adapter.attentionDropout
      return configuration
    }
    let parameters = Parameters()
    guard let start = recipe.adapter.start else {
      let textFolder = try store.frozenModel(recipe.text.model)
      let sizes = try QFormerStart.configuration(recipe, bert: textFolder, encoderWidth: features.width)
      let scope = ParameterScope(FreshParameters(seed: recipe.seed), parameters: parameters)
      let model = try ImageLanguageQFormer(configuration(sizes), scope)
      _ = try QFormerStart.copy(Checkpoint(contentsOf: textFolder), into: parameters, recipe)
      try QFormerStart.pool(model.qformer, model.imageEmbeds, features: features, recipe)
      return (model, parameters, false)
    }
    let folder = try store.adapter(start)
    let adapter = try AdapterConfiguration(folder: folder)
    guard
      adapter.encoder.givesFeatures(like: recipe.encoder),
      var sizes = adapter.imageText?.qformer ?? adapter.imageLanguage?.qformer
    else {
      throw TrainingError.badRecipe(
        file: folder.path, reason: "adapter.start reads another encoder than the recipe's: \(adapter.encoder)")
    }
    let isProjecting = adapter.kind == .imageLanguage
    let all = sizes.layers
    sizes.layers = try QFormerStart.layers(recipe, of: all, file: folder.path)
    let kept = sizes
    // The text side of stage 1 stays behind.
    let unused = [
      "embeddings.*", "vision_projection.*", "text_projection.*", "itm_head.*", "temp", "cls.*", "*.intermediate.*",
      "*.output.dense.*", "*.output.LayerNorm.*",
    ]
    let model = try loadModel(
      from: Checkpoint(contentsOf: folder),
      ignoring: unused + QFormerStart.namesLeftOut(from: sizes.layers, of: all),
      allowMissing: isProjecting ? [] : ["language_projection.*"], seed: recipe.seed
    ) { scope in
      let model = try ImageLanguageQFormer(configuration(kept), scope)
      for (name, tensor) in scope.parameters.all { parameters.insert(name, tensor) }
      return model
    }.model
    return (model, parameters, isProjecting)
  }
}
