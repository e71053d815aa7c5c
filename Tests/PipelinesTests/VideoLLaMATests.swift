import Backbones
import Checkpoints
import Foundation
import Media
import Pipelines
import QFormer
import TestSupport
import Testing
import Torch

/// Video-LLaMA in its published files, tiny, against a reference put together from transformers' parts.
@Suite("Video-LLaMA from its published files")
struct VideoLLaMATests {
  private let folder = fixtures.appendingPathComponent("video/video_llama_whole")

  private func file(_ name: String) -> URL { folder.appendingPathComponent(name) }

  /// The language model with a tokenizer beside it.
  private func llama(in parent: URL) throws -> URL {
    let own = parent.appendingPathComponent("llama-7b")
    try FileManager.default.copyItem(at: file("llama"), to: own)
    try FileManager.default.copyItem(
      at: fixtures.appendingPathComponent("tokenizers/llama-fast/tokenizer.json"),
      to: own.appendingPathComponent("tokenizer.json"))
    return own
  }

  private func bases(in parent: URL) throws -> [URL] {
    try ["audio.pth", "blip2.pth", "eva_vit_g.pth", "imagebind", "sizes"].map(file) + [llama(in: parent)]
  }

  private let seconds = [0.0, 0.24, 0.52, 0.75, 1.26, 1.5, 2.0, 2.44]

  /// The clip of the fixture, as frames and sound.
  private func clip(_ model: VideoPipeline, _ expected: Fixture) throws -> VideoFeatures {
    let pixels = expected["frames"]
    let images = try (0..<8).map {
      try Image(width: 28, height: 28, pixels: pixels.select(0, $0).values(as: UInt8.self))
    }
    var clip = try VideoFeatures(model.encoder.features(images), seconds: seconds)
    let sound = AudioClip(samples: expected["sound"].values(as: Float.self))
    clip.sound = try model.sound?.encoder.features([sound])
    return clip
  }

