import Checkpoints
import Foundation
import TestSupport
import Testing
import Torch

/// Files of a model, written from a checkpoint a piece at a time.
@Suite struct ModelFileTests {
  private func expectEqual(_ found: Checkpoint, _ expected: Checkpoint, _ names: [Checkpoint.Renaming]) throws {
    #expect(Set(found.names) == Set(names.map(\.newName)))
    for (name, newName) in names {
      let (tensor, truth) = (try found.tensor(newName), try expected.tensor(name))
      #expect(tensor.dtype == truth.dtype && tensor.shape == truth.shape && tensor.bytes() == truth.bytes(), "\(name)")
    }
  }

  @Test(arguments: ["types.pth", "types_legacy.pth", "types.safetensors"])
  func everyTypeAndStride(file: String) throws {
    let source = try Checkpoint(contentsOf: fixtures.appendingPathComponent("checkpoints/\(file)"))
    let names = source.names.map { (name: $0, newName: "new.\($0)") }
    try withTemporaryFolder { folder in
      #expect(try source.writeModel(names, to: folder) == ["model.safetensors"])
      try expectEqual(Checkpoint(contentsOf: folder), source, names)
    }
    try withTemporaryFolder { folder in
      let files = try source.writeModel(names, to: folder, shardSize: 100)
      #expect(files.count > 4 && files.last == "model.safetensors.index.json")
      try expectEqual(Checkpoint(contentsOf: folder), source, names)
    }
  }

  @Test func joinedTensorsAndNamesThatAreNotThere() throws {
    let lavis = try Checkpoint(contentsOf: fixtures.appendingPathComponent("checkpoints/lavis_instruct.pth"))
      .renamed(by: LAVIS.model)
    let bias = "vision_model.encoder.layers.1.self_attn.qkv.bias"
    try withTemporaryFolder { folder in
      try lavis.writeModel([(bias, bias)], to: folder)
      try expectEqual(Checkpoint(contentsOf: folder), lavis, [(bias, bias)])
      #expect(throws: CheckpointError.noSuchTensor(file: lavis.url.path, name: "none")) {
        try lavis.writeModel([("none", "x")], to: folder)
      }
      #expect(throws: CheckpointError.self) { try lavis.writeModel([(bias, "x"), (bias, "x")], to: folder) }
      #expect(try Checkpoint(contentsOf: folder).names == [bias], "what was there stays")
    }
  }

  @Test func foldersAppearWhole() throws {
    struct Stop: Error {}
    try withTemporaryFolder { folder in
      let target = folder.appendingPathComponent("deep/er/target")
      let inside = try AtomicFolder.write(to: target) { temporary in
        #expect(!FileManager.default.fileExists(atPath: target.path))
        try Data("x".utf8).write(to: temporary.appendingPathComponent("file"))
        return temporary
      }
      #expect(!FileManager.default.fileExists(atPath: inside.path))
      #expect(try String(contentsOf: target.appendingPathComponent("file"), encoding: .utf8) == "x")
      #expect(throws: CheckpointError.self) { try AtomicFolder.write(to: target) { _ in } }
      let other = folder.appendingPathComponent("other")
      #expect(throws: Stop.self) { try AtomicFolder.write(to: other) { _ in throw Stop() } }
      // An error names what was asked for, not what it was called on the way.
      let file = other.appendingPathComponent("none/x")
      #expect(throws: CheckpointError.cannotWrite(file: file.path, reason: "No such file or directory")) {
        try AtomicFolder.write(to: other) { temporary in
          try AtomicFile.write(Data(), to: temporary.appendingPathComponent("none/x"))
        }
      }
      #expect(try FileManager.default.contentsOfDirectory(atPath: folder.path) == ["deep"])
    }
  }

  /// A killed conversion once left gigabytes under a hidden name, for good.
  @Test func leftoversOfTheKilledGoAndNothingElse() throws {
    try withTemporaryFolder { folder in
      func make(_ name: String) throws {
        let made = folder.appendingPathComponent(name)
        try FileManager.default.createDirectory(at: made, withIntermediateDirectories: false)
        try Data("x".utf8).write(to: made.appendingPathComponent("model.safetensors"))
      }
      let others = [
        ".b.1.2.partial", ".a.1.partial", ".a.1.x.partial", ".a.1.2.3.partial", ".a.1.2.partial.old", "a.1.2.partial",
      ]
      for name in others + [".a.1.2.partial", ".a.77.4294967295.partial"] { try make(name) }
      try Data().write(to: folder.appendingPathComponent(".a.5.5.partial"))
      let outside = folder.appendingPathComponent("outside")
      try make("outside")
      try FileManager.default.createSymbolicLink(
        at: folder.appendingPathComponent(".a.6.6.partial"), withDestinationURL: outside)
      let target = folder.appendingPathComponent("a")
      let kept = others + [".a.5.5.partial", ".a.6.6.partial", "outside"]
      try AtomicFolder.write(to: target) { outer in
        #expect(
          try FileManager.default.contentsOfDirectory(atPath: folder.path).sorted()
            == (kept + [outer.lastPathComponent]).sorted())
        // One that is being filled is no leftover, whoever fills it.
        try Data("y".utf8).write(to: outer.appendingPathComponent("file"))
        #expect(throws: CheckpointError.self) {
          try AtomicFolder.write(to: target) { _ in
            #expect(FileManager.default.fileExists(atPath: outer.appendingPathComponent("file").path))
            throw CheckpointError.notFound(file: "", expected: "")
          }
        }
        #expect(FileManager.default.fileExists(atPath: outer.appendingPathComponent("file").path))
      }
      #expect(try FileManager.default.contentsOfDirectory(atPath: folder.path).sorted() == (kept + ["a"]).sorted())
      #expect(try FileManager.default.contentsOfDirectory(atPath: outside.path) == ["model.safetensors"])
    }
  }
}
