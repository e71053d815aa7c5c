import Foundation
import TestSupport
import Testing
import Torch

/// Resident memory of this process in bytes.
private func residentMemory() throws -> Int {
  let fields = try String(contentsOfFile: "/proc/self/statm", encoding: .utf8).split(separator: " ")
  return Int(fields[1])! * Int(sysconf(Int32(_SC_PAGESIZE)))
}

/// A leak of any handle below would show as a gigabyte or more; other tests run beside these, hence the margin.
@Suite(.serialized, .enabled(if: FileManager.default.fileExists(atPath: "/proc/self/statm"))) struct MemoryTests {
  let limit = 500_000_000

  @Test func tenThousandOperations() throws {
    let x = Tensor.ones([128, 256])  // 131 kB
    for _ in 0..<100 { _ = (x + 1).softmax() }
    let before = try residentMemory()
    for _ in 0..<10_000 {
      let y = x + 1  // 1.3 GB in all
      _ = y.max(1).values.shape
    }
    #expect(try residentMemory() - before < limit)
  }

  @Test func failures() throws {
    let x = Tensor.ones([128, 512])  // 262 kB
    let before = try residentMemory()
    for _ in 0..<5_000 {
      #expect(throws: TorchError.self) {
        try withError {
          _ = Operator("aten::chunk").results([.tensor(x + 1), 4, 0], capacity: 3)
          _ = (x + 1).matmul(x)
        }
      }
    }
    #expect(try residentMemory() - before < limit)
  }

  @Test func gradients() throws {
    let w = Tensor.ones([512, 512])  // 1 MB
    w.requiresGrad = true
    let before = try residentMemory()
    for _ in 0..<2_000 {
      (w * w).sum().backward()
      _ = w.grad?.detached()
      w.grad = nil
    }
    #expect(try residentMemory() - before < limit)
  }

  @Test func copiesAndBytes() throws {
    let x = Tensor.ones([64, 1024])
    let before = try residentMemory()
    for _ in 0..<4_000 {
      _ = x.bytes().count + Tensor(x.values(as: Float.self)).count
      _ = x.transposed(0, 1).withBytes { $0.count }
    }
    #expect(try residentMemory() - before < limit)
  }
}
