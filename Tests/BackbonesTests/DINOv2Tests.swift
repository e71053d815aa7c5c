import Backbones
import Checkpoints
import Foundation
import TestSupport
import Testing
import Torch
import TorchNN

@Suite struct DINOv2Tests {
  static let sizes = ["28x28", "56x35", "14x21"]

  func model(_ fixture: Fixture, _ configuration: DINOv2Configuration) throws -> DINOv2 {
    let loaded = try loadModel(
      from: fixture.checkpoint, keyMap: KeyMap([KeyMap.Rule("", "model.")]), ignoring: Self.sizes.map { "\($0).*" }
    ) { DINOv2(configuration, $0) }
    #expect(loaded.report.missing.isEmpty && loaded.report.unused.isEmpty)
    return loaded.model
  }

  func published() throws -> DINOv2Configuration {
    try JSONDecoder().decode(
      DINOv2Configuration.self, from: Data(contentsOf: fixtures.appendingPathComponent("backbones/dinov2.json")))
  }

  @Test(arguments: sizes) func tokensEqualTransformers(size: String) throws {
    let fixture = try Fixture("backbones/dinov2.safetensors")
    let model = try model(fixture, published())
    let pixels = fixture["\(size).pixels"]
    for block in 0..<4 {
      expectClose(model.tokens(pixels, block: block), fixture["\(size).block\(block)"], "block \(block)")
    }
    expectClose(model.tokens(pixels), fixture["\(size).last"])
    // Again, with the resized position table out of the cache.
    expectClose(model.tokens(pixels), fixture["\(size).last"])
  }

  @Test(arguments: sizes) func gatedTokensEqualTransformers(size: String) throws {
    let fixture = try Fixture("backbones/dinov2_swiglu.safetensors")
    var configuration = try published()
    (configuration.layers, configuration.usesSwiGLU, configuration.qkvBias) = (2, true, false)
    let model = try model(fixture, configuration)
    expectClose(model.tokens(fixture["\(size).pixels"]), fixture["\(size).last"])
  }

  @Test func laterBlocksAreNotComputed() throws {
    // A model whose second block is not there at all gives the same tokens after the first.
    let fixture = try Fixture("backbones/dinov2.safetensors")
    var short = try published()
    short.layers = 1
    let loaded = try loadModel(
      from: fixture.checkpoint, keyMap: KeyMap([KeyMap.Rule("", "model.")]),
      ignoring: Self.sizes.map { "\($0).*" } + ["model.encoder.layer.*"]
    ) { DINOv2(short, $0) }
    let tokens = loaded.model.tokens(fixture["28x28.pixels"], block: 0)
    expectClose(tokens, fixture["28x28.block0"])
  }

  @Test func gradientReachesThePictureAlone() throws {
    let fixture = try Fixture("backbones/dinov2.safetensors")
    let pixels = fixture["56x35.pixels"].cloned()
    pixels.requiresGrad = true
    let model = try model(fixture, published())
    model.tokens(pixels).pow(2).sum().backward()
    let gradient = try #require(pixels.grad)
    #expect(gradient.abs().max().item > 0)
  }

  @Test func trainedPositionsAreNotCached() throws {
    let parameters = Parameters()
    var configuration = try published()
    configuration.layers = 1
    let model = DINOv2(configuration, ParameterScope(FreshParameters(seed: 1), parameters: parameters))
    let table = try #require(parameters["embeddings.position_embeddings"])
    table.requiresGrad = true
    let pixels = Tensor.ones([1, 3, 14, 14])
    let before = model.tokens(pixels).detached()
    withNoGrad { table.add(inPlace: Tensor.randn(table.shape, generator: Generator(seed: 2))) }
    #expect(relativeError(model.tokens(pixels), before) > 1e-2)
    model.tokens(pixels).sum().backward()
    #expect(table.grad != nil)
  }

  @Test func wrongArgumentsAreNamed() throws {
    let model = DINOv2(try published(), ParameterScope(FreshParameters(seed: 1)))
    for shape in [[1, 3, 28, 30], [1, 1, 28, 28], [3, 28, 28], [1, 3, 0, 28]] {
      let error = #expect(throws: TorchError.self) { try withError { model.tokens(.zeros(shape)) } }
      #expect(error?.message.contains("multiples of 7") == true && error?.message.contains("\(shape)") == true)
    }
    let error = #expect(throws: TorchError.self) { try withError { model.tokens(.zeros([1, 3, 28, 28]), block: 4) } }
    #expect(error?.message.contains("0 … 3") == true)
  }

