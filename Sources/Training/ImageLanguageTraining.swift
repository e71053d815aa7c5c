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

    Generator.default.seed(recipe.seed)
    let generator = Generator(seed: recipe.seed &+ 1)
    let start = try connector(recipe, store: store, languageSize: language.model.hiddenSize, data: data.train)
    let (model, parameters) = (start.model, start.parameters)
    parameters.setRequiresGrad(true) { AdapterStart.isTrained($0, recipe) }
    let trainable = parameters.trainable
    let optimizer = AdamW(
      AdamW.groups(trainable, weightDecay: recipe.optimizer.weightDecay) {
        start.inherited.contains($0) ? recipe.optimizer.inheritedFactor : 1
      }, betas: (0.9, recipe.optimizer.beta2))

    let options = recipe.imageLanguage
    let captions = data.train.captions.map { list in
      list.map { LanguageTexts.caption($0, language, maximum: options.maximumTokens) }
    }
    if options.questionsPerImage > 0 { try LanguageTexts.requireQuestions(language, recipe.language.model) }
    let questions = data.train.questions.map { list in
      list.map { LanguageTexts.answer($0.answer, to: $0, language) }
    }
    let plan = try EpochPlan(
      lengths: captions.map { $0.map(\.count) }, batchSize: recipe.batchSize,
      captionsPerImage: options.captionsPerImage, questionLengths: questions.map { $0.map(\.count) },
      questionsPerImage: options.questionsPerImage, seed: recipe.seed)
    let totalSteps = max(1, Int((Double(plan.stepsPerEpoch) * recipe.epochs).rounded()))
    let schedule = recipe.optimizer.schedule(totalSteps: totalSteps)
    var step = resumes ? try folder.restore(parameters: trainable, optimizer: optimizer, generator: generator) : 0
    if step == 0 {
      if !start.isProjecting {
        try scaleProjection(model.video, parameters, features: data.train.features, to: options.tokenScale)
      }
      if let audio = model.audio, let sounds = data.train.sounds, !start.isProjectingSound {
        try scaleProjection(
          audio, parameters, try sounds.sounds(Array(0..<min(64, data.train.features.count))), to: options.tokenScale)
      }
    }
    let progress = Progress("training", total: totalSteps, isOn: showsProgress)
    var meter = Meter()
    var generation = GenerationOptions()
    generation.maxTokens = options.maximumTokens
    func validate() throws {
      let isLast = step == totalSteps
      let limit = isLast ? Int.max : options.captions
      for set in data.validation {
        let (right, wrong) = try rightAndWrong(model, language, set, limit: 256)
        let scores = try CaptionEvaluation.run(
          model, language, set, limit: limit, options: generation, isBlindToo: isLast,
          training: isLast ? (data.train.features, data.train.captions) : nil)
        let answers = try AnswerEvaluation.run(
          model, language, set, limit: limit, isBlindToo: isLast)
        try folder.log(
          ["step": step, "validation": set.name, "lm.right": right, "lm.wrong": wrong].merging(scores.metrics) { $1 }
            .merging(answers?.metrics ?? [:]) { $1 })
        progress.note(
          "step \(step) \(set.name): " + String(format: "right %.3f wrong %.3f ", right, wrong) + scores.summary
            + (answers.map { " · " + $0.summary } ?? ""))
      }
    }
    func isValidated() -> Bool {
      step == totalSteps || step > 0 && recipe.validateEvery > 0 && step % recipe.validateEvery == 0
    }
    // The checkpoint comes before the validation: a run may have been killed in between.
    if isValidated(), try folder.removeIncompleteValidation(step: step, sets: data.validation.count) { try validate() }

    while step < totalSteps {
      let batch = try plan.batch(step: step)
      let rate = schedule(step)
      try withError {
        let whole = try data.train.clips(batch.map(\.row), mirrored: batch.map(\.mirrored))
        let clips = Clips(
          frames: try whole.frames.with(
            features: PatchDropout.apply(whole.frames.features, part: recipe.patchPart, generator: generator)),
          sounds: whole.sounds)
        let loss = try loss(
          model, language, clips: clips,
          texts: batch.map { item in
            item.captions.map { captions[item.row][$0] } + item.questions.map { questions[item.row][$0] }
          }, isTraining: true)
        guard loss.requiresGrad else {
          // Sound alone is trained, and no clip of the batch has any: there is nothing to learn.
          meter.add(["lm": loss.item, "gradientNorm": 0])
          return
        }
        loss.backward()
        let norm = clipGradients(trainable, limit: recipe.optimizer.clip)
        guard norm.isFinite else {
          throw TrainingError.diverged(step: step, reason: "the gradients' norm is \(norm): lower the learning rate")
        }
        optimizer.step(learningRate: rate)
        optimizer.clearGradients()
        meter.add(["lm": loss.item, "gradientNorm": norm])
      }
      step += 1
      progress.update(step, meter.words)
      if step % recipe.logEvery == 0 || step == totalSteps {
        try folder.log(
          meter.take(samples: recipe.batchSize).merging([
            "step": step, "epoch": Double(step) / Double(plan.stepsPerEpoch), "learningRate": rate,
          ]) { $1 })
      }
      let stops = shouldStop()
      if step % recipe.checkpointEvery == 0 || step == totalSteps || stops {
        try folder.save(step: step, parameters: trainable, optimizer: optimizer, generator: generator)
      }
      if isValidated() { try validate() }
      if stops && step < totalSteps { return nil }
    }
    let adapter = output.appendingPathComponent("adapter")
    try AdapterFolder.write(start.configuration, parameters.all, to: adapter)
    return adapter
  }

  /// The mean next-token loss of captions, answers and end tokens (BLIP-2, section 3.3).
  ///
  /// - Parameter texts: For each clip its texts.
  static func loss(
    _ model: ClipConnector, _ language: LanguageModel, clips: Clips, texts: [[SharedPrefix.Text]],
    isTraining: Bool
  ) throws -> Tensor {
    let tokens = try model.languageTokens(of: clips, isTraining: isTraining)
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
            let value = try loss(
              model, language, clips: clips, texts: rows.map { [captions[$0]] }, isTraining: false)
            return sum + value.item
          }
        }
      }
      return sum / Double(batches.count)
    }
    return (try mean(0), try mean(max(set.features.count / 2, 1)))
  }

  /// A model at the start of training, with its branch for sound where the recipe has one.
  private struct Start {
    var model: ClipConnector
    let parameters: Parameters
    var inherited: Set<String>
    /// Whether the projection of what is seen has been trained.
    let isProjecting: Bool
    /// Whether that of what is heard has.
    var isProjectingSound = false
    var configuration: AdapterConfiguration
  }

  /// The model that the recipe trains, of images or of clips.
  private static func connector(
    _ recipe: Recipe, store: ModelStore, languageSize: Int, data: TrainingData.Part
  ) throws -> Start {
    if recipe.objective.readsVideo {
      let video = try AdapterStart.make(
        recipe, store: store, encoderWidth: data.features.width, languageSize: languageSize)
      var start = Start(
        model: ClipConnector(video: video.model), parameters: video.parameters, inherited: video.inherited,
        isProjecting: video.isProjecting, configuration: video.configuration)
      guard let options = recipe.audio, let sounds = data.sounds else { return start }
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
      start.configuration.audio = audio.configuration
      return start
    }
    let (model, parameters, isProjecting) = try start(
      recipe, store: store, languageSize: languageSize, features: data.features)
    let configuration = AdapterConfiguration(
      imageLanguage: model.configuration, encoder: recipe.encoder, language: recipe.language)
    let inherited = Set(parameters.names.filter { !$0.hasPrefix("language_projection") })
    return Start(
      model: ClipConnector(video: FirstFrameConnector(model)), parameters: parameters, inherited: inherited,
      isProjecting: isProjecting, configuration: configuration)
  }

  /// A model of images at the start: from a stage-1 adapter with a new projection, from an image–language adapter, or from
  /// the text model.
  ///
  /// - Returns: Also whether the projection has been trained.
  static func start(
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
      _ = try QFormerStart.copy(Checkpoint(contentsOf: textFolder), into: parameters, recipe.adapter)
      try QFormerStart.pool(model.qformer, model.imageEmbeds, features: features, recipe)
      return (model, parameters, false)
    }
    let folder = try store.adapter(start)
    let adapter = try AdapterConfiguration(folder: folder)
    guard adapter.encoder == recipe.encoder, let sizes = adapter.imageText?.qformer ?? adapter.imageLanguage?.qformer
    else {
      throw TrainingError.badRecipe(
        file: folder.path, reason: "adapter.start reads another encoder than the recipe's: \(adapter.encoder)")
    }
    let isProjecting = adapter.kind == .imageLanguage
    // The text side of stage 1 stays behind.
    let unused = [
      "embeddings.*", "vision_projection.*", "text_projection.*", "itm_head.*", "temp", "cls.*", "*.intermediate.*",
      "*.output.dense.*", "*.output.LayerNorm.*",
    ]
    let model = try loadModel(
      from: Checkpoint(contentsOf: folder), ignoring: unused,
      allowMissing: isProjecting ? [] : ["language_projection.*"], seed: recipe.seed
    ) { scope in
      let model = try ImageLanguageQFormer(configuration(sizes), scope)
      for (name, tensor) in scope.parameters.all { parameters.insert(name, tensor) }
      return model
    }.model
    return (model, parameters, isProjecting)
  }

  /// Scales the new projection so that language tokens have the given standard deviation.
  private static func scaleProjection(
    _ model: any VideoConnector, _ parameters: Parameters, features: FeatureStack, to deviation: Double
  ) throws {
    guard deviation > 0, let weight = parameters["language_projection.weight"] else { return }
    try withError {
      try withNoGrad {
        let tokens = try model.languageTokens(
          of: features.clips(Array(0..<min(64, features.count))), isTraining: false)
        weight.multiply(inPlace: Tensor(Float(deviation / tokens.std().item)))
      }
    }
  }

  /// The same for the projection of what is heard; nothing where no clip has sound.
  private static func scaleProjection(
    _ model: AudioQFormer, _ parameters: Parameters, _ sounds: Sounds, to deviation: Double
  ) throws {
    guard deviation > 0, let pieces = sounds.pieces, let weight = parameters["audio.language_projection.weight"] else {
      return
    }
    try withError {
      try withNoGrad {
        let tokens = model.languageTokens(try model.readSound(pieces).hidden)
        weight.multiply(inPlace: Tensor(Float(deviation / tokens.std().item)))
      }
    }
  }
}
