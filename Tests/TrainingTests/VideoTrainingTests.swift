import Checkpoints
import Foundation
import Pipelines
import QFormer
import TestSupport
import Testing
import Torch
import TorchNN

@testable import Training

@Suite("Training from clips to adapters, on tiny models")
struct VideoTrainingTests {
  /// Tiny models and four clips, of which two and two differ in nothing but the order of their frames.
  private struct Place {
    let folder: URL
    let models: TinyModels
    var recipe: Recipe

    init(_ folder: URL, _ objective: Recipe.Objective, _ family: Recipe.Video.Family) throws {
      self.folder = folder
      models = try TinyModels(in: folder)
      let data = folder.appendingPathComponent("clips")
      try TinyClips.write(to: data)
      recipe = .tiny(data)
      recipe.objective = objective
      recipe.video.family = family
      recipe.video.frames = 4
      recipe.video.cascaded.queries = 4
      recipe.video.cascaded.layers = 2
      recipe.epochs = 12
      recipe.imageLanguage.questionsPerImage = 2
      recipe.imageLanguage.tokenScale = 0.5
    }

    func train(_ name: String, resumes: Bool = false, stop: () -> Bool = { false }) throws -> URL? {
      let run =
        switch recipe.objective {
        case .videoText: ImageTextTraining.run
        case .videoWords: WordsTraining.run
        default: ImageLanguageTraining.run
        }
      return try run(recipe, folder.appendingPathComponent(name), resumes, models.store, false, stop)
    }

    func metrics(_ name: String) throws -> [NSDictionary] {
      try RunFiles.metrics(of: folder.appendingPathComponent(name))
    }

    /// Every tenth value of a loss.
    func losses(_ name: String, _ loss: String) throws -> [Double] {
      try metrics(name).compactMap { $0[loss] as? Double }.enumerated().filter { $0.offset % 10 == 0 }.map(\.element)
    }

    func evaluate(_ adapter: URL) throws -> AdapterEvaluation.Result {
      let evaluation = try AdapterEvaluation.run(
        recipe, model: adapter.path, split: nil, store: models.store, showsProgress: false)
      return try #require(evaluation.results.first)
    }
  }

  /// The reason for which a recipe is refused.
  private func reason(_ body: () throws -> Void) -> String {
    do {
      try body()
      return "nothing thrown"
    } catch TrainingError.badRecipe(_, let reason) { return reason } catch { return "another error: \(error)" }
  }

  @Test("Stage 1 learns the order of frames; of their mean it cannot", arguments: Recipe.Video.Family.allCases)
  func stage1(family: Recipe.Video.Family) throws {
    try withTemporaryFolder { folder in
      var place = try Place(folder, .videoText, family)
      try place.models.strengthen()
      place.recipe.video.time.encoding = .sinusoid
      place.recipe.imageText.matchingPart = 0
      place.recipe.imageText.generationPart = 0
      place.recipe.epochs = 300
      place.recipe.validateEvery = 0
      place.recipe.checkpointEvery = 1000
      let adapter = try #require(try place.train("whole"))
      #expect(try AdapterConfiguration(folder: adapter).kind.readsVideo)
      let names = try Checkpoint(contentsOf: adapter).names
      #expect(!names.contains { $0.contains("word_embeddings") })
      let result = try place.evaluate(adapter)
      #expect(result.images == 4 && result.answers == nil)
      // By colours alone the loss stays at 0.89, and one of two clips is found.
      let losses = try place.losses("whole", "itc")
      #expect((losses.last ?? 1) < 0.75, "\(losses)")
      #expect((result.retrieval?.contrastive.imageToText[1] ?? 0) >= 0.75, "\(result)")
      #expect((result.retrieval?.contrastive.textToImage[1] ?? 0) >= 0.75, "\(result)")
      #expect(result.ridge != nil && result.retrieval?.reranked != nil)

      place.recipe.video.baseline = .meanPooled
      let pooled = try #require(try place.train("pooled"))
      let held = try place.evaluate(pooled)
      #expect((held.retrieval?.contrastive.imageToText[1] ?? 1) <= 0.5, "\(held)")
      let heldLosses = try place.losses("pooled", "itc")
      #expect((heldLosses.last ?? 0) > 0.85, "\(heldLosses)")
    }
  }

