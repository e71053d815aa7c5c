import Backbones
import Checkpoints
import Foundation
import TestSupport
import Testing
import Torch
import TorchNN

private func read<Configuration: Decodable>(_ name: String) throws -> Configuration {
  try JSONDecoder().decode(
    Configuration.self, from: Data(contentsOf: fixtures.appendingPathComponent("audio/\(name).json")))
}

/// Names, shapes and numbers of parameters of whole models, as the fixture script found them.
private struct Golden: Decodable {
  struct Model: Decodable {
    let count: Int
    let weights: [String: [Int]]?
  }
  let whisper: [String: Model]
  let imagebind: Model
}

private func shapes(_ build: (ParameterScope) -> Void) throws -> [String: [Int]] {
  let source = ParameterShapes()
  try withError { build(ParameterScope(source)) }
  return Dictionary(uniqueKeysWithValues: source.all.map { ($0.name, $0.shape) })
}

private func count(_ shapes: [String: [Int]]) -> Int { shapes.values.reduce(0) { $0 + $1.reduce(1, *) } }

@Suite struct WhisperEncoderTests {
  func model() throws -> (WhisperEncoder, Fixture) {
    let fixture = try Fixture("audio/whisper.safetensors")
    let sizes: WhisperConfiguration = try read("whisper")
    let model = try small(fixture, "model.encoder", ignoring: ["model.decoder.*"]) { WhisperEncoder(sizes, $0) }.model
    return (model, fixture)
  }

  /// The whole window, and shorter ones, as a Whisper with so many positions reads them.
  @Test(arguments: [13, 5, 1]) func statesEqualTransformers(positions: Int) throws {
    let (model, fixture) = try model()
    let states = model.states(fixture["\(positions).mel"])
    #expect(states.shape == [positions == 13 ? 3 : 2, positions, 18])
    expectClose(states, fixture["\(positions).states"])
  }

  @Test func wrongPicturesAreNamed() throws {
    let (model, _) = try model()
    for shape in [[1, 11, 28], [1, 11, 7], [1, 11, 0], [1, 10, 26], [11, 26], [0, 11, 26]] {
      let error = #expect(throws: TorchError.self) { try withError { model.states(.zeros(shape)) } }
      let text = error?.message ?? ""
      #expect(text.contains("[B, 11, F], F even up to 26; found \(shape)"), "\(text)")
    }
  }

  /// Below `model.encoder` beside a decoder, below `encoder` as WhisperModel writes it, and alone.
  @Test(arguments: ["model.encoder.", "encoder.", ""]) func loadsFromFolders(prefix: String) throws {
    let (model, fixture) = try model()
    try withTemporaryFolder { folder in
      try FileManager.default.copyItem(
        at: fixtures.appendingPathComponent("audio/whisper.json"), to: folder.appendingPathComponent("config.json"))
      let encoder = fixture.checkpoint.names.filter { $0.hasPrefix("model.encoder.") }
      var tensors = try encoder.map {
        (prefix + $0.dropFirst("model.encoder.".count), try fixture.checkpoint.tensor($0))
      }
      if !prefix.isEmpty { tensors.append((prefix.replacing("encoder", with: "decoder") + "x", .zeros([2]))) }
      let file = folder.appendingPathComponent("model.safetensors")
      try SafetensorsFile.write(tensors, to: file)
      expectClose(
        try WhisperEncoder.load(folder: folder).states(fixture["13.mel"]), model.states(fixture["13.mel"]), relative: 0)
      // Nothing of the encoder may be left over or missing.
      try SafetensorsFile.write(tensors + [(prefix + "conv3.bias", .zeros([2]))], to: file)
      let unused = #expect(throws: CheckpointError.self) { try WhisperEncoder.load(folder: folder) }
      #expect(unused?.description.contains("conv3.bias") == true)
      try SafetensorsFile.write(tensors.filter { !$0.0.hasSuffix("layers.1.fc2.bias") }, to: file)
      let missing = #expect(throws: CheckpointError.self) { try WhisperEncoder.load(folder: folder) }
      #expect(missing?.description.contains("\(prefix)layers.1.fc2.bias") == true)
    }
  }

