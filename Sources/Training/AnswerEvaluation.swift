import Foundation
import Pipelines
import QFormer
import Torch

/// Questions with choices, answered by likelihood: the choice whose tokens, the end token included, have the largest mean
/// log-likelihood behind the picture or clip and the question.
public struct AnswerEvaluation: Codable, Sendable, Equatable {
  /// The numbers of one kind of question; those of all kinds together are called `all`.
  public struct Task: Codable, Sendable, Equatable {
    /// The kind.
    public let task: String
    /// How many questions there are.
    public let questions: Int
    /// The part that is answered rightly, 0 … 1.
    public let accuracy: Double
    /// The same with the features of another clip; nil where that was not asked for.
    public let blind: Double?
    /// What guessing reaches: the mean of 1 / choices.
    public let chance: Double
    /// The part that is answered rightly without the clip's sound; nil for a model that does not hear, and where that was
    /// not asked for.
    public var deaf: Double?
  }

  /// What all questions together are called.
  public static let all = "all"

  /// All questions, then each kind by name.
  public let tasks: [Task]

  /// Answers the questions of the first `limit` images or clips of a set.
  ///
  /// - Parameter isBlindToo: Whether to answer everything once more with frames and sound of another clip and, with a
  ///   model that hears, once more with the right frames and no sound.
  /// - Returns: Nil where there is no question.
  /// - Throws: ``TrainingError/badRecipe(file:reason:)`` for a language model that cannot be asked; `QFormerError`,
  ///   `TorchError`.
  static func run(
    _ adapter: ClipConnector, _ language: LanguageModel, _ set: TrainingData.Part, limit: Int = .max,
    isBlindToo: Bool, progress: Progress? = nil
  ) throws -> AnswerEvaluation? {
    let (questions, count) = (set.questions, set.features.count)
    let rows = (0..<min(limit, count)).filter { !questions[$0].isEmpty }
    guard !rows.isEmpty else { return nil }
    try LanguageTexts.requireQuestions(language, "the recipe's language model")
    let asked = rows.flatMap { questions[$0] }
    func areRight(_ shift: Int, isDeaf: Bool = false) throws -> [Bool] {
      try RetrievalEvaluation.batches(rows, 4).flatMap { batch in
        let seen = try withError {
          try withNoGrad {
            let clips = try set.clips(batch.map { ($0 + shift) % count })
            return try adapter.languageTokens(of: isDeaf ? clips.silent : clips, isTraining: false)
          }
        }
        progress?.update(batch.last! + 1)
        return try choices(language, tokens: seen, questions: batch.map { questions[$0] }).enumerated().flatMap {
          index, chosen in zip(questions[batch[index]], chosen).map { $0.choices[$1] == $0.answer }
        }
      }
    }
    let right = try areRight(0)
    let blind = isBlindToo ? try areRight(max(count / 2, 1)) : nil
    let deaf = isBlindToo && set.sounds != nil ? try areRight(0, isDeaf: true) : nil
    func task(_ name: String, _ indices: [Int]) -> Task {
      func part(_ right: [Bool]) -> Double { Double(indices.count { right[$0] }) / Double(indices.count) }
      let chance = indices.reduce(0.0) { $0 + 1 / Double(asked[$1].choices.count) } / Double(indices.count)
      return Task(
        task: name, questions: indices.count, accuracy: part(right), blind: blind.map(part), chance: chance,
        deaf: deaf.map(part))
    }
    let kinds = Dictionary(grouping: asked.indices) { asked[$0].task }
    return AnswerEvaluation(
      tasks: [task(all, Array(asked.indices))] + kinds.sorted { $0.key < $1.key }.map { task($0.key, $0.value) })
  }

  /// The number of the best choice of each question of each row; of equally good ones the first.
  ///
  /// - Parameters:
  ///   - tokens: `[B, M, d_llm]`.
  ///   - questions: For each row at least one.
  static func choices(_ language: LanguageModel, tokens: SeenTokens, questions: [[Question]]) throws -> [[Int]] {
    try scores(language, tokens: tokens, questions: questions).map { row in
      row.map { scores in scores.indices.max { (scores[$0], -$0) < (scores[$1], -$1) } ?? 0 }
    }
  }

  /// The mean log-likelihood of every choice of each question of each row.
  static func scores(_ language: LanguageModel, tokens: SeenTokens, questions: [[Question]]) throws -> [[[Double]]] {
    let texts = questions.map { list in
      list.flatMap { question in question.choices.map { LanguageTexts.answer($0, to: question, language) } }
    }
    // Every text of a row sees the row's tokens: long rows cost their square, so that they are read in pieces.
    var values: [[Double]] = texts.map { _ in [] }
    let most = texts.map(\.count).max() ?? 0
    for start in stride(from: 0, to: most, by: textsInRow) {
      let pieces = texts.map { Array($0.dropFirst(start).prefix(textsInRow)) }
      let present = pieces.indices.filter { !pieces[$0].isEmpty }
      let found = try withError {
        withNoGrad {
          LanguageTexts.meanLogLikelihoods(
            language,
            tokens: SeenTokens(
              tokens: tokens.tokens.indexSelect(0, Tensor(present)), absent: present.map { tokens.absent[$0] }),
            texts: present.map { pieces[$0] })
        }
      }
      var next = 0
      for row in present {
        values[row] += found[next..<next + pieces[row].count]
        next += pieces[row].count
      }
    }
    return zip(values, questions).map { values, list in
      var start = 0
      return list.map { question in
        defer { start += question.choices.count }
        return Array(values[start..<start + question.choices.count])
      }
    }
  }

  private static let textsInRow = 16

  /// All numbers, in percent, under names for `metrics.jsonl`.
  public var metrics: [String: Any] {
    var out: [String: Any] = [:]
    for task in tasks {
      out["qa.\(task.task)"] = task.accuracy * 100
      out["qa.\(task.task).chance"] = task.chance * 100
      out["qa.\(task.task).questions"] = task.questions
      if let blind = task.blind { out["qa.\(task.task).blind"] = blind * 100 }
      if let deaf = task.deaf { out["qa.\(task.task).deaf"] = deaf * 100 }
    }
    return out
  }

  /// A line for each kind of question, in percent.
  public var lines: [String] {
    tasks.map { task in
      let baselines = [("blind", task.blind), ("deaf", task.deaf)]
      let blind = baselines.compactMap { name, part in part.map { String(format: " \(name) %.1f", $0 * 100) } }.joined()
      return String(
        format: "%@ %.1f%@ chance %.1f (%d questions)", task.task as NSString, task.accuracy * 100, blind as NSString,
        task.chance * 100, task.questions)
    }
  }

  /// All kinds in one line.
  public var summary: String {
    tasks.map { String(format: "%@ %.1f/%.1f", $0.task as NSString, $0.accuracy * 100, $0.chance * 100) }
      .joined(separator: " ")
  }
}
