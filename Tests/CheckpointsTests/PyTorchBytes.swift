import Checkpoints
import Foundation
import TestSupport
import Testing

/// Pickles and archives put together by hand.
enum Pickle {
  /// A whole pickle of protocol 2.
  static func whole(_ parts: Data...) -> Data { Data([0x80, 2]) + join(parts) + Data(".".utf8) }

  static func join(_ parts: [Data]) -> Data { parts.reduce(into: Data()) { $0.append($1) } }

  /// Opcodes as letters.
  static func ops(_ letters: String) -> Data { Data(letters.utf8) }

  static func little<Integer: FixedWidthInteger>(_ value: Integer) -> Data {
    withUnsafeBytes(of: value.littleEndian) { Data($0) }
  }

  static func text(_ value: String) -> Data {
    ops("X") + little(UInt32(value.utf8.count)) + Data(value.utf8)
  }

  static func int(_ value: Int) -> Data { Data([0x8a, 8]) + little(Int64(value)) }

  static func tuple(_ parts: [Data]) -> Data { ops("(") + join(parts) + ops("t") }

  static func global(_ module: String, _ name: String) -> Data { ops("c\(module)\n\(name)\n") }

  static func storage(_ key: String = "0", _ type: String = "FloatStorage", count: Int = 4) -> Data {
    tuple([text("storage"), global("torch", type), text(key), text("cpu"), int(count)]) + ops("Q")
  }

  /// A call of `_rebuild_tensor_v2`.
  static func tensor(
    storage: Data = storage(), offset: Data = int(0), sizes: [Data] = [int(4)], strides: [Data] = [int(1)],
    more: [Data] = []
  ) -> Data {
    let hooks = global("collections", "OrderedDict") + ops(")R")
    let arguments = [storage, offset, tuple(sizes), tuple(strides), Data([0x89]), hooks] + more
    return global("torch._utils", "_rebuild_tensor_v2") + tuple(arguments) + ops("R")
  }

  /// `{"w": value}`
  static func dictionary(_ value: Data) -> Data { ops("}") + text("w") + value + ops("s") }
}

/// A zip archive, with what may be wrong with one.
struct Zip {
  struct Entry {
    var name: String
    var data: Data
    var method: UInt16 = 0
    var flags: UInt16 = 0
    /// What the directory says instead of the truth.
    var size: UInt32?
    var storedSize: UInt32?
    var offset: UInt32?
    var localName: String?
  }

  var entries: [Entry]
  var count: UInt16?
  var directoryOffset: UInt32?
  var comment = Data()

  /// PyTorch's archive with one storage of four float32.
  init(pickle: Data, storage: Data = Data(count: 16), byteOrder: String? = "little") {
    entries = [Entry(name: "x/data.pkl", data: pickle)]
    if let byteOrder { entries.append(Entry(name: "x/byteorder", data: Data(byteOrder.utf8))) }
    entries.append(Entry(name: "x/data/0", data: storage))
  }

  var bytes: Data {
    var (out, directory) = (Data(), Data())
    for entry in entries {
      let offset = entry.offset ?? UInt32(out.count)
      let size = UInt32(entry.data.count)
      let fixed = Pickle.join([
        Pickle.little(entry.flags), Pickle.little(entry.method), Data(count: 8),
        Pickle.little(entry.storedSize ?? size), Pickle.little(entry.size ?? size),
      ])
      let (name, localName) = (Data(entry.name.utf8), Data((entry.localName ?? entry.name).utf8))
      out += Data([0x50, 0x4b, 3, 4, 20, 0]) + fixed + Pickle.little(UInt16(localName.count)) + Data(count: 2)
      out += localName + entry.data
      directory += Data([0x50, 0x4b, 1, 2, 20, 0, 20, 0]) + fixed + Pickle.little(UInt16(name.count))
      directory += Data(count: 12) + Pickle.little(offset) + name
    }
    let start = directoryOffset ?? UInt32(out.count)
    let number = Pickle.little(count ?? UInt16(entries.count))
    out += directory + Data([0x50, 0x4b, 5, 6, 0, 0, 0, 0]) + number + number
    out +=
      Pickle.little(UInt32(directory.count)) + Pickle.little(start) + Pickle.little(UInt16(comment.count)) + comment
    return out
  }
}

/// PyTorch's older format around a pickle.
func stream(_ pickle: Data, keys: [String] = ["0"], storages: Data? = nil, littleEndian: Bool = true) -> Data {
  let magic: [UInt8] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19]
  let order = Pickle.text("little_endian") + Data([littleEndian ? 0x88 : 0x89])
  return Pickle.join([
    Pickle.whole(Data([0x8a, 10] + magic)), Pickle.whole(Pickle.int(1001)),
    Pickle.whole(Pickle.ops("}"), order, Pickle.ops("s")), pickle,
    Pickle.whole(Pickle.ops("]("), Pickle.join(keys.map(Pickle.text)), Pickle.ops("e")),
    storages ?? (Pickle.little(Int64(4)) + Data(count: 16)),
  ])
}

/// What reading these bytes throws.
func refusal(
  _ bytes: Data, inertClasses: Set<String> = [], sourceLocation: SourceLocation = #_sourceLocation
) -> String {
  let error = #expect(throws: CheckpointError.self, sourceLocation: sourceLocation) {
    try PyTorchFile(parsing: bytes, name: "/folder/bad.pth", inertClasses: inertClasses)
  }
  guard let error, case .malformed(let path, _, _) = error else {
    Issue.record("\(String(describing: error)) is no malformation", sourceLocation: sourceLocation)
    return ""
  }
  #expect(path == "/folder/bad.pth", sourceLocation: sourceLocation)
  #expect(error.description.count < 3000, "the message is of bounded length", sourceLocation: sourceLocation)
  return error.description
}

/// What reading an archive with this pickle, and a stream with it, throws; both the same.
func refusal(pickle: Data, sourceLocation: SourceLocation = #_sourceLocation) -> String {
  let words = refusal(Zip(pickle: pickle).bytes, sourceLocation: sourceLocation)
  _ = refusal(stream(pickle), sourceLocation: sourceLocation)
  return words
}
