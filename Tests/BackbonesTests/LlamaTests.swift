import Backbones
import Checkpoints
import Foundation
import TestSupport
import Testing
import Torch
import TorchNN

/// A small model of the fixture script.
struct SmallLlama {
  let fixture: Fixture
  let model: Llama
  let parameters: Parameters

  init(_ name: String = "llama") throws {
    fixture = try Fixture("backbones/\(name).safetensors")
    let configuration = try JSONDecoder().decode(
      LlamaConfiguration.self, from: Data(contentsOf: fixtures.appendingPathComponent("backbones/\(name).json")))
    let parameters = Parameters()
    let loaded = try loadModel(
      from: fixture.checkpoint, keyMap: KeyMap([KeyMap.Rule("", "model.")]),
      ignoring: ["right.*", "left.*", "greedy*", "beam*", "ends"]
    ) { scope -> Llama in
      let model = Llama(configuration, scope)
      for (name, tensor) in scope.parameters.all { parameters.insert(name, tensor) }
      return model
    }
    #expect(loaded.report.isStrict)
    self.model = loaded.model
    self.parameters = parameters
  }

  /// The prompts of the fixture script.
  static let prompts = [[5, 17, 3, 44, 20, 9, 31, 8, 50], [12, 7, 29, 33], [40, 41, 2, 11, 58, 6]]

  /// Generated ids, without the −1 that fill rows up.
  func ids(_ name: String) -> [[Int]] {
    let tensor = fixture[name]
    return (0..<tensor.size(0)).map { tensor.select(0, $0).values(as: Int.self).filter { $0 >= 0 } }
  }
}

