import Foundation
import QFormer
import Testing
import Torch

@Suite struct WordAlignmentTests {
  /// Two images of two tokens, three words along the axes.
  private func sides() -> (tokens: Tensor, words: Tensor) {
    let tokens = Tensor([3, 4, 0, 0, 0, 2, 1, 0, 0, -1, 0, 0].map(Float.init)).reshaped(2, 2, 3)
    return (tokens, Tensor.identity(3).to(.float32))
  }

  @Test func aWordTakesTheTokenThatIsNearest() throws {
    let found = try withError {
      let (tokens, words) = sides()
      return WordAlignment.similarity(tokens: tokens, words: words).values(as: Float.self)
    }
    for (found, expected) in zip(found, [0.6, 0.8, 1, 1, 0, 0] as [Float]) { #expect(abs(found - expected) < 1e-6) }
  }

  @Test func howCommonAWordIsAddsToWhatTokensSay() throws {
    let prior: [Float] = [-1, 0.5, -2]
    let (logits, loss) = try withError {
      let (tokens, words) = sides()
      let targets = Tensor([0.5, 0.5, 0, 0, 1, 0].map(Float.init)).reshaped(2, 3)
      return (
        WordAlignment.logits(tokens: tokens, words: words, prior: Tensor(prior), temperature: 0.5)
          .values(as: Float.self),
        WordAlignment.loss(tokens: tokens, words: words, prior: Tensor(prior), targets: targets, temperature: 0.5).item
      )
    }
    let expected: [Float] = [0.2, 2.1, 0, 1, 0.5, -2]
    for (found, expected) in zip(logits, expected) { #expect(abs(found - expected) < 1e-6) }
    func logSum(_ values: ArraySlice<Float>) -> Double { log(values.map { exp(Double($0)) }.reduce(0, +)) }
    let wanted = (logSum(expected[0..<3]) - (0.2 + 2.1) / 2 + logSum(expected[3..<6]) - 0.5) / 2
    #expect(abs(loss - wanted) < 1e-6)
  }
}
