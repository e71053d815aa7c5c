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
    let (model, parameters) = (start.model, start.parameters)
    let captions = tokens(data.train.captions, language)
    let targets = WordTargets(
      captions, minimumCount: recipe.imageWords.minimumCount, weighting: recipe.imageWords.weighting)
    guard targets.ids.count > 1 else {
      throw TrainingError.badRecipe(
        file: "recipe", reason: "train: too few words stand in \(recipe.imageWords.minimumCount) pictures or more")
    }
    let words = try WordEmbeddings(language, ids: targets.ids)
    let prior = targets.logShares
    let plan = try EpochPlan(
      lengths: captions.map { [$0.count] }, batchSize: recipe.batchSize, captionsPerImage: 1, seed: recipe.seed)
    let loop = TrainingLoop(recipe, parameters, inherited: start.inherited, plan: plan)
    let progress = Progress("training", total: loop.totalSteps, isOn: showsProgress)
    let objective = TrainingLoop.Objective { batch, generator in
      let whole = try data.train.features.clips(batch.map(\.row), mirrored: batch.map(\.mirrored))
      let clips = try PatchDropout.apply(whole, part: recipe.patchPart, generator: generator)
      let loss = WordAlignment.loss(
        tokens: try model.video.languageTokens(of: clips, isTraining: true), words: words.directions, prior: prior,
        targets: targets.distributions(batch.map { captions[$0.row] }), temperature: recipe.imageWords.temperature)
      return (loss, ["words": loss.item])
    }
    func validate(_ step: Int) throws {
      for set in data.validation {
        let scores = try precision(
          model, words, targets, set, tokens(set.captions, language), temperature: recipe.imageWords.temperature)
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
      objective, in: folder, resumes: resumes, progress: progress,
      validation: TrainingLoop.Validation(sets: data.validation.count, run: validate), shouldStop: { _ in shouldStop() }
    )
    guard steps == loop.totalSteps else { return nil }
    try placeTokens(model, parameters, words, features: data.train.features)
    let adapter = output.appendingPathComponent("adapter")
    try AdapterFolder.write(configuration, parameters.all, to: adapter)
    return adapter
  }

  /// The tokens of all captions of each image, as words within a sentence.
  static func tokens(_ captions: [[String]], _ language: LanguageModel) -> [[Int]] {
    captions.map { list in list.flatMap { language.ids(" " + CaptionText.cleaned($0).lowercased()) } }
  }

  /// The part of the ten best words that stand in a caption, averaged over images; beside it the ten commonest words.
  static func precision(
    _ model: ClipConnector, _ words: WordEmbeddings, _ targets: WordTargets, _ set: TrainingData.Part,
    _ captions: [[Int]], temperature: Double
  ) throws -> (model: Double, prior: Double) {
    let count = min(10, targets.ids.count)
    let common = targets.mostFrequent.prefix(count)
    let prior = targets.logCounts
    var (hits, priorHits) = (0, 0)
    for rows in RetrievalEvaluation.batches(Array(0..<set.features.count), 64) {
      let best = try withError {
        try withNoGrad {
          let tokens = try model.video.languageTokens(of: set.features.clips(rows), isTraining: false)
          return WordAlignment.logits(
            tokens: tokens, words: words.directions, prior: prior, temperature: temperature
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
  private static func placeTokens(
    _ model: ClipConnector, _ parameters: Parameters, _ words: WordEmbeddings, features: FeatureStack
  ) throws {
    guard let weight = parameters["language_projection.weight"], let bias = parameters["language_projection.bias"]
    else { return }
    try withError {
      try withNoGrad {
        let tokens = try model.video.languageTokens(
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
