import Backbones
import Checkpoints
import Foundation
import TestSupport
import Testing
import Torch
import TorchNN

/// A model of each kind with embeddings in front, and what transformers generated from each row alone.
struct SmallGenerator: CustomTestStringConvertible {
  let name: String
  let model: any GenerativeModel
  let fixture: Fixture

  init(_ name: String) throws {
    self.name = name
    if name == "t5" {
      let small = try SmallT5()
      (model, fixture) = (small.model, small.fixture)
    } else {
      let small = try SmallOPT()
      (model, fixture) = (small.model, small.fixture)
    }
  }

  var testDescription: String { name }
  var embeds: Tensor { fixture["embeds"] }
  var mask: Tensor { fixture["embeds.mask"] }

  func options(tokens: Int, ends: Bool = true) -> GenerationOptions {
    var options = GenerationOptions()
    (options.maxTokens, options.minTokens) = (tokens, 0)
    if ends { options.endIDs = fixture["ends"].values() }
    return options
  }

  func generate(_ options: GenerationOptions) throws -> [[Int]] {
    try model.generate(inputsEmbeds: embeds, attentionMask: mask, options: options)
  }

  /// Generated ids, without the −1 that fill rows up.
  func ids(_ key: String) -> [[Int]] {
    let tensor = fixture[key]
    return (0..<tensor.size(0)).map { tensor.select(0, $0).values(as: Int.self).filter { $0 >= 0 } }
  }

  /// One row without its padding.
  func row(_ number: Int) -> Tensor {
    let padding = mask.select(0, number).values(as: Int.self).filter { $0 == 0 }.count
    return embeds.narrow(0, number, 1).slice(1, padding)
  }
}

@Suite struct GenerationParityTests {
  static let names = ["opt", "t5"]

  @Test(arguments: names) func greedyEqualsTransformers(name: String) throws {
    let small = try SmallGenerator(name)
    #expect(try small.generate(small.options(tokens: 24, ends: false)) == small.ids("greedy"))
    var options = small.options(tokens: 20)
    #expect(try small.generate(options) == small.ids("greedy_ends"))
    options.minTokens = 9
    #expect(try small.generate(options) == small.ids("greedy_min"))
    (options.minTokens, options.repetitionPenalty) = (0, 1.5)
    #expect(try small.generate(options) == small.ids("greedy_penalty"))
  }

  @Test(arguments: names) func beamsAndTheirScoresEqualTransformers(name: String) throws {
    let small = try SmallGenerator(name)
    let changes: [(String, (inout GenerationOptions) -> Void)] = [
      ("beam", { _ in }), ("beam_early", { $0.earlyStopping = true }),
      ("beam_three", { ($0.beams, $0.earlyStopping, $0.lengthPenalty) = (3, true, 0.3) }),
      ("beam_short", { $0.lengthPenalty = -1 }),
      ("beam_long", { ($0.lengthPenalty, $0.repetitionPenalty, $0.minTokens) = (2, 1.5, 6) }),
    ]
    for (key, change) in changes {
      var options = small.options(tokens: 20)
      options.beams = 5
      change(&options)
      let texts = try small.model.texts(inputsEmbeds: small.embeds, attentionMask: small.mask, options: options)
      #expect(texts.map(\.ids) == small.ids(key), "\(key)")
      expectClose(Tensor(texts.map { Float($0.score ?? .nan) }), small.fixture["\(key).scores"], "\(key) scores")
      // Each row alone.
      for (row, text) in texts.enumerated() {
        let alone = try small.model.texts(inputsEmbeds: small.row(row), options: options)
        #expect(alone.map(\.ids) == [text.ids], "\(key) row \(row)")
      }
    }
  }

