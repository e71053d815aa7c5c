import Backbones
import Evaluation
import Pipelines
import Torch

/// Self-critical sequence training: of the captions that the model draws itself, those that agree better with people's than
/// its others do become likelier.
///
/// For a picture with drawn captions c₁ … c_K of CIDEr-D r₁ … r_K the loss is −Σ (rₖ − r̄₋ₖ) log p(cₖ), r̄₋ₖ being the mean of
/// the others, over the number of drawn tokens. Sources: Rennie et al., CVPR 2017 (arXiv 1612.00563), whose baseline is the
/// greedy caption; the mean of the others is that of Luo (arXiv 2003.09971). Document frequencies are those of the training
/// captions.
struct SelfCriticalLoss {
  let options: Recipe.SelfCritical
  private let scores: CIDErD
  private let generation: GenerationOptions

  /// - Parameters:
  ///   - options: How many captions are drawn.
  ///   - references: For each row of the training set what people wrote.
  ///   - maximumTokens: The longest caption that is drawn.
  /// - Throws: `EvaluationError` when a row has no caption.
  init(_ options: Recipe.SelfCritical, references: [[String]], maximumTokens: Int) throws {
    self.options = options
    scores = try CIDErD(references: references)
    var generation = GenerationOptions()
    (generation.temperature, generation.maxTokens) = (1, maximumTokens)
    self.generation = generation
  }

  /// The loss of a batch, and the mean CIDEr-D × 100 of what was drawn.
  ///
  /// - Parameters:
  ///   - tokens: What the language model reads of each picture.
  ///   - rows: The pictures' places in the training set.
  ///   - generator: What captions are drawn with.
  /// - Throws: `GenerationError`, `TorchError`.
  func loss(
    _ language: LanguageModel, tokens: SeenTokens, rows: [Int], generator: Generator
  ) throws -> (loss: Tensor, ciderD: Double) {
    let drawn = try language.samples(
      rows: withNoGrad { tokens.rows }, count: options.samples, options: generation, generator: generator)
    let rewards = try zip(rows, drawn).map { row, answers in try answers.map { try scores.score($0.text, item: row) } }
    let (logits, targets, counts) = LanguageTexts.logits(
      language, tokens: tokens, texts: drawn.map { $0.map { SharedPrefix.Text(target: $0.tokenIDs) } })
    let weights = zip(rewards.flatMap(Self.advantages), counts).flatMap { Array(repeating: Float($0), count: $1) }
    let likelihoods = logits.logSoftmax().gather(1, targets.unsqueezed(1)).reshaped(-1)  // [K]
    let loss = (likelihoods * Tensor(weights)).sum() * (-1 / Double(max(weights.count, 1)))
    let all = rewards.flatMap { $0 }
    return (loss, all.reduce(0, +) / Double(max(all.count, 1)) * 100)
  }

  /// How much each reward is above the mean of the others.
  static func advantages(_ rewards: [Double]) -> [Double] {
    let sum = rewards.reduce(0, +)
    return rewards.map { $0 - (sum - $0) / Double(rewards.count - 1) }
  }
}
