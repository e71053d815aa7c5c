import Checkpoints
import Foundation
import QFormer
import TestSupport
import Testing
import Torch
import TorchNN

/// The small cascades that `Fixtures/video/make_cascade.py` made.
enum Cascades {
  static func configuration(
    site: FrameEmbeddingSite = .afterFrameQFormer, encoding: TimeEncoding = .learned,
    interpolation: TableInterpolation? = nil
  ) -> CascadedVideoConfiguration {
    var configuration = CascadedVideoConfiguration()
    configuration.frame = qformer(layers: 3, frequency: 2, width: 13, queries: 5)
    configuration.temporal = qformer(layers: 2, frequency: 1, width: 18, queries: 4)
    configuration.time.encoding = encoding
    configuration.time.maxFrames = 12
    configuration.time.interpolation = interpolation
    configuration.site = site
    configuration.visionNormEps = 5e-3
    configuration.languageSize = 11
    configuration.objectives = nil
    return configuration
  }

  static func audio(interpolation: TableInterpolation? = nil) -> AudioQFormerConfiguration {
    var configuration = AudioQFormerConfiguration()
    configuration.qformer = qformer(layers: 2, frequency: 1, width: 15, queries: 3)
    configuration.time.maxFrames = 6
    configuration.time.interpolation = interpolation
    configuration.languageSize = 11
    return configuration
  }

  private static func qformer(layers: Int, frequency: Int, width: Int, queries: Int) -> QFormerConfiguration {
    var configuration = QFormerConfiguration()
    configuration.hiddenSize = 18
    configuration.layers = layers
    configuration.heads = 3
    configuration.intermediateSize = 22
    configuration.layerNormEps = 3e-3
    configuration.crossAttentionFrequency = frequency
    configuration.encoderHiddenSize = width
    configuration.queries = queries
    return configuration
  }

  static func model(
    _ configuration: CascadedVideoConfiguration = configuration()
  ) throws -> (model: CascadedVideoQFormer, parameters: Parameters) {
    let parameters = Parameters()
    let site = configuration.site == .afterFrameQFormer ? "after" : "before"
    let model = try loadModel(
      from: Fixture("video/cascade_weights.safetensors").checkpoint,
      keyMap: KeyMap([KeyMap.Rule("frame_position_embedding", "\(site).frame_position_embedding")]),
      ignoring: ["audio.*", "*.frame_position_embedding.weight"]
    ) { scope -> CascadedVideoQFormer in
      let model = try CascadedVideoQFormer(configuration, scope)
      for (name, tensor) in scope.parameters.all { parameters.insert(name, tensor) }
      return model
    }.model
    return (model, parameters)
  }

  /// The stored features `[2, 40, 7, 13]` cut to clips of so many frames, with rubbish as padding.
  static func clip(_ lengths: [Int], rubbish: Float = .nan) throws -> TimedFeatures {
    let fixture = try Fixture("video/cascade.safetensors")
    let frames = lengths.max() ?? 0
    let mask = Tensor(lengths.flatMap { length in (0..<frames).map { $0 < length ? Int64(1) : 0 } }, [2, frames])
    let features = fixture["in.features"].narrow(1, 0, frames)
      .maskedFill(mask.equal(0).reshaped(2, frames, 1, 1), Double(rubbish))
    return try TimedFeatures(
      features, mask: lengths.allSatisfy { $0 == frames } ? nil : mask,
      seconds: fixture["in.seconds"].narrow(1, 0, frames))
  }
}

/// Compares the gradient of every parameter with the stored one; those that are nothing but rounding are compared with
/// the largest gradient of the model.
func expectGradients(
  _ parameters: Parameters, _ expected: Fixture, _ prefix: String, names: (String) -> String = { $0 },
  relative limit: Double = 1e-5, sourceLocation: SourceLocation = #_sourceLocation
) throws {
  var (largest, worst) = (0.0, (error: 0.0, name: ""))
  for (name, _) in parameters.all { largest = max(largest, expected["\(prefix).\(names(name))"].abs().max().item) }
  for (name, tensor) in parameters.all {
    let truth = expected["\(prefix).\(names(name))"]
    let found = try #require(tensor.grad, "\(name) has no gradient", sourceLocation: sourceLocation)
    #expect(found.shape == truth.shape, "\(name)", sourceLocation: sourceLocation)
    let error = (found - truth).abs().max().item / max(truth.abs().max().item, largest / 100)
    #expect(error <= limit, "\(name): relative error \(error)", sourceLocation: sourceLocation)
    if error > worst.error { worst = (error, name) }
  }
  print("\(prefix): \(parameters.names.count) gradients, worst relative error \(worst.error) of \(worst.name)")
}

