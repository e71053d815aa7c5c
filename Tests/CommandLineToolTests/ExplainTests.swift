import Checkpoints
import Foundation
import Media
import Pipelines
import TestSupport
import Testing
import Torch

@Suite("qformer explain", .serialized)
struct ExplainTests {
  private let film = Workplace.clip("bframes.mp4")

  private func files(_ folder: String) throws -> Set<String> {
    Set(try FileManager.default.contentsOfDirectory(atPath: folder))
  }

  private func page(_ folder: String) throws -> String {
    try String(contentsOfFile: "\(folder)/index.html", encoding: .utf8)
  }

  @Test("Pictures: a page, an overlay and tensors of each, whatever they are called")
  func pictures() throws {
    try withWorkplace { place in
      let copy = place.path("Picture 0.jpg")
      try FileManager.default.copyItem(atPath: place.pictures[0], toPath: copy)
      let odd = place.path("a.b<i>&\"c\".png")
      try FileManager.default.copyItem(atPath: place.pictures[1], toPath: odd)
      let out = place.path("out")
      let result = try place.program.run("explain", place.pictures[0], copy, odd, "--output", out, "--json")
      #expect(result.code == 0 && result.errors.isEmpty, "\(result)")
      let names = ["picture 0", "Picture 0-2", "a-b<i>&\"c\""]
      #expect(try files(out) == Set(names.map { "\($0).png" } + ["index.html", "attention.safetensors"]))
      let lines = try result.json()
      #expect(lines.map { $0["name"] as? String } == names)
      #expect(lines.allSatisfy { Set($0.keys) == ["input", "name", "overlay", "page", "tensors"] })
      let file = try Checkpoint(contentsOf: URL(fileURLWithPath: "\(out)/attention.safetensors"))
      let explainer = try Explainer("image-caption", store: place.models.store)
      for (name, path) in zip(names, [place.pictures[0], copy, odd]) {
        let clip = try explainer.encoder.watch(
          .picture(Image(contentsOf: URL(fileURLWithPath: path))), frames: .uniform(1), name: path)
        let expected = try explainer.explain(clip.features)
        expectClose(try file.tensor("\(name).cross_attention"), expected.crossAttention)
        expectClose(try file.tensor("\(name).query_maps").sum(1), .ones([TinyModels.queries]))
        let overlay = try AttentionOverlay.draw(
          clip.frames[0], weights: expected.patches(expected.summary(), frame: 0), limit: 480)
        #expect(try Image(contentsOf: URL(fileURLWithPath: "\(out)/\(name).png")) == overlay)
      }
      let html = try page(out)
      #expect(html.contains("a.b&lt;i&gt;&amp;&quot;c&quot;.png") && !html.contains("<i>"))
      #expect(html.components(separatedBy: "<article>").count == 4 && !html.contains("src=\"http"))
      #expect(html.components(separatedBy: "<figcaption>").count == 1 + 3 * TinyModels.queries)
      let plain = try place.program.run("explain", odd, "--output", out, "--head", "1", "--query", "3")
      #expect(plain.code == 0 && plain.lines.first == "\(odd)\t\(out)/a-b<i>&\"c\".png", "\(plain)")
      #expect(try page(out).contains("head 1, query 3"))
    }
  }

  @Test("A text: what its words look at")
  func text() throws {
    try withWorkplace { place in
      let out = place.path("out")
      let text = "a <b>red</b> & \"blue\" dog"
      let result = try place.program.run("explain", place.pictures[0], "--output", out, "--text", text, "--json")
      #expect(result.code == 0, "\(result)")
      let tokens = try #require(try result.json().first?["tokens"] as? [String])
      #expect(tokens.first == "[CLS]" && tokens.last == "[SEP]")
      let file = try Checkpoint(contentsOf: URL(fileURLWithPath: "\(out)/attention.safetensors"))
      let found = try file.tensor("picture 0.text_attention")
      #expect(found.shape == [tokens.count, TinyModels.imageTokens])
      expectClose(found.sum(1), .ones([tokens.count]))
      let html = try page(out)
      #expect(html.contains("a &lt;b&gt;red&lt;/b&gt; &amp; &quot;blue&quot; dog") && !html.contains("<b>"))
      let none = try place.program.run(
        "explain", place.pictures[0], "--output", place.path("none"), "--text", "a", "--model", "image-caption")
      #expect(none.code == 65 && none.errorLines.count == 1 && none.errors.contains("no text input"), "\(none)")
      #expect(!FileManager.default.fileExists(atPath: place.path("none")))
    }
  }

