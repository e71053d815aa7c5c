import Backbones
import Evaluation
import Foundation
import Pipelines
import QFormer
import Torch

/// Captions of a whole set against references, beside what a model without sight and a copier reach.
public struct CaptionEvaluation: Codable, Sendable, Equatable {
  /// One captioned image.
  public struct Sample: Codable, Sendable, Equatable {
    /// The image's place in the set.
    public let index: Int
    /// What the model wrote.
    public let caption: String
    /// What people wrote.
    public let references: [String]
  }

  /// CIDEr-D × 100.
  public let ciderD: Double
  /// BLEU-4 × 100.
  public let bleu4: Double
  /// The same model with the features of another image.
  public let blind: Scores?
  /// A caption of the training image whose features are nearest.
  public let nearest: Scores?
  /// All captions.
  public let samples: [Sample]

  /// CIDEr-D and BLEU-4, × 100.
  public struct Scores: Codable, Sendable, Equatable {
    /// CIDEr-D × 100.
    public let ciderD: Double
    /// BLEU-4 × 100.
    public let bleu4: Double
  }

  /// Captions the first `limit` images of a set.
  ///
  /// - Parameters:
  ///   - training: Where the nearest training image's caption comes from; none for no such baseline.
  ///   - isBlindToo: Whether to caption everything once more with the features of the next image.
  static func run(
    _ adapter: ClipConnector, _ language: LanguageModel, _ set: TrainingData.Part, limit: Int = .max,
    options: GenerationOptions, isBlindToo: Bool = false,
    training: (features: FeatureStack, captions: [[String]])? = nil, progress: Progress? = nil
  ) throws -> CaptionEvaluation {
    let (features, captions) = (set.features, set.captions)
    let count = min(limit, features.count)
    let rows = Array(0..<count)
    func describe(_ shift: Int) throws -> [String] {
      try RetrievalEvaluation.batches(rows, 32).flatMap { batch in
        let tokens = try withError {
          try withNoGrad {
            let seen = try set.clips(batch.map { ($0 + shift) % features.count })
            return try adapter.languageTokens(of: seen, isTraining: false).rows
          }
        }
        progress?.update(batch.last! + 1)
        return try language.describe(
          rows: tokens, prompts: tokens.map { _ in nil }, options: options
        ).map(\.text)
      }
    }
    let references = Array(captions.prefix(count))
    func score(_ texts: [String]) throws -> Scores {
      let scores = try CaptionScores(hypotheses: texts, references: references)
      return Scores(ciderD: scores.ciderD, bleu4: scores.bleu[3])
    }
    let texts = try describe(0)
    let own = try score(texts)
    return CaptionEvaluation(
      ciderD: own.ciderD, bleu4: own.bleu4,
      blind: isBlindToo ? try score(describe(max(features.count / 2, 1))) : nil,
      nearest: try training.map { try score(nearestCaptions(rows, features, $0.features, $0.captions)) },
      samples: rows.map { Sample(index: $0, caption: texts[$0], references: references[$0]) })
  }

  /// The first caption of the training image with the largest cosine of mean features.
  private static func nearestCaptions(
    _ rows: [Int], _ features: FeatureStack, _ training: FeatureStack, _ captions: [[String]]
  ) throws -> [String] {
    try withError {
      try withNoGrad {
        // [rows, Dv]
        func pooled(_ stack: FeatureStack, _ rows: [Int]) throws -> Tensor {
          .cat(try RetrievalEvaluation.batches(rows, 64).map { try stack.clips($0).meanFrame.mean(1) }, 0)
        }
        let base = try pooled(training, Array(0..<training.count))
        let center = base.mean(0)
        let nearest = (try pooled(features, rows) - center).normalized()
          .matmul((base - center).normalized().transposed(0, 1)).argmax(1)
        return nearest.values(as: Int.self).map { captions[$0][0] }
      }
    }
  }

  /// All numbers, under names for `metrics.jsonl`.
  public var metrics: [String: Any] {
    var out: [String: Any] = ["ciderD": ciderD, "bleu4": bleu4]
    for (name, scores) in [("blind", blind), ("nearest", nearest)] {
      guard let scores else { continue }
      out["\(name).ciderD"] = scores.ciderD
      out["\(name).bleu4"] = scores.bleu4
    }
    return out
  }

  /// All numbers in one line.
  public var summary: String {
    func words(_ name: String, _ scores: Scores) -> String {
      String(format: "%@ CIDEr-D %.1f BLEU-4 %.1f", name as NSString, scores.ciderD, scores.bleu4)
    }
    return
      ([words("model", Scores(ciderD: ciderD, bleu4: bleu4))] + [blind.map { words("blind", $0) }]
      + [nearest.map { words("nearest", $0) }]).compactMap { $0 }.joined(separator: " · ")
  }
}
