import Backbones
import Checkpoints
import Foundation
import Media
import Pipelines
import QFormer
import TestSupport
import Testing
import Torch
import TorchNN

/// Models of the published architectures, there and back. What transformers makes of the folders is checked by
/// `Tests/Fixtures/published/verify_conversion.py`.
@Suite("Converting published models")
struct ConversionTests {
  private func published(_ name: String) -> URL { fixtures.appendingPathComponent("published/\(name)") }

  private func expectEqual(_ found: Checkpoint, _ expected: Checkpoint, _ names: [String]? = nil) throws {
    let names = names ?? expected.names
    #expect(Set(found.names).symmetricDifference(names).sorted() == [])
    for name in names {
      let (tensor, truth) = (try found.tensor(name), try expected.tensor(name))
      #expect(tensor.dtype == truth.dtype && tensor.shape == truth.shape && tensor.bytes() == truth.bytes(), "\(name)")
    }
  }

  private func config(_ folder: URL) throws -> [String: Any] {
    let data = try Data(contentsOf: folder.appendingPathComponent("config.json"))
    return try #require(try JSONSerialization.jsonObject(with: data) as? [String: Any])
  }

  @Test(
    "To an adapter folder and back, nothing is lost",
    arguments: [
      "blip2-opt", "blip2-t5", "blip2-itm", "instructblip-t5", "instructblip-llama", "instructblip-video",
    ])
  func roundTrip(_ name: String) throws {
    try withTemporaryFolder { folder in
      let (adapter, back) = (folder.appendingPathComponent("adapter"), folder.appendingPathComponent("back"))
      let source = published(name)
      let there = try ModelConversion(source).write(.qformer, to: adapter)
      #expect(there.load.isStrict && there.leftOut.isEmpty && there.load.initialised.isEmpty)
      let names = Set(try Checkpoint(contentsOf: adapter).names)
      #expect(!names.contains { $0.hasPrefix("vision_model.e") || $0.hasPrefix("language_model.") })
      try ModelConversion(adapter).write(.huggingFace, to: back)
      try expectEqual(Checkpoint(contentsOf: back), Checkpoint(contentsOf: source))
      // Every field that transformers wrote is there again, but for those of no use to a computation.
      let (found, expected) = (try config(back), try config(source))
      for part in ["vision_config", "text_config"] where name != "blip2-itm" || part == "vision_config" {
        #expect(found[part] as? NSDictionary == expected[part] as? NSDictionary, "\(part)")
      }
      for key in ["architectures", "model_type", "num_query_tokens", "image_token_index", "video_token_index"] {
        if name == "blip2-itm", key == "image_token_index" { continue }
        #expect(found[key] as? NSObject == expected[key] as? NSObject, "\(key)")
      }
      // transformers refuses 1 where it wants 1.0: numbers keep their kind.
      let text = try String(contentsOf: back.appendingPathComponent("config.json"), encoding: .utf8)
      #expect(text.contains("\"attention_dropout\": 0.0,") && text.contains("\"qkv_bias\": true"))
      #expect(text.contains("\"layer_norm_eps\": 1e-06") && text.contains("\"num_query_tokens\": 5,"))
      let decode = { (url: URL) in
        try JSONDecoder().decode(
          BLIPConfiguration.self, from: Data(contentsOf: url.appendingPathComponent("config.json")))
      }
      let (one, other) = (try decode(back), try decode(source))
      #expect(one.vision == other.vision && one.qformer == other.qformer && one.language == other.language)
      #expect(one.architecture == other.architecture && one.contrastiveSize == other.contrastiveSize)
      #expect(!FileManager.default.fileExists(atPath: folder.appendingPathComponent("adapter.partial").path))
      #expect(try FileManager.default.contentsOfDirectory(atPath: folder.path).sorted() == ["adapter", "back"])
    }
  }

