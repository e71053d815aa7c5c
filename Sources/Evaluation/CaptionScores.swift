/// The caption measures that are reported together.
public struct CaptionScores: Codable, Sendable, Equatable {
  /// CIDEr-D times 100.
  public let ciderD: Double
  /// BLEU-1 to BLEU-4 times 100.
  public let bleu: [Double]
  /// ROUGE-L times 100.
  public let rougeL: Double
  /// The mean number of words in a hypothesis.
  public let meanLength: Double
  /// How many different hypotheses there are: a blind model says the same thing of every picture.
  public let distinct: Int
  /// How many items were scored.
  public let count: Int

  /// Scores one hypothesis an item against the item's references, split the COCO evaluation's way.
  ///
  /// - Throws: ``EvaluationError`` when the lists differ in length or an item has no reference.
  public init(hypotheses: [String], references: [[String]]) throws(EvaluationError) {
    ciderD = try CIDErD(references: references).scores(hypotheses).reported
    bleu = try BLEU.corpus(hypotheses: hypotheses, references: references).map { $0 * 100 }
    rougeL = try ROUGEL.scores(hypotheses: hypotheses, references: references).mean * 100
    let split = hypotheses.map { CaptionTokenizer.words($0) }
    meanLength = Double(split.reduce(0) { $0 + $1.count }) / Double(hypotheses.count)
    distinct = Set(split).count
    count = hypotheses.count
  }
}
