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

@Suite struct AudioEncoderTests {
  static let speech = fixtures.appendingPathComponent("media/video/speech.flac")

  /// A small Whisper of 80 bands and 1,500 positions in a folder.
  func withWhisper<Result>(_ body: (String, Fixture) throws -> Result) throws -> Result {
    try withTemporaryFolder { folder in
      let fixture = try Fixture("audio/pipeline.safetensors")
      try FileManager.default.copyItem(
        at: fixtures.appendingPathComponent("audio/pipeline.json"), to: folder.appendingPathComponent("config.json"))
      let weights = try fixture.checkpoint.names.filter { $0.hasPrefix("model.") }.map {
        ($0, try fixture.checkpoint.tensor($0))
      }
      try SafetensorsFile.write(weights, to: folder.appendingPathComponent("model.safetensors"))
      return try body(folder.path, fixture)
    }
  }

  func configuration(_ model: String, clips: Int, tokens: Int = 1, stride: Double? = 2, window: Double? = nil)
    -> AudioEncoderConfiguration
  {
    var configuration = AudioEncoderConfiguration()
    (configuration.model, configuration.clips, configuration.tokensPerClip) = (model, clips, tokens)
    (configuration.strideSeconds, configuration.windowSeconds) = (stride, window)
    return configuration
  }

  /// Clips one behind the other: 2.72 seconds are two clips of four that there could be; of the second one's four tokens of
  /// half a second, two begin before the end. Beside it a batch's shorter sound, alone in its clip.
  @Test func featuresEqualTransformers() throws {
    try withWhisper { model, fixture in
      let encoder = try AudioEncoder(configuration(model, clips: 4, tokens: 4))
      let sound = try AudioClip(contentsOf: Self.speech)
      let short = AudioClip(samples: Array(sound.samples.prefix(9_000)), start: 0.25)  // 0.5625 seconds
      let pieces = try encoder.features([short, sound])
      #expect(pieces.features.shape == [2, 16, 12] && encoder.width == 12)
      let mask = try #require(pieces.mask)
      #expect(mask.select(0, 1).values(as: Int.self) == [1, 1, 1, 1, 1, 1, 0, 0] + Array(repeating: 0, count: 8))
      #expect(mask.select(0, 0).values(as: Int.self) == [1, 1] + Array(repeating: 0, count: 14))
      let expected = fixture["two.features"].reshaped(8, 12).narrow(0, 0, 6)
      expectClose(pieces.features.select(0, 1).narrow(0, 0, 6), expected)
      #expect(pieces.features.select(0, 1).narrow(0, 6, 10).abs().max().item == 0)
      #expect(pieces.seconds?.select(0, 1).narrow(0, 0, 6).values(as: Double.self) == [0, 0.5, 1, 1.5, 2, 2.5])
      #expect(pieces.seconds?.select(0, 0).narrow(0, 0, 2).values(as: Double.self) == [0.25, 0.75])
      // What a batch gives is what each sound gives alone.
      let alone = try encoder.features([short])
      expectClose(alone.features.select(0, 0), pieces.features.select(0, 0))
    }
  }

  @Test func evenDistancesEqualTransformers() throws {
    try withWhisper { model, fixture in
      let sound = try AudioClip(contentsOf: Self.speech)
      let encoder = try AudioEncoder(configuration(model, clips: 3, stride: nil))
      let pieces = try encoder.features([sound])
      #expect(pieces.mask == nil)
      expectClose(pieces.features.select(0, 0), fixture["even.features"].squeezed(1))
      let last = sound.duration - 2
      let seconds = pieces.seconds?.values(as: Double.self) ?? []
      #expect(zip(seconds, [0, last / 2, last]).allSatisfy { abs($0 - $1) < 1e-6 } && seconds.count == 3)
    }
  }

  /// The window that Whisper was trained with: silence behind the clip, whose states are dropped.
  @Test func clipsBeforeSilenceEqualTransformers() throws {
    try withWhisper { model, fixture in
      let encoder = try AudioEncoder(configuration(model, clips: 2, tokens: 2, window: 30))
      let pieces = try encoder.features([AudioClip(contentsOf: Self.speech)])
      let expected = fixture["silence.features"].reshaped(4, 12).narrow(0, 0, 3)
      expectClose(pieces.features.select(0, 0).narrow(0, 0, 3), expected)
      #expect(pieces.mask?.values(as: Int.self) == [1, 1, 1, 0])
    }
  }

