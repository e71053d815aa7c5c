import Checkpoints
import Foundation
import TestSupport
import Testing
import Torch
import TorchNN

@Suite struct StrictLoadingTests {
  struct Model {
    let first: Linear
    let second: Linear
    init(_ scope: ParameterScope) {
      first = Linear(3, 2, scope["first"])
      second = Linear(2, 4, scope["second"])
    }
  }

  func load(
    _ tensors: [String: Tensor], keyMap: KeyMap = .identity, ignoring: [String] = [], allowMissing: [String] = [],
    seed: UInt64 = 0
  ) throws -> (model: Model, report: LoadReport) {
    try withTemporaryFolder { folder in
      let url = folder.appendingPathComponent("x.safetensors")
      try SafetensorsFile.write(tensors.sorted { $0.key < $1.key }.map { ($0.key, $0.value) }, to: url)
      return try loadModel(
        from: Checkpoint(contentsOf: url), keyMap: keyMap, ignoring: ignoring, allowMissing: allowMissing, seed: seed,
        build: Model.init)
    }
  }

  let fitting: [String: Tensor] = [
    "first.weight": Tensor([Float(1), 2, 3, 4, 5, 6], [2, 3]), "first.bias": Tensor([Float(0.5), -1]),
    "second.weight": .ones([4, 2]), "second.bias": .zeros([4]),
  ]

  func mismatch(_ tensors: [String: Tensor], allowMissing: [String] = []) throws -> LoadReport {
    do {
      _ = try load(tensors, allowMissing: allowMissing)
    } catch CheckpointError.mismatch(let report) { return report }
    struct Loaded: Error {}
    throw Loaded()
  }

  @Test func whatFitsIsLoaded() throws {
    let (model, report) = try load(fitting)
    #expect(model.first(.ones([1, 3])).values(as: Float.self) == [6.5, 14])
    #expect(report.isStrict && report.loaded.count == 4 && report.converted.isEmpty && report.initialised.isEmpty)
    #expect(report.summary.hasSuffix("4 tensors loaded, 0 missing, 0 unused, 0 of another shape"))
  }

  @Test func oneReportNamesEverything() throws {
    var tensors = fitting
    tensors["first.bias"] = nil
    tensors["second.bias"] = nil
    tensors["second.weight"] = .ones([2, 4])
    tensors["first.weight"] = .ones([2, 3, 1])
    tensors["third.weight"] = .ones([1])
    tensors["fourth"] = .ones([1])
    let report = try mismatch(tensors)
    #expect(Set(report.missing) == ["first.bias", "second.bias"])
    #expect(Set(report.unused) == ["third.weight", "fourth"])
    #expect(report.misshaped.map(\.name) == ["first.weight", "second.weight"])
    #expect(report.misshaped.map(\.expected) == [[2, 3], [4, 2]])
    #expect(report.misshaped.map(\.found) == [[2, 3, 1], [2, 4]])
    let words = CheckpointError.mismatch(report).description
    for part in [
      "x.safetensors: 0 tensors loaded, 2 missing, 2 unused, 2 of another shape", "missing: first.bias",
      "missing: second.bias", "unused: third.weight", "unused: fourth",
      "shape: second.weight: expected [4, 2], found [2, 4]",
    ] { #expect(words.contains(part), "\(words)") }
  }

  @Test func halfPrecisionIsConverted() throws {
    var tensors = fitting
    tensors["first.weight"] = fitting["first.weight"]?.to(.bfloat16)
    tensors["first.bias"] = fitting["first.bias"]?.to(.float64)
    let (model, report) = try load(tensors)
    #expect(Set(report.converted) == ["first.weight", "first.bias"])
    #expect(model.first.weight.dtype == .float32)
    #expect(model.first(.ones([1, 3])).values(as: Float.self) == [6.5, 14])
  }

  @Test(arguments: [DType.int64, .int8, .uint8, .bool]) func integersAreNoWeights(dtype: DType) throws {
    // They would fail somewhere inside the model, far from the file.
    var tensors = fitting
    tensors["second.weight"] = Tensor.ones([4, 2], dtype: dtype)
    let error = #expect(throws: CheckpointError.self) { try load(tensors) }
    let words = error?.description ?? ""
    #expect(words.contains("second.weight") && words.contains("\(dtype)"), "\(words)")
  }

  @Test func someMayBeMissing() throws {
    var tensors = fitting
    tensors["second.weight"] = nil
    tensors["second.bias"] = nil
    let (model, report) = try load(tensors, allowMissing: ["second.*"], seed: 5)
    #expect(report.initialised == ["second.weight", "second.bias"] && report.missing.isEmpty)
    #expect(model.second.weight.std().item > 0)
    let again = try load(tensors, allowMissing: ["*.weight", "second.bias"], seed: 5).model
    #expect(again.second.weight.bytes() == model.second.weight.bytes())
    #expect(
      try load(tensors, allowMissing: ["second.*"], seed: 6).model.second.weight.bytes() != again.second.weight.bytes())
    #expect(try mismatch(tensors, allowMissing: ["second.b*"]).missing == ["second.weight"])
    #expect(try mismatch(tensors, allowMissing: ["econd.*", "second", "*weigh"]).missing.count == 2)
    // A tensor that is there in another shape is not a missing one.
    tensors["second.weight"] = .ones([1])
    #expect(try mismatch(tensors, allowMissing: ["second.*"]).misshaped.map(\.name) == ["second.weight"])
  }