  @Test(arguments: names) func distributionsBeforeTheDrawEqualTransformers(name: String) throws {
    let small = try SmallGenerator(name)
    let changes: [(inout GenerationOptions) -> Void] = [
      {
        ($0.temperature, $0.topK, $0.topP, $0.repetitionPenalty, $0.minTokens) = (0.7, 7, 0.8, 1.4, 3)
      }, { ($0.temperature, $0.topP) = (1.5, 0.6) },
      { ($0.temperature, $0.topK, $0.repetitionPenalty) = (1, 4, 0.8) },
      { ($0.temperature, $0.topP, $0.minTokens) = (0.5, 0.05, 2) },
    ]
    for (number, change) in changes.enumerated() {
      var options = small.options(tokens: 4)
      change(&options)
      let ids = small.fixture["sample\(number).ids"].values(as: Int.self)
      let expected = small.fixture["sample\(number).scores"]
      var (logits, state) = small.model.read(inputsEmbeds: small.row(number % 3), attentionMask: nil)
      for count in 1...ids.count {
        let seen = small.model.penalizedIDs(prompt: []) + ids.prefix(count - 1)
        let scores = options.processed(logits, seen: [seen], count: count).clamped(min: -1e6)
        let wanted = expected.narrow(0, count - 1, 1)
        let (isOut, shouldBe) = (scores.less(-1e5), wanted.less(-1e5))
        #expect(
          isOut.to(.int64).values(as: Int.self) == shouldBe.to(.int64).values(as: Int.self),
          "combination \(number), token \(count)")
        expectClose(
          scores.maskedFill(shouldBe, 0), wanted.maskedFill(shouldBe, 0), "combination \(number), token \(count)")
        logits = state.next([ids[count - 1]])
      }
    }
  }

  @Test(arguments: names) func drawsFollowTheDistribution(name: String) throws {
    let small = try SmallGenerator(name)
    var options = small.options(tokens: 1, ends: false)
    (options.temperature, options.topK, options.topP) = (1.3, 5, 0.9)
    let row = small.row(1)
    let (logits, _) = small.model.read(inputsEmbeds: row, attentionMask: nil)
    let seen = [small.model.penalizedIDs(prompt: [])]
    let expected = options.processed(logits, seen: seen, count: 1).softmax().flattened().values(as: Float.self)
    let count = 3000
    let many = Tensor.cat(Array(repeating: row, count: count), 0)
    let draws = try small.model.generate(inputsEmbeds: many, options: options).map { $0[0] }
    for (id, probability) in expected.enumerated() {
      let found = Double(draws.filter { $0 == id }.count)
      let mean = Double(probability) * Double(count)
      #expect(abs(found - mean) <= 5 * mean.squareRoot(), "token \(id): \(found) draws, expected \(mean)")
    }
  }

  @Test(arguments: names) func seedsRowsAndNeighbours(name: String) throws {
    let small = try SmallGenerator(name)
    var options = small.options(tokens: 12)
    (options.temperature, options.topP, options.seed) = (1.4, 0.95, 11)
    let batch = try small.generate(options)
    #expect(try small.generate(options) == batch)
    // The first row alone has the same seed; the others have it when theirs is given.
    for row in 0..<3 {
      var alone = options
      alone.seed = 11 + UInt64(row)
      #expect(try small.model.generate(inputsEmbeds: small.row(row), options: alone) == [batch[row]])
    }
    options.seed = 12
    #expect(try small.generate(options) != batch)
  }

  @Test(arguments: names) func historyCountsWhereThePromptIsTheText(name: String) throws {
    let small = try SmallGenerator(name)
    var options = small.options(tokens: 20)
    options.repetitionPenalty = 1.5
    // The very tokens that come otherwise: a decoder-only model avoids them, an encoder's prompt is no part of the text.
    let usual = small.ids("greedy_penalty")
    let other = try small.model.generate(
      inputsEmbeds: small.embeds, attentionMask: small.mask, options: options, history: usual)
    #expect((other == usual) == (name == "t5"))
  }

  @Test(arguments: names, [1, 3]) func stopStringsEndTexts(name: String, beams: Int) throws {
    let small = try SmallGenerator(name)
    var options = small.options(tokens: 20, ends: false)
    options.beams = beams
    // Every token is a letter and its number, so that a string may begin inside a token.
    let decode: @Sendable ([Int]) -> String = { $0.map { "<\($0)>" }.joined() }
    let free = try small.generate(options)
    #expect(free.allSatisfy { $0.count == 20 })
    // Two tokens that stand side by side for the first time, late in the first row where there are such.
    func pair(_ row: Int, _ last: Int) -> String { "\(free[row][last - 1])><\(free[row][last])" }
    let (row, last) = try #require(
      free.indices.lazy.flatMap { row in (3..<20).map { (row, $0) } }.first { row, last in
        !decode(Array(free[row].prefix(last))).contains(pair(row, last))
      })
    let string = pair(row, last)
    let texts = try small.model.texts(
      inputsEmbeds: small.embeds, attentionMask: small.mask, options: options,
      stop: TextStop(["", "no such text", string], decode: decode))
    for (number, text) in texts.enumerated() {
      let hasEnded = decode(text.ids).contains(string)
      #expect(text.ending == (hasEnded ? .stopString : .length), "row \(number)")
      #expect(hasEnded || text.ids.count == 20)
      #expect(!decode(text.ids.dropLast()).contains(string))
      let alone = try small.model.texts(
        inputsEmbeds: small.row(number), options: options, stop: TextStop([string], decode: decode))
      #expect(alone.map(\.ids) == [text.ids] && alone[0].ending == text.ending)
      if beams == 1, number == row { #expect(text.ids == Array(free[row].prefix(last + 1))) }
    }
    #expect(beams > 1 || texts[row].ending == .stopString)
  }

  @Test(arguments: names) func endingsAreTold(name: String) throws {
    let small = try SmallGenerator(name)
    let options = small.options(tokens: 20)
    let texts = try small.model.texts(inputsEmbeds: small.embeds, attentionMask: small.mask, options: options)
    for text in texts {
      let isEnd = text.ids.last.map { options.endIDs.contains($0) } ?? false
      #expect(text.ending == (isEnd ? .endToken : .length) && text.score == nil)
    }
    #expect(Set(texts.map(\.ending)).contains(.endToken))
  }

  @Test(arguments: names, [1, 3]) func tokensStream(name: String, beams: Int) throws {
    let small = try SmallGenerator(name)
    var options = small.options(tokens: 20)
    options.beams = beams
    var seen = Array(repeating: [Int](), count: 3)
    let rows = try small.model.generate(
      inputsEmbeds: small.embeds, attentionMask: small.mask, options: options
    ) { seen[$0].append($1) }
    #expect(seen == rows)
  }

  @Test func promptsOfTokensEqualTheirEmbeddings() throws {
    for name in Self.names {
      let small = try SmallGenerator(name)
      var options = small.options(tokens: 15)
      options.repetitionPenalty = 1.2
      let prompts = [[5, 17, 3, 44, 20], [12, 7], [40, 41, 2, 11]]
      let batch = try small.model.generate(prompts: prompts, options: options)
      for (row, prompt) in prompts.enumerated() {
        let embeds = small.model.embed(Tensor(prompt, [1, prompt.count]))
        #expect(
          try small.model.generate(inputsEmbeds: embeds, options: options, history: [prompt]) == [batch[row]])
      }
    }
  }

  @Test func optionsDecodeWithoutAllFields() throws {
    let few = try JSONDecoder().decode(GenerationOptions.self, from: Data(#"{"beams": 5, "earlyStopping": true}"#.utf8))
    var expected = GenerationOptions()
    (expected.beams, expected.earlyStopping) = (5, true)
    #expect(few == expected)
    #expect(try JSONDecoder().decode(GenerationOptions.self, from: JSONEncoder().encode(few)) == few)
  }
}
