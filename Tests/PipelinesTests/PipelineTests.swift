import Backbones
import Checkpoints
import Foundation
import Media
import Pipelines
import QFormer
import TestSupport
import Testing
import Torch

@Suite("Pipelines on tiny models")
struct PipelineTests {
  private let images: [Image]

  init() throws { images = try (0..<3).map { try TinyPictures.picture($0, width: 30 + 7 * $0, height: 33) } }

  @Test("Features: one row a picture, what it gives alone; mirrored as if the picture were")
  func features() throws {
    try withTemporaryFolder { folder in
      let encoder = try ImageEncoder(TinyModels.encoder, store: try TinyModels(in: folder).store)
      #expect(encoder.width == TinyModels.encoderWidth)
      #expect(encoder.tokens == TinyModels.imageTokens)
      let features = try encoder.features(images)
      #expect(features.shape == [3, TinyModels.imageTokens, TinyModels.encoderWidth])
      #expect(!features.requiresGrad)
      for row in 0..<3 {
        expectClose(try encoder.features([images[row]]).select(0, 0), features.select(0, row), "row \(row)")
      }
      #expect(relativeError(features.select(0, 0), features.select(0, 1)) > 0.01)
      // A picture of the encoder's own size can be mirrored without resampling.
      let picture = try TinyPictures.picture(6, width: 56, height: 56)
      var mirrored = picture
      for y in 0..<56 {
        for x in 0..<56 {
          for channel in 0..<3 {
            mirrored.pixels[(y * 56 + x) * 3 + channel] = picture.pixels[(y * 56 + 55 - x) * 3 + channel]
          }
        }
      }
      expectClose(try encoder.features([picture], flipped: true), try encoder.features([mirrored]))
      #expect(relativeError(try encoder.features([picture]), try encoder.features([mirrored])) > 0.01)
    }
  }

  @Test("An encoder that cannot be is refused before anything runs")
  func badEncoder() throws {
    try withTemporaryFolder { folder in
      let store = try TinyModels(in: folder).store
      for (size, block) in [(57, 1), (0, 1), (1 << 20, 1), (56, 2), (56, -1)] {
        var configuration = TinyModels.encoder
        (configuration.imageSize, configuration.block) = (size, block)
        #expect(throws: PipelineError.self, "\(size) \(block)") { try ImageEncoder(configuration, store: store) }
      }
    }
  }

