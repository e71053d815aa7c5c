import Backbones
import Checkpoints
import Foundation
import Media
import Media
import Pipelines
import QFormer
import TestSupport
import Testing
import Tokenizers
import Torch

@testable import Training

@Suite("Retrieval over a set")
struct AdapterScoreTests {
  /// A data set of tiny pictures whose features may be replaced.
  private struct Place {
    let models: TinyModels
    let captions: [[String]]
    private let images: CaptionedImages
    private let features: URL

    init(_ folder: URL, captions: [[String]]) throws {
      models = try TinyModels(in: folder)
      let data = folder.appendingPathComponent("data")
      try FileManager.default.createDirectory(at: data, withIntermediateDirectories: true)
      let encoder = JSONEncoder()
      var lines: [String] = []
      for (number, list) in captions.enumerated() {
        try TinyPictures.picture(number).write(to: data.appendingPathComponent("\(number).png"))
        let words = String(decoding: try encoder.encode(list), as: UTF8.self)
        lines.append("{\"image\": \"\(number).png\", \"captions\": \(words)}")
      }
      let file = data.appendingPathComponent("captions.jsonl")
      try Data(lines.joined(separator: "\n").utf8).write(to: file)
      images = try .load(DataSource(format: .captionsJSONL, path: file.path))
      self.captions = images.map(\.captions)
      features = folder.appendingPathComponent("features")
    }

    func stack() throws -> FeatureStack {
      FeatureStack([
        try FeatureCache.open(
          images, views: 1, configuration: TinyModels.encoder, folder: features, showsProgress: false
        ) { try ImageEncoder(TinyModels.encoder, store: models.store) }
      ])
    }

    /// Replaces the features by others `[images, N, Dv]`.
    func replaceFeatures(_ tensor: Tensor) throws {
      _ = try stack()
      let name = try #require(try FileManager.default.contentsOfDirectory(atPath: features.path).first)
      try SafetensorsFile.write(
        [("features", tensor.unsqueezed(1).contiguous().to(.float16))], to: features.appendingPathComponent(name))
    }
  }

  /// Recall by plain counting: the share of queries with a right answer among the k best.
  private func recall(_ k: Int, queries: [[Double]], isRight: (Int, Int) -> Bool) -> Double {
    let hits = queries.enumerated().count { query, scores in
      scores.indices.sorted { scores[$0] > scores[$1] }.prefix(k).contains { isRight(query, $0) }
    }
    return Double(hits) / Double(queries.count)
  }

  @Test("Contrastive and re-ranked recall are those of scoring pair by pair", arguments: [0, 3, 100])
  func bruteForce(rerank: Int) throws {
    try withTemporaryFolder { folder in
      let place = try Place(folder, captions: (0..<14).map { TinyPictures.captions($0) + ["a dog \($0)"] })
      let pipeline = try ImageTextPipeline(store: place.models.store)
      let stack = try place.stack()
      let evaluation = try RetrievalEvaluation.run(
        FirstFrameQFormer(pipeline.adapter), features: stack, captions: place.captions, texts: pipeline.texts,
        rerank: rerank)

      let owners = place.captions.enumerated().flatMap { image, list in list.map { _ in image } }
      let texts = place.captions.flatMap { $0 }
      var cosine: [[Double]] = []
      var logit: [[Double]] = []
      for image in 0..<14 {
        let embeds = withNoGrad { pipeline.adapter.imageEmbeds(stack.batch([image])) }
        let keyValues = try pipeline.adapter.qformer.imageKeyValues(embeds)
        let seen = pipeline.adapter.qformer.readImage(keyValues).hidden
        let queries = withNoGrad { pipeline.adapter.imageFeatures(seen) }
        cosine.append([])
        logit.append([])
        for text in texts {
          let batch = pipeline.texts.batch([text])
          try withNoGrad {
            let word = pipeline.adapter.textFeature(
              try pipeline.adapter.qformer.readText(batch.ids, mask: batch.mask))
            cosine[image].append((queries.select(0, 0) * word).sum(1).max().item)
            let pair = try pipeline.adapter.qformer.readImageAndText(keyValues, batch.ids, mask: batch.mask).hidden
            logit[image].append(try pipeline.adapter.matchingLogits(pair).select(1, 1).item)
          }
        }
      }
      func columns(_ rows: [[Double]]) -> [[Double]] { texts.indices.map { text in rows.map { $0[text] } } }
      /// The best of each query go before all others, by cosine plus logit.
      func reranked(_ cosines: [[Double]], _ logits: [[Double]]) -> [[Double]] {
        zip(cosines, logits).map { cosines, logits in
          let best = Set(cosines.indices.sorted { cosines[$0] > cosines[$1] }.prefix(rerank))
          return cosines.indices.map { best.contains($0) ? 1000 + cosines[$0] + logits[$0] : cosines[$0] }
        }
      }
      for k in [1, 5, 10] {
        let toText = recall(k, queries: cosine) { image, text in owners[text] == image }
        let toImage = recall(k, queries: columns(cosine)) { text, image in owners[text] == image }
        #expect(abs((evaluation.contrastive.imageToText[k] ?? .nan) - toText) < 1e-9, "R@\(k)")
        #expect(abs((evaluation.contrastive.textToImage[k] ?? .nan) - toImage) < 1e-9, "R@\(k)")
        guard rerank > 0 else { continue }
        let found = try #require(evaluation.reranked)
        let rankedText = recall(k, queries: reranked(cosine, logit)) { image, text in owners[text] == image }
        let rankedImage = recall(k, queries: reranked(columns(cosine), columns(logit))) { text, image in
          owners[text] == image
        }
        #expect(abs((found.imageToText[k] ?? .nan) - rankedText) < 1e-9, "re-ranked R@\(k)")
        #expect(abs((found.textToImage[k] ?? .nan) - rankedImage) < 1e-9, "re-ranked R@\(k)")
      }
      #expect((evaluation.reranked == nil) == (rerank == 0))
      let names = evaluation.metrics.keys
      #expect(names.contains("itc.imageToText.R@1") && names.contains("itm.textToImage.R@10") == (rerank > 0))
    }
  }

