import Checkpoints
import Foundation
import Pipelines
import QFormer
import TestSupport
import Testing
import Torch
import TorchNN

@testable import Training

@Suite("Training from pictures to adapters, on tiny models")
struct TrainingRunTests {
  /// Tiny models, twelve pictures to learn, four of them to validate on.
  private struct Place {
    let folder: URL
    let models: TinyModels
    var recipe: Recipe

    init(_ folder: URL) throws {
      self.folder = folder
      models = try TinyModels(in: folder)
      let data = folder.appendingPathComponent("data")
      try TinyPictures.write(to: data, train: 12, validation: 4)
      recipe = .tiny(data)
      recipe.epochs = 4
      recipe.patchPart = 0.75
      recipe.imageText.captionsPerImage = 2
      recipe.imageText.matchingPart = 0.5
      recipe.imageText.generationPart = 0.5
      recipe.imageLanguage.captions = 2
    }

    /// Trains in a folder of this name; `stop` is asked after every step.
    func train(_ name: String, resumes: Bool = false, stop: () -> Bool = { false }) throws -> URL? {
      let output = folder.appendingPathComponent(name)
      let run =
        switch recipe.objective {
        case .imageText, .videoText: ImageTextTraining.run
        case .imageWords, .videoWords: WordsTraining.run
        case .imageLanguage, .videoLanguage: ImageLanguageTraining.run
        }
      return try run(recipe, output, resumes, models.store, false, stop)
    }

    func metrics(_ name: String) throws -> [NSDictionary] {
      try RunFiles.metrics(of: folder.appendingPathComponent(name))
    }

    /// Means of a loss over the first and the last six steps.
    func change(_ name: String, _ loss: String) throws -> (first: Double, last: Double) {
      let values = try metrics(name).compactMap { $0[loss] as? Double }
      #expect(values.allSatisfy { $0.isFinite })
      let count = 6
      try #require(values.count >= 2 * count)
      return (values.prefix(count).reduce(0, +) / Double(count), values.suffix(count).reduce(0, +) / Double(count))
    }
  }

  /// Says stop at the n-th question.
  private func stopping(after count: Int) -> () -> Bool {
    var asked = 0
    return {
      asked += 1
      return asked == count
    }
  }

  /// Trains in one go and in three, and compares everything.
  private func compareInterrupted(_ place: Place, _ name: String) throws -> URL {
    let whole = try #require(try place.train("\(name)-whole"))
    #expect(try place.train("\(name)-parts", stop: stopping(after: 5)) == nil)
    #expect(try place.train("\(name)-parts", resumes: true, stop: stopping(after: 1)) == nil)
    let parts = try #require(try place.train("\(name)-parts", resumes: true))
    let metrics = try place.metrics("\(name)-whole")
    #expect(try place.metrics("\(name)-parts") == metrics)
    // 12 steps, and validations after 5, 10 and 12.
    #expect(metrics.compactMap { $0["validation"] == nil ? $0["step"] as? Int : nil } == Array(1...12))
    #expect(metrics.compactMap { $0["validation"] != nil ? $0["step"] as? Int : nil } == [5, 10, 12])
    #expect(try RunFiles.weights(of: parts) == RunFiles.weights(of: whole))
    // Once more after the end: nothing new.
    #expect(try place.train("\(name)-whole", resumes: true)?.path == whole.path)
    #expect(try place.metrics("\(name)-whole") == metrics)
    return whole
  }

  @Test("Stage 1: interrupted and resumed, it computes the same losses and weights bit by bit; its adapter loads")
  func stage1() throws {
    try withTemporaryFolder { folder in
      let place = try Place(folder)
      let adapter = try compareInterrupted(place, "stage1")
      let configuration = try AdapterConfiguration(folder: adapter)
      #expect(configuration.encoder == TinyModels.encoder && configuration.text == TinyModels.text)
      #expect(configuration.imageText?.qformer.hiddenSize == TinyModels.width)
      let scores = try ImageTextPipeline(adapter.path, store: place.models.store)
        .scores([TinyPictures.picture(0)], texts: ["a red square"])
      #expect(scores[0][0].itm?.isFinite == true && scores[0][0].itc?.isFinite == true)
      #expect(try !Checkpoint(contentsOf: adapter).names.contains(ImageTextPipeline.wordTable))
    }
  }

