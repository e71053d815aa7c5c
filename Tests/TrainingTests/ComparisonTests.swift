import Checkpoints
import Evaluation
import Foundation
import Pipelines
import QFormer
import TestSupport
import Testing
import Torch
import TorchNN

@testable import Training

@Suite("Connectors compared, on tiny models")
struct ComparisonTests {
  /// Tiny models and clips, and a recipe that compares on them.
  private struct Place {
    let folder: URL
    let models: TinyModels
    var recipe: Recipe

    init(_ folder: URL) throws {
      self.folder = folder
      models = try TinyModels(in: folder)
      let data = folder.appendingPathComponent("clips")
      try TinyClips.write(to: data)
      recipe = .tiny(data)
      recipe.objective = .videoLanguage
      recipe.video.frames = 2
      recipe.video.spatioTemporal.poolingHeads = 4
      recipe.imageLanguage.questionsPerImage = 2
      var compare = Recipe.Compare()
      (compare.tokens, compare.samples, compare.clips, compare.seeds) = (4, 8, 4, [1, 2])
      recipe.compare = compare
    }

    func run(
      _ name: String = "out", stop: () -> Bool = { false }
    ) throws -> Comparison? {
      try ConnectorComparison.run(
        recipe, output: folder.appendingPathComponent(name), store: models.store, showsProgress: false,
        cost: { try ConnectorCost.measure($0, recipe, store: models.store, runs: 2) }, shouldStop: stop)
    }

    /// Stopped after every third question whether to stop, and taken up again until all is done.
    func runInParts() throws -> Comparison {
      var (asked, parts, rounds) = (0, nil as Comparison?, 0)
      while parts == nil, rounds < 40 {
        rounds += 1
        parts = try run("parts") {
          asked += 1
          return asked % 3 == 0
        }
      }
      #expect(rounds > 3)
      return try #require(parts)
    }

    func names(_ path: String) throws -> [String] {
      try FileManager.default.contentsOfDirectory(atPath: folder.appendingPathComponent(path).path).sorted()
    }
  }

