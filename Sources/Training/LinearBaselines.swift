import Backbones
import Evaluation
import Foundation
import Pipelines
import QFormer
import Tokenizers
import Torch

/// The baselines that retrieval has to beat: linear maps from the same frozen features and a frozen text model, fitted to the
/// training pairs in closed form.
///
/// An image is its class token and the mean of its patches, a clip the mean of its frames. Ridge regression maps it to the
/// mean-pooled, normalised output of the text model; the penalty is chosen on a tenth of the training images, never on a set
/// that is scored. Canonical correlation analysis (`CanonicalAlignment`) maps it and the first token of the text model's output
/// to where they agree best; its ridge is not chosen at all. An image counts once in both, however many captions it has.
struct LinearBaselines {
  private static let penalties = [1.0, 10, 100, 1000, 10_000]
  /// Directions that are kept of canonical correlations.
  private static let directions = 256

  /// What ridge regression was penalised with.
  let penalty: Double
  private let images: PooledImages
  private let texts: FrozenTexts
  /// `[2·Dv + 1, D]`, in `float64`.
  private let ridge: Tensor
  private let canonical: CanonicalAlignment

  /// Fits both to training images and their captions.
  ///
  /// - Throws: What loading the text model and reading features throws.
  init(train: TrainingData.Part, textModel: URL, maximumLength: Int) throws {
    let texts = FrozenTexts(
      bert: try BERT.load(folder: textModel),
      encoder: TextEncoder(try Tokenizer(contentsOf: textModel), maximumLength: maximumLength))
    self.texts = texts
    (images, penalty, ridge, canonical) = try withError {
      try withNoGrad {
        let raw = try PooledImages.pool(train.features)
        let images = PooledImages(scaledBy: raw)
        let x = images.scaled(raw)  // [images, 2·Dv]
        let captions = texts.embed(train.captions)
        let (ridge, penalty) = try Self.chooseRidge(x, captions.pooled, train.captions)
        let owners = train.captions.indices.flatMap { row in train.captions[row].map { _ in row } }
        let size = min(Self.directions, x.size(1), captions.first.size(1))
        let weights = owners.map { 1 / Double(train.captions[$0].count) }
        let canonical = try CanonicalAlignment(
          x.indexSelect(0, Tensor(owners)), captions.first, size: size, weights: weights)
        return (images, penalty, ridge, canonical)
      }
    }
  }

  /// Scores every image of a set against every caption of it.
  func score(
    _ set: TrainingData.Part
  ) throws -> (ridge: RetrievalEvaluation.Recall, canonical: RetrievalEvaluation.Recall) {
    try withError {
      try withNoGrad {
        let x = images.scaled(try PooledImages.pool(set.features))
        let captions = texts.embed(set.captions)
        return (
          try Self.recall(Self.design(x).matmul(ridge).to(.float32), captions.pooled, set.captions),
          try Self.recall(
            x.linear(canonical.first.weight, canonical.first.bias),
            captions.first.linear(canonical.second.weight, canonical.second.bias), set.captions)
        )
      }
    }
  }

  /// The regression of all training images with the penalty that served best on a tenth of them, fitted on the others.
  ///
  /// - Parameters:
  ///   - x: `[images, 2·Dv]`.
  ///   - pooled: `[captions, D]`.
  private static func chooseRidge(
    _ x: Tensor, _ pooled: Tensor, _ captions: [[String]]
  ) throws -> (weights: Tensor, penalty: Double) {
    let ends = captions.reduce(into: [0]) { $0.append($0.last! + $1.count) }
    let x = design(x)
    // What an image's captions say on average.
    let y = Tensor.stack(captions.indices.map { pooled.narrow(0, ends[$0], captions[$0].count).mean(0) }).to(.float64)
    func fit(_ x: Tensor, _ y: Tensor, _ penalty: Double) -> Tensor {
      let gram = x.transposed(0, 1).matmul(x)
      return (gram + Tensor.identity(gram.size(0)) * penalty).solve(x.transposed(0, 1).matmul(y))
    }
    let held = captions.indices.filter { $0 % 10 == 0 }
    let rest = Tensor(captions.indices.filter { $0 % 10 != 0 })
    let heldTexts = pooled.indexSelect(0, Tensor(held.flatMap { Array(ends[$0]..<ends[$0 + 1]) }))
    var best = (penalty: penalties[0], value: -1.0)
    for penalty in penalties {
      let weights = fit(x.indexSelect(0, rest), y.indexSelect(0, rest), penalty)
      let scores = try recall(
        x.indexSelect(0, Tensor(held)).matmul(weights).to(.float32), heldTexts, held.map { captions[$0] })
      let value = (scores.imageToText[5] ?? 0) + (scores.textToImage[5] ?? 0)
      if value > best.value { best = (penalty, value) }
    }
    return (fit(x, y, best.penalty), best.penalty)
  }

  /// With a last column of 1, in `float64`.
  private static func design(_ x: Tensor) -> Tensor { .cat([x, .ones([x.size(0), 1])], 1).to(.float64) }

  private static func recall(
    _ images: Tensor, _ texts: Tensor, _ captions: [[String]]
  ) throws -> RetrievalEvaluation.Recall {
    let similarity = images.normalized().matmul(texts.normalized().transposed(0, 1))
    let scores = try RetrievalScores(
      similarity: similarity.values(), imagesOfText: RetrievalEvaluation.imagesOfTexts(captions))
    return .init(imageToText: scores.imageToText, textToImage: scores.textToImage)
  }
}

/// Frozen features as one vector an image, scaled by the training set's statistics.
private struct PooledImages {
  private let mean: Tensor
  private let deviation: Tensor

  init(scaledBy training: Tensor) {
    mean = training.mean(0)
    deviation = (training - mean).pow(2).mean(0).sqrt() + 1e-6
  }

  func scaled(_ pooled: Tensor) -> Tensor { (pooled - mean) / deviation }

  /// `[images, 2·Dv]`.
  static func pool(_ features: FeatureStack) throws -> Tensor {
    Tensor.cat(
      try RetrievalEvaluation.batches(Array(0..<features.count), 64).map { rows in
        let frame = try features.clips(rows).meanFrame
        return Tensor.cat([frame.select(1, 0), frame.slice(1, 1).mean(1)], 1)
      }, 0)
  }
}

/// Captions as a frozen text model sees them.
private struct FrozenTexts {
  let bert: BERT
  let encoder: TextEncoder

  /// `[captions, D]` each, in the order of the captions: the normalised mean over tokens, and the first token.
  func embed(_ captions: [[String]]) -> (pooled: Tensor, first: Tensor) {
    let both = RetrievalEvaluation.byLength(captions.flatMap { $0.map(encoder.ids) }) { text in
      let states = bert.hiddenStates(text.ids, mask: text.mask)  // [B, L, D]
      return .stack([BERT.meanPooled(states, mask: text.mask), states.select(1, 0)], 1)
    }
    return (both.select(1, 0), both.select(1, 1))
  }
}
