import Evaluation
import Foundation
import Pipelines
import QFormer
import Torch

/// Retrieval over a whole set of images or clips: contrastive scores, then matching on the best candidates.
public struct RetrievalEvaluation: Codable, Sendable, Equatable {
  /// Recall both ways, `0 … 1` by k.
  public struct Recall: Codable, Sendable, Equatable {
    /// Images as queries: one of the image's own texts is among the first k.
    public let imageToText: [Int: Double]
    /// Texts as queries: the text's own image is among the first k.
    public let textToImage: [Int: Double]

    /// Recall at each k in percent, in one line.
    public var summary: String {
      func list(_ values: [Int: Double]) -> String {
        values.sorted { $0.key < $1.key }.map { String(format: "%.1f", $0.value * 100) }.joined(separator: "/")
      }
      return "i2t \(list(imageToText)) t2i \(list(textToImage))"
    }
  }

  /// With contrastive scores alone.
  public let contrastive: Recall
  /// With the first candidates re-ranked by matching; nil where that was not asked for, or matching was not trained.
  public let reranked: Recall?

  /// Scores every image or clip of a set against every caption of it.
  ///
  /// - Parameters:
  ///   - features: Features of images or clips.
  ///   - captions: Captions of each.
  ///   - rerank: So many first candidates of each query are re-ranked by matching logit + similarity; 0 for none.
  static func run(
    _ model: any VideoQFormer, features: FeatureStack, captions: [[String]], texts: TextEncoder, rerank: Int
  ) throws -> RetrievalEvaluation {
    let heads = try model.requireHeads()
    let flat = captions.flatMap { $0 }
    let owners = imagesOfTexts(captions)
    let ids = flat.map(texts.ids)
    return try withError {
      try withNoGrad {
        let textFeatures = try byLength(ids) { text in
          heads.textFeature(try model.textQFormer.readText(text.ids, mask: text.mask))
        }
        let rows = Array(0..<features.count)
        let similarity = try Tensor.cat(
          batches(rows, 64).map { rows in
            let image = try model.keyValues(features.clips(rows), isTraining: false)
            let hidden = model.textQFormer.readImage(image).hidden
            return heads.similarity(imageFeatures: heads.imageFeatures(hidden), textFeatures: textFeatures)
          }, 0)  // [images, texts]
        func recall(_ imageToText: Tensor, _ textToImage: Tensor) throws -> Recall {
          Recall(
            imageToText: try RetrievalScores(similarity: imageToText.values(), imagesOfText: owners).imageToText,
            textToImage: try RetrievalScores(similarity: textToImage.values(), imagesOfText: owners).textToImage)
        }
        let contrastive = try recall(similarity, similarity)
        guard rerank > 0, heads.hasMatchingHead else {
          return RetrievalEvaluation(contrastive: contrastive, reranked: nil)
        }
        let reranked = try Reranking(model, features: features, ids: ids, similarity: similarity, candidates: rerank)
        return RetrievalEvaluation(
          contrastive: contrastive, reranked: try recall(reranked.imageToText, reranked.textToImage))
      }
    }
  }

  /// For each caption the images that carry it: its own, and those with a caption of the same words.
  static func imagesOfTexts(_ captions: [[String]]) -> [[Int]] {
    func key(_ caption: String) -> String {
      let words = caption.lowercased().split { !$0.isLetter && !$0.isNumber }
      return words.isEmpty ? caption : words.joined(separator: " ")
    }
    var images: [String: Set<Int>] = [:]
    for (index, list) in captions.enumerated() {
      for caption in list { images[key(caption), default: []].insert(index) }
    }
    return captions.flatMap { list in list.map { images[key($0), default: []].sorted() } }
  }

  /// What `encode` makes of texts, `[texts, …]` in their order. Short texts come together, so that little is padded.
  static func byLength(_ ids: [[Int]], _ encode: (TextBatch) throws -> Tensor) rethrows -> Tensor {
    let order = ids.indices.sorted { ids[$0].count < ids[$1].count }
    let sorted = try batches(order, 256).map { rows in try encode(TextEncoder.pad(rows.map { ids[$0] })) }
    return Tensor.cat(sorted, 0).indexSelect(0, Tensor(order).sorted().indices)
  }

