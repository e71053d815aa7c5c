import Checkpoints
import Foundation
import Media
import Pipelines
import QFormer
import TestSupport
import Testing
import Torch

@Suite("Bad input on the command line: a code, one line, no crash", .serialized)
struct BadInputTests {
  /// Expects one error line that names the file.
  private func expectFailure(
    _ result: Program.Result, _ code: Int32, names words: String..., sourceLocation: SourceLocation = #_sourceLocation
  ) {
    #expect(result.code == code, "\(result)", sourceLocation: sourceLocation)
    #expect(result.output.isEmpty, "\(result)", sourceLocation: sourceLocation)
    #expect(result.errorLines.count == 1, "\(result)", sourceLocation: sourceLocation)
    for word in words {
      #expect(result.errorLines.first?.contains(word) == true, "\(word) in \(result)", sourceLocation: sourceLocation)
    }
  }

  @Test("Pictures that are none", arguments: ["caption", "match", "encode", "gallery"])
  func pictures(verb: String) throws {
    try withWorkplace { place in
      let jpeg = try TinyPictures.picture(1, width: 64, height: 64).jpegData(quality: 90)
      let cases: [(path: String, code: Int32, words: String)] = [
        (place.path("none.jpg"), 66, "no such file"),
        (place.path("data"), 65, "expected a regular file"),
        (try place.write("empty.jpg", ""), 65, "empty"),
        (try place.write("truncated.jpg", jpeg.prefix(jpeg.count / 2)), 65, "cut off"),
        (try place.write("text.png", "This is no picture.\n"), 65, "expected a picture"),
        (fixtures.appendingPathComponent("media/files/huge.png").path, 65, "30000"),
      ]
      try FileManager.default.createDirectory(atPath: place.path("data"), withIntermediateDirectories: true)
      let rest: [String] =
        switch verb {
        case "match": ["--text", "a dog"]
        case "encode": ["--output", place.path("out.safetensors")]
        case "gallery": ["--output", place.path("gallery")]
        default: []
        }
      // Every case with one verb, one case with the others: the pictures go the same way.
      for (path, code, words) in verb == "caption" ? cases : [cases[3]] {
        let result = try place.program.start([verb, path, "--threads", "1"] + rest).finish()
        if verb == "gallery" {
          #expect(result.code == code && result.errorLines.count == 1, "\(result)")
        } else {
          expectFailure(result, code, names: path, words)
        }
      }
      #expect(!FileManager.default.fileExists(atPath: place.path("out.safetensors")))
    }
  }

  @Test("A picture of one pixel is a picture")
  func onePixel() throws {
    try withWorkplace { place in
      let file = URL(fileURLWithPath: place.path("one.png"))
      try TinyPictures.picture(0, width: 1, height: 1).write(to: file)
      for verb in [["caption"], ["match", "--text", "a dog"], ["gallery", "--output", place.path("page")]] {
        let result = try place.program.start(verb + [file.path, "--threads", "1"]).finish()
        #expect(result.code == 0 && result.errors.isEmpty, "\(result)")
      }
    }
  }

  @Test("Weights that are damaged, cut off or of other shapes")
  func weights() throws {
    try withWorkplace { place in
      let file = place.models.adapters.appendingPathComponent("image-caption/model.safetensors")
      let whole = try Data(contentsOf: file)
      try whole.dropLast(100).write(to: file)
      expectFailure(try place.program.run("caption", place.pictures[0]), 65, names: file.path)
      var long = whole
      long.replaceSubrange(0..<8, with: withUnsafeBytes(of: UInt64(1) << 40) { Data($0) })
      try long.write(to: file)
      expectFailure(try place.program.run("caption", place.pictures[0]), 65, names: file.path)
      try Data().write(to: file)
      expectFailure(try place.program.run("inspect"), 65, names: file.path)
      try whole.write(to: file)

      // Another number of queries in the configuration than in the file.
      var configuration = try AdapterConfiguration(folder: file.deletingLastPathComponent())
      configuration.imageLanguage?.qformer.queries = 5
      try configuration.write(to: file.deletingLastPathComponent())
      let shapes = try place.program.run("caption", place.pictures[0])
      expectFailure(shapes, 65, names: file.deletingLastPathComponent().path)
      #expect(shapes.errors.contains("query_tokens: expected [1, 5, 24], found [1, 4, 24]"), "\(shapes)")

      try FileManager.default.removeItem(at: file)
      let folder = file.deletingLastPathComponent().path
      expectFailure(try place.program.run("caption", place.pictures[0]), 66, names: folder, "model.safetensors")
    }
  }

