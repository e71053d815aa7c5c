import Checkpoints
import Foundation
import TestSupport
import Testing
import Torch

/// Pickles that would run code, never end or fill the memory in Python. Each is refused with words that name what is wrong.
@Suite struct HostilePickleTests {
  @Test func aPlainOneIsRead() throws {
    let pickle = Pickle.whole(Pickle.dictionary(Pickle.tensor()))
    for bytes in [Zip(pickle: pickle).bytes, stream(pickle), Zip(pickle: pickle, byteOrder: nil).bytes] {
      #expect(try PyTorchFile(parsing: bytes).tensor("w").shape == [4])
    }
  }

  @Test(arguments: [
    ("posix", "system"), ("os", "system"), ("nt", "system"), ("builtins", "eval"), ("__builtin__", "eval"),
    ("builtins", "exec"), ("builtins", "getattr"), ("builtins", "__import__"), ("subprocess", "Popen"),
    ("torch", "load"), ("torch.hub", "load"), ("torch.nn.modules.linear", "Linear"), ("argparse", "Namespace"),
    ("numpy.core.multiarray", "scalar"), ("collections", "defaultdict"), ("torch", "ComplexFloatStorage"),
    ("torch", "uint16"), ("", ""), ("collections.OrderedDict", ""), ("torch._utils", "_rebuild_tensor_v2.__globals__"),
  ]) func classesAndFunctionsAreRefusedByName(module: String, name: String) {
    let call = Pickle.tuple([Pickle.text("touch /tmp/owned")]) + Pickle.ops("R")
    let words = refusal(pickle: Pickle.whole(Pickle.dictionary(Pickle.global(module, name) + call)))
    #expect(words.contains("found \(module).\(name) (GLOBAL)"), "\(words)")
    let stacked = Pickle.text(module) + Pickle.text(name) + Data([0x93])
    #expect(refusal(pickle: Pickle.whole(stacked, call)).contains("\(module).\(name) (GLOBAL)"))
    // Named, but never called.
    #expect(refusal(pickle: Pickle.whole(Pickle.global(module, name))).contains("(GLOBAL)"))
  }

  @Test func otherWaysToMakeObjects() {
    let ordered = Pickle.global("collections", "OrderedDict")
    let cases: [(Data, String)] = [
      (Pickle.ops("(iposix\nsystem\n"), "posix.system (INST)"),
      (Pickle.ops("(") + ordered + Pickle.ops("o"), "(OBJ)"),
      (ordered + Pickle.ops(")") + Data([0x81]), "(NEWOBJ)"),
      (ordered + Pickle.ops(")}") + Data([0x92]), "(NEWOBJ_EX)"),
      (Data([0x82, 7]), "EXT1 7"), (Data([0x83, 1, 1]), "EXT2 257"), (Data([0x84, 1, 0, 0, 0]), "EXT4 1"),
      (Pickle.tensor() + Pickle.ops("}b"), "a state (BUILD)"), (Pickle.ops("]}b"), "a state (BUILD)"),
      (Pickle.ops("K\u{1})R"), "a call of something else"), (ordered + Pickle.ops("]R"), "a call of something else"),
      (Pickle.ops("Pname\n"), "opcode 0x50"), (Data([0x97]), "opcode 0x97"), (Pickle.ops("I1\n"), "opcode 0x49"),
      (Pickle.ops("S'x'\n"), "opcode 0x53"), (Data([0xff]), "opcode 0xff"),
      (Pickle.text("x") + Pickle.ops("Q"), "something else"), (Pickle.ops(")Q"), "something else"),
      (
        Pickle.tuple([Pickle.text("module"), ordered, Pickle.ops("N"), Pickle.ops("N"), Pickle.ops("N")])
          + Pickle.ops("Q"), "something else"
      ),
      (Pickle.global("torch", "FloatStorage") + Pickle.ops(")R"), "with 0 arguments"),
      (Pickle.global("torch", "float32") + Pickle.ops(")R"), "with 0 arguments"),
    ]
    for (part, words) in cases {
      let found = refusal(pickle: Pickle.whole(part))
      #expect(found.contains(words), "\(found)")
    }
  }

