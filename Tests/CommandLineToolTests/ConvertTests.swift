import Checkpoints
import Foundation
import Pipelines
import TestSupport
import Testing
import Torch

@Suite("convert, and files of another kind, on the command line", .serialized)
struct ConvertTests {
  private let published = fixtures.appendingPathComponent("published/blip2-opt").path
  private let checkpoints = fixtures.appendingPathComponent("checkpoints")

  @Test("convert prints the load report, as a table and as JSON; the folder works")
  func convert() throws {
    try withWorkplace { place in
      let own = try place.program.run("convert", published, place.path("own"), "--to", "qformer", "--json")
      #expect(own.code == 0 && own.errors.isEmpty, "\(own)")
      let report = try #require(try own.json().first)
      #expect(
        Set(report.keys) == [
          "source", "destination", "layout", "architecture", "loaded", "missing", "ignored", "left_out", "files",
          "parts",
        ])
      #expect(report["layout"] as? String == "qformer" && report["source"] as? String == published)
      let count = try Checkpoint(contentsOf: URL(fileURLWithPath: published)).names.count
      #expect(report["loaded"] as? Int == count)
      let parts = try #require(report["parts"] as? [[String: Any]])
      #expect(parts.compactMap { $0["name"] as? String } == ["vision tower", "adapter", "language model"])
      #expect(parts.compactMap { $0["tensors"] as? Int }.reduce(0, +) == count)
      #expect((report["files"] as? [String])?.contains("language/model.safetensors") == true)

      let back = try place.program.run("convert", place.path("own"), place.path("back"))
      #expect(back.code == 0 && back.errors.isEmpty, "\(back)")
      #expect(back.lines.first == "\(place.path("own")) → \(place.path("back"))")
      #expect(back.output.contains("Blip2ForConditionalGeneration, layout huggingface"))
      #expect(back.output.contains("float16") && back.output.contains("language model"))
      let texts = try [published, place.path("own"), place.path("back")].map { model in
        try place.program.run("caption", place.pictures[0], "--model", model, "--max-tokens", "4").output
      }
      #expect(Set(texts).count == 1 && texts[0].count > 1, "\(texts)")
    }
  }

  @Test("A conversion that is killed leaves nothing behind once the same destination has been written")
  func killed() throws {
    try withWorkplace { place in
      func leftovers() -> [String] {
        ((try? FileManager.default.contentsOfDirectory(atPath: place.folder.path)) ?? []).filter {
          $0.hasSuffix(".partial")
        }
      }
      // Killed while it writes, as far as one can aim.
      for _ in 0..<20 where leftovers().isEmpty {
        let running = try place.program.start(["convert", published, place.path("out"), "--to", "qformer"])
        while running.process.isRunning, leftovers().isEmpty { usleep(100) }
        kill(running.process.processIdentifier, SIGKILL)
        _ = try running.finish()
        if leftovers().isEmpty { try? FileManager.default.removeItem(atPath: place.path("out")) }
      }
      #expect(leftovers().count == 1 && !FileManager.default.fileExists(atPath: place.path("out")))
      let again = try place.program.run("convert", published, place.path("out"), "--to", "qformer")
      #expect(again.code == 0, "\(again)")
      #expect(leftovers().isEmpty)
    }
  }

  /// A tokenizer of more words than the model's word table once ended in LibTorch's "index out of range in self".
  @Test("LAVIS' file with its bases, on the command line; a tokenizer of another model is named where it matters")
  func bases() throws {
    try withWorkplace { place in
      let sizes = place.folder.appendingPathComponent("sizes")
      try FileManager.default.createDirectory(at: sizes, withIntermediateDirectories: true)
      try place.write(
        "sizes/config.json",
        """
        {"model_type": "blip-2", "vision_config": {"num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 24,
         "num_hidden_layers": 2, "image_size": 28, "patch_size": 14},
         "qformer_config": {"hidden_size": 12, "num_attention_heads": 2}}
        """)
      let stage1 = checkpoints.appendingPathComponent("lavis_stage1.pth").path
      // Its table has 31 rows: as many words, and one tokenizer that has more.
      let letters = "abcdefghijklmnopqrstuvwxyz".map(String.init)
      let words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"] + letters.prefix(25) + ["dog", "red"]
      try FileManager.default.createDirectory(
        at: place.folder.appendingPathComponent("words"), withIntermediateDirectories: true)
      try place.write("words/vocab.txt", words.joined(separator: "\n"))
      let others = fixtures.appendingPathComponent("tokenizers/word-piece").path
      var scores: [Double] = []
      for layout in ["huggingface", "qformer"] {
        for (name, tokenizer) in [("right", place.path("words")), ("wrong", others)] {
          let out = place.path("\(layout)-\(name)")
          let report = try place.program.run(
            "convert", stage1, out, "--to", layout, "--base", sizes.path, "--base", tokenizer, "--json")
          #expect(report.code == 0 && report.errors.isEmpty, "\(report)")
          let leftOut = try #require(try report.json().first?["left_out"] as? [String])
          #expect(leftOut.contains("temp") == (layout == "huggingface"))
          let match = try place.program.run(
            "match", place.pictures[0], "--text", "red dog", "--model", out, "--json")
          if name == "right" {
            #expect(match.code == 0 && match.lines.count == 1, "\(match)")
            scores.append(try #require(try match.json().first?["itc"] as? Double))
          } else {
            #expect(match.code == 65 && match.errorLines.count == 1 && match.output.isEmpty, "\(match)")
            #expect(match.errors.contains("\(out): the tokenizer gives "), "\(match)")
            #expect(match.errors.contains("word table has 31 rows"), "\(match)")
          }
        }
      }
      // The layouts differ in the epsilon of one norm alone.
      #expect(abs(scores[0] - scores[1]) < 1e-3 && scores[0] != 0, "\(scores)")
    }
  }

  @Test("Files of Video-LLaMA say what they lack; nothing is written", arguments: ["video_llama", "video_llama_audio"])
  func videoLLaMA(name: String) throws {
    try withWorkplace { place in
      let file = fixtures.appendingPathComponent("video/\(name).pth").path
      for (options, code, words) in [
        (["--to", "huggingface"], 64, "transformers has no Video-LLaMA"),
        ([], 64, "--conversation: expected vicuna or"),
        (["--conversation", "vicuna", "--allow-missing", "*"], 64, "must be whole"),
        (["--conversation", "vicuna"], 65, "needs the language model"),
        (["--conversation", "llama-2", "--base", place.path("none")], 66, "none"),
      ] as [([String], Int32, String)] {
        let result = try place.program.start(["convert", file, place.path("out")] + options).finish()
        #expect(result.code == code && result.output.isEmpty && result.errors.contains(words), "\(result)")
        if code != 64 { #expect(result.errors.filter { $0 == "\n" }.count == 1, "\(result)") }
      }
      #expect(!FileManager.default.fileExists(atPath: place.path("out")))
    }
  }

  @Test("Video-LLaMA's parts become a folder that describes and answers")
  func wholeVideoLLaMA() throws {
    try withWorkplace { place in
      let parts = fixtures.appendingPathComponent("video/video_llama_whole")
      let llama = place.folder.appendingPathComponent("llama-7b")
      try FileManager.default.copyItem(at: parts.appendingPathComponent("llama"), to: llama)
      try FileManager.default.copyItem(
        at: fixtures.appendingPathComponent("tokenizers/llama-fast/tokenizer.json"),
        to: llama.appendingPathComponent("tokenizer.json"))
      let names = ["audio.pth", "blip2.pth", "eva_vit_g.pth", "imagebind", "sizes"]
      let bases = names.map { parts.appendingPathComponent($0).path } + [llama.path]
      let arguments = ["convert", parts.appendingPathComponent("video.pth").path, place.path("whole")]
      let converted = try place.program.start(
        arguments + ["--conversation", "vicuna", "--json"] + bases.flatMap { ["--base", $0] }
      ).finish()
      let report = try #require(try converted.json().first, "\(converted)")
      #expect(converted.code == 0 && report["architecture"] as? String == "Video-LLaMA")
      #expect((report["parts"] as? [[String: Any]])?.count == 4 && (report["missing"] as? [String])?.isEmpty == true)
      let clip = fixtures.appendingPathComponent("media/video/bframes.mp4").path
      for verb in [["caption", clip], ["ask", clip, "what is it?"]] {
        let result = try place.program.start(
          verb + ["--model", place.path("whole"), "--max-tokens", "3", "--json", "--threads", "1"]
        ).finish()
        let line = try #require(try result.json().first, "\(result)")
        #expect(result.code == 0 && line["audio_tokens"] as? Int == 2, "\(result)")
        #expect((line["frames"] as? [Double])?.count == 8)
      }
      #expect(try place.program.run("inspect", place.path("whole")).code == 0)
    }
  }

  @Test("What convert cannot do has a code and one line; nothing is written")
  func refusals() throws {
    try withWorkplace { place in
      func expect(_ result: Program.Result, _ code: Int32, _ words: String...) {
        #expect(result.code == code && result.output.isEmpty, "\(result)")
        for word in words { #expect(result.errorLines.first?.contains(word) == true, "\(word) in \(result)") }
      }
      let (out, stage2) = (place.path("out"), checkpoints.appendingPathComponent("lavis_stage2.pth").path)
      let tower = checkpoints.appendingPathComponent("eva_vit_g.pth").path
      expect(try place.program.run("convert", place.path("none.pth"), out), 66, "none.pth: not found")
      expect(try place.program.run("convert", tower, out), 65, tower, "found a bare EVA vision tower")
      let types = checkpoints.appendingPathComponent("types.pth").path
      expect(try place.program.run("convert", types, out), 65, types, "found tensors such as")
      expect(try place.program.run("convert", stage2, out, "--base", place.path("none")), 66, "none: not found")
      expect(try place.program.run("convert", stage2, out, "--base", types), 65, types, "expected a base")
      expect(try place.program.run("convert", stage2, out), 65, stage2, "heads")
      let text = try place.write("text.pth", "hello, this is no checkpoint")
      expect(try place.program.run("convert", text, out), 65, text, "expected a file that torch.save wrote")
      try FileManager.default.createDirectory(atPath: place.path("full"), withIntermediateDirectories: true)
      try place.write("full/file", "")
      expect(try place.program.run("convert", published, place.path("full")), 73, "full", "not empty")
      expect(try place.program.run("convert", published, place.path("text.pth/x")), 73, "text.pth/x")
      let usage = try place.program.start(["convert", published]).finish()
      #expect(usage.code == 64)
      let layout = try place.program.start(["convert", published, out, "--to", "onnx"]).finish()
      #expect(layout.code == 64)
      let left = try FileManager.default.contentsOfDirectory(atPath: place.folder.path)
      #expect(!left.contains("out") && !left.contains { $0.hasSuffix(".partial") }, "\(left)")
    }
  }

  /// A folder's weights once could be another project's file under the right name, and the report named hundreds of keys
  /// without saying whose file it was.
  @Test("Weights of another project are named by what they are")
  func wrongKinds() throws {
    try withWorkplace { place in
      func run(_ name: String, _ weights: URL, _ file: String, verb: [String]) throws -> Program.Result {
        let folder = place.folder.appendingPathComponent(name)
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        try FileManager.default.copyItem(
          atPath: published + "/config.json", toPath: folder.appendingPathComponent("config.json").path)
        try FileManager.default.copyItem(at: weights, to: folder.appendingPathComponent(file))
        return try place.program.start(verb + ["--model", folder.path, "--threads", "1"]).finish()
      }
      let caption = ["caption", place.pictures[0]]
      let stage1 = checkpoints.appendingPathComponent("lavis_stage1.pth")
      let lavis = try run("lavis", stage1, "pytorch_model.bin", verb: caption)
      #expect(lavis.code == 65 && lavis.errors.contains("the file looks like LAVIS' BLIP-2 of stage 1"), "\(lavis)")
      let projection = place.folder.appendingPathComponent("minigpt.safetensors")
      try SafetensorsFile.write(
        [("llama_proj.weight", .zeros([4, 4])), ("llama_proj.bias", .zeros([4]))], to: projection)
      let minigpt = try run("minigpt", projection, "model.safetensors", verb: caption)
      #expect(minigpt.code == 65 && minigpt.errors.contains("MiniGPT-4's trained projection"), "\(minigpt)")
      // A file where a folder is wanted.
      let file = try place.program.run("caption", place.pictures[0], "--model", stage1.path)
      #expect(file.code == 65 && file.errorLines.count == 1, "\(file)")
      #expect(file.errors.contains("LAVIS' BLIP-2 of stage 1") && file.errors.contains("qformer convert"), "\(file)")
    }
  }

  @Test("--allow-missing: by pattern, named on standard error, and nothing else")
  func allowMissing() throws {
    try withWorkplace { place in
      let folder = place.models.adapters.appendingPathComponent("image-caption")
      let file = folder.appendingPathComponent("model.safetensors")
      let whole = try Checkpoint(contentsOf: file)
      let rest = try whole.names.filter { !$0.hasPrefix("language_projection.") }.map { ($0, try whole.tensor($0)) }
      let spare = place.folder.appendingPathComponent("spare.safetensors")
      try SafetensorsFile.write(rest, to: spare)
      try FileManager.default.removeItem(at: file)
      try FileManager.default.moveItem(at: spare, to: file)
      let strict = try place.program.run("caption", place.pictures[0])
      #expect(strict.code == 65 && strict.errors.contains("missing: language_projection.weight"), "\(strict)")
      let other = try place.program.run("caption", place.pictures[0], "--allow-missing", "language_projection.bias")
      #expect(other.code == 65 && !other.errors.contains("missing: language_projection.bias"), "\(other)")
      let encode = ["encode", place.pictures[0], "--output", place.path("x.safetensors")]
      for verb in [["caption", place.pictures[0]], encode] {
        let arguments = verb + ["--allow-missing", "language_projection.*", "--threads", "1"]
        let allowed = try place.program.start(arguments).finish()
        #expect(allowed.code == 0 && !allowed.output.isEmpty, "\(allowed)")
        #expect(
          allowed.errors.contains("initialised afresh: language_projection.weight, language_projection.bias"),
          "\(allowed)")
        let quiet = try place.program.start(arguments + ["--quiet"]).finish()
        #expect(quiet.code == 0 && quiet.errors.isEmpty, "\(quiet)")
      }
      let match = try place.program.run("match", place.pictures[0], "--text", "a", "--allow-missing", "itm_head.*")
      #expect(match.code == 0 && match.errors.isEmpty, "nothing is missing there: \(match)")
    }
  }

  @Test("--top-k 1 takes the likeliest token at any temperature; --stop cuts the text off")
  func generation() throws {
    try withWorkplace { place in
      let model = fixtures.appendingPathComponent("published/instructblip-t5").path
      func caption(_ more: String...) throws -> [String: Any] {
        let common = ["--model", model, "--prompt", "a photo of", "--json", "--max-tokens", "8", "--threads", "1"]
        let result = try place.program.start(["caption", place.pictures[0]] + common + more).finish()
        #expect(result.code == 0, "\(result)")
        return try #require(try result.json().first)
      }
      let greedy = try caption()
      let ids = try #require(greedy["token_ids"] as? [Int])
      let first = try caption("--temperature", "3", "--top-k", "1", "--seed", "5")
      #expect(first["token_ids"] as? [Int] == ids)
      let sampled = try caption("--temperature", "3", "--seed", "5")
      #expect(sampled["token_ids"] as? [Int] != ids)

      let text = try #require(greedy["text"] as? String)
      let letter = try #require(text.dropFirst(1).first { $0.isLetter })
      let stopped = try caption("--stop", String(letter), "--stop", "never to be seen")
      let cut = try #require(stopped["text"] as? String)
      #expect(!cut.contains(letter) && text.hasPrefix(cut) && cut.count < text.count, "\(text) \(cut)")
      for bad in [["--top-k", "-1"], ["--stop", ""]] {
        let result = try place.program.start(["caption", place.pictures[0]] + bad).finish()
        #expect(result.code == 64, "\(result)")
      }
    }
  }

  @Test("ask gives InstructBLIP the question as it is, BLIP-2 its template")
  func questions() throws {
    try withWorkplace { place in
      for (name, prompt) in [("instructblip-t5", "what?"), ("blip2-t5", "Question: what? Answer:")] {
        let model = fixtures.appendingPathComponent("published/\(name)").path
        let asked = try place.program.run("ask", place.pictures[0], "what?", "--model", model, "--json")
        let told = try place.program.run("caption", place.pictures[0], "--prompt", prompt, "--model", model, "--json")
        #expect(asked.code == 0, "\(asked)")
        #expect(
          try asked.json().first?["token_ids"] as? [Int] == told.json().first?["token_ids"] as? [Int], "\(name)")
      }
    }
  }
}