  @Test("Scores: a batch gives what each pair gives alone, in the order of images and texts")
  func scores() throws {
    try withTemporaryFolder { folder in
      let pipeline = try ImageTextPipeline(store: try TinyModels(in: folder).store)
      let texts = ["a red dog", "a", "the thing on white number 3 and much more that is cut"]
      let scores = try pipeline.scores(images, texts: texts)
      #expect(scores.count == 3 && scores.allSatisfy { $0.count == 3 })
      for (row, image) in images.enumerated() {
        for (column, text) in texts.enumerated() {
          let alone = try #require(try pipeline.scores([image], texts: [text]).first?.first)
          let (itc, itm) = (try #require(alone.itc), try #require(alone.itm))
          #expect(abs(itc - (scores[row][column].itc ?? .nan)) < 1e-5)
          #expect(abs(itm - (scores[row][column].itm ?? .nan)) < 1e-5)
          #expect((-1.00001...1.00001).contains(itc))
          #expect((0...1).contains(itm))
        }
      }
      // The definitions, from the adapter's own parts.
      let text = pipeline.texts.batch([texts[0]])
      let parts = try withNoGrad {
        let image = try pipeline.adapter.qformer.imageKeyValues(
          pipeline.adapter.imageEmbeds(pipeline.encoder.features([images[1]])))
        let queries = pipeline.adapter.imageFeatures(pipeline.adapter.qformer.readImage(image).hidden)
        let word = pipeline.adapter.textFeature(try pipeline.adapter.qformer.readText(text.ids, mask: text.mask))
        let pair = try pipeline.adapter.qformer.readImageAndText(image, text.ids, mask: text.mask).hidden
        return (
          itc: (queries.select(0, 0) * word).sum(1).max().item,
          logits: try pipeline.adapter.matchingLogits(pair).values(as: Double.self)
        )
      }
      #expect(abs(parts.itc - (scores[1][0].itc ?? .nan)) < 1e-5)
      let match = 1 / (1 + exp(parts.logits[0] - parts.logits[1]))
      #expect(abs(match - (scores[1][0].itm ?? .nan)) < 1e-5)
    }
  }

  @Test("Only the scores that are asked for are computed")
  func heads() throws {
    try withTemporaryFolder { folder in
      let pipeline = try ImageTextPipeline(store: try TinyModels(in: folder).store)
      let both = try pipeline.scores(images, texts: ["a dog"])
      let itc = try pipeline.scores(images, texts: ["a dog"], head: .itc)
      let itm = try pipeline.scores(images, texts: ["a dog"], head: .itm)
      #expect(itc.map { $0[0].itm } == [nil, nil, nil])
      #expect(itm.map { $0[0].itc } == [nil, nil, nil])
      #expect(itc.map { $0[0].itc } == both.map { $0[0].itc })
      #expect(itm.map { $0[0].itm } == both.map { $0[0].itm })
      #expect(try pipeline.scores([], texts: ["a"]).isEmpty)
      #expect(try pipeline.scores(images, texts: []).map(\.count) == [0, 0, 0])
    }
  }

  @Test("Answers: a batch gives what each picture gives alone, for captions and for prompts")
  func answers() throws {
    try withTemporaryFolder { folder in
      let pipeline = try ImageLanguagePipeline(store: try TinyModels(in: folder).store)
      var options = GenerationOptions()
      options.maxTokens = 8
      for (prompt, beams) in [(nil, 1), ("a red", 1), (nil, 2)] {
        options.beams = beams
        let together = try pipeline.describe(images, prompt: prompt, options: options)
        #expect(together.count == 3)
        for (image, answer) in zip(images, together) {
          #expect(try pipeline.describe([image], prompt: prompt, options: options) == [answer])
          #expect((1...8).contains(answer.tokenIDs.count))
          #expect(answer.text == pipeline.language.text(answer.tokenIDs))
        }
      }
      let prompts: [String?] = ["a red", nil, "the small blue circle is"]
      options.beams = 1
      let mixed = try pipeline.describe(images, prompts: prompts, options: options)
      for index in 0..<3 {
        let alone = try pipeline.describe([images[index]], prompt: prompts[index], options: options)
        #expect([mixed[index]] == alone)
      }
      #expect(try pipeline.describe([], options: options).isEmpty)
    }
  }

  @Test("Beams: as many as the adapter asks for, unless told otherwise, sampled or watched")
  func usualBeams() throws {
    try withTemporaryFolder { folder in
      let models = try TinyModels(in: folder)
      let file = try models.store.adapter("image-caption").appendingPathComponent("config.json")
      func write(beams: Int) throws {
        var fields = try #require(try JSONSerialization.jsonObject(with: Data(contentsOf: file)) as? [String: Any])
        var language = try #require(fields["language"] as? [String: Any])
        language["beams"] = beams
        fields["language"] = language
        try JSONSerialization.data(withJSONObject: fields).write(to: file)
      }
      let plain = try ImageLanguagePipeline(store: models.store)
      #expect(plain.language.beams == nil)
      var options = GenerationOptions()
      (options.maxTokens, options.repetitionPenalty) = (12, 3)
      func texts(_ pipeline: ImageLanguagePipeline, _ beams: Int?, temperature: Double = 0) throws -> [[Int]] {
        (options.beams, options.temperature) = (beams, temperature)
        return try pipeline.describe(images, options: options).map(\.tokenIDs)
      }
      let (greedy, several) = (try texts(plain, nil), try texts(plain, 24))
      #expect(greedy == (try texts(plain, 1)) && greedy != several)
      let sampled = try texts(plain, 1, temperature: 2)
      try write(beams: 24)
      let pipeline = try ImageLanguagePipeline(store: models.store)
      #expect(try texts(pipeline, nil) == several)
      #expect(try texts(pipeline, 1) == greedy)
      #expect(try texts(pipeline, nil, temperature: 2) == sampled)
      options.temperature = 0
      #expect(try pipeline.describe(images, options: options, onText: { _, _ in }).map(\.tokenIDs) == greedy)
      try write(beams: 65)
      #expect {
        try ImageLanguagePipeline(store: models.store)
      } throws: { "\($0)".contains("language.beams: expected 1 … 64, found 65") }
    }
  }

