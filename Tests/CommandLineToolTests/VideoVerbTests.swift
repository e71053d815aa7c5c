import Backbones
import Checkpoints
import Foundation
import Media
import Pipelines
import QFormer
import TestSupport
import Testing
import Torch

extension Workplace {
  /// A clip of the fixtures.
  static func clip(_ name: String) -> String { fixtures.appendingPathComponent("media/video/\(name)").path }

  /// Writes tiny video adapters, and returns their folders.
  func videoModels() throws -> (cascaded: String, spatioTemporal: String) {
    let folders = (path("cascaded"), path("spatio-temporal"))
    try TinyModels.writeCascaded(to: URL(fileURLWithPath: folders.0))
    try TinyModels.writeSpatioTemporal(to: URL(fileURLWithPath: folders.1))
    return folders
  }
}

@Suite("Verbs of the command line on videos", .serialized)
struct VideoVerbTests {
  private let film = Workplace.clip("bframes.mp4")

  @Test("caption, ask: what the library says, with the times of the frames; pictures are clips of one frame")
  func caption() throws {
    try withWorkplace { place in
      let models = try place.videoModels()
      for folder in [models.cascaded, models.spatioTemporal] {
        let model = try VideoPipeline(folder, store: place.models.store)
        let inputs = [film, Workplace.clip("moving.gif"), place.pictures[0], Workplace.clip("moving.webp")]
        let clips = try inputs.map { try model.features(of: URL(fileURLWithPath: $0)) }
        let expected = try model.describe(clips)
        let one = try place.program.run("caption", film, "--model", folder)
        #expect(one.code == 0 && one.errors.isEmpty && one.output == expected[0].text + "\n", "\(one)")
        let several = try place.program.start(["caption", "--json", "--threads", "1", "--model", folder] + inputs)
          .finish()
        #expect(several.code == 0 && several.errors.isEmpty, "\(several)")
        let objects = try several.json()
        #expect(objects.map { $0["input"] as? String } == inputs)
        for (object, (clip, answer)) in zip(objects, zip(clips, expected)) {
          #expect(Set(object.keys) == ["input", "text", "token_ids", "tokens_per_second", "seconds", "frames"])
          #expect(object["token_ids"] as? [Int] == answer.tokenIDs)
          #expect(object["frames"] as? [Double] == clip.seconds)
        }
        let asked = try place.program.run("ask", film, "what?", "--model", folder, "--json", "--frames", "2")
        let question = model.questions.prompt("what?")
        let two = try model.features(of: URL(fileURLWithPath: film), frames: .uniformMiddle(2))
        let answer = try model.describe([two], prompts: [question])[0]
        #expect(try asked.json().first?["token_ids"] as? [Int] == answer.tokenIDs, "\(asked)")
        let growing = try place.program.run("ask", film, "what?", "--model", folder, "--frames", "2", "--stream")
        #expect(growing.output == answer.text + "\n", "\(growing)")
      }
    }
  }