  @Test("Stage 1 learns a few pictures by heart")
  func stage1Learns() throws {
    try withTemporaryFolder { folder in
      var place = try Place(folder)
      place.recipe.epochs = 60
      place.recipe.patchPart = 1
      place.recipe.validateEvery = 0
      place.recipe.checkpointEvery = 1000
      let adapter = try #require(try place.train("run"))
      for (loss, factor) in [("itc", 0.9), ("itm", 1), ("itg", 0.95)] {
        let (first, last) = try place.change("run", loss)
        #expect(last < first * factor, "\(loss) \(first) → \(last)")
      }
      // Pictures find their own captions better than chance.
      let evaluation = try AdapterEvaluation.run(
        place.recipe, model: adapter.path, split: "train", store: place.models.store, showsProgress: false)
      let result = try #require(evaluation.results.first)
      #expect(result.images == 12 && result.captions == nil)
      #expect((result.retrieval?.contrastive.imageToText[1] ?? 0) >= 0.2, "\(result)")
      #expect(result.ridge != nil && result.canonical != nil)
    }
  }

  @Test("Contrastive heads that start from canonical correlations fit the pairs before the first step, and resume")
  func canonicalStart() throws {
    try withTemporaryFolder { folder in
      var place = try Place(folder)
      place.recipe.patchPart = 1
      place.recipe.imageText.canonicalStart = true
      _ = try compareInterrupted(place, "aligned")
      // With hardly any learning, pictures find their captions as the start lets them.
      place.recipe.optimizer.learningRate = 1e-9
      var recalls: [Double] = []
      for isCanonical in [false, true] {
        place.recipe.imageText.canonicalStart = isCanonical
        let adapter = try #require(try place.train("start-\(isCanonical)"))
        let evaluation = try AdapterEvaluation.run(
          place.recipe, model: adapter.path, split: "train", store: place.models.store, showsProgress: false)
        let found = try #require(evaluation.results.first?.retrieval?.contrastive)
        recalls.append(((found.imageToText[1] ?? 0) + (found.textToImage[1] ?? 0)) / 2)
      }
      #expect(recalls[1] > recalls[0] + 0.2, "\(recalls)")
    }
  }

