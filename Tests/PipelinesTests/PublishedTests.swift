import Backbones
import Foundation
import Media
import Pipelines
import QFormer
import TestSupport
import Testing
import Tokenizers
import Torch

/// Small random models of every published architecture, beside what transformers computes with them.
@Suite("Published models")
struct PublishedTests {
  /// One row of `expected.json`.
  private struct Case: Decodable {
    let prompt: String?
    let greedy: [[Int]]
    let beams: [[Int]]
    let repetition: [[Int]]
  }

  private struct Words: Decodable {
    var prompts: [String]?
    var cases: [Case]?
    var texts: [String]?
  }

  /// A fixture folder.
  private struct Published {
    let folder: URL
    let tensors: Fixture
    let words: Words

    init(_ name: String) throws {
      folder = fixtures.appendingPathComponent("published/\(name)")
      tensors = try Fixture("published/\(name)/expected.safetensors")
      words = try JSONDecoder().decode(
        Words.self, from: Data(contentsOf: folder.appendingPathComponent("expected.json")))
    }

    /// The pictures, before any processing.
    func images() throws -> [Image] {
      let bytes = tensors["pictures"]  // uint8 [3, H, W, 3]
      return try (0..<bytes.size(0)).map { index in
        let picture = bytes.select(0, index)
        return try Image(
          width: picture.size(1), height: picture.size(0), pixels: picture.contiguous().values(as: UInt8.self))
      }
    }
  }

  private func tag(_ item: Case, _ words: Words) -> String {
    item.prompt.flatMap { words.prompts?.firstIndex(of: $0) }.map(String.init) ?? "none"
  }

