public import Evaluation
import Foundation
import Pipelines

/// Connectors beside each other: what each costs and what it reaches after the same training, over several seeds.
public struct Comparison: Codable, Sendable, Equatable {
  /// What one training of one connector has reached.
  public struct Run: Codable, Sendable, Equatable {
    /// The connector.
    public let connector: ComparedConnector
    /// The seed.
    public let seed: UInt64
    /// Steps that were done.
    public let steps: Int
    /// Clips seen by the language model.
    public let samples: Int
    /// Clips seen before that, to learn words.
    public var words: Int?
    /// How long the steps took, in seconds.
    public let seconds: Double
    /// Whether time ran out before the samples did.
    public let isCutShort: Bool
    /// How many numbers were trained.
    public let trained: Int
    /// Whether its Q-Former started from what an image adapter or the text model has learnt.
    public let inherits: Bool
    /// Answers on the validation clips, by kind of question.
    public let tasks: [AnswerEvaluation.Task]
  }

  /// One kind of question over all seeds.
  public struct Score: Codable, Sendable, Equatable {
    /// The kind; ``AnswerEvaluation/all`` for all of them.
    public let task: String
    /// How many questions there are.
    public let questions: Int
    /// The part that is answered rightly, 0 … 1.
    public let accuracy: SeedStatistics
    /// The same with the frames of another clip.
    public let blind: SeedStatistics
    /// What guessing reaches.
    public let chance: Double
    /// Whether no connector is better by more than the spread; nil where one seed tells of no spread.
    public var isBest: Bool?
  }

  /// One connector.
  public struct Row: Codable, Sendable, Equatable {
    /// Which one.
    public let connector: ComparedConnector
    /// What it costs.
    public let cost: ConnectorCost
    /// Seeds that are done.
    public let seeds: [UInt64]
    /// How many numbers were trained.
    public let trained: Int
    /// Whether its Q-Former started from what an image adapter or the text model has learnt.
    public let inherits: Bool
    /// Training time, in seconds.
    public let seconds: SeedStatistics
    /// Whether time ran out in a training before the samples did.
    public let isCutShort: Bool
    /// All questions, then each kind.
    public var scores: [Score]
  }

  /// How two figures stand to each other.
  public enum Difference: String, Codable, Sendable {
    /// The first is larger by more than the spread.
    case larger
    /// The first is smaller by more than the spread.
    case smaller
    /// The difference is within the spread: √(s₁² + s₂²), s being the standard deviations over seeds.
    case equal
    /// One of them has one seed only, and no spread.
    case unknown

    /// Compares two means.
    public init(_ a: SeedStatistics, _ b: SeedStatistics) {
      guard a.count > 1, b.count > 1 else {
        self = .unknown
        return
      }
      let spread = (a.standardDeviation * a.standardDeviation + b.standardDeviation * b.standardDeviation).squareRoot()
      let difference = a.mean - b.mean
      self = abs(difference) <= spread ? .equal : difference > 0 ? .larger : .smaller
    }
  }

  /// Clips that each training was to see.
  public let samples: Int
  /// Clips that each training was to see before that, to learn words.
  public let words: Int?
  /// No training took longer, in minutes; nil without such a limit.
  public let minutes: Double?
  /// The common number of tokens.
  public let tokens: Int
  /// What Q-Formers start from: an adapter, or the text model.
  public let start: String
  /// The validation set, and how many of its clips are asked about.
  public let validation: String
  /// How many of its clips are asked about.
  public let clips: Int
  /// Trainings that are still to be done.
  public let missing: Int
  /// One entry for each connector that has been trained at least once.
  public var rows: [Row]
  /// What the table does not tell.
  public let notes: [String]

