import Testing
import Torch

@testable import Training

@Suite("What comes when")
struct EpochPlanTests {
  /// 53 images with 1 … 3 captions of 1 … 9 tokens.
  private let lengths = (0..<53).map { row in (0...row % 3).map { (row * 7 + $0 * 5) % 9 + 1 } }

  private func plan(seed: UInt64 = 3, captions: Int = 1) throws -> EpochPlan {
    try EpochPlan(lengths: lengths, batchSize: 8, captionsPerImage: captions, seed: seed)
  }

  @Test("Every image at most once an epoch; what fills no batch comes in another epoch")
  func once() throws {
    let plan = try plan()
    #expect(plan.stepsPerEpoch == 6)
    var left: [Set<Int>] = []
    for epoch in 0..<4 {
      let items = try (0..<6).flatMap { try plan.batch(step: epoch * 6 + $0) }
      #expect(items.count == 48)
      #expect(Set(items.map(\.row)).count == 48)
      #expect(items.allSatisfy { item in item.captions.allSatisfy(lengths[item.row].indices.contains) })
      left.append(Set(0..<53).subtracting(items.map(\.row)))
    }
    #expect(Set(left).count > 1)
  }

  @Test("A function of seed and step alone: any step can be asked for, in any order")
  func deterministic() throws {
    let inOrder = try plan()
    let all = try (0..<30).map { try inOrder.batch(step: $0) }
    for step in [29, 0, 13, 13, 5, 24] { #expect(try plan().batch(step: step) == all[step]) }
    let jumping = try plan()
    for step in [29, 0, 13, 13, 5, 24] { #expect(try jumping.batch(step: step) == all[step]) }
    #expect(try (0..<6).map { try plan(seed: 4).batch(step: $0) } != Array(all[0..<6]))
    #expect(Array(all[0..<6]) != Array(all[6..<12]))
  }

  @Test("Captions take turns, several of an image are different ones")
  func captions() throws {
    let one = try plan()
    let chosen = try (0..<120).flatMap { try one.batch(step: $0) }
    for row in [2, 5, 8] {  // three captions each
      let counts = chosen.filter { $0.row == row }.reduce(into: [0, 0, 0]) { $0[$1.captions[0]] += 1 }
      #expect(counts.allSatisfy { $0 > 0 }, "\(counts)")
    }
    let mirrored = chosen.count(where: \.mirrored)
    #expect((chosen.count * 4 / 10...chosen.count * 6 / 10).contains(mirrored))
    let two = try plan(captions: 2)
    for item in try (0..<12).flatMap({ try two.batch(step: $0) }) {
      #expect(item.captions.count == min(2, lengths[item.row].count))
      #expect(Set(item.captions).count == item.captions.count)
    }
  }

  @Test("Questions take turns beside captions; where there is none, a caption comes in its place")
  func questions() throws {
    let questions = (0..<53).map { row in Array(repeating: 4, count: row % 3) }
    let plan = try EpochPlan(
      lengths: lengths, batchSize: 8, captionsPerImage: 0, questionLengths: questions, questionsPerImage: 1, seed: 3)
    let items = try (0..<60).flatMap { try plan.batch(step: $0) }
    for item in items {
      let hasQuestions = item.row % 3 > 0
      #expect(item.questions.count == (hasQuestions ? 1 : 0) && item.captions.count == (hasQuestions ? 0 : 1))
      #expect(item.questions.allSatisfy(questions[item.row].indices.contains))
    }
    #expect(Set(items.filter { $0.row == 5 }.flatMap(\.questions)) == [0, 1])
    let both = try EpochPlan(
      lengths: lengths, batchSize: 8, captionsPerImage: 2, questionLengths: questions, questionsPerImage: 2, seed: 3)
    for item in try (0..<6).flatMap({ try both.batch(step: $0) }) {
      #expect(item.captions.count == min(2, lengths[item.row].count) && item.questions.count == item.row % 3)
    }
  }

  @Test("Fewer images than a batch holds is an error that says so")
  func tooFew() {
    #expect(throws: DataError.badSetting("batch size", expected: "at most the 53 items there are", found: "54")) {
      try EpochPlan(lengths: lengths, batchSize: 54, seed: 1)
    }
  }
}

@Suite("Patches left out")
struct PatchDropoutTests {
  /// Token t of image b holds 100 b + t.
  private let features = (Tensor.arange(2).reshaped(2, 1, 1) * 100 + Tensor.arange(10).reshaped(1, 10, 1)).to(.float32)

  @Test("The class token and part of the patches stay, in order, the same for all images")
  func part() {
    var seen: Set<[Float]> = []
    let generator = Generator(seed: 5)
    for _ in 0..<20 {
      let kept = PatchDropout.apply(features, part: 0.5, generator: generator)
      #expect(kept.shape == [2, 6, 1] || kept.shape == [2, 5, 1])
      let rows = (0..<2).map { kept.select(0, $0).values(as: Float.self) }
      #expect(rows[0].first == 0)
      #expect(rows[0] == rows[0].sorted() && Set(rows[0]).count == rows[0].count)
      #expect(rows[1] == rows[0].map { $0 + 100 })
      seen.insert(rows[0])
    }
    #expect(seen.count > 10)
    #expect(seen.reduce(into: Set<Float>()) { $0.formUnion($1) }.count == 10)
  }

  @Test("All patches, and never none")
  func limits() {
    let generator = Generator(seed: 5)
    #expect(PatchDropout.apply(features, part: 1, generator: generator) === features)
    #expect(PatchDropout.apply(features, part: 0.001, generator: generator).shape == [2, 2, 1])
  }
}

@Suite("Captions for a language model")
struct CaptionTextTests {
  @Test(
    "White space, spaces before punctuation and the full stop go",
    arguments: [
      ("A dog runs .", "A dog runs"), ("  two \t dogs ,  one cat . ", "two dogs, one cat"), ("Look !", "Look!"),
      ("a dog 's ball ...", "a dog's ball"), ("no change", "no change"), ("A dog. A cat.", "A dog. A cat"),
    ])
  func cleaned(given: String, expected: String) {
    #expect(CaptionText.cleaned(given) == expected)
    #expect(CaptionText.cleaned(expected) == expected)
  }

  @Test("Nothing is cleaned away entirely")
  func nothing() {
    #expect(CaptionText.cleaned(" . ") == " . ")
    #expect(CaptionText.cleaned("") == "")
  }
}
