import Backbones
import Checkpoints
import Foundation
import TestSupport
import Testing
import Torch
import TorchNN

/// The pictures of the fixture scripts: `[batch, 3, height, width]`.
func pictures(_ batch: Int, _ height: Int, _ width: Int) -> Tensor {
  var values: [Float] = []
  for number in 0..<batch {
    for channel in 0..<3 {
      let c = Double(channel)
      for row in 0..<height {
        for column in 0..<width {
          let (x, y) = (Double(column), Double(row))
          let waves = sin(0.05 * (c + 1) * x + 0.3 * Double(number)) + cos(0.08 * y - 0.7 * c)
          let (dx, dy, radius) = (x - Double(width) / 2, y - Double(height) / 3, Double(height) / 4)
          values.append(Float(waves + (dx * dx + dy * dy < radius * radius ? 1.5 - c : 0)))
        }
      }
    }
  }
  return Tensor(values, [batch, 3, height, width])
}

/// The configuration that a fixture script wrote.
func configuration<Configuration: Decodable>(_ name: String) throws -> Configuration {
  try JSONDecoder().decode(
    Configuration.self, from: Data(contentsOf: fixtures.appendingPathComponent("backbones/\(name).json")))
}

/// A model on the tensors below `model.` of a fixture, and its parameters.
func small<Model>(
  _ fixture: Fixture, _ prefix: String = "model", ignoring: [String] = [], build: (ParameterScope) -> Model
) throws -> (model: Model, parameters: Parameters) {
  let parameters = Parameters()
  let others = fixture.checkpoint.names.filter { !$0.hasPrefix("model.") }
  let loaded = try loadModel(
    from: fixture.checkpoint, keyMap: KeyMap([KeyMap.Rule("", prefix)]), ignoring: others + ignoring
  ) { scope -> Model in
    let model = build(scope)
    for (name, tensor) in scope.parameters.all { parameters.insert(name, tensor) }
    return model
  }
  #expect(loaded.report.isStrict)
  return (loaded.model, parameters)
}

@Suite struct BLIP2VisionTests {
  func model(_ name: String = "blip2_vision", hasOutputNorm: Bool = true) throws -> (BLIP2Vision, Fixture) {
    let fixture = try Fixture("backbones/\(name).safetensors")
    let sizes: BLIP2VisionConfiguration = try configuration(name)
    let ignoring = hasOutputNorm ? [] : ["*post_layernorm*"]
    return (
      try small(fixture, ignoring: ignoring) { BLIP2Vision(sizes, $0, hasOutputNorm: hasOutputNorm) }.model, fixture
    )
  }

  @Test(arguments: [(3, 28, 28), (1, 42, 42), (2, 35, 21)])
  func tokensEqualTransformers(batch: Int, height: Int, width: Int) throws {
    let (model, fixture) = try model()
    let pixels = pictures(batch, height, width)
    for block in [0, 2] {
      expectClose(model.tokens(pixels, block: block), fixture["\(height)x\(width).block\(block)"], "block \(block)")
    }
    expectClose(model.tokens(pixels), fixture["\(height)x\(width).last"])
    // Again, with the resized position table out of the cache.
    expectClose(model.tokens(pixels), fixture["\(height)x\(width).last"])
  }

  @Test(arguments: [(224, 257), (364, 677)]) func publishedGridsEqualTransformers(side: Int, tokens: Int) throws {
    let (model, fixture) = try model("blip2_vision_large")
    let result = model.tokens(pictures(1, side, side))
    #expect(result.shape == [1, tokens, 6])
    expectClose(result.slice(1, 0, step: 3), fixture["\(side)x\(side).last"])
  }

  @Test func outputNormIsAPartOfItsOwn() throws {
    let (model, fixture) = try model(hasOutputNorm: false)
    expectClose(model.tokens(pictures(3, 28, 28)), fixture["28x28.block2"])
    var sizes: BLIP2VisionConfiguration = try configuration("blip2_vision")
    #expect(sizes.outputNormEps == sizes.layerNormEps)
    sizes.outputNormEps = 0.5
    let other = try small(fixture) { BLIP2Vision(sizes, $0) }.model
    expectClose(other.tokens(pictures(1, 28, 28), block: 2), fixture["28x28.block2"].narrow(0, 0, 1))
    #expect(relativeError(other.tokens(pictures(1, 28, 28)), fixture["28x28.last"].narrow(0, 0, 1)) > 1e-2)
  }