  @Test("In a canonical start a picture counts once, however often its caption is repeated")
  func canonicalStartCountsPictures() throws {
    try withTemporaryFolder { folder in
      var place = try Place(folder)
      place.recipe.imageText.canonicalStart = true
      place.recipe.optimizer.learningRate = 1e-9
      place.recipe.validation = []
      place.recipe.epochs = 0.34
      var heads: [Tensor] = []
      for (name, repeated) in [("once", 0), ("twice", 6)] {
        let lines = (0..<12).map { number in
          let caption = "\"\(TinyPictures.captions(number)[1])\""
          let captions = number < repeated ? "\(caption), \(caption)" : caption
          return "{\"image\": \"train-\(number).png\", \"captions\": [\(captions)], \"split\": \"train\"}\n"
        }
        try Data(lines.joined().utf8).write(to: folder.appendingPathComponent("data/captions.jsonl"))
        let adapter = try Checkpoint(contentsOf: #require(try place.train(name)))
        heads.append(try adapter.tensor("vision_projection.weight").to(.float32))
      }
      let (size, difference) = try withError { (heads[0].abs().max().item, (heads[0] - heads[1]).abs().max().item) }
      #expect(difference < 2e-3 * size, "\(difference) of \(size)")
    }
  }

  @Test("The temperature is kept above its minimum, and stands in every line of metrics")
  func temperatureIsBounded() throws {
    try withTemporaryFolder { folder in
      var place = try Place(folder)
      (place.recipe.imageText.temperature, place.recipe.imageText.minimumTemperature) = (0.07, 0.2)
      place.recipe.validation = []
      place.recipe.epochs = 1
      #expect(try place.train("run") != nil)
      let temperatures = try place.metrics("run").map { $0["temperature"] as? Double }
      #expect(temperatures.count == 3 && temperatures.allSatisfy { ($0 ?? 0) > 0.1999 }, "\(temperatures)")
    }
  }

  @Test("Cross-attention may start as the mean of the patches, where widths allow it")
  func meanStart() throws {
    try withTemporaryFolder { folder in
      var configuration = ImageTextConfiguration()
      configuration.qformer.encoderHiddenSize = configuration.qformer.hiddenSize
      let parameters = Parameters()
      _ = try ImageTextQFormer(
        configuration, ParameterScope(FreshParameters(seed: 1), parameters: parameters))
      let before = parameters.all.map { ($0.name, $0.tensor.detached().bytes()) }
      try QFormerStart.readMeans(parameters)
      let changed = before.filter { parameters[$0.0]?.detached().bytes() != $0.1 }.map(\.0)
      let layers = [0, 2, 4].flatMap { layer in
        ["attention.value.weight", "output.dense.weight"].map { "qformer.encoder.layer.\(layer).crossattention.\($0)" }
      }
      #expect(Set(changed) == Set(layers))
      try withError {
        for name in layers {
          let weight = try #require(parameters[name])
          #expect((weight.detached() - Tensor.identity(weight.size(0)).to(.float32)).abs().max().item == 0)
        }
      }
      // The tiny encoder is of another width than the tiny Q-Former.
      var place = try Place(folder)
      place.recipe.adapter.crossAttention = .mean
      #expect {
        try place.train("run")
      } throws: { error in
        guard case .badRecipe(_, let reason) = error as? TrainingError else { return false }
        return reason.contains("as wide as the Q-Former")
      }
    }
  }

