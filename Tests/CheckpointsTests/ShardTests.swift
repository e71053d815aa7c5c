import Checkpoints
import Foundation
import TestSupport
import Testing
import Torch

/// Folders in Hugging Face layout.
@Suite struct ShardTests {
  func error(_ shards: [String: [String]], _ index: String?) throws -> String {
    try withTemporaryFolder { folder in
      try writeShards(shards, index: index, in: folder)
      let error = #expect(throws: CheckpointError.self) { try Checkpoint(contentsOf: folder) }
      return error?.description ?? ""
    }
  }

  @Test func aFolderWithOneFile() throws {
    try withTemporaryFolder { folder in
      try writeShards(["model.safetensors": ["a", "b"]], index: nil, in: folder)
      let checkpoint = try Checkpoint(contentsOf: folder)
      #expect(Set(checkpoint.names) == ["a", "b"] && checkpoint.shape("a") == [2] && checkpoint.url == folder)
      #expect(checkpoint.dtype("a") == .float32 && checkpoint.dtype("c") == nil)
    }
  }

  @Test func shardsAreOne() throws {
    try withTemporaryFolder { folder in
      let index =
        #"{"metadata":{"total_size":24},"weight_map":{"a":"1.safetensors","b":"2.safetensors","c":"2.safetensors"}}"#
      try writeShards(["1.safetensors": ["a"], "2.safetensors": ["b", "c"]], index: index, in: folder)
      let checkpoint = try Checkpoint(contentsOf: folder)
      #expect(Set(checkpoint.names) == ["a", "b", "c"])
      for name in checkpoint.names { #expect(try checkpoint.tensor(name).values(as: Float.self) == [1, 2]) }
      #expect(throws: CheckpointError.noSuchTensor(file: folder.path, name: "d")) { try checkpoint.tensor("d") }
    }
  }

  @Test func linksAreFollowed() throws {
    // Model folders are often links into a cache.
    try withTemporaryFolder { folder in
      let (cache, model) = (folder.appendingPathComponent("cache"), folder.appendingPathComponent("model"))
      for url in [cache, model] { try FileManager.default.createDirectory(at: url, withIntermediateDirectories: true) }
      try writeShards(["1.safetensors": ["a"]], index: #"{"weight_map":{"a":"1.safetensors"}}"#, in: cache)
      for name in ["1.safetensors", "model.safetensors.index.json"] {
        try FileManager.default.createSymbolicLink(
          at: model.appendingPathComponent(name), withDestinationURL: cache.appendingPathComponent(name))
      }
      #expect(try Checkpoint(contentsOf: model).names == ["a"])
    }
  }

  @Test func aMissingShardIsNamed() throws {
    let words = try error(
      ["1.safetensors": ["a"]], #"{"weight_map":{"a":"1.safetensors","b":"2.safetensors"}}"#)
    #expect(words.contains("2.safetensors: not found"), "\(words)")
  }

  @Test func aTensorInTwoShardsIsNamed() throws {
    let words = try error(
      ["1.safetensors": ["a", "b"], "2.safetensors": ["b"]],
      #"{"weight_map":{"a":"1.safetensors","b":"2.safetensors"}}"#)
    #expect(words.contains("b in two"), "\(words)")
  }

  @Test func aTensorInNoShardIsNamed() throws {
    let words = try error(["1.safetensors": ["a"]], #"{"weight_map":{"a":"1.safetensors","zz":"1.safetensors"}}"#)
    #expect(words.contains("zz in its shard"), "\(words)")
  }

  @Test(arguments: [
    "../1.safetensors", "/etc/passwd", "sub/1.safetensors", "..", ".", "", "1.txt", ".safetensors",
    "1.safetensors\u{0}.safetensors",
    "a/../../1.safetensors",
  ]) func pathsDoNotLeaveTheFolder(name: String) throws {
    let index = try JSONEncoder().encode(["weight_map": ["a": name]])
    let words = try error(["1.safetensors": ["a"]], String(decoding: index, as: UTF8.self))
    #expect(words.contains("in the same folder"), "\(words)")
  }

  @Test(arguments: [
    "", "[]", "{", "null", "{}", #"{"weight_map":1}"#, #"{"weight_map":{"a":1}}"#, #"{"weight_map":["a"]}"#,
    #"{"weight_map":{"a":["1.safetensors"]}}"#, #"{"weight_map":{"a":null}}"#, "\u{0}",
  ]) func anIndexThatIsNone(index: String) throws {
    let words = try error(["1.safetensors": ["a"]], index)
    #expect(words.contains("model.safetensors.index.json: expected JSON with weight_map"), "\(words)")
  }

  @Test func anIndexThatIsNoFile() throws {
    try withTemporaryFolder { folder in
      let index = folder.appendingPathComponent("model.safetensors.index.json")
      try #require(mkfifo(index.path, 0o600) == 0)
      #expect(throws: CheckpointError.self) { try Checkpoint(contentsOf: folder) }
      try FileManager.default.removeItem(at: index)
      try FileManager.default.createDirectory(at: index, withIntermediateDirectories: false)
      #expect(throws: CheckpointError.self) { try Checkpoint(contentsOf: folder) }
    }
  }

  @Test func folderWithoutWeights() throws {
    let words = try error([:], nil)
    #expect(words.contains("model.safetensors or model.safetensors.index.json"), "\(words)")
  }
}