  @Test(
    "An adapter folder writes what the published folder writes",
    arguments: ["blip2-opt", "blip2-t5", "instructblip-t5", "instructblip-llama"])
  func sameTexts(_ name: String) throws {
    try withTemporaryFolder { folder in
      let adapter = folder.appendingPathComponent("adapter")
      try ModelConversion(published(name)).write(.qformer, to: adapter)
      let (model, truth) = (
        try ImageLanguagePipeline(adapter.path), try ImageLanguagePipeline(published(name).path)
      )
      #expect(model.questions == truth.questions)
      #expect(model.questions.prompt("why?") == (name.hasPrefix("instruct") ? "why?" : "Question: why? Answer:"))
      let pictures = try (0..<3).map { try TinyPictures.picture($0) }
      for prompt in [nil, "Question: what is the dog doing? Answer:"] {
        var options = GenerationOptions()
        options.maxTokens = 8
        #expect(
          try model.describe(pictures, prompt: prompt, options: options)
            == truth.describe(pictures, prompt: prompt, options: options))
        options.beams = 3
        options.repetitionPenalty = 1.5
        #expect(
          try model.describe(pictures, prompt: prompt, options: options)
            == truth.describe(pictures, prompt: prompt, options: options))
      }
    }
  }

  @Test("An adapter folder scores what the published folder scores")
  func sameScores() throws {
    try withTemporaryFolder { folder in
      let adapter = folder.appendingPathComponent("adapter")
      try ModelConversion(published("blip2-itm")).write(.qformer, to: adapter)
      let pictures = try (0..<2).map { try TinyPictures.picture($0) }
      let texts = ["a dog runs on the beach", "two red buses"]
      let found = try ImageTextPipeline(adapter.path).scores(pictures, texts: texts)
      #expect(try found == ImageTextPipeline(published("blip2-itm").path).scores(pictures, texts: texts))
    }
  }

  @Test("A template is not lost on the way to a published model: it is refused, as it is beside published prompts")
  func template() throws {
    try withTemporaryFolder { folder in
      let adapter = folder.appendingPathComponent("adapter")
      try ModelConversion(published("blip2-opt")).write(.qformer, to: adapter)
      var configuration = try AdapterConfiguration(folder: adapter)
      configuration.language?.template = try PromptTemplate("dog => A dog.\n{image} => {text}")
      try configuration.write(to: adapter)
      for (call, words) in [
        ({ _ = try ModelConversion(adapter) }, "no published model has one"),
        ({ _ = try ImageLanguagePipeline(adapter.path) }, "expected one of them"),
      ] as [(() throws -> Void, String)] {
        let error = #expect(throws: PipelineError.self) { try call() }
        #expect(error?.description.contains(words) == true, "\(String(describing: error))")
      }
    }
  }

  @Test("Shards: an index, and the same tensors")
  func shards() throws {
    try withTemporaryFolder { folder in
      let parts = folder.appendingPathComponent("parts")
      let report = try ModelConversion(published("blip2-opt")).write(.huggingFace, to: parts, shardSize: 60_000)
      let shards = report.files.filter { $0.hasSuffix(".safetensors") }
      #expect(shards.count >= 3 && shards.first == "model-00001-of-0000\(shards.count).safetensors")
      #expect(report.files.contains("model.safetensors.index.json") && report.files.contains("tokenizer.json"))
      for shard in shards {
        let size = try FileManager.default.attributesOfItem(atPath: parts.appendingPathComponent(shard).path)[.size]
        #expect((size as? Int ?? 0) < 80_000)
      }
      try expectEqual(Checkpoint(contentsOf: parts), Checkpoint(contentsOf: published("blip2-opt")))
      #expect(try config(parts)["dtype"] as? String == "float16")
    }
  }

  @Test("An adapter trained here on a tower of BLIP-2 becomes a published model; one on DINOv2 is refused by name")
  func ownAdapters() throws {
    try withTemporaryFolder { folder in
      let models = try TinyModels(in: folder)
      let whole = folder.appendingPathComponent("whole")
      try ModelConversion(published("blip2-opt")).write(.qformer, to: whole)
      var encoder = AdapterConfiguration.Encoder()
      // One block less than the tower has.
      (encoder.model, encoder.block, encoder.imageSize) = (whole.appendingPathComponent("encoder").path, 1, 28)
      var sizes = TinyModels.imageText
      sizes.qformer.encoderHiddenSize = 20
      let parameters = Parameters()
      _ = try ImageTextQFormer(sizes, ParameterScope(FreshParameters(seed: 1), parameters: parameters))
      let adapter = folder.appendingPathComponent("adapter")
      try AdapterFolder.write(
        AdapterConfiguration(imageText: sizes, encoder: encoder, text: TinyModels.text),
        parameters.all.filter { $0.name != ImageTextPipeline.wordTable }, to: adapter)
      let out = folder.appendingPathComponent("out")
      let report = try ModelConversion(adapter, store: models.store).write(.huggingFace, to: out)
      #expect(report.architecture == .blip2Matching)
      #expect(Set(report.leftOut).isSuperset(of: ["temp", "cls.predictions.bias", "embeddings.decoder_token"]))
      let names = try Checkpoint(contentsOf: out).names
      #expect(names.contains(ImageTextPipeline.wordTable) && !names.contains("temp"))
      #expect(names.filter { $0.hasSuffix("self_attn.qkv.weight") }.count == 2)
      let pictures = [try TinyPictures.picture(0)]
      let (one, other) = (
        try ImageTextPipeline(out.path).scores(pictures, texts: ["a red dog"])[0][0],
        try ImageTextPipeline(adapter.path, store: models.store).scores(pictures, texts: ["a red dog"])[0][0]
      )
      #expect(abs((one.itm ?? 0) - (other.itm ?? 1)) < 1e-5 && abs((one.itc ?? 0) - (other.itc ?? 1)) < 1e-5)

      let error = #expect(throws: PipelineError.self) {
        try ModelConversion(models.adapters.appendingPathComponent("image-match"), store: models.store)
      }
      #expect(error?.description.contains("found model_type dinov2") == true, "\(String(describing: error))")
    }
  }
}
