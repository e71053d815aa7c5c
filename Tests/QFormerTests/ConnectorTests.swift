import Checkpoints
import Foundation
import QFormer
import TestSupport
import Testing
import Torch
import TorchNN

/// The small models that `Fixtures/video/make_connectors.py` made, and clips for them.
enum Connectors {
  static let projection: PooledProjectionConfiguration = {
    var configuration = PooledProjectionConfiguration()
    configuration.encoderHiddenSize = 10
    configuration.hiddenSize = 12
    configuration.languageSize = 8
    configuration.visionNormEps = 5e-3
    return configuration
  }()

  static func perceiver(_ encoding: TimeEncoding = .learned) -> PerceiverConfiguration {
    var configuration = PerceiverConfiguration()
    configuration.encoderHiddenSize = 10
    configuration.hiddenSize = 12
    configuration.layers = 3
    configuration.heads = 3
    configuration.intermediateSize = 20
    configuration.latents = 5
    configuration.layerNormEps = 3e-3
    configuration.visionNormEps = 5e-3
    configuration.time.encoding = encoding
    configuration.time.maxFrames = 9
    configuration.languageSize = 8
    return configuration
  }

  static let grid: AdaptivePoolingConfiguration = {
    var configuration = AdaptivePoolingConfiguration()
    configuration.projection = projection
    (configuration.steps, configuration.rows, configuration.columns) = (3, 2, 2)
    return configuration
  }()

  /// A model of a name in the fixture, and its parameters.
  static func model(_ name: String) throws -> (model: any CountedConnector, parameters: Parameters) {
    let parameters = Parameters()
    let model = try loadModel(
      from: Fixture("video/connector_weights.safetensors").checkpoint, ignoring: ["*"]
    ) { scope -> any CountedConnector in
      defer { for (name, tensor) in scope.parameters.all { parameters.insert(name, tensor) } }
      switch name {
      case "mean": return try MeanPoolingConnector(projection, scope)
      case "grid": return try AdaptivePoolingConnector(grid, scope)
      default: return try PerceiverResampler(perceiver(TimeEncoding(rawValue: name) ?? .none), scope)
      }
    }.model
    return (model, parameters)
  }

  /// Clips of seven and four frames with rubbish as padding.
  static func clip(rubbish: Double = .nan) throws -> TimedFeatures {
    let fixture = try Fixture("video/connectors.safetensors")
    let mask = Tensor((0..<14).map { Int64($0 < 11 ? 1 : 0) }, [2, 7])
    return try TimedFeatures(
      fixture["in.features"].maskedFill(mask.equal(0).reshaped(2, 7, 1, 1), rubbish), mask: mask,
      seconds: fixture["in.seconds"])
  }

  /// A small image Q-Former for three queries.
  static func image(width: Int = 6) throws -> ImageLanguageQFormer {
    var configuration = ImageLanguageConfiguration()
    configuration.qformer = .blip2
    configuration.qformer.hiddenSize = 8
    configuration.qformer.layers = 2
    configuration.qformer.heads = 2
    configuration.qformer.intermediateSize = 16
    configuration.qformer.encoderHiddenSize = width
    configuration.qformer.queries = 3
    configuration.languageSize = 10
    return try ImageLanguageQFormer(configuration, ParameterScope(Loud(seed: 5)))
  }

  /// Fresh parameters of a size that makes what is read matter.
  final class Loud: ParameterSource {
    private let generator: Generator
    init(seed: UInt64) { generator = Generator(seed: seed) }
    func has(_ name: String) -> Bool { true }
    func parameter(_ name: String, shape: [Int], initializer: Initializer) -> Tensor {
      Tensor.randn(shape, generator: generator) * 0.5
    }
  }
}

@Suite struct ConnectorTests {
  static let names = ["learned", "sinusoid", "none", "mean", "grid"]

  @Test("Tokens and gradients equal plain PyTorch's in float64, clips alone there and padded here", arguments: names)
  func parity(_ name: String) throws {
    let expected = try Fixture("video/connectors.safetensors")
    let (model, parameters) = try Connectors.model(name)
    parameters.setRequiresGrad(true)
    let tokens = try model.languageTokens(of: Connectors.clip(), isTraining: true)
    expectClose(tokens, expected["\(name).tokens"], name)
    #expect(tokens.shape == [2, model.tokens(frames: 7, imageTokens: 10), 8])
    (tokens * expected["\(name).probe"]).sum().backward()
    try expectGradients(parameters, expected, "\(name).gradient")
  }