  @Test("A new Q-Former may start by pooling, and training goes on from there", arguments: ["text", "words"])
  func poolingStart(_ kind: String) throws {
    try withTemporaryFolder { folder in
      var place = try Place(folder)
      place.recipe.adapter.crossAttention = .pooling
      if kind == "words" {
        place.recipe.objective = .imageWords
        place.recipe.imageWords.minimumCount = 1
      }
      place.recipe.optimizer.learningRate = 1e-9
      let adapter = try Checkpoint(contentsOf: #require(try place.train("start")))
      try withError {
        for name in adapter.names where name.contains("output_query.dense") {
          let largest = try adapter.tensor(name).abs().max().item
          #expect(largest < 1e-3, "\(name)")
        }
        let output = try adapter.tensor("qformer.encoder.layer.0.crossattention.output.dense.weight")
        #expect((output - Tensor.identity(output.size(0)).to(.float32)).abs().max().item < 1e-3)
      }
      // An adapter that is gone on from keeps what it has learnt.
      place.recipe.adapter.start = adapter.url.path
      place.recipe.optimizer.learningRate = 5e-3
      let learnt = try #require(try place.train("learnt"))
      place.recipe.adapter.start = learnt.path
      place.recipe.optimizer.learningRate = 1e-9
      let next = try Checkpoint(contentsOf: #require(try place.train("next")))
      let name = "qformer.encoder.layer.0.output_query.dense.weight"
      let largest = try withError { try next.tensor(name).abs().max().item }
      #expect(largest > 1e-3)
    }
  }

  @Test("Stage 1 goes on from an adapter, and only from one of its own kind")
  func stage1FromAdapter() throws {
    try withTemporaryFolder { folder in
      var place = try Place(folder)
      place.recipe.epochs = 30
      place.recipe.validateEvery = 0
      let adapter = try #require(try place.train("first"))
      let (fresh, learnt) = try place.change("first", "itg")
      place.recipe.adapter.start = adapter.path
      place.recipe.imageText.uniformNegatives = 0.5
      place.recipe.epochs = 4
      let next = try #require(try place.train("next"))
      let (continued, _) = try place.change("next", "itg")
      #expect(abs(continued - learnt) < 0.5 * (fresh - learnt), "\(fresh) → \(learnt), then \(continued)")
      #expect(try RunFiles.weights(of: next).keys.sorted() == RunFiles.weights(of: adapter).keys.sorted())
      place.recipe.encoder.imageSize = 28
      place.recipe.adapter.layers = 1
      let smaller = try #require(try place.train("smaller"))
      let written = try AdapterConfiguration(folder: smaller)
      #expect(written.encoder.imageSize == 28 && written.imageText?.qformer.layers == 1)
      place.recipe.encoder.block = 0
      #expect {
        try place.train("other")
      } throws: { error in
        guard case .badRecipe(let file, let reason) = error as? TrainingError else { return false }
        return file == adapter.path && reason.contains("adapter.start")
      }
    }
  }

  @Test("Word alignment resumes bit by bit, finds words, and stage 2 keeps its projection")
  func words() throws {
    try withTemporaryFolder { folder in
      var place = try Place(folder)
      place.recipe.adapter.start = try #require(try place.train("stage1")).path
      place.recipe.objective = .imageWords
      place.recipe.imageWords.minimumCount = 1
      let adapter = try compareInterrupted(place, "words")
      #expect(try AdapterConfiguration(folder: adapter).kind == .imageLanguage)
      place.recipe.epochs = 30
      place.recipe.validation = [place.recipe.train[0]]
      place.recipe.validateEvery = 0
      let learnt = try #require(try place.train("learnt"))
      let (first, last) = try place.change("learnt", "words")
      #expect(last < first * 0.9, "\(first) → \(last)")
      let scores = try #require(try place.metrics("learnt").last)
      let (found, prior) = (scores["words.P@10"] as? Double ?? 0, scores["prior.P@10"] as? Double ?? 100)
      #expect(found > prior, "\(found) against \(prior)")

      // A learning rate near 0: what is written is what stage 2 started from.
      place.recipe.objective = .imageLanguage
      place.recipe.adapter.start = learnt.path
      place.recipe.epochs = 0.3
      place.recipe.optimizer.learningRate = 1e-12
      let next = try #require(try place.train("next"))
      let name = "language_projection.bias"
      #expect(try RunFiles.weights(of: next)[name] == RunFiles.weights(of: learnt)[name])
    }
  }

  @Test("Words count by how few images have them; an image without any spreads over all")
  func wordTargets() {
    // 8 images: token 1 in all of them, 2 in two, 3 in one, 4 in two.
    let captions = [[1, 2, 2, 3], [1, 2, 4], [1, 4], [1], [1], [1], [1], [1]]
    let targets = WordTargets(captions, minimumCount: 2)
    #expect(targets.ids == [2, 4])
    #expect(targets.words([4, 1, 2, 4]) == [0, 1])
    let rows = targets.distributions([[1, 2, 2, 4], [1]]).values(as: Float.self)
    let expected: [Float] = [2.0 / 3, 1.0 / 3, 0.5, 0.5]
    for (found, value) in zip(rows, expected) { #expect(abs(found - value) < 1e-6) }
    #expect(WordTargets(captions, minimumCount: 1).mostFrequent.first == 0)
    // Evenly: token 1 stands in all images and tells nothing, the others count alike.
    let even = WordTargets(captions, minimumCount: 1, weighting: .even)
    #expect(even.ids == [2, 3, 4])
    let alike = even.distributions([[1, 2, 2, 4, 3]]).values(as: Float.self)
    for (found, value) in zip(alike, [0.5, 0.25, 0.25] as [Float]) { #expect(abs(found - value) < 1e-6) }
    // How common words are, by images and by what they count in the targets.
    let counts = WordTargets(captions, minimumCount: 1).logCounts.values(as: Float.self)
    for (found, value) in zip(counts, [2, 1, 2] as [Float]) { #expect(abs(found - value.logarithm) < 1e-6) }
    let shares = WordTargets(captions, minimumCount: 1).logShares.values(as: Float.self)
    let (ofOne, ofTwo) = (Float(8).logarithm - 1, 2 * (Float(4).logarithm - 1))
    #expect(abs(shares[1] - shares[0] - (ofOne / ofTwo).logarithm) < 1e-5 && shares[0] == shares[2])
  }

  @Test("Stage 2 starts from stage 1's adapter and resumes bit by bit; its adapter loads")
  func stage2() throws {
    try withTemporaryFolder { folder in
      var place = try Place(folder)
      place.recipe.epochs = 1
      let start = try #require(try place.train("stage1"))
      place.recipe.objective = .imageLanguage
      place.recipe.epochs = 4
      place.recipe.adapter.start = start.path
      place.recipe.imageLanguage.captionsPerImage = 2
      let adapter = try compareInterrupted(place, "stage2")
      #expect(try AdapterConfiguration(folder: adapter).kind == .imageLanguage)
      let pipeline = try ImageLanguagePipeline(adapter.path, store: place.models.store)
      #expect(try pipeline.describe([TinyPictures.picture(0)]).count == 1)
      // The last validation compares with the blind model and the nearest picture.
      let last = try #require(try place.metrics("stage2-whole").last)
      for key in ["lm.right", "lm.wrong", "ciderD", "blind.ciderD", "nearest.ciderD"] {
        #expect(last[key] as? Double != nil, "\(key)")
      }
      // Pictures of another size give other numbers of features, which a Q-Former does not mind. The last layer may go.
      place.recipe.encoder.imageSize = 28
      place.recipe.adapter.layers = 1
      let smaller = try #require(try place.train("smaller"))
      let written = try AdapterConfiguration(folder: smaller)
      #expect(written.encoder.imageSize == 28 && written.imageLanguage?.qformer.layers == 1)
      #expect(try !RunFiles.weights(of: smaller).keys.contains { $0.contains(".layer.1.") })
      place.recipe.adapter.layers = 3
      #expect {
        try place.train("deeper")
      } throws: {
        "\($0)".contains("adapter.layers is 3, expected 1 … 2")
      }
      place.recipe.adapter.layers = nil
      // A start that reads other features is refused by name.
      place.recipe.encoder.block = 0
      #expect {
        try place.train("other")
      } throws: { error in
        guard case .badRecipe(let file, _) = error as? TrainingError else { return false }
        return file == start.path
      }
    }
  }

  @Test("An adapter has no matching head before matching is trained, which may begin from there")
  func matchingLater() throws {
    try withTemporaryFolder { folder in
      var place = try Place(folder)
      place.recipe.imageText.matchingPart = 0
      let adapter = try #require(try place.train("contrast"))
      #expect(try RunFiles.weights(of: adapter).keys.allSatisfy { !$0.hasPrefix("itm_head") })
      #expect(try place.metrics("contrast").last?["itm.imageToText.R@1"] == nil)
      let pictures = [try TinyPictures.picture(0)]
      let pipeline = try ImageTextPipeline(adapter.path, store: place.models.store)
      let scores = try pipeline.scores(pictures, texts: ["a red bus"])[0]
      #expect(scores[0].itc != nil && scores[0].itm == nil)
      #expect {
        try pipeline.scores(pictures, texts: ["a red bus"], head: .itm)
      } throws: { error in
        guard case .missingPart(let part) = error as? QFormerError else { return false }
        return part.contains("matching head")
      }
      place.recipe.adapter.start = adapter.path
      place.recipe.imageText.matchingPart = 0.5
      let matching = try #require(try place.train("matching"))
      #expect(try RunFiles.weights(of: matching).keys.contains("itm_head.weight"))
      #expect(try place.metrics("matching").last?["itm.imageToText.R@1"] != nil)
      #expect(
        try ImageTextPipeline(matching.path, store: place.models.store)
          .scores(pictures, texts: ["a red bus"])[0][0].itm != nil)
      // What has been trained stays.
      (place.recipe.adapter.start, place.recipe.imageText.matchingPart) = (matching.path, 0)
      let kept = try #require(try place.train("kept"))
      #expect(try RunFiles.weights(of: kept).keys.contains("itm_head.weight"))
    }
  }

