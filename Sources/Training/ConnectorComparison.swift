import Checkpoints
public import Foundation
public import Pipelines
import Torch

/// Trains connectors one after the other with the same budget, from the same features, with several seeds, and measures them.
///
/// The folder gets `comparison.yaml`, `costs/CONNECTOR.json`, `results/CONNECTOR-SEED.json`, `runs/CONNECTOR-SEED/` with the
/// metrics of each training (in `words/` there of the words that it learns first), and after every training `comparison.json` and `comparison.html`. Every file is written under a
/// temporary name: whatever stops it, the next run does what is missing, and goes on with a training from its last checkpoint.
public enum ConnectorComparison {
  /// Does what is missing.
  ///
  /// - Parameters:
  ///   - recipe: What to do; its objective is `video-language`.
  ///   - output: The folder.
  ///   - store: Where models lie.
  ///   - showsProgress: Whether progress is printed.
  ///   - cost: Measures a connector; best in a process of its own.
  ///   - shouldStop: Asked after every step; a checkpoint is written before stopping.
  /// - Returns: The comparison; nil when stopped early.
  /// - Throws: ``TrainingError``, `PipelineError`, `CheckpointError`, what reading data throws.
  public static func run(
    _ recipe: Recipe, output: URL, store: ModelStore = ModelStore(), showsProgress: Bool,
    cost: (ComparedConnector) throws -> ConnectorCost, shouldStop: () -> Bool = { false }
  ) throws -> Comparison? {
    var recipe = recipe
    let compare = recipe.compare ?? Recipe.Compare()
    recipe.compare = compare
    guard recipe.objective == .videoLanguage, let validation = recipe.validation.first else {
      throw TrainingError.badRecipe(
        file: "recipe",
        reason: recipe.validation.isEmpty
          ? "validation: expected at least one source"
          : "objective is \(recipe.objective.rawValue); connectors are compared by video-language")
    }
    guard recipe.audio == nil else {
      throw TrainingError.badRecipe(file: "recipe", reason: "audio: connectors are compared by what they see alone")
    }
    recipe.validation = [validation]
    let folder = try ComparisonFolder(output, recipe)
    let progress = Progress("comparing", total: 1, isOn: showsProgress)
    var costs: [ComparedConnector: ConnectorCost] = [:]
    for connector in compare.connectors {
      let known = try folder.cost(connector)
      if known == nil { progress.note("measuring \(connector.rawValue)") }
      costs[connector] = try known ?? folder.keep(cost(connector), of: connector)
      if known == nil, shouldStop() { return nil }
    }
    func summary() throws -> Comparison {
      let name = try recipe.resolved(validation, store: store).name
      let all = try Comparison(recipe, runs: folder.runs(compare), costs: costs, validation: name)
      try folder.write(all)
      return all
    }
    // A seed of all connectors, then the next: a table of all of them comes early.
    let missing = try compare.seeds.flatMap { seed in
      try compare.connectors.filter { try folder.run($0, seed) == nil }.map { (connector: $0, seed: seed) }
    }
    guard !missing.isEmpty else { return try summary() }
    let training = try Training(recipe, store: store, showsProgress: showsProgress)
    for (number, next) in missing.enumerated() {
      let label = "\(number + 1)/\(missing.count) \(next.connector.rawValue), seed \(next.seed)"
      guard let result = try training.run(next.connector, next.seed, in: folder, label: label, shouldStop) else {
        return nil
      }
      try folder.keep(result)
      let accuracy = (result.tasks.first?.accuracy ?? 0) * 100
      progress.note("\(label): \(String(format: "%.1f %% in %.0f s", accuracy, result.seconds))")
      _ = try summary()
    }
    return try summary()
  }

  /// What all trainings share.
  private struct Training {
    let recipe: Recipe
    let compare: Recipe.Compare
    let store: ModelStore
    let data: TrainingData
    let language: LanguageModel
    let sizes: ConnectorSizes
    let showsProgress: Bool

