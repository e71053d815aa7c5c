import Backbones
import Checkpoints
public import Foundation
public import Pipelines
import QFormer
import Torch
import TorchNN

/// Stage 2: the frozen language model's loss on captions, through its input to projection, Q-Former and queries.
///
/// The language model reads [image tokens][begin][caption][end], or what the recipe's template makes of them, and is scored on
/// caption and end. The same promises as in ``ImageTextTraining`` hold: everything random follows from the seed, and a resumed run computes the same losses.
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
    let (model, parameters, isProjecting) = try start(
      recipe, store: store, languageSize: language.model.hiddenSize, encoderWidth: data.train.features.width)
    parameters.setRequiresGrad(true)
    let trainable = parameters.trainable
    let optimizer = AdamW(
      AdamW.groups(trainable, weightDecay: recipe.optimizer.weightDecay) {
        $0.hasPrefix("language_projection") ? 1 : recipe.optimizer.inheritedFactor
      }, betas: (0.9, recipe.optimizer.beta2))

    let captions = data.train.captions.map { list in
      list.map { language.targetIDs(CaptionText.cleaned($0), maximum: recipe.imageLanguage.maximumTokens) }
    }
    let plan = try EpochPlan(
      lengths: captions.map { $0.map(\.count) }, batchSize: recipe.batchSize,
      captionsPerImage: recipe.imageLanguage.captionsPerImage, seed: recipe.seed)
    let totalSteps = max(1, Int((Double(plan.stepsPerEpoch) * recipe.epochs).rounded()))
    let schedule = recipe.optimizer.schedule(totalSteps: totalSteps)
    var step = resumes ? try folder.restore(parameters: trainable, optimizer: optimizer, generator: generator) : 0
    if step == 0 && !isProjecting {
      try scaleProjection(model, parameters, features: data.train.features, to: recipe.imageLanguage.tokenScale)
    }
    let progress = Progress("training", total: totalSteps, isOn: showsProgress)
    var meter = Meter()
    var options = GenerationOptions()
    options.maxTokens = recipe.imageLanguage.maximumTokens
    func validate() throws {
      let isLast = step == totalSteps
      for set in data.validation {
        let (right, wrong) = try rightAndWrong(model, language, set, limit: 256)
        let scores = try CaptionEvaluation.run(
          model, language, features: set.features, captions: set.captions,
          limit: isLast ? .max : recipe.imageLanguage.captions, options: options, isBlindToo: isLast,
          training: isLast ? (data.train.features, data.train.captions) : nil)
        try folder.log(
          ["step": step, "validation": set.name, "lm.right": right, "lm.wrong": wrong].merging(scores.metrics) { $1 })
        progress.note(
          "step \(step) \(set.name): " + String(format: "right %.3f wrong %.3f ", right, wrong) + scores.summary)
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
        var features = data.train.features.batch(batch.map(\.row), mirrored: batch.map(\.mirrored))
        features = PatchDropout.apply(features, part: recipe.patchPart, generator: generator)
        let loss = try loss(
          model, language, features: features,
          captions: batch.map { item in item.captions.map { captions[item.row][$0] } }, isTraining: true)
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
    try AdapterFolder.write(
      AdapterConfiguration(imageLanguage: model.configuration, encoder: recipe.encoder, language: recipe.language),
      parameters.all, to: adapter)
    return adapter
  }

  /// The mean next-token loss of caption and end token (BLIP-2, section 3.3).
  ///
  /// - Parameter captions: For each image its captions as token numbers, the end token included.
  static func loss(
    _ model: ImageLanguageQFormer, _ language: LanguageModel, features: Tensor, captions: [[[Int]]], isTraining: Bool
  ) throws -> Tensor {
    let tokens = model.languageTokens(try model.readImage(features, isTraining: isTraining).hidden)
    let opening = language.openingIDs
    guard let causal = language.model.causal, let begin = opening.last else {
      return encoderDecoderLoss(language.model, tokens: tokens, captions: captions)
    }
    let (batch, shared) = (tokens.size(0), opening.dropLast())
    let prefix =
      shared.isEmpty
      ? tokens
      : .cat(
        [tokens, causal.embed(Tensor(Array(shared))).unsqueezed(0).expanded(batch, shared.count, tokens.size(2))], 1)
    let texts = SharedPrefix(
      texts: captions, prefix: prefix.size(1), begin: begin, past: language.prefix?.length ?? 0)
    let embeds = Tensor.cat([prefix, causal.embed(texts.ids)], 1)
    let hidden = causal.forward(inputsEmbeds: embeds, plan: texts.plan, prefix: language.prefix)
      .slice(1, prefix.size(1))
    // Logits only where a token is scored: the head is a fifth of the model's work.
    let logits = causal.head(hidden.reshaped(-1, hidden.size(2)).indexSelect(0, texts.scored))
    return logits.crossEntropy(texts.targets)
  }

  /// The same for a model that reads the image tokens in its encoder: one row for each caption.
  private static func encoderDecoderLoss(_ model: LanguageTower, tokens: Tensor, captions: [[[Int]]]) -> Tensor {
    let owners = captions.indices.flatMap { Array(repeating: $0, count: captions[$0].count) }
    let texts = TextEncoder.pad(captions.flatMap { $0 })
    let logits = model.targetLogits(
      inputsEmbeds: tokens.indexSelect(0, Tensor(owners)), attentionMask: nil, targets: texts.ids)  // [K, L, V]
    let length = texts.ids.size(1)
    let scored = Tensor(
      captions.flatMap { $0 }.enumerated().flatMap { row, text in text.indices.map { row * length + $0 } })
    return logits.reshaped(-1, logits.size(2)).indexSelect(0, scored)
      .crossEntropy(texts.ids.reshaped(-1).indexSelect(0, scored))
  }

  /// Losses with the right images and with those of the next rows: their difference tells whether the model looks.
  private static func rightAndWrong(
    _ model: ImageLanguageQFormer, _ language: LanguageModel, _ set: TrainingData.Part, limit: Int
  ) throws -> (right: Double, wrong: Double) {
    let count = min(limit, set.features.count)
    let captions = set.captions.prefix(count).map { list in
      language.targetIDs(CaptionText.cleaned(list[0]), maximum: 32)
    }
    func mean(_ shift: Int) throws -> Double {
      let batches = RetrievalEvaluation.batches(Array(0..<count), 32)
      let sum = try withError {
        try withNoGrad {
          try batches.reduce(0.0) { sum, rows in
            let features = set.features.batch(rows.map { ($0 + shift) % set.features.count })
            let value = try loss(
              model, language, features: features, captions: rows.map { [captions[$0]] }, isTraining: false)
            return sum + value.item
          }
        }
      }
      return sum / Double(batches.count)
    }
    return (try mean(0), try mean(max(set.features.count / 2, 1)))
  }

  /// The model at the start: from a stage-1 adapter with a new projection, from an image–language adapter, or from the text
  /// model.
  ///
  /// - Returns: Also whether the projection has been trained.
  static func start(
    _ recipe: Recipe, store: ModelStore, languageSize: Int, encoderWidth: Int
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
      var sizes = try QFormerStart.configuration(bert: textFolder)
      sizes.queries = recipe.adapter.queries
      sizes.encoderHiddenSize = encoderWidth
      let scope = ParameterScope(FreshParameters(seed: recipe.seed), parameters: parameters)
      let model = try ImageLanguageQFormer(configuration(sizes), scope)
      _ = try QFormerStart.copy(Checkpoint(contentsOf: textFolder), into: parameters)
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
    _ model: ImageLanguageQFormer, _ parameters: Parameters, features: FeatureStack, to deviation: Double
  ) throws {
    guard deviation > 0, let weight = parameters["language_projection.weight"] else { return }
    try withError {
      try withNoGrad {
        let tokens = model.languageTokens(
          try model.readImage(features.batch(Array(0..<min(64, features.count)))).hidden)
        weight.multiply(inPlace: Tensor(Float(deviation / tokens.std().item)))
      }
    }
  }
}