  @Test("Captions that are drawn from the model are drawn again when a run is resumed")
  func selfCritical() throws {
    try withTemporaryFolder { folder in
      var place = try Place(folder)
      place.recipe.objective = .imageLanguage
      place.recipe.imageLanguage.selfCritical = Recipe.SelfCritical()
      place.recipe.imageLanguage.selfCritical?.part = 0.5
      _ = try compareInterrupted(place, "critical")
      let metrics = try place.metrics("critical-whole")
      #expect(metrics.first?["drawn.ciderD"] as? Double != nil && metrics.first?["lm"] as? Double != nil)
      place.recipe.imageLanguage.selfCritical?.part = 1
      #expect(try place.train("alone") != nil)
      #expect(try place.metrics("alone").first?["lm"] == nil)
    }
  }

  @Test("Stage 2 learns a few pictures by heart, from the text model alone")
  func stage2Learns() throws {
    try withTemporaryFolder { folder in
      var place = try Place(folder)
      place.recipe.objective = .imageLanguage
      place.recipe.epochs = 30
      place.recipe.patchPart = 1
      place.recipe.validation = []
      place.recipe.checkpointEvery = 1000
      place.recipe.imageLanguage.tokenScale = 0.5
      place.recipe.optimizer.learningRate = 1e-2
      #expect(try place.train("run") != nil)
      let (first, last) = try place.change("run", "lm")
      #expect(last < first, "\(first) → \(last)")
    }
  }