    init(_ recipe: Recipe, store: ModelStore, showsProgress: Bool) throws {
      (self.recipe, self.store, self.showsProgress) = (recipe, store, showsProgress)
      compare = recipe.compare ?? Recipe.Compare()
      sizes = try ConnectorSizes(recipe, store: store)
      data = try TrainingData(recipe, store: store, showsProgress: showsProgress)
      language = try LanguageModel(
        folder: store.frozenModel(recipe.language.model), template: recipe.language.template)
      guard let set = data.validation.first, set.questions.prefix(compare.clips).contains(where: { !$0.isEmpty }) else {
        throw TrainingError.badRecipe(
          file: "recipe", reason: "validation: the clips have no questions, and quality is measured by answers")
      }
    }

    /// Trains and measures one connector; nil when stopped.
    func run(
      _ connector: ComparedConnector, _ seed: UInt64, in folder: ComparisonFolder, label: String,
      _ shouldStop: () -> Bool
    ) throws -> Comparison.Run? {
      var recipe = recipe
      (recipe.seed, recipe.compare) = (seed, nil)
      // Time is summed up from the lines of metrics.
      (recipe.logEvery, recipe.validateEvery) = (1, 0)
      var start = try connector.start(recipe, sizes, store: store)
      let clock = TrainingClock(minutes: compare.minutes)
      var words = 0
      if let options = compare.words {
        guard
          let learnt = try learnWords(
            recipe, options, start, clock, in: folder.wordsFolder(connector, seed), label, shouldStop)
        else { return nil }
        words = learnt
        start.isProjecting = true
      }
      let loop = try LanguageLoop(
        recipe, start, language, data.train, steps: max(1, compare.samples / recipe.batchSize))
      let run = try RunFolder(folder.trainingFolder(connector, seed), recipe: recipe, resumes: true)
      let progress = Progress(label, total: loop.totalSteps, isOn: showsProgress)
      clock.start(after: run.trainingSeconds)
      let steps = try loop.run(in: run, resumes: true, progress: progress) { _ in clock.isLate() || shouldStop() }
      guard steps == loop.totalSteps || clock.wasLate else { return nil }
      let set = data.validation[0]
      let answers = try AnswerEvaluation.run(
        start.model, language, set, limit: compare.clips, isBlindToo: true,
        progress: Progress(
          "asking \(connector.rawValue)", total: min(compare.clips, set.features.count), isOn: showsProgress))
      return Comparison.Run(
        connector: connector, seed: seed, steps: steps, samples: steps * recipe.batchSize, words: words,
        seconds: clock.seconds(before: run.trainingSeconds),
        isCutShort: steps < loop.totalSteps || words < (compare.words?.whole ?? 0), trained: loop.trainedCount,
        inherits: !start.inherited.isEmpty,
        tasks: answers?.tasks ?? [])
    }

    /// Lets a connector learn words of captions; gives the number of clips that it saw, nil when stopped.
    private func learnWords(
      _ recipe: Recipe, _ options: Recipe.Compare.Words, _ start: ConnectorStart, _ clock: TrainingClock,
      in folder: URL, _ label: String, _ shouldStop: () -> Bool
    ) throws -> Int? {
      var recipe = recipe
      (recipe.objective, recipe.batchSize) = (.videoWords, options.batchSize)
      recipe.optimizer.learningRate = options.learningRate
      let loop = try WordsLoop(
        recipe, start, language, data.train, steps: options.whole / options.batchSize)
      let run = try RunFolder(folder, recipe: recipe, resumes: true)
      let progress = Progress("\(label), words", total: loop.totalSteps, isOn: showsProgress)
      clock.start(after: run.trainingSeconds)
      let steps = try loop.run(in: run, resumes: true, progress: progress) { _ in clock.isLate() || shouldStop() }
      guard steps == loop.totalSteps || clock.wasLate else { return nil }
      clock.finish(run.trainingSeconds)
      try loop.placeTokens()
      return steps * options.batchSize
    }
  }
}

/// How long a training has taken so far, in all its parts and all its runs.
private final class TrainingClock {
  private let limit: Double?
  private var spent = 0.0  // in this part
  private var earlier = 0.0  // in parts that are done
  private var last = Date()
  /// Whether time has run out before all steps were done.
  private(set) var wasLate = false

  init(minutes: Double?) { limit = minutes.map { $0 * 60 } }

  /// Begins a part, some of which was done before.
  func start(after seconds: Double) { (spent, last) = (seconds, Date()) }

  /// Ends a part that took so long.
  func finish(_ seconds: Double) { earlier += seconds }

