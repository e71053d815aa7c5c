import Backbones
import Checkpoints
import Foundation
import Media
import Pipelines
import QFormer
import TestSupport
import Testing
import Torch

@Suite("Video pipelines on tiny models")
struct VideoPipelineTests {
  /// Either family.
  enum Family: String, CaseIterable { case cascaded, spatioTemporal }

  private let media = fixtures.appendingPathComponent("media")

  private func clip(_ name: String) -> URL { media.appendingPathComponent("video/\(name)") }

  private func withPipeline(_ family: Family, _ body: (VideoPipeline, URL) throws -> Void) throws {
    try withTemporaryFolder { folder in
      let models = try TinyModels(in: folder)
      let adapter = folder.appendingPathComponent("video")
      switch family {
      case .cascaded: try TinyModels.writeCascaded(to: adapter)
      case .spatioTemporal: try TinyModels.writeSpatioTemporal(to: adapter)
      }
      try body(VideoPipeline(adapter.path, store: models.store), folder)
    }
  }

  @Test("Frames of a clip: the features of its pictures, with their times", arguments: Family.allCases)
  func features(_ family: Family) throws {
    try withPipeline(family) { model, _ in
      let file = try VideoFile(contentsOf: clip("bframes.mp4"))
      for (choice, count) in [
        (nil, 4), (.uniform(20), 20), (.rate(5), 10), (.seconds([0, 0.5, 0.5, 1.9]), 4), (.headTail(7, seed: 3), 7),
      ] as [(FrameChoice?, Int)] {
        let found = try model.features(of: clip("bframes.mp4"), frames: choice)
        let expected = try file.frames(choice ?? .uniformMiddle(4)).frames
        #expect(found.features.shape == [count, TinyModels.imageTokens, TinyModels.encoderWidth])
        #expect(found.seconds == expected.map(\.seconds) && found.lostPackets == 0)
        expectClose(found.features, try model.encoder.features(expected.map(\.image)), "\(String(describing: choice))")
      }
      // A picture is a clip of one frame, whatever frames are asked for.
      let picture = media.appendingPathComponent("files/plain.jpg")
      let still = try model.features(of: picture, frames: .uniform(8))
      #expect(still.seconds == [0] && still.frames == 1)
      expectClose(still.features, try model.encoder.features([Image(contentsOf: picture)]))
      for (name, count) in [("video/moving.gif", 4), ("video/moving.webp", 4), ("files/lossy.webp", 1)] {
        #expect(try model.features(of: media.appendingPathComponent(name)).frames == count, "\(name)")
      }
      #expect(try model.features(of: clip("one.mp4")).seconds == [0])
      let damaged = try model.features(of: clip("damaged.mp4"), frames: .uniform(50))
      #expect(damaged.lostPackets > 0 && damaged.frames > 30)
    }
  }

  @Test("Clips of unequal lengths in a batch give what each gives alone", arguments: Family.allCases)
  func batches(_ family: Family) throws {
    try withPipeline(family) { model, _ in
      let clips = try [("bframes.mp4", 6), ("moving.gif", 3), ("one.mp4", 1)].map {
        try model.features(of: clip($0.0), frames: .uniform($0.1))
      }
      let together = try model.languageTokens(of: VideoFeatures.batch(clips))
      #expect(together.shape == [3, family == .cascaded ? 3 : 6, TinyModels.languageWidth])
      let texts = ["a red dog", "the thing on white"]
      let scores = try model.scores(clips, texts: texts)
      var options = GenerationOptions()
      options.maxTokens = 6
      let answers = try model.describe(clips, prompts: ["a", nil, "a red"], options: options)
      for (row, clip) in clips.enumerated() {
        let alone = try VideoFeatures.batch([clip])
        expectClose(try model.languageTokens(of: alone).select(0, 0), together.select(0, row), "\(row)")
        for (one, other) in zip(try model.scores([clip], texts: texts)[0], scores[row]) {
          #expect(abs(try #require(one.itc) - (other.itc ?? .nan)) < 1e-5)
          #expect(abs(try #require(one.itm) - (other.itm ?? .nan)) < 1e-5)
        }
        let prompt = [["a", nil, "a red"][row]]
        #expect(try model.describe([clip], prompts: prompt, options: options) == [answers[row]])
      }
      #expect(relativeError(together.select(0, 0), together.select(0, 1)) > 1e-3)
      #expect(try model.describe([]).isEmpty && model.scores([], texts: ["a"]).isEmpty)
    }
  }

