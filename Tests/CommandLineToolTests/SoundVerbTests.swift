import Backbones
import Checkpoints
import Foundation
import Media
import Pipelines
import QFormer
import TestSupport
import Testing
import Torch

@Suite("Verbs of the command line on models that hear", .serialized)
struct SoundVerbTests {
  private let loud = Workplace.clip("bframes.mp4")
  private let silent = Workplace.clip("one.mp4")

  private func withHearing(_ body: (Workplace, String) throws -> Void) throws {
    try withWorkplace { place in
      try place.models.addWhisper()
      let folder = place.path("hearing")
      try TinyModels.writeHearing(to: URL(fileURLWithPath: folder))
      try body(place, folder)
    }
  }

  @Test("caption, ask: what the library says; a silent clip has no tokens of sound and a note; --no-audio is deaf")
  func caption() throws {
    try withHearing { place, folder in
      let model = try VideoPipeline(folder, store: place.models.store)
      let clips = try [loud, silent].map { try model.features(of: URL(fileURLWithPath: $0)) }
      let expected = try model.describe(clips)
      let both = try place.program.run("caption", loud, silent, "--model", folder, "--json")
      let objects = try both.json()
      #expect(both.code == 0 && objects.map { $0["audio_tokens"] as? Int } == [3, 0], "\(both)")
      #expect(objects.map { $0["token_ids"] as? [Int] } == expected.map(\.tokenIDs))
      #expect(both.errors == "note: \(silent): no sound track: the model reads no tokens of sound\n", "\(both)")

      var unheard = clips[0]
      unheard.sound = nil
      let question = model.questions.prompt("what?")
      let deaf = try place.program.run("ask", loud, "what?", "--model", folder, "--json", "--no-audio")
      let answer = try #require(try deaf.json().first)
      #expect(deaf.code == 0 && deaf.errors.isEmpty && answer["audio_tokens"] as? Int == 0, "\(deaf)")
      #expect(try answer["token_ids"] as? [Int] == model.describe([unheard], prompts: [question])[0].tokenIDs)
      let hearing = try place.program.run("ask", loud, "what?", "--model", folder, "--json")
      #expect(
        try hearing.json().first?["token_ids"] as? [Int]
          == model.describe([clips[0]], prompts: [question])[0].tokenIDs)

      // A stream: a file is heard, a pipe is not.
      let stream = ["caption", "--stream", "--fps", "4", "--model", folder, "--json"]
      let file = try place.program.start(stream + [loud, "--threads", "1"]).finish()
      let windows = try file.json().map { $0["audio_tokens"] as? Int }
      #expect(file.code == 0 && windows.count == 2 && windows.allSatisfy { $0 == 3 }, "\(file)")
      let pipe = try place.program.run(after: "exec < '\(Workplace.clip("deep.mkv"))'", stream + ["-"])
      #expect(pipe.code == 0 && pipe.errors.contains("note: standard input: the sound of a stream"), "\(pipe)")
      #expect(try pipe.json().allSatisfy { $0["audio_tokens"] as? Int == 0 })

      // Models that do not hear say nothing of sound, and cannot be made deaf.
      let other = try place.videoModels().cascaded
      let none = try place.program.run("caption", loud, "--model", other, "--json")
      #expect(try none.code == 0 && none.json().allSatisfy { $0["audio_tokens"] == nil })
      let usage = try place.program.run("caption", loud, "--model", other, "--no-audio")
      #expect(usage.code == 64 && usage.errors.contains("--no-audio: expected a model that reads videos"), "\(usage)")
    }
  }

  @Test("encode: tokens of sound with mask and seconds, zeros for a silent clip; features go in again")
  func encode() throws {
    try withHearing { place, folder in
      let file = place.path("tokens.safetensors")
      let result = try place.program.run("encode", loud, silent, "--output", file, "--model", folder)
      #expect(result.code == 0, "\(result)")
      let tensors = try Checkpoint(contentsOf: URL(fileURLWithPath: file))
      let shapes = [
        "audio_embeds": [2, 4, 12], "audio_mask": [2, 4], "audio_seconds": [2, 4], "audio_query_output": [2, 3, 24],
        "audio_language_tokens": [2, 3, 32], "language_tokens": [2, 3, 32],
      ]
      for (name, shape) in shapes { #expect(tensors.shape(name) == shape, "\(name)") }
      let model = try VideoPipeline(folder, store: place.models.store)
      let sound = try #require(try model.sound?.features(of: URL(fileURLWithPath: loud)))
      #expect(try tensors.tensor("audio_mask").values(as: Int.self) == [1, 1, 1, 1, 0, 0, 0, 0])
      let written = try tensors.tensor("audio_language_tokens")
      expectClose(written.narrow(0, 0, 1), try #require(model.sound).languageTokens(of: sound))
      #expect(written.select(0, 1).abs().max().item == 0)
      let other = place.path("again.safetensors")
      let again = try place.program.run("encode", "--features", file, "--output", other, "--model", folder)
      #expect(again.code == 0, "\(again)")
      let second = try Checkpoint(contentsOf: URL(fileURLWithPath: other))
      for name in shapes.keys { expectClose(try second.tensor(name), try tensors.tensor(name), relative: 1e-5, name) }
      let deaf = try place.program.run("encode", loud, "--output", other, "--model", folder, "--no-audio")
      #expect(deaf.code == 0 && !deaf.output.contains("audio_"), "\(deaf)")
      let refused = try place.program.run(
        "encode", "--features", file, "--output", other, "--model", folder, "--no-audio")
      #expect(refused.code == 65 && refused.errors.contains("the model does not hear"), "\(refused)")
    }
  }

  @Test("inspect: the branch for sound with its tokens and cost")
  func inspect() throws {
    try withHearing { place, folder in
      let object = try #require(try place.program.run("inspect", folder, "--json").json().first)
      #expect(object["audio_tokens"] as? [String: Int] == ["read": 4, "written": 3])
      #expect(object["tokens"] as? [String: Int] == ["read": 4 * 17, "written": 3])
      let sound = TinyModels.audio.sizes.qformer.multiplyAccumulates(imageTokens: 4) + 3 * 24 * 32
      let video = TinyModels.cascaded.multiplyAccumulates(frames: 4, imageTokens: 17) + 3 * 24 * 32
      #expect(object["multiply_accumulates"] as? Int == sound + video)
      #expect((object["frozen"] as? [String: Int])?["whisper-tiny-en"] ?? 0 > 0)
      let table = try place.program.run("inspect", folder)
      #expect(table.output.contains("4 pieces of sound in, 3 out, before the others"), "\(table)")
      #expect(table.output.contains("up to 2 clips of 0.52 s, one every 0.52 s, 2 pieces each"), "\(table)")
    }
  }

  @Test("An adapter for sound alone: caption, ask, encode and inspect sounds; what has none is bad data")
  func soundAlone() throws {
    try withHearing { place, _ in
      let folder = place.path("listening")
      try TinyModels.writeListening(to: URL(fileURLWithPath: folder))
      let model = try AudioPipeline(folder, store: place.models.store)
      let inputs = [Workplace.clip("speech.flac"), loud]
      let sounds = try inputs.map { try model.features(of: URL(fileURLWithPath: $0)) }
      let expected = try model.describe(sounds)
      let result = try place.program.run("caption", inputs[0], inputs[1], "--model", folder, "--json")
      let objects = try result.json()
      #expect(result.code == 0 && objects.map { $0["token_ids"] as? [Int] } == expected.map(\.tokenIDs), "\(result)")
      #expect(objects.allSatisfy { $0["audio_tokens"] as? Int == 3 && $0["frames"] == nil })
      #expect(try place.program.run("ask", inputs[0], "what?", "--model", folder).code == 0)
      for (path, code) in [(silent, 65), (place.pictures[0], 65), (place.path("none.wav"), 66)] as [(String, Int32)] {
        let bad = try place.program.run("caption", path, "--model", folder)
        #expect(bad.code == code && bad.errorLines.count == 1 && bad.errors.contains(path), "\(bad)")
      }
      let frames = try place.program.run("caption", loud, "--model", folder, "--frames", "2")
      #expect(frames.code == 64 && frames.errors.contains("reads sound"), "\(frames)")
      #expect(try place.program.run("match", loud, "--text", "a", "--model", folder).code == 65)
      let file = place.path("tokens.safetensors")
      #expect(try place.program.run("encode", inputs[0], "--output", file, "--model", folder).code == 0)
      let tensors = try Checkpoint(contentsOf: URL(fileURLWithPath: file))
      expectClose(try tensors.tensor("audio_language_tokens"), try model.sound.languageTokens(of: sounds[0]))
      #expect(tensors.shape("image_embeds") == nil)
      let table = try place.program.run("inspect", folder)
      #expect(table.code == 0 && table.output.contains("4 pieces of sound in, 3 out"), "\(table)")
      #expect(!table.output.contains("dinov2"), "\(table)")
    }
  }
}
