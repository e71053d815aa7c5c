import Evaluation
import Testing

private struct ScoredSet: Decodable {
  let hypotheses: [String]
  let references: [[String]]
  let bleu: [Double]
  let cider: Double
  let ciderEach: [Double]
  let rouge: Double
  let rougeEach: [Double]
}

@Suite("Caption scores agree with the COCO evaluation")
struct CaptionScoreTests {
  @Test("CIDEr-D, BLEU and ROUGE-L", arguments: ["forty", "uneven", "one", "nothing"])
  func parity(name: String) throws {
    let sets = try evaluationFixture("scores.json", as: [String: ScoredSet].self)
    let set = try #require(sets[name])
    let cider = try CIDErD(references: set.references).scores(set.hypotheses)
    #expect(abs(cider.mean - set.cider) < 1e-6)
    #expect(largestDifference(cider.each, set.ciderEach) < 1e-6)
    let prepared = try CIDErD(references: set.references)
    let alone = try set.hypotheses.enumerated().map { try prepared.score($1, item: $0) }
    #expect(largestDifference(alone, cider.each) < 1e-9)
    let bleu = try BLEU.corpus(hypotheses: set.hypotheses, references: set.references)
    #expect(largestDifference(bleu, set.bleu) < 1e-6)
    let rouge = try ROUGEL.scores(hypotheses: set.hypotheses, references: set.references)
    #expect(abs(rouge.mean - set.rouge) < 1e-6)
    #expect(largestDifference(rouge.each, set.rougeEach) < 1e-6)
  }

  @Test("The scores of the fixture span good and bad captions")
  func spread() throws {
    let set = try #require(try evaluationFixture("scores.json", as: [String: ScoredSet].self)["forty"])
    let best = try #require(set.ciderEach.max())
    let worst = try #require(set.ciderEach.min())
    #expect(best > 2)
    #expect(worst == 0)
  }

  @Test("The report holds the same figures times 100, and tells monotony")
  func report() throws {
    let set = try #require(try evaluationFixture("scores.json", as: [String: ScoredSet].self)["forty"])
    let report = try CaptionScores(hypotheses: set.hypotheses, references: set.references)
    #expect(abs(report.ciderD - 100 * set.cider) < 1e-4)
    #expect(abs(report.bleu[3] - 100 * set.bleu[3]) < 1e-4)
    #expect(abs(report.rougeL - 100 * set.rouge) < 1e-4)
    let same = try CaptionScores(
      hypotheses: Array(repeating: "A dog runs .", count: 40), references: set.references)
    #expect(same.distinct == 1)
    #expect(same.meanLength == 3)
  }

  @Test("Lists that do not fit are refused")
  func refusals() {
    #expect(throws: EvaluationError.noReferences(item: 1)) { try CIDErD(references: [["a"], []]) }
    #expect(throws: EvaluationError.empty(what: "item")) { try CIDErD(references: []) }
    #expect(throws: EvaluationError.countMismatch(what: "hypotheses", expected: 2, found: 1)) {
      try CIDErD(references: [["a"], ["b"]]).scores(["a"])
    }
    #expect(throws: EvaluationError.countMismatch(what: "items", expected: 3, found: 2)) {
      try CIDErD(references: [["a"], ["b"]]).score("a", item: 2)
    }
    #expect(throws: EvaluationError.countMismatch(what: "hypotheses", expected: 1, found: 2)) {
      try BLEU.corpus(hypotheses: ["a", "b"], references: [["a"]])
    }
    #expect(throws: EvaluationError.noReferences(item: 0)) {
      try ROUGEL.scores(hypotheses: ["a"], references: [[]])
    }
  }

  private func largestDifference(_ a: [Double], _ b: [Double]) -> Double {
    a.count == b.count ? zip(a, b).map { abs($0 - $1) }.max() ?? 0 : .infinity
  }
}
