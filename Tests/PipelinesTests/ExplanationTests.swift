import Foundation
import Media
import Pipelines
import QFormer
import TestSupport
import Testing
import Torch

@Suite("Where queries look, on tiny models")
struct ExplanationTests {
  private let film = fixtures.appendingPathComponent("media/video/bframes.mp4")

  private func withModels(_ body: (TinyModels, URL) throws -> Void) throws {
    try withTemporaryFolder { folder in try body(TinyModels(in: folder), folder) }
  }

  /// `[frames, N, Dv]` of pictures.
  private func clip(_ encoder: ImageEncoder, _ frames: Int = 1) throws -> VideoFeatures {
    try VideoFeatures(
      encoder.features((1...frames).map { try TinyPictures.picture($0) }), seconds: (0..<frames).map { Double($0) / 2 })
  }

  /// The numbers of a tensor with plain loops over its dimensions in mind.
  private func values(_ tensor: Tensor) -> [Double] { tensor.values(as: Double.self) }

  @Test("A picture: the mean over layers and heads, or one of them; what words look at, by plain loops")
  func picture() throws {
    try withModels { models, _ in
      let explainer = try Explainer("image-match", store: models.store)
      let adapter = try ImageTextPipeline("image-match", store: models.store)
      let features = try clip(explainer.encoder)
      let (heads, queries, patches) = (2, TinyModels.queries, TinyModels.imageTokens)
      let image = try adapter.adapter.qformer.imageKeyValues(adapter.adapter.imageEmbeds(features.features))
      let alone = adapter.adapter.qformer.readImage(image, keepsAttention: true)
      let found = try explainer.explain(features)
      #expect(found.layers == [0] && found.words == nil)
      #expect(found.groups.map(\.name) == ["queries"] && found.groups.map(\.queries) == [0..<queries])
      #expect(found.crossAttention.shape == [1, heads, queries, patches] && found.maps.shape == [queries, 1, patches])
      expectClose(found.crossAttention.select(0, 0), alone.crossAttention[0].select(0, 0), relative: 0)
      let cross = values(alone.crossAttention[0])
      func weight(_ head: Int, _ query: Int, _ patch: Int) -> Double {
        cross[(head * queries + query) * patches + patch]
      }
      func map(_ head: Int?) -> Tensor {
        Tensor(
          (0..<queries).flatMap { query in
            (0..<patches).map { patch in
              head.map { weight($0, query, patch) } ?? (weight(0, query, patch) + weight(1, query, patch)) / 2
            }
          }, [queries, 1, patches])
      }
      expectClose(found.maps, map(nil))
      expectClose(found.maps.sum(2), .ones([queries, 1]))
      expectClose(found.summary(), map(nil).mean(0))
      let one = try explainer.explain(features, choice: AttentionChoice(layer: 0, head: 1, query: 2))
      expectClose(one.maps, map(1))
      expectClose(one.summary(), map(1).select(0, 2))
      #expect(found.patches(found.summary(), frame: 0).count == 16)
      #expect(relativeError(one.maps, found.maps) > 1e-3)

      let text = "a red square"
      let words = try #require(try explainer.explain(features, text: text).words)
      let batch = adapter.texts.batch([text])
      let both = try adapter.adapter.qformer.readImageAndText(
        image, batch.ids, mask: batch.mask, keepsAttention: true, keepsSelfAttention: true)
      let length = adapter.texts.ids(text).count
      #expect(words.tokens.count == length && words.tokens.first == "[CLS]" && words.tokens.last == "[SEP]")
      #expect(words.maps.shape == [length, 1, patches] && words.text == text)
      let (selves, looks) = (both.selfAttention.map { values($0) }, values(both.crossAttention[0]))
      let all = queries + length
      for token in 0..<length {
        var toQueries = (0..<queries).map { query in
          selves.reduce(0.0) { sum, layer in
            sum + (0..<heads).reduce(0.0) { $0 + layer[($1 * all + queries + token) * all + query] }
          }
        }
        let total = toQueries.reduce(0, +)
        toQueries = toQueries.map { $0 / total }
        let expected = (0..<patches).map { patch in
          (0..<queries).reduce(0.0) { sum, query in
            let look = (0..<heads).reduce(0.0) { $0 + looks[($1 * queries + query) * patches + patch] } / 2
            return sum + toQueries[query] * look
          }
        }
        expectClose(words.toQueries.select(0, token), Tensor(toQueries))
        expectClose(words.maps.select(0, token).select(0, 0), Tensor(expected))
      }
      expectClose(words.maps.sum(2), .ones([length, 1]))
    }
  }

