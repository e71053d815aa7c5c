import Backbones
import Checkpoints
import Foundation
import TestSupport
import Testing
import Torch
import TorchNN

/// A small model of the fixture script.
struct SmallOPT {
  let fixture: Fixture
  let model: OPT
  let parameters: Parameters

  init(_ name: String = "opt") throws {
    fixture = try Fixture("backbones/\(name).safetensors")
    let sizes: OPTConfiguration = try configuration(name)
    (model, parameters) = try small(fixture) { OPT(sizes, $0) }
  }
}

@Suite struct OPTTests {
  static let names = ["opt", "opt_post", "opt_bare"]

  @Test(arguments: names, ["right", "left"])
  func statesLogitsAndGradientEqualTransformers(name: String, side: String) throws {
    let small = try SmallOPT(name)
    let (fixture, model) = (small.fixture, small.model)
    let mask = fixture["\(side).mask"]
    let valid = mask.to(.float32).unsqueezed(-1)
    let embeds = model.embed(fixture["\(side).ids"]).detached()
    embeds.requiresGrad = true
    let hidden = model.forward(inputsEmbeds: embeds, attentionMask: mask)
    expectClose(hidden * valid, fixture["\(side).hidden"])
    let logits = model.head(hidden)
    if side == "left" { expectClose(logits * valid, fixture["left.logits"]) }
    (logits * fixture["cotangent"] * valid).sum().backward()
    expectClose(try #require(embeds.grad), fixture["\(side).gradient"])
    for (name, tensor) in small.parameters.all { #expect(tensor.grad == nil && !tensor.requiresGrad, "\(name)") }
  }

  @Test(arguments: names) func rightPaddingNeedsNoMask(name: String) throws {
    let small = try SmallOPT(name)
    let embeds = small.model.embed(small.fixture["right.ids"])
    let valid = small.fixture["right.mask"].to(.float32).unsqueezed(-1)
    expectClose(small.model.forward(inputsEmbeds: embeds) * valid, small.fixture["right.hidden"])
  }

  @Test(arguments: names, ["right", "left"]) func cachedStepsEqualOnePass(name: String, side: String) throws {
    let small = try SmallOPT(name)
    let (ids, mask) = (small.fixture["\(side).ids"], small.fixture["\(side).mask"])
    let valid = mask.to(.float32).unsqueezed(-1)
    for chunk in [1, 3] {
      let cache = KVCache(layers: small.model.layerCount)
      let parts = stride(from: 0, to: ids.size(1), by: chunk).map { start in
        small.model.forward(
          inputsEmbeds: small.model.embed(ids.narrow(1, start, chunk)),
          attentionMask: mask.narrow(1, start, chunk), cache: cache)
      }
      expectClose(Tensor.cat(parts, 1) * valid, small.fixture["\(side).hidden"])
    }
  }

  @Test func masksOfTheCallersOwn() throws {
    // Two texts in one row behind each other, each at its own positions.
    let small = try SmallOPT()
    let model = small.model
    let texts = [Tensor([5, 17, 3], [1, 3]), Tensor([12, 7, 29, 33], [1, 4])]
    var seen = [Float](repeating: 0, count: 49)
    for row in 0..<7 { for column in (row < 3 ? 0 : 3)...row { seen[row * 7 + column] = 1 } }
    let plan = AttentionPlan(
      seen: Tensor(seen, [1, 7, 7]), positions: Tensor([0, 1, 2, 0, 1, 2, 3], [1, 7]))
    let both = model.forward(inputsEmbeds: model.embed(Tensor.cat(texts, 1)), plan: plan)
    let alone = texts.map { model.forward(inputsEmbeds: model.embed($0)) }
    expectClose(both, Tensor.cat(alone, 1))
  }

  @Test func targetLossAndItsGradientEqualTransformers() throws {
    let small = try SmallOPT()
    let fixture = small.fixture
    let embeds = fixture["embeds"].cloned()
    embeds.requiresGrad = true
    let logits = small.model.targetLogits(
      inputsEmbeds: embeds, attentionMask: fixture["embeds.mask"], targets: fixture["targets"])
    try expectTargets(logits, embeds, fixture, "targets")
  }

  @Test func oneTargetNeedsNoWords() throws {
    let small = try SmallOPT()
    let embeds = small.fixture["embeds"]
    let mask = small.fixture["embeds.mask"]
    let logits = small.model.targetLogits(
      inputsEmbeds: embeds, attentionMask: mask, targets: small.fixture["targets"].narrow(1, 0, 1))
    #expect(logits.shape == [3, 1, 61])
    expectClose(logits.select(1, 0), small.fixture["targets.logits"].select(1, 0))
  }

  @Test func tooManyTokensAreNamed() throws {
    let model = try SmallOPT().model
    let error = #expect(throws: TorchError.self) { try withError { model.forward(inputsEmbeds: .zeros([1, 49, 28])) } }
    #expect(error?.message.contains("48 positions, found 49") == true)
    // Padding takes no position.
    let mask = Tensor((0..<50).map { $0 < 2 ? Float(0) : 1 }, [1, 50])
    let long = try withError { model.forward(inputsEmbeds: .zeros([1, 50, 28]), attentionMask: mask) }
    #expect(long.isFinite().all().intItem == 1)
    #expect(throws: TorchError.self) {
      try withError {
        model.forward(inputsEmbeds: .zeros([1, 51, 28]), attentionMask: .cat([mask, .ones([1, 1])], 1))
      }
    }
    let narrow = #expect(throws: TorchError.self) {
      try withError { model.forward(inputsEmbeds: .zeros([1, 2, 27])) }
    }
    #expect(narrow?.message.contains("[B, L, 28]") == true && narrow?.message.contains("[1, 2, 27]") == true)
  }

