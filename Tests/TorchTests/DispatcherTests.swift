import Foundation
import TestSupport
import Testing
import Torch

/// Failures of operators: what is thrown, when, and what comes first.
@Suite struct DispatcherTests {
  struct Other: Error, Equatable {}

  @Test func unknownOperator() {
    let operation = Operator("aten::no_such_thing", "Tensor")
    let error = #expect(throws: TorchError.self) { try withError { operation(.tensor(.zeros([1]))) } }
    #expect(error?.message.contains("aten::no_such_thing") == true)
    // Looking for it is no failure by itself.
    #expect(operation.name == "aten::no_such_thing.Tensor")
    #expect(throws: TorchError.self) { try withError { Operator("aten::add", "Nonsense")(.none) } }
    #expect(throws: TorchError.self) { try withError { Operator("")() } }
  }

  @Test func wrongArguments() {
    let add = Operator("aten::add", "Tensor")
    let x = Tensor.ones([2, 3])
    let calls: [(String, () -> Tensor)] = [
      ("too few", { add(.tensor(x)) }),
      ("too many", { add(.tensor(x), .tensor(x), 1, 2, 3) }),
      ("a number for a tensor", { add(.tensor(x), 1) }),
      ("None for a tensor", { add(.tensor(x), .none) }),
      ("a string for a tensor", { add(.tensor(x), .string("x")) }),
      ("a list for a tensor", { add(.tensor(x), .ints([1, 2])) }),
      ("a tensor for a list", { Operator("aten::reshape")(.tensor(x), .tensor(x)) }),
      ("a number for a list", { Operator("aten::permute")(.tensor(x), 1) }),
      ("a string for a number", { Operator("aten::softmax", "int")(.tensor(x), .string("one")) }),
      ("a generator for a number", { Operator("aten::softmax", "int")(.tensor(x), .generator(.init(seed: 0))) }),
      ("a list for a truth value", { Operator("aten::dropout")(.tensor(x), 0.5, .ints([])) }),
      ("a tensor for a generator", { Operator("aten::randn", "generator")(.ints([2]), .tensor(x)) }),
      ("numbers for tensors", { Operator("aten::cat")(.doubles([1, 2]), 0) }),
      ("no such device", { x.to(device: "abacus:1") }),
      ("shapes", { x + Tensor.ones([4]) }),
      ("a dimension", { x.softmax(5) }),
      ("an index", { Tensor.ones([2, 2]).embedding(Tensor([Int64(2)])) }),
      ("a negative size", { Tensor.zeros([-1]) }),
      ("a size beyond memory", { Tensor.zeros([1 << 31, 1 << 31]) }),
      ("a size beyond integers", { Tensor.zeros([Int.max, 4]) }),
      ("kinds in a list", { Tensor.cat([x, .ones([3, 2])], 0) }),
      ("an empty list", { Tensor.stack([]) }),
    ]
    for (name, call) in calls {
      let error = #expect(throws: TorchError.self, "\(name)") { try withError(call) }
      #expect(error?.message.isEmpty == false, "\(name)")
      #expect(error?.message.contains("Exception raised from") == false, "\(name)")
    }
    // And the operator still works.
    #expect(add(.tensor(x), .tensor(x)).sum().item == 12)
  }

  @Test func moreResultsThanRoom() {
    #expect(throws: TorchError.self) {
      try withError {
        let parts = Operator("aten::chunk").results([.tensor(.ones([4])), 4, 0], capacity: 3)
        #expect(parts.isEmpty)
      }
    }
    #expect(throws: TorchError.self) {
      // An operator that returns no tensor at all.
      try withError { Operator("aten::equal")(.tensor(.ones([1])), .tensor(.ones([1]))) }
    }
  }

  @Test func theFirstFailureIsKept() throws {
    let x = Tensor.ones([2, 3])
    let error = #expect(throws: TorchError.self) {
      try withError {
        let wrong = x.matmul(x)
        #expect(!wrong.isValid && wrong.shape == [] && wrong.count == 0 && wrong.device == "none")
        #expect(wrong.description == "Tensor(invalid)")
        let next = (wrong + 1).softmax().linear(wrong, x)
        #expect(!next.isValid)
        _ = x.reshaped(7)
      }
    }
    #expect(error?.message.contains("mat1") == true, "\(String(describing: error))")
  }

  @Test func anInvalidTensorIsNeverTakenForAnAbsentOne() {
    // The bias of `linear` may be absent.
    let x = Tensor.ones([1, 2])
    let error = #expect(throws: TorchError.self) {
      try withError {
        let wrong = x.reshaped(7)
        let y = x.linear(.ones([3, 2]), wrong)
        #expect(!y.isValid)
        let list = Operator("aten::index", "Tensor")(.tensor(x), .optionalTensors([wrong, Tensor([Int64(0)])]))
        #expect(!list.isValid)
      }
    }
    #expect(error?.message.contains("shape '[7]'") == true)
  }

  @Test func nestedScopes() throws {
    // A failure belongs to the innermost scope.
    let value = try withError { () -> Double in
      let inner = #expect(throws: TorchError.self) { try withError { Tensor.ones([2]).reshaped(3) } }
      #expect(inner != nil)
      return Tensor.ones([2]).sum().item
    }
    #expect(value == 2)
    // Its error travels on unless it is caught.
    #expect(throws: TorchError.self) { try withError { try withError { Tensor.ones([2]).reshaped(3) } } }
    // The body's own error, and LibTorch's before it.
    #expect(throws: Other()) { try withError { throw Other() } }
    #expect(throws: TorchError.self) {
      try withError {
        _ = Tensor.ones([2]).reshaped(3)
        throw Other()
      }
    }
    #expect(throws: TorchError("said so")) { try withError { Tensor.failed("said so") } }
  }

  @Test func scopesOfTasksAreTheirOwn() async {
    await withTaskGroup(of: Bool.self) { group in
      for number in 0..<32 {
        group.addTask {
          do {
            let sum = try withError { Tensor.ones([2]).reshaped(number % 2 == 0 ? 2 : 3).sum().item }
            return number % 2 == 0 && sum == 2
          } catch { return number % 2 == 1 }
        }
      }
      for await fine in group { #expect(fine) }
    }
  }

  @Test func readingAfterAFailure() {
    #expect(throws: TorchError.self) {
      try withError {
        let wrong = Tensor.ones([2]).reshaped(3)
        #expect(wrong.item.isNaN && wrong.intItem == 0)
        #expect(wrong.values(as: Float.self).isEmpty)
        wrong.requiresGrad = true
        wrong.backward()
        wrong.copy(from: .ones([1]))
        #expect(wrong.grad == nil && !wrong.requiresGrad)
      }
    }
    #expect(throws: TorchError.self) { try withError { Tensor.ones([2]).item } }
  }

  @Test func outsideAScopeTheProcessEndsWithTheWords() async {
    let result = await #expect(processExitsWith: .failure, observing: [\.standardErrorContent]) {
      _ = Tensor.ones([2, 3]).matmul(Tensor.ones([2, 3]))
    }
    let words = String(decoding: result?.standardErrorContent ?? [], as: UTF8.self)
    #expect(words.contains("mat1 and mat2 shapes cannot be multiplied (2x3 and 2x3)"), "\(words)")
  }
}
