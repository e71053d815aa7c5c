import Checkpoints
import Foundation
import TestSupport
import Testing
import Torch

/// Files of the reference library are read; ours are the same bytes each time and are read by it.
@Suite struct SafetensorsFormatTests {
  static let types: [(String, DType, [Double])] = [
    ("F16", .float16, [-1.5, -1, -0.5, 0, 0.5, 1]), ("F32", .float32, [-1.5, -1, -0.5, 0, 0.5, 1]),
    ("F64", .float64, [-1.5, -1, -0.5, 0, 0.5, 1]), ("BF16", .bfloat16, [-1.5, -1, -0.5, 0, 0.5, 1]),
    ("I8", .int8, [-3, -2, -1, 0, 1, 2]), ("I16", .int16, [-3, -2, -1, 0, 1, 2]),
    ("I32", .int32, [-3, -2, -1, 0, 1, 2]), ("I64", .int64, [-3, -2, -1, 0, 1, 2]),
    ("U8", .uint8, [0, 40, 80, 120, 160, 200]), ("BOOL", .bool, [1, 0, 1, 0, 1, 0]),
  ]
  let formats = fixtures.appendingPathComponent("torch/formats.safetensors")

  @Test func everyTypeOfTheReferenceLibrary() throws {
    let file = try SafetensorsFile(contentsOf: formats)
    for (name, dtype, values) in Self.types {
      let tensor = try file.tensor(name)
      #expect(tensor.dtype == dtype && file.dtype(name) == dtype)
      #expect(tensor.shape == [2, 3] && file.shape(name) == [2, 3])
      #expect(tensor.values(as: Double.self) == values, "\(name)")
    }
    #expect(try file.tensor("scalar").shape == [] && file.tensor("scalar").item == 2.5)
    #expect(try file.tensor("empty").shape == [0, 3] && file.tensor("empty").count == 0)
    #expect(try file.tensor("größe/λ").item == 1)
    #expect(file.metadata == ["format": "pt", "note": "ünïcode \"quoted\""])
    #expect(Set(file.names) == Set(Self.types.map(\.0) + ["scalar", "empty", "größe/λ"]))
    #expect(file.shape("none") == nil && file.dtype("none") == nil && file.url == formats)
    #expect(throws: CheckpointError.noSuchTensor(file: formats.path, name: "none")) { try file.tensor("none") }
  }

  @Test func unalignedDataAndEmptyTensorsBetween() throws {
    // The header's length is odd, so that no tensor lies at a multiple of its element size; "z" and "y" are empty and
    // share an offset with their neighbours.
    let url = fixtures.appendingPathComponent("torch/odd.safetensors")
    #expect(try Data(contentsOf: url)[0] % 2 == 1)
    let file = try SafetensorsFile(contentsOf: url)
    #expect(file.names == ["b", "z", "a", "c", "y"])
    #expect(try file.tensor("a").values(as: Float.self) == [0.25, -4])
    #expect(try file.tensor("b").values(as: UInt8.self) == [7, 8, 9])
    #expect(try file.tensor("c").intItem == -(1 << 40))
    #expect(try file.tensor("z").shape == [0] && file.tensor("y").shape == [0, 5])
    #expect(try file.tensor("y").dtype == .float64)
  }

  @Test func whatIsWrittenIsReadBackByTheReferenceLibrary() throws {
    // `make_torch.py` has read Fixtures/torch/ours.safetensors; the bytes written today must be those. Where they shall
    // change, set QFORMER_WRITE_FIXTURES once and run the script again.
    let file = try SafetensorsFile(contentsOf: formats)
    let tensors = try file.names.map { (name: $0, tensor: try file.tensor($0)) }
    let stored = fixtures.appendingPathComponent("torch/ours.safetensors")
    try withTemporaryFolder { folder in
      let url = folder.appendingPathComponent("ours.safetensors")
      try SafetensorsFile.write(
        tensors, metadata: ["by": "swift-qformer", "note": "ünïcode \"quoted\""], to: url)
      if ProcessInfo.processInfo.environment["QFORMER_WRITE_FIXTURES"] != nil {
        try Data(contentsOf: url).write(to: stored)
      }
      #expect(try Data(contentsOf: url) == Data(contentsOf: stored))
      #expect(try FileManager.default.contentsOfDirectory(atPath: folder.path) == ["ours.safetensors"])
    }
  }