  /// Captions of random letters, all different.
  private static func randomCaptions(_ count: Int, seed: UInt64) -> [[String]] {
    var random = SeededGenerator(seed: seed)
    let letters = "abcdefghijklmnopqrstuvwxyz".map(String.init)
    return (0..<count).map { _ in
      (0..<2).map { _ in (0..<6).map { _ in letters[random.number(below: 26)] }.joined(separator: " ") }
    }
  }

  @Test("Linear baselines find a linear map, and nothing where there is none")
  func linearBaselines() throws {
    try withTemporaryFolder { folder in
      let train = try Place(folder.appendingPathComponent("train"), captions: Self.randomCaptions(120, seed: 1))
      let other = try Place(folder.appendingPathComponent("other"), captions: Self.randomCaptions(20, seed: 2))
      let textModel = train.models.frozen("minilm-l6")
      let bert = try BERT.load(folder: textModel)
      let texts = TextEncoder(try Tokenizer(contentsOf: textModel), maximumLength: 32)
      /// What an image's captions say on average, as a sentence embedding `[D]`.
      func meaning(_ captions: [String]) -> Tensor {
        withNoGrad {
          let batch = texts.batch(captions)
          return bert.meanPooled(batch.ids, mask: batch.mask).mean(0)
        }
      }
      // The class token is the meaning, turned and scaled; the patches are nothing.
      let map = Tensor.randn([TinyModels.width, TinyModels.width], generator: Generator(seed: 3)) * 3
      func features(_ captions: [[String]]) -> Tensor {
        let tokens = Tensor.stack(captions.map(meaning)).matmul(map) + 0.7
        return Tensor.stack([tokens, .zeros(tokens.shape)], 1)
      }
      func run(_ place: Place) throws -> TrainingData.Part {
        .init(name: "set", captions: place.captions, questions: [], features: try place.stack())
      }
      func score() throws -> (
        ridge: RetrievalEvaluation.Recall, canonical: RetrievalEvaluation.Recall, penalty: Double
      ) {
        let baselines = try LinearBaselines(train: try run(train), textModel: textModel, maximumLength: 32)
        let scores = try baselines.score(try run(other))
        return (scores.ridge, scores.canonical, baselines.penalty)
      }
      let right = features(train.captions)
      try train.replaceFeatures(right)
      try other.replaceFeatures(features(other.captions))
      let found = try score()
      #expect((found.ridge.imageToText[1] ?? 0) >= 0.4, "\(found)")
      #expect((found.ridge.textToImage[1] ?? 0) >= 0.6, "\(found)")
      #expect((found.canonical.imageToText[1] ?? 0) >= 0.4, "\(found)")
      #expect((found.canonical.textToImage[1] ?? 0) >= 0.4, "\(found)")
      #expect(found.penalty <= 10, "\(found)")
      // Training images that belong to other captions teach nothing.
      try train.replaceFeatures(right.indexSelect(0, Tensor((0..<120).map { ($0 + 60) % 120 })))
      let lost = try score()
      #expect((lost.ridge.imageToText[1] ?? 1) <= 0.2, "\(lost)")
      #expect((lost.canonical.imageToText[1] ?? 1) <= 0.2, "\(lost)")
    }
  }
}