  /// Sums up what is there.
  ///
  /// - Parameters:
  ///   - recipe: What was asked for.
  ///   - runs: All trainings that are done.
  ///   - costs: Costs by connector.
  ///   - validation: The name of the validation set.
  /// - Throws: `EvaluationError`, never for what ``ConnectorComparison`` gives.
  init(
    _ recipe: Recipe, runs: [Run], costs: [ComparedConnector: ConnectorCost], validation: String
  ) throws {
    let compare = recipe.compare ?? Recipe.Compare()
    (samples, words) = (compare.samples, compare.words?.samples)
    (minutes, tokens) = (compare.minutes, compare.tokens)
    start = recipe.adapter.start ?? recipe.text.model
    (self.validation, clips) = (validation, compare.clips)
    let wanted = runs.filter { compare.seeds.contains($0.seed) }
    var rows: [Row] = []
    for connector in compare.connectors {
      let own = wanted.filter { $0.connector == connector }.sorted { $0.seed < $1.seed }
      guard let first = own.first, let cost = costs[connector] else { continue }
      let scores = try first.tasks.map { task in
        let all = own.compactMap { run in run.tasks.first { $0.task == task.task } }
        return Score(
          task: task.task, questions: task.questions, accuracy: try SeedStatistics(all.map(\.accuracy)),
          blind: try SeedStatistics(all.compactMap(\.blind)), chance: task.chance)
      }
      rows.append(
        Row(
          connector: connector, cost: cost, seeds: own.map(\.seed), trained: first.trained, inherits: first.inherits,
          seconds: try SeedStatistics(own.map(\.seconds)), isCutShort: own.contains(where: \.isCutShort), scores: scores
        ))
    }
    self.rows = Self.marked(rows)
    missing = compare.connectors.count * compare.seeds.count - rows.reduce(0) { $0 + $1.seeds.count }
    notes = Self.notes(recipe, rows)
  }

  /// The same rows, each score told whether it is the best or equal to it.
  private static func marked(_ rows: [Row]) -> [Row] {
    rows.map { row in
      var row = row
      for index in row.scores.indices {
        let task = row.scores[index].task
        let all = rows.compactMap { other in other.scores.first { $0.task == task }?.accuracy }
        guard let best = all.max(by: { $0.mean < $1.mean }) else { continue }
        let own = row.scores[index].accuracy
        switch Difference(own, best) {
        case .unknown: row.scores[index].isBest = nil
        case .equal, .larger: row.scores[index].isBest = true
        case .smaller: row.scores[index].isBest = false
        }
      }
      return row
    }
  }

  private static func notes(_ recipe: Recipe, _ rows: [Row]) -> [String] {
    var notes = [
      "Retrieval is not measured: connectors learn by the language model's loss alone, and have no contrastive head."
    ]
    if rows.contains(where: { row in row.scores.contains { $0.task == "sound" } }) {
      notes.append("Questions about sound are asked, but no connector here hears: what they reach is reached unheard.")
    }
    if rows.contains(where: \.inherits), rows.contains(where: { !$0.inherits }) {
      notes.append(
        "Q-Formers start from \(recipe.adapter.start ?? recipe.text.model); what has nothing of a Q-Former starts anew."
      )
    }
    if rows.contains(where: \.isCutShort) { notes.append("Trainings marked ⏱ ran out of time before their samples.") }
    if rows.contains(where: { $0.cost.peakBytes == nil }) { notes.append("Peak memory is measured on Linux alone.") }
    if rows.contains(where: { $0.seeds.count < 2 }) {
      notes.append("One seed tells of no spread: there, nothing is marked as the best or as equal to it.")
    }
    return notes
  }

  /// How an ablation stands to the whole spatio-temporal Q-Former, for all questions; nil for what is no ablation, or
  /// where that one has not been trained.
  public func difference(of row: Row) -> Difference? {
    guard row.connector.isAblation, let own = row.scores.first?.accuracy,
      let whole = rows.first(where: { $0.connector == .spatioTemporal })?.scores.first?.accuracy
    else { return nil }
    return Difference(own, whole)
  }
}

// MARK: - Tables

