import Foundation

/// BLEU: how many of a caption's n-grams occur in its references.
///
/// Source: Papineni et al., "BLEU: a Method for Automatic Evaluation of Machine Translation", ACL 2002, over the whole
/// corpus, with the reference of the closest length (the shorter one of two equally close) and, as in the COCO caption
/// evaluation, 1e-15 added to the matches and 1e-9 to what they are divided by, so that nothing is divided by zero.
/// BLEU-n is the geometric mean of the clipped precisions of 1…n words, times exp(1 − r/c) when the captions (c words) are
/// shorter than their references (r words).
public enum BLEU {
  /// BLEU-1 to BLEU-4 of a set of captions, each 0…1.
  ///
  /// - Parameters:
  ///   - hypotheses: one caption an item.
  ///   - references: the captions to compare it with, at least one an item.
  ///   - words: how a caption is split; the COCO evaluation's way unless told otherwise.
  /// - Throws: ``EvaluationError`` when the lists differ in length or an item has no reference.
  public static func corpus(
    hypotheses: [String], references: [[String]], words: (String) -> [String] = CaptionTokenizer.words
  ) throws(EvaluationError) -> [Double] {
    try checkCaptions(hypotheses: hypotheses.count, references: references)
    var numbers = WordNumbers()
    var matches = [Int](repeating: 0, count: NGram.longest)
    var guesses = matches
    var length = 0
    var referenceLength = 0
    for (hypothesis, captions) in zip(hypotheses, references) {
      let counted = NGramCounts(numbers.encode(words(hypothesis)))
      let others = captions.map { NGramCounts(numbers.encode(words($0))) }
      length += counted.length
      let lengths = others.map(\.length)
      let closest = lengths.min { (abs($0 - counted.length), $0) < (abs($1 - counted.length), $1) }
      referenceLength += closest ?? 0
      for n in 0..<NGram.longest {
        guesses[n] += max(0, counted.length - n)
        for (gram, count) in counted.counts[n] {
          matches[n] += min(count, others.reduce(0) { max($0, $1.counts[n][gram] ?? 0) })
        }
      }
    }
    var product = 1.0
    let ratio = (Double(length) + 1e-15) / (Double(referenceLength) + 1e-9)
    let penalty = ratio < 1 ? exp(1 - 1 / ratio) : 1
    return (0..<NGram.longest).map { n in
      product *= (Double(matches[n]) + 1e-15) / (Double(guesses[n]) + 1e-9)
      return pow(product, 1 / Double(n + 1)) * penalty
    }
  }
}