  @Test func shortWindowEqualsTransformersFeatures() throws {
    let expected = try Fixture("audio/pipeline.safetensors")["mel"]
    let found = LogMel.whisper(try AudioClip(contentsOf: Self.speech).samples, frames: 200)
    let most = (Tensor(found.values, [found.bands, found.frames]) - expected).abs().max().item
    #expect(most <= 1e-4, "\(most)")
  }

  @Test func clipStarts() {
    let follow = AudioEncoderConfiguration()
    #expect(follow.clipStarts(duration: 16) == (0..<8).map { Double($0) * 2 })
    #expect(follow.clipStarts(duration: 3.5) == [0, 2] && follow.clipStarts(duration: 0.01) == [0])
    // A rest of less than a tenth of a second begins no clip, neither within the clips nor behind them.
    #expect(follow.clipStarts(duration: 4.09) == [0, 2] && follow.clipStarts(duration: 4.11) == [0, 2, 4])
    #expect(follow.clipStarts(duration: 16.09) == (0..<8).map { Double($0) * 2 })
    // Too long for clips one behind the other: even distances to the end.
    #expect(follow.clipStarts(duration: 30) == (0..<8).map { Double($0) * 4 })
    let even = AudioEncoderConfiguration.imageBind("x")
    #expect(even.clipStarts(duration: 9) == (0..<8).map { Double($0) })
    #expect(even.clipStarts(duration: 1) == Array(repeating: 0, count: 8))
  }

  @Test func imageBindReadsItsFileAndItsFolder() throws {
    let published = fixtures.appendingPathComponent("audio/imagebind.pth")
    var sizes = ImageBindAudioConfiguration()
    (sizes.hiddenSize, sizes.layers, sizes.heads, sizes.projectionSize) = (12, 2, 2, 8)
    let model = try ImageBindAudio.load(contentsOf: published, configuration: sizes)
    let sound = try AudioClip(contentsOf: Self.speech)
    try withTemporaryFolder { folder in
      try FileManager.default.copyItem(at: published, to: folder.appendingPathComponent("pytorch_model.bin"))
      var fields = try JSONSerialization.jsonObject(with: JSONEncoder().encode(sizes)) as? [String: Any] ?? [:]
      fields["model_type"] = "imagebind_audio_model"
      try JSONSerialization.data(withJSONObject: fields).write(to: folder.appendingPathComponent("config.json"))
      let encoder = try AudioEncoder(.imageBind(folder.path))
      let pieces = try encoder.features([sound, AudioClip(samples: Array(sound.samples.prefix(20_000)))])
      #expect(pieces.features.shape == [2, 8, 8] && pieces.mask == nil)
      // Each clip alone: its own mean, its own picture.
      for (clip, start) in LogMel.clipStarts(8, duration: sound.duration).enumerated() where clip % 3 == 1 {
        let first = Int((start * 16_000).rounded())
        let mel = LogMel.imageBind(Array(sound.samples[first..<first + 32_000]))
        let vector = model.vectors(Tensor(mel.values, [1, 128, 204]))
        expectClose(pieces.features.narrow(0, 0, 1).select(1, clip), vector)
      }
      let mel = LogMel.imageBind(Array(sound.samples.prefix(20_000)))
      expectClose(
        pieces.features.narrow(0, 1, 1).select(1, 7), model.vectors(Tensor(mel.values, [1, 128, 204])))
      for change in [
        { $0.clipSeconds = 3 }, { $0.tokensPerClip = 2 }, { $0.windowSeconds = 30 },
      ] as [(inout AudioEncoderConfiguration) -> Void] {
        var other = AudioEncoderConfiguration.imageBind(folder.path)
        change(&other)
        #expect(throws: PipelineError.self) { try AudioEncoder(other) }
      }
    }
    // The file alone is of the published sizes, which this one is not: every misfit is named.
    let error = #expect(throws: CheckpointError.self) { try AudioEncoder(.imageBind(published.path)) }
    #expect(error?.description.contains("modality_heads.audio.2.weight") == true)
  }

