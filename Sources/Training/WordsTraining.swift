import Backbones
import Checkpoints
public import Foundation
public import Pipelines
import QFormer
import Torch
import TorchNN

/// Between the stages: projection and Q-Former learn the words of captions as the frozen language model embeds them.
///
/// A pass costs as much as one of stage 1's contrastive part alone, since the language model is not run: its table of word
/// embeddings is all that is needed. The same promises as in ``ImageTextTraining`` hold.
public enum WordsTraining {
  /// Trains and writes the adapter, one for a language model, to `RUN/adapter`. With the objective `video-words` clips take the
  /// place of images.
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
    let (start, configuration) = try ImageLanguageTraining.connector(
      recipe, store: store, languageSize: language.model.hiddenSize, data: data.train)
    let loop = try WordsLoop(recipe, start, language, data.train)
    let progress = Progress("training", total: loop.totalSteps, isOn: showsProgress)
    func validate(_ step: Int) throws {
      for set in data.validation {
        let scores = try loop.precision(set)
        try folder.log([
          "step": step, "validation": set.name, "words.P@10": scores.model * 100, "prior.P@10": scores.prior * 100,
        ])
        progress.note(
          String(
            format: "step %d %@: P@10 of words %.1f, of the commonest %.1f", step, set.name as NSString,
            scores.model * 100, scores.prior * 100))
      }
    }
    let steps = try loop.run(
      in: folder, resumes: resumes, progress: progress,
      validation: TrainingLoop.Validation(sets: data.validation.count, run: validate), shouldStop: { _ in shouldStop() }
    )
    guard steps == loop.totalSteps else { return nil }
    try loop.placeTokens()
    let adapter = output.appendingPathComponent("adapter")
    try AdapterFolder.write(configuration, start.parameters.all, to: adapter)
    return adapter
  }
}

/// Words of captions, the same for whatever stands between features and the frozen language model: the loss of a batch in a
/// ``TrainingLoop``.
struct WordsLoop {
  private let recipe: Recipe
  private let start: ConnectorStart
  private let language: LanguageModel
  private let train: TrainingData.Part
  private let captions: [[Int]]
  private let targets: WordTargets
  private let words: WordEmbeddings
  private let prior: Tensor
  private let frozen: FrozenFrames?
  private let loop: TrainingLoop

  /// Makes ready what every step needs.
  ///
  /// - Parameters:
  ///   - recipe: What to do.
  ///   - start: What is trained.
  ///   - language: The frozen language model.
  ///   - train: What is learnt from.
  ///   - steps: All steps; those of the recipe's epochs when left out.
  /// - Throws: ``TrainingError/badRecipe(file:reason:)`` where too few words are left; `DataError` for fewer images than a
  ///   batch holds.
  init(
    _ recipe: Recipe, _ start: ConnectorStart, _ language: LanguageModel, _ train: TrainingData.Part, steps: Int? = nil
  ) throws {
    (self.recipe, self.start, self.language, self.train) = (recipe, start, language, train)
    captions = Self.tokens(train.captions, language)
    targets = WordTargets(
      captions, minimumCount: recipe.imageWords.minimumCount, weighting: recipe.imageWords.weighting)
    guard targets.ids.count > 1 else {
      throw TrainingError.badRecipe(
        file: "recipe", reason: "train: too few words stand in \(recipe.imageWords.minimumCount) pictures or more")
    }
    words = try WordEmbeddings(language, ids: targets.ids)
    prior = targets.logShares
    frozen = FrozenFrames(recipe, start.model.video, train.features)
    let plan = try EpochPlan(
      lengths: captions.map { [$0.count] }, batchSize: recipe.batchSize, captionsPerImage: 1, seed: recipe.seed)
    loop = TrainingLoop(recipe, start.parameters, inherited: start.inherited, plan: plan, steps: steps)
  }

  /// All steps.
  var totalSteps: Int { loop.totalSteps }

