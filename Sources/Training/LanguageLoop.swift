import Foundation
import Pipelines
import QFormer
import Torch
import TorchNN

/// A connector at the start of training through a language model.
struct ConnectorStart {
  /// The connector, with its branch for sound where there is one.
  var model: ClipConnector
  /// Its parameters; the projections are called `language_projection`, that of sound below `audio`.
  let parameters: Parameters
  /// Names of what a trained model has given, which learns more slowly.
  var inherited: Set<String>
  /// Whether the projection of what is seen has been trained.
  let isProjecting: Bool
  /// Whether that of what is heard has.
  var isProjectingSound = false

  /// A connector that hears nothing.
  init(video: any VideoConnector, parameters: Parameters, inherited: Set<String>, isProjecting: Bool) {
    (model, self.parameters) = (ClipConnector(video: video), parameters)
    (self.inherited, self.isProjecting) = (inherited, isProjecting)
  }
}

/// The steps of stage 2, the same for whatever stands between features and the frozen language model: batches, losses,
/// optimiser, checkpoints and lines of metrics.
struct LanguageLoop {
  /// What is done after some of the steps, on so many validation sets.
  struct Validation {
    let sets: Int
    let run: (_ step: Int) throws -> Void
  }

  private let recipe: Recipe
  private let start: ConnectorStart
  private let language: LanguageModel
  private let train: TrainingData.Part
  private let trainable: [(name: String, tensor: Tensor)]
  private let optimizer: AdamW
  private let generator: Generator
  private let captions: [[SharedPrefix.Text]]
  private let questions: [[SharedPrefix.Text]]
  private let plan: EpochPlan
  /// All steps.
  let totalSteps: Int

  /// Seeds the process's own generator and makes ready what every step needs.
  ///
  /// - Parameters:
  ///   - recipe: What to do.
  ///   - start: What is trained.
  ///   - language: The frozen language model.
  ///   - train: What is learnt from.
  ///   - steps: All steps; those of the recipe's epochs when left out.
  /// - Throws: ``TrainingError/badRecipe(file:reason:)`` for a language model that cannot be asked; `DataError` for fewer
  ///   images than a batch holds.
  init(
    _ recipe: Recipe, _ start: ConnectorStart, _ language: LanguageModel, _ train: TrainingData.Part, steps: Int? = nil
  ) throws {
    (self.recipe, self.start, self.language, self.train) = (recipe, start, language, train)
    Generator.default.seed(recipe.seed)
    generator = Generator(seed: recipe.seed &+ 1)
    start.parameters.setRequiresGrad(true) { AdapterStart.isTrained($0, recipe) }
    trainable = start.parameters.trainable
    optimizer = AdamW(
      AdamW.groups(trainable, weightDecay: recipe.optimizer.weightDecay) {
        start.inherited.contains($0) ? recipe.optimizer.inheritedFactor : 1
      }, betas: (0.9, recipe.optimizer.beta2))
    let options = recipe.imageLanguage
    captions = train.captions.map { list in
      list.map { LanguageTexts.caption($0, language, maximum: options.maximumTokens) }
    }
    if options.questionsPerImage > 0 { try LanguageTexts.requireQuestions(language, recipe.language.model) }
    questions = train.questions.map { list in list.map { LanguageTexts.answer($0.answer, to: $0, language) } }
    plan = try EpochPlan(
      lengths: captions.map { $0.map(\.count) }, batchSize: recipe.batchSize,
      captionsPerImage: options.captionsPerImage, questionLengths: questions.map { $0.map(\.count) },
      questionsPerImage: options.questionsPerImage, seed: recipe.seed)
    totalSteps = steps ?? max(1, Int((Double(plan.stepsPerEpoch) * recipe.epochs).rounded()))
  }

  /// How many numbers are trained.
  var trainedCount: Int { trainable.reduce(0) { $0 + $1.tensor.count } }

  /// Goes all steps, or until stopped.
  ///
  /// - Parameters:
  ///   - folder: Where checkpoints and metrics go.
  ///   - resumes: Whether to go on from the newest checkpoint in it.
  ///   - progress: Shows each step.
  ///   - validation: Run at the recipe's intervals and at the end.
  ///   - shouldStop: Asked after every step; a checkpoint is written before stopping.
  /// - Returns: The number of steps that are done.
  /// - Throws: ``TrainingError/diverged(step:reason:)``; what validation, checkpoints and operators throw.
  func run(
    in folder: RunFolder, resumes: Bool, progress: Progress, validation: Validation? = nil,
    shouldStop: (_ step: Int) -> Bool
  ) throws -> Int {
    let schedule = recipe.optimizer.schedule(totalSteps: totalSteps)
    var step = resumes ? try folder.restore(parameters: trainable, optimizer: optimizer, generator: generator) : 0
    if step == 0 { try scaleProjections() }
    var meter = Meter()
    func isValidated() -> Bool {
      validation != nil
        && (step == totalSteps || step > 0 && recipe.validateEvery > 0 && step % recipe.validateEvery == 0)
    }
    // The checkpoint comes before the validation: a run may have been killed in between.
    if isValidated(), let validation, try folder.removeIncompleteValidation(step: step, sets: validation.sets) {
      try validation.run(step)
    }
    while step < totalSteps {
      let rate = schedule(step)
      try withError { try take(step, rate: rate, &meter) }
      step += 1
      progress.update(step, meter.words)
      if step % recipe.logEvery == 0 || step == totalSteps {
        try folder.log(
          meter.take(samples: recipe.batchSize).merging([
            "step": step, "epoch": Double(step) / Double(plan.stepsPerEpoch), "learningRate": rate,
          ]) { $1 })
      }
      let stops = shouldStop(step)
      if step % recipe.checkpointEvery == 0 || step == totalSteps || stops {
        try folder.save(step: step, parameters: trainable, optimizer: optimizer, generator: generator)
      }
      if isValidated() { try validation?.run(step) }
      if stops { break }
    }
    return step
  }

  /// One step.
  private func take(_ step: Int, rate: Double, _ meter: inout Meter) throws {
    let batch = try plan.batch(step: step)
    let whole = try train.clips(batch.map(\.row), mirrored: batch.map(\.mirrored))
    let clips = Clips(
      frames: try whole.frames.with(
        features: PatchDropout.apply(whole.frames.features, part: recipe.patchPart, generator: generator)),
      sounds: whole.sounds)
    let loss = try ImageLanguageTraining.loss(
      start.model, language, clips: clips,
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

  /// Scales new projections so that language tokens have the standard deviation that the recipe gives.
  private func scaleProjections() throws {
    let rows = Array(0..<min(64, train.features.count))
    if !start.isProjecting {
      try scale("language_projection.weight") {
        try start.model.video.languageTokens(of: train.features.clips(rows), isTraining: false)
      }
    }
    // Nothing where no clip has sound.
    if let audio = start.model.audio, !start.isProjectingSound, let pieces = try train.sounds?.sounds(rows).pieces {
      try scale("audio.language_projection.weight") { audio.languageTokens(try audio.readSound(pieces).hidden) }
    }
  }

  private func scale(_ name: String, _ tokens: () throws -> Tensor) throws {
    let deviation = recipe.imageLanguage.tokenScale
    guard deviation > 0, let weight = start.parameters[name] else { return }
    try withError {
      try withNoGrad { weight.multiply(inPlace: Tensor(Float(deviation / (try tokens()).std().item))) }
    }
  }
}