  @Test func badInputIsNamed() throws {
    try withWhisper { model, _ in
      let encoder = try AudioEncoder(configuration(model, clips: 2))
      let sound = AudioClip(samples: [0, 0.1])
      #expect(throws: PipelineError.badInput("no sound to encode")) { try encoder.features([]) }
      #expect(throws: PipelineError.badInput("sound 1 of the batch has no samples")) {
        try encoder.features([sound, AudioClip(samples: [])])
      }
      #expect(try encoder.features([sound]).features.isFinite().all().item == 1)
      for (change, words) in [
        ({ $0.clips = 0 }, "clips is 0"), ({ $0.clipSeconds = 2.01 }, "clip_seconds is 2.01"),
        ({ $0.clipSeconds = .nan }, "clip_seconds is nan"), ({ $0.clipSeconds = 31 }, "up to 30.0"),
        ({ $0.tokensPerClip = 3 }, "tokens_per_clip 3 does not divide the 100 states"),
        ({ $0.windowSeconds = 1 }, "window_seconds is less"), ({ $0.strideSeconds = 0 }, "stride_seconds is 0.0"),
        ({ $0.tokensPerClip = -1 }, "tokens_per_clip is -1"),
      ] as [((inout AudioEncoderConfiguration) -> Void, String)] {
        var other = configuration(model, clips: 2)
        change(&other)
        let error = #expect(throws: PipelineError.self) { try AudioEncoder(other) }
        let text = error?.description ?? ""
        #expect(text.contains("\(model): ") && text.contains(words), "\(words): \(text)")
      }
      try Data(#"{"model_type": "hubert"}"#.utf8).write(to: URL(fileURLWithPath: model + "/config.json"))
      let error = #expect(throws: PipelineError.self) { try AudioEncoder(configuration(model, clips: 2)) }
      let words = "whisper or imagebind_audio_model or imagebind, found model_type hubert"
      #expect(error?.description.contains(words) == true)
    }
    try withTemporaryFolder { folder in
      let store = ModelStore(environment: ["QFORMER_CACHE": folder.path])
      let error = #expect(throws: PipelineError.self) { try AudioEncoder(AudioEncoderConfiguration(), store: store) }
      #expect(error?.description.contains("whisper-tiny-en has not been fetched") == true)
    }
  }

  @Test func configurationGoesThroughJSON() throws {
    let sparse = try JSONDecoder().decode(
      AudioEncoderConfiguration.self, from: Data(#"{"model": "whisper-tiny-en"}"#.utf8))
    #expect(sparse == AudioEncoderConfiguration() && sparse.strideSeconds == 2 && sparse.pieces == 8)
    for one in [sparse, .imageBind("./imagebind"), configuration("x", clips: 3, tokens: 5, stride: 1.5, window: 30)] {
      #expect(try JSONDecoder().decode(AudioEncoderConfiguration.self, from: JSONEncoder().encode(one)) == one)
    }
    let json = String(decoding: try JSONEncoder().encode(AudioEncoderConfiguration.imageBind("x")), as: UTF8.self)
    #expect(json.contains("\"stride_seconds\":null"))
    #expect(throws: DecodingError.self) {
      try JSONDecoder().decode(AudioEncoderConfiguration.self, from: Data("{}".utf8))
    }
  }
}

/// Whisper tiny.en as it was fetched and converted, against CTranslate2 on the same file.
@Suite(.serialized) struct WhisperRealTests {
  @Test(arguments: [(3000, 25), (200, 4)]) func statesEqualCTranslate2(frames: Int, step: Int) throws {
    guard let folder = fetchedModel("whisper-tiny-en") else { return }
    let model = try WhisperEncoder.load(folder: folder)
    #expect(model.configuration == .tiny)
    let mel = LogMel.whisper(try AudioClip(contentsOf: AudioEncoderTests.speech).samples, frames: frames)
    let states = model.states(Tensor(mel.values, [1, 80, frames]))
    #expect(states.shape == [1, frames / 2, 384])
    let expected = try Fixture("audio/real_whisper.safetensors")["\(frames / 100).states"]
    expectClose(states.slice(1, 0, step: step), expected, relative: 1e-3)
  }

  /// From a file to what the small audio Q-Former reads.
  @Test func defaultEncoderReadsSpeech() throws {
    guard let folder = fetchedModel("whisper-tiny-en") else { return }
    let encoder = try AudioEncoder(AudioEncoderConfiguration())
    let sound = try AudioClip(contentsOf: AudioEncoderTests.speech)
    let pieces = try encoder.features([sound])
    #expect(pieces.features.shape == [1, 8, 384] && pieces.lengths == [2])
    let mel = LogMel.whisper(Array(sound.samples[32_000...]), frames: 200)
    let states = try WhisperEncoder.load(folder: folder).states(Tensor(mel.values, [1, 80, 200]))
    expectClose(pieces.features.select(1, 1), states.mean(1))
    let qformer = try AudioQFormer(.small, ParameterScope(FreshParameters(seed: 1)))
    #expect(qformer.configuration.time.maxFrames == encoder.configuration.pieces)
    #expect(try qformer.readSound(pieces).hidden.shape == [1, 8, 384])
  }
}