  @Test func batchEqualsSingle() throws {
    let (model, _) = try model()
    let pixels = pictures(3, 42, 42)
    let batch = model.tokens(pixels)
    for row in 0..<3 { expectClose(model.tokens(pixels.narrow(0, row, 1)), batch.narrow(0, row, 1)) }
  }

  @Test func gradientReachesThePictureAlone() throws {
    let fixture = try Fixture("backbones/blip2_vision.safetensors")
    let sizes: BLIP2VisionConfiguration = try configuration("blip2_vision")
    let (model, parameters) = try small(fixture) { BLIP2Vision(sizes, $0) }
    let pixels = pictures(1, 35, 21)
    pixels.requiresGrad = true
    model.tokens(pixels).pow(2).sum().backward()
    #expect(try #require(pixels.grad).abs().max().item > 0)
    for (name, tensor) in parameters.all { #expect(tensor.grad == nil, "\(name)") }
  }

  @Test func wrongArgumentsAreNamed() throws {
    let (model, _) = try model()
    for shape in [[1, 3, 28, 30], [1, 1, 28, 28], [3, 28, 28], [1, 3, 0, 28]] {
      let error = #expect(throws: TorchError.self) { try withError { model.tokens(.zeros(shape)) } }
      #expect(error?.message.contains("multiples of 7") == true && error?.message.contains("\(shape)") == true)
    }
    let error = #expect(throws: TorchError.self) { try withError { model.tokens(.zeros([1, 3, 28, 28]), block: 3) } }
    #expect(error?.message.contains("0 … 2") == true)
  }

  @Test func towerLoadsFromItsOwnFolderAndFromAWholeModel() throws {
    let fixture = try Fixture("backbones/blip2_vision.safetensors")
    let own = try Data(contentsOf: fixtures.appendingPathComponent("backbones/blip2_vision.json"))
    let whole = Data("{\"model_type\": \"blip-2\", \"vision_config\": \(String(decoding: own, as: UTF8.self))}".utf8)
    for (prefix, json) in [("", own), ("vision_model.", whole)] {
      try withTemporaryFolder { folder in
        try json.write(to: folder.appendingPathComponent("config.json"))
        var tensors = try fixture.checkpoint.names.filter { $0.hasPrefix("model.") }.map {
          (prefix + $0.dropFirst(6), try fixture.checkpoint.tensor($0))
        }
        if !prefix.isEmpty { tensors.append(("query_tokens", .zeros([1, 2, 4]))) }
        try SafetensorsFile.write(tensors, to: folder.appendingPathComponent("model.safetensors"))
        let model = try BLIP2Vision.load(folder: folder)
        expectClose(model.tokens(pictures(3, 28, 28)), fixture["28x28.last"])
      }
    }
  }

  @Test func sparseConfigurationTakesTheDefaults() throws {
    let sparse = try JSONDecoder().decode(BLIP2VisionConfiguration.self, from: Data("{}".utf8))
    #expect(sparse == .giant)
    #expect(sparse.hiddenSize == 1408 && sparse.intermediateSize == 6144 && sparse.layers == 39 && sparse.heads == 16)
    #expect(sparse.imageSize == 224 && sparse.patchSize == 14 && sparse.qkvBias && sparse.activation == .gelu)
    #expect(sparse.layerNormEps == 1e-6 && sparse.outputNormEps == 1e-6)
    #expect(BLIP2VisionConfiguration.lavis.outputNormEps == 1e-5)
    #expect(BLIP2VisionConfiguration.lavis.layerNormEps == 1e-6)
    let again = try JSONDecoder().decode(BLIP2VisionConfiguration.self, from: JSONEncoder().encode(sparse))
    #expect(again == sparse)
  }

  @Test(arguments: [
    (#"{"num_attention_heads": 7}"#, "num_attention_heads"), (#"{"hidden_act": "swoosh"}"#, "hidden_act"),
    (#"{"model_type": "blip_2_qformer"}"#, "model_type"), (#"{"patch_size": 300}"#, "patch_size"),
    (#"{"vision_config": {"num_hidden_layers": 0}}"#, "vision_config.num_hidden_layers"),
    (#"{"num_channels": 1}"#, "num_channels"),
  ]) func badConfigurationNamesFileAndField(json: String, field: String) throws {
    try withTemporaryFolder { folder in
      try Data(json.utf8).write(to: folder.appendingPathComponent("config.json"))
      let error = #expect(throws: BackboneError.self) { try BLIP2Vision.load(folder: folder) }
      let text = error?.description ?? ""
      #expect(text.contains("config.json: \(field)"), "\(text)")
    }
  }
}

@Suite struct CLIPVisionTests {
  /// The fixture's model has three blocks, of which adapters read two.
  static let last = ["model.*encoder.layers.2.*", "*post_layernorm.*"]

  func model(alignsCorners: Bool = true) throws -> (CLIPVision, Fixture) {
    let fixture = try Fixture("backbones/clip_vision.safetensors")
    var sizes: CLIPVisionConfiguration = try configuration("clip_vision")
    #expect(sizes.layers == 3 && sizes.alignsCorners)
    (sizes.layers, sizes.alignsCorners) = (2, alignsCorners)
    return (try small(fixture, prefix(fixture), ignoring: Self.last) { CLIPVision(sizes, $0) }.model, fixture)
  }

  func prefix(_ fixture: Fixture) -> String {
    fixture.checkpoint.names.contains { $0.hasPrefix("model.vision_model.") } ? "model.vision_model" : "model"
  }

  @Test(arguments: [(3, 28), (1, 42), (2, 21)]) func tokensEqualTransformers(batch: Int, side: Int) throws {
    let (model, fixture) = try model()
    let pixels = pictures(batch, side, side)
    expectClose(model.tokens(pixels, block: 0), fixture["\(side)x\(side).block0"])
    expectClose(model.tokens(pixels, block: 1), fixture["\(side)x\(side).block1"])
    expectClose(model.tokens(pixels), fixture["\(side)x\(side).block1"])
  }

  @Test func cornersCanBeLeftUnaligned() throws {
    let (model, fixture) = try model(alignsCorners: false)
    expectClose(model.tokens(pictures(1, 35, 21)), fixture["35x21.block1"])
    let (aligned, _) = try self.model()
    #expect(relativeError(aligned.tokens(pictures(1, 35, 21)), fixture["35x21.block1"]) > 1e-3)
  }

  @Test func trainedPositionsGetTheirGradient() throws {
    let parameters = Parameters()
    var sizes: CLIPVisionConfiguration = try configuration("clip_vision")
    sizes.layers = 1
    let model = CLIPVision(sizes, ParameterScope(FreshParameters(seed: 1), parameters: parameters))
    let table = try #require(parameters["embeddings.position_embedding.weight"])
    table.requiresGrad = true
    for side in [28, 35] {
      table.grad = nil
      model.tokens(pictures(1, side, side)).pow(2).sum().backward()
      #expect(try #require(table.grad).abs().max().item > 0)
    }
  }

  @Test func folderOfAWholeModelGivesAllButTheLastBlock() throws {
    let fixture = try Fixture("backbones/clip_vision.safetensors")
    let own = try Data(contentsOf: fixtures.appendingPathComponent("backbones/clip_vision.json"))
    try withTemporaryFolder { folder in
      let json = "{\"model_type\": \"clip\", \"vision_config\": \(String(decoding: own, as: UTF8.self))}"
      try Data(json.utf8).write(to: folder.appendingPathComponent("config.json"))
      let start = prefix(fixture).count + 1
      let tensors = try fixture.checkpoint.names.filter { $0.hasPrefix("model.") }.map {
        ("vision_model." + $0.dropFirst(start), try fixture.checkpoint.tensor($0))
      }
      try SafetensorsFile.write(
        tensors + [("logit_scale", .zeros([]))], to: folder.appendingPathComponent("model.safetensors"))
      let model = try CLIPVision.load(folder: folder)
      #expect(model.blockCount == 2)
      expectClose(model.tokens(pictures(1, 42, 42)), fixture["42x42.block1"])
    }
  }

  @Test func namesOfTheOriginalLoadToo() throws {
    let fixture = try Fixture("backbones/clip_vision.safetensors")
    let (expected, _) = try model()
    var tensors: [String: Tensor] = [:]
    let start = prefix(fixture).count + 1
    for name in fixture.checkpoint.names where name.hasPrefix("model.") {
      tensors[String(name.dropFirst(start))] = try fixture.checkpoint.tensor(name)
    }
    func take(_ name: String) throws -> Tensor { try #require(tensors[name]) }
    var original: [(name: String, tensor: Tensor)] = [
      ("class_embedding", try take("embeddings.class_embedding")),
      ("positional_embedding", try take("embeddings.position_embedding.weight")),
      ("conv1.weight", try take("embeddings.patch_embedding.weight")),
      ("ln_pre.weight", try take("pre_layrnorm.weight")), ("ln_pre.bias", try take("pre_layrnorm.bias")),
    ]
    for block in 0..<3 {
      let (theirs, ours) = ("transformer.resblocks.\(block)", "encoder.layers.\(block)")
      for kind in ["weight", "bias"] {
        let parts = try ["q", "k", "v"].map { try take("\(ours).self_attn.\($0)_proj.\(kind)") }
        original.append(("\(theirs).attn.in_proj_\(kind)", .cat(parts, 0)))
        for (a, b) in [
          ("attn.out_proj", "self_attn.out_proj"), ("ln_1", "layer_norm1"), ("ln_2", "layer_norm2"),
          ("mlp.c_fc", "mlp.fc1"), ("mlp.c_proj", "mlp.fc2"),
        ] { original.append(("\(theirs).\(a).\(kind)", try take("\(ours).\(b).\(kind)"))) }
      }
    }
    try withTemporaryFolder { folder in
      let file = folder.appendingPathComponent("clip_vit_L.safetensors")
      try SafetensorsFile.write(original, to: file)
      let sizes = expected.configuration
      let loaded = try loadModel(
        from: Checkpoint(contentsOf: file), keyMap: CLIPVision.originalNames, ignoring: ["transformer.resblocks.2.*"]
      ) { CLIPVision(sizes, $0) }
      #expect(loaded.report.isStrict)
      expectClose(loaded.model.tokens(pictures(1, 42, 42)), fixture["42x42.block1"])
    }
  }

  @Test func wrongArgumentsAreNamed() throws {
    let (model, _) = try model()
    let error = #expect(throws: TorchError.self) { try withError { model.tokens(.zeros([1, 3, 28, 30])) } }
    #expect(error?.message.contains("multiples of 7") == true)
    let block = #expect(throws: TorchError.self) { try withError { model.tokens(.zeros([1, 3, 28, 28]), block: 2) } }
    #expect(block?.message.contains("0 … 1") == true)
  }

  @Test func presetsAndDefaults() throws {
    let sparse = try JSONDecoder().decode(CLIPVisionConfiguration.self, from: Data("{}".utf8))
    #expect(sparse == CLIPVisionConfiguration())
    #expect(sparse.hiddenSize == 768 && sparse.intermediateSize == 3072 && sparse.layers == 12 && sparse.heads == 12)
    #expect(sparse.patchSize == 32 && sparse.imageSize == 224 && sparse.channels == 3 && sparse.alignsCorners)
    #expect(sparse.layerNormEps == 1e-5 && sparse.activation == .quickGELU)
    let large = CLIPVisionConfiguration.large
    #expect(large.hiddenSize == 1024 && large.intermediateSize == 4096 && large.layers == 23 && large.heads == 16)
    #expect(large.patchSize == 14 && large.imageSize == 224 && large.layerNormEps == 1e-5)
  }
}