  @Test("Scores are what the heads say: the mean, or the summary alone; the head for matching")
  func scores() throws {
    for family in Family.allCases {
      try withPipeline(family) { model, _ in
        let clip = try VideoFeatures.batch([model.features(of: clip("moving.gif"))])
        let score = try model.scores([model.features(of: self.clip("moving.gif"))], texts: ["a dog"])[0][0]
        let heads = try #require(model.adapter.heads)
        let text = try #require(model.texts).batch(["a dog"])
        let (cosines, logits) = try withNoGrad {
          let image = try model.adapter.keyValues(clip, isTraining: false)
          let qformer = model.adapter.textQFormer
          let words = heads.textFeature(try qformer.readText(text.ids, mask: text.mask))  // [1, E]
          let queries = heads.imageFeatures(qformer.readImage(image).hidden)  // [1, M or 1, E]
          let pair = try qformer.readImageAndText(image, text.ids, mask: text.mask).hidden
          return (
            (queries.select(0, 0) * words).sum(1).values(as: Double.self),
            try heads.matchingLogits(pair).values(as: Double.self)
          )
        }
        #expect(cosines.count == (family == .cascaded ? 3 : 1))
        #expect(abs(try #require(score.itc) - cosines.reduce(0, +) / Double(cosines.count)) < 1e-5)
        #expect(abs(try #require(score.itm) - 1 / (1 + exp(logits[0] - logits[1]))) < 1e-5)
      }
    }
  }

