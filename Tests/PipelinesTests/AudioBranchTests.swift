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

@Suite("Adapters that hear, on tiny models")
struct AudioBranchTests {
  private let media = fixtures.appendingPathComponent("media")
  /// With a sound track.
  private var loud: URL { media.appendingPathComponent("video/bframes.mp4") }
  /// Without one.
  private var silent: URL { media.appendingPathComponent("video/one.mp4") }

  private func withModels(_ body: (TinyModels, URL) throws -> Void) throws {
    try withTemporaryFolder { folder in
      let models = try TinyModels(in: folder)
      try models.addWhisper()
      let adapter = folder.appendingPathComponent("hearing")
      try TinyModels.writeHearing(to: adapter)
      try body(models, adapter)
    }
  }

  private var options: GenerationOptions {
    var options = GenerationOptions()
    options.maxTokens = 6
    return options
  }

  @Test("Tokens of the sound come before those of the frames; a silent clip has none, alone and in a batch")
  func soundBeforeFrames() throws {
    try withModels { models, folder in
      let model = try VideoPipeline(folder.path, store: models.store)
      let branch = try #require(model.sound)
      let clips = try [loud, silent, media.appendingPathComponent("files/plain.jpg")].map { try model.features(of: $0) }
      #expect(clips.map { $0.sound == nil } == [false, true, true])
      let heard = try #require(clips[0].sound)
      expectClose(heard.features, try branch.encoder.features([AudioClip(contentsOf: loud)]).features)
      let tokens = try model.languageTokens(ofClips: clips)
      #expect(tokens.map { $0.size(0) } == [3 + 3, 3, 3] && branch.tokens == 3)
      let sound = withNoGrad {
        branch.qformer.languageTokens((try? branch.qformer.readSound(heard).hidden) ?? .zeros([]))
      }
      expectClose(tokens[0].narrow(0, 0, 3), sound.select(0, 0))
      let frames = try model.languageTokens(of: VideoFeatures.batch([clips[0]]))
      expectClose(tokens[0].narrow(0, 3, 3), frames.select(0, 0))
      // Rows of unequal numbers of tokens give what each gives alone.
      let prompts = ["a", nil, "a red dog"]
      let answers = try model.describe(clips, prompts: prompts, options: options)
      for (row, clip) in clips.enumerated() {
        #expect(try model.describe([clip], prompts: [prompts[row]], options: options) == [answers[row]])
      }
      let joined = withNoGrad { Tensor.cat([sound, frames], 1) }
      #expect(
        try model.requireLanguage().describe(tokens: joined, prompt: "a", options: options) == [answers[0]])

      let deaf = try VideoPipeline(folder.path, store: models.store, listens: false)
      let unheard = try deaf.features(of: loud)
      #expect(deaf.sound == nil && unheard.sound == nil)
      #expect(try deaf.languageTokens(ofClips: [unheard])[0].size(0) == 3)
      #expect(throws: PipelineError.self) { try deaf.languageTokens(ofClips: clips) }
      // Whoever does not listen needs no audio encoder.
      try FileManager.default.removeItem(at: models.frozen("whisper-tiny-en"))
      _ = try VideoPipeline(folder.path, store: models.store, listens: false)
      #expect(throws: PipelineError.self) { try VideoPipeline(folder.path, store: models.store) }
    }
  }

  @Test("A track that is damaged is an error, not silence")
  func damagedSound() throws {
    try withTemporaryFolder { folder in
      #expect(try AudioClip.track(of: silent) == nil)
      #expect(try AudioClip.track(of: media.appendingPathComponent("video/moving.gif")) == nil)
      #expect(try AudioClip.track(of: loud)?.samples.isEmpty == false)
      let text = folder.appendingPathComponent("x.wav")
      try Data("no sound at all".utf8).write(to: text)
      #expect(throws: MediaError.self) { try AudioClip.track(of: text) }
      let part = try #require(try AudioClip.track(of: loud, during: 0.5...1))
      #expect(abs(part.duration - 0.5) < 1e-3 && part.start < 1e-3)
      #expect(try AudioClip.track(of: loud, during: 100...101) == nil)
      #expect(try AudioClip.track(of: silent, during: 0...1) == nil)
    }
  }

  @Test("Windows hear what is heard while their frames are shown")
  func windows() throws {
    try withModels { models, folder in
      let model = try VideoPipeline(folder.path, store: models.store)
      let frames = try VideoFile(contentsOf: loud).frames(.uniform(8)).frames
      let file = loud
      var describer = try WindowDescriber(
        model, prompt: "a", options: options, listen: { try AudioClip.track(of: file, during: $0) })
      var deaf = try WindowDescriber(model, prompt: "a", options: options)
      var found: [DescribedWindow] = []
      for frame in frames {
        if let window = try describer.append(frame) { found.append(window) }
        if let window = try deaf.append(frame) { #expect(window.soundTokens == 0) }
      }
      #expect(found.map(\.soundTokens) == [3, 3])
      for (window, range) in zip(found, [0..<4, 4..<8]) {
        let part = Array(frames[range])
        let distance = (part[3].seconds - part[0].seconds) / 3
        let sound = try #require(
          try AudioClip.track(of: loud, during: part[0].seconds...part[3].seconds + distance))
        var clip = try VideoFeatures(model.encoder.features(part.map(\.image)), seconds: part.map(\.seconds))
        clip.sound = try model.sound?.encoder.features([sound])
        #expect(try model.describe([clip], prompts: ["a"], options: options) == [window.answer])
      }
    }
  }

  @Test("An adapter for sound alone: no image encoder in its file, text from sounds and tracks")
  func soundAlone() throws {
    try withModels { models, video in
      let folder = models.adapters.appendingPathComponent("listening")
      try TinyModels.writeListening(to: folder)
      let json = try String(contentsOf: folder.appendingPathComponent("config.json"), encoding: .utf8)
      #expect(!json.contains("dinov2") && json.contains("qformer_audio_language"))
      #expect(try AdapterConfiguration(folder: folder) == AdapterConfiguration(audio: TinyModels.audio))
      let model = try AudioPipeline(folder.path, store: models.store)
      let sounds = try [media.appendingPathComponent("video/speech.flac"), loud].map { try model.features(of: $0) }
      let answers = try model.describe(sounds, prompts: ["a", nil], options: options)
      for (row, sound) in sounds.enumerated() {
        let tokens = try model.sound.languageTokens(of: sound)
        #expect(tokens.shape == [1, 3, TinyModels.languageWidth])
        #expect(
          try model.requireLanguage().describe(tokens: tokens, prompt: ["a", nil][row], options: options)
            == [answers[row]])
      }
      #expect(throws: MediaError.self) { try model.features(of: silent) }
      #expect(throws: PipelineError.self) { try VideoPipeline(folder.path, store: models.store) }
      #expect(throws: PipelineError.self) { try ImageLanguagePipeline(folder.path, store: models.store) }
      #expect(throws: PipelineError.self) { try ImageTextPipeline(folder.path, store: models.store) }
      #expect(throws: PipelineError.self) { try AudioPipeline(video.path, store: models.store) }
    }
  }

  @Test("Branches that do not fit their encoder or the other branch are named")
  func misfits() throws {
    try withModels { models, folder in
      for (change, words) in [
        ({ $0.sizes.time.maxFrames = 3 }, "a sound has 4 pieces, but the audio Q-Former tells the time of 3"),
        ({ $0.sizes.qformer.encoderHiddenSize = 16 }, "reads width 16, but the audio encoder gives 12"),
        ({ $0.sizes.languageSize = 24 }, "writes width 24, that of videos 32"),
        ({ $0.encoder.model = "nowhere" }, "nowhere"),
      ] as [((inout AdapterConfiguration.Audio) -> Void, String)] {
        var audio = TinyModels.audio
        change(&audio)
        try TinyModels.writeHearing(to: folder, audio: audio)
        let error = #expect(throws: PipelineError.self) { try VideoPipeline(folder.path, store: models.store) }
        #expect(error?.description.contains(words) == true, "\(words): \(String(describing: error))")
      }
      // Weights of the branch are loaded strictly.
      try TinyModels.writeHearing(to: folder)
      let file = folder.appendingPathComponent("model.safetensors")
      let stored = try SafetensorsFile(contentsOf: file)
      let kept = try stored.names.filter { $0 != "audio.query_tokens" }.map { ($0, try stored.tensor($0).cloned()) }
      try SafetensorsFile.write(kept, to: file)
      let error = #expect(throws: CheckpointError.self) { try VideoPipeline(folder.path, store: models.store) }
      #expect(error?.description.contains("audio.query_tokens") == true)
    }
  }
}
