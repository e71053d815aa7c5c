import Foundation
import Torch
import TorchNN

/// The steps of a training, the same for every objective: batches, gradients, optimiser, checkpoints and lines of metrics.
///
/// What is random in an epoch (order, captions, mirroring) follows from the seed and the epoch's number; what is random in a
/// step (dropout, patches, negatives) from generators that are saved: a resumed run computes the same losses bit by bit.
struct TrainingLoop {
  /// What is learnt.
  struct Objective {
    /// The loss of a batch, and what is told of it by name.
    let loss: (_ batch: [EpochPlan.Item], _ generator: Generator) throws -> (total: Tensor, metrics: [String: Double])
    /// Done once, before the first step of a run that is not resumed.
    var prepare: () throws -> Void = {}
    /// Done after every step, to keep parameters within their bounds.
    var bound: () -> Void = {}
    /// What else stands in every line of metrics.
    var state: () -> [String: Double] = { [:] }
  }

  /// What is done after some of the steps, on so many validation sets.
  struct Validation {
    let sets: Int
    let run: (_ step: Int) throws -> Void
  }

  private let recipe: Recipe
  private let plan: EpochPlan
  private let trainable: [(name: String, tensor: Tensor)]
  private let optimizer: AdamW
  private let generator: Generator
  /// All steps.
  let totalSteps: Int

  /// Seeds the process's own generator, and lets those parameters be trained that the recipe trains.
  ///
  /// - Parameters:
  ///   - recipe: What to do.
  ///   - parameters: What the model has.
  ///   - inherited: Names of what a trained model has given, which learns more slowly.
  ///   - plan: Which item comes when.
  ///   - steps: All steps; those of the recipe's epochs when left out.
  init(_ recipe: Recipe, _ parameters: Parameters, inherited: Set<String>, plan: EpochPlan, steps: Int? = nil) {
    (self.recipe, self.plan) = (recipe, plan)
    Generator.default.seed(recipe.seed)
    generator = Generator(seed: recipe.seed &+ 1)
    parameters.setRequiresGrad(true) { AdapterStart.isTrained($0, recipe) }
    trainable = parameters.trainable
    optimizer = AdamW(
      AdamW.groups(trainable, weightDecay: recipe.optimizer.weightDecay) {
        inherited.contains($0) ? recipe.optimizer.inheritedFactor : 1
      }, betas: (0.9, recipe.optimizer.beta2))
    totalSteps = steps ?? max(1, Int((Double(plan.stepsPerEpoch) * recipe.epochs).rounded()))
  }

  /// How many numbers are trained.
  var trainedCount: Int { trainable.reduce(0) { $0 + $1.tensor.count } }

  /// Goes all steps, or until stopped.
  ///
  /// - Parameters:
  ///   - objective: What is learnt.
  ///   - folder: Where checkpoints and metrics go.
  ///   - resumes: Whether to go on from the newest checkpoint in it.
  ///   - progress: Shows each step.
  ///   - validation: Run at the recipe's intervals and at the end.
  ///   - shouldStop: Asked after every step; a checkpoint is written before stopping.
  /// - Returns: The number of steps that are done.
  /// - Throws: ``TrainingError/diverged(step:reason:)``; what the objective, validation, checkpoints and operators throw.
  func run(
    _ objective: Objective, in folder: RunFolder, resumes: Bool, progress: Progress, validation: Validation? = nil,
    shouldStop: (_ step: Int) -> Bool
  ) throws -> Int {
    let schedule = recipe.optimizer.schedule(totalSteps: totalSteps)
    var step = resumes ? try folder.restore(parameters: trainable, optimizer: optimizer, generator: generator) : 0
    if step == 0 { try objective.prepare() }
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
      try withError { meter.add(try take(step, objective, rate: rate)) }
      step += 1
      progress.update(step, meter.words)
      if step % recipe.logEvery == 0 || step == totalSteps {
        try folder.log(
          meter.take(samples: recipe.batchSize).merging([
            "step": step, "epoch": Double(step) / Double(plan.stepsPerEpoch), "learningRate": rate,
          ]) { $1 }.merging(objective.state()) { $1 })
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

  /// One step, and what is told of it.
  private func take(_ step: Int, _ objective: Objective, rate: Double) throws -> [String: Double] {
    let loss = try objective.loss(try plan.batch(step: step), generator)
    var metrics = loss.metrics
    metrics["gradientNorm"] = 0
    // Where sound alone is trained, and no clip of the batch has any, there is nothing to learn.
    guard loss.total.requiresGrad else { return metrics }
    loss.total.backward()
    let norm = clipGradients(trainable, limit: recipe.optimizer.clip)
    guard norm.isFinite else {
      throw TrainingError.diverged(step: step, reason: "the gradients' norm is \(norm): lower the learning rate")
    }
    optimizer.step(learningRate: rate)
    optimizer.clearGradients()
    withNoGrad { objective.bound() }
    metrics["gradientNorm"] = norm
    return metrics
  }
}
