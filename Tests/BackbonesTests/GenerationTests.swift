import Backbones
import Checkpoints
import Foundation
import TestSupport
import Testing
import Torch

@Suite struct GenerationTests {
  func options(_ small: SmallLlama, tokens: Int, ends: Bool = true) -> GenerationOptions {
    var options = GenerationOptions()
    (options.maxTokens, options.minTokens) = (tokens, 0)
    if ends { options.endIDs = small.fixture["ends"].values() }
    return options
  }

  @Test func greedyEqualsTransformers() throws {
    let small = try SmallLlama()
    let prompts = SmallLlama.prompts
    let long = try small.model.generate(prompts: prompts, options: options(small, tokens: 64, ends: false))
    #expect(long == small.ids("greedy"))
    var options = options(small, tokens: 40)
    #expect(try small.model.generate(prompts: prompts, options: options) == small.ids("greedy_ends"))
    options.minTokens = 12
    #expect(try small.model.generate(prompts: prompts, options: options) == small.ids("greedy_min"))
    (options.minTokens, options.repetitionPenalty) = (0, 1.5)
    #expect(try small.model.generate(prompts: prompts, options: options) == small.ids("greedy_penalty"))
  }

  @Test func beamsEqualTransformers() throws {
    let small = try SmallLlama()
    let prompts = SmallLlama.prompts
    var options = options(small, tokens: 24)
    options.beams = 5
    #expect(try small.model.generate(prompts: prompts, options: options) == small.ids("beam"))
    options.lengthPenalty = -1
    #expect(try small.model.generate(prompts: prompts, options: options) == small.ids("beam_short"))
    (options.lengthPenalty, options.repetitionPenalty, options.minTokens) = (2, 1.5, 6)
    #expect(try small.model.generate(prompts: prompts, options: options) == small.ids("beam_long"))
    options = self.options(small, tokens: 24, ends: false)
    options.beams = 5
    #expect(try small.model.generate(prompts: prompts, options: options) == small.ids("beam_none"))
  }

  @Test(arguments: [1, 5]) func batchEqualsSingle(beams: Int) throws {
    let small = try SmallLlama()
    var options = options(small, tokens: 24)
    options.beams = beams
    let batch = try small.model.generate(prompts: SmallLlama.prompts, options: options)
    for (row, prompt) in SmallLlama.prompts.enumerated() {
      #expect(try small.model.generate(prompts: [prompt], options: options) == [batch[row]])
    }
  }

  @Test func embeddingsEqualIDs() throws {
    let small = try SmallLlama()
    let options = options(small, tokens: 20)
    let (ids, mask) = (small.fixture["left.ids"], small.fixture["left.mask"])
    let rows = try small.model.generate(
      inputsEmbeds: small.model.embed(ids), attentionMask: mask, options: options)
    #expect(try rows == small.model.generate(prompts: SmallLlama.prompts, options: options))
  }