  @Test func failuresInTheMiddleAreTold() throws {
    // A position and a token that are not there: the operators after the failure must not trap on a tensor without shape.
    let model = try SmallOPT().model
    let plan = AttentionPlan(seen: .causal(2).unsqueezed(0), positions: Tensor([0, 1000], [1, 2]))
    let position = #expect(throws: TorchError.self) {
      try withError { model.head(model.forward(inputsEmbeds: .zeros([1, 2, 28]), plan: plan)) }
    }
    #expect(position?.message.contains("out of range") == true)
    #expect(throws: TorchError.self) {
      try withError { model.forward(inputsEmbeds: model.embed(Tensor([61], [1, 1]))) }
    }
    #expect(throws: TorchError.self) {
      try withError {
        KVCache(layers: 1).update(layer: 0, key: .failed("no key"), value: .zeros([1, 1, 1, 1])).key.sum()
      }
    }
  }

  @Test func foldersOfBothAgesLoad() throws {
    let fixture = try Fixture("backbones/opt.safetensors")
    let json = try Data(contentsOf: fixtures.appendingPathComponent("backbones/opt.json"))
    for (old, new) in [("model.", "model."), ("model.decoder.", "decoder.")] {
      try withTemporaryFolder { folder in
        try json.write(to: folder.appendingPathComponent("config.json"))
        var tensors = try fixture.checkpoint.names.filter { $0.hasPrefix("model.") }.map {
          (new + $0.dropFirst("model.".count + old.count), try fixture.checkpoint.tensor($0))
        }
        tensors.append(("lm_head.weight", try fixture.checkpoint.tensor("model.model.decoder.embed_tokens.weight")))
        try SafetensorsFile.write(tensors, to: folder.appendingPathComponent("model.safetensors"))
        guard case .opt(let model) = try LanguageTower.load(folder: folder) else {
          Issue.record("another model than OPT")
          return
        }
        let hidden = model.forward(inputsEmbeds: model.embed(fixture["right.ids"]))
        let valid = fixture["right.mask"].to(.float32).unsqueezed(-1)
        expectClose(hidden * valid, fixture["right.hidden"])
      }
    }
  }

  @Test func configurations() throws {
    func decode(_ json: String) throws -> OPTConfiguration {
      try JSONDecoder().decode(OPTConfiguration.self, from: Data(json.utf8))
    }
    let sparse = try decode("{}")
    #expect(sparse == OPTConfiguration())
    #expect(sparse.vocabularySize == 50_272 && sparse.hiddenSize == 768 && sparse.embeddingSize == 768)
    #expect(sparse.intermediateSize == 3072 && sparse.layers == 12 && sparse.heads == 12 && sparse.maxPositions == 2048)
    #expect(sparse.normalizesBefore && !sparse.lacksFinalNorm && sparse.hasBias && sparse.hasNormWeights)
    #expect(sparse.tiesEmbeddings && sparse.activation == .relu && sparse.endIDs == [2])
    // The width of the words is that of the model unless the file says otherwise.
    #expect(try decode(#"{"hidden_size": 1024, "num_attention_heads": 16}"#).embeddingSize == 1024)
    let blip = OPTConfiguration.blip2
    #expect(blip.hiddenSize == 2560 && blip.layers == 32 && blip.intermediateSize == 10_240 && blip.endIDs == [50_118])
    #expect(try decode(String(decoding: JSONEncoder().encode(blip), as: UTF8.self)) == blip)
  }

  @Test(arguments: [
    (#"{"num_attention_heads": 5}"#, "num_attention_heads", "5"), (#"{"model_type": "llama"}"#, "model_type", "llama"),
    (#"{"activation_function": "mish"}"#, "activation_function", "mish"), (#"{"ffn_dim": 0}"#, "ffn_dim", "0"),
  ]) func badConfigurationNamesFileFieldAndValue(json: String, field: String, found: String) throws {
    try withTemporaryFolder { folder in
      try Data(json.utf8).write(to: folder.appendingPathComponent("config.json"))
      let error = #expect(throws: BackboneError.self) { try OPT.load(folder: folder) }
      let text = error?.description ?? ""
      #expect(text.contains("config.json: \(field)") && text.contains(found), "\(text)")
    }
  }
}

/// Compares logits of targets, their loss and the gradient of the embeddings with a fixture.
func expectTargets(
  _ logits: Tensor, _ embeds: Tensor, _ fixture: Fixture, _ key: String,
  sourceLocation: SourceLocation = #_sourceLocation
) throws {
  let targets = fixture["targets"]
  let places = fixture["targets.mask"].flattened().values(as: Int.self).enumerated().filter { $1 == 1 }.map(\.offset)
  let rows = Tensor(places)
  let scored = logits.reshaped(-1, logits.size(-1)).indexSelect(0, rows)
  let expected = fixture["\(key).logits"]
  expectClose(
    scored, expected.reshaped(-1, logits.size(-1)).indexSelect(0, rows), "logits", sourceLocation: sourceLocation)
  let loss = scored.crossEntropy(targets.flattened().indexSelect(0, rows))
  expectClose(loss.reshaped(1), fixture["\(key).loss"], "loss", sourceLocation: sourceLocation)
  loss.backward()
  expectClose(
    try #require(embeds.grad), fixture["\(key).gradient"], "gradient",
    sourceLocation: sourceLocation)
}