  @Test("Videos of both families: strips, a curve, an overlay of each frame")
  func videos() throws {
    try withWorkplace { place in
      let models = try place.videoModels()
      for (folder, groups) in [(models.cascaded, 1), (models.spatioTemporal, 3)] {
        let out = place.path("out-\(groups)")
        let result = try place.program.run(
          "explain", film, place.pictures[0], "--model", folder, "--output", out, "--text", "a red dog", "--frames",
          "5",
          "--json")
        #expect(result.code == 0 && result.errors.isEmpty, "\(result)")
        let frames = (0..<5).map { "bframes.frame-0\($0).png" }
        #expect(
          try files(out) == Set(frames + ["bframes.png", "picture 0.png", "index.html", "attention.safetensors"]))
        let line = try #require(try result.json().first)
        let importance = try #require(line["frame_importance"] as? [Double])
        #expect(importance.count == 5 && abs(importance.reduce(0, +) - 1) < 1e-4)
        #expect((line["segment_importance"] as? [Double])?.count == 4 && (line["seconds"] as? [Double])?.count == 5)
        #expect((line["frame_overlays"] as? [String]) == frames.map { "\(out)/\($0)" })
        let file = try Checkpoint(contentsOf: URL(fileURLWithPath: "\(out)/attention.safetensors"))
        let maps = try file.tensor("bframes.query_maps")
        #expect(maps.shape == [groups == 1 ? 3 : 6, 5, TinyModels.imageTokens])
        expectClose(maps.sum(2).sum(1), .ones([maps.size(0)]))
        expectClose(try file.tensor("bframes.frame_importance"), Tensor(importance), relative: 1e-4)
        #expect(try file.tensor("bframes.text_attention").rank == 3)
        #expect(try file.tensor("picture 0.query_maps").rank == 2 && file.shape("picture 0.frame_importance") == nil)
        let html = try page(out)
        #expect(html.components(separatedBy: "<svg").count == 2 && html.contains("<polyline points=\"50.0,"))
        #expect(html.contains("Spatial queries") == (groups == 3))
        if let keep = ProcessInfo.processInfo.environment["KEEP_EXPLAIN"] {
          try FileManager.default.copyItem(atPath: out, toPath: "\(keep)-\(groups)")
        }
      }
    }
  }

  @Test("Bad inputs do not lose the others; each error has its code and one line")
  func bad() throws {
    try withWorkplace { place in
      let junk = try place.write("junk.png", "no picture")
      let models = try place.videoModels()
      let out = place.path("out")
      let some = try place.program.run("explain", place.pictures[0], junk, place.pictures[1], "--output", out)
      #expect(some.code == 65 && some.errorLines.count == 2 && some.errors.contains("1 of 3"), "\(some)")
      #expect(try files(out) == ["picture 0.png", "picture 1.png", "index.html", "attention.safetensors"])
      let clips = try place.program.run(
        "explain", junk, film, "--output", place.path("clips"), "--model", models.cascaded)
      #expect(clips.code == 65 && clips.errors.contains("1 of 2"), "\(clips)")
      #expect(try files(place.path("clips")).contains("bframes.frame-03.png"))
      for (arguments, code, words) in [
        ([junk], 65, "junk.png"), ([place.path("nothing.png")], 66, "nothing.png"), ([film], 65, "found a video"),
        ([film, "--model", models.cascaded, "--frames", "9"], 65, "\(film): frame 9 is behind the 8 rows"),
        ([place.pictures[0], "--model", "nowhere"], 66, "nowhere"),
      ] {
        let none = place.path("none")
        let result = try place.program.start(["explain", "--output", none, "--threads", "1"] + arguments).finish()
        #expect(result.code == code && result.errorLines.count == 1 && result.errors.contains(words), "\(result)")
        #expect(!FileManager.default.fileExists(atPath: none))
      }
      for arguments in [
        ["--layer", "1"], ["--head", "2"], ["--query", "4"], ["--query", "-1"], ["--text", " "], ["--frames", "3"],
      ] {
        let result = try place.program.start(
          ["explain", place.pictures[0], "--output", place.path("none")] + arguments
        ).finish()
        #expect(result.code == 64, "\(arguments): \(result)")
      }
      let taken = try place.program.run("explain", place.pictures[0], "--output", junk)
      #expect(taken.code == 73 && taken.errorLines.count == 1 && taken.errors.contains("junk.png"), "\(taken)")
      #expect(try String(contentsOfFile: junk, encoding: .utf8) == "no picture")
    }
  }
}