  @Test("The language model reads image tokens, its begin token, the prompt")
  func order() throws {
    try withTemporaryFolder { folder in
      let pipeline = try ImageLanguagePipeline(store: try TinyModels(in: folder).store)
      #expect(pipeline.language.beginID == 1500)
      #expect(pipeline.language.endIDs == [1501])
      let tokens = try pipeline.languageTokens(features: pipeline.encoder.features([images[0]]))
      #expect(tokens.shape == [1, TinyModels.queries, TinyModels.languageWidth])
      let prompt = pipeline.language.ids("a red")
      let llama = try #require(pipeline.language.model.causal)
      let first = withNoGrad {
        let words = llama.embed(Tensor([1500] + prompt)).unsqueezed(0)
        let states = llama.forward(inputsEmbeds: .cat([tokens, words], 1), attentionMask: nil, cache: nil)
        return llama.head(states.select(1, -1)).argmax(1).intItem
      }
      var options = GenerationOptions()
      options.maxTokens = 1
      #expect(try pipeline.language.describe(tokens: tokens, prompt: "a red", options: options)[0].tokenIDs == [first])
      #expect(try pipeline.describe([images[0]], prompt: "a red", options: options)[0].tokenIDs == [first])
    }
  }

  @Test("A template's words stand around picture and text, and its end token ends the text")
  func template() throws {
    try withTemporaryFolder { folder in
      let models = try TinyModels(in: folder)
      let adapter = models.adapters.appendingPathComponent("image-caption")
      var configuration = try AdapterConfiguration(folder: adapter)
      configuration.language?.template = try PromptTemplate("a red circle => one\n{image} => {text}!")
      try configuration.write(to: adapter)
      let pipeline = try ImageLanguagePipeline(store: models.store)
      let language = pipeline.language
      #expect(language.openingIDs == language.ids(" =>") && !language.openingIDs.isEmpty)
      #expect(language.promptIDs("a red") == language.openingIDs + language.ids(" a red"))
      let end = try #require(language.ids("!").first)
      #expect(language.endIDs == [end, 1501])
      #expect(language.targetIDs("a red", maximum: 32) == language.ids(" a red") + [end])
      #expect(language.targetIDs("a red", maximum: 2) == [language.ids(" a red")[0], end])
      let tokens = try pipeline.languageTokens(features: pipeline.encoder.features([images[0]]))
      let llama = try #require(language.model.causal)
      let ids = language.ids("a red circle => one\n")
      #expect(language.prefix?.length == ids.count)
      let first = withNoGrad {
        let row = Tensor.cat(
          [llama.embed(Tensor(ids)).unsqueezed(0), tokens, llama.embed(Tensor(language.promptIDs("a"))).unsqueezed(0)],
          1)
        return llama.head(llama.forward(inputsEmbeds: row, attentionMask: nil, cache: nil).select(1, -1)).argmax(1)
          .intItem
      }
      var options = GenerationOptions()
      options.maxTokens = 1
      #expect(try pipeline.describe([images[0]], prompt: "a", options: options)[0].tokenIDs == [first])
    }
  }

  @Test(
    "A template that lacks a part, or does not fit the model, is refused",
    arguments: [
      ("{image}{text}", "nothing between them"), ("{image} => ", "{text} 0 times"), ("{text} => {image} ", "{text}"),
      ("{image} {image} => {text}", "{image} 2 times"), ("{image} => {text} {text}", "{text} 2 times"),
      ("{image} => {text} and so on", "one token after {text}"),
    ])
  func badTemplate(pattern: String, words: String) throws {
    try withTemporaryFolder { folder in
      let models = try TinyModels(in: folder)
      do {
        _ = try LanguageModel(
          folder: models.frozen("smollm2-135m-instruct"), template: try PromptTemplate(pattern))
        Issue.record("nothing thrown")
      } catch PipelineError.badInput(let reason) {
        #expect(reason.contains(words), "\(reason)")
      }
      let json = Data("[\"\(pattern)\"]".utf8)
      if !words.hasPrefix("one token") {
        #expect(throws: DecodingError.self) { try JSONDecoder().decode([PromptTemplate].self, from: json) }
      }
    }
  }

