import Checkpoints
import Foundation
import Media
import Pipelines
import QFormer
import TestSupport
import Testing
import Torch

@Suite("compare, and video adapters made of image adapters, on the command line", .serialized)
struct CompareTests {
  /// Two clips of two pictures each, which differ in their order alone, and a recipe that compares on them.
  private func recipe(_ place: Workplace) throws -> String {
    let data = place.folder.appendingPathComponent("clips")
    try FileManager.default.createDirectory(at: data, withIntermediateDirectories: true)
    for number in 0..<2 {
      try TinyPictures.picture(number).write(to: data.appendingPathComponent("\(number).png"))
    }
    let lines = ["train", "val"].flatMap { split in
      [(0, 1), (1, 0)].map { a, b in
        """
        {"id": "\(split)\(a)", "images": ["\(a).png", "\(b).png"], "split": "\(split)", "captions": ["number \(a)"], \
        "questions": [{"question": "what?", "answer": "\(a)", "choices": ["0", "1"], "task": "order"}]}
        """
      }
    }
    try Data((lines.joined(separator: "\n") + "\n").utf8).write(to: data.appendingPathComponent("captions.jsonl"))
    return try place.write(
      "compare.yaml",
      """
      objective: video-language
      paths: {data: \(data.path)}
      encoder: {block: 1, image_size: 56}
      text: {max_length: 12}
      adapter: {queries: 4, positions: 32, hiddenDropout: 0.0}
      video: {frames: 2, spatioTemporal: {poolingHeads: 4}}
      train: [{format: captions-jsonl, path: $data, split: train}]
      validation: [{format: captions-jsonl, path: $data, split: val}]
      batchSize: 2
      imageLanguage: {questionsPerImage: 1}
      compare: {tokens: 4, samples: 4, clips: 2, seeds: [1, 2], connectors: [mean-pooling, perceiver]}
      """)
  }