  @Test("gallery: of each video what every model says and answers, with the importance of its frames")
  func gallery() throws {
    try withWorkplace { place in
      let models = try place.videoModels()
      let moving = Workplace.clip("moving.gif")
      let credits = try place.write(
        "credits.json", #"{"pictures": [{"file": "moving.gif", "credit": "Anna & Co", "licence": "CC0"}]}"#)
      let result = try place.program.run(
        "gallery", place.pictures[0], film, moving, "--video-model", models.cascaded, "--video-model",
        models.spatioTemporal, "--question", "what?", "--credits", credits, "--output", place.path("page"), "--json",
        "--max-tokens", "4")
      #expect(result.code == 0 && result.errors.isEmpty, "\(result)")
      let lines = try result.json()
      #expect(lines.count == 5 && lines[0]["model"] == nil)
      let expected = [film, moving].flatMap { path in [models.cascaded, models.spatioTemporal].map { (path, $0) } }
      for (line, (path, folder)) in zip(lines.dropFirst(), expected) {
        #expect(line["input"] as? String == path)
        #expect(line["model"] as? String == URL(fileURLWithPath: folder).lastPathComponent)
        let options = ["--model", folder, "--max-tokens", "4", "--json"]
        let said = try place.program.start(["caption", path] + options).finish().json()[0]
        #expect(line["text"] as? String == said["text"] as? String)
        #expect(line["frames"] as? [Double] == said["frames"] as? [Double])
        let answer = try place.program.start(["ask", path, "what?"] + options).finish().json()[0]
        let answers = try #require(line["answers"] as? [[String: String]])
        #expect(answers == [["question": "what?", "text": try #require(answer["text"] as? String)]])
        let importance = try #require(line["frame_importance"] as? [Double])
        #expect(importance.count == 4 && abs(importance.reduce(0, +) - 1) < 1e-4)
      }
      let page = try String(contentsOfFile: place.path("page") + "/index.html", encoding: .utf8)
      #expect(page.components(separatedBy: "<article>").count == 4)
      #expect(page.contains("Anna &amp; Co, CC0"))
      // Both models saw the same frames, which are drawn once.
      #expect(page.components(separatedBy: "alt=\"frame at").count == 1 + 2 * 4)
      #expect(page.components(separatedBy: "class=\"curve\"").count == 5)
      let pictureless = try place.program.run("gallery", film, "--output", place.path("none"))
      #expect(pictureless.code == 65 && pictureless.errors.contains("found a video"), "\(pictureless)")
      let mute = try place.program.run("gallery", film, "--question", "what?", "--output", place.path("none"))
      #expect(mute.code == 64 && mute.errors.contains("--video-model"), "\(mute)")
    }
  }

  @Test("The frames that are asked for")
  func frames() throws {
    try withWorkplace { place in
      let model = try place.videoModels().cascaded
      let file = try VideoFile(contentsOf: URL(fileURLWithPath: film))
      let cases: [(options: [String], choice: FrameChoice)] = [
        ([], .uniformMiddle(4)), (["--frames", "3"], .uniformMiddle(3)),
        (["--frames-from", "uniform"], .uniform(4)), (["--fps", "2.5"], .rate(2.5)),
        (["--frames", "6", "--frames-from", "head-tail", "--seed", "5"], .headTail(6, seed: 5)),
        (["--frames-from", "middle", "--frames", "1"], .uniformMiddle(1)),
        (["--seconds", "0, 0.5,1.9"], .seconds([0, 0.5, 1.9])),
      ]
      for (options, choice) in cases {
        let arguments = ["caption", film, "--model", model, "--json", "--max-tokens", "1", "--threads", "1"]
        let result = try place.program.start(arguments + options).finish()
        let times = try result.json().first?["frames"] as? [Double]
        #expect(try times == file.frames(choice).frames.map(\.seconds), "\(options): \(result)")
      }
      // More frames than the table has rows, and times that the film does not have: bad data, with the file's name.
      for options in [["--frames", "9"], ["--seconds", "1,100"]] {
        let result = try place.program.start(["caption", film, "--model", model, "--threads", "1"] + options).finish()
        #expect(result.code == 65 && result.output.isEmpty, "\(result)")
        #expect(result.errorLines.count == 1 && result.errors.contains(film), "\(result)")
      }
      let spatio = try place.videoModels().spatioTemporal
      #expect(try place.program.run("caption", film, "--model", spatio, "--frames", "40").code == 0)
      let pictures = try place.program.run("caption", place.pictures[0], "--frames", "3")
      #expect(pictures.code == 64 && pictures.errors.contains("qformer_image_language reads pictures"), "\(pictures)")
    }
  }

  @Test(
    "Choices of frames that exclude each other, or cannot be",
    arguments: [
      ["--frames", "3", "--fps", "1"], ["--fps", "1", "--seconds", "0"], ["--frames-from", "middle", "--seconds", "0"],
      ["--frames", "0"], ["--frames", "5000"], ["--fps", "0"], ["--fps", "nan"], ["--seconds", ""],
      ["--seconds", "1,x"], ["--seconds", "2,1"], ["--frames-from", "end"], ["--window", "0"], ["--stride", "0"],
      ["--window", "2", "--stride", "3"], ["--patience", "0"],
    ])
  func usage(options: [String]) throws {
    let result = try Program(environment: [:]).start(["caption", "x.mp4"] + options).finish()
    #expect(result.code == 64 && result.output.isEmpty, "\(result)")
    #expect(result.errors.contains("Error:") && result.errors.contains("Usage:"), "\(result)")
  }

  @Test("match: the scores of the library, one head or both")
  func match() throws {
    try withWorkplace { place in
      let models = try place.videoModels()
      for folder in [models.cascaded, models.spatioTemporal] {
        let model = try VideoPipeline(folder, store: place.models.store)
        let inputs = [film, place.pictures[1]]
        let clips = try inputs.map { try model.features(of: URL(fileURLWithPath: $0)) }
        let expected = try model.scores(clips, texts: ["a dog", "red"])
        let result = try place.program.run(
          "match", inputs[0], inputs[1], "--text", "a dog", "--text", "red", "--model", folder, "--json")
        let objects = try result.json()
        #expect(result.code == 0 && objects.count == 4, "\(result)")
        for (index, object) in objects.enumerated() {
          #expect(Set(object.keys) == ["input", "text", "itc", "itm", "frames"])
          #expect(object["input"] as? String == inputs[index / 2])
          let score = expected[index / 2][index % 2]
          #expect(abs((object["itc"] as? Double ?? .nan) - (score.itc ?? 0)) < 1e-5)
          #expect(abs((object["itm"] as? Double ?? .nan) - (score.itm ?? 0)) < 1e-5)
        }
        for head in ["itc", "itm"] {
          let one = try place.program.run(
            "match", film, "--text", "a", "--head", head, "--model", folder, "--json", "--frames", "2")
          #expect(try one.json().map { Set($0.keys) } == [["input", "text", "frames", head]])
          #expect((try one.json().first?["frames"] as? [Double])?.count == 2)
        }
      }
      // The language model is not needed.
      try FileManager.default.removeItem(at: place.models.frozen("smollm2-135m-instruct"))
      #expect(try place.program.run("match", film, "--text", "a", "--model", models.cascaded).code == 0)
    }
  }

  @Test("encode: tensors of the contract with mask and seconds; features go in again")
  func encode() throws {
    try withWorkplace { place in
      let models = try place.videoModels()
      for (folder, queries, features) in [(models.cascaded, 3, 3), (models.spatioTemporal, 6, 1)] {
        let file = place.path("tokens.safetensors")
        let result = try place.program.run(
          "encode", film, place.pictures[0], "--output", file, "--model", folder, "--json")
        #expect(result.code == 0, "\(result)")
        let tensors = try Checkpoint(contentsOf: URL(fileURLWithPath: file))
        let shapes = [
          "image_embeds": [2, 4, 17, 16], "query_output": [2, queries, 24], "language_tokens": [2, queries, 32],
          "image_features": [2, features, 8], "seconds": [2, 4], "frame_mask": [2, 4],
        ]
        #expect(Set(tensors.names) == Set(shapes.keys))
        for (name, shape) in shapes { #expect(tensors.shape(name) == shape, "\(name)") }
        #expect(try tensors.tensor("frame_mask").values(as: Int.self) == [1, 1, 1, 1, 1, 0, 0, 0])
        let model = try VideoPipeline(folder, store: place.models.store)
        let clips = try [film, place.pictures[0]].map { try model.features(of: URL(fileURLWithPath: $0)) }
        #expect(try tensors.tensor("seconds").values(as: Double.self) == clips[0].seconds + [0, 0, 0, 0])
        expectClose(try tensors.tensor("query_output"), try model.queries(of: VideoFeatures.batch(clips)))
        expectClose(try tensors.tensor("language_tokens"), try model.languageTokens(of: VideoFeatures.batch(clips)))
        expectClose(try tensors.tensor("image_features").norm(2), .ones([2, features]))

        let other = place.path("again.safetensors")
        let again = try place.program.run("encode", "--features", file, "--output", other, "--model", folder)
        #expect(again.code == 0, "\(again)")
        let second = try Checkpoint(contentsOf: URL(fileURLWithPath: other))
        for name in shapes.keys { expectClose(try second.tensor(name), try tensors.tensor(name), relative: 1e-5, name) }
      }
    }
  }

  @Test("encode --features: what is no clip is refused, seconds are asked for by those who read them")
  func badFeatures() throws {
    try withWorkplace { place in
      let models = try place.videoModels()
      let file = place.path("features.safetensors")
      func encode(_ tensors: [(String, Tensor)], _ model: String) throws -> Program.Result {
        try SafetensorsFile.write(tensors.map { (name: $0.0, tensor: $0.1) }, to: URL(fileURLWithPath: file))
        return try place.program.run("encode", "--features", file, "--output", place.path("out"), "--model", model)
      }
      let embeds = Tensor.randn([2, 3, 17, 16])
      let refused: [(tensors: [(String, Tensor)], model: String, words: String)] = [
        ([("image_embeds", .randn([2, 17, 16]))], models.cascaded, "[B, T, N, Dv]"),
        ([("image_embeds", .randn([2, 3, 17, 15]))], models.cascaded, "16"),
        ([("image_embeds", embeds), ("frame_mask", .ones([2, 4]))], models.cascaded, "frame_mask"),
        ([("image_embeds", embeds), ("frame_mask", .zeros([2, 3]))], models.cascaded, "clip 0 has no frame"),
        ([("image_embeds", embeds), ("seconds", .ones([3]))], models.cascaded, "seconds"),
        ([("image_embeds", embeds)], models.spatioTemporal, "expected seconds [B, T]"),
        ([("other", embeds)], models.cascaded, "image_embeds"),
      ]
      for (tensors, model, words) in refused {
        let result = try encode(tensors, model)
        #expect(result.code == 65 && result.errorLines.count == 1, "\(words): \(result)")
        #expect(result.errors.contains(file) && result.errors.contains(words), "\(words): \(result)")
      }
      let plain = try encode([("image_embeds", embeds)], models.cascaded)
      #expect(plain.code == 0 && !plain.output.contains("seconds"), "\(plain)")
    }
  }

  @Test("inspect: tokens, cost and sizes at the frames of training, beside the other families")
  func inspect() throws {
    try withWorkplace { place in
      let models = try place.videoModels()
      let cases: [(folder: String, kind: String, written: Int, own: String, macs: Int)] = [
        (
          models.cascaded, "qformer_cascaded_video", 3, "cascaded",
          TinyModels.cascaded.multiplyAccumulates(frames: 4, imageTokens: 17) + 3 * 24 * 32
        ),
        (
          models.spatioTemporal, "qformer_spatio_temporal_video", 6, "spatio-temporal",
          TinyModels.spatioTemporal.multiplyAccumulates(frames: 4, imageTokens: 17) + 6 * 24 * 32
        ),
      ]
      for (folder, kind, written, own, macs) in cases {
        let object = try #require(try place.program.run("inspect", folder, "--json").json().first)
        #expect(object["model_type"] as? String == kind)
        #expect(object["tokens"] as? [String: Int] == ["read": 4 * 17, "written": written])
        #expect(object["multiply_accumulates"] as? Int == macs)
        let tensors = try #require(object["tensors"] as? [String: [Int]])
        let count = tensors.values.reduce(0) { $0 + $1.reduce(1, *) }
        #expect((object["parameters"] as? [String: Int])?["adapter"] == count)
        let frozen = ["dinov2-small-focus", "minilm-l6", "smollm2-135m-instruct"]
        #expect(Set((object["frozen"] as? [String: Int] ?? [:]).keys) == Set(frozen))
        let video = try #require(object["video"] as? [String: Any])
        #expect(video["frames"] as? Int == 4)
        let families = try #require(video["families"] as? [[String: Any]])
        #expect(families.map { $0["family"] as? String } == ["image Q-Former", "cascaded", "spatio-temporal"])
        #expect(families.filter { $0["is_model"] as? Bool == true }.map { $0["family"] as? String } == [own])
        let table = try place.program.run("inspect", folder)
        #expect(table.code == 0 && table.output.contains("4 frames of 17 tokens in, \(written) out"), "\(table)")
        #expect(table.lines.contains { $0.hasPrefix("* \(own) ") } && table.output.contains("GMAC a clip"), "\(table)")
        #expect(table.output.contains(own == "cascaded" ? "temporal Q-Former" : "3 spatial, 2 temporal, 1 summary"))
      }
    }
  }

  @Test("InstructBLIP-Video reads clips; models of pictures say who does")
  func otherModels() throws {
    try withWorkplace { place in
      let published = fixtures.appendingPathComponent("published/instructblip-video").path
      let model = try ImageLanguagePipeline(published)
      let frames = try VideoFile(contentsOf: URL(fileURLWithPath: film)).frames(.uniform(4)).frames
      let options = GenerationOptions()
      for prompt in [nil, "what is it?"] as [String?] {
        let expected = try model.describe(clips: [frames.map(\.image)], prompt: prompt, options: options)[0]
        let arguments = ["caption", film, "--model", published, "--json", "--threads", "1"]
        let result = try place.program.start(arguments + (prompt.map { ["--prompt", $0] } ?? [])).finish()
        let object = try #require(try result.json().first, "\(result)")
        #expect(object["token_ids"] as? [Int] == expected.tokenIDs)
        #expect(object["frames"] as? [Double] == frames.map(\.seconds))
      }
      let file = place.path("tokens.safetensors")
      let encoded = try place.program.run("encode", film, place.pictures[0], "--output", file, "--model", published)
      #expect(encoded.code == 0, "\(encoded)")
      let tensors = try Checkpoint(contentsOf: URL(fileURLWithPath: file))
      let features = try withError { try model.encoder.features(frames.map(\.image)).unsqueezed(0) }
      let tokens = try model.languageTokens(features: features)
      expectClose(try tensors.tensor("language_tokens").narrow(0, 0, 1), tokens, relative: 2e-5)
      #expect(tensors.shape("image_embeds")?.prefix(2) == [2, 4])
      #expect(try tensors.tensor("frame_mask").values(as: Int.self) == [1, 1, 1, 1, 1, 0, 0, 0])

      for arguments in [
        ["caption", film], ["ask", film, "what?"], ["match", film, "--text", "a"],
        ["encode", film, "--output", place.path("out")], ["caption", "-", "--stream"],
      ] {
        let result = try place.program.start(arguments + ["--threads", "1"]).finish()
        #expect(result.code == 65 && result.output.isEmpty && result.errorLines.count == 1, "\(result)")
        let kinds = "qformer_cascaded_video, qformer_spatio_temporal_video or instructblipvideo"
        #expect(result.errors.contains(kinds), "\(result)")
      }
      let match = try place.program.run("match", film, "--text", "a", "--model", published)
      #expect(match.code == 65 && match.errors.contains("compares"), "\(match)")
    }
  }

  @Test("Videos that are none, cut off, empty, deaf or huge: a code and one line; the others are read")
  func badVideos() throws {
    try withWorkplace { place in
      let models = try place.videoModels()
      let cases: [(path: String, code: Int32, words: String)] = [
        (place.path("none.mp4"), 66, "no such file"), (place.folder.path, 65, "a folder"),
        (try place.write("empty.mp4", ""), 65, "empty"), (Workplace.clip("cut.mp4"), 65, "expected"),
        (Workplace.clip("header.mp4"), 65, "expected"), (Workplace.clip("sound.mp4"), 65, "sound alone"),
        (Workplace.clip("speech.mp3"), 65, "sound alone"), (Workplace.clip("text.mp4"), 65, "expected"),
        (Workplace.clip("wide.mp4"), 65, "16384"), (Workplace.clip("playlist.mp4"), 65, "expected"),
        (fixtures.appendingPathComponent("media/files/truncated.jpg").path, 65, "cut off"),
        (fixtures.appendingPathComponent("media/files/truncated.gif").path, 65, "cut off"),
      ]
      for (index, (path, code, words)) in cases.enumerated() {
        let folder = index % 2 == 0 ? models.cascaded : models.spatioTemporal
        let result = try place.program.run("caption", path, "--model", folder)
        #expect(result.code == code && result.output.isEmpty, "\(result)")
        #expect(result.errorLines.count == 1, "\(result)")
        #expect(result.errorLines[0].contains(path) && result.errorLines[0].contains(words), "\(words) in \(result)")
      }
      let bad = cases.map(\.path)
      let inputs = [film] + bad + [Workplace.clip("one.mp4"), place.pictures[0]]
      for verb in [["caption"], ["match", "--text", "a"]] {
        let all = try place.program.start(
          verb + inputs + ["--model", models.cascaded, "--json", "--threads", "1"]
        ).finish()
        #expect(all.code == 65 && all.errorLines.count == bad.count + 1, "\(all)")
        #expect(all.errorLines.last?.contains("\(bad.count) of \(inputs.count)") == true)
        #expect(try all.json().map { $0["input"] as? String } == [film, Workplace.clip("one.mp4"), place.pictures[0]])
      }
      let file = place.path("out.safetensors")
      let encoded = try place.program.run("encode", bad[3], film, "--output", file, "--model", models.spatioTemporal)
      #expect(encoded.code == 65 && encoded.errors.contains("1 of 2"), "\(encoded)")
      #expect(try Checkpoint(contentsOf: URL(fileURLWithPath: file)).shape("image_embeds") == [1, 4, 17, 16])

      // A film with holes is read, and says so.
      let holes = try place.program.run(
        "caption", Workplace.clip("damaged.mp4"), "--model", models.spatioTemporal, "--frames", "50", "--json")
      #expect(holes.code == 0 && holes.errors.hasPrefix("note: \(Workplace.clip("damaged.mp4")): "), "\(holes)")
      #expect((try holes.json().first?["lost_packets"] as? Int ?? 0) > 0)
    }
  }
}
