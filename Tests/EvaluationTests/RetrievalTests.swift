import Evaluation
import Foundation
import Testing

@Suite("Retrieval")
struct RetrievalTests {
  @Test("Ranks worked out by hand")
  func byHand() throws {
    // Two images; texts 0 and 1 belong to image 0, text 2 to image 1.
    let scores = try RetrievalScores(
      similarity: [0.1, 0.9, 0.5, 0.2, 0.3, 0.25], imageOfText: [0, 0, 1], cutoffs: [1, 2])
    #expect(scores.imageToText == [1: 0.5, 2: 1])  // image 1: text 1 is ahead of text 2
    #expect(scores.textToImage == [1: 1.0 / 3, 2: 1])
    #expect(scores.medianImageRank == 1)
    #expect(scores.medianTextRank == 2)
    #expect(scores.images == 2)
    #expect(scores.texts == 3)
  }

  @Test("A text of two images finds either, and is foreign to neither")
  func sharedText() throws {
    // Three images; text 0 belongs to images 0 and 1, text 1 to image 1, text 2 to image 2.
    let similarity: [Float] = [0.4, 0.1, 0.3, 0.8, 0.7, 0.9, 0.5, 0.2, 0.6]
    let shared = try RetrievalScores(similarity: similarity, imagesOfText: [[0, 1], [1], [2]], cutoffs: [1, 2])
    #expect(shared.imageToText == [1: 2.0 / 3, 2: 1])  // image 1: text 2 alone is ahead of its own texts
    #expect(shared.textToImage == [1: 2.0 / 3, 2: 1])  // text 2: image 1 is ahead
    let alone = try RetrievalScores(similarity: similarity, imageOfText: [0, 1, 2], cutoffs: [1, 2])
    #expect(alone.imageToText == [1: 2.0 / 3, 2: 2.0 / 3])  // image 1: texts 2 and 0 are ahead of text 1
    #expect(alone.textToImage == [1: 1.0 / 3, 2: 2.0 / 3])  // text 0: images 1 and 2 are ahead
    #expect(throws: EvaluationError.empty(what: "image of a text")) {
      try RetrievalScores(similarity: [1, 2], imagesOfText: [[0], []])
    }
  }

  @Test("Agrees with sorting every row and column")
  func againstSorting() throws {
    let images = 23
    let imageOfText = (0..<(images * 5)).map { ($0 * 7) % images }
    let texts = imageOfText.count
    var state: UInt64 = 5
    let similarity = (0..<(images * texts)).map { _ in
      state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
      return Float(state >> 40) / Float(1 << 24)
    }
    let scores = try RetrievalScores(similarity: similarity, imageOfText: imageOfText)
    for k in [1, 5, 10] {
      let hits = (0..<images).count { image in
        let order = (0..<texts).sorted { similarity[image * texts + $0] > similarity[image * texts + $1] }
        return order.prefix(k).contains { imageOfText[$0] == image }
      }
      #expect(scores.imageToText[k] == Double(hits) / Double(images))
      let found = (0..<texts).count { text in
        let order = (0..<images).sorted { similarity[$0 * texts + text] > similarity[$1 * texts + text] }
        return order.prefix(k).contains(imageOfText[text])
      }
      #expect(scores.textToImage[k] == Double(found) / Double(texts))
    }
  }

  @Test("A constant score earns nothing, and what was never compared loses")
  func ties() throws {
    let constant = try RetrievalScores(
      similarity: [Float](repeating: 1, count: 12), imageOfText: [0, 1, 2, 0], cutoffs: [1])
    #expect(constant.imageToText == [1: 0])
    #expect(constant.textToImage == [1: 0])
    let pruned = try RetrievalScores(
      similarity: [1, -.infinity, -.infinity, -.infinity], imageOfText: [0, 1], cutoffs: [1])
    #expect(pruned.imageToText == [1: 0.5])
  }

  @Test("What does not fit is refused")
  func refusals() {
    #expect(throws: EvaluationError.countMismatch(what: "similarities", expected: 4, found: 3)) {
      try RetrievalScores(similarity: [1, 2, 3], imageOfText: [0, 1])
    }
    #expect(throws: EvaluationError.indexOutOfRange(what: "image", index: 2, count: 1)) {
      try RetrievalScores(similarity: [1, 2], imageOfText: [0, 2])
    }
    #expect(throws: EvaluationError.notANumber(image: 1, text: 0)) {
      try RetrievalScores(similarity: [1, 2, .nan, 4], imageOfText: [0, 1])
    }
    #expect(throws: EvaluationError.imageWithoutText(image: 1)) {
      try RetrievalScores(similarity: [1, 2, 3, 4], imageOfText: [0, 0])
    }
    #expect(throws: EvaluationError.badCutoff(0)) {
      try RetrievalScores(similarity: [1], imageOfText: [0], cutoffs: [0])
    }
    #expect(throws: EvaluationError.empty(what: "text")) { try RetrievalScores(similarity: [], imageOfText: []) }
  }

  @Test("Scores survive JSON, with k as the key")
  func coding() throws {
    let scores = try RetrievalScores(similarity: [1, 0, 0, 1], imageOfText: [0, 1])
    let data = try JSONEncoder().encode(scores)
    #expect(try JSONDecoder().decode(RetrievalScores.self, from: data) == scores)
    let object = try #require(JSONSerialization.jsonObject(with: data) as? [String: Any])
    let recalls = try #require(object["imageToText"] as? [String: Any])
    #expect(Set(recalls.keys) == ["1", "5", "10"])
    #expect(scores.meanRecall == 1)
  }

  @Test("Mean and spread over seeds")
  func seeds() throws {
    let three = try SeedStatistics([1, 2, 6])
    #expect(three.mean == 3)
    #expect(abs(three.standardDeviation - 7.0.squareRoot()) < 1e-12)
    #expect(try SeedStatistics([4]).standardDeviation == 0)
    #expect(throws: EvaluationError.empty(what: "run")) { try SeedStatistics([]) }
  }
}
