import Foundation
import TestSupport
import Testing
import Torch

@Suite struct TensorTests {
  @Test(arguments: DType.allCases) func everyTypeKeepsItsBytes(dtype: DType) {
    // All of these are exact in every type.
    let numbers = dtype == .bool ? [0, 1, 1, 0, 1, 0] : [0, 1, 2, 64, 100, 127]
    let tensor = Tensor(numbers, [2, 3]).to(dtype)
    #expect(tensor.dtype == dtype && tensor.shape == [2, 3])
    #expect(tensor.values(as: Int.self) == numbers)
    #expect(tensor.values(as: Double.self) == numbers.map(Double.init))
    let bytes = tensor.bytes()
    #expect(bytes.count == 6 * dtype.byteCount)
    bytes.withUnsafeBytes { memory in
      let owner = NSObject()
      let again = Tensor(borrowing: memory.baseAddress!, shape: [2, 3], dtype: dtype, owner: owner)
      #expect(again.dtype == dtype && again.values(as: Int.self) == numbers && again.bytes() == bytes)
    }
    #expect(dtype.isFloatingPoint == [.float16, .bfloat16, .float32, .float64].contains(dtype))
  }

  @Test func swiftNumbers() {
    #expect(Tensor([Float(1.5), -2]).values(as: Float.self) == [1.5, -2])
    #expect(Tensor([1.0 / 3]).values(as: Double.self) == [1.0 / 3])
    #expect(Tensor([UInt8.max, 0]).values(as: UInt8.self) == [255, 0])
    #expect(Tensor([Int32.min, .max]).values(as: Int32.self) == [.min, .max])
    #expect(Tensor([Int64.min, .max]).values(as: Int64.self) == [.min, .max])
    #expect(Tensor([Int.max]).intItem == .max)
    #expect(Tensor(Float(3)).shape == [] && Tensor(Float(3)).item == 3 && Tensor(7).intItem == 7)
    #expect(Tensor([Float](), [0, 4]).shape == [0, 4] && Tensor([Float]()).values(as: Float.self) == [])
    #expect(Tensor([Float]()).bytes().isEmpty)
  }

  @Test func halfPrecisionRounds() {
    // 1 + 2⁻⁸ and 1 + 2⁻¹¹ lie midway between neighbours of bf16 and fp16: ties go to even.
    #expect(Tensor([Float(1) + 0x1p-8, 1 + 0x1.8p-7]).to(.bfloat16).values(as: Float.self) == [1, 1 + 0x1p-6])
    #expect(Tensor([Float(1) + 0x1p-11, 70000]).to(.float16).values(as: Float.self) == [1, .infinity])
  }

  @Test func aConstructorCopies() {
    var numbers: [Float] = [1, 2, 3]
    let tensor = Tensor(numbers)
    numbers[0] = 9
    tensor.narrow(0, 1, 1).zero()
    #expect(tensor.values(as: Float.self) == [1, 0, 3] && numbers == [9, 2, 3])
  }

  final class Memory {
    let start = UnsafeMutablePointer<Float>.allocate(capacity: 4)
    let onRelease: @Sendable () -> Void
    init(_ onRelease: @escaping @Sendable () -> Void) {
      self.onRelease = onRelease
      for index in 0..<4 { start[index] = Float(index) }
    }
    deinit {
      start.deallocate()
      onRelease()
    }
  }

  @Test func aBorrowSharesMemoryAndKeepsTheOwner() {
    nonisolated(unsafe) var released = 0
    do {
      let view: Tensor
      do {
        let memory = Memory { released += 1 }
        let tensor = Tensor(borrowing: memory.start, shape: [2, 2], dtype: .float32, owner: memory)
        memory.start[3] = 30
        #expect(tensor.values(as: Float.self) == [0, 1, 2, 30])
        tensor.select(0, 0).zero()
        #expect(memory.start[1] == 0)
        view = tensor.select(0, 1)
      }
      #expect(released == 0, "a view keeps the memory")
      #expect(view.values(as: Float.self) == [2, 30])
    }
    #expect(released == 1)
  }

  @Test func aFailedBorrowReleasesTheOwner() {
    nonisolated(unsafe) var released = 0
    #expect(throws: TorchError.self) {
      try withError {
        let memory = Memory { released += 1 }
        _ = Tensor(borrowing: memory.start, shape: [-2, 2], dtype: .float32, owner: memory)
      }
    }
    #expect(released == 1)
  }

  @Test func bytesInPlaceAndOfViews() {
    let tensor = Tensor([Float(1), 2, 3, 4, 5, 6], [2, 3])
    let transposed = tensor.transposed(0, 1)
    let expected: [Float] = [1, 4, 2, 5, 3, 6]
    #expect(transposed.values(as: Float.self) == expected)
    #expect(transposed.bytes() == expected.withUnsafeBytes { Data($0) })
    #expect(transposed.withBytes { Data($0) } == transposed.bytes())
    #expect(tensor.select(1, 1).withBytes { $0.count } == 8)
    #expect(Tensor.zeros([0, 2]).withBytes { $0.count } == 0)
    #expect(transposed.contiguous().isContiguous)
  }

  @Test func aDescriptionIsShort() {
    #expect(Tensor([Float(1), 2], [1, 2]).description == "Tensor(float32, [1, 2], [1.0, 2.0])")
    #expect(Tensor.zeros([100]).description.hasSuffix("0.0, …])"))
    #expect(Tensor(Float(2)).description == "Tensor(float32, [], [2.0])")
    #expect(Tensor.zeros([0]).description == "Tensor(float32, [0], [])")
    #expect(Tensor.ones([1]).device == "cpu")
  }

  @Test func anUnknownTypeIsAnError() {
    let complex = Operator("aten::complex")
    #expect(throws: TorchError.self) {
      try withError { complex(.tensor(.ones([1])), .tensor(.ones([1]))).dtype }
    }
  }
}