  /// All seven, on frames of ten numbers.
  private func connectors() throws -> [(name: String, model: any CountedConnector)] {
    func scope(_ seed: UInt64) -> ParameterScope { ParameterScope(Connectors.Loud(seed: seed)) }
    let image = try Connectors.image(width: 10)
    var cascade = CascadedVideoConfiguration()
    cascade.frame = image.configuration.qformer
    cascade.temporal = cascade.frame
    cascade.temporal.crossAttentionFrequency = 1
    cascade.temporal.encoderHiddenSize = 8
    cascade.objectives = nil
    var whole = SpatioTemporalConfiguration()
    whole.qformer = cascade.frame
    (whole.spatialQueries, whole.temporalQueries) = (3, 3)
    whole.poolingHeads = 5
    whole.objectives = nil
    var all: [(name: String, model: any CountedConnector)] = []
    for name in Self.names { all.append((name, try Connectors.model(name).model)) }
    all.append(("image Q-Former", FramewiseConnector(image)))
    all.append(("joint", try JointConnector(image, time: TimeConfiguration(), scope(6))))
    all.append(("cascaded", try CascadedVideoQFormer(cascade, scope(7))))
    all.append(("spatio-temporal", try SpatioTemporalQFormer(whole, scope(8))))
    return all
  }

  @Test("Masked frames change nothing, whatever stands there; frames that count do; outputs have the counted tokens")
  func masks() throws {
    for (name, model) in try connectors() {
      let tokens = try model.languageTokens(of: Connectors.clip(), isTraining: false)
      let other = try model.languageTokens(of: Connectors.clip(rubbish: 1e6), isTraining: false)
      #expect(tokens.isFinite().all().item == 1, "\(name)")
      #expect((tokens - other).abs().max().item == 0, "\(name)")
      #expect(tokens.size(1) == model.tokens(frames: 7, imageTokens: 10), "\(name)")
      let clip = try Connectors.clip(rubbish: 0)
      for frame in 0..<4 {
        let changed = clip.features.cloned()
        changed.select(0, 1).select(0, frame).add(inPlace: Tensor.randn([10, 10], generator: Generator(seed: 1)))
        let found = try model.languageTokens(
          of: TimedFeatures(changed, mask: clip.mask, seconds: clip.seconds), isTraining: false)
        #expect(relativeError(found.narrow(0, 1, 1), tokens.narrow(0, 1, 1)) > 2e-6, "\(name), frame \(frame)")
        #expect((found - tokens).narrow(0, 0, 1).abs().max().item == 0, "\(name), the other clip")
      }
    }
  }

  @Test("A padded clip is read as the clip alone, where tokens do not follow the frames; else it is stretched")
  func padding() throws {
    let clip = try Connectors.clip()
    func alone(_ frames: [Int]) throws -> TimedFeatures {
      try TimedFeatures(
        clip.features.narrow(0, 1, 1).indexSelect(1, Tensor(frames)),
        seconds: clip.seconds?.narrow(0, 1, 1).indexSelect(1, Tensor(frames)))
    }
    for (name, model) in try connectors() {
      let padded = try model.languageTokens(of: clip, isTraining: false).narrow(0, 1, 1)
      let follows = ["mean", "image Q-Former"].contains(name)
      // ⌊t · 4 / 7⌋ for t = 0 … 6.
      let single = try model.languageTokens(
        of: alone(follows ? [0, 0, 1, 1, 2, 2, 3] : [0, 1, 2, 3]), isTraining: false)
      let part = name == "mean" ? 10 : 0  // the mean over time is that of the clip's own frames
      expectClose(padded.slice(1, part), single.slice(1, part), relative: 2e-6, name)
    }
  }

  @Test("An image Q-Former on every frame, and one on all frames at once, read as the image Q-Former does")
  func ofImages() throws {
    let image = try Connectors.image(width: 10)
    let clip = try TimedFeatures(Fixture("video/connectors.safetensors")["in.features"])
    let tokens = try FramewiseConnector(image).languageTokens(of: clip)
    for frame in 0..<7 {
      let own = image.languageTokens(try image.readImage(clip.features.select(1, frame)).hidden)
      expectClose(tokens.narrow(1, frame * 3, 3), own, relative: 2e-6, "frame \(frame)")
    }
    // More frames than a group holds.
    let long = try TimedFeatures(clip.features.narrow(0, 0, 1).repeated(1, 10, 1, 1))
    expectClose(
      try FramewiseConnector(image).languageTokens(of: long).narrow(1, 189, 21), tokens.narrow(0, 0, 1), relative: 2e-6)

    // Time starts at zero: all patches are one picture of 70.
    let scope = ParameterScope(FreshParameters(seed: 1))
    let joint = try JointConnector(image, time: TimeConfiguration(), scope)
    let flat = clip.features.reshaped(2, 70, 10)
    expectClose(
      try joint.languageTokens(of: clip), image.languageTokens(try image.readImage(flat).hidden), relative: 2e-6)
    // And then tells frames apart: with it, their order counts.
    let back = try TimedFeatures(clip.features.flipped(1))
    expectClose(try joint.languageTokens(of: back), try joint.languageTokens(of: clip), relative: 5e-6)
    let table = try #require(scope.parameters["time_embedding.weight"])
    table.copy(from: Tensor.randn(table.shape, generator: Generator(seed: 2)))
    #expect(relativeError(try joint.languageTokens(of: back), try joint.languageTokens(of: clip)) > 1e-3)
  }

