import Backbones
import Evaluation
import Foundation
import Pipelines
import Tokenizers
import Torch

/// The baseline that retrieval has to beat: ridge regression from pooled frozen features to frozen sentence embeddings.
///
/// An image is its class token and the mean of its patches, a clip the mean of its frames; a text is the mean-pooled,
/// normalised output of the text model. The penalty is chosen on a tenth of the training images, never on the set that is scored.
enum RidgeBaseline {
  private static let penalties = [1.0, 10, 100, 1000, 10_000]

  /// Fits on `train` and scores every image of `set` against every caption of it.
  static func run(
    train: TrainingData.Part, set: TrainingData.Part, textModel: URL, maximumLength: Int
  ) throws -> (recall: RetrievalEvaluation.Recall, penalty: Double) {
    let bert = try BERT.load(folder: textModel)
    let texts = TextEncoder(try Tokenizer(contentsOf: textModel), maximumLength: maximumLength)
    return try withError {
      try withNoGrad {
        func embed(_ captions: [String]) -> Tensor {
          let ids = captions.map(texts.ids)
          let order = ids.indices.sorted { ids[$0].count < ids[$1].count }
          let parts = RetrievalEvaluation.batches(order, 256).map { rows in
            let batch = TextEncoder.pad(rows.map { ids[$0] })
            return bert.meanPooled(batch.ids, mask: batch.mask)
          }
          return Tensor.cat(parts, 0).indexSelect(0, Tensor(order).sorted().indices)
        }
        /// `[images, D]`: the mean of each image's captions.
        func targets(_ captions: [[String]]) -> Tensor {
          let flat = embed(captions.flatMap { $0 })
          var start = 0
          return Tensor.stack(
            captions.map { list in
              defer { start += list.count }
              return flat.narrow(0, start, list.count).mean(0)
            })
        }
        /// `[images, 2·Dv + 1]`, scaled by the training set's statistics; the last column is 1.
        func pooled(_ features: FeatureStack) throws -> Tensor {
          Tensor.cat(
            try RetrievalEvaluation.batches(Array(0..<features.count), 64).map { rows in
              let batch = try features.clips(rows).meanFrame
              return Tensor.cat([batch.select(1, 0), batch.slice(1, 1).mean(1)], 1)
            }, 0)
        }
        let raw = try pooled(train.features)
        let (mean, deviation) = (raw.mean(0), ((raw - raw.mean(0)) * (raw - raw.mean(0))).mean(0).sqrt() + 1e-6)
        func design(_ x: Tensor) -> Tensor { .cat([(x - mean) / deviation, .ones([x.size(0), 1])], 1).to(.float64) }
        func fit(_ x: Tensor, _ y: Tensor, _ penalty: Double) -> Tensor {
          let gram = x.transposed(0, 1).matmul(x)
          return (gram + Tensor.identity(gram.size(0)) * penalty).solve(x.transposed(0, 1).matmul(y))
        }
        func recall(_ x: Tensor, _ weights: Tensor, _ captions: [[String]]) throws -> RetrievalEvaluation.Recall {
          let similarity = x.matmul(weights).to(.float32).normalized()
            .matmul(embed(captions.flatMap { $0 }).normalized().transposed(0, 1))
          let scores = try RetrievalScores(
            similarity: similarity.values(), imagesOfText: RetrievalEvaluation.imagesOfTexts(captions))
          return .init(imageToText: scores.imageToText, textToImage: scores.textToImage)
        }
        let x = design(raw)
        let y = targets(train.captions).to(.float64)
        let held = Array(0..<x.size(0)).filter { $0 % 10 == 0 }
        let rest = Array(0..<x.size(0)).filter { $0 % 10 != 0 }
        let heldCaptions = held.map { train.captions[$0] }
        var best = (penalty: penalties[0], value: -1.0)
        for penalty in penalties {
          let weights = fit(x.indexSelect(0, Tensor(rest)), y.indexSelect(0, Tensor(rest)), penalty)
          let scores = try recall(x.indexSelect(0, Tensor(held)), weights, heldCaptions)
          let value = (scores.imageToText[5] ?? 0) + (scores.textToImage[5] ?? 0)
          if value > best.value { best = (penalty, value) }
        }
        return (try recall(design(try pooled(set.features)), fit(x, y, best.penalty), set.captions), best.penalty)
      }
    }
  }
}
