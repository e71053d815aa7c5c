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
  var isProjecting: Bool
  /// Whether that of what is heard has.
  var isProjectingSound = false

  /// A connector that hears nothing.
  init(video: any VideoConnector, parameters: Parameters, inherited: Set<String>, isProjecting: Bool) {
    (model, self.parameters) = (ClipConnector(video: video), parameters)
    (self.inherited, self.isProjecting) = (inherited, isProjecting)
  }
}

/// Stage 2, the same for whatever stands between features and the frozen language model: the loss of a batch's texts in a
/// ``TrainingLoop``.
struct LanguageLoop {
  private let recipe: Recipe
  private let start: ConnectorStart
  private let language: LanguageModel
  private let train: TrainingData.Part
  private let captions: [[SharedPrefix.Text]]
  private let questions: [[SharedPrefix.Text]]
  private let critic: SelfCriticalLoss?
  private let loop: TrainingLoop

  /// Makes ready what every step needs.
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
    let options = recipe.imageLanguage
    captions = train.captions.map { list in
      list.map { LanguageTexts.caption($0, language, maximum: options.maximumTokens) }
    }
    if options.questionsPerImage > 0 { try LanguageTexts.requireQuestions(language, recipe.language.model) }
    questions = train.questions.map { list in list.map { LanguageTexts.answer($0.answer, to: $0, language) } }
    let plan = try EpochPlan(
      lengths: captions.map { $0.map(\.count) }, batchSize: recipe.batchSize,
      captionsPerImage: options.captionsPerImage, questionLengths: questions.map { $0.map(\.count) },
      questionsPerImage: options.questionsPerImage, seed: recipe.seed)
    critic = try options.selfCritical.map {
      try SelfCriticalLoss($0, references: train.captions, maximumTokens: options.maximumTokens)
    }
    loop = TrainingLoop(recipe, start.parameters, inherited: start.inherited, plan: plan, steps: steps)
  }

  /// All steps.
  var totalSteps: Int { loop.totalSteps }

  /// How many numbers are trained.
  var trainedCount: Int { loop.trainedCount }

  /// Goes all steps, or until stopped; see ``TrainingLoop/run(_:in:resumes:progress:validation:shouldStop:)``.
  func run(
    in folder: RunFolder, resumes: Bool, progress: Progress, validation: TrainingLoop.Validation? = nil,
    shouldStop: (_ step: Int) -> Bool
  ) throws -> Int {
    try loop.run(
      TrainingLoop.Objective(loss: loss, prepare: scaleProjections), in: folder, resumes: resumes, progress: progress,
      validation: validation, shouldStop: shouldStop)
  }

  /// The loss of a batch.
  private func loss(
    _ batch: [EpochPlan.Item], _ generator: Generator
  ) throws -> (total: Tensor, metrics: [String: Double]) {
    let whole = try train.clips(batch.map(\.row), mirrored: batch.map(\.mirrored))
    let clips = Clips(
      frames: try PatchDropout.apply(whole.frames, part: recipe.patchPart, generator: generator), sounds: whole.sounds)
    let tokens = try start.model.languageTokens(of: clips, isTraining: true)
    let part = critic?.options.part ?? 0
    var parts: [Tensor] = []
    var metrics: [String: Double] = [:]
    if let critic {
      let drawn = try critic.loss(language, tokens: tokens, rows: batch.map(\.row), generator: generator)
      parts.append(drawn.loss * part)
      metrics["drawn.ciderD"] = drawn.ciderD
    }
    if part < 1 {
      let loss = ImageLanguageTraining.loss(
        language, tokens: tokens,
        texts: batch.map { item in
          item.captions.map { captions[item.row][$0] } + item.questions.map { questions[item.row][$0] }
        })
      parts.append(critic == nil ? loss : loss * (1 - part))
      metrics["lm"] = loss.item
    }
    return (parts.dropFirst().reduce(parts[0], +), metrics)
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
