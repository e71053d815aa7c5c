import Checkpoints
import Foundation
import TestSupport
import Testing
import Torch

/// What may be given as a checkpoint, and several as one.
@Suite struct CheckpointSourceTests {
  let folder = fixtures.appendingPathComponent("checkpoints")

  @Test func filesOfEveryFormat() throws {
    for name in ["types.pth", "types_legacy.pth", "types.safetensors"] {
      let checkpoint = try Checkpoint(contentsOf: folder.appendingPathComponent(name))
      #expect(checkpoint.names.count == 22 && checkpoint.shape("strided") == [6, 4])
      #expect(checkpoint.file(of: "strided") == folder.appendingPathComponent(name))
      #expect(try checkpoint.tensor("stepped").values(as: Float.self) == [1, 4, 7, 10, 13, 16, 19, 22])
    }
    try withTemporaryFolder { temporary in
      for suffix in ["pt", "bin", "ckpt", "PTH", "th"] {
        let copy = temporary.appendingPathComponent("x.\(suffix)")
        try FileManager.default.copyItem(at: folder.appendingPathComponent("types.pth"), to: copy)
        #expect(try Checkpoint(contentsOf: copy).names.count == 22)
      }
      // A suffix does not change what a file is.
      let wrong = temporary.appendingPathComponent("x.safetensors")
      try FileManager.default.copyItem(at: folder.appendingPathComponent("types.pth"), to: wrong)
      let error = #expect(throws: CheckpointError.self) { try Checkpoint(contentsOf: wrong) }
      #expect(error?.description.contains("found a zip archive") == true)
    }
    #expect(throws: CheckpointError.self) {
      try Checkpoint(contentsOf: folder.appendingPathComponent("types.pth"), section: "ema")
    }
  }

  @Test func foldersOfBinFiles() throws {
    let bin = folder.appendingPathComponent("bin")
    for url in [bin, bin.appendingPathComponent("pytorch_model.bin.index.json")] {
      let checkpoint = try Checkpoint(contentsOf: url)
      #expect(Set(checkpoint.names) == ["a.weight", "a.bias", "b"] && checkpoint.url == url)
      #expect(try checkpoint.tensor("a.weight").sum().item == 0 && checkpoint.tensor("b").sum().item == 4)
      #expect(checkpoint.file(of: "b")?.lastPathComponent == "pytorch_model-00002-of-00002.bin")
    }
    try withTemporaryFolder { temporary in
      let file = temporary.appendingPathComponent("pytorch_model.bin")
      try FileManager.default.copyItem(at: folder.appendingPathComponent("types_legacy.pth"), to: file)
      #expect(try Checkpoint(contentsOf: temporary).names.count == 22)
      // Safetensors come first where both are.
      try writeShards(["model.safetensors": ["only"]], index: nil, in: temporary)
      #expect(try Checkpoint(contentsOf: temporary).names == ["only"])
    }
  }

  @Test func anIndexFileByItself() throws {
    try withTemporaryFolder { temporary in
      try writeShards(
        ["1.safetensors": ["a"], "2.safetensors": ["b"]],
        index: #"{"weight_map":{"a":"1.safetensors","b":"2.safetensors"}}"#, in: temporary)
      let index = temporary.appendingPathComponent("model.safetensors.index.json")
      #expect(try Set(Checkpoint(contentsOf: index).names) == ["a", "b"])
      let other = temporary.appendingPathComponent("config.json")
      try Data("{}".utf8).write(to: other)
      let error = #expect(throws: CheckpointError.self) { try Checkpoint(contentsOf: other) }
      #expect(error?.description.contains("config.json: expected JSON with weight_map") == true)
    }
  }

  /// The index was once believed where a tensor lay in another shard than it said: a shard exchanged for an older one
  /// that has more tensors loaded without a word. The invariant: what the index says of a tensor is true.
  @Test func aTensorInAnotherShardThanTheIndexSays() throws {
    try withTemporaryFolder { temporary in
      try writeShards(
        ["1.safetensors": ["a", "b"], "2.safetensors": ["c"]],
        index: #"{"weight_map":{"a":"1.safetensors","b":"2.safetensors","c":"2.safetensors"}}"#, in: temporary)
      let error = #expect(throws: CheckpointError.self) { try Checkpoint(contentsOf: temporary) }
      #expect(error?.description.hasSuffix("expected b in 2.safetensors, found it in 1.safetensors") == true)
    }
  }

  // MARK: Several as one

  func withSources(
    _ first: [(String, [Int])], _ second: [(String, [Int])], _ body: (Checkpoint, Checkpoint) throws -> Void
  ) throws {
    try withTemporaryFolder { temporary in
      let urls = ["first", "second"].map { temporary.appendingPathComponent("\($0).safetensors") }
      for (number, (url, tensors)) in zip(urls, [first, second]).enumerated() {
        let value = Double(number + 1)
        try SafetensorsFile.write(tensors.map { ($0.0, Tensor.full($0.1, value)) }, to: url)
      }
      try body(Checkpoint(contentsOf: urls[0]), Checkpoint(contentsOf: urls[1]))
    }
  }

  @Test func namesOfAllSources() throws {
    try withSources([("a", [2]), ("both", [3])], [("b", [1]), ("both", [3])]) { first, second in
      let merged = try Checkpoint(merging: [BaseCheckpoint(first), BaseCheckpoint(second)])
      #expect(merged.names.sorted() == ["a", "b", "both"] && merged.url == first.url)
      #expect(try merged.tensor("both").sum().item == 3 && merged.tensor("b").item == 2, "the first is preferred")
      #expect(merged.file(of: "both") == first.url && merged.file(of: "b") == second.url)
      let other = try Checkpoint(merging: [BaseCheckpoint(second), BaseCheckpoint(first)])
      #expect(try other.tensor("both").sum().item == 6)
      // Parts of a source, and another source's names.
      let part = try Checkpoint(merging: [
        BaseCheckpoint(first),
        BaseCheckpoint(second, keyMap: KeyMap([KeyMap.Rule("tower", "")]), providing: ["tower.b*"]),
      ])
      #expect(part.names.sorted() == ["a", "both", "tower.b", "tower.both"])
      #expect(part.file(of: "tower.b") == second.url)
    }
    #expect(throws: CheckpointError.self) { try Checkpoint(merging: []) }
  }

  @Test func oneNameOfTwoShapes() throws {
    try withSources([("x", [2, 3])], [("x", [3, 2]), ("y", [1])]) { first, second in
      let sources = [BaseCheckpoint(first), BaseCheckpoint(second)]
      let error = #expect(throws: CheckpointError.self) { try Checkpoint(merging: sources) }
      let words = error?.description ?? ""
      #expect(words.contains("second.safetensors: expected x of shape [2, 3] as in"), "\(words)")
      #expect(words.contains("first.safetensors, found [3, 2]"), "\(words)")
      let merged = try Checkpoint(merging: sources, precedence: .first)
      #expect(merged.shape("x") == [2, 3] && merged.shape("y") == [1])
    }
  }
}
