import TestSupport
import Testing
import Torch

@Suite struct GeneratorTests {
  func draws(_ generator: Generator) -> [Float] {
    Tensor.randn([5], generator: generator).values() + Tensor.rand([5], generator: generator).values()
      + Tensor.ones([9]).multinomial(4, generator: generator).values()
  }

  @Test func equalSeedsGiveEqualNumbers() {
    #expect(draws(Generator(seed: 5)) == draws(Generator(seed: 5)))
    #expect(draws(Generator(seed: 5)) != draws(Generator(seed: 6)))
    let generator = Generator(seed: 5)
    let first = draws(generator)
    #expect(draws(generator) != first)
    generator.seed(5)
    #expect(draws(generator) == first)
  }

  @Test func theSequenceIsPyTorchs() {
    // torch.randn(3, generator=torch.Generator().manual_seed(0))
    let expected = Tensor([Float(1.5409961), -0.2934289, -2.1787894])
    expectClose(Tensor.randn([3], generator: Generator(seed: 0)), expected, relative: 1e-6)
  }

  @Test func aStateGoesOnWhereItWasTaken() throws {
    let generator = Generator(seed: 8)
    _ = draws(generator)
    let state = generator.state
    #expect(state.dtype == .uint8 && state.rank == 1)
    let (second, third) = (draws(generator), draws(generator))
    let other = Generator(seed: 0)
    other.state = state
    #expect(draws(other) == second && draws(other) == third)
    // What is drawn later does not change a state that was taken.
    generator.state = state
    #expect(draws(generator) == second)
  }

  @Test func aWrongStateIsAnError() {
    let generator = Generator(seed: 8)
    #expect(throws: TorchError.self) { try withError { generator.state = .zeros([3], dtype: .uint8) } }
    #expect(throws: TorchError.self) { try withError { generator.state = .zeros([5056]) } }
    #expect(draws(generator) == draws(Generator(seed: 8)))
  }

  @Test func multinomialHeedsWeights() {
    let weights = Tensor([Float(0), 1, 0, 3], [1, 4])
    let drawn = weights.repeated(2000, 1).multinomial(1, generator: Generator(seed: 1)).values(as: Int.self)
    #expect(Set(drawn) == [1, 3])
    #expect((1400...1600).contains(drawn.count { $0 == 3 }))
    let both = weights.multinomial(2, generator: Generator(seed: 1)).values(as: Int.self)
    #expect(Set(both) == [1, 3])
    #expect(throws: TorchError.self) { try withError { Tensor.zeros([1, 3]).multinomial(1) } }
  }
}

/// Alone, since it uses the process's own generator.
@Suite(.serialized) struct DropoutTests {
  @Test func dropoutKeepsTheMean() {
    let x = Tensor.ones([100_000])
    let y = x.dropout(0.25)
    let zeros = y.equal(0).to(.float32).mean().item
    #expect(abs(zeros - 0.25) < 0.01 && abs(y.mean().item - 1) < 0.01)
    #expect(x.dropout(0) === x)
  }
}