  @Test("A run killed between its last checkpoint and its last validation makes up for it")
  func lostValidation() throws {
    try withTemporaryFolder { folder in
      var place = try Place(folder)
      place.recipe.epochs = 1
      _ = try place.train("run")
      let metrics = try place.metrics("run")
      #expect(metrics.last?["validation"] as? String == "data-val")
      let file = folder.appendingPathComponent("run/metrics.jsonl")
      let lines = try String(contentsOf: file, encoding: .utf8).split(separator: "\n")
      try Data((lines.dropLast().joined(separator: "\n") + "\n").utf8).write(to: file)
      try FileManager.default.removeItem(at: folder.appendingPathComponent("run/adapter"))
      #expect(try place.train("run", resumes: true) != nil)
      #expect(try place.metrics("run") == metrics)
    }
  }

  @Test("What cannot be trained says why")
  func refused() throws {
    try withTemporaryFolder { folder in
      var place = try Place(folder)
      place.recipe.adapter.positions = 49
      #expect {
        try place.train("a")
      } throws: { error in
        guard case .badRecipe(_, let reason) = error as? TrainingError else { return false }
        return reason.contains("49") && reason.contains("48")
      }
      place.recipe.adapter.positions = 32
      place.recipe.batchSize = 13
      #expect(throws: DataError.self) { try place.train("b") }
      place.recipe.batchSize = 4
      place.recipe.optimizer.learningRate = 0.9
      place.recipe.optimizer.clip = 1e30
      place.recipe.optimizer.warmup = 0
      place.recipe.epochs = 30
      place.recipe.imageText.temperature = 1e-30
      place.recipe.imageText.minimumTemperature = 1e-30
      #expect {
        try place.train("c")
      } throws: { error in
        guard case .diverged = error as? TrainingError else { return false }
        return true
      }
      place.recipe.train = []
      #expect(throws: TrainingError.self) { try place.train("d") }
    }
  }
}

extension Float {
  fileprivate var logarithm: Float { Float(Foundation.log(Double(self))) }
}