/// The cascade against transformers' Q-Formers in float64, whole tensors. Clips were computed alone there, and stand in
/// one padded batch here.
@Suite struct CascadeParityTests {
  struct Case: CustomTestStringConvertible {
    let name: String
    let lengths: [Int]
    var site = FrameEmbeddingSite.afterFrameQFormer
    var encoding = TimeEncoding.learned
    var interpolation: TableInterpolation?
    var testDescription: String { name }

    var configuration: CascadedVideoConfiguration {
      Cascades.configuration(site: site, encoding: encoding, interpolation: interpolation)
    }
  }

  static let cases = [
    Case(name: "one", lengths: [1, 1]), Case(name: "eight", lengths: [8, 5]),
    Case(name: "nearest", lengths: [40, 9], interpolation: .nearest),
    Case(name: "linear", lengths: [40, 23], interpolation: .linear),
    Case(name: "before", lengths: [8, 5], site: .beforeFrameQFormer),
    Case(name: "before_linear", lengths: [40, 23], site: .beforeFrameQFormer, interpolation: .linear),
    Case(name: "sinusoid", lengths: [8, 5], encoding: .sinusoid),
    Case(name: "before_sinusoid", lengths: [8, 5], site: .beforeFrameQFormer, encoding: .sinusoid),
    Case(name: "none", lengths: [8, 5], encoding: .none),
  ]

  let expected: Fixture

  init() throws { expected = try Fixture("video/cascade.safetensors") }

  @Test(arguments: cases) func clipToTokens(_ test: Case) throws {
    let model = try Cascades.model(test.configuration).model
    let clip = try Cascades.clip(test.lengths)
    let read = try model.readVideo(clip, keepsAttention: true)
    expectClose(read.hidden, expected["\(test.name).hidden"], test.name)
    expectClose(try model.languageTokens(read.hidden), expected["\(test.name).tokens"], test.name)
    // Cross-attention in both layers, over all frames' queries; nothing goes to padding.
    #expect(read.crossAttention.map(\.shape) == Array(repeating: [2, 3, 4, clip.frames * 5], count: 2))
    for weights in read.crossAttention {
      expectClose(weights.sum(-1), .ones([2, 3, 4]))
      #expect(weights.select(0, 1).slice(-1, test.lengths[1] * 5).sum().item == 0)
    }
  }

  @Test func framesThenVideo() throws {
    let model = try Cascades.model().model
    let frames = try model.readFrames(Cascades.clip([8, 5]))
    #expect(frames.features.shape == [2, 8, 5, 18])
    let flat = frames.features.reshaped(16, 5, 18)  // [B, T, M, D] → [B · T, M, D]
    expectClose(flat.narrow(0, 0, 13), expected["eight.frames"])
    #expect(flat.slice(0, 13).abs().max().item == 0)
    expectClose(try model.readVideo(frames: frames).hidden, expected["eight.hidden"])
    // From a cache: without the masks of before, with rubbish as padding.
    let rubbish = frames.features.cloned()
    rubbish.select(0, 1).slice(0, 5).copy(from: Tensor(Float.infinity))
    let cached = try TimedFeatures(rubbish, mask: frames.mask)
    expectClose(try model.readVideo(frames: cached).hidden, expected["eight.hidden"])
  }

  @Test(arguments: cases.filter { ["eight", "before_linear"].contains($0.name) }) func gradients(_ test: Case) throws {
    let (model, parameters) = try Cascades.model(test.configuration)
    parameters.setRequiresGrad(true)
    let tokens = try model.languageTokens(model.readVideo(Cascades.clip(test.lengths)).hidden)
    (tokens * expected["in.probe"]).sum().backward()
    let site = test.site == .afterFrameQFormer ? "after" : "before"
    try expectGradients(
      parameters, expected, "\(test.name).gradient",
      names: { $0.hasPrefix("frame_position") ? "\(site).\($0)" : $0 })
  }

  // MARK: Sound

  struct Sound: CustomTestStringConvertible {
    let name: String
    let lengths: [Int]
    let interpolation: TableInterpolation?
    var testDescription: String { name }
  }

  @Test(arguments: [
    Sound(name: "one", lengths: [1, 1], interpolation: nil), Sound(name: "six", lengths: [6, 2], interpolation: nil),
    Sound(name: "linear", lengths: [14, 9], interpolation: .linear),
  ]) func sound(_ test: Sound) throws {
    let parameters = Parameters()
    let model = try loadModel(
      from: Fixture("video/cascade_weights.safetensors").checkpoint,
      ignoring: [
        "temporal.*", "query_tokens", "qformer.*", "vision_model.*", "language_projection.*", "after.*", "before.*",
      ]
    ) { scope -> AudioQFormer in
      let model = try AudioQFormer(Cascades.audio(interpolation: test.interpolation), scope["audio"])
      for (name, tensor) in scope.parameters.all { parameters.insert(name, tensor) }
      return model
    }.model
    parameters.setRequiresGrad(true)
    let pieces = test.lengths[0]
    let mask = Tensor(test.lengths.flatMap { length in (0..<pieces).map { $0 < length ? Int64(1) : 0 } }, [2, pieces])
    let sound = expected["in.sound"].narrow(1, 0, pieces).maskedFill(mask.equal(0).unsqueezed(2), .nan)
    let read = try model.readSound(TimedFeatures(sound, mask: mask), keepsAttention: true)
    expectClose(read.hidden, expected["sound.\(test.name).hidden"])
    let tokens = model.languageTokens(read.hidden)
    expectClose(tokens, expected["sound.\(test.name).tokens"])
    #expect(read.crossAttention.map(\.shape) == Array(repeating: [2, 3, 3, pieces], count: 2))
    if test.name == "six" {
      (tokens * expected["in.sound_probe"]).sum().backward()
      try expectGradients(parameters, expected, "sound.six.gradient")
    }
  }

