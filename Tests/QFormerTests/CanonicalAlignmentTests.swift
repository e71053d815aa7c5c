import QFormer
import Testing
import TestSupport
import Torch

@Suite struct CanonicalAlignmentTests {
  /// Pairs that share `shared` hidden directions, under other noise on each side.
  private func pairs(_ count: Int, shared: Int, seed: UInt64) throws -> (x: Tensor, y: Tensor) {
    let generator = Generator(seed: seed)
    return try withError {
      func random(_ shape: [Int]) -> Tensor { .randn(shape, generator: generator) }
      let hidden = random([count, shared])
      let x = hidden.matmul(random([shared, 12])) + random([count, 12]) * 0.5
      let y = hidden.matmul(random([shared, 9])) + random([count, 9]) * 0.5
      // Means far from 0, which the maps must take away.
      return (x + 7, y * 3 - 20)
    }
  }

  private func mapped(_ x: Tensor, _ map: (weight: Tensor, bias: Tensor)) -> Tensor {
    x.linear(map.weight, map.bias)
  }

  @Test func mapsAreCentredUncorrelatedAndOfUnitLength() throws {
    let (x, y) = try pairs(4000, shared: 3, seed: 1)
    let alignment = try CanonicalAlignment(x, y, size: 5, ridge: 1e-6)
    try withError {
      for side in [mapped(x, alignment.first), mapped(y, alignment.second)] {
        #expect(side.shape == [4000, 5])
        #expect(side.mean(0).abs().max().item < 1e-4)
        #expect(abs(side.norm(-1).mean(0).item - 1) < 1e-4)
        let covariance = side.transposed(0, 1).matmul(side) / 4000
        let scale = covariance.abs().max().item
        for row in 0..<5 {
          for column in 0..<5 where row != column {
            #expect(abs(covariance.select(0, row).select(0, column).item) < 1e-3 * scale)
          }
        }
      }
    }
  }

  @Test func correlationsAreThoseOfTheMappedSides() throws {
    let (x, y) = try pairs(4000, shared: 3, seed: 2)
    let alignment = try CanonicalAlignment(x, y, size: 5, ridge: 1e-6)
    try withError {
      let (a, b) = (mapped(x, alignment.first), mapped(y, alignment.second))
      let expected = (a * b).sum(0) / (a.norm(0) * b.norm(0))
      let found: [Float] = alignment.correlations.values()
      for (found, expected) in zip(found, expected.values(as: Float.self)) { #expect(abs(found - expected) < 1e-3) }
      // Three directions are shared; of noise alone the largest is near (√9 + √6) / √4000 = 0.09.
      #expect(found[2] > 0.8)
      #expect(found[3] < 0.15)
      #expect(found == found.sorted(by: >))
    }
  }

  @Test func unseenPairsFindEachOther() throws {
    let (x, y) = try pairs(2200, shared: 6, seed: 3)
    try withError {
      let alignment = try CanonicalAlignment(x.narrow(0, 0, 2000), y.narrow(0, 0, 2000), size: 6)
      let a = mapped(x.narrow(0, 2000, 200), alignment.first).normalized()
      let b = mapped(y.narrow(0, 2000, 200), alignment.second).normalized()
      let best: [Int] = a.matmul(b.transposed(0, 1)).topK(1).indices.reshaped(-1).values()
      let hits = best.enumerated().count { $0 == $1 }
      // Chance is 1; without the centring it is hardly more.
      #expect(hits > 100)
    }
  }

  @Test func aPairOfWeightTwoCountsAsTwoPairs() throws {
    let (x, y) = try pairs(400, shared: 3, seed: 5)
    try withError {
      func doubled(_ z: Tensor) -> Tensor { .cat([z, z.narrow(0, 0, 100)], 0) }
      let repeated = try CanonicalAlignment(doubled(x), doubled(y), size: 3)
      let weighted = try CanonicalAlignment(
        x, y, size: 3, weights: (0..<400).map { $0 < 100 ? 3 : 1.5 })
      let plain = try CanonicalAlignment(x, y, size: 3)
      #expect((repeated.correlations - weighted.correlations).abs().max().item < 1e-5)
      #expect((plain.correlations - weighted.correlations).abs().max().item > 1e-3)
      for (z, a, b) in [(x, repeated.first, weighted.first), (y, repeated.second, weighted.second)] {
        // A direction and its opposite are the same.
        #expect((mapped(z, a).abs() - mapped(z, b).abs()).abs().max().item < 1e-3)
      }
    }
  }

  @Test func badInputIsNamed() throws {
    let (x, y) = try pairs(20, shared: 2, seed: 4)
    let few = Array(repeating: 1.0, count: 19)
    #expect(throws: QFormerError.self) { try CanonicalAlignment(x, y, size: 2, weights: few) }
    #expect(throws: QFormerError.self) { try CanonicalAlignment(x, y, size: 2, weights: few + [0]) }
    #expect(throws: QFormerError.self) { try CanonicalAlignment(x, withError { y.narrow(0, 0, 19) }, size: 2) }
    #expect(throws: QFormerError.self) { try CanonicalAlignment(x, y, size: 10) }
    #expect(throws: QFormerError.self) { try CanonicalAlignment(x, y, size: 2, ridge: 0) }
  }
}
