import Foundation
import QFormer
import TestSupport
import Testing
import Torch

@Suite struct HardNegativeTests {
  @Test func positivesAreNeverDrawn() throws {
    // Negatives that score below any mask value, and a positive that would win every draw.
    let scores = Tensor([Float](repeating: -20_000, count: 64), [8, 8])
    let ids = Tensor([Int64(1), 1, 2, 3, 3, 3, 4, 5])
    let numbers = ids.values(as: Int.self)
    for row in 0..<8 { scores.select(0, row).select(0, row).copy(from: Tensor(Float(300))) }
    let generator = Generator(seed: 1)
    for _ in 0..<300 {
      let drawn = try #require(Matching.hardNegatives(scores: scores, ids: ids, generator: generator))
      for (row, column) in drawn.values(as: Int.self).enumerated() {
        #expect((0..<8).contains(column) && numbers[column] != numbers[row])
      }
      let plain = try #require(Matching.hardNegatives(scores: scores, generator: generator))
      for (row, column) in plain.values(as: Int.self).enumerated() { #expect(column != row) }
    }
  }

  @Test func drawsFollowTheSoftmax() throws {
    // 4,000 equal rows but for the diagonal block: columns 4,000 … 4,004 belong to no row that is looked at.
    let (rows, classes) = (4000, 5)
    let scores = Tensor.full([rows + classes, rows + classes], -1000)
    let logits: [Float] = [0, 1, 2, -1, 0.5]
    scores.narrow(0, 0, rows).narrow(1, rows, classes).copy(from: Tensor(logits, [1, classes]))
    let drawn = try #require(Matching.hardNegatives(scores: scores, generator: Generator(seed: 9)))
    var counts = [Double](repeating: 0, count: classes)
    for column in drawn.values(as: Int.self).prefix(rows) where column >= rows { counts[column - rows] += 1 }
    // The 1e-9 that is added to every weight gives the other 3,999 columns 4e-6 together.
    #expect(counts.reduce(0, +) >= Double(rows) - 1)
    let total = logits.reduce(0) { $0 + exp(Double($1)) }
    let square = zip(counts, logits).reduce(0.0) { sum, pair in
      let expected = Double(rows) * exp(Double(pair.1)) / total
      return sum + (pair.0 - expected) * (pair.0 - expected) / expected
    }
    #expect(square < 13.28, "χ² with 4 degrees of freedom, 1 % level: \(square), \(counts)")
  }

  @Test func aPartIsDrawnUniformly() throws {
    // The next row is the only hard negative: half of the draws take it, the other half any of five.
    let scores = Tensor.zeros([6, 6])
    for row in 0..<6 { scores.select(0, row).select(0, (row + 1) % 6).copy(from: Tensor(Float(50))) }
    let generator = Generator(seed: 4)
    var counts = [Double](repeating: 0, count: 6)
    for _ in 0..<500 {
      let drawn = try #require(Matching.hardNegatives(scores: scores, uniformPart: 0.5, generator: generator))
      for (row, column) in drawn.values(as: Int.self).enumerated() { counts[(column - row + 6) % 6] += 1 }
    }
    #expect(counts[0] == 0)
    let square = zip(counts.dropFirst(), [0.6, 0.1, 0.1, 0.1, 0.1]).reduce(0.0) { sum, pair in
      let expected = 3000 * pair.1
      return sum + (pair.0 - expected) * (pair.0 - expected) / expected
    }
    #expect(square < 13.28, "χ² with 4 degrees of freedom, 1 % level: \(square), \(counts)")
  }

  @Test func aRowWithoutNegativesGivesNone() {
    let generator = Generator(seed: 0)
    #expect(Matching.hardNegatives(scores: Tensor([Float(1)], [1, 1]), generator: generator) == nil)
    let ids = Tensor([Int64(2), 2, 2])
    #expect(Matching.hardNegatives(scores: .zeros([3, 3]), ids: ids, generator: generator) == nil)
  }

  @Test func noGradientPassesThroughTheDraw() throws {
    let scores = Tensor.randn([4, 4], generator: Generator(seed: 1))
    scores.requiresGrad = true
    let drawn = try #require(Matching.hardNegatives(scores: scores, generator: Generator(seed: 2)))
    #expect(!drawn.requiresGrad && drawn.dtype == .int64 && drawn.shape == [4])
    let again = try #require(Matching.hardNegatives(scores: scores, generator: Generator(seed: 2)))
    #expect(drawn.values(as: Int.self) == again.values(as: Int.self))
  }
}