  @Test("Every connector starts, from the text model and from an image adapter, and gives the tokens that are counted")
  func starts() throws {
    try withTemporaryFolder { folder in
      var place = try Place(folder)
      let clip = try TimedFeatures(
        Tensor.randn([1, 2, TinyModels.imageTokens, TinyModels.encoderWidth], generator: Generator(seed: 1)),
        seconds: Tensor([Float(0), 1.5], [1, 2]))
      let isQFormer: (ComparedConnector) -> Bool = { ![.meanPooling, .adaptivePooling, .perceiver].contains($0) }
      for start in [nil, "image-caption", "image-match"] as [String?] {
        place.recipe.adapter.start = start
        for tokens in [4, 8] {
          place.recipe.compare?.tokens = tokens
          let sizes = try ConnectorSizes(place.recipe, store: place.models.store)
          #expect(sizes.imageTokens == 17 && sizes.languageSize == 32 && sizes.frames == 2)
          for connector in ComparedConnector.allCases {
            let found = try connector.start(place.recipe, sizes, store: place.models.store)
            let model = try #require(found.model.video as? any CountedConnector)
            let words = "\(connector) \(start ?? "") \(tokens)"
            let counted = model.tokens(frames: 2, imageTokens: 17)
            #expect(try model.languageTokens(of: clip, isTraining: false).shape == [1, counted, 32], "\(words)")
            switch connector {
            case .meanPooling: #expect(counted == 19, "\(words)")
            case .wholeImageQFormer: #expect(counted == 8, "\(words)")
            case .adaptivePooling, .perceiver, .imageQFormer, .cascaded, .joint, .compactSpatioTemporal:
              #expect(counted == tokens, "\(words)")
            default: #expect(counted == 2 * tokens + 1, "\(words)")
            }
            #expect(found.parameters["language_projection.weight"] != nil, "\(words)")
            #expect(found.isProjecting == (start == "image-caption" && isQFormer(connector)), "\(words)")
            #expect(found.inherited.isEmpty != isQFormer(connector), "\(words)")
            // A fresh one of the same sizes is as large, but for what an adapter's own sizes decide.
            let parameters = Parameters()
            let fresh = try connector.fresh(
              sizes, ParameterScope(FreshParameters(seed: 1), parameters: parameters))
            #expect(parameters.elementCount() == found.parameters.elementCount(), "\(words)")
            #expect(fresh.tokens(frames: 2, imageTokens: 17) == counted, "\(words)")
            #expect(
              fresh.multiplyAccumulates(frames: 2, imageTokens: 17)
                == model.multiplyAccumulates(frames: 2, imageTokens: 17), "\(words)")
          }
        }
      }
    }
  }

  @Test(
    "From an image adapter, an image Q-Former on every frame says of each what the adapter says; added queries are its own"
  )
  func inheritance() throws {
    try withTemporaryFolder { folder in
      var place = try Place(folder)
      place.recipe.adapter.start = "image-caption"
      let image = try ImageLanguagePipeline(store: place.models.store).adapter
      let features = Tensor.randn([2, 1, 17, TinyModels.encoderWidth], generator: Generator(seed: 1))
      let clip = try TimedFeatures(features)
      let expected = image.languageTokens(try image.readImage(features.select(1, 0)).hidden)
      let sizes = try ConnectorSizes(place.recipe, store: place.models.store)
      for connector in [ComparedConnector.wholeImageQFormer, .joint] {
        let model = try connector.start(place.recipe, sizes, store: place.models.store).model.video
        expectClose(try model.languageTokens(of: clip, isTraining: false), expected, relative: 1e-5, connector.rawValue)
      }
      place.recipe.compare?.tokens = 7
      let more = try ConnectorSizes(place.recipe, store: place.models.store)
      let tokens = try #require(
        try ComparedConnector.joint.start(place.recipe, more, store: place.models.store)
          .parameters["query_tokens"]
      ).detached()
      let own = image.qformer.queryTokens.detached()
      #expect(tokens.shape == [1, 7, 24] && (tokens.narrow(1, 0, 4) - own).abs().max().item == 0)
      let noise = (tokens.narrow(1, 4, 3) - own.narrow(1, 0, 3)).std().item
      #expect(noise > 0.01 && noise < 0.03, "\(noise)")
    }
  }

  @Test("A comparison trains all, resumes where it was stopped to the same numbers, and skips what is done")
  func runs() throws {
    try withTemporaryFolder { folder in
      var place = try Place(folder)
      place.recipe.compare?.connectors = [.meanPooling, .joint, .spatioTemporal, .withoutExperts]
      let whole = try #require(try place.run("whole"))
      #expect(whole.missing == 0 && whole.rows.map(\.connector) == place.recipe.compare?.connectors)
      #expect(whole.tasks == ["all", "count", "order"])
      for row in whole.rows {
        #expect(row.seeds == [1, 2] && row.seconds.mean > 0 && !row.isCutShort)
        #expect(row.scores.map(\.questions) == [8, 4, 4] && row.scores.map(\.chance) == [0.375, 0.25, 0.5])
        #expect(row.scores.allSatisfy { $0.accuracy.count == 2 && $0.isBest != nil })
        #expect(row.inherits == (row.connector != .meanPooling) && row.trained > 0)
        #expect(row.cost.tokens == [.meanPooling: 19, .joint: 4][row.connector] ?? 9)
        #expect(row.cost.milliseconds > 0)
      }
      #expect(try place.names("whole/results").count == 8 && place.names("whole/costs").count == 4)
      // Checkpoints go when a result is there.
      let kept = try place.names("whole/runs/joint-1")
      #expect(kept.contains("metrics.jsonl") && !kept.contains("checkpoints"), "\(kept)")

      // Stopped after every third question, it goes on with what is missing.
      for (a, b) in zip(try place.runInParts().rows, whole.rows) { #expect(a.scores == b.scores, "\(a.connector)") }

      // Nothing is done twice; a seed more is one training each; another recipe is refused.
      let files = try place.names("whole/results").map { name in
        try FileManager.default.attributesOfItem(atPath: folder.appendingPathComponent("whole/results/\(name)").path)[
          .modificationDate] as? Date
      }
      place.recipe.compare?.connectors = [.joint]
      place.recipe.compare?.seeds = [1, 2, 3]
      let more = try #require(try place.run("whole"))
      #expect(more.rows.map(\.seeds) == [[1, 2, 3]])
      #expect(try place.names("whole/results").count == 9)
      let later = try place.names("whole/results").filter { $0 != "joint-3.json" }.map { name in
        try FileManager.default.attributesOfItem(atPath: folder.appendingPathComponent("whole/results/\(name)").path)[
          .modificationDate] as? Date
      }
      #expect(later == files)
      place.recipe.compare?.samples = 12
      let error = #expect(throws: TrainingError.self) { _ = try place.run("whole") }
      #expect(error?.description.contains("another recipe") == true)

      // What was written can be read again, and the page needs nothing else.
      let json = try Data(contentsOf: folder.appendingPathComponent("whole/comparison.json"))
      #expect(try JSONDecoder().decode(Comparison.self, from: json) == more)
      let page = try String(contentsOf: folder.appendingPathComponent("whole/comparison.html"), encoding: .utf8)
      #expect(page.components(separatedBy: "<svg").count == 1 + 2 * 3 && page.contains("joint Q-Former"))
      #expect(!page.contains("src=") && !page.contains("href=") && !page.contains("NaN") && !page.contains("nan"))
    }
  }

  @Test("Words come before the language model's loss, resume to the same numbers, and count as time")
  func words() throws {
    try withTemporaryFolder { folder in
      var place = try Place(folder)
      place.recipe.compare?.connectors = [.perceiver, .joint]
      place.recipe.compare?.seeds = [3]
      #expect(try place.run("without")?.words == nil)
      var options = Recipe.Compare.Words()
      (options.samples, options.batchSize) = (23, 4)
      place.recipe.compare?.words = options
      place.recipe.imageWords.minimumCount = 1
      let whole = try #require(try place.run("whole"))
      #expect(whole.words == 23 && whole.lines.contains { $0.contains("8 samples a training after 23 of words") })
      #expect(ComparisonPage(whole).html.contains("after 23 of words"))
      #expect(!whole.rows.contains(where: \.isCutShort) && whole.rows.allSatisfy { $0.seconds.mean > 0 })
      func lines(_ path: String) throws -> [[String: Any]] {
        try String(contentsOf: folder.appendingPathComponent(path + "/metrics.jsonl"), encoding: .utf8)
          .split(separator: "\n").compactMap { try JSONSerialization.jsonObject(with: Data($0.utf8)) as? [String: Any] }
      }
      for name in ["perceiver-3", "joint-3"] {
        let words = try lines("whole/runs/\(name)/words")
        #expect(words.count == 5 && words.allSatisfy { $0["words"] as? Double != nil })
        // The language model's loss starts from what words have taught.
        let losses = try ["without", "whole"].map { try lines("\($0)/runs/\(name)")[0]["lm"] as? Double }
        #expect(losses[0] != losses[1])
        let kept = try place.names("whole/runs/\(name)/words")
        #expect(!kept.contains("checkpoints"))
      }
      let result = try Data(contentsOf: folder.appendingPathComponent("whole/results/joint-3.json"))
      let run = try JSONDecoder().decode(Comparison.Run.self, from: result)
      #expect(run.words == 20 && run.samples == 8)
      let seconds = try (lines("whole/runs/joint-3") + lines("whole/runs/joint-3/words"))
        .reduce(0) { $0 + ($1["seconds"] as? Double ?? 0) }
      #expect(abs(run.seconds - seconds) < 1e-6)

      // Stopped after every third step, in words or behind them.
      for (a, b) in zip(try place.runInParts().rows, whole.rows) { #expect(a.scores == b.scores, "\(a.connector)") }

      // Words have placed the tokens: they are not scaled once more.
      place.recipe.imageLanguage.tokenScale = 0
      _ = try place.run("unscaled")
      let scaled = try ["whole", "unscaled"].map { try lines("\($0)/runs/perceiver-3")[0]["lm"] as? Double }
      #expect(scaled[0] == scaled[1])

      place.recipe.compare?.minutes = 1e-9
      let short = try #require(try place.run("short"))
      #expect(!short.rows.contains { !$0.isCutShort })
    }
  }

  @Test("Time may run out before samples do")
  func minutes() throws {
    try withTemporaryFolder { folder in
      var place = try Place(folder)
      place.recipe.compare?.connectors = [.meanPooling]
      place.recipe.compare?.seeds = [5]
      place.recipe.compare?.samples = 400
      place.recipe.compare?.minutes = 1e-9
      let short = try #require(try place.run())
      #expect(short.rows[0].isCutShort && short.rows[0].scores[0].isBest == nil)
      #expect(short.lines.contains { $0.contains("⏱") } && short.lines.contains { $0.contains("One seed") })
    }
  }

  @Test("What does not compare is refused before anything is trained")
  func refused() throws {
    try withTemporaryFolder { folder in
      let place = try Place(folder)
      let changes: [(words: String, change: (inout Recipe) -> Void)] = [
        ("image-language", { $0.objective = .imageLanguage }), ("validation", { $0.validation = [] }),
        ("audio", { $0.audio = Recipe.Audio() }),
      ]
      for (words, change) in changes {
        var place = place
        change(&place.recipe)
        let error = #expect(throws: TrainingError.self) { _ = try place.run() }
        #expect(error?.description.contains(words) == true, "\(words): \(error?.description ?? "")")
      }
      #expect(!FileManager.default.fileExists(atPath: folder.appendingPathComponent("out").path))
    }
  }

  @Test("Axes have round ends")
  func ticks() {
    func percents(_ low: Double, _ high: Double) -> [Int] {
      Plot.scoreTicks(from: low, to: high).map { Int(($0 * 100).rounded()) }
    }
    #expect(percents(0.378, 0.5) == [35, 40, 45, 50])
    #expect(percents(-0.03, 0.25) == [0, 5, 10, 15, 20, 25])
    #expect(percents(0.5, 0.5) == [50, 51])
    #expect(percents(0.2, 1.04) == [20, 40, 60, 80, 100])
    #expect(Plot.costTicks(from: 24, to: 105) == [50, 100])
    #expect(Plot.costTicks(from: 0.7, to: 900) == [1, 10, 100])
  }

  @Test("Differences within the spread are none; the best, and what equals it, is marked")
  func spread() throws {
    func values(_ values: [Double]) throws -> SeedStatistics { try SeedStatistics(values) }
    // Standard deviations of 0.1 each: the spread is 0.141.
    #expect(Comparison.Difference(try values([0.4, 0.5, 0.6]), try values([0.5, 0.6, 0.7])) == .equal)
    #expect(Comparison.Difference(try values([0.4, 0.5, 0.6]), try values([0.6, 0.7, 0.8])) == .smaller)
    #expect(Comparison.Difference(try values([0.6, 0.7, 0.8]), try values([0.4, 0.5, 0.6])) == .larger)
    #expect(Comparison.Difference(try values([0.6]), try values([0.4, 0.5])) == .unknown)

    var recipe = Recipe()
    var compare = Recipe.Compare()
    compare.connectors = [.spatioTemporal, .withoutTime, .withoutExperts, .joint]
    (compare.seeds, recipe.compare) = ([1, 2, 3], compare)
    let means: [ComparedConnector: Double] = [
      .spatioTemporal: 0.6, .withoutTime: 0.55, .withoutExperts: 0.3, .joint: 0.9,
    ]
    var runs: [Comparison.Run] = []
    for (connector, mean) in means {
      for (seed, change) in zip([1, 2, 3] as [UInt64], [-0.05, 0, 0.05]) {
        runs.append(
          Comparison.Run(
            connector: connector, seed: seed, steps: 1, samples: 1, seconds: 2, isCutShort: false, trained: 1_000_000,
            inherits: true,
            tasks: [
              AnswerEvaluation.Task(
                task: "all", questions: 10, accuracy: mean + change, blind: 0.25, chance: 0.3),
              AnswerEvaluation.Task(task: "sound", questions: 4, accuracy: 0.25, blind: 0.25, chance: 0.25),
            ]))
      }
    }
    let cost = ConnectorCost(
      frames: 16, imageTokens: 65, tokens: 32, parameters: 1, multiplyAccumulates: 2_000_000_000, milliseconds: 12.5,
      peakBytes: 34_000_000)
    let all = try Comparison(
      recipe, runs: runs, costs: Dictionary(uniqueKeysWithValues: means.keys.map { ($0, cost) }), validation: "<set>")
    #expect(all.rows.map { $0.scores[0].isBest } == [false, false, false, true])
    #expect(all.rows.allSatisfy { $0.scores[1].isBest == true })
    #expect(all.rows.map { all.difference(of: $0) } == [nil, .equal, .smaller, nil])
    let lines = all.lines
    #expect(lines[0].hasPrefix("connector") && lines[0].contains("GMAC") && lines[0].contains("blind"))
    #expect(lines[1].contains("60.0 ± 5.0") && !lines[1].contains("60.0 ± 5.0*") && lines[1].contains("25.0 ± 0.0*"))
    #expect(lines[4].contains("90.0 ± 5.0*") && lines[4].contains("34.0") && lines[4].contains("2.000"))
    #expect(lines[5].hasPrefix("chance") && lines[5].contains("30.0") && lines[6].hasPrefix("questions"))
    #expect(lines.contains { $0.contains("spatio-temporal-no-time: equal, within the spread, to") })
    #expect(lines.contains { $0.contains("unheard") } && lines.contains { $0.contains("Retrieval is not measured") })
    #expect(Set(lines[0...6].map(\.count)).count == 1)
    let page = ComparisonPage(all).html
    #expect(page.contains("&lt;set&gt;") && !page.contains("<set>"))
    // Four points, two plots, two kinds of question; the best is filled.
    #expect(page.components(separatedBy: "<circle").count == 1 + 16)
    #expect(page.components(separatedBy: ##"fill="#36c""##).count == 1 + 2 + 8)
  }

  @Test("What a recipe may say of a comparison, and what it may not")
  func recipes() throws {
    try withTemporaryFolder { folder in
      let file = folder.appendingPathComponent("r.yaml")
      func recipe(_ text: String) throws -> Recipe {
        try Data(text.utf8).write(to: file)
        return try Recipe(contentsOf: file)
      }
      // Recipes that compare nothing say nothing of it: their runs go on.
      #expect(try recipe("batchSize: 8").compare == nil)
      #expect(try !recipe("batchSize: 8").yaml().contains("compare"))
      let given = try recipe("batchSize: 8\ncompare: {seeds: [7], connectors: [joint, perceiver], minutes: 2.5}")
      #expect(given.compare?.seeds == [7] && given.compare?.connectors == [.joint, .perceiver])
      #expect(given.compare?.words == nil)
      let words = try recipe("batchSize: 8\ncompare: {words: {samples: 640}}").compare?.words
      #expect(words?.samples == 640 && words?.batchSize == 64)
      #expect(given.compare?.minutes == 2.5 && given.compare?.tokens == 32)
      #expect(Recipe.Compare().seeds.count >= 3 && !Recipe.Compare().connectors.contains(.wholeImageQFormer))
      for (text, words) in [
        ("compare: {words: {samples: 8}}", "compare.words.samples is 8"),
        ("compare: {words: {batchSize: 0}}", "compare.words.batchSize is 0"),
        ("compare: {words: {learningRate: 2}}", "compare.words.learningRate"),
        ("compare: {words: {rate: 2}}", "compare.words.rate"),
        ("compare: {tokens: 3}", "compare.tokens is 3"), ("compare: {samples: 8}", "compare.samples is 8"),
        ("compare: {seeds: [1, 1]}", "compare.seeds"), ("compare: {seeds: []}", "compare.seeds"),
        ("compare: {connectors: []}", "compare.connectors"), ("compare: {clips: 0}", "compare.clips"),
        ("compare: {minutes: 0}", "compare.minutes"), ("compare: {token: 3}", "unknown keys: compare.token"),
        ("compare: {connectors: [nothing]}", "nothing"),
      ] {
        let error = #expect(throws: TrainingError.self) { _ = try recipe(text) }
        #expect(error?.description.contains(words) == true, "\(text): \(error?.description ?? "")")
      }
      var place = try Place(folder.appendingPathComponent("place"))
      place.recipe.objective = .videoText
      let other = #expect(throws: TrainingError.self) { _ = try place.run() }
      #expect(other?.description.contains("objective is video-text") == true)
      place.recipe.objective = .videoLanguage
      place.recipe.adapter.start = place.folder.appendingPathComponent("video").path
      try TinyModels.writeCascaded(to: place.folder.appendingPathComponent("video"))
      let video = #expect(throws: TrainingError.self) { _ = try place.run() }
      #expect(video?.description.contains("expected an adapter of images") == true)
    }
  }
}
