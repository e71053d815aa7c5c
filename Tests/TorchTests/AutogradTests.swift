import TestSupport
import Testing
import Torch

@Suite struct AutogradTests {
  func leaf(_ values: [Float]) -> Tensor {
    let tensor = Tensor(values)
    tensor.requiresGrad = true
    return tensor
  }

  @Test func gradientsAddUp() {
    let x = leaf([1, 2, 3])
    #expect(x.grad == nil)
    (x * x).sum().backward()
    #expect(x.grad?.values(as: Float.self) == [2, 4, 6])
    (x * 10).sum().backward()
    #expect(x.grad?.values(as: Float.self) == [12, 14, 16])
    x.grad = nil
    #expect(x.grad == nil)
    x.grad = Tensor([Float(1), 1, 1])
    x.sum().backward()
    #expect(x.grad?.values(as: Float.self) == [2, 2, 2])
  }

  @Test func aGivenGradient() {
    let x = leaf([1, 2])
    (x * x).backward(Tensor([Float(1), 100]))
    #expect(x.grad?.values(as: Float.self) == [2, 400])
    #expect(throws: TorchError.self) { try withError { (x * x).backward() } }
    #expect(throws: TorchError.self) { try withError { (x * x).backward(.ones([3])) } }
  }

  @Test func theGraphIsUsedOnce() {
    let x = leaf([1, 2])
    let y = (x * x).sum()
    y.backward()
    #expect(throws: TorchError.self) { try withError { y.backward() } }
    #expect(throws: TorchError.self) { try withError { Tensor.ones([1]).backward() } }
  }

  @Test func withoutGradient() throws {
    let x = leaf([1, 2])
    let y = withNoGrad { x * 2 }
    #expect(!y.requiresGrad && (x * 2).requiresGrad)
    #expect(!(x * 2).detached().requiresGrad)
    // Nested scopes and errors leave the mode as it was.
    withNoGrad {
      withNoGrad { _ = x * 2 }
      #expect(!(x * 2).requiresGrad)
    }
    struct Other: Error {}
    #expect(throws: Other.self) { try withNoGrad { throw Other() } }
    #expect((x * 2).requiresGrad)
    // Changing a leaf in place is only allowed there.
    #expect(throws: TorchError.self) { try withError { x.add(inPlace: .ones([2])) } }
    withNoGrad { x.add(inPlace: .ones([2])) }
    #expect(x.values(as: Float.self) == [2, 3] && x.requiresGrad)
  }

  @Test func theModeBelongsToTheThread() async {
    let x = leaf([1])
    await withTaskGroup(of: Bool.self) { group in
      for number in 0..<16 {
        group.addTask { number % 2 == 0 ? withNoGrad { !(x * 2).requiresGrad } : (x * 2).requiresGrad }
      }
      for await fine in group { #expect(fine) }
    }
  }

  @Test func detachedSharesStorage() {
    let x = leaf([1, 2])
    x.detached().zero()
    #expect(x.values(as: Float.self) == [0, 0])
  }

  @Test func whatHasNoGradient() {
    #expect(throws: TorchError.self) { try withError { Tensor([Int64(1)]).requiresGrad = true } }
    let x = leaf([1])
    #expect(throws: TorchError.self) { try withError { (x * 2).requiresGrad = false } }
    #expect(throws: TorchError.self) {
      try withError {
        x.grad = .ones([5])
      }
    }
  }
}