  @Test func aClassThatTheCallerAllowsIsReadAsNothing() throws {
    let space =
      Pickle.global("argparse", "Namespace") + Pickle.ops(")R") + Pickle.ops("}")
      + Pickle.text("lr") + Pickle.int(1) + Pickle.ops("sb")
    let pickle = Pickle.whole(
      Pickle.ops("}("), Pickle.text("w"), Pickle.tensor(), Pickle.text("args"), space, Pickle.ops("u"))
    #expect(refusal(Zip(pickle: pickle).bytes).contains("argparse.Namespace"))
    let file = try PyTorchFile(parsing: Zip(pickle: pickle).bytes, inertClasses: ["argparse.Namespace"])
    #expect(file.names == ["w"] && file.otherKeys == ["args"])
    #expect(throws: CheckpointError.self) {
      try PyTorchFile(parsing: Zip(pickle: pickle).bytes, inertClasses: ["argparse"])
    }
    for maker in [Pickle.ops(")") + Data([0x81]), Pickle.ops(")}") + Data([0x92])] {
      let other = Pickle.whole(
        Pickle.ops("}("), Pickle.text("w"), Pickle.tensor(), Pickle.text("x"), Pickle.global("a", "B"), maker,
        Pickle.ops("u"))
      #expect(try PyTorchFile(parsing: Zip(pickle: other).bytes, inertClasses: ["a.B"]).otherKeys == ["x"])
    }
  }

  // MARK: The stack machine

  @Test(arguments: [
    "", "0", "1", "2", "a", "]a", "e", "]e", "s", "}s", "}NNNu", "u", "}(Nu", "t", "(0", "(2", "(a", "R", "NR", "b",
    "Q",
    "]N(s", "q\u{1}", "h\u{1}", "j\u{1}\u{1}\u{1}\u{1}", "}(Nd", "NNs", "NNa", "}Na", "]NNs", "(N(", "\u{1}",
    "cnothing",
  ]) func aStackThatDoesNotHold(letters: String) {
    _ = refusal(pickle: Pickle.whole(Pickle.ops(letters)))
  }

  @Test func lengthsThatLie() {
    let cases: [Data] = [
      Data([0x8a, 200, 1]), Data([0x8b]) + Pickle.little(Int32(-1)), Data([0x8b]) + Pickle.little(Int32.max),
      Pickle.ops("X") + Pickle.little(UInt32.max), Pickle.ops("T") + Pickle.little(Int32(-5)),
      Pickle.ops("B") + Pickle.little(UInt32.max), Data([0x8d]) + Pickle.little(UInt64.max),
      Data([0x8e]) + Pickle.little(UInt64(1) << 62), Data([0x96]) + Pickle.little(UInt64.max),
      Data([0x8c, 255]), Pickle.ops("G\u{1}"), Pickle.ops("J\u{1}"), Data([0x80, 6]), Data([0x80, 255]),
      Pickle.ops("c" + String(repeating: "x", count: 5000)),
    ]
    for part in cases {
      let archive = Zip(pickle: Data([0x80, 2]) + part).bytes
      _ = refusal(archive)
      _ = refusal(stream(Data([0x80, 2]) + part))
    }
  }

  @Test func integersOfAnyLength() throws {
    // Read as what they are, and refused where a size is wanted.
    for (bytes, value) in [
      ([UInt8](), 0), ([0xff], -1), ([0, 1], 256), ([0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f], .max),
    ] {
      let number = Data([0x8a, UInt8(bytes.count)] + bytes)
      let pickle = Pickle.whole(Pickle.dictionary(Pickle.tensor(sizes: [number])))
      if value == 0 {
        #expect(try PyTorchFile(parsing: Zip(pickle: pickle).bytes).tensor("w").shape == [0])
      } else {
        #expect(refusal(pickle: pickle).contains("\(value)"), "\(refusal(pickle: pickle))")
      }
    }
    let monster = Data([0x8b]) + Pickle.little(Int32(1_000_000)) + Data(repeating: 0x7f, count: 1_000_000)
    #expect(refusal(pickle: Pickle.whole(Pickle.dictionary(Pickle.tensor(sizes: [monster])))).contains("an integer"))
    let beside = Pickle.ops("}(") + Pickle.text("n") + monster + Pickle.text("w") + Pickle.tensor() + Pickle.ops("u")
    #expect(try PyTorchFile(parsing: Zip(pickle: Pickle.whole(beside)).bytes).otherKeys == ["n"])
  }

  @Test func towersAndLoops() throws {
    // A million containers in one another: no recursion, so no stack overflow; and more than are allowed.
    func tower(_ count: Int, _ open: String, _ close: String) -> Data {
      Pickle.ops(String(repeating: open, count: count) + "N" + String(repeating: close, count: count))
    }
    for (open, close) in [("](", "e"), ("(", "t"), ("}(N", "u"), ("(", "l")] {
      let pickle = Pickle.whole(
        Pickle.ops("}("), Pickle.text("w"), Pickle.tensor(), Pickle.text("deep"),
        tower(100_000, open, close), Pickle.ops("u"))
      #expect(try PyTorchFile(parsing: Zip(pickle: pickle).bytes).otherKeys == ["deep"])
      #expect(refusal(pickle: Pickle.whole(tower(1_100_000, open, close))).contains("of reasonable size"))
    }
    // A list and a dictionary that hold themselves.
    let list = Pickle.ops("]q\u{1}h\u{1}a"), dictionary = Pickle.ops("}q\u{2}Nh\u{2}s")
    let pickle = Pickle.whole(
      Pickle.ops("}("), Pickle.text("w"), Pickle.tensor(), Pickle.text("a"), list, Pickle.text("b"), dictionary,
      Pickle.ops("u"))
    #expect(try PyTorchFile(parsing: Zip(pickle: pickle).bytes).otherKeys == ["a", "b"])
    // The outermost dictionary as its own model.
    let own = Pickle.whole(
      Pickle.ops("}q\u{1}("), Pickle.text("model"), Pickle.ops("h\u{1}"), Pickle.text("w"),
      Pickle.tensor(), Pickle.ops("u"))
    #expect(try PyTorchFile(parsing: Zip(pickle: own).bytes).names == ["w"])
  }

  @Test func muchOfLittle() {
    // A list that is doubled again and again, and memories without end.
    var doubling = Pickle.ops("]q\u{1}N") + Pickle.ops("a")
    for _ in 0..<40 {
      doubling += Pickle.ops("0") + Pickle.global("torch", "Size") + Pickle.ops("(h\u{1}tR0")
      doubling += Pickle.ops("(h\u{1}h\u{1}h\u{1}h\u{1}tq\u{1}")
    }
    _ = refusal(pickle: Pickle.whole(doubling))
    var grown = Pickle.ops("](") + Pickle.ops(String(repeating: "N", count: 1000)) + Pickle.ops("eq\u{1}0")
    for _ in 0..<5000 {
      grown += Pickle.global("builtins", "set") + Pickle.ops("h\u{1}") + Data([0x85]) + Pickle.ops("R0")
    }
    #expect(refusal(pickle: Pickle.whole(grown)).contains("of reasonable size"))
    var memory = Pickle.ops("N")
    memory.reserveCapacity(11_000_000)
    for index in UInt32(0)..<2_100_000 { memory += Pickle.ops("r") + Pickle.little(index) }
    #expect(refusal(pickle: Pickle.whole(memory)).contains("of reasonable size"))
    #expect(
      refusal(pickle: Pickle.whole(Pickle.ops("Nr") + Pickle.little(UInt32.max))).contains("a dictionary of tensors"),
      "a high number is no table of that length")
    let many = Pickle.ops(String(repeating: "N", count: 4_100_000))
    #expect(refusal(pickle: Pickle.whole(many)).contains("of reasonable size"))
    let long = Pickle.ops("X") + Pickle.little(UInt32(70 << 20)) + Data(count: 70 << 20)
    #expect(refusal(Zip(pickle: Pickle.whole(long)).bytes).contains("more than"))
  }

  // MARK: Tensors

  @Test func tensorsOutsideTheirStorage() {
    let (int, tensor) = (Pickle.int, Pickle.tensor)
    let nan = Pickle.ops("G") + Pickle.little(Double.nan.bitPattern.byteSwapped)
    let cases: [(Data, String)] = [
      (tensor(Pickle.storage(), int(0), [int(5)], [int(1)], []), "sizes [5]"),
      (tensor(Pickle.storage(), int(1), [int(4)], [int(1)], []), "from element 1"),
      (tensor(Pickle.storage(), int(-1), [int(1)], [int(1)], []), "an offset of at least 0"),
      (tensor(Pickle.storage(), int(5), [int(0)], [int(1)], []), "from element 5"),
      (tensor(Pickle.storage(), int(.max), [int(1)], [int(1)], []), "from element"),
      (tensor(Pickle.storage(), int(0), [int(-4)], [int(1)], []), "sizes of at least 0, found -4"),
      (tensor(Pickle.storage(), int(0), [int(4)], [int(-1)], []), "strides of at least 0, found -1"),
      (tensor(Pickle.storage(), int(0), [int(2), int(2)], [int(1)], []), "1 strides"),
      (tensor(Pickle.storage(), int(0), [int(2), int(3)], [int(2), int(1)], []), "sizes [2, 3]"),
      (tensor(Pickle.storage(), int(0), [int(2)], [int(.max)], []), "strides"),
      (tensor(Pickle.storage(), int(0), [int(.max), int(.max)], [int(1), int(1)], []), "sizes"),
      (tensor(Pickle.storage(), int(0), [int(3)], [int(1 << 62)], []), "sizes"),
      (tensor(Pickle.storage(), int(0), [int(1 << 40)], [int(0)], []), "no larger than its storage"),
      (tensor(Pickle.storage(), int(0), [int(1 << 40), int(1 << 40)], [int(0), int(0)], []), "no larger"),
      (tensor(Pickle.storage(), int(0), [nan], [int(1)], []), "64-bit integers, found a number"),
      (tensor(Pickle.storage(), int(0), [Data([0x88])], [int(1)], []), "found a truth value"),
      (tensor(Pickle.storage(), nan, [int(1)], [int(1)], []), "found a number"),
      (tensor(Pickle.storage(), int(0), [Pickle.text("4")], [int(1)], []), "found text"),
      (tensor(Pickle.ops("N"), int(0), [int(4)], [int(1)], []), "a tensor over a storage, found None"),
      (tensor(Pickle.storage(), int(0), Array(repeating: int(1), count: 65), [int(1)], []), "64 dimensions"),
      (tensor(Pickle.storage(), int(0), [int(4)], [int(1)], [Pickle.dictionary(Data([0x88]))]), "conjugated"),
      (tensor(Pickle.storage(count: -1), int(0), [int(0)], [int(1)], []), "size of a storage"),
      (tensor(Pickle.storage(count: .max), int(0), [int(4)], [int(1)], []), "size of a storage"),
    ]
    for (part, words) in cases {
      let found = refusal(pickle: Pickle.whole(Pickle.dictionary(part)))
      #expect(found.contains(words), "\(found)")
    }
  }

  @Test func storagesThatAreNotThere() {
    func archive(_ storage: Data, _ sizes: [Int] = [4]) -> Data {
      Zip(pickle: Pickle.whole(Pickle.dictionary(Pickle.tensor(storage: storage, sizes: sizes.map(Pickle.int))))).bytes
    }
    #expect(refusal(archive(Pickle.storage("1"))).contains("the storage 1 in the archive"))
    #expect(refusal(archive(Pickle.storage("../data.pkl"))).contains("no such entry"))
    #expect(refusal(archive(Pickle.storage(count: 5))).contains("20 bytes in the storage 0, found 16"))
    #expect(refusal(archive(Pickle.storage(count: 3), [3])).contains("12 bytes in the storage 0, found 16"))
    #expect(refusal(archive(Pickle.storage("0", "DoubleStorage"))).contains("32 bytes"))
    let pickle = Pickle.whole(Pickle.dictionary(Pickle.tensor()))
    let four = Pickle.little(Int64(4)) + Data(count: 16)
    #expect(refusal(stream(pickle, keys: ["1"])).contains("another key"))
    #expect(refusal(stream(pickle, keys: ["0", "0"], storages: four + four)).contains("one twice"))
    #expect(refusal(stream(pickle, keys: [], storages: Data())).contains("the storage 0 in the file"))
    #expect(refusal(stream(pickle, storages: four.dropLast())).contains("until the end"))
    #expect(refusal(stream(pickle, storages: four + Data(count: 1))).contains("1 bytes more"))
    #expect(refusal(stream(pickle, storages: Data())).contains("the file's end"))
    #expect(refusal(stream(pickle, storages: Pickle.little(Int64(5)) + Data(count: 20))).contains("another number"))
    #expect(refusal(stream(pickle, storages: Pickle.little(Int64(-4)) + Data(count: 16))).contains("another number"))
    #expect(refusal(stream(pickle, littleEndian: false)).contains("big-endian"))
    #expect(refusal(Zip(pickle: pickle, byteOrder: "big").bytes).contains("byte order big"))
    #expect(refusal(Zip(pickle: pickle, byteOrder: "").bytes).contains("byte order"))
  }
}