  @Test("A cascade: attention over frames' queries times that of the frame Q-Former, by plain loops")
  func cascade() throws {
    try withModels { models, folder in
      let adapter = folder.appendingPathComponent("video")
      try TinyModels.writeCascaded(to: adapter)
      let explainer = try Explainer(adapter.path, store: models.store)
      let model = try #require(
        try VideoPipeline(adapter.path, store: models.store).adapter as? CascadedVideoQFormer)
      let (frames, queries, inner, patches) = (3, 3, TinyModels.queries, TinyModels.imageTokens)
      let features = try clip(explainer.encoder, frames)
      let found = try explainer.explain(features, text: "the thing on blue")
      #expect(found.crossAttention.shape == [2, 2, queries, frames * inner])
      // The mean over layers and heads of both Q-Formers.
      let over = values(found.crossAttention.mean(0).mean(0))
      let seen = try model.frameQFormer.readImage(
        model.frameQFormer.imageKeyValues(model.imageEmbeds(features.features)), keepsAttention: true)
      let within = values(Tensor.stack(seen.crossAttention).mean(0).mean(1))  // [T, M, N]
      var expected: [Double] = []
      for query in 0..<queries {
        for frame in 0..<frames {
          for patch in 0..<patches {
            expected.append(
              (0..<inner).reduce(0.0) { sum, place in
                sum + over[query * frames * inner + frame * inner + place]
                  * within[(frame * inner + place) * patches + patch]
              })
          }
        }
      }
      expectClose(found.maps, Tensor(expected, [queries, frames, patches]))
      expectClose(found.maps.sum(2).sum(1), .ones([queries]))
      // Frames' weights are what the temporal Q-Former gives their queries.
      let byFrame = found.crossAttention.mean(0).mean(0).mean(0).reshaped(frames, inner).sum(1)
      expectClose(Tensor(found.frameImportance), byFrame)
      #expect(found.frameImportance == found.frameAttention && abs(found.frameImportance.reduce(0, +) - 1) < 1e-5)
      let words = try #require(found.words)
      expectClose(words.maps.sum(2).sum(1), .ones([words.tokens.count]))
      #expect(words.maps.shape == [words.tokens.count, frames, patches])
      #expect(throws: PipelineError.badInput("layer 5: expected one with cross-attention, 0, 1")) {
        try explainer.explain(features, choice: AttentionChoice(layer: 5))
      }
      #expect(throws: PipelineError.badInput("query 3: expected 0 to 2")) {
        try explainer.explain(features, choice: AttentionChoice(query: 3))
      }
    }
  }

  @Test("A spatio-temporal Q-Former: places through pooling over frames, frames through pooling over patches")
  func spatioTemporal() throws {
    try withModels { models, folder in
      let adapter = folder.appendingPathComponent("video")
      try TinyModels.writeSpatioTemporal(to: adapter)
      let explainer = try Explainer(adapter.path, store: models.store)
      let model = try #require(
        try VideoPipeline(adapter.path, store: models.store).adapter as? SpatioTemporalQFormer)
      let (frames, patches) = (5, TinyModels.imageTokens)
      let features = try clip(explainer.encoder, frames)
      let found = try explainer.explain(features, text: "the thing on blue")
      #expect(found.groups.map(\.name) == ["spatial queries", "temporal queries", "summary query"])
      #expect(found.groups.map(\.queries) == [0..<3, 3..<5, 5..<6])
      #expect(found.crossAttention.shape == [1, 2, 6, patches + frames])
      let pooling = try model.poolingWeights(VideoFeatures.batch([features]))
      let (ofFrame, ofPlace) = (values(pooling.overPatches), values(pooling.overFrames))  // [T, N]
      let cross = values(found.crossAttention.mean(0).mean(0))
      var expected: [Double] = []
      for query in 0..<6 {
        let row = query * (patches + frames)
        for frame in 0..<frames {
          for patch in 0..<patches {
            let index = frame * patches + patch
            expected.append(cross[row + patch] * ofPlace[index] + cross[row + patches + frame] * ofFrame[index])
          }
        }
      }
      expectClose(found.maps, Tensor(expected, [6, frames, patches]))
      expectClose(found.maps.sum(2).sum(1), .ones([6]))
      // Spatial queries do not see frames, temporal ones no places.
      let mean = found.crossAttention.mean(0).mean(0)
      #expect(mean.narrow(0, 0, 3).slice(1, patches).abs().max().item < 1e-6)
      #expect(mean.narrow(0, 3, 2).slice(1, 0, patches).abs().max().item < 1e-6)
      expectClose(found.summary(found.groups[1]), found.maps.narrow(0, 3, 2).mean(0))
      let pooled = try model.pool(VideoFeatures.batch([features]))
      expectClose(Tensor(found.frameImportance), pooled.importance.select(0, 0))
      expectClose(Tensor(found.segmentImportance(2)), try pooled.segmentImportance(2).select(0, 0))
      expectClose(
        Tensor(found.frameAttention), found.maps.mean(0).sum(1))
      let names = found.tensors(isClip: true).map(\.name)
      #expect(
        names == [
          "cross_attention", "query_maps", "frame_importance", "frame_attention", "seconds", "text_attention",
          "text_to_queries",
        ])
    }
  }

  @Test("Text for a model that reads none; more frames than a page shows")
  func refusals() throws {
    try withModels { models, folder in
      let explainer = try Explainer("image-caption", store: models.store)
      #expect(throws: QFormerError.self) { try explainer.check(AttentionChoice(), text: "a dog") }
      #expect(throws: PipelineError.self) { try explainer.check(AttentionChoice(head: 2), text: nil) }
      try explainer.check(AttentionChoice(layer: 0, head: 1, query: 3), text: nil)
      let file = try VisualFile(contentsOf: film)
      #expect(throws: PipelineError.badInput("film: expected at most 64 frames of a clip, found more")) {
        try explainer.encoder.watch(file, frames: .seconds(Array(repeating: 0.5, count: 65)), name: "film")
      }
      let watched = try explainer.encoder.watch(file, frames: .uniform(10), name: "film", pictureSize: 20)
      #expect(watched.frames.count == 10 && watched.frames.allSatisfy { max($0.width, $0.height) == 20 })
      expectClose(
        watched.features.features,
        try explainer.encoder.features(of: file, frames: .uniform(10), name: "film").features)
    }
  }
}
