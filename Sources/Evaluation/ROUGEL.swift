/// ROUGE-L: the longest common subsequence of a caption and its references.
///
/// Source: Lin, "ROUGE: A Package for Automatic Evaluation of Summaries", ACL workshop 2004, with β = 1.2 and the best
/// precision and the best recall over the references, as the COCO caption evaluation takes them.
public enum ROUGEL {
  /// The mean over items and the score of each, 0…1.
  ///
  /// - Parameters: as those of ``BLEU/corpus(hypotheses:references:words:)``.
  /// - Throws: ``EvaluationError`` when the lists differ in length or an item has no reference.
  public static func scores(
    hypotheses: [String], references: [[String]], words: (String) -> [String] = CaptionTokenizer.words
  ) throws(EvaluationError) -> (mean: Double, each: [Double]) {
    try checkCaptions(hypotheses: hypotheses.count, references: references)
    let betaSquared = 1.2 * 1.2
    let each = zip(hypotheses, references).map { (hypothesis, captions) -> Double in
      // A caption without words counts as one empty word.
      let candidate = nonEmpty(words(hypothesis))
      var precision = 0.0
      var recall = 0.0
      for caption in captions {
        let reference = nonEmpty(words(caption))
        let common = Double(longestCommonSubsequence(candidate, reference))
        precision = max(precision, common / Double(candidate.count))
        recall = max(recall, common / Double(reference.count))
      }
      guard precision > 0, recall > 0 else { return 0 }
      let weighted = recall + betaSquared * precision
      return (1 + betaSquared) * precision * recall / weighted
    }
    return (each.reduce(0, +) / Double(each.count), each)
  }

  private static func nonEmpty(_ words: [String]) -> [String] { words.isEmpty ? [""] : words }

  private static func longestCommonSubsequence(_ a: [String], _ b: [String]) -> Int {
    var row = [Int](repeating: 0, count: b.count + 1)
    for word in a {
      var diagonal = 0
      for (j, other) in b.enumerated() {
        let above = row[j + 1]
        row[j + 1] = word == other ? diagonal + 1 : max(above, row[j])
        diagonal = above
      }
    }
    return row[b.count]
  }
}