  @Test func namesAndCountsArePublished() throws {
    let golden: Golden = try read("published")
    let presets: [(String, WhisperConfiguration)] = [
      ("tiny", .tiny), ("base", .base), ("small", .small), ("medium", .medium), ("large", .large),
      ("large-v3", .largeV3),
    ]
    #expect(golden.whisper.count == presets.count)
    for (name, preset) in presets {
      let found = try shapes { _ = WhisperEncoder(preset, $0) }
      #expect(count(found) == golden.whisper[name]?.count, "\(name)")
      if let weights = golden.whisper[name]?.weights { #expect(found == weights) }
    }
  }

  @Test func sparseConfigurationTakesTheDefaults() throws {
    let sparse = try JSONDecoder().decode(WhisperConfiguration.self, from: Data("{}".utf8))
    #expect(sparse == .tiny && sparse.positions == 1500 && sparse.heads == 6 && sparse.activation == .gelu)
    let sizes: WhisperConfiguration = try read("whisper")
    #expect(sizes.hiddenSize == 18 && sizes.intermediateSize == 29 && sizes.layers == 3 && sizes.heads == 3)
    #expect(sizes.melBands == 11 && sizes.positions == 13)
    #expect(try JSONDecoder().decode(WhisperConfiguration.self, from: JSONEncoder().encode(sizes)) == sizes)
  }

  @Test(arguments: [
    (#"{"encoder_attention_heads": 7}"#, "encoder_attention_heads"), (#"{"d_model": 0}"#, "d_model"),
    (#"{"model_type": "wav2vec2"}"#, "model_type"), (#"{"max_source_positions": 1000000000}"#, "max_source_positions"),
    (#"{"num_mel_bins": "many"}"#, "num_mel_bins"), (#"{"activation_function": "swish9"}"#, "activation_function"),
  ]) func badConfigurationNamesFileAndField(json: String, field: String) throws {
    try withTemporaryFolder { folder in
      try Data(json.utf8).write(to: folder.appendingPathComponent("config.json"))
      let error = #expect(throws: BackboneError.self) { try WhisperEncoder.load(folder: folder) }
      #expect(error?.description.contains("config.json: \(field)") == true, "\(String(describing: error))")
    }
  }
}

@Suite struct ImageBindAudioTests {
  /// The sizes of the fixture, epsilons large enough to be seen.
  static let sizes: ImageBindAudioConfiguration = {
    var sizes = ImageBindAudioConfiguration()
    (sizes.hiddenSize, sizes.layers, sizes.heads, sizes.projectionSize) = (18, 3, 3, 10)
    (sizes.melBands, sizes.frames, sizes.patchSize, sizes.stride) = (29, 41, 6, 5)
    (sizes.stemNormEps, sizes.layerNormEps) = (0.3, 0.1)
    return sizes
  }()

  /// The tensors of the fixture in ImageBind's names, as they would lie in its file.
  func weights(_ fixture: Fixture) throws -> [(String, Tensor)] {
    try fixture.checkpoint.names.filter { $0.hasPrefix("modality_") }.map { ($0, try fixture.checkpoint.tensor($0)) }
  }

  func load(_ tensors: [(String, Tensor)], _ sizes: ImageBindAudioConfiguration = sizes) throws -> ImageBindAudio {
    try withTemporaryFolder { folder in
      let file = folder.appendingPathComponent("weights.safetensors")
      try SafetensorsFile.write(tensors, to: file)
      return try ImageBindAudio.load(contentsOf: file, configuration: sizes)
    }
  }

  @Test func vectorsEqualTheReference() throws {
    let fixture = try Fixture("audio/imagebind.safetensors")
    let model = try load(weights(fixture))
    let vectors = model.vectors(fixture["mel"])
    expectClose(vectors, fixture["vectors"])
    expectClose(vectors.norm(1), .full([3], 20))
    for row in 0..<3 { expectClose(model.vectors(fixture["mel"].narrow(0, row, 1)), vectors.narrow(0, row, 1)) }
  }

  /// The file says how long vectors are, up to 100; without it, the configuration does.
  @Test func lengthOfVectors() throws {
    let fixture = try Fixture("audio/imagebind.safetensors")
    let scale = "modality_postprocessors.audio.1.log_logit_scale"
    let others = try weights(fixture).filter { $0.0 != scale }
    #expect(try others.count + 1 == weights(fixture).count)
    let clipped = try load(others + [(scale, Tensor(Float(log(150.0))))])
    expectClose(clipped.vectors(fixture["mel"]), fixture["vectors.clipped"])
    var sizes = Self.sizes
    sizes.scale = 7
    expectClose(try load(others, sizes).vectors(fixture["mel"]), fixture["vectors"] * (7.0 / 20))
  }

  /// The published picture of 128 × 204 in 228 patches, from a file that `torch.save` wrote.
  @Test func publishedGrid() throws {
    let fixture = try Fixture("audio/imagebind.safetensors")
    var sizes = ImageBindAudioConfiguration()
    (sizes.hiddenSize, sizes.layers, sizes.heads, sizes.projectionSize) = (12, 2, 2, 8)
    let model = try ImageBindAudio.load(
      contentsOf: fixtures.appendingPathComponent("audio/imagebind.pth"), configuration: sizes)
    var values: [Float] = []
    for n in 0..<2 {
      for band in 0..<128 {
        for frame in 0..<204 {
          let (n, band, frame) = (Double(n), Double(band), Double(frame))
          values.append(Float(sin(0.05 * (n + 1) * band) + cos(0.08 * frame - 0.7 * n)))
        }
      }
    }
    expectClose(model.vectors(Tensor(values, [2, 128, 204])), fixture["grid.vectors"])
  }

  /// A folder of Hugging Face's port: its names, the trunk of another sense beside it, sizes in `audio_config`.
  @Test func loadsFromFolders() throws {
    let fixture = try Fixture("audio/imagebind.safetensors")
    let expected = fixture["vectors"]
    let own = try JSONEncoder().encode(Self.sizes)
    let whole = Data("{\"model_type\": \"imagebind\", \"audio_config\": \(String(decoding: own, as: UTF8.self))}".utf8)
    let original = try weights(fixture)
    let renamed = try fixture.checkpoint.renamed(by: ImageBind.audio)
    let ours = try renamed.names.filter { $0.hasPrefix("audio_") }.map { ($0, try renamed.tensor($0)) }
    #expect(ours.count == original.count - 1)  // without the other sense
    for (json, tensors) in [(own, original), (whole, ours + [("vision_model.layernorm.bias", .zeros([2]))])] {
      try withTemporaryFolder { folder in
        try json.write(to: folder.appendingPathComponent("config.json"))
        try SafetensorsFile.write(tensors, to: folder.appendingPathComponent("model.safetensors"))
        expectClose(try ImageBindAudio.load(folder: folder).vectors(fixture["mel"]), expected)
      }
    }
    let error = #expect(throws: CheckpointError.self) {
      try load(original.filter { !$0.0.hasSuffix("blocks.2.attn.bias_k") })
    }
    #expect(error?.description.contains("modality_trunks.audio.blocks.2.attn.bias_k") == true)
    #expect(throws: CheckpointError.self) { try load(original + [("modality_trunks.audio.x", .zeros([2]))]) }
  }

  @Test func namesAndCountArePublished() throws {
    let golden: Golden = try read("published")
    let found = try shapes { _ = ImageBindAudio(.huge, $0) }
    let scale = "modality_postprocessors.audio.1.log_logit_scale"  // a buffer, taken where a file has it
    let named = Dictionary(uniqueKeysWithValues: found.map { (ImageBind.audio($0.key), $0.value) })
    #expect(named.merging([scale: []]) { first, _ in first } == golden.imagebind.weights)
    #expect(ImageBind.audio("audio_postprocessor.log_logit_scale") == scale)
    #expect(count(found) == golden.imagebind.count && golden.imagebind.count == 86_235_648)
  }

  @Test func wrongPicturesAreNamed() throws {
    let model = try load(weights(Fixture("audio/imagebind.safetensors")))
    for shape in [[1, 29, 40], [1, 28, 41], [29, 41], [0, 29, 41], [1, 1, 29, 41]] {
      let error = #expect(throws: TorchError.self) { try withError { model.vectors(.zeros(shape)) } }
      #expect(error?.message.contains("[B, 29, 41]; found \(shape)") == true)
    }
  }

  @Test func sparseConfigurationTakesTheDefaults() throws {
    let json = #"{"model_type": "imagebind", "audio_config": {"model_type": "imagebind_audio_model"}}"#
    for json in [json, "{}"] {
      let sparse = try JSONDecoder().decode(ImageBindAudioConfiguration.self, from: Data(json.utf8))
      #expect(sparse == .huge)
    }
    let huge = ImageBindAudioConfiguration.huge
    #expect(huge.layerNormEps == 1e-6 && huge.stemNormEps == 1e-5 && huge.scale == 20 && huge.mlpRatio == 4)
    #expect(huge.melBands == 128 && huge.frames == 204 && huge.patchSize == 16 && huge.stride == 10)
    let again = try JSONDecoder().decode(ImageBindAudioConfiguration.self, from: JSONEncoder().encode(Self.sizes))
    #expect(again == Self.sizes)
  }

  @Test(arguments: [
    (#"{"num_attention_heads": 7}"#, "num_attention_heads"), (#"{"add_kv_bias": false}"#, "add_kv_bias"),
    (#"{"model_type": "clip"}"#, "model_type"), (#"{"patch_size": 129}"#, "patch_size"),
    (#"{"logit_scale_init_value": 101}"#, "logit_scale_init_value"), (#"{"hidden_act": "relu"}"#, "hidden_act"),
    (#"{"audio_config": {"stride": 0}}"#, "audio_config.stride"), (#"{"mlp_ratio": 1e30}"#, "mlp_ratio"),
  ]) func badConfigurationNamesFileAndField(json: String, field: String) throws {
    try withTemporaryFolder { folder in
      try Data(json.utf8).write(to: folder.appendingPathComponent("config.json"))
      try SafetensorsFile.write([("x", .zeros([1]))], to: folder.appendingPathComponent("model.safetensors"))
      let error = #expect(throws: BackboneError.self) { try ImageBindAudio.load(folder: folder) }
      #expect(error?.description.contains("config.json: \(field)") == true, "\(String(describing: error))")
    }
  }
}