  static func batches(_ rows: [Int], _ size: Int) -> [[Int]] {
    stride(from: 0, to: rows.count, by: size).map { Array(rows[$0..<min($0 + size, rows.count)]) }
  }

  /// Recall in percent, under names for `metrics.jsonl`.
  public var metrics: [String: Any] {
    var out: [String: Any] = [:]
    for (name, scores) in [("itc", contrastive), ("itm", reranked)] {
      guard let scores else { continue }
      for (k, value) in scores.imageToText { out["\(name).imageToText.R@\(k)"] = value * 100 }
      for (k, value) in scores.textToImage { out["\(name).textToImage.R@\(k)"] = value * 100 }
    }
    return out
  }

  /// Recall in one line.
  public var summary: String {
    [("ITC", contrastive), ("ITM", reranked)].compactMap { name, recall in recall.map { "\(name) \($0.summary)" } }
      .joined(separator: " · ")
  }
}

/// Similarities in which the best candidates of every query carry their matching logit on top.
private struct Reranking {
  let imageToText: Tensor  // [images, texts]
  let textToImage: Tensor  // [images, texts]

  init(
    _ model: any VideoQFormer, features: FeatureStack, ids: [[Int]], similarity: Tensor, candidates: Int
  ) throws {
    let heads = try model.requireHeads()
    let (images, texts) = (similarity.size(0), similarity.size(1))
    let textsOfImage = similarity.topK(min(candidates, texts), 1).indices.values(as: Int.self)
    let imagesOfText = similarity.topK(min(candidates, images), 0).indices.transposed(0, 1).contiguous()
      .values(as: Int.self)
    // Every pair once, grouped by image so that its keys and values are projected once.
    var wanted = Array(repeating: Set<Int>(), count: images)
    let (perImage, perText) = (min(candidates, texts), min(candidates, images))
    for (index, text) in textsOfImage.enumerated() { wanted[index / perImage].insert(text) }
    for (index, image) in imagesOfText.enumerated() { wanted[image].insert(index / perText) }
    var logits: [Int: Float] = [:]
    for rows in RetrievalEvaluation.batches(Array(0..<images), 8) {
      let image = try model.keyValues(features.clips(rows), isTraining: false)
      let pairs = rows.indices.flatMap { index in wanted[rows[index]].map { (index, $0) } }
        .sorted { (ids[$0.1].count, $0.1, $0.0) < (ids[$1.1].count, $1.1, $1.0) }
      for chunk in stride(from: 0, to: pairs.count, by: 128).map({ pairs[$0..<min($0 + 128, pairs.count)] }) {
        let text = TextEncoder.pad(chunk.map { ids[$0.1] })
        let hidden = try model.textQFormer.readImageAndText(
          image.select(Tensor(chunk.map(\.0))), text.ids, mask: text.mask
        ).hidden
        let scores = try heads.matchingLogits(hidden).select(1, 1).values(as: Float.self)
        for (pair, score) in zip(chunk, scores) { logits[rows[pair.0] * texts + pair.1] = score }
      }
    }
    // A candidate stands before everything that is none: scores of the others are lowered below all candidates', by no
    // more than that takes, so that no digits are lost.
    let plain = similarity.values(as: Float.self)
    let lowest = logits.map { plain[$0.key] + $0.value }.min() ?? 0
    let lowering = max((plain.max() ?? 0) - lowest, 0) + 1
    func reranked(_ keys: some Sequence<Int>) -> Tensor {
      var values = plain.map { $0 - lowering }
      for key in keys { values[key] = plain[key] + (logits[key] ?? 0) }
      return Tensor(values, [images, texts])
    }
    imageToText = reranked(textsOfImage.enumerated().lazy.map { $0 / perImage * texts + $1 })
    textToImage = reranked(imagesOfText.enumerated().lazy.map { $1 * texts + $0 / perText })
  }
}
