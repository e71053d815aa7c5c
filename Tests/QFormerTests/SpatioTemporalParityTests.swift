import Checkpoints
import Foundation
import QFormer
import TestSupport
import Testing
import Torch
import TorchNN

/// The small models that `Fixtures/video/make_spatiotemporal.py` made.
enum SpatioTemporals {
  static let variants = ["full", "open", "mean", "long", "image"]

  static func configuration(_ variant: String = "full") -> SpatioTemporalConfiguration {
    var configuration = SpatioTemporalConfiguration()
    configuration.qformer = .blip2
    configuration.qformer.hiddenSize = 18
    configuration.qformer.layers = 3
    configuration.qformer.heads = 3
    configuration.qformer.intermediateSize = 22
    configuration.qformer.layerNormEps = 3e-3
    configuration.qformer.hiddenDropout = 0
    configuration.qformer.attentionDropout = 0
    configuration.qformer.encoderHiddenSize = 15
    configuration.qformer.vocabularySize = 29
    configuration.qformer.maxPositions = 12
    configuration.qformer.readsText = true
    configuration.qformer.separateDecoderToken = true
    configuration.spatialQueries = 4
    configuration.temporalQueries = 3
    configuration.poolingHeads = 5
    configuration.time.maxFrames = 8
    configuration.visionNormEps = 5e-3
    configuration.languageSize = 11
    configuration.objectives?.contrastiveSize = 10
    switch variant {
    case "open":
      configuration.time.encoding = .sinusoid
      configuration.timeSite = .beforePooling
      configuration.expertLayers = 2
      configuration.hasCrossMask = false
      configuration.languageGroups = [.summary, .spatial]
      configuration.objectives?.aggregation = .mean
      configuration.objectives?.matchingHead = .catTextCLS
    case "mean":
      configuration.pooling = .mean
      configuration.time.encoding = .none
      configuration.expertLayers = 0
      configuration.languageGroups = [.summary]
      configuration.objectives?.aggregation = .summary
      configuration.objectives?.matchingHead = .summary
    case "long":
      configuration.timeSite = .beforePooling
      configuration.time.interpolation = .linear
      configuration.expertLayers = 1
    default: break
    }
    return configuration
  }

  static func lengths(_ variant: String) -> [Int] {
    switch variant {
    case "mean", "long": [11, 7]
    case "image": [1, 1]
    default: [6, 4]
    }
  }

  /// The name in the file.
  static func stored(_ name: String, _ variant: String) -> String {
    variant == "open" && name.hasPrefix("itm_head") ? "wide.\(name)" : name
  }

  static func model(
    _ configuration: SpatioTemporalConfiguration = configuration(), variant: String = "full"
  ) throws -> (model: SpatioTemporalQFormer, parameters: Parameters) {
    let parameters = Parameters()
    // One file for all variants: each leaves some of it unused.
    let model = try loadModel(
      from: Fixture("video/spatiotemporal_weights.safetensors").checkpoint,
      keyMap: KeyMap([KeyMap.Rule("itm_head", stored("itm_head", variant))]), ignoring: ["*"]
    ) { scope -> SpatioTemporalQFormer in
      let model = try SpatioTemporalQFormer(configuration, scope)
      for (name, tensor) in scope.parameters.all { parameters.insert(name, tensor) }
      return model
    }.model
    return (model, parameters)
  }

  /// The stored features `[2, 11, 7, 15]` cut to clips of so many frames, with rubbish as padding.
  static func clip(_ lengths: [Int] = [6, 4]) throws -> TimedFeatures {
    let fixture = try Fixture("video/spatiotemporal.safetensors")
    let frames = lengths.max() ?? 0
    let mask = Tensor(lengths.flatMap { length in (0..<frames).map { $0 < length ? Int64(1) : 0 } }, [2, frames])
    let features = fixture["in.features"].narrow(1, 0, frames)
      .maskedFill(mask.equal(0).reshaped(2, frames, 1, 1), .nan)
    return try TimedFeatures(
      features, mask: lengths.allSatisfy { $0 == frames } ? nil : mask,
      seconds: fixture["in.seconds"].narrow(1, 0, frames))
  }
}

/// Against plain PyTorch in float64 with naive pooling, written from the formulas; clips alone there, one padded batch
/// here.
@Suite struct SpatioTemporalParityTests {
  let expected: Fixture

  init() throws { expected = try Fixture("video/spatiotemporal.safetensors") }

  @Test(arguments: SpatioTemporals.variants) func clipToTokens(_ variant: String) throws {
    let configuration = SpatioTemporals.configuration(variant)
    let model = try SpatioTemporals.model(configuration, variant: variant).model
    let lengths = SpatioTemporals.lengths(variant)
    let clip = try SpatioTemporals.clip(lengths)
    let read = try model.readVideo(clip, keepsAttention: true)
    expectClose(read.pooled.places, expected["\(variant).places"], "places")
    let counts = clip.mask.map { $0.to(.float32) } ?? .ones([2, lengths[0]])
    expectClose(read.pooled.frames * counts.unsqueezed(2), expected["\(variant).frames"], "frames")
    expectClose(read.pooled.importance, expected["\(variant).importance"], "importance")
    expectClose(read.queries.hidden, expected["\(variant).hidden"], "hidden")
    expectClose(try model.languageTokens(read.queries.hidden), expected["\(variant).tokens"], "tokens")
    #expect(expected["\(variant).tokens"].size(1) == configuration.languageTokens)
    for weights in read.queries.crossAttention { expectClose(weights.sum(-1), .ones([2, 3, 8])) }
  }

  @Test(arguments: SpatioTemporals.variants) func lossesAndGradients(_ variant: String) throws {
    let (model, parameters) = try SpatioTemporals.model(SpatioTemporals.configuration(variant), variant: variant)
    parameters.setRequiresGrad(true)
    let clip = try SpatioTemporals.clip(SpatioTemporals.lengths(variant))
    let losses = try model.losses(
      clip: clip, ids: expected["in.ids"], mask: expected["in.mask"], generator: Generator(seed: 0))
    let found = Tensor.stack([losses.contrastive, try #require(losses.matching), try #require(losses.generation)])
    for index in 0..<3 {
      expectClose(found.select(0, index), expected["\(variant).losses"].select(0, index), "loss \(index)")
    }
    guard variant != "image" else { return }
    let tokens = try model.languageTokens(model.readVideo(clip).queries.hidden)
    let probe = expected["in.probe"].narrow(1, 0, tokens.size(1))
    (losses.total + (tokens * probe).sum()).backward()
    try expectGradients(
      parameters, expected, "\(variant).gradient", names: { SpatioTemporals.stored($0, variant) })
  }
}
