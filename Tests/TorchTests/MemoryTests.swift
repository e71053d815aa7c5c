import Foundation
import TestSupport
import Testing
import Torch

/// A leak of any handle below would show as gigabytes. Each test runs in a process of its own, whose memory is its alone.
@Suite(.enabled(if: residentMemory != nil, "resident memory is read from /proc/self/statm, which is not there"))
struct MemoryTests {
  /// In bytes.
  static let limit = 150_000_000

  @Test func tenThousandOperations() async {
    await #expect(processExitsWith: .success) {
      let x = Tensor.ones([128, 256])  // 131 kB
      for _ in 0..<100 { _ = (x + 1).softmax() }
      let before = try #require(residentMemory)
      for _ in 0..<10_000 {
        let y = x + 1  // 1.3 GB in all
        _ = y.max(1).values.shape
      }
      #expect(try #require(residentMemory) - before < MemoryTests.limit)
    }
  }

  @Test func failures() async {
    await #expect(processExitsWith: .success) {
      let x = Tensor.ones([64, 256])
      let before = try #require(residentMemory)
      for _ in 0..<5_000 {
        #expect(throws: TorchError.self) {
          try withError {
            _ = Operator("aten::chunk").results([.tensor(x + 1), 4, 0], capacity: 3)
            _ = (x + 1).matmul(x)
          }
        }
      }
      #expect(try #require(residentMemory) - before < MemoryTests.limit)
    }
  }

  @Test func gradients() async {
    await #expect(processExitsWith: .success) {
      let w = Tensor.ones([256, 256])  // 262 kB
      w.requiresGrad = true
      let before = try #require(residentMemory)
      for _ in 0..<2_000 {
        (w * w).sum().backward()
        _ = w.grad?.detached()
        w.grad = nil
      }
      #expect(try #require(residentMemory) - before < MemoryTests.limit)
    }
  }

  @Test func copiesAndBytes() async {
    await #expect(processExitsWith: .success) {
      let x = Tensor.ones([64, 1024])
      let before = try #require(residentMemory)
      for _ in 0..<4_000 {
        _ = x.bytes().count + Tensor(x.values(as: Float.self)).count
        _ = x.transposed(0, 1).withBytes { $0.count }
      }
      #expect(try #require(residentMemory) - before < MemoryTests.limit)
    }
  }
}