  /// Asked after every step: whether time has run out.
  func isLate() -> Bool {
    spent += Date().timeIntervalSince(last)
    last = Date()
    wasLate = limit.map { earlier + spent > $0 } ?? false
    return wasLate
  }

  /// All parts, the last of which took so long.
  func seconds(before last: Double) -> Double { earlier + last }
}

/// The files of a comparison.
struct ComparisonFolder {
  let url: URL

  /// Opens or makes the folder.
  ///
  /// - Throws: ``TrainingError/badRun(folder:reason:)`` for a folder of another recipe; connectors and seeds may differ.
  init(_ url: URL, _ recipe: Recipe) throws {
    self.url = url
    var common = recipe
    common.compare?.connectors = []
    common.compare?.seeds = []
    let yaml = try common.yaml()
    let file = url.appendingPathComponent("comparison.yaml")
    if let old = FileManager.default.contents(atPath: file.path) {
      guard String(data: old, encoding: .utf8) == yaml else {
        throw TrainingError.badRun(
          folder: url.path,
          reason: "holds a comparison by another recipe (comparison.yaml): use its settings, or another --output")
      }
    }
    do {
      for name in ["costs", "results", "runs"] {
        try FileManager.default.createDirectory(
          at: url.appendingPathComponent(name), withIntermediateDirectories: true)
      }
    } catch {
      throw CheckpointError.cannotWrite(file: url.path, reason: error.localizedDescription)
    }
    if !FileManager.default.fileExists(atPath: file.path) { try AtomicFile.write(Data(yaml.utf8), to: file) }
  }

  private func costFile(_ connector: ComparedConnector) -> URL {
    url.appendingPathComponent("costs/\(connector.rawValue).json")
  }

  private func resultFile(_ connector: ComparedConnector, _ seed: UInt64) -> URL {
    url.appendingPathComponent("results/\(connector.rawValue)-\(seed).json")
  }

  /// Where a training keeps its checkpoints and metrics.
  func trainingFolder(_ connector: ComparedConnector, _ seed: UInt64) -> URL {
    url.appendingPathComponent("runs/\(connector.rawValue)-\(seed)")
  }

  /// The same for the words that it learns first.
  func wordsFolder(_ connector: ComparedConnector, _ seed: UInt64) -> URL {
    trainingFolder(connector, seed).appendingPathComponent("words")
  }

  /// What has been measured of a connector's cost.
  func cost(_ connector: ComparedConnector) throws -> ConnectorCost? { try read(costFile(connector)) }

  /// Keeps a cost.
  func keep(_ cost: ConnectorCost, of connector: ComparedConnector) throws -> ConnectorCost {
    try write(cost, to: costFile(connector))
    return cost
  }

  /// What a training has reached, where it is done.
  func run(_ connector: ComparedConnector, _ seed: UInt64) throws -> Comparison.Run? {
    try read(resultFile(connector, seed))
  }

  /// Everything that is done of what is asked for.
  func runs(_ compare: Recipe.Compare) throws -> [Comparison.Run] {
    try compare.connectors.flatMap { connector in
      try compare.seeds.compactMap { try run(connector, $0) }
    }
  }

  /// Keeps a result; the checkpoints behind it go.
  func keep(_ run: Comparison.Run) throws {
    try write(run, to: resultFile(run.connector, run.seed))
    for folder in [trainingFolder(run.connector, run.seed), wordsFolder(run.connector, run.seed)] {
      try? FileManager.default.removeItem(at: folder.appendingPathComponent("checkpoints"))
    }
  }

  /// Writes `comparison.json` and `comparison.html`.
  func write(_ comparison: Comparison) throws {
    try write(comparison, to: url.appendingPathComponent("comparison.json"))
    try AtomicFile.write(
      Data(ComparisonPage(comparison).html.utf8), to: url.appendingPathComponent("comparison.html"))
  }

  private func write(_ value: some Encodable, to file: URL) throws {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
    try AtomicFile.write(try encoder.encode(value), to: file)
  }

  private func read<Value: Decodable>(_ file: URL) throws -> Value? {
    guard FileManager.default.fileExists(atPath: file.path) else { return nil }
    do {
      return try JSONDecoder().decode(Value.self, from: SmallFile.read(file))
    } catch is DecodingError {
      throw TrainingError.badRun(
        folder: file.path, reason: "expected what qformer compare writes; remove it to measure anew")
    }
  }
}