extension Comparison {
  /// All kinds of questions, all of them together first.
  public var tasks: [String] {
    rows.flatMap { $0.scores.map(\.task) }.reduce(into: []) { if !$0.contains($1) { $0.append($1) } }
  }

  /// What each training was to see.
  var budget: String {
    "\(samples) samples a training" + (words.map { " after \($0) of words" } ?? "")
  }

  /// Mean and spread in percent, and `*` for the best and what is equal to it.
  static func words(_ score: Score) -> String {
    percent(score.accuracy) + (score.isBest == true ? "*" : "")
  }

  static func percent(_ value: SeedStatistics) -> String {
    value.count > 1
      ? String(format: "%.1f ± %.1f", value.mean * 100, value.standardDeviation * 100)
      : String(format: "%.1f", value.mean * 100)
  }

  /// Cells of the table, headings first.
  var cells: [[String]] {
    let tasks = tasks
    let heads =
      ["connector", "tokens", "M trained", "GMAC", "ms", "peak MB", "training s", "seeds"]
      + tasks.flatMap { $0 == AnswerEvaluation.all ? [$0, "blind"] : [$0] }
    let body = rows.map { row -> [String] in
      let cost = row.cost
      return [
        row.connector.title, "\(cost.tokens)", String(format: "%.2f", Double(row.trained) / 1e6),
        String(format: "%.3f", Double(cost.multiplyAccumulates) / 1e9), String(format: "%.1f", cost.milliseconds),
        cost.peakBytes.map { String(format: "%.1f", Double($0) / 1e6) } ?? "–",
        String(format: "%.0f", row.seconds.mean) + (row.isCutShort ? " ⏱" : ""), "\(row.seeds.count)",
      ]
        + tasks.flatMap { task -> [String] in
          guard let score = row.scores.first(where: { $0.task == task }) else { return ["–"] }
          return task == AnswerEvaluation.all ? [Self.words(score), Self.percent(score.blind)] : [Self.words(score)]
        }
    }
    let chances = tasks.flatMap { task -> [String] in
      let score = rows.lazy.compactMap { row in row.scores.first { $0.task == task } }.first
      let chance = score.map { String(format: "%.1f", $0.chance * 100) } ?? "–"
      return task == AnswerEvaluation.all ? [chance, ""] : [chance]
    }
    let counts = tasks.flatMap { task -> [String] in
      let score = rows.lazy.compactMap { row in row.scores.first { $0.task == task } }.first
      return ["\(score?.questions ?? 0)"] + (task == AnswerEvaluation.all ? [""] : [])
    }
    let empty = Array(repeating: "", count: 7)
    return [heads] + body + [["chance"] + empty + chances, ["questions"] + empty + counts]
  }

  /// The table for people, one line an element, with what it does not tell below it.
  public var lines: [String] {
    let cells = cells
    let widths = (cells.first ?? []).indices.map { column in cells.map { $0[column].count }.max() ?? 0 }
    let table = cells.map { row in
      row.indices.map { column in
        let space = String(repeating: " ", count: widths[column] - row[column].count)
        return column == 0 ? row[column] + space : space + row[column]
      }.joined(separator: "  ")
    }
    let ablations = rows.compactMap { row in
      difference(of: row).map { difference -> String in
        let words =
          switch difference {
          case .larger: "better than"
          case .smaller: "worse than"
          case .equal: "equal, within the spread, to"
          case .unknown: "not to be told from one seed beside"
          }
        return "\(row.connector.rawValue): \(words) \(ComparedConnector.spatioTemporal.rawValue)"
      }
    }
    return table + [
      "",
      "Accuracy in percent, mean ± standard deviation over seeds; * the best, and what is equal to it within the spread.",
      budget + (minutes.map { " or \($0) minutes" } ?? "")
        + ", \(clips) clips of \(validation) asked about" + (missing > 0 ? "; \(missing) trainings to come." : "."),
    ] + notes + (ablations.isEmpty ? [] : [""] + ablations)
  }
}
