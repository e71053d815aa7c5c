import Backbones
import Checkpoints
import Foundation
import TestSupport
import Testing
import Torch
import TorchNN

/// A small model of the fixture script.
struct SmallT5 {
  let fixture: Fixture
  let model: T5
  let parameters: Parameters

  init(_ name: String = "t5") throws {
    fixture = try Fixture("backbones/\(name).safetensors")
    let sizes: T5Configuration = try configuration(name)
    (model, parameters) = try small(fixture) { T5(sizes, $0) }
  }
}

@Suite struct T5Tests {
  static let names = ["t5", "t5_tied", "t5_tanh"]

  @Test(arguments: names, ["right", "left"])
  func statesLossAndGradientEqualTransformers(name: String, side: String) throws {
    let small = try SmallT5(name)
    let (fixture, model) = (small.fixture, small.model)
    let mask = fixture["\(side).mask"]
    let embeds = model.embed(fixture["\(side).ids"]).detached()
    embeds.requiresGrad = true
    let encoded = model.encode(inputsEmbeds: embeds, attentionMask: mask)
    expectClose(encoded * mask.to(.float32).unsqueezed(-1), fixture["\(side).encoded"])
    let logits = model.targetLogits(inputsEmbeds: embeds, attentionMask: mask, targets: fixture["targets"])
    try expectTargets(logits, embeds, fixture, side)
    for (name, tensor) in small.parameters.all { #expect(tensor.grad == nil && !tensor.requiresGrad, "\(name)") }
  }

  @Test func distancesOfAllBucketsEqualTransformers() throws {
    let small = try SmallT5("t5_tied")
    let ids = Tensor((0..<300).map { ($0 * 7 + $0 / 11) % 61 }, [1, 300])
    let encoded = small.model.encode(inputsEmbeds: small.model.embed(ids))
    expectClose(encoded.slice(1, 0, step: 13), small.fixture["long.encoded"])
    let logits = small.model.head(small.model.decode(ids, encoded: encoded))
    expectClose(logits.slice(1, 0, step: 13), small.fixture["long.logits"])
  }

  @Test(arguments: names) func stepsEqualOnePass(name: String) throws {
    let small = try SmallT5(name)
    let model = small.model
    let (embeds, mask) = (model.embed(small.fixture["left.ids"]), small.fixture["left.mask"])
    let targets = Tensor((0..<3 * 80).map { ($0 * 7 + $0 / 11) % 61 }, [3, 80])
    let whole = model.targetLogits(inputsEmbeds: embeds, attentionMask: mask, targets: targets)
    // More tokens than one chunk of the cache; rows exchanged and repeated on the way.
    let (first, state) = model.read(inputsEmbeds: embeds, attentionMask: mask)
    var rows = [0, 1, 2]
    expectClose(first, whole.select(1, 0))
    for position in 0..<79 {
      if position == 20 || position == 50 {
        let order = position == 20 ? [2, 0, 1, 0] : [1, 3, 2]
        state.reorder(order)
        rows = order.map { rows[$0] }
      }
      let ids = rows.map { targets.select(0, $0).select(0, position).intItem }
      let logits = state.next(ids)
      guard position % 13 == 7 || position > 77 else { continue }
      expectClose(logits, whole.select(1, position + 1).indexSelect(0, Tensor(rows)), "position \(position)")
    }
  }

  @Test func paddingAloneIsNotANumberProblem() throws {
    let small = try SmallT5()
    let mask = Tensor([Float](repeating: 0, count: 5) + [Float](repeating: 1, count: 5), [2, 5])
    let logits = small.model.targetLogits(
      inputsEmbeds: small.model.embed(.zeros([2, 5], dtype: .int64)), attentionMask: mask,
      targets: .zeros([2, 3], dtype: .int64))
    #expect(logits.isFinite().all().intItem == 1)
  }

  @Test func wrongArgumentsAreNamed() throws {
    let model = try SmallT5().model
    let narrow = #expect(throws: TorchError.self) { try withError { model.encode(inputsEmbeds: .zeros([1, 2, 19])) } }
    #expect(narrow?.message.contains("[B, S, 20]") == true && narrow?.message.contains("[1, 2, 19]") == true)
    let mask = #expect(throws: TorchError.self) {
      try withError { model.encode(inputsEmbeds: .zeros([1, 2, 20]), attentionMask: .ones([1, 3])) }
    }
    #expect(mask?.message.contains("[1, 2], found [1, 3]") == true)
    let targets = #expect(throws: TorchError.self) {
      try withError {
        model.targetLogits(
          inputsEmbeds: .zeros([1, 2, 20]), attentionMask: nil, targets: .zeros([1, 0], dtype: .int64))
      }
    }
    #expect(targets?.message.contains("[1, 0]") == true)
  }

  @Test func folderLoadsWithCopiesOfTheWordTable() throws {
    let small = try SmallT5("t5_tied")
    let json = try Data(contentsOf: fixtures.appendingPathComponent("backbones/t5_tied.json"))
    try withTemporaryFolder { folder in
      try json.write(to: folder.appendingPathComponent("config.json"))
      let checkpoint = small.fixture.checkpoint
      var tensors = try checkpoint.names.filter { $0.hasPrefix("model.") }.map {
        (String($0.dropFirst(6)), try checkpoint.tensor($0))
      }
      let words = try checkpoint.tensor("model.shared.weight")
      for name in ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"] {
        tensors.append((name, words))
      }
      tensors.append(("decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight", .zeros([32, 3])))
      try SafetensorsFile.write(tensors, to: folder.appendingPathComponent("model.safetensors"))
      let tower = try LanguageTower.load(folder: folder)
      guard case .t5 = tower else {
        Issue.record("another model than T5")
        return
      }
      #expect(tower.causal == nil && tower.configuration.endIDs == [])
      let logits = tower.targetLogits(
        inputsEmbeds: tower.embed(small.fixture["left.ids"]), attentionMask: small.fixture["left.mask"],
        targets: small.fixture["targets"])
      expectClose(logits.narrow(1, 0, 2), small.fixture["left.logits"].narrow(1, 0, 2))
    }
  }

  @Test func headThatIsNotTiedIsFoundInFilesThatSaySo() throws {
    // transformers 5 writes `tie_word_embeddings` true also for these, beside `scale_decoder_outputs` false.
    let fixture = try Fixture("backbones/t5.safetensors")
    var sizes: T5Configuration = try configuration("t5")
    #expect(!sizes.tiesEmbeddings && !sizes.scalesHead)
    sizes.tiesEmbeddings = true
    let model = try small(fixture) { T5(sizes, $0) }.model
    let logits = model.targetLogits(
      inputsEmbeds: model.embed(fixture["left.ids"]), attentionMask: fixture["left.mask"], targets: fixture["targets"])
    expectClose(logits.narrow(1, 0, 2), fixture["left.logits"].narrow(1, 0, 2))
  }

  @Test func configurations() throws {
    func decode(_ json: String) throws -> T5Configuration {
      try JSONDecoder().decode(T5Configuration.self, from: Data(json.utf8))
    }
    let sparse = try decode("{}")
    #expect(sparse == T5Configuration())
    #expect(sparse.vocabularySize == 32_128 && sparse.hiddenSize == 512 && sparse.headWidth == 64)
    #expect(sparse.intermediateSize == 2048 && sparse.layers == 6 && sparse.decoderLayers == 6 && sparse.heads == 8)
    #expect(sparse.buckets == 32 && sparse.maxDistance == 128 && sparse.rmsNormEps == 1e-6)
    #expect(!sparse.isGated && sparse.activation == .relu && sparse.tiesEmbeddings && sparse.scalesHead)
    #expect(sparse.startID == 0 && sparse.endIDs == [1])
    #expect(try decode(#"{"num_layers": 3}"#).decoderLayers == 3)
    // gated-gelu means the one by tanh; BLIP-2's files say otherwise.
    let gated = try decode(#"{"feed_forward_proj": "gated-gelu", "tie_word_embeddings": false}"#)
    #expect(gated.isGated && gated.activation == .tanhGELU && !gated.scalesHead)
    let exact = try decode(#"{"feed_forward_proj": "gated-gelu", "dense_act_fn": "gelu"}"#)
    #expect(exact.isGated && exact.activation == .gelu && exact.scalesHead)
    #expect(try decode(#"{"feed_forward_proj": "gated-silu"}"#).activation == .silu)
    #expect(try decode(#"{"pad_token_id": 3}"#).startID == 3)
    #expect(try decode(#"{"pad_token_id": 3, "decoder_start_token_id": 4}"#).startID == 4)
    for configuration in [.blip2, sparse, gated, exact] {
      #expect(try decode(String(decoding: JSONEncoder().encode(configuration), as: UTF8.self)) == configuration)
    }
  }

  @Test(arguments: [
    (#"{"feed_forward_proj": "gelu-gated"}"#, "feed_forward_proj", "gated"),
    (#"{"feed_forward_proj": "gated-mish"}"#, "feed_forward_proj", "mish"),
    (#"{"feed_forward_proj": ""}"#, "feed_forward_proj", "activation"),
    (#"{"dense_act_fn": "mish"}"#, "dense_act_fn", "mish"), (#"{"model_type": "mt5"}"#, "model_type", "mt5"),
    (#"{"relative_attention_num_buckets": 1}"#, "relative_attention_num_buckets", "1"),
    (#"{"decoder_start_token_id": 40000}"#, "decoder_start_token_id", "40000"),
  ]) func badConfigurationNamesFileFieldAndValue(json: String, field: String, found: String) throws {
    try withTemporaryFolder { folder in
      try Data(json.utf8).write(to: folder.appendingPathComponent("config.json"))
      let error = #expect(throws: BackboneError.self) { try T5.load(folder: folder) }
      let text = error?.description ?? ""
      #expect(text.contains("config.json: \(field)") && text.contains(found), "\(text)")
    }
  }
}