  @Test("Multiply–accumulates and tokens equal the counts by hand")
  func cost() throws {
    func expect(
      _ model: any CountedConnector, frames: Int, imageTokens: Int, tokens: Int, cost: Int,
      sourceLocation: SourceLocation = #_sourceLocation
    ) {
      let found = (
        model.tokens(frames: frames, imageTokens: imageTokens),
        model.multiplyAccumulates(frames: frames, imageTokens: imageTokens)
      )
      #expect(found.0 == tokens, sourceLocation: sourceLocation)
      #expect(found.1 == cost, sourceLocation: sourceLocation)
    }
    // 17 vectors through 10 → 12 → 8.
    expect(try Connectors.model("mean").model, frames: 7, imageTokens: 10, tokens: 17, cost: 17 * 216)
    // 7 frames of 9 patches to 4 cells, 7 frames to 3 steps, 12 cells through two layers.
    expect(try Connectors.model("grid").model, frames: 7, imageTokens: 10, tokens: 12, cost: 2520 + 840 + 12 * 216)
    // Input 70 · 120; a layer's queries 720, keys and values 21 600, attention 9 000, output 720, feed-forward 2 400.
    let learned = try Connectors.model("learned").model
    expect(learned, frames: 7, imageTokens: 10, tokens: 5, cost: 8400 + 3 * 34_440 + 480)
    // A frame: two layers of 912 + 768, one cross-attention of 384 + 480 + 240; then 12 tokens of 8 → 10.
    let image = try Connectors.image()
    expect(FramewiseConnector(image), frames: 4, imageTokens: 5, tokens: 12, cost: 4 * 4464 + 960)
    // The same with 20 keys: 384 + 1 920 + 960.
    let joint = try JointConnector(image, time: TimeConfiguration(), ParameterScope(FreshParameters(seed: 1)))
    expect(joint, frames: 4, imageTokens: 5, tokens: 3, cost: 3360 + 3264 + 240)
    // With their projections, at the published sizes.
    let whole = try SpatioTemporalQFormer(.blip2, ParameterScope(ParameterShapes()))
    let ofWhole = SpatioTemporalConfiguration.blip2.multiplyAccumulates(frames: 16, imageTokens: 257)
    expect(whole, frames: 16, imageTokens: 257, tokens: 65, cost: ofWhole + 65 * 768 * 2560)
    let cascade = try CascadedVideoQFormer(.videoLLaMA, ParameterScope(ParameterShapes()))
    let ofCascade = CascadedVideoConfiguration.videoLLaMA.multiplyAccumulates(frames: 16, imageTokens: 257)
    expect(cascade, frames: 16, imageTokens: 257, tokens: 32, cost: ofCascade + 32 * 768 * 4096)
  }

  @Test("A number of tokens as a grid; sizes and clips that make no sense are named")
  func sizes() throws {
    for (tokens, steps, rows, columns) in [(32, 8, 2, 2), (16, 4, 2, 2), (10, 5, 1, 2), (4, 4, 1, 1), (9, 9, 1, 1)] {
      let grid = AdaptivePoolingConfiguration(tokens: tokens)
      #expect(grid.tokens == tokens && grid.steps == steps && grid.rows == rows && grid.columns == columns)
    }
    func says(_ expected: String, _ body: () throws -> Void) {
      let error = #expect(throws: QFormerError.self, performing: body)
      #expect(error?.description.contains(expected) == true, "\(expected): \(error?.description ?? "")")
    }
    let scope = ParameterScope(FreshParameters(seed: 1))
    var perceiver = Connectors.perceiver()
    perceiver.heads = 5
    says("hidden_size 12 is no multiple of 5 heads") { _ = try PerceiverResampler(perceiver, scope) }
    perceiver.latents = 0
    says("num_latents is 0") { _ = try PerceiverResampler(perceiver, scope) }
    var grid = Connectors.grid
    grid.rows = 0
    says("rows of adaptive pooling is 0") { _ = try AdaptivePoolingConnector(grid, scope) }
    var projection = Connectors.projection
    projection.hiddenSize = 0
    says("hidden_size is 0") { _ = try MeanPoolingConnector(projection, scope) }
    for (_, model) in try connectors() {
      says("frame features") {
        _ = try model.languageTokens(of: TimedFeatures(.zeros([1, 2, 5, 9])), isTraining: false)
      }
    }
    says("S² or S² + 1") {
      _ = try Connectors.model("grid").model.languageTokens(
        of: TimedFeatures(.zeros([1, 2, 8, 10])), isTraining: false)
    }
  }
}