  @Test("Features that are none, or of another shape")
  func features() throws {
    try withWorkplace { place in
      let output = place.path("out.safetensors")
      func encode(_ file: String) throws -> Program.Result {
        try place.program.run("encode", "--features", file, "--output", output)
      }
      let file = place.path("features.safetensors")
      expectFailure(try encode(file), 66, names: file)
      try place.write("features.safetensors", "no tensors")
      expectFailure(try encode(file), 65, names: file)
      try SafetensorsFile.write([("other", .zeros([1, 17, 16]))], to: URL(fileURLWithPath: file))
      expectFailure(try encode(file), 65, names: file, "image_embeds")
      for shape in [[17, 16], [1, 17, 15], [1, 2, 17, 16]] {
        try SafetensorsFile.write([("image_embeds", .zeros(shape))], to: URL(fileURLWithPath: file))
        expectFailure(try encode(file), 65, names: file, "\(shape)")
      }
      #expect(!FileManager.default.fileExists(atPath: output))
    }
  }

  @Test("Models that are unknown, of another kind or not fetched")
  func models() throws {
    try withWorkplace { place in
      let picture = place.pictures[0]
      expectFailure(try place.program.run("caption", picture, "--model", "gpt-9"), 66, names: "gpt-9", "image-caption")
      expectFailure(
        try place.program.run("caption", picture, "--model", "image-match"), 65, names: "image-match",
        "expected a model that writes text")
      let config = place.models.adapters.appendingPathComponent("image-caption/config.json")
      let good = try Data(contentsOf: config)
      try Data(#"{"model_type": "blip-9"}"#.utf8).write(to: config)
      let other = config.deletingLastPathComponent().path
      expectFailure(try place.program.run("inspect"), 65, names: other, "model_type blip-9")
      try Data("{".utf8).write(to: config)
      expectFailure(try place.program.run("inspect"), 65, names: config.path, "JSON")
      try good.write(to: config)

      try Data(#"{"model_type": "gpt2"}"#.utf8)
        .write(to: place.models.frozen("smollm2-135m-instruct").appendingPathComponent("config.json"))
      expectFailure(
        try place.program.run("caption", picture), 65, names: "smollm2-135m-instruct/config.json", "model_type", "gpt2")
      try FileManager.default.removeItem(at: place.models.frozen("dinov2-small-focus"))
      expectFailure(
        try place.program.run("caption", picture), 69, names: "dinov2-small-focus", "scripts/fetch-models")
      try FileManager.default.removeItem(at: config)
      expectFailure(try place.program.run("caption", picture), 69, names: "image-caption")
      expectFailure(try place.program.run("caption", picture, "--device", "cuda"), 69, names: "cuda")
      expectFailure(try place.program.run("caption", picture, "--precision", "int8"), 69, names: "int8")
    }
  }

  @Test("Recipes and data that are none")
  func recipes() throws {
    try withWorkplace { place in
      let run = place.path("run")
      func train(_ recipe: String, _ more: String...) throws -> Program.Result {
        try place.program.start(["train", recipe, "--output", run, "--threads", "1"] + more).finish()
      }
      expectFailure(try train(place.path("none.yaml")), 66, names: "none.yaml", "no such file")
      expectFailure(try train(try place.write("a.yaml", "batchsize: 3")), 65, names: "a.yaml", "batchsize")
      expectFailure(try train(try place.write("b.yaml", "a: [")), 65, names: "b.yaml")
      let recipe = try place.recipe()
      expectFailure(try train(recipe, "--set", "paths.data=null"), 65, names: "tiny.yaml", "--set paths.data=FOLDER")
      expectFailure(try train(recipe, "--set", "batchSize=0"), 65, names: "tiny.yaml", "batchSize")
      #expect(!FileManager.default.fileExists(atPath: run))
      expectFailure(try train(recipe, "--set", "paths.data=/nowhere/x"), 66, names: "/nowhere/x")
      try FileManager.default.removeItem(atPath: run)
      try Data("no picture".utf8).write(to: URL(fileURLWithPath: place.path("data/train-3.png")))
      expectFailure(try train(recipe), 65, names: "train-3.png", "expected a picture")
      // The folder holds a run now.
      expectFailure(try train(recipe), 65, names: run, "--resume")
    }
  }

  @Test("Files that cannot be written")
  func unwritable() throws {
    try withWorkplace { place in
      let output = "/nowhere/out.safetensors"
      expectFailure(
        try place.program.run("encode", place.pictures[0], "--output", output), 73, names: output, "cannot be written")
      let file = try place.write("file", "")
      let gallery = try place.program.run("gallery", place.pictures[0], "--output", file + "/page")
      #expect(gallery.code == 73 && gallery.errorLines.count == 1 && gallery.errors.contains(file), "\(gallery)")
      let recipe = try place.recipe()
      expectFailure(try place.program.run("train", recipe, "--output", file + "/run"), 73, names: file + "/run")
      if FileManager.default.fileExists(atPath: "/dev/full") {
        let full = try place.program.run(after: "exec >/dev/full", ["inspect"])
        #expect(full.code == 73 && full.errorLines.count == 1, "\(full)")
      }
    }
  }
}