  /// Goes all steps, or until stopped; see ``TrainingLoop/run(_:in:resumes:progress:validation:shouldStop:)``.
  func run(
    in folder: RunFolder, resumes: Bool, progress: Progress, validation: TrainingLoop.Validation? = nil,
    shouldStop: (_ step: Int) -> Bool
  ) throws -> Int {
    try loop.run(
      TrainingLoop.Objective(loss: loss), in: folder, resumes: resumes, progress: progress, validation: validation,
      shouldStop: shouldStop)
  }

  /// The loss of a batch.
  private func loss(
    _ batch: [EpochPlan.Item], _ generator: Generator
  ) throws -> (total: Tensor, metrics: [String: Double]) {
    let loss = WordAlignment.loss(
      tokens: try tokens(batch, generator), words: words.directions, prior: prior,
      targets: targets.distributions(batch.map { captions[$0.row] }), temperature: recipe.imageWords.temperature)
    return (loss, ["words": loss.item])
  }

  /// Language tokens of a batch, `[B, M, d_llm]`.
  private func tokens(_ batch: [EpochPlan.Item], _ generator: Generator) throws -> Tensor {
    let rows = batch.map(\.row)
    if let frozen { return try frozen.languageTokens(rows, isTraining: true) }
    let whole = try train.features.clips(rows, mirrored: batch.map(\.mirrored))
    return try start.model.video.languageTokens(
      of: PatchDropout.apply(whole, part: recipe.patchPart, generator: generator), isTraining: true)
  }

  /// The tokens of all captions of each image, as words within a sentence.
  static func tokens(_ captions: [[String]], _ language: LanguageModel) -> [[Int]] {
    captions.map { list in list.flatMap { language.ids(" " + CaptionText.cleaned($0).lowercased()) } }
  }

  /// The part of the ten best words that stand in a caption, averaged over images; beside it the ten commonest words.
  func precision(_ set: TrainingData.Part) throws -> (model: Double, prior: Double) {
    let captions = Self.tokens(set.captions, language)
    let count = min(10, targets.ids.count)
    let common = targets.mostFrequent.prefix(count)
    let prior = targets.logCounts
    var (hits, priorHits) = (0, 0)
    for rows in RetrievalEvaluation.batches(Array(0..<set.features.count), 64) {
      let best = try withError {
        try withNoGrad {
          let tokens = try start.model.video.languageTokens(of: set.features.clips(rows), isTraining: false)
          return WordAlignment.logits(
            tokens: tokens, words: words.directions, prior: prior, temperature: recipe.imageWords.temperature
          ).topK(count).indices.values(as: Int.self)
        }
      }
      for (place, row) in rows.enumerated() {
        let own = Set(targets.words(captions[row]))
        hits += best[place * count..<(place + 1) * count].count { own.contains($0) }
        priorHits += common.count { own.contains($0) }
      }
    }
    let total = Double(set.features.count * count)
    return (Double(hits) / total, Double(priorHits) / total)
  }

  /// Gives the tokens the mean word as their centre and the words' own distance from it, as the language model knows words.
  func placeTokens() throws {
    guard let weight = start.parameters["language_projection.weight"],
      let bias = start.parameters["language_projection.bias"]
    else { return }
    let features = train.features
    try withError {
      try withNoGrad {
        let tokens = try start.model.video.languageTokens(
          of: features.clips(Array(0..<min(256, features.count))), isTraining: false)
        let scale = words.radius / tokens.norm(-1).mean().item
        weight.multiply(inPlace: Tensor(Float(scale)))
        bias.copy(from: bias * scale + words.center)
      }
    }
  }
}

/// Some rows of a language model's table of word embeddings, seen from their mean.
struct WordEmbeddings {
  /// `[d]`, the mean.
  let center: Tensor
  /// `[W, d]`, differences from the mean, of length 1.
  let directions: Tensor
  /// The mean length of the differences.
  let radius: Double

  init(_ language: LanguageModel, ids: [Int]) throws {
    (center, directions, radius) = try withError {
      withNoGrad {
        let rows = language.model.embed(Tensor(ids)).detached()
        let center = rows.mean(0)
        let differences = rows - center
        return (center, differences.normalized(), differences.norm(-1).mean().item)
      }
    }
  }
}