  @Test func roundTripsAreExact() throws {
    try withTemporaryFolder { folder in
      let url = folder.appendingPathComponent("x.safetensors")
      let odd: [Float] = [.nan, -0.0, .infinity, -.infinity, .leastNonzeroMagnitude, .greatestFiniteMagnitude]
      var tensors: [(name: String, tensor: Tensor)] = [
        ("", Tensor(odd)), ("a.b\n\"\\/\u{1}", Tensor(odd, [2, 3]).transposed(0, 1)), ("scalar", Tensor(1.0 / 3)),
        ("empty", .zeros([0, 2], dtype: .int8)), ("byte", Tensor([UInt8(255)])),
      ]
      tensors += DType.allCases.map { ("type.\($0)", Tensor([0, 1, 1]).to($0)) }
      let gradient = Tensor([Float(4)])
      gradient.requiresGrad = true
      tensors.append(("parameter", gradient))
      try SafetensorsFile.write(tensors, to: url)
      let file = try SafetensorsFile(contentsOf: url)
      #expect(file.names.count == tensors.count && file.metadata.isEmpty)
      for (name, tensor) in tensors {
        let read = try file.tensor(name)
        #expect(read.dtype == tensor.dtype && read.shape == tensor.shape && read.bytes() == tensor.bytes(), "\(name)")
        #expect(!read.requiresGrad)
      }
    }
  }

  @Test func nothingAtAll() throws {
    try withTemporaryFolder { folder in
      let url = folder.appendingPathComponent("none.safetensors")
      try SafetensorsFile.write([], to: url)
      #expect(try SafetensorsFile(contentsOf: url).names.isEmpty)
    }
  }

  @Test func partsAreJoinedOnDisk() throws {
    try withTemporaryFolder { folder in
      let url = folder.appendingPathComponent("joined.safetensors")
      let whole = Tensor.randn([7, 3], generator: Generator(seed: 1))
      try SafetensorsFile.writeConcatenated(
        "x", [whole.slice(0, 0, 2), whole.slice(0, 2, 2), whole.slice(0, 2)], to: url)
      #expect(try SafetensorsFile(contentsOf: url).tensor("x").bytes() == whole.bytes())
      for parts in [[], [whole, .ones([2, 4])], [whole, .ones([2, 3], dtype: .int64)], [Tensor(Float(1))]] {
        #expect(throws: CheckpointError.self) { try SafetensorsFile.writeConcatenated("x", parts, to: url) }
      }
      #expect(try SafetensorsFile(contentsOf: url).shape("x") == [7, 3])
    }
  }

  @Test func changesStayInMemory() throws {
    try withTemporaryFolder { folder in
      let url = folder.appendingPathComponent("x.safetensors")
      try SafetensorsFile.write([("x", Tensor([Float(1), 2]))], to: url)
      let before = try Data(contentsOf: url)
      let (first, second) = (try SafetensorsFile(contentsOf: url), try SafetensorsFile(contentsOf: url))
      let x = try first.tensor("x")
      x.multiply(inPlace: Tensor(Float(10)))
      #expect(x.values(as: Float.self) == [10, 20])
      #expect(try first.tensor("x").values(as: Float.self) == [10, 20], "one mapping is one memory")
      #expect(try second.tensor("x").values(as: Float.self) == [1, 2])
      #expect(try Data(contentsOf: url) == before)
    }
  }

  @Test func aTensorOutlivesItsFile() throws {
    let tensor = try withTemporaryFolder { folder in
      let url = folder.appendingPathComponent("x.safetensors")
      try SafetensorsFile.write([("x", .arange(100_000))], to: url)
      return try SafetensorsFile(contentsOf: url).tensor("x")
    }
    #expect(tensor.sum().intItem == 100_000 * 99_999 / 2)
  }
}