  @Test(
    "Pictures, prompts and ids equal transformers'",
    arguments: [
      "blip2-opt", "blip2-t5", "instructblip-t5", "instructblip-llama",
    ])
  func writing(_ name: String) throws {
    let published = try Published(name)
    let pipeline = try ImageLanguagePipeline(published.folder.path)
    let images = try published.images()
    let features = try pipeline.encoder.features(images)
    let embeds = withNoGrad { pipeline.adapter.imageEmbeds(features) }
    expectClose(embeds, published.tensors["image_embeds"], relative: 2e-5, "\(name) image_embeds")
    for item in try #require(published.words.cases) {
      let tag = tag(item, published.words)
      let prompts = Array(repeating: item.prompt, count: images.count)
      let tokens = try pipeline.languageTokens(features: features, prompts: prompts)
      expectClose(tokens, published.tensors["language_tokens.\(tag)"], relative: 2e-5, "\(name) tokens \(tag)")
      let read = try pipeline.adapter.readImage(
        features, text: pipeline.instruction(prompts, count: images.count))
      expectClose(
        read.hidden.detached(), published.tensors["query_output.\(tag)"], relative: 2e-5, "\(name) queries \(tag)")
      let start = pipeline.language.promptIDs(item.prompt)
      let logits = withNoGrad {
        let words = pipeline.language.model.embed(Tensor(start)).unsqueezed(0).expanded(images.count, -1, -1)
        return pipeline.language.model.read(inputsEmbeds: .cat([tokens, words], 1), attentionMask: nil).logits
      }
      expectClose(logits, published.tensors["logits.\(tag)"], relative: 2e-5, "\(name) logits \(tag)")

      var options = GenerationOptions()
      options.maxTokens = 8
      #expect(try pipeline.describe(images, prompt: item.prompt, options: options).map(\.tokenIDs) == item.greedy)
      for (index, image) in images.enumerated() {
        let alone = try pipeline.describe([image], prompt: item.prompt, options: options)
        #expect(alone.map(\.tokenIDs) == [item.greedy[index]])
      }
      options.beams = 5
      options.lengthPenalty = 0.7
      #expect(try pipeline.describe(images, prompt: item.prompt, options: options).map(\.tokenIDs) == item.beams)
      options.beams = 3
      options.lengthPenalty = 1
      options.repetitionPenalty = 1.5
      #expect(try pipeline.describe(images, prompt: item.prompt, options: options).map(\.tokenIDs) == item.repetition)
    }
  }

  @Test(
    "Prompts of unequal lengths in a batch: each picture gets what it gets alone",
    arguments: ["blip2-opt", "blip2-t5", "instructblip-t5", "instructblip-llama"])
  func unequalPrompts(_ name: String) throws {
    let published = try Published(name)
    let pipeline = try ImageLanguagePipeline(published.folder.path)
    let images = try published.images()
    let texts = try #require(published.words.prompts)
    let prompts: [String?] = [texts[0], nil, texts[1]]
    for beams in [1, 3] {
      var options = GenerationOptions()
      options.maxTokens = 8
      options.beams = beams
      let together = try pipeline.describe(images, prompts: prompts, options: options)
      for (index, image) in images.enumerated() {
        let alone = try pipeline.describe([image], prompts: [prompts[index]], options: options)
        #expect(together[index] == alone[0], "\(beams) beams, picture \(index)")
      }
    }
  }

  @Test("A clip's tokens are those of its frames behind each other, as in transformers")
  func video() throws {
    let published = try Published("instructblip-video")
    let pipeline = try ImageLanguagePipeline(published.folder.path)
    let images = try published.images()
    let clips = [images, images.reversed()]
    for item in try #require(published.words.cases) {
      let tag = tag(item, published.words)
      let features = try Tensor.stack(clips.map { try pipeline.encoder.features($0) })  // [B, T, N, Dv]
      let tokens = try pipeline.languageTokens(features: features, prompts: [item.prompt, item.prompt])
      expectClose(tokens, published.tensors["language_tokens.\(tag)"], relative: 2e-5, "tokens \(tag)")
      var options = GenerationOptions()
      options.maxTokens = 8
      #expect(try pipeline.describe(clips: clips, prompt: item.prompt, options: options).map(\.tokenIDs) == item.greedy)
    }
    #expect(throws: PipelineError.badInput("a clip without frames")) { try pipeline.describe(clips: [[]]) }
  }

  @Test("Contrastive and matching scores equal transformers'")
  func matching() throws {
    let published = try Published("blip2-itm")
    let pipeline = try ImageTextPipeline(published.folder.path)
    let texts = try #require(published.words.texts)
    let scores = try pipeline.scores(published.images(), texts: texts)
    for (name, value) in [("itc", \ImageTextPipeline.Score.itc), ("itm", \.itm)] {
      let expected = published.tensors[name].values(as: Float.self)  // [3, 2]
      for (index, score) in scores.flatMap({ $0 }).enumerated() {
        let found = try #require(score[keyPath: value])
        #expect(abs(found - Double(expected[index])) < 2e-5, "\(name) \(index): \(found), expected \(expected[index])")
      }
    }
  }

  @Test("A folder says what it is; the wrong pipeline and unknown architectures are named")
  func kinds() throws {
    #expect(try ModelFolder(Published("blip2-itm").folder).comparesTexts)
    #expect(try ModelFolder(Published("instructblip-t5").folder).name == "InstructBlipForConditionalGeneration")
    #expect(throws: PipelineError.self) { try ImageTextPipeline(Published("blip2-opt").folder.path) }
    #expect(throws: PipelineError.self) { try ImageLanguagePipeline(Published("blip2-itm").folder.path) }
    try withTemporaryFolder { folder in
      let file = folder.appendingPathComponent("config.json")
      try Data(#"{"model_type": "blip-2", "architectures": ["Blip2Model"]}"#.utf8).write(to: file)
      #expect {
        try ModelFolder(folder)
      } throws: { error in
        "\(error)".contains("Blip2Model") && "\(error)".contains("Blip2ForImageTextRetrieval")
      }
      try Data(#"{"model_type": "clip"}"#.utf8).write(to: file)
      #expect {
        try ModelFolder(folder)
      } throws: { error in
        "\(error)".contains("clip") && "\(error)".contains("instructblip")
      }
    }
  }

  /// LibTorch alone would say "index out of range in self", and nobody would know of what.
  @Test("A tokenizer with more words than the model's table is named with the folder and the token")
  func otherTokenizers() throws {
    try withTemporaryFolder { folder in
      for (name, place, kind) in [
        ("blip2-opt", "tokenizer.json", "byte-bpe"),
        ("instructblip-t5", "qformer_tokenizer/tokenizer.json", "word-piece"),
        ("blip2-itm", "tokenizer.json", "word-piece"),
      ] {
        let model = folder.appendingPathComponent(name)
        try FileManager.default.copyItem(at: fixtures.appendingPathComponent("published/\(name)"), to: model)
        // The links of the copied folder lead nowhere.
        for (file, kind) in [("tokenizer.json", name == "blip2-itm" ? "word-piece" : "byte-bpe"), (place, kind)] {
          let url = model.appendingPathComponent(file)
          try? FileManager.default.removeItem(at: url)
          try FileManager.default.copyItem(
            at: fixtures.appendingPathComponent("tokenizers/\(kind)/tokenizer.json"), to: url)
        }
        var text = try String(contentsOf: model.appendingPathComponent(place), encoding: .utf8)
        let end = try #require(text.range(of: #"],"normalizer""#))
        let count = try Tokenizer(contentsOf: model.appendingPathComponent(place)).vocabularySize
        // More than the spare rows of any table here.
        let more = (0..<8).map { number in
          #",{"id":\#(count + number),"content":"<more\#(number)>","single_word":false,"lstrip":false,"rstrip":false,"#
            + #""normalized":false,"special":true}"#
        }
        text.insert(contentsOf: more.joined(), at: end.lowerBound)
        try Data(text.utf8).write(to: model.appendingPathComponent(place))
        let image = try Image(width: 28, height: 28, pixels: Array(repeating: 90, count: 28 * 28 * 3))
        #expect {
          if name == "blip2-itm" {
            _ = try ImageTextPipeline(model.path).scores([image], texts: ["a <more7>"])
          } else {
            _ = try ImageLanguagePipeline(model.path).describe([image], prompt: "a <more7>")
          }
        } throws: { error in
          "\(error)".hasPrefix("\(model.path): the tokenizer gives <more7> the number \(count + 7),")
        }
      }
    }
  }

  /// A folder from elsewhere once could fill the memory through a link, or make the program wait for ever.
  @Test("Configurations that are no small files are refused before they are read", .timeLimit(.minutes(1)))
  func endlessConfigurations() throws {
    try withTemporaryFolder { folder in
      let vast = folder.appendingPathComponent("vast")
      try Data("{".utf8).write(to: vast)
      #expect(truncate(vast.path, 1 << 40) == 0)
      #expect(mkfifo(folder.appendingPathComponent("pipe").path, 0o600) == 0)
      for (target, words) in [
        (vast.path, "too many"), (folder.path + "/pipe", "no regular file"), ("/dev/zero", "no regular file"),
        (folder.path, "no regular file"),
      ] {
        for name in ["config.json", "preprocessor_config.json"] {
          let model = folder.appendingPathComponent(UUID().uuidString)
          try FileManager.default.createDirectory(at: model, withIntermediateDirectories: true)
          let link = model.appendingPathComponent(name)
          try FileManager.default.createSymbolicLink(atPath: link.path, withDestinationPath: target)
          let readers: [() throws -> Void] =
            name == "config.json"
            ? [
              { _ = try ModelFolder(model) }, { _ = try AdapterConfiguration(folder: model) },
              { _ = try readConfiguration(BLIPConfiguration.self, folder: model) },
            ] : [{ _ = try ImageProcessor(folder: model, size: 28) }]
          for read in readers {
            #expect {
              try read()
            } throws: { error in
              "\(error)".contains(link.path) && "\(error)".contains(words)
            }
          }
        }
      }
    }
  }

  @Test("Sparse and old configurations are filled in")
  func sparse() throws {
    let json = """
      {"model_type": "instructblip", "qformer_config": {"model_type": "instructblip_qformer"},
       "vision_config": {"model_type": "instructblip_vision_model"}, "num_query_tokens": 32,
       "text_config": {"model_type": "llama", "bos_token_id": 0, "eos_token_id": 1, "vocab_size": 32001}}
      """
    let configuration = try JSONDecoder().decode(BLIPConfiguration.self, from: Data(json.utf8))
    #expect(configuration.architecture == .instructBLIP)
    #expect(configuration.vision == .giant)
    #expect(configuration.qformer.readsText && configuration.qformer.layerNormEps == 1e-12)
    #expect(configuration.qformer.vocabularySize == 30522 && configuration.qformer.encoderHiddenSize == 1408)
    #expect(configuration.imageTokenID == nil && configuration.beginID == 0)
    // An older revision's name of the switch, which the architecture decides in any case, and no image token.
    for (architecture, reads) in [("Blip2ForImageTextRetrieval", true), ("Blip2ForConditionalGeneration", false)] {
      for key in ["qformer_text_input", "use_qformer_text_input"] {
        for value in [true, false] {
          let old = """
            {"model_type": "blip-2", "architectures": ["\(architecture)"],
             "qformer_config": {"\(key)": \(value), "vocab_size": 30523}}
            """
          let configuration = try JSONDecoder().decode(BLIPConfiguration.self, from: Data(old.utf8))
          #expect(configuration.qformer.readsText == reads && configuration.qformer.vocabularySize == 30523)
          #expect(configuration.imageTokenID == nil && configuration.architecture.rawValue == architecture)
        }
      }
    }
    let plain = try JSONDecoder().decode(BLIPConfiguration.self, from: Data(#"{"model_type": "blip-2"}"#.utf8))
    #expect(plain.architecture == .blip2 && plain.beginID == 2 && !plain.qformer.readsText)
  }
}
