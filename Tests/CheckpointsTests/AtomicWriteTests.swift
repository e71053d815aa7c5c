import Checkpoints
import Foundation
import TestSupport
import Testing
import Torch

@Suite struct AtomicWriteTests {
  struct Other: Error, Equatable {}

  func contents(_ folder: URL) throws -> [String] {
    try FileManager.default.contentsOfDirectory(atPath: folder.path).sorted()
  }

  @Test func aFileIsReplacedWhole() throws {
    try withTemporaryFolder { folder in
      let url = folder.appendingPathComponent("x")
      try AtomicFile.write(Data("one".utf8), to: url)
      try AtomicFile.write(to: url) { append in
        for word in ["t", "wo", ""] { try Data(word.utf8).withUnsafeBytes(append) }
        #expect(try String(contentsOf: url, encoding: .utf8) == "one")
      }
      #expect(try String(contentsOf: url, encoding: .utf8) == "two" && contents(folder) == ["x"])
      try AtomicFile.write(Data(), to: url)
      #expect(try Data(contentsOf: url).isEmpty)
    }
  }

  @Test func aBodyThatThrowsLeavesTheOldFile() throws {
    try withTemporaryFolder { folder in
      let url = folder.appendingPathComponent("x")
      try AtomicFile.write(Data("one".utf8), to: url)
      #expect(throws: Other()) {
        try AtomicFile.write(to: url) { append in
          try Data("two".utf8).withUnsafeBytes(append)
          throw Other()
        }
      }
      #expect(try String(contentsOf: url, encoding: .utf8) == "one" && contents(folder) == ["x"])
    }
  }

  @Test func placesWhereNothingCanBeWritten() throws {
    try withTemporaryFolder { folder in
      let missing = folder.appendingPathComponent("none/x.safetensors")
      let error = #expect(throws: CheckpointError.self) { try SafetensorsFile.write([("a", .ones([1]))], to: missing) }
      #expect(error?.description.contains("none/x.safetensors: cannot be written: No such file") == true)
      // A folder in the place of the file.
      let taken = folder.appendingPathComponent("taken")
      try FileManager.default.createDirectory(at: taken, withIntermediateDirectories: false)
      try Data().write(to: taken.appendingPathComponent("inside"))
      #expect(throws: CheckpointError.self) { try AtomicFile.write(Data("x".utf8), to: taken) }
      #expect(try contents(folder) == ["taken"] && contents(taken) == ["inside"])
      // A file in the place of a folder.
      let below = taken.appendingPathComponent("inside/x")
      #expect(throws: CheckpointError.self) { try AtomicFile.write(Data("x".utf8), to: below) }
      // A name that is too long once it is a temporary one.
      let long = folder.appendingPathComponent(String(repeating: "x", count: 250))
      #expect(throws: CheckpointError.self) { try AtomicFile.write(Data("x".utf8), to: long) }
      #expect(try contents(folder) == ["taken"])
    }
    #expect(throws: CheckpointError.self) {
      try AtomicFile.write(Data("x".utf8), to: URL(fileURLWithPath: "/proc/qformer.safetensors"))
    }
  }

  @Test func aFolderThatIsReadOnly() throws {
    try withTemporaryFolder { folder in
      let url = folder.appendingPathComponent("x")
      try AtomicFile.write(Data("one".utf8), to: url)
      chmod(folder.path, 0o500)
      defer { chmod(folder.path, 0o700) }
      if access(folder.path, W_OK) == 0 { return }  // The superuser may write anyway.
      #expect(throws: CheckpointError.self) { try AtomicFile.write(Data("two".utf8), to: url) }
      #expect(try String(contentsOf: url, encoding: .utf8) == "one" && contents(folder) == ["x"])
    }
  }

  @Test func aDiskThatIsFullKeepsTheOldFile() async {
    // A child may write 64 KiB to a file and not more, as on a full disk.
    await #expect(processExitsWith: .success) {
      signal(SIGXFSZ, SIG_IGN)
      try withTemporaryFolder { folder in
        let url = folder.appendingPathComponent("x.safetensors")
        try SafetensorsFile.write([("a", Tensor([Float(1), 2]))], to: url)
        let before = try Data(contentsOf: url)
        var limit = rlimit(rlim_cur: 65536, rlim_max: 65536)
        #if os(Linux)
          try #require(setrlimit(__rlimit_resource_t(RLIMIT_FSIZE.rawValue), &limit) == 0)
        #else
          try #require(setrlimit(RLIMIT_FSIZE, &limit) == 0)
        #endif
        let error = #expect(throws: CheckpointError.self) {
          try SafetensorsFile.write([("a", .ones([1_000_000]))], to: url)
        }
        #expect(
          error?.description.contains("cannot be written: File too large") == true, "\(String(describing: error))")
        #expect(try Data(contentsOf: url) == before)
        #expect(try FileManager.default.contentsOfDirectory(atPath: folder.path) == ["x.safetensors"])
        // What fits is still written.
        try SafetensorsFile.write([("a", .ones([100]))], to: url)
        #expect(try SafetensorsFile(contentsOf: url).shape("a") == [100])
      }
    }
  }

  @Test func tensorsThatCannotBeWritten() throws {
    try withTemporaryFolder { folder in
      let url = folder.appendingPathComponent("x.safetensors")
      try SafetensorsFile.write([("a", .ones([1]))], to: url)
      let before = try Data(contentsOf: url)
      #expect(throws: CheckpointError.self) {
        try SafetensorsFile.write([("a", .ones([1])), ("a", .ones([2]))], to: url)
      }
      #expect(throws: CheckpointError.self) { try SafetensorsFile.write([("__metadata__", .ones([1]))], to: url) }
      #expect(throws: (any Error).self) {
        try withError { try SafetensorsFile.write([("a", Tensor.ones([2]).reshaped(3))], to: url) }
      }
      #expect(throws: (any Error).self) {
        let complex = Operator("aten::complex")(.tensor(.ones([1])), .tensor(.ones([1])))
        try withError { try SafetensorsFile.write([("a", complex)], to: url) }
      }
      #expect(try Data(contentsOf: url) == before && contents(folder) == ["x.safetensors"])
    }
  }
}