  @Test("compare: a table, JSON, a page; what is done is not done again, and more can be added")
  func compare() throws {
    try withWorkplace { place in
      let (file, out) = (try recipe(place), place.path("out"))
      let first = try place.program.run("compare", file, "--output", out, "--seeds", "1")
      #expect(first.code == 0 && first.errors.isEmpty, "\(first)")
      #expect(
        first.lines.first?.hasPrefix("connector") == true && first.output.contains("Perceiver resampler"), "\(first)")
      let second = try place.program.run("compare", file, "--output", out, "--json", "--connectors", "mean-pooling")
      let object = try #require(try second.json().first, "\(second)")
      let rows = try #require(object["rows"] as? [[String: Any]])
      #expect(rows.map { $0["connector"] as? String } == ["mean-pooling"] && object["missing"] as? Int == 0)
      #expect(rows[0]["seeds"] as? [Int] == [1, 2])
      let cost = try #require(rows[0]["cost"] as? [String: Any])
      #expect(cost["tokens"] as? Int == 19 && cost["multiplyAccumulates"] as? Int == 19 * (16 * 24 + 24 * 32))
      #expect(cost["parameters"] as? Int == 32 + 16 * 24 + 24 + 24 * 32 + 32)
      let results = try FileManager.default.contentsOfDirectory(atPath: out + "/results").sorted()
      #expect(results == ["mean-pooling-1.json", "mean-pooling-2.json", "perceiver-1.json"])
      #expect(try String(contentsOfFile: out + "/comparison.html", encoding: .utf8).contains("<svg"))

      let other = try place.program.run("compare", file, "--output", out, "--set", "batchSize=1")
      #expect(other.code == 65 && other.errorLines.count == 1 && other.errors.contains("another recipe"), "\(other)")
      let none = try place.program.run("compare", place.path("none.yaml"))
      #expect(none.code == 66 && none.errors.contains("none.yaml"), "\(none)")
      try place.write("out/results/perceiver-1.json", "{")
      let broken = try place.program.run("compare", file, "--output", out, "--seeds", "1")
      #expect(broken.code == 65 && broken.errors.contains("perceiver-1.json"), "\(broken)")
    }
  }

  @Test("--cost: tokens and multiply–accumulates by hand, several numbers of frames, no data")
  func cost() throws {
    try withWorkplace { place in
      let file = try recipe(place)
      let result = try place.program.run(
        "compare", file, "--cost", "--connectors", "mean-pooling,joint", "--frames", "2,3", "--json")
      let objects = try result.json()
      #expect(result.code == 0 && objects.count == 4, "\(result)")
      let costs = objects.compactMap { $0["cost"] as? [String: Any] }
      #expect(
        costs.map { $0["frames"] as? Int } == [2, 3, 2, 3] && costs.map { $0["tokens"] as? Int } == [19, 20, 4, 4])
      // Two layers of self-attention 4 · 4 · 24² + 2 · 4² · 24 and feed-forward 2 · 4 · 24 · 32, one cross-attention of
      // 2 · 4 · 24² + 2 · n · 16 · 24 + 2 · 4 · n · 24 on n = 17 T keys, a projection of 4 · 24 · 32.
      let joint = [34, 51].map { 2 * (9216 + 768 + 6144) + 4608 + 960 * $0 + 3072 }
      #expect(costs.suffix(2).map { $0["multiplyAccumulates"] as? Int } == joint)
      for cost in costs { #expect((cost["milliseconds"] as? Double ?? 0) > 0 && cost["peakBytes"] as? Int != nil) }

      let table = try place.program.run(
        "compare", "--cost", "--scale", "small", "--connectors", "mean-pooling", "--frames", "2")
      #expect(table.code == 0 && table.lines.count == 2 && table.lines[1].contains("67"), "\(table)")
    }
  }

  @Test(
    "What compare and convert cannot make sense of is a usage error",
    arguments: [
      ["compare"], ["compare", "--cost"], ["compare", "r.yaml", "--scale", "small"],
      ["compare", "r.yaml", "--cost", "--scale", "small"], ["compare", "r.yaml", "--connectors", "pooling"],
      ["compare", "r.yaml", "--connectors", "joint,joint"], ["compare", "r.yaml", "--seeds", "1,x"],
      ["compare", "--cost", "--scale", "small", "--frames", "0"], ["compare", "r.yaml", "--frames", "8"],
      ["convert", "a"], ["convert", "a", "b", "--output", "c"], ["convert", "a", "b", "--frames", "3"],
      ["convert", "a", "b", "--to", "cascaded", "--temporal-queries", "3"],
      ["convert", "a", "b", "--to", "spatio-temporal", "--frames", "0"],
    ])
  func usage(arguments: [String]) throws {
    let result = try Program(environment: [:]).start(arguments).finish()
    #expect(result.code == 64 && result.output.isEmpty, "\(result)")
    #expect(result.errors.contains("Error:") && result.errors.contains("Usage:"), "\(result)")
  }

  @Test("--help has examples and the names of all connectors")
  func help() throws {
    let result = try Program(environment: [:]).run("compare", "--help")
    #expect(result.code == 0 && result.output.contains("EXAMPLES:"))
    for name in ["mean-pooling", "spatio-temporal-compact", "spatio-temporal-time-before", "image-qformer-all"] {
      #expect(result.output.contains(name), "\(name)")
    }
    #expect(try Program(environment: [:]).run("convert", "--help").output.contains("--to spatio-temporal"))
  }

  @Test("convert --to spatio-temporal: before any training, the mean of the frames read as the source reads an image")
  func expansion() throws {
    try withWorkplace { place in
      let film = Workplace.clip("bframes.mp4")
      let video = place.path("video")
      let made = try place.program.run(
        "convert", "image-caption", "--to", "spatio-temporal", "--output", video, "--temporal-queries", "0",
        "--summary-queries", "0", "--frames", "4", "--json")
      let report = try #require(try made.json().first, "\(made)")
      #expect(made.code == 0 && report["model_type"] as? String == "qformer_spatio_temporal_video")
      let fresh = try #require(report["fresh"] as? [String])
      #expect(
        fresh.allSatisfy { $0.hasPrefix("pooling.") || ["time_embedding.weight", "importance_scale"].contains($0) })

      // A clip through the new adapter; the mean of what it reads, as a picture, through its source.
      let (clip, picture) = (place.path("clip.safetensors"), place.path("picture.safetensors"))
      let encoded = try place.program.run("encode", film, "--output", clip, "--model", video)
      #expect(encoded.code == 0, "\(encoded)")
      let tensors = try Checkpoint(contentsOf: URL(fileURLWithPath: clip))
      let embeds = try tensors.tensor("image_embeds")
      #expect(embeds.shape == [1, 4, 17, 16])
      let mean = place.path("mean.safetensors")
      try SafetensorsFile.write([("image_embeds", embeds.mean(1).contiguous())], to: URL(fileURLWithPath: mean))
      let read = try place.program.run("encode", "--features", mean, "--output", picture, "--model", "image-caption")
      #expect(read.code == 0, "\(read)")
      let expected = try Checkpoint(contentsOf: URL(fileURLWithPath: picture))
      for name in ["query_output", "language_tokens"] {
        expectClose(try tensors.tensor(name), try expected.tensor(name), relative: 2e-5, name)
      }
      // Not what a single frame says.
      try SafetensorsFile.write(
        [("image_embeds", embeds.select(1, 0).contiguous())], to: URL(fileURLWithPath: mean))
      _ = try place.program.run("encode", "--features", mean, "--output", picture, "--model", "image-caption")
      let single = try Checkpoint(contentsOf: URL(fileURLWithPath: picture)).tensor("query_output")
      #expect(relativeError(try tensors.tensor("query_output"), single) > 1e-5)
    }
  }

  @Test(
    "convert: all groups of queries, from both kinds of image adapters and BLIP-2; a cascade; what cannot be made is said"
  )
  func otherExpansions() throws {
    try withWorkplace { place in
      func convert(_ source: String, _ to: String, _ name: String) throws -> Program.Result {
        try place.program.run("convert", source, place.path(name), "--to", to, "--json")
      }
      for source in ["image-caption", "image-match"] {
        for family in ["spatio-temporal", "cascaded"] {
          let name = "\(source)-\(family)"
          let made = try convert(source, family, name)
          #expect(made.code == 0 && made.errors.isEmpty, "\(made)")
          let verb = source == "image-caption" ? ["caption"] : ["match", "--text", "red"]
          let used = try place.program.start(
            verb + [Workplace.clip("bframes.mp4"), "--model", place.path(name), "--threads", "1"]
          ).finish()
          #expect(used.code == 0, "\(used)")
        }
      }
      let whole = try VideoPipeline(place.path("image-caption-spatio-temporal"), store: place.models.store)
      let model = try #require(whole.adapter as? SpatioTemporalQFormer)
      #expect(model.configuration.spatialQueries == 4 && model.configuration.temporalQueries == 4)
      #expect(model.configuration.summaryQueries == 1 && model.configuration.languageTokens == 9)
      let clip = try TimedFeatures(Tensor.randn([2, 5, 17, 16], generator: Generator(seed: 3)), areEmbeds: true)
      let pooled = try model.pool(clip)
      expectClose(pooled.places, clip.features.mean(1), relative: 2e-6)
      expectClose(pooled.frames, clip.features.mean(2), relative: 2e-6)

      let published = fixtures.appendingPathComponent("published/blip2-opt").path
      let blip = try convert(published, "spatio-temporal", "blip")
      #expect(blip.code == 0, "\(blip)")
      let inside = try FileManager.default.contentsOfDirectory(atPath: place.path("blip")).sorted()
      #expect(inside.contains("encoder") && inside.contains("language") && !inside.contains("image"), "\(inside)")
      let told = try place.program.run(
        "caption", Workplace.clip("bframes.mp4"), "--model", place.path("blip"), "--max-tokens", "3")
      #expect(told.code == 0, "\(told)")

      let again = try convert(place.path("image-caption-cascaded"), "spatio-temporal", "again")
      #expect(again.code == 65 && again.errorLines.count == 1, "\(again)")
      #expect(again.errors.contains("expected an adapter of images"), "\(again)")
      let none = try convert(place.path("none"), "cascaded", "again")
      #expect(none.code == 66 && none.errorLines.count == 1, "\(none)")
      let full = try convert("image-caption", "cascaded", "blip")
      #expect(full.code == 73 && full.errors.contains("not empty"), "\(full)")
      #expect(!FileManager.default.fileExists(atPath: place.path("again")))
    }
  }

  @Test("inspect: tokens, parameters and multiply–accumulates of a spatio-temporal adapter, counted by hand")
  func inspect() throws {
    try withWorkplace { place in
      let folder = try place.videoModels().spatioTemporal
      let object = try #require(try place.program.run("inspect", folder, "--json").json().first)
      // 6 queries of 24, 4 frames of 17 tokens of 16, 4 heads of pooling.
      let pooling = 2 * 2 * 4 * 17 * 16 * 4 + 2 * (4 + 17) * 16 * 16
      let layers = 2 * (4 * 6 * 24 * 24 + 2 * 6 * 6 * 24 + 2 * 6 * 24 * 32)
      let cross = 2 * 6 * 24 * 24 + 2 * 21 * 16 * 24 + 2 * 6 * 21 * 24
      #expect(pooling + layers + cross == 106_784)
      #expect(object["multiply_accumulates"] as? Int == 106_784 + 6 * 24 * 32)
      #expect((object["tokens"] as? [String: Int])?["written"] == 6)
      // Queries, positions, start token and norm; two layers of three experts and text; norm, pooling, λ; projection; heads.
      let experts = 4 * (24 * 32 + 32 + 32 * 24 + 24 + 48)
      let selfAttention = 4 * (24 * 24 + 24) + 48
      let crossAttention = 2 * (24 * 24 + 24) + 2 * (16 * 24 + 24) + 48
      let heads = 2 * (24 * 8 + 8) + (48 * 2 + 2) + 1 + (24 * 24 + 24 + 48 + 2008)
      let count =
        6 * 24 + 32 * 24 + 24 + 48 + 2 * (selfAttention + experts) + crossAttention + 32 + 2 * (16 + 4 * 16 * 16) + 1
        + (24 * 32 + 32) + heads
      #expect((object["parameters"] as? [String: Int])?["adapter"] == count)
      let lines = try place.program.run("inspect", folder).output
      #expect(lines.contains("4 frames of 17 tokens in, 6 out") && lines.contains("0.03 M parameters"), "\(lines)")
    }
  }
}