  @Test("Frames and sound to tokens and logits, with the published words", arguments: VideoLLaMAConversation.allCases)
  func whole(_ conversation: VideoLLaMAConversation) throws {
    try withTemporaryFolder { parent in
      let expected = try Fixture("video/video_llama_whole/expected.safetensors")
      let conversion = try VideoLLaMAConversion(
        file("video.pth"), bases: bases(in: parent), conversation: conversation)
      #expect(conversion.reports.allSatisfy { $0.missing.isEmpty && $0.unused.isEmpty && $0.initialised.isEmpty })
      #expect(
        conversion.reports.flatMap(\.ignored).allSatisfy { $0.hasSuffix("position_ids") || $0.hasSuffix("inv_freq") })
      let own = parent.appendingPathComponent("whole")
      try conversion.write(to: own)
      let model = try VideoPipeline(own.path)
      #expect(model.adapter is CascadedVideoQFormer && model.usualFrames == .uniform(8))
      let clip = try clip(model, expected)
      let tokens = try model.languageTokens(ofClips: [clip])[0]
      #expect(tokens.size(0) == 2 + 3)
      expectClose(tokens.narrow(0, 0, 2), expected["audio_tokens"].select(0, 0), "tokens of sound")
      expectClose(tokens.narrow(0, 2, 3), expected["video_tokens"].select(0, 0), "tokens of frames")

      // The words, and the logits behind them.
      let language = try model.requireLanguage()
      let after = language.promptIDs(model.prompt("what is it?", at: seconds))
      #expect(after == expected["\(conversation.rawValue).after"].values(as: Int.self))
      let causal = try #require(language.model.causal)
      let before = expected["\(conversation.rawValue).before"].values(as: Int.self)
      #expect(language.prefix?.length == before.count)
      #expect([try #require(language.beginID)] + language.ids(conversation.before) == before)
      var silent = clip
      silent.sound = nil
      for (name, clip) in [("logits", clip), ("silent_logits", silent)] {
        let expected = expected["\(conversation.rawValue).\(name)"]
        let rows = try model.languageTokens(ofClips: [clip])[0].unsqueezed(0)
        let logits = withNoGrad {
          let embeds = Tensor.cat(
            [causal.embed(Tensor(before, [1, before.count])), rows, causal.embed(Tensor(after, [1, after.count]))], 1)
          let hidden = causal.forward(inputsEmbeds: embeds, attentionMask: nil)
          return causal.head(hidden.narrow(1, embeds.size(1) - 1, 1).select(1, 0))
        }
        expectClose(logits, expected, name)
        // Generation reads the same: its first token is the likeliest.
        var options = GenerationOptions()
        options.maxTokens = 1
        let first = try model.describe([clip], prompts: ["what is it?"], options: options)[0].tokenIDs.first
        #expect(first == expected.argmax(1).values(as: Int.self)[0], "\(name)")
      }
    }
  }

  @Test("Vicuna stops at ###; nothing asked is a request to describe")
  func words() throws {
    try withTemporaryFolder { parent in
      let own = parent.appendingPathComponent("whole")
      try VideoLLaMAConversion(file("video.pth"), bases: bases(in: parent), conversation: .vicuna).write(to: own)
      let model = try VideoPipeline(own.path)
      #expect(model.questions.prompt("where?") == "where?")
      #expect(
        model.prompt(nil, at: [0, 1.25, 12.06])
          == "The video contains 3 frames sampled at 0.0, 1.2, 12.1 seconds. Describe this video.")
      #expect(VideoLLaMAConversation.vicuna.stops == ["###"])
      let configuration = try AdapterConfiguration(folder: own)
      #expect(configuration.language?.conversation == .vicuna && configuration.frames?.place == .uniform)
      #expect(configuration.audio?.encoder.strideSeconds == nil && configuration.cascaded?.visionNormEps == 1e-5)
      // A file goes the whole way.
      let media = fixtures.appendingPathComponent("media/video/bframes.mp4")
      var options = GenerationOptions()
      options.maxTokens = 3
      let clip = try model.features(of: media)
      #expect(clip.frames == 8 && clip.sound?.frames == 8)
      #expect(try model.describe([clip], options: options).count == 1)
    }
  }

  @Test("One branch alone: deaf without sound, an adapter for sound without a video branch")
  func branches() throws {
    try withTemporaryFolder { parent in
      let expected = try Fixture("video/video_llama_whole/expected.safetensors")
      let language = try llama(in: parent)
      let deaf = parent.appendingPathComponent("deaf")
      try VideoLLaMAConversion(
        file("video.pth"), bases: ["blip2.pth", "eva_vit_g.pth", "sizes"].map(file) + [language],
        conversation: .vicuna
      ).write(to: deaf)
      let video = try VideoPipeline(deaf.path)
      #expect(video.sound == nil)
      let tokens = try video.languageTokens(ofClips: [clip(video, expected)])[0]
      expectClose(tokens, expected["video_tokens"].select(0, 0))
      let blind = parent.appendingPathComponent("blind")
      try VideoLLaMAConversion(
        file("audio.pth"), bases: ["imagebind", "sizes"].map(file) + [language], conversation: .llama2
      ).write(to: blind)
      let audio = try AudioPipeline(blind.path)
      let sound = try audio.sound.encoder.features([AudioClip(samples: expected["sound"].values(as: Float.self))])
      expectClose(try audio.sound.languageTokens(of: sound), expected["audio_tokens"])
      #expect(try audio.describe([sound]).count == 1)
    }
  }

  @Test("Both branches in one file; a key too many or too few, a part that is missing, given twice or foreign")
  func strictness() throws {
    try withTemporaryFolder { parent in
      let bases = try bases(in: parent)
      func branch(_ name: String) throws -> [(name: String, tensor: Tensor)] {
        let checkpoint = try Checkpoint(contentsOf: file(name))
        return try checkpoint.names.filter { !$0.hasSuffix("position_ids") }.map { ($0, try checkpoint.tensor($0)) }
      }
      func write(_ tensors: [(name: String, tensor: Tensor)]) throws -> URL {
        let url = parent.appendingPathComponent("branch.safetensors")
        try SafetensorsFile.write(tensors.map { ($0.name, $0.tensor.cloned()) }, to: url)
        return url
      }
      func words(_ source: URL, _ bases: [URL]) -> String {
        do {
          _ = try VideoLLaMAConversion(source, bases: bases, conversation: .vicuna)
          return "nothing thrown"
        } catch { return "\(error)" }
      }
      let (video, audio) = try (branch("video.pth"), branch("audio.pth"))
      let both = try write(video + audio)
      #expect(try VideoLLaMAConversion.holdsBranch(both))
      #expect(words(both, Array(bases.dropFirst())) == "nothing thrown")
      #expect(words(both, bases).contains("the audio branch has been given already"))
      let lost = "video_Qformer.bert.encoder.layer.1.crossattention.self.key.bias"
      #expect(words(try write(video.filter { $0.name != lost }), bases).contains(lost))
      #expect(words(try write(video + [("video_extra.weight", .zeros([2]))]), bases).contains("video_extra.weight"))
      let short = "audio_Qformer.bert.encoder.layer.0.output_query.dense.bias"
      let cut = audio.filter { $0.name != short }
      #expect(words(try write(video + cut), Array(bases.dropFirst())).contains(short))
      for (index, part) in ["audio", "blip2", "eva", "imagebind"].enumerated() where part != "audio" {
        var others = bases
        others.remove(at: index)
        #expect(words(file("video.pth"), others).contains("as --base"), "\(part)")
      }
      #expect(words(file("video.pth"), Array(bases.dropLast())).contains("needs the language model"))
      #expect(words(file("video.pth"), bases + [file("expected.safetensors")]).contains("expected a branch"))
      #expect(words(file("blip2.pth"), bases.filter { !$0.path.hasSuffix("audio.pth") }).contains("given already"))
      let published = fixtures.appendingPathComponent("video/video_llama.pth")
      #expect(words(published, bases).contains("width"))
      #expect(try !VideoLLaMAConversion.holdsBranch(file("blip2.pth")))
      #expect(try !VideoLLaMAConversion.holdsBranch(folder))
    }
  }
}