  @Test("Stage 2 answers about the order of frames; of their mean it guesses", arguments: Recipe.Video.Family.allCases)
  func stage2(family: Recipe.Video.Family) throws {
    try withTemporaryFolder { folder in
      var place = try Place(folder, .videoLanguage, family)
      try place.models.strengthen()
      place.recipe.video.time.encoding = .sinusoid
      place.recipe.imageLanguage.captionsPerImage = 0
      place.recipe.epochs = 150
      place.recipe.validateEvery = 0
      place.recipe.checkpointEvery = 1000
      place.recipe.optimizer.learningRate = 1e-2
      let whole = try #require(try place.train("whole"))
      let result = try place.evaluate(whole)
      #expect(result.retrieval == nil && result.captions != nil)
      let tasks = try #require(result.answers?.tasks)
      #expect(tasks.map(\.task) == ["all", "count", "order"] && tasks.map(\.questions) == [8, 4, 4])
      #expect(tasks.map(\.chance) == [0.375, 0.25, 0.5])
      let losses = try place.losses("whole", "lm")
      #expect(tasks[2].accuracy == 1 && tasks[1].accuracy == 1, "\(tasks) \(losses)")
      // Another clip's frames: here the other pair's, whose colours are among no choices.
      #expect((tasks[2].blind ?? 1) < 1, "\(tasks)")

      // The means of a clip and of its reverse are one: of the two answers exactly one is right.
      place.recipe.video.baseline = .meanPooled
      let pooled = try #require(try place.train("pooled"))
      let held = try #require(try place.evaluate(pooled).answers?.tasks)
      #expect(held[2].accuracy == 0.5, "\(held)")
    }
  }