  // MARK: Video-LLaMA's files

  @Test func videoLLaMAsNames() throws {
    let folder = fixtures.appendingPathComponent("video")
    let file = try Checkpoint(contentsOf: folder.appendingPathComponent("video_llama.pth"))
    let base = try Checkpoint(contentsOf: folder.appendingPathComponent("blip2_t5.pth"))
    let (model, report) = try loadModel(
      from: file, keyMap: VideoLLaMA.video, bases: [BaseCheckpoint(base, keyMap: LAVIS.model)]
    ) { try CascadedVideoQFormer(Cascades.configuration(), $0) }
    #expect(report.isStrict && report.missing.isEmpty && report.unused.isEmpty)
    let own = report.loaded.filter { file.names.contains($0) }
    #expect(own.count == 58, "\(own.count)")
    #expect(
      Set(report.ignored) == [
        "video_Qformer.bert.embeddings.position_ids", "Qformer.bert.embeddings.position_ids",
        "llama_model.model.layers.0.self_attn.rotary_emb.inv_freq",
        "llama_model.model.layers.1.self_attn.rotary_emb.inv_freq",
      ])
    let hidden = try model.readVideo(Cascades.clip([8, 5])).hidden
    expectClose(try model.languageTokens(hidden), expected["eight.tokens"])

    let sound = try Checkpoint(contentsOf: folder.appendingPathComponent("video_llama_audio.pth"))
    let (audio, ofAudio) = try loadModel(from: sound, keyMap: VideoLLaMA.audio) {
      try AudioQFormer(Cascades.audio(), $0["audio"])
    }
    #expect(ofAudio.loaded.count == 58 && ofAudio.ignored == ["audio_Qformer.bert.embeddings.position_ids"])
    let read = try audio.readSound(TimedFeatures(expected["in.sound"].narrow(1, 0, 1)))
    expectClose(audio.languageTokens(read.hidden), expected["sound.one.tokens"])

    // Without the image Q-Former's file, what is missing is named as that file names it.
    let error = #expect(throws: CheckpointError.self) {
      try loadModel(from: file, keyMap: VideoLLaMA.video) {
        try CascadedVideoQFormer(Cascades.configuration(), $0)
      }
    }
    #expect(error?.description.contains("missing: Qformer.bert.embeddings.LayerNorm.weight") == true)
  }

  @Test func publishedNamesAndSizes() throws {
    let golden = try JSONDecoder().decode(
      [String: [String: [Int]]].self,
      from: Data(contentsOf: fixtures.appendingPathComponent("video/video_llama_names.json")))
    let shapes = Shapes()
    _ = try CascadedVideoQFormer(.videoLLaMA, ParameterScope(shapes))
    let own = shapes.found.filter {
      $0.name.hasPrefix("temporal.") || $0.name.hasPrefix("frame_") || $0.name.hasPrefix("language_projection")
    }
    let inFile = Dictionary(uniqueKeysWithValues: own.map { (VideoLLaMA.video($0.name), $0.shape) })
    #expect(inFile.count == 58 && inFile == golden["video"])
    // 18.95 M with queries and positions, the projection left out.
    let count = own.filter { !$0.name.hasPrefix("language") }.reduce(0) { $0 + $1.shape.reduce(1, *) }
    #expect(count == 18_954_240)
    // The frames go through BLIP-2's Q-Former: 107.13 M of its second stage less the projection to OPT-2.7B.
    let projection = 768 * 2560 + 2560
    #expect(shapes.count - own.reduce(0) { $0 + $1.shape.reduce(1, *) } == 107_133_696 - projection)
    let sound = Shapes()
    _ = try AudioQFormer(.videoLLaMA, ParameterScope(sound)["audio"])
    let audio = Dictionary(uniqueKeysWithValues: sound.found.map { (VideoLLaMA.audio($0.name), $0.shape) })
    #expect(audio.count == 58 && audio == golden["audio"])
    #expect(CascadedVideoConfiguration.videoLLaMA.visionNormEps == 1e-5)
    #expect(CascadedVideoConfiguration.videoLLaMA.temporal.layerNormEps == 1e-12)
  }
}
