import Checkpoints
import Foundation
import TestSupport
import Testing
import Torch
import TorchNN

/// The largest memory this process has had, in bytes.
private func peakMemory() throws -> Int {
  #if os(Linux)
    // `getrusage` would count what the process was before it became this program.
    let status = try String(contentsOfFile: "/proc/self/status", encoding: .utf8)
    let line = try #require(status.split(separator: "\n").first { $0.hasPrefix("VmHWM:") })
    return 1024 * (try #require(Int(line.filter(\.isNumber))))
  #else
    var usage = rusage()
    getrusage(RUSAGE_SELF, &usage)
    return usage.ru_maxrss
  #endif
}

/// How much memory files cost. Each runs in a process of its own, whose peak is its alone.
@Suite struct MemoryTests {
  static let rows = 64
  static let width = 1 << 20

  /// Four tensors of `rows × width / 4` elements, written as PyTorch's archive or older stream, a piece at a time.
  static func write(_ type: String, bytesPerElement: Int, archive: Bool, to url: URL) throws {
    let count = rows * width / 4
    let bytes = count * bytesPerElement
    var items = Pickle.ops("}(")
    for key in 0..<4 {
      items +=
        Pickle.text("w\(key)")
        + Pickle.tensor(
          storage: Pickle.storage("\(key)", type, count: count), sizes: [Pickle.int(rows), Pickle.int(width / 4)],
          strides: [Pickle.int(width / 4), Pickle.int(1)])
    }
    let pickle = Pickle.whole(items, Pickle.ops("u"))
    if archive {
      var zip = Zip(pickle: pickle)
      zip.entries.removeLast()
      // The entries' headers as they will be, and the data beside them.
      zip.entries += (0..<4).map { Zip.Entry(name: "x/data/\($0)", data: Data(repeating: 0x3c, count: bytes)) }
      try zip.bytes.write(to: url)
    } else {
      let storage = Pickle.little(Int64(count)) + Data(repeating: 0x3c, count: bytes)
      try stream(pickle, keys: (0..<4).map(String.init), storages: Pickle.join(Array(repeating: storage, count: 4)))
        .write(to: url)
    }
  }

  /// Loads in this process and returns the growth of the peak over the bytes of the tensors kept.
  static func costOfLoading(_ url: URL) throws -> Double {
    // LibTorch's own code and threads come first.
    let small = try Checkpoint(contentsOf: fixtures.appendingPathComponent("checkpoints/types.pth"))
    for name in ["f16", "bf16", "f32"] { _ = try withError { try small.tensor(name, as: .float32).sum().item } }
    _ = try withError { Tensor.ones([1 << 20]).sum().item }
    let before = try peakMemory()
    let kept = try loadModel(from: Checkpoint(contentsOf: url)) { scope in
      (0..<4).map { scope.parameter("w\($0)", [rows, width / 4], .zeros) }
    }.model
    // Every page is read once, as a model would.
    let sums = try withError { kept.map { $0.sum().item } }
    precondition(sums.allSatisfy { $0 > 0 })
    return Double(try peakMemory() - before) / Double(rows * width * 4)
  }

  @Test func loadingCostsTheTensorsThatAreKept() async throws {
    let folder = FileManager.default.temporaryDirectory.appendingPathComponent("qformer-memory-\(getpid())")
    try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    defer { try? FileManager.default.removeItem(at: folder) }
    let files: [(String, String, Int, Bool)] = [
      ("full.pth", "FloatStorage", 4, true), ("half.pth", "HalfStorage", 2, true),
      ("brain.pth", "BFloat16Storage", 2, true), ("old.pth", "FloatStorage", 4, false),
      ("oldhalf.pth", "HalfStorage", 2, false),
    ]
    for (name, type, size, archive) in files {
      let url = folder.appendingPathComponent(name)
      try Self.write(type, bytesPerElement: size, archive: archive, to: url)
      let path = url.path
      await #expect(processExitsWith: .success) { [path = path as String] in
        let cost = try MemoryTests.costOfLoading(URL(fileURLWithPath: path))
        // What a child prints is lost.
        try Data("\(cost)".utf8).write(to: URL(fileURLWithPath: path + ".cost"))
        #expect(cost < 1.2, "\(path): the peak is \(cost) of the tensors kept")
      }
      let cost = try String(contentsOfFile: path + ".cost", encoding: .utf8)
      print("\(name): the peak is \(cost) of the tensors kept")
      try FileManager.default.removeItem(at: url)
    }
  }

  @Test func writingCostsAPieceAtATime() async throws {
    let folder = FileManager.default.temporaryDirectory.appendingPathComponent("qformer-writing-\(getpid())")
    try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    defer { try? FileManager.default.removeItem(at: folder) }
    // Half a gigabyte of holes in four tensors.
    let size = 128 << 20
    let entries = (0..<4).map { number in
      #""w\#(number)":{"dtype":"F32","shape":[\#(size / 4)],"data_offsets":[\#(number * size),\#((number + 1) * size)]}"#
    }
    let url = folder.appendingPathComponent("holes.safetensors")
    let header = safetensors("{\(entries.joined(separator: ","))}")
    try header.write(to: url)
    let file = try FileHandle(forUpdating: url)
    try file.truncate(atOffset: UInt64(header.count + 4 * size))
    try file.close()
    let path = url.path
    await #expect(processExitsWith: .success) { [path = path as String] in
      let source = try Checkpoint(contentsOf: URL(fileURLWithPath: path))
      let target = URL(fileURLWithPath: path).deletingLastPathComponent()
      _ = try withError { Tensor.ones([1 << 20]).sum().item }
      let before = try peakMemory()
      let files = try source.writeModel(source.names.map { ($0, $0) }, to: target, shardSize: 256 << 20)
      let growth = try peakMemory() - before
      #expect(files.count == 3 && growth < 48 << 20, "\(growth) bytes for \(files)")
    }
  }

  @Test func hostileFilesCostLittle() async {
    await #expect(processExitsWith: .success) {
      _ = try withError { Tensor.ones([4]).sum().item }
      var files: [Data] = []
      // A tensor of 4 TB over 16 bytes, an entry that says to be 4 GB, a storage of 8 EB, memo numbers without end.
      files.append(
        Zip(
          pickle: Pickle.whole(Pickle.dictionary(Pickle.tensor(sizes: [Pickle.int(1 << 40)], strides: [Pickle.int(0)])))
        )
        .bytes)
      var bomb = Zip(pickle: Pickle.whole(Pickle.dictionary(Pickle.tensor())))
      (bomb.entries[2].size, bomb.entries[2].storedSize) = (.max - 1, .max - 1)
      files.append(bomb.bytes)
      files.append(
        Zip(pickle: Pickle.whole(Pickle.dictionary(Pickle.tensor(storage: Pickle.storage(count: .max))))).bytes)
      files.append(Zip(pickle: Pickle.whole(Pickle.ops("Nr") + Pickle.little(UInt32.max))).bytes)
      files.append(Zip(pickle: Data([0x80, 2]) + Pickle.ops("X") + Pickle.little(UInt32.max)).bytes)
      files.append(safetensors(#"{"a":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4398046511104]}}"#))
      files.append(safetensors("{}", length: 99_000_000))
      let before = try peakMemory()
      for file in files {
        #expect(!survives(file))
        #expect(!survives(file, safetensors: true))
      }
      let growth = try peakMemory() - before
      #expect(growth < 16 << 20, "\(growth) bytes")
      // The most that the limits let through: towers, and memories by the million.
      let tower = Zip(pickle: Pickle.whole(Pickle.ops(String(repeating: "](", count: 1_100_000)))).bytes
      var memory = Pickle.ops("N")
      for index in UInt32(0)..<2_100_000 { memory += Pickle.ops("r") + Pickle.little(index) }
      let memories = Zip(pickle: Pickle.whole(memory)).bytes
      let start = try peakMemory()
      for file in [tower, memories] { #expect(!survives(file)) }
      let most = try peakMemory() - start
      #expect(most < 400 << 20, "\(most) bytes")
    }
  }
}