  @Test func tokensStreamAndCanBeStopped() throws {
    struct Enough: Error {}
    let small = try SmallLlama()
    var seen = Array(repeating: [Int](), count: 3)
    let rows = try small.model.generate(prompts: SmallLlama.prompts, options: options(small, tokens: 40)) {
      seen[$0].append($1)
    }
    #expect(seen == rows)
    var count = 0
    #expect(throws: Enough.self) {
      try small.model.generate(prompts: SmallLlama.prompts, options: options(small, tokens: 40)) { _, _ in
        count += 1
        if count == 5 { throw Enough() }
      }
    }
    #expect(count == 5)
  }

  @Test func samplingFollowsTheSeedAndTheProbabilities() throws {
    let small = try SmallLlama()
    var options = options(small, tokens: 12, ends: false)
    options.temperature = 1.3
    let first = try small.model.generate(prompts: SmallLlama.prompts, options: options)
    #expect(try small.model.generate(prompts: SmallLlama.prompts, options: options) == first)
    // A row does not depend on its neighbours.
    #expect(try small.model.generate(prompts: [SmallLlama.prompts[0]], options: options)[0] == first[0])
    options.seed = 7
    #expect(try small.model.generate(prompts: SmallLlama.prompts, options: options) != first)

    // 400 draws of one token against the softmax: topK 3 and topP leave the likeliest alone.
    let prompt = small.model.embed(Tensor([5, 17, 3], [1, 3]))
    let logits = small.model.head(small.model.forward(inputsEmbeds: prompt))
    let probabilities = (logits.select(1, 2).select(0, 0) / 1.3).softmax().values(as: Float.self)
    let ranked = probabilities.indices.sorted { probabilities[$0] > probabilities[$1] }
    func draws(_ change: (inout GenerationOptions) -> Void) throws -> [Int: Int] {
      var options = options
      options.maxTokens = 1
      change(&options)
      let rows = try small.model.generate(
        prompts: Array(repeating: [5, 17, 3], count: 400), options: options)
      return rows.reduce(into: [:]) { $0[$1[0], default: 0] += 1 }
    }
    let free = try draws { _ in }
    let expected = Double(probabilities[ranked[0]]) * 400
    #expect(abs(Double(free[ranked[0]] ?? 0) - expected) < 5 * expected.squareRoot() + 1)
    #expect(try Set(draws { $0.topK = 3 }.keys).isSubset(of: ranked.prefix(3)))
    // Just less than the two likeliest together: exactly these two remain.
    let two = Double(probabilities[ranked[0]] + probabilities[ranked[1]])
    #expect(try Set(draws { $0.topP = two - 1e-4 }.keys).isSubset(of: ranked.prefix(2)))
    #expect(try Set(draws { $0.topP = 1e-6 }.keys) == [ranked[0]])
    options.temperature = 1e-3
    let cold = try small.model.generate(prompts: SmallLlama.prompts, options: options)
    #expect(cold == small.ids("greedy").map { Array($0.prefix(12)) })
  }

  /// Several texts of a row are drawn as if it stood there several times.
  @Test func samplesOfARowFollowTheProbabilities() throws {
    let small = try SmallLlama()
    let (embeds, mask) = (small.model.embed(small.fixture["left.ids"]), small.fixture["left.mask"])
    var options = options(small, tokens: 12)
    func draw(_ count: Int, seed: UInt64) throws -> [[[Int]]] {
      try small.model.samples(
        inputsEmbeds: embeds, attentionMask: mask, count: count, options: options, generator: Generator(seed: seed)
      ).map { $0.map(\.ids) }
    }
    options.temperature = 1e-3
    let likeliest = try draw(2, seed: 1)
    options.temperature = 0
    let greedy = try small.model.generate(inputsEmbeds: embeds, attentionMask: mask, options: options)
    #expect(likeliest == greedy.map { [$0, $0] })
    #expect(throws: GenerationError.self) { try draw(2, seed: 1) }
    options.temperature = 1.3
    #expect(throws: GenerationError.self) { try draw(0, seed: 1) }
    let first = try draw(3, seed: 1)
    #expect(try draw(3, seed: 1) == first)
    #expect(try draw(3, seed: 2) != first)
    #expect(first.allSatisfy { Set($0).count > 1 })

    options.maxTokens = 1
    let logits = small.model.head(small.model.forward(inputsEmbeds: embeds, attentionMask: mask)).select(1, -1)
    let probabilities = (0..<embeds.size(0)).map { (logits.select(0, $0) / 1.3).softmax().values(as: Float.self) }
    let many = try draw(400, seed: 3)
    for (drawn, probabilities) in zip(many, probabilities) {
      let best = try #require(probabilities.indices.max { probabilities[$0] < probabilities[$1] })
      let expected = Double(probabilities[best]) * 400
      #expect(abs(Double(drawn.count { $0 == [best] }) - expected) < 5 * expected.squareRoot() + 1)
    }
  }

  @Test func badOptionsAreNamed() throws {
    let model = try SmallLlama().model
    let changes: [(String, (inout GenerationOptions) -> Void)] = [
      ("maxTokens", { $0.maxTokens = 0 }), ("minTokens", { $0.minTokens = 31 }), ("beams", { $0.beams = 0 }),
      ("beams", { $0.beams = 60 }), ("temperature", { $0.temperature = -1 }),
      ("temperature", { ($0.beams, $0.temperature) = (2, 1) }), ("topK", { $0.topK = -1 }),
      ("topP", { $0.topP = 0 }), ("repetitionPenalty", { $0.repetitionPenalty = 0 }),
      ("lengthPenalty", { $0.lengthPenalty = .nan }), ("endIDs", { $0.endIDs = [61] }),
    ]
    for (name, change) in changes {
      var options = GenerationOptions()
      change(&options)
      let error = #expect(throws: GenerationError.self) { try model.generate(prompts: [[1]], options: options) }
      #expect(error?.description.hasPrefix("\(name):") == true)
    }
  }

  @Test func badPromptsAreNamed() throws {
    let model = try SmallLlama().model
    let options = GenerationOptions()
    let unknown = #expect(throws: GenerationError.self) { try model.generate(prompts: [[1], [61]], options: options) }
    #expect(unknown?.description == "prompt 1: the token 61 is not in 0 ..< 61")
    #expect(throws: GenerationError.self) { try model.generate(prompts: [[]], options: options) }
    #expect(try model.generate(prompts: [], options: options).isEmpty)
  }
}

@Suite(.serialized) struct LlamaRealTests {
  @Test func logitsAndTextOfTheFetchedModelEqualTransformers() throws {
    guard let folder = fetchedModel("smollm2-135m-instruct") else { return }
    let fixture = try Fixture("backbones/real_smollm2.safetensors")
    let model = try Llama.load(folder: folder)
    var options = GenerationOptions()
    options.maxTokens = 64
    var prompts: [[Int]] = []
    for number in 0..<3 {
      let ids = fixture["\(number).ids"]
      prompts.append(ids.values())
      let logits = withNoGrad { model.head(model.forward(inputsEmbeds: model.embed(ids))) }
      expectClose(logits.select(0, 0).slice(1, 0, step: 64), fixture["\(number).logits"], relative: 1e-3)
      if number == 0 { expectClose(logits.select(1, -1).select(0, 0), fixture["0.last"], relative: 1e-3) }
    }
    // All at once, padded on the left.
    let rows = try model.generate(prompts: prompts, options: options)
    for number in 0..<3 { #expect(rows[number] == fixture["\(number).greedy"].values()) }
  }
}