  @Test("Text comes while it is generated; the last piece is the answer")
  func streaming() throws {
    try withTemporaryFolder { folder in
      let pipeline = try ImageLanguagePipeline(store: try TinyModels(in: folder).store)
      var options = GenerationOptions()
      options.maxTokens = 6
      var pieces: [[String]] = [[], [], []]
      let answers = try pipeline.describe(images, options: options) { row, text in pieces[row].append(text) }
      for (row, answer) in answers.enumerated() {
        #expect(pieces[row].count == answer.tokenIDs.count)
        #expect(pieces[row].last == answer.text)
      }
    }
  }

  @Test("Attention of every query sums to 1; the maps are its mean over layers, heads and queries")
  func attention() throws {
    try withTemporaryFolder { folder in
      let pipeline = try ImageLanguagePipeline(store: try TinyModels(in: folder).store)
      let features = try pipeline.encoder.features(images)
      let layers = try withNoGrad {
        try pipeline.adapter.readImage(features, keepsAttention: true).crossAttention
      }
      // Layer 0 alone has cross-attention: every second layer of two.
      #expect(layers.map(\.shape) == [[3, 2, TinyModels.queries, TinyModels.imageTokens]])
      let sums = try #require(layers.first).sum(3)
      expectClose(sums, .ones(sums.shape))
      let maps = try pipeline.attention(features: features)
      #expect(maps.map(\.count) == [16, 16, 16])
      for (row, map) in maps.enumerated() {
        let expected = layers[0].select(0, row).reshaped(-1, TinyModels.imageTokens).mean(0)
        expectClose(Tensor(map), expected.slice(0, 1))
        let classToken = expected.select(0, 0).item
        #expect(abs(Double(map.reduce(0, +)) + classToken - 1) < 1e-5)
      }
    }
  }

  @Test("Adapters of the other kind, and widths that do not fit, are refused by name")
  func mismatch() throws {
    try withTemporaryFolder { folder in
      let models = try TinyModels(in: folder)
      #expect { try ImageTextPipeline("image-caption", store: models.store) } throws: { error in
        guard case .wrongModel(_, let expected, let found) = error as? PipelineError else { return false }
        return expected.contains("compares images with texts") && found.contains("qformer_image_language")
      }
      #expect { try ImageLanguagePipeline("image-match", store: models.store) } throws: { error in
        guard case .wrongModel = error as? PipelineError else { return false }
        return true
      }
      var wide = TinyModels.imageLanguage
      wide.languageSize = 40
      let other = folder.appendingPathComponent("other")
      try TinyModels.writeCaption(to: other, configuration: wide)
      #expect { try ImageLanguagePipeline(other.path, store: models.store) } throws: { error in
        guard case .badConfiguration(let file, let reason) = error as? PipelineError else { return false }
        return file == other.path && reason.contains("40") && reason.contains("32")
      }
      var configuration = try AdapterConfiguration(folder: models.adapters.appendingPathComponent("image-match"))
      configuration.text?.maximumLength = 33
      try configuration.write(to: models.adapters.appendingPathComponent("image-match"))
      #expect { try ImageTextPipeline(store: models.store) } throws: { error in
        guard case .badConfiguration(_, let reason) = error as? PipelineError else { return false }
        return reason.contains("max_length")
      }
    }
  }

  @Test("Missing and damaged weights are refused by name")
  func damaged() throws {
    try withTemporaryFolder { folder in
      let models = try TinyModels(in: folder)
      let file = models.adapters.appendingPathComponent("image-caption/model.safetensors")
      let whole = try Data(contentsOf: file)
      try whole.dropLast(10).write(to: file)
      #expect { try ImageLanguagePipeline(store: models.store) } throws: { error in
        guard case .malformed(let name, _, _) = error as? CheckpointError else { return false }
        return name == file.path
      }
      try whole.write(to: file)
      let kept = try Checkpoint(contentsOf: file)
      try SafetensorsFile.write(
        try kept.names.filter { $0 != "language_projection.bias" }.map { ($0, try kept.tensor($0).cloned()) }, to: file)
      #expect { try ImageLanguagePipeline(store: models.store) } throws: { error in
        guard case .mismatch(let report) = error as? CheckpointError else { return false }
        return report.missing == ["language_projection.bias"]
      }
      try FileManager.default.removeItem(at: models.frozen("smollm2-135m-instruct"))
      #expect { try ImageLanguagePipeline(store: models.store) } throws: { error in
        guard case .notFetched(let model, _, _) = error as? PipelineError else { return false }
        return model == "smollm2-135m-instruct"
      }
    }
  }
}
