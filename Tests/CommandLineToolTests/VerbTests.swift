import Checkpoints
import Foundation
import Pipelines
import TestSupport
import Testing
import Torch

@Suite("Verbs of the command line", .serialized)
struct VerbTests {
  @Test("caption: text for one input, path and text for several, the same objects with --json")
  func caption() throws {
    try withWorkplace { place in
      let model = try ImageLanguagePipeline(store: place.models.store)
      let first = try model.describe([TinyPictures.picture(0)])[0]
      let one = try place.program.run("caption", place.pictures[0])
      #expect(one.code == 0 && one.errors.isEmpty, "\(one)")
      // The tiny model writes any bytes it likes, line breaks among them.
      #expect(one.output == first.text + "\n")
      let several = try place.program.run("caption", place.pictures[0], place.pictures[1])
      #expect(several.code == 0, "\(several)")
      #expect(several.lines.count == 2)
      for (line, picture) in zip(several.lines, place.pictures) { #expect(line.hasPrefix(picture + "\t"), "\(line)") }

      let json = try place.program.run(
        "caption", place.pictures[0], place.pictures[1], "--json", "--max-tokens", "5", "--prompt", "a red")
      let objects = try json.json()
      #expect(objects.map { $0["input"] as? String } == place.pictures.prefix(2).map { $0 })
      for object in objects {
        #expect(Set(object.keys) == ["input", "text", "token_ids", "tokens_per_second", "seconds"])
        let ids = try #require(object["token_ids"] as? [Int])
        #expect((1...5).contains(ids.count))
        #expect(object["text"] as? String == model.language.text(ids))
        #expect((object["seconds"] as? Double ?? 0) > 0 && (object["tokens_per_second"] as? Double ?? 0) > 0)
      }
      let streamed = try place.program.run("caption", place.pictures[0], "--stream")
      #expect(streamed.output == one.output)
    }
  }

  @Test("caption reads paths from standard input; one bad input does not lose the others")
  func several() throws {
    try withWorkplace { place in
      let text = try place.write("not a picture.png", "hello")
      let paths = [place.pictures[0], text, place.path("none.jpg"), place.pictures[2]]
      let result = try place.program.run(
        "caption", "-", "--json", "--max-tokens", "3", input: paths.joined(separator: "\n") + "\n\n")
      #expect(result.code == 65)
      #expect(try result.json().map { $0["input"] as? String } == [place.pictures[0], place.pictures[2]])
      #expect(result.errorLines.count == 3)
      #expect(result.errorLines[0].contains(text))
      #expect(result.errorLines[1].contains("none.jpg: no such file"))
      #expect(result.errorLines[2].contains("2 of 4"))
      let nothing = try place.program.run("caption", "-")
      #expect(nothing.code == 64)
    }
  }

  @Test("ask puts the question into the template")
  func ask() throws {
    try withWorkplace { place in
      let asked = try place.program.run("ask", place.pictures[0], "what?", "--json", "--max-tokens", "4")
      let prompted = try place.program.run(
        "caption", place.pictures[0], "--prompt", "Question: what? Answer:", "--json", "--max-tokens", "4")
      #expect(asked.code == 0, "\(asked)")
      let (one, other) = (try #require(try asked.json().first), try #require(try prompted.json().first))
      #expect(one["token_ids"] as? [Int] == other["token_ids"] as? [Int])
      #expect(one["input"] as? String == place.pictures[0])
    }
  }

  @Test("match: a line for every pair, with the scores asked for")
  func match() throws {
    try withWorkplace { place in
      let pipeline = try ImageTextPipeline(store: place.models.store)
      let expected = try pipeline.scores([TinyPictures.picture(0), TinyPictures.picture(1)], texts: ["a dog", "red"])
      let result = try place.program.run(
        "match", place.pictures[0], place.pictures[1], "--text", "a dog", "--text", "red", "--json")
      #expect(result.code == 0, "\(result)")
      let objects = try result.json()
      #expect(objects.count == 4)
      for (index, object) in objects.enumerated() {
        #expect(Set(object.keys) == ["input", "text", "itc", "itm"])
        #expect(object["input"] as? String == place.pictures[index / 2])
        #expect(object["text"] as? String == ["a dog", "red"][index % 2])
        let score = expected[index / 2][index % 2]
        #expect(abs((object["itc"] as? Double ?? .nan) - (score.itc ?? 0)) < 1e-5)
        #expect(abs((object["itm"] as? Double ?? .nan) - (score.itm ?? 0)) < 1e-5)
      }
      let itc = try place.program.run("match", place.pictures[0], "--text", "a dog", "--head", "itc", "--json")
      #expect(try itc.json().map { Set($0.keys) } == [["input", "text", "itc"]])
      let table = try place.program.run("match", place.pictures[0], "--text", "a dog")
      #expect(table.lines.count == 1 && table.lines[0].hasSuffix("\ta dog") && table.output.contains("itm 0."))
    }
  }

  @Test("encode: tensors of the contract, from pictures and from features")
  func encode() throws {
    try withWorkplace { place in
      let file = place.path("tokens.safetensors")
      let result = try place.program.run(
        "encode", place.pictures[0], place.pictures[1], "--output", file, "--json")
      #expect(result.code == 0, "\(result)")
      let tensors = try Checkpoint(contentsOf: URL(fileURLWithPath: file))
      let shapes = ["image_embeds": [2, 17, 16], "query_output": [2, 4, 24], "language_tokens": [2, 4, 32]]
      #expect(Set(tensors.names) == Set(shapes.keys))
      for (name, shape) in shapes { #expect(tensors.shape(name) == shape) }
      for object in try result.json() {
        #expect(object["shape"] as? [Int] == shapes[object["name"] as? String ?? ""])
      }
      let other = place.path("again.safetensors")
      let again = try place.program.run("encode", "--features", file, "--output", other)
      #expect(again.code == 0, "\(again)")
      let second = try Checkpoint(contentsOf: URL(fileURLWithPath: other))
      for name in shapes.keys { expectClose(try second.tensor(name), try tensors.tensor(name), relative: 1e-5, name) }

      let text = place.path("text.safetensors")
      let match = try place.program.run("encode", place.pictures[0], "--model", "image-match", "--output", text)
      #expect(match.code == 0, "\(match)")
      let features = try Checkpoint(contentsOf: URL(fileURLWithPath: text))
      #expect(Set(features.names) == ["image_embeds", "query_output", "image_features"])
      #expect(features.shape("image_features") == [1, 4, 8])
      expectClose(try features.tensor("image_features").norm(2), .ones([1, 4]))
      #expect(match.lines.contains("image_features\t[1, 4, 8]"))
    }
  }

  @Test("inspect: what the adapter is made of")
  func inspect() throws {
    try withWorkplace { place in
      let result = try place.program.run("inspect", "image-caption", "--json")
      #expect(result.code == 0, "\(result)")
      let object = try #require(try result.json().first)
      #expect(object["model_type"] as? String == "qformer_image_language")
      #expect((object["tokens"] as? [String: Int]) == ["read": 17, "written": 4])
      let tensors = try #require(object["tensors"] as? [String: [Int]])
      #expect(tensors["language_projection.weight"] == [32, 24])
      let count = tensors.values.reduce(0) { $0 + $1.reduce(1, *) }
      #expect((object["parameters"] as? [String: Int])?["adapter"] == count)
      #expect(Set((object["frozen"] as? [String: Int] ?? [:]).keys) == ["dinov2-small-focus", "smollm2-135m-instruct"])
      #expect((object["multiply_accumulates"] as? Int ?? 0) > 0)
      let table = try place.program.run("inspect", "image-match")
      #expect(table.output.contains("17 image tokens in, 4 out"))
      #expect(table.output.contains("i = 0, 1"))
      try FileManager.default.removeItem(at: place.models.frozen("minilm-l6"))
      #expect(try place.program.run("inspect", "image-match").output.contains("not fetched: minilm-l6"))
    }
  }

  @Test("gallery: a page with captions, best candidates and credits")
  func gallery() throws {
    try withWorkplace { place in
      let candidates = try place.write("sentences.txt", "a red dog\n\na blue circle\n")
      let credits = try place.write(
        "credits.json", #"{"pictures": [{"file": "picture 0.png", "credit": "Anna & Co", "licence": "CC0"}]}"#)
      let output = place.path("page")
      let result = try place.program.run(
        "gallery", place.pictures[0], place.pictures[1], "--candidates", candidates, "--credits", credits, "--output",
        output, "--json", "--max-tokens", "4")
      #expect(result.code == 0, "\(result)")
      for object in try result.json() {
        #expect(Set(object.keys) == ["input", "text", "itc", "itm"])
        let best = (object["itm"] as? [String: Any])?["text"] as? String
        #expect(["a red dog", "a blue circle"].contains(best))
      }
      let page = try String(contentsOfFile: output + "/index.html", encoding: .utf8)
      #expect(page.contains("Anna &amp; Co, CC0"))
      #expect(page.components(separatedBy: "<article>").count == 3)
      let plain = try place.program.run("gallery", place.pictures[0], "--output", place.path("plain"))
      #expect(plain.code == 0 && plain.output.contains("open \(place.path("plain"))/index.html"), "\(plain)")
    }
  }

  @Test("train, evaluate: a recipe becomes an adapter that captions")
  func train() throws {
    try withWorkplace { place in
      let recipe = try place.recipe(epochs: 1, more: "imageLanguage: {maximumTokens: 8}")
      let trained = try place.program.run("train", recipe, "--output", place.path("one"))
      #expect(trained.code == 0, "\(trained)")
      #expect(trained.output == place.path("one/adapter") + "\n")
      let names = try FileManager.default.contentsOfDirectory(atPath: place.path("one")).sorted()
      #expect(names == ["adapter", "checkpoints", "config.yaml", "events.out.tfevents.qformer", "metrics.jsonl"])
      let evaluated = try place.program.run(
        "evaluate", recipe, "--model", place.path("one/adapter"), "--split", "train")
      #expect(evaluated.code == 0, "\(evaluated)")
      let objects = try evaluated.json()
      #expect(objects.count == 1)
      let results = try #require(objects.first?["results"] as? [[String: Any]])
      #expect(results.first?["images"] as? Int == 8)
      #expect(results.first?["set"] as? String == "data-train")
      #expect(results.first?["retrieval"] != nil && results.first?["ridge"] != nil)

      let second = try place.program.run(
        "train", recipe, "--set", "objective=image-language", "--set", "adapter.start=\(place.path("one/adapter"))",
        "--output", place.path("two"), "--json")
      #expect(second.code == 0, "\(second)")
      #expect(try second.json().first?["adapter"] as? String == place.path("two/adapter"))
      let caption = try place.program.run(
        "caption", place.pictures[0], "--model", place.path("two/adapter"), "--max-tokens", "3")
      #expect(caption.code == 0, "\(caption)")
      let captions = try place.program.run("evaluate", recipe, "--model", place.path("two/adapter"))
      let scores = try #require(
        (try captions.json().first?["results"] as? [[String: Any]])?.first?["captions"] as? [String: Any])
      for key in ["ciderD", "bleu4", "blind", "nearest", "samples"] { #expect(scores[key] != nil, "\(key)") }
    }
  }

  @Test("Help lists every verb, and every verb has examples")
  func help() throws {
    let program = Program(environment: [:])
    let verbs = ["caption", "ask", "match", "encode", "explain", "gallery", "train", "evaluate", "convert", "inspect"]
    let root = try program.run("--help")
    #expect(root.code == 0)
    for verb in verbs {
      #expect(root.output.contains("\n  \(verb) "), "\(verb)")
      let help = try program.run(verb, "--help")
      #expect(help.code == 0 && help.output.contains("EXAMPLES:"), "\(verb)")
      #expect(help.output.contains("qformer \(verb) "), "\(verb)")
      #expect(help.output.contains("--threads"), "\(verb)")
    }
    #expect(root.output.contains("EXIT CODES:"))
  }

  @Test(
    "Usage errors are 64",
    arguments: [
      ["caption"], ["capture", "x.jpg"], ["caption", "x.jpg", "--beams", "zero"], ["caption", "x.jpg", "--beams", "0"],
      ["caption", "x.jpg", "--max-tokens", "0"], ["caption", "x.jpg", "--top-p", "2"], ["ask", "x.jpg"],
      ["caption", "x.jpg", "--beams", "2", "--temperature", "1"], ["match", "x.jpg"],
      ["match", "x.jpg", "--text", " "], ["match", "x.jpg", "--text", "a", "--head", "all"], ["encode", "x.jpg"],
      ["encode", "--output", "y"], ["encode", "x.jpg", "--features", "z", "--output", "y"], ["train"],
      ["caption", "x.jpg", "--threads", "0"], ["caption", "x.jpg", "--nonsense"],
    ])
  func usage(arguments: [String]) throws {
    let result = try Program(environment: [:]).start(arguments).finish()
    #expect(result.code == 64, "\(result)")
    #expect(result.output.isEmpty)
    #expect(result.errors.contains("Error:") && result.errors.contains("Usage:"), "\(result)")
  }
}
