import Backbones
import Checkpoints
import Evaluation
import Foundation
import Pipelines
import QFormer
import TestSupport
import Testing
import Torch
import TorchNN

@testable import Training

@Suite struct SelfCriticalTests {
  @Test func aRewardIsJudgedByTheOthers() {
    #expect(SelfCriticalLoss.advantages([1, 2, 6]) == [-3, -1.5, 4.5])
    #expect(SelfCriticalLoss.advantages([2, 2]) == [0, 0])
  }

  /// Gives the tiny language model small word embeddings: it then repeats no word, but draws from all of them.
  private func calm(_ folder: URL) throws {
    let file = folder.appendingPathComponent("model.safetensors")
    let weights = try SafetensorsFile(contentsOf: file)
    let scaled = try weights.names.map { name in
      (name, try weights.tensor(name).cloned() * (name == "model.embed_tokens.weight" ? 0.04 : 1))
    }
    try SafetensorsFile.write(scaled, to: file)
  }

  /// Each drawn caption in a row of its own, weighted by hand.
  @Test func lossAndGradientEqualThoseOfCaptionsAlone() throws {
    try withTemporaryFolder { folder in
      let models = try TinyModels(in: folder)
      let frozen = models.frozen("smollm2-135m-instruct")
      try calm(frozen)
      let language = try LanguageModel(folder: frozen)
      let values = Tensor.randn([3, 4, TinyModels.languageWidth], generator: Generator(seed: 4))
      func tokens() -> Tensor {
        let tokens = values.cloned()
        tokens.requiresGrad = true
        return tokens
      }
      var options = GenerationOptions()
      (options.temperature, options.maxTokens) = (1, 9)
      let drawn = try language.samples(
        rows: SeenTokens(values).rows, count: 3, options: options, generator: Generator(seed: 9))
      #expect(drawn.map(\.count) == [3, 3, 3] && drawn.allSatisfy { $0.allSatisfy { $0.tokenIDs.count <= 9 } })
      // What people wrote is what was drawn once, and something else; rows 2 and 0 of a larger set.
      let references = [
        [drawn[1][2].text, "a dog runs"], ["a red bus"], [drawn[0][1].text], [drawn[2][0].text], ["two boys play"],
      ]
      let rows = [2, 0, 3]
      var critical = Recipe.SelfCritical()
      critical.samples = 3
      let loss = try SelfCriticalLoss(critical, references: references, maximumTokens: 9)

      let whole = tokens()
      let found = try withError {
        let found = try loss.loss(
          language, tokens: SeenTokens(whole), rows: rows, generator: Generator(seed: 9))
        found.loss.backward()
        return found
      }

      let alone = tokens()
      let cider = try CIDErD(references: references)
      var sum = 0.0
      let expected = try withError {
        var (total, count): (Tensor, Int) = (Tensor(Float(0)), 0)
        for (place, answers) in drawn.enumerated() {
          let rewards = try answers.map { answer in
            var all = references.map { $0[0] }
            all[rows[place]] = answer.text
            return try cider.scores(all).each[rows[place]]
          }
          sum += rewards.reduce(0, +)
          for (index, answer) in answers.enumerated() {
            let others = rewards.indices.filter { $0 != index }.map { rewards[$0] }
            let advantage = rewards[index] - others.reduce(0, +) / 2
            let (logits, targets, _) = LanguageTexts.logits(
              language, tokens: SeenTokens(alone.select(0, place).unsqueezed(0)),
              texts: [[SharedPrefix.Text(target: answer.tokenIDs)]])
            total = total + logits.crossEntropy(targets) * (advantage * Double(answer.tokenIDs.count))
            count += answer.tokenIDs.count
          }
        }
        let mean = total / Double(count)
        mean.backward()
        return mean.item
      }
      #expect(sum > 5, "a caption that people wrote is rewarded")
      #expect(abs(found.ciderD - sum / 9 * 100) < 1e-6)
      #expect(abs(found.loss.item - expected) < 1e-5 * max(1, abs(expected)))
      let (a, b) = (try #require(whole.grad), try #require(alone.grad))
      let error = try withError { (a - b).norm().item / b.norm().item }
      #expect(error < 1e-5, "\(error)")
      #expect(throws: EvaluationError.self) {
        try SelfCriticalLoss(critical, references: [["a"], []], maximumTokens: 9)
      }
    }
  }
}