@Suite struct LlamaTests {
  @Test(arguments: ["llama", "llama_stretched"], ["right", "left"])
  func statesLogitsAndGradientEqualTransformers(name: String, side: String) throws {
    let small = try SmallLlama(name)
    let (fixture, model) = (small.fixture, small.model)
    let mask = fixture["\(side).mask"]
    let valid = mask.to(.float32).unsqueezed(-1)
    let embeds = model.embed(fixture["\(side).ids"]).detached()
    embeds.requiresGrad = true
    let hidden = model.forward(inputsEmbeds: embeds, attentionMask: mask)
    expectClose(hidden * valid, fixture["\(side).hidden"])
    let logits = model.head(hidden)
    expectClose(logits * valid, fixture["\(side).logits"])
    (logits * fixture["\(side).cotangent"]).sum().backward()
    expectClose(try #require(embeds.grad), fixture["\(side).gradient"], relative: 1e-4)
    for (name, tensor) in small.parameters.all { #expect(tensor.grad == nil && !tensor.requiresGrad, "\(name)") }
  }

  @Test func rightPaddingNeedsNoMask() throws {
    let small = try SmallLlama()
    let embeds = small.model.embed(small.fixture["right.ids"])
    let valid = small.fixture["right.mask"].to(.float32).unsqueezed(-1)
    expectClose(small.model.forward(inputsEmbeds: embeds) * valid, small.fixture["right.hidden"])
  }

  @Test(arguments: ["right", "left"], [1, 3]) func cachedStepsEqualOnePass(side: String, chunk: Int) throws {
    for name in ["llama", "llama_stretched"] { try cachedStepsEqualOnePass(name, side, chunk) }
  }

  func cachedStepsEqualOnePass(_ name: String, _ side: String, _ chunk: Int) throws {
    let small = try SmallLlama(name)
    let (ids, mask) = (small.fixture["\(side).ids"], small.fixture["\(side).mask"])
    let cache = KVCache(layers: small.model.layerCount)
    var parts: [Tensor] = []
    for start in stride(from: 0, to: ids.size(1), by: chunk) {
      let part = small.model.embed(ids.narrow(1, start, chunk))
      parts.append(
        small.model.forward(inputsEmbeds: part, attentionMask: mask.narrow(1, start, chunk), cache: cache))
    }
    #expect(cache.length == ids.size(1))
    let valid = mask.to(.float32).unsqueezed(-1)
    expectClose(Tensor.cat(parts, 1) * valid, small.fixture["\(side).hidden"])
  }

  @Test func longCacheGrowsAndReorders() throws {
    // More tokens than one chunk of the cache, and rows exchanged on the way.
    let small = try SmallLlama()
    let ids = Tensor((0..<2 * 150).map { ($0 * 7 + $0 / 11) % 61 }, [2, 150])
    let whole = small.model.forward(inputsEmbeds: small.model.embed(ids))
    let cache = KVCache(layers: small.model.layerCount)
    _ = small.model.forward(inputsEmbeds: small.model.embed(ids.narrow(1, 0, 60)), cache: cache)
    cache.reorder([1, 0, 1])
    let rows = ids.indexSelect(0, Tensor([1, 0, 1]))
    var last = Tensor.zeros([])
    for position in 60..<150 {
      last = small.model.forward(inputsEmbeds: small.model.embed(rows.narrow(1, position, 1)), cache: cache)
    }
    expectClose(last.select(1, 0), whole.select(1, 149).indexSelect(0, Tensor([1, 0, 1])))
  }

  @Test func paddingAloneIsNotANumberProblem() throws {
    let small = try SmallLlama()
    let mask = Tensor([Float](repeating: 0, count: 5) + [Float](repeating: 1, count: 5), [2, 5])
    let hidden = small.model.forward(
      inputsEmbeds: small.model.embed(.zeros([2, 5], dtype: .int64)), attentionMask: mask,
      cache: KVCache(layers: small.model.layerCount))
    #expect(hidden.isFinite().all().intItem == 1)
  }

  @Test func wrongArgumentsAreNamed() throws {
    let model = try SmallLlama().model
    let narrow = #expect(throws: TorchError.self) {
      try withError { model.forward(inputsEmbeds: .zeros([1, 2, 35])) }
    }
    #expect(narrow?.message.contains("[B, L, 36]") == true && narrow?.message.contains("[1, 2, 35]") == true)
    let mask = #expect(throws: TorchError.self) {
      try withError { model.forward(inputsEmbeds: .zeros([1, 2, 36]), attentionMask: .ones([1, 3])) }
    }
    #expect(mask?.message.contains("[1, 2], found [1, 3]") == true)
    let cache = KVCache(layers: 3)
    _ = model.forward(inputsEmbeds: .zeros([1, 2, 36]), cache: cache)
    let batch = #expect(throws: TorchError.self) {
      try withError { model.forward(inputsEmbeds: .zeros([2, 1, 36]), cache: cache) }
    }
    #expect(batch?.message.contains("rows") == true)
  }

  @Test func configurationsOfBothAges() throws {
    func decode(_ json: String) throws -> LlamaConfiguration {
      try JSONDecoder().decode(LlamaConfiguration.self, from: Data(json.utf8))
    }
    let sparse = try decode("{}")
    #expect(sparse == LlamaConfiguration())
    #expect(sparse.rmsNormEps == 1e-6 && sparse.rope.base == 10_000 && sparse.headWidth == 128)
    let old = try decode(
      #"""
      {"rope_theta": 100000.0, "rope_scaling": null, "hidden_size": 576, "num_attention_heads": 9,
       "num_key_value_heads": 3, "eos_token_id": [2, 7]}
      """#)
    #expect(old.rope.base == 100_000 && old.headWidth == 64 && old.keyValueHeads == 3 && old.endIDs == [2, 7])
    let stretch =
      #"{"type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4,"#
      + #" "original_max_position_embeddings": 8192}"#
    #expect(try decode(#"{"rope_theta": 5e5, "rope_scaling": \#(stretch)}"#).rope.stretch?.factor == 8)
    let again = try decode(String(decoding: JSONEncoder().encode(old), as: UTF8.self))
    #expect(again == old)
  }

  @Test(arguments: [
    (#"{"rope_scaling": {"type": "yarn", "factor": 2}}"#, "rope_scaling.type", "yarn"),
    (#"{"rope_parameters": {"rope_type": "dynamic"}}"#, "rope_parameters.rope_type", "dynamic"),
    (#"{"num_attention_heads": 9, "num_key_value_heads": 4}"#, "num_key_value_heads", "4"),
    (#"{"head_dim": 7}"#, "head_dim", "7"), (#"{"model_type": "gpt2"}"#, "model_type", "gpt2"),
    (#"{"hidden_act": "gelu"}"#, "hidden_act", "gelu"), (#"{"vocab_size": 0}"#, "vocab_size", "0"),
  ]) func badConfigurationNamesFileFieldAndValue(json: String, field: String, found: String) throws {
    try withTemporaryFolder { folder in
      try Data(json.utf8).write(to: folder.appendingPathComponent("config.json"))
      let error = #expect(throws: BackboneError.self) { try Llama.load(folder: folder) }
      let text = error?.description ?? ""
      #expect(text.contains("config.json: \(field)") && text.contains(found), "\(text)")
    }
  }
}
