import Foundation

/// CIDEr-D: how well a caption agrees with the consensus of its references.
///
/// Source of the formula: Vedantam, Zitnick, Parikh, "CIDEr: Consensus-based Image Description Evaluation", CVPR 2015
/// (arXiv 1411.5726), section 3 and the "D" variant of section 7; constants as in the COCO caption evaluation.
///
/// For n = 1…4 a caption is a vector of tf·idf weights, tf the plain count of the n-gram and
/// idf = ln N − ln max(1, df), where N is the number of items and df in how many of them any reference holds the n-gram.
/// A hypothesis h and a reference r score Σ min(hₖ, rₖ)·rₖ / (‖h‖‖r‖) · exp(−(l_h − l_r)² / 2σ²), σ = 6, where l counts
/// the bigrams (one less than the words). The mean over references and over n, times 10, is the score of the item.
///
/// Figures are usually reported times 100: ``Scores/reported``. With one item only, every idf is zero, and so is the score.
public struct CIDErD: Sendable {
  /// Scores of a set of captions.
  public struct Scores: Sendable, Equatable, Codable {
    /// The mean over items, 0…10.
    public let mean: Double
    /// One score for each item, 0…10.
    public let each: [Double]
    /// The mean times 100, as papers print it.
    public var reported: Double { mean * 100 }
  }

  private struct Weighted {
    var weights: [[NGram: Double]]
    var norms: [Double]
    var length: Int
  }

  private static let sigma = 6.0

  private let numbers: WordNumbers
  private let documentFrequency: [NGram: Int]
  private let logCount: Double
  private let references: [[Weighted]]

  /// Prepares the references of every item; document frequencies come from these references.
  ///
  /// - Parameters:
  ///   - references: one list of captions an item, none of them empty.
  ///   - words: how a caption is split; the COCO evaluation's way unless told otherwise.
  /// - Throws: ``EvaluationError`` when there is no item, or an item has no reference.
  public init(
    references: [[String]], words: (String) -> [String] = CaptionTokenizer.words
  ) throws(EvaluationError) {
    try checkCaptions(hypotheses: references.count, references: references)
    var numbers = WordNumbers()
    let counted = references.map { captions in captions.map { NGramCounts(numbers.encode(words($0))) } }
    var frequency: [NGram: Int] = [:]
    for captions in counted {
      var seen: Set<NGram> = []
      for caption in captions {
        for table in caption.counts { seen.formUnion(table.keys) }
      }
      for gram in seen { frequency[gram, default: 0] += 1 }
    }
    let logCount = log(Double(references.count))
    self.numbers = numbers
    self.documentFrequency = frequency
    self.logCount = logCount
    self.references = counted.map { captions in
      captions.map { Self.weigh($0, frequency: frequency, logCount: logCount) }
    }
  }

  /// Scores one hypothesis an item, in the order of the references.
  ///
  /// - Throws: ``EvaluationError/countMismatch(what:expected:found:)`` unless there are as many hypotheses as items.
  public func scores(
    _ hypotheses: [String], words: (String) -> [String] = CaptionTokenizer.words
  ) throws(EvaluationError) -> Scores {
    guard hypotheses.count == references.count else {
      throw .countMismatch(what: "hypotheses", expected: references.count, found: hypotheses.count)
    }
    let each = hypotheses.enumerated().map { score(words($1), $0) }
    return Scores(mean: each.reduce(0, +) / Double(each.count), each: each)
  }

  /// Scores a hypothesis of one item, 0…10; as many as one likes.
  ///
  /// - Parameters:
  ///   - hypothesis: The caption.
  ///   - item: Its place among the references.
  ///   - words: How the caption is split, as the references were.
  /// - Throws: ``EvaluationError/countMismatch(what:expected:found:)`` for an item that is not there.
  public func score(
    _ hypothesis: String, item: Int, words: (String) -> [String] = CaptionTokenizer.words
  ) throws(EvaluationError) -> Double {
    guard references.indices.contains(item) else {
      throw .countMismatch(what: "items", expected: item + 1, found: references.count)
    }
    return score(words(hypothesis), item)
  }

  private func score(_ hypothesis: [String], _ item: Int) -> Double {
    var numbers = numbers
    let counted = NGramCounts(numbers.encode(hypothesis))
    let weighted = Self.weigh(counted, frequency: documentFrequency, logCount: logCount)
    let sum = references[item].reduce(0) { $0 + Self.similarity(weighted, $1) }
    return 10 * sum / Double(references[item].count)
  }

  private static func weigh(_ caption: NGramCounts, frequency: [NGram: Int], logCount: Double) -> Weighted {
    let weights = caption.counts.map { table in
      var result: [NGram: Double] = [:]
      result.reserveCapacity(table.count)
      for (gram, count) in table {
        result[gram] = Double(count) * (logCount - log(Double(max(1, frequency[gram] ?? 0))))
      }
      return result
    }
    let norms = weights.map { $0.values.reduce(0) { $0 + $1 * $1 }.squareRoot() }
    return Weighted(weights: weights, norms: norms, length: max(0, caption.length - 1))
  }

  /// The mean over n of the clipped cosine with the length penalty.
  private static func similarity(_ hypothesis: Weighted, _ reference: Weighted) -> Double {
    let difference = Double(hypothesis.length - reference.length)
    let penalty = exp(-difference * difference / (2 * sigma * sigma))
    var sum = 0.0
    for n in 0..<NGram.longest {
      var product = 0.0
      for (gram, weight) in hypothesis.weights[n] {
        if let other = reference.weights[n][gram] { product += min(weight, other) * other }
      }
      let norms = hypothesis.norms[n] * reference.norms[n]
      if norms != 0 { product /= norms }
      sum += product * penalty
    }
    return sum / Double(NGram.longest)
  }
}
