import Checkpoints
import Foundation
import TestSupport
import Testing
import Torch

/// Parses bytes and touches every tensor. Whatever the bytes are, the outcome is tensors or a `CheckpointError`.
@discardableResult
func survives(_ bytes: Data, safetensors: Bool = false, sourceLocation: SourceLocation = #_sourceLocation) -> Bool {
  do {
    if safetensors {
      let file = try SafetensorsFile(parsing: bytes)
      for name in file.names { #expect(try file.tensor(name).bytes().count <= bytes.count) }
    } else {
      let file = try PyTorchFile(parsing: bytes)
      for name in file.names { #expect(try file.tensor(name).bytes().count <= max(bytes.count, 64 << 20)) }
    }
    return true
  } catch is CheckpointError {
    return false
  } catch {
    // An empty tensor of huge extent is LibTorch's to refuse.
    guard error is TorchError else {
      Issue.record("\(error)", sourceLocation: sourceLocation)
      return false
    }
    return false
  }
}

/// Files with bytes changed, cut, doubled and inserted by numbers that follow from a seed.
@Suite struct MutationTests {
  struct Numbers: RandomNumberGenerator {
    var state: UInt64
    mutating func next() -> UInt64 {
      state &+= 0x9e37_79b9_7f4a_7c15
      var z = state
      z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
      z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
      return z ^ (z >> 31)
    }
  }

  static func mutate(_ bytes: Data, _ numbers: inout Numbers) -> Data {
    var bytes = bytes
    for _ in 0..<Int.random(in: 1...4, using: &numbers) {
      guard !bytes.isEmpty else { return bytes }
      let at = Int.random(in: 0..<bytes.count, using: &numbers)
      let length = min(Int.random(in: 1...16, using: &numbers), bytes.count - at)
      switch Int.random(in: 0..<6, using: &numbers) {
      case 0: bytes[at] = UInt8.random(in: .min ... .max, using: &numbers)
      case 1: bytes[at] ^= 1 << UInt8.random(in: 0..<8, using: &numbers)
      case 2: bytes.removeSubrange(at..<at + length)
      case 3:
        bytes.insert(contentsOf: Data(bytes[at..<at + length]), at: Int.random(in: 0...bytes.count, using: &numbers))
      case 4:
        bytes.replaceSubrange(
          at..<at + length, with: Data(repeating: [0, 0x7f, 0xff].randomElement(using: &numbers) ?? 0, count: length))
      default: bytes = bytes.prefix(at + 1)
      }
      bytes = Data(bytes)
    }
    return bytes
  }

  @Test(arguments: [
    "types.pth", "types_legacy.pth", "types_protocol4.pth", "wide.pth", "old_views.pth", "lavis_stage2.pth",
  ])
  func pytorchFiles(name: String) throws {
    let whole = try Data(contentsOf: fixtures.appendingPathComponent("checkpoints/\(name)"))
    var numbers = Numbers(state: 17)
    var read = 0
    for _ in 0..<1500 { read += survives(Self.mutate(whole, &numbers)) ? 1 : 0 }
    #expect(read < 1500)
    // The pickle alone, in an archive that fits: the mutations reach the machine behind the zip.
    for _ in 0..<1500 {
      let pickle = Pickle.whole(Pickle.dictionary(Pickle.tensor()))
      survives(Zip(pickle: Self.mutate(pickle, &numbers)).bytes)
    }
  }

  @Test func safetensorsFiles() throws {
    let small = safetensors(#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#, data: 8)
    let formats = try Data(contentsOf: fixtures.appendingPathComponent("torch/formats.safetensors"))
    var numbers = Numbers(state: 23)
    for whole in [small, formats] {
      for _ in 0..<3000 { survives(Self.mutate(whole, &numbers), safetensors: true) }
    }
  }
}