  @Test("A tokenizer with more words than the adapter is named")
  func foreignTokenizer() throws {
    try withTemporaryFolder { folder in
      let models = try TinyModels(in: folder)
      let adapter = folder.appendingPathComponent("video")
      try TinyModels.writeCascaded(to: adapter)
      let file = models.frozen(TinyModels.text.model).appendingPathComponent("tokenizer.json")
      var json = try #require(JSONSerialization.jsonObject(with: Data(contentsOf: file)) as? [String: Any])
      let added = json["added_tokens"] as? [[String: Any]] ?? []
      var zebra = try #require(added.last)
      (zebra["id"], zebra["content"]) = (2008, "zebra")
      json["added_tokens"] = added + [zebra]
      try JSONSerialization.data(withJSONObject: json).write(to: file)
      let model = try VideoPipeline(adapter.path, store: models.store)
      let clip = try model.features(of: clip("moving.gif"))
      #expect(try model.scores([clip], texts: ["a dog"]).count == 1)
      #expect {
        try model.scores([clip], texts: ["a dog", "a zebra"])
      } throws: { error in
        "\(error)".contains("the tokenizer gives zebra the number 2008")
      }
    }
  }

  @Test("Embeds that the LayerNorm has gone over are not gone over again", arguments: Family.allCases)
  func embeds(_ family: Family) throws {
    try withPipeline(family) { model, _ in
      let clips = try [3, 2].map { try model.features(of: clip("bframes.mp4"), frames: .uniform($0)) }
      let expected = try model.queries(of: VideoFeatures.batch(clips))
      let embeds = try VideoFeatures.batch(clips, areEmbeds: true) { features in
        withNoGrad { model.adapter.imageEmbeds(features) }
      }
      expectClose(try model.queries(of: embeds), expected)
      #expect(relativeError(try model.queries(of: VideoFeatures.batch(clips, areEmbeds: true)), expected) > 1e-3)
    }
  }

  @Test("A stream's windows say what clips of those frames say; what is left at the end is a window")
  func windows() throws {
    try withPipeline(.cascaded) { model, _ in
      let frames = try VideoFile(contentsOf: clip("bframes.mp4")).frames(.uniform(10)).frames
      var options = GenerationOptions()
      options.maxTokens = 6
      var describer = try WindowDescriber(model, stride: 3, prompt: "a", options: options)
      var windows: [DescribedWindow] = []
      for frame in frames { if let window = try describer.append(frame) { windows.append(window) } }
      // Windows of four frames: 0 … 3, 3 … 6, 6 … 9: nothing is left.
      #expect(windows.count == 3)
      #expect(try describer.finish() == nil)
      #expect(try describer.append(frames[9]) == nil)
      let rest = try #require(try describer.finish())
      #expect(rest.seconds == [frames[9].seconds, frames[9].seconds])
      for (window, range) in zip(windows, [0..<4, 3..<7, 6..<10]) {
        let part = Array(frames[range])
        #expect(window.seconds == part.map(\.seconds) && window.span == part[0].seconds...part[3].seconds)
        let clip = try VideoFeatures(model.encoder.features(part.map(\.image)), seconds: part.map(\.seconds))
        #expect(try model.describe([clip], prompts: ["a"], options: options) == [window.answer])
      }
      var short = try WindowDescriber(model, length: 7, options: options)
      #expect(try short.finish() == nil)
      #expect(try short.append(frames[0]) == nil)
      #expect(try short.finish()?.seconds == [0])
    }
    try withPipeline(.spatioTemporal) { model, folder in
      #expect(
        throws: PipelineError.wrongModel(
          folder: folder.appendingPathComponent("video").path,
          expected: "qformer_cascaded_video, which reads streams in windows", found: "qformer_spatio_temporal_video")
      ) { try WindowDescriber(model) }
    }
  }

  @Test("Adapters with one half only; models of another kind; keys that may be missing")
  func parts() throws {
    try withTemporaryFolder { folder in
      let models = try TinyModels(in: folder)
      func video(_ change: (inout CascadedVideoConfiguration) -> Void) throws -> VideoPipeline {
        var configuration = TinyModels.cascaded
        change(&configuration)
        let adapter = folder.appendingPathComponent("half")
        try TinyModels.writeCascaded(to: adapter, configuration: configuration)
        return try VideoPipeline(adapter.path, store: models.store)
      }
      let input = try Image(contentsOf: media.appendingPathComponent("files/plain.jpg"))
      let silent = try video { $0.languageSize = nil }
      let clip = try VideoFeatures(silent.encoder.features([input]), seconds: [0])
      #expect(silent.language == nil)
      #expect(throws: PipelineError.self) { try silent.describe([clip]) }
      #expect(try silent.scores([clip], texts: ["a"]).count == 1)
      let writer = try video {
        $0.objectives = nil
        ($0.temporal.readsText, $0.temporal.separateDecoderToken) = (false, false)
      }
      #expect(writer.texts == nil && writer.language != nil)
      #expect(throws: PipelineError.self) { try writer.scores([clip], texts: ["a"]) }
      #expect(try writer.describe([clip]).count == 1)

      let adapter = folder.appendingPathComponent("cascade")
      try TinyModels.writeCascaded(to: adapter)
      #expect(try VideoPipeline(adapter.path, store: models.store, loadsLanguageModel: false).language == nil)
      #expect(throws: PipelineError.self) { try ImageLanguagePipeline(adapter.path, store: models.store) }
      #expect(throws: PipelineError.self) { try ImageTextPipeline(adapter.path, store: models.store) }
      #expect(throws: PipelineError.self) { try VideoPipeline("image-caption", store: models.store) }

      let file = adapter.appendingPathComponent("model.safetensors")
      let checkpoint = try Checkpoint(contentsOf: file)
      let lost = "frame_position_embedding.weight"
      #expect(checkpoint.names.contains(lost))
      let kept = try checkpoint.names.filter { $0 != lost }.map { ($0, try checkpoint.tensor($0).cloned()) }
      try SafetensorsFile.write(kept, to: file)
      #expect(throws: CheckpointError.self) { try VideoPipeline(adapter.path, store: models.store) }
      let fresh = try VideoPipeline(adapter.path, store: models.store, allowMissing: ["frame_position*"])
      #expect(fresh.report.initialised == [lost])
    }
  }
}