  @Test("Interrupted and resumed, all objectives compute the same losses and weights bit by bit")
  func resumes() throws {
    for (objective, family) in [
      (Recipe.Objective.videoText, Recipe.Video.Family.spatioTemporal), (.videoWords, .spatioTemporal),
      (.videoLanguage, .cascaded),
    ] {
      try withTemporaryFolder { folder in
        var place = try Place(folder, objective, family)
        place.recipe.patchPart = 0.75
        place.recipe.imageText.matchingPart = 0.5
        place.recipe.imageWords.minimumCount = 1
        let whole = try #require(try place.train("whole"))
        var asked = 0
        let stop = {
          asked += 1
          return asked == 5 || asked == 6
        }
        #expect(try place.train("parts", stop: stop) == nil)
        #expect(try place.train("parts", resumes: true, stop: stop) == nil)
        let parts = try #require(try place.train("parts", resumes: true))
        let metrics = try place.metrics("whole")
        #expect(try place.metrics("parts") == metrics)
        #expect(metrics.compactMap { $0["validation"] == nil ? $0["step"] as? Int : nil } == Array(1...12))
        #expect(try RunFiles.weights(of: parts) == RunFiles.weights(of: whole))
        let last = try #require(metrics.last)
        let keys =
          switch objective {
          case .videoText: ["itc.imageToText.R@1"]
          case .videoWords: ["words.P@10"]
          default: ["qa.order", "qa.order.blind", "qa.all.chance"]
          }
        for key in keys { #expect(last[key] as? Double != nil, "\(key)") }
      }
    }
  }

  @Test("A new table of times starts as large as the recipe says, else as its family has it", arguments: [nil, 0, 0.5])
  func timeDeviation(_ deviation: Double?) throws {
    try withTemporaryFolder { folder in
      for family in Recipe.Video.Family.allCases {
        let own = folder.appendingPathComponent(family.rawValue)
        try FileManager.default.createDirectory(at: own, withIntermediateDirectories: true)
        var place = try Place(own, .videoLanguage, family)
        place.recipe.adapter.start = "image-caption"
        place.recipe.video.timeDeviation = deviation
        let start = try AdapterStart.make(
          place.recipe, store: place.models.store, encoderWidth: TinyModels.encoderWidth, languageSize: 32)
        let name = family == .cascaded ? "frame_position_embedding.weight" : "time_embedding.weight"
        let spread = try #require(start.parameters[name]).detached().std().item
        let expected = deviation ?? (family == .cascaded ? 1 : 0)
        #expect(abs(spread - expected) <= 0.15 * expected, "\(family): \(spread)")
      }
    }
  }

  @Test("A frozen frame Q-Former stays as the image adapter has it, and what reads time learns")
  func frozenFrames() throws {
    try withTemporaryFolder { folder in
      var place = try Place(folder, .videoText, .cascaded)
      place.recipe.validateEvery = 0
      place.recipe.adapter.start = "image-match"
      place.recipe.adapter.hiddenDropout = 0.1
      place.recipe.video.freeze = .frameQFormer
      let image = try RunFiles.weights(of: place.models.adapters.appendingPathComponent("image-match"))
      let adapter = try #require(try place.train("a"))
      let trained = try RunFiles.weights(of: adapter)
      let frames = trained.keys.filter(CascadedVideoQFormer.isOfFrames)
      #expect(frames.count > 20)
      #expect(frames.allSatisfy { trained[$0] == image[$0] })
      let configuration = try #require(try AdapterConfiguration(folder: adapter).cascaded)
      #expect(configuration.frame.hiddenDropout == 0 && configuration.temporal.hiddenDropout == 0.1)

      place.recipe.adapter.start = adapter.path
      place.recipe.adapter.hiddenDropout = 0
      let further = try RunFiles.weights(of: try #require(try place.train("b")))
      #expect(frames.allSatisfy { further[$0] == image[$0] })
      let time = trained.keys.filter { $0.hasPrefix("temporal.qformer.") }
      #expect(time.count > 20 && time.contains { further[$0] != trained[$0] })
    }
  }

  @Test(
    "Three steps: inherited attention frozen, then all, then the language model",
    arguments: Recipe.Video.Family.allCases)
  func schedule(family: Recipe.Video.Family) throws {
    try withTemporaryFolder { folder in
      var place = try Place(folder, .videoText, family)
      place.recipe.validateEvery = 0
      place.recipe.epochs = 2
      place.recipe.adapter.start = "image-match"
      place.recipe.video.freeze = .inheritedAttention
      let image = try RunFiles.weights(of: place.models.adapters.appendingPathComponent("image-match"))
      let first = try #require(try place.train("a"))
      let frozen = try RunFiles.weights(of: first)
      let attention = frozen.keys.filter(SpatioTemporalQFormer.isInheritedAttention)
      #expect(attention.count > 10)
      #expect(attention.allSatisfy { frozen[$0] == image[$0] })
      let other = frozen.keys.filter { image[$0] != nil && !attention.contains($0) }
      #expect(other.contains { frozen[$0] != image[$0] })

      place.recipe.adapter.start = first.path
      place.recipe.video.freeze = .none
      let second = try #require(try place.train("b"))
      let free = try RunFiles.weights(of: second)
      #expect(free.keys.sorted() == frozen.keys.sorted())
      #expect(attention.contains { free[$0] != frozen[$0] })

      place.recipe.adapter.start = second.path
      place.recipe.objective = .videoLanguage
      let third = try #require(try place.train("c"))
      let configuration = try AdapterConfiguration(folder: third)
      #expect(configuration.text == nil && configuration.language == place.recipe.language)
      #expect(configuration.frames?.count == 4)
      let written = try RunFiles.weights(of: third)
      #expect(written["language_projection.weight"] != nil && written["temp"] == nil)
      #expect(!written.keys.contains { $0.contains("embeddings.position") })

      // A projection that has been trained is kept.
      place.recipe.adapter.start = third.path
      place.recipe.optimizer.learningRate = 1e-12
      let last = try #require(try place.train("d"))
      let again = try RunFiles.weights(of: last)
      #expect(again["language_projection.weight"] == written["language_projection.weight"])

      place.recipe.objective = .videoText
      #expect(reason { _ = try place.train("e") }.contains("no text side"))
      place.recipe.video.family = family == .cascaded ? .spatioTemporal : .cascaded
      let words = reason { _ = try place.train("f") }
      #expect(words.contains("video.family is \(place.recipe.video.family.rawValue)"), "\(words)")
      place.recipe.encoder.block = 0
      #expect(reason { _ = try place.train("g") }.contains("another encoder"))
    }
  }

  @Test(
    "Words of clips: the projection finds them, and is what the language step starts from",
    arguments: Recipe.Video.Family.allCases)
  func words(family: Recipe.Video.Family) throws {
    try withTemporaryFolder { folder in
      var place = try Place(folder, .videoWords, family)
      try place.models.strengthen()
      (place.recipe.imageWords.minimumCount, place.recipe.imageWords.weighting) = (1, .even)
      (place.recipe.epochs, place.recipe.validateEvery) = (30, 0)
      let adapter = try #require(try place.train("words"))
      // How common words are is known from the start: what is learnt is read from the clips.
      let losses = try place.losses("words", "words")
      let (first, last) = (try #require(losses.first), try #require(losses.last))
      #expect(last < first * 0.9, "\(losses)")
      #expect(try AdapterConfiguration(folder: adapter).kind.readsVideo)
      place.recipe.objective = .videoLanguage
      place.recipe.adapter.start = adapter.path
      (place.recipe.epochs, place.recipe.optimizer.learningRate) = (0.3, 1e-12)
      let next = try #require(try place.train("next"))
      let name = "language_projection.bias"
      #expect(try RunFiles.weights(of: next)[name] == RunFiles.weights(of: adapter)[name])
    }
  }

  @Test("New cross-attention of a cascade may start as the mean of the frames' queries; what is inherited stays")
  func meanStart() throws {
    try withTemporaryFolder { folder in
      var place = try Place(folder, .videoText, .cascaded)
      place.recipe.adapter.start = "image-match"
      place.recipe.adapter.crossAttention = .mean
      let start = try AdapterStart.make(
        place.recipe, store: place.models.store, encoderWidth: TinyModels.encoderWidth, languageSize: nil)
      let image = try Checkpoint(contentsOf: place.models.adapters.appendingPathComponent("image-match"))
      try withError {
        for layer in 0..<2 {
          for part in ["attention.value", "output.dense"] {
            let name = "temporal.qformer.encoder.layer.\(layer).crossattention.\(part).weight"
            let weight = try #require(start.parameters[name]).detached()
            #expect((weight - Tensor.identity(weight.size(0)).to(.float32)).abs().max().item == 0, "\(name)")
          }
        }
        let name = "qformer.encoder.layer.0.crossattention.attention.value.weight"
        let own = try #require(start.parameters[name]).detached()
        #expect((own - (try image.tensor(name))).abs().max().item == 0)
      }
    }
  }

  @Test("New cross-attention of a cascade may start wide; the seed says how, and what is inherited stays")
  func wideStart() throws {
    try withTemporaryFolder { folder in
      var place = try Place(folder, .videoText, .cascaded)
      place.recipe.adapter.start = "image-match"
      place.recipe.adapter.crossAttention = .xavier
      func weight(_ name: String, seed: UInt64) throws -> Tensor {
        place.recipe.seed = seed
        let start = try AdapterStart.make(
          place.recipe, store: place.models.store, encoderWidth: TinyModels.encoderWidth, languageSize: nil)
        return try #require(start.parameters[name]).detached()
      }
      let image = try Checkpoint(contentsOf: place.models.adapters.appendingPathComponent("image-match"))
      try withError {
        for layer in 0..<2 {
          for part in ["attention.query", "attention.key", "attention.value", "output.dense"] {
            let name = "temporal.qformer.encoder.layer.\(layer).crossattention.\(part).weight"
            let first = try weight(name, seed: 1)
            let bound = (6 / Double(first.size(0) + first.size(1))).squareRoot()
            let largest = first.abs().max().item
            #expect(largest <= bound && largest > 0.9 * bound, "\(name): \(largest), \(bound)")
            #expect((first - (try weight(name, seed: 1))).abs().max().item == 0)
            #expect((first - (try weight(name, seed: 2))).abs().max().item > 0)
          }
        }
        let name = "qformer.encoder.layer.0.crossattention.attention.query.weight"
        #expect((try weight(name, seed: 1) - (try image.tensor(name))).abs().max().item == 0)
      }
    }
  }

  @Test("A caption adapter gives a video adapter its projection", arguments: Recipe.Video.Family.allCases)
  func captionStart(family: Recipe.Video.Family) throws {
    try withTemporaryFolder { folder in
      var place = try Place(folder, .videoLanguage, family)
      place.recipe.adapter.start = "image-caption"
      place.recipe.epochs = 1
      place.recipe.validateEvery = 0
      place.recipe.optimizer.learningRate = 1e-12
      let image = try RunFiles.weights(of: place.models.adapters.appendingPathComponent("image-caption"))
      let adapter = try #require(try place.train("run"))
      let video = try RunFiles.weights(of: adapter)
      #expect(video["language_projection.weight"] == image["language_projection.weight"])
      #expect(video["qformer.encoder.layer.0.attention.attention.query.weight"] != nil)
      place.recipe.objective = .videoText
      if family == .spatioTemporal { #expect(reason { _ = try place.train("text") }.contains("no text side")) }
    }
  }

  @Test("Before any training a spatio-temporal adapter reads a clip's mean as its source reads a picture")
  func expansion() throws {
    try withTemporaryFolder { folder in
      var place = try Place(folder, .videoLanguage, .spatioTemporal)
      place.recipe.adapter.start = "image-caption"
      place.recipe.video.spatioTemporal.temporalQueries = 0
      place.recipe.video.spatioTemporal.summaryQueries = 0
      place.recipe.video.spatioTemporal.languageGroups = [.spatial]
      let start = try AdapterStart.make(
        place.recipe, store: place.models.store, encoderWidth: TinyModels.encoderWidth,
        languageSize: TinyModels.languageWidth)
      #expect(start.isProjecting && start.inherited.contains("query_tokens"))
      #expect(!start.inherited.contains("importance_scale"))
      let image = try ImageLanguagePipeline(store: place.models.store).adapter
      let features = Tensor.randn([2, 1, 17, TinyModels.encoderWidth], generator: Generator(seed: 1))
      try withNoGrad {
        let expected = image.languageTokens(try image.readImage(features.select(1, 0)).hidden)
        let found = try start.model.languageTokens(of: TimedFeatures(features), isTraining: false)
        expectClose(found, expected, relative: 1e-4)
      }
    }
  }
}