  @Test func someMayStayUnused() throws {
    var tensors = fitting
    tensors["old.a.ids"] = .ones([1])
    tensors["old.b.ids"] = .ones([1])
    #expect(try load(tensors, ignoring: ["old.*.ids"]).report.isStrict)
    let error = #expect(throws: CheckpointError.self) { try load(tensors, ignoring: ["old.a*"]) }
    #expect(error?.description.contains("unused: old.b.ids") == true)
  }

  @Test func hugeMissingPartsAskForNoMemory() throws {
    // 4 TB if it were made afresh.
    try withTemporaryFolder { folder in
      let url = folder.appendingPathComponent("x.safetensors")
      try SafetensorsFile.write([("a.weight", .ones([1]))], to: url)
      let checkpoint = try Checkpoint(contentsOf: url)
      let error = #expect(throws: CheckpointError.self) {
        try loadModel(from: checkpoint) { Linear(1_000_000, 1_000_000, $0["b"]) }
      }
      #expect(error?.description.contains("missing: b.weight") == true)
    }
  }

  @Test func aBuildThatFailsOnWhatIsMissingStillReports() throws {
    try withTemporaryFolder { folder in
      let url = folder.appendingPathComponent("x.safetensors")
      try SafetensorsFile.write([("a.weight", .ones([1]))], to: url)
      let checkpoint = try Checkpoint(contentsOf: url)
      for name in ["a", "b"] {
        let error = #expect(throws: CheckpointError.self) {
          try loadModel(from: checkpoint) {
            Linear(2, 3, $0[name], bias: false).weight.reshaped(3, 2).matmul(.ones([2, 1]))
          }
        }
        #expect(error?.description.contains("\(name).weight") == true)
      }
      #expect(throws: TorchError.self) {
        try loadModel(from: checkpoint) { $0.parameter("a.weight", [1], .zeros).reshaped(7) }
      }
      struct Other: Error {}
      #expect(throws: Other.self) { try loadModel(from: checkpoint) { _ in throw Other() } }
    }
  }

  @Test func namesAreMapped() throws {
    let map = KeyMap([
      KeyMap.Rule("first", "encoder.one"), KeyMap.Rule("second.bias", "other"), KeyMap.Rule("", "base"),
    ])
    #expect(map("first.weight") == "encoder.one.weight" && map("second.bias") == "other")
    #expect(map("second.weight") == "base.second.weight" && KeyMap.identity("x.y") == "x.y")
    let renamed = Dictionary(uniqueKeysWithValues: fitting.map { (map($0.key), $0.value) })
    let (model, report) = try load(renamed, keyMap: map)
    #expect(report.isStrict && Set(report.loaded) == Set(renamed.keys))
    #expect(model.first(.ones([1, 3])).values(as: Float.self) == [6.5, 14])
    // The report speaks of the file's names.
    var lacking = renamed
    lacking["other"] = nil
    let error = #expect(throws: CheckpointError.self) { try load(lacking, keyMap: map) }
    #expect(error?.description.contains("missing: other") == true)
  }

  @Test func tensorsAreBorrowedFromTheFile() throws {
    try withTemporaryFolder { folder in
      let url = folder.appendingPathComponent("x.safetensors")
      try SafetensorsFile.write(fitting.map { ($0.key, $0.value) }, to: url)
      let checkpoint = try Checkpoint(contentsOf: url)
      let model = try loadModel(from: checkpoint, build: Model.init).model
      withNoGrad { model.first.bias?.zero() }
      #expect(try checkpoint.tensor("first.bias").values(as: Float.self) == [0, 0])
      #expect(try Checkpoint(contentsOf: url).tensor("first.bias").values(as: Float.self) == [0.5, -1])
    }
  }
}
