import Checkpoints
import Evaluation
public import Foundation
public import Pipelines
import QFormer
import Tokenizers
import Torch
import TorchNN

/// Stage 1: image–text contrastive, matching and generation losses on a frozen encoder's features; with the objective
/// `video-text` clips take the place of images, an image being a clip of one frame.
///
/// Everything random follows from the seed, and a resumed run computes the same losses bit by bit.
public enum ImageTextTraining {
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
    let textFolder = try store.frozenModel(recipe.text.model)
    let texts = TextEncoder(try Tokenizer(contentsOf: textFolder), maximumLength: recipe.text.maximumLength)

    let start =
      recipe.objective.readsVideo
      ? try AdapterStart.make(recipe, store: store, encoderWidth: data.train.features.width, languageSize: nil)
      : try imageStart(recipe, store: store, textFolder: textFolder, features: data.train.features)
    let (model, parameters) = (start.model, start.parameters)
    let temperature = try model.requireHeads().temperature
    let captions = data.train.captions.map { $0.map(texts.ids) }
    let plan = try EpochPlan(
      lengths: captions.map { $0.map(\.count) }, batchSize: recipe.batchSize,
      captionsPerImage: recipe.imageText.captionsPerImage, seed: recipe.seed)
    let loop = TrainingLoop(recipe, parameters, inherited: start.inherited, plan: plan)
    let progress = Progress("training", total: loop.totalSteps, isOn: showsProgress)
    let objective = TrainingLoop.Objective(
      loss: { batch, generator in
        let text = TextEncoder.pad(batch.flatMap { item in item.captions.map { captions[item.row][$0] } })
        let imageOfText = batch.enumerated().flatMap { index, item in item.captions.map { _ in index } }
        let whole = try data.train.features.clips(batch.map(\.row), mirrored: batch.map(\.mirrored))
        let losses = try model.losses(
          clip: PatchDropout.apply(whole, part: recipe.patchPart, generator: generator), ids: text.ids, mask: text.mask,
          videoOfText: imageOfText, generator: generator, matchingPart: recipe.imageText.matchingPart,
          uniformNegatives: recipe.imageText.uniformNegatives, generationPart: recipe.imageText.generationPart,
          labelSmoothing: recipe.imageText.labelSmoothing)
        return (
          losses.total,
          [
            "itc": losses.contrastive.item, "itm": losses.matching?.item ?? 0, "itg": losses.generation?.item ?? 0,
          ]
        )
      },
      prepare: {
        guard recipe.imageText.canonicalStart else { return }
        try CanonicalStart.apply(
          model, parameters, features: data.train.features, captions: captions, showsProgress: showsProgress)
      },
      bound: {
        temperature.copy(from: temperature.clamped(min: recipe.imageText.minimumTemperature, max: 0.5))
      },
      state: { ["temperature": temperature.item] })
    func validate(_ step: Int) throws {
      for set in data.validation {
        let scores = try RetrievalEvaluation.run(
          model, features: set.features, captions: set.captions, texts: texts,
          rerank: step == loop.totalSteps ? recipe.imageText.rerank : 0)
        try folder.log(["step": step, "validation": set.name].merging(scores.metrics) { $1 })
        progress.note("step \(step) \(set.name): \(scores.summary)")
      }
    }
    let steps = try loop.run(
      objective, in: folder, resumes: resumes, progress: progress,
      validation: TrainingLoop.Validation(sets: data.validation.count, run: validate), shouldStop: { _ in shouldStop() }
    )
    guard steps == loop.totalSteps else { return nil }
    let adapter = output.appendingPathComponent("adapter")
    try AdapterFolder.write(
      start.configuration, parameters.all.filter { !AdapterStart.wordTables.contains($0.name) }, to: adapter)
    return adapter
  }

  /// A model of images at the start: new weights from the seed, then whatever the text model has; or an earlier adapter.
  /// What the text model has learns more slowly.
  private static func imageStart(
    _ recipe: Recipe, store: ModelStore, textFolder: URL, features: FeatureStack
  ) throws -> AdapterStart {
    let parameters = Parameters()
    func start(_ model: ImageTextQFormer, inherited: Set<String>) -> AdapterStart {
      AdapterStart(
        model: FirstFrameQFormer(model), parameters: parameters, inherited: inherited, isProjecting: false,
        configuration: AdapterConfiguration(
          imageText: model.configuration, encoder: recipe.encoder, text: recipe.text))
    }
    guard let name = recipe.adapter.start else {
      var configuration = ImageTextConfiguration()
      configuration.qformer = try QFormerStart.configuration(recipe, bert: textFolder, encoderWidth: features.width)
      configuration.objectives.temperature = recipe.imageText.temperature
      // An adapter has no head that was not trained.
      if recipe.imageText.matchingPart == 0 { configuration.objectives.matchingHead = .none }
      let scope = ParameterScope(FreshParameters(seed: recipe.seed), parameters: parameters)
      let model = try ImageTextQFormer(configuration, scope)
      let inherited = try QFormerStart.copy(Checkpoint(contentsOf: textFolder), into: parameters, recipe)
      try QFormerStart.pool(model.qformer, model.imageEmbeds, features: features, recipe)
      return start(model, inherited: inherited)
    }
    let folder = try store.adapter(name)
    let adapter = try AdapterConfiguration(folder: folder)
    guard
      adapter.encoder.givesFeatures(like: recipe.encoder), adapter.text == recipe.text,
      var configuration = adapter.imageText
    else {
      throw TrainingError.badRecipe(
        file: folder.path,
        reason: "adapter.start is no image-text adapter of the recipe's encoder and text model: it has "
          + "\(adapter.encoder.model) at block \(adapter.encoder.block.map(String.init) ?? "last")"
          + " and \(adapter.text?.model ?? "no text model")")
    }
    let all = configuration.qformer.layers
    let layers = try QFormerStart.layers(recipe, of: all, file: folder.path)
    configuration.qformer.layers = layers
    configuration.qformer.hiddenDropout = recipe.adapter.hiddenDropout
    configuration.qformer.attentionDropout = recipe.adapter.attentionDropout
    let isNew = recipe.imageText.matchingPart > 0 && configuration.objectives.matchingHead == .none
    if isNew { configuration.objectives.matchingHead = .meanLogits }
    let words = BaseCheckpoint(try Checkpoint(contentsOf: textFolder))
    let model = try loadModel(
      from: Checkpoint(contentsOf: folder), bases: [words], ignoring: QFormerStart.namesLeftOut(from: layers, of: all),
      allowMissing: isNew ? ["itm_head.*"] : [], seed: recipe.seed
    ) { scope in
      let model = try ImageTextQFormer(configuration, scope)
      for (name, tensor) in scope.parameters.all { parameters.insert(name, tensor) }
      return model
    }.model
    return start(model, inherited: try QFormerStart.inherited(Checkpoint(contentsOf: textFolder), parameters))
  }
}