  @Test func sparseConfigurationTakesTheDefaults() throws {
    let configuration = try JSONDecoder().decode(DINOv2Configuration.self, from: Data("{}".utf8))
    #expect(configuration == DINOv2Configuration())
    #expect(configuration.layerNormEps == 1e-6 && configuration.hiddenSize == 768 && configuration.imageSize == 224)
    let lists = #"{"image_size": [56, 56], "patch_size": [14, 14]}"#
    #expect(try JSONDecoder().decode(DINOv2Configuration.self, from: Data(lists.utf8)).imageSize == 56)
    let again = try JSONDecoder().decode(DINOv2Configuration.self, from: JSONEncoder().encode(published()))
    #expect(try again == published())
  }

  @Test(arguments: [
    (#"{"num_attention_heads": 7}"#, "num_attention_heads"), (#"{"hidden_size": -1}"#, "hidden_size"),
    (#"{"hidden_size": "wide"}"#, "hidden_size"), (#"{"model_type": "vit"}"#, "model_type"),
    (#"{"image_size": 225}"#, "image_size"), (#"{"num_hidden_layers": 1000000000}"#, "num_hidden_layers"),
    (#"{"mlp_ratio": 1e30}"#, "mlp_ratio"), ("[", "JSON"),
  ]) func badConfigurationNamesFileAndField(json: String, field: String) throws {
    try withTemporaryFolder { folder in
      try Data(json.utf8).write(to: folder.appendingPathComponent("config.json"))
      let error = #expect(throws: BackboneError.self) { try DINOv2.load(folder: folder) }
      let text = error?.description ?? ""
      #expect(text.contains("config.json: \(field)"), "\(text)")
    }
  }

  @Test func missingFolderIsNamed() {
    let error = #expect(throws: BackboneError.self) { try DINOv2.load(folder: URL(fileURLWithPath: "/no/such/folder")) }
    #expect(error?.description.contains("/no/such/folder/config.json") == true)
  }

  @Test func presetsHaveThePublishedSizes() {
    // The giant model's feed-forward layer is 4096 wide inside.
    let sizes: [(DINOv2Configuration, millions: Double)] = [(.small, 22.06), (.base, 86.58)]
    for (configuration, millions) in sizes {
      let parameters = Parameters()
      _ = DINOv2(configuration, ParameterScope(FreshParameters(seed: 1), parameters: parameters))
      #expect(abs(Double(parameters.elementCount()) / 1e6 - millions) < 0.02, "\(parameters.elementCount())")
    }
  }
}

/// The picture of the fixture script: `[1, 3, height, width]`.
func picture(_ height: Int, _ width: Int) -> Tensor {
  var values: [Float] = []
  for channel in 0..<3 {
    let c = Double(channel)
    for row in 0..<height {
      for column in 0..<width {
        let (x, y) = (Double(column), Double(row))
        let waves = sin(0.05 * (c + 1) * x) + cos(0.08 * y - 0.7 * c)
        let (dx, dy, radius) = (x - Double(width) / 2, y - Double(height) / 3, Double(height) / 4)
        values.append(Float(waves + (dx * dx + dy * dy < radius * radius ? 1.5 - c : 0)))
      }
    }
  }
  return Tensor(values, [1, 3, height, width])
}

@Suite(.serialized) struct DINOv2RealTests {
  @Test func tokensOfTheFetchedModelEqualTransformers() throws {
    guard let folder = fetchedModel("dinov2-small-focus") else { return }
    let fixture = try Fixture("backbones/real_dinov2.safetensors")
    let model = try DINOv2.load(folder: folder)
    for (height, width) in [(224, 224), (112, 140)] {
      let pixels = picture(height, width)
      let block = model.tokens(pixels, block: 9)
      #expect(block.shape == [1, 1 + height * width / 196, 384])
      expectClose(block.slice(1, 0, step: 4), fixture["\(height)x\(width).block9"], relative: 1e-4)
      expectClose(model.tokens(pixels).slice(1, 0, step: 16), fixture["\(height)x\(width).last"], relative: 1e-4)
    }
  }
}
