import Checkpoints
import Foundation
import TestSupport
import Testing
import Torch

/// Files that PyTorch wrote, in both of its formats.
@Suite struct PyTorchFileTests {
  static let folder = fixtures.appendingPathComponent("checkpoints")
  let expected: SafetensorsFile

  init() throws { expected = try SafetensorsFile(contentsOf: Self.folder.appendingPathComponent("types.safetensors")) }

  func open(_ name: String) throws -> PyTorchFile {
    try PyTorchFile(contentsOf: Self.folder.appendingPathComponent(name))
  }

  @Test(arguments: ["types.pth", "types_legacy.pth", "types_protocol4.pth", "wide.pth"])
  func everyTypeAndView(name: String) throws {
    let file = try open(name)
    #expect(Set(file.names) == Set(expected.names) && file.names.count == 22)
    #expect(file.names.first == "f32", "the file's own order")
    for name in expected.names {
      let (tensor, truth) = (try file.tensor(name), try expected.tensor(name))
      #expect(tensor.dtype == truth.dtype && file.dtype(name) == truth.dtype, "\(name)")
      #expect(tensor.shape == truth.shape && file.shape(name) == truth.shape, "\(name)")
      #expect(tensor.bytes() == truth.bytes() && tensor.isContiguous && !tensor.requiresGrad, "\(name)")
    }
    #expect(file.section == "model")
    #expect(
      Set(file.otherKeys) == [
        "epoch", "lr", "name", "dtype", "size", "device", "tuple", "set", "bytes", "large", "negative", "nested",
        "counter",
      ])
    #expect(throws: CheckpointError.noSuchTensor(file: file.url.path, name: "none")) { try file.tensor("none") }
    #expect(file.shape("none") == nil && file.dtype("none") == nil)
  }

  @Test func theSameInMemory() throws {
    let bytes = try Data(contentsOf: Self.folder.appendingPathComponent("types.pth"))
    let file = try PyTorchFile(parsing: bytes)
    for name in expected.names { #expect(try file.tensor(name).bytes() == expected.tensor(name).bytes()) }
  }

  @Test func tensorsOfOneStorageShareItsMemory() throws {
    let file = try open("types.pth")
    try file.tensor("base").multiply(inPlace: Tensor(Float(-1)))
    #expect(try file.tensor("shifted").values(as: Float.self) == [-5, -6, -7, -8, -9, -10])
    #expect(try file.tensor("strided").values(as: Float.self).prefix(4) == [0, -6, -12, -18])
    #expect(try open("types.pth").tensor("base").values(as: Float.self)[1] == 1, "the file stays as it is")
  }

  @Test func conversionWhileReading() throws {
    for name in ["types.pth", "types_legacy.pth"] {
      let checkpoint = try Checkpoint(contentsOf: Self.folder.appendingPathComponent(name))
      for name in expected.names {
        let tensor = try checkpoint.tensor(name, as: .float32)
        #expect(tensor.dtype == .float32 && tensor.shape == expected.shape(name))
        #expect(try tensor.bytes() == expected.tensor(name).to(.float32).bytes(), "\(name)")
      }
    }
  }

  @Test func viewsOfTheOldestFiles() throws {
    let file = try open("old_views.pth")
    #expect(file.section == nil && file.names == ["a", "b"] && file.otherKeys.isEmpty)
    #expect(try file.tensor("a").values(as: Float.self) == [2, 3, 4, 5])
    #expect(try file.tensor("b").values(as: Float.self) == [7, 9, 8, 10])
  }

  @Test func aTensorOutlivesItsFile() throws {
    for name in ["types.pth", "types_legacy.pth"] {
      let tensor = try open(name).tensor("base")
      #expect(tensor.sum().item == 276)
    }
  }

  // MARK: Which tensors

  /// An archive with these entries in the outermost dictionary.
  func archive(_ entries: [(String, Data)]) -> Data {
    let items = entries.map { Pickle.text($0.0) + $0.1 }
    return Zip(pickle: Pickle.whole(Pickle.ops("}("), Pickle.join(items), Pickle.ops("u"))).bytes
  }

  @Test func theSectionFollowsARule() throws {
    let inner = Pickle.dictionary(Pickle.tensor())
    for section in PyTorchFile.usualSections {
      let file = try PyTorchFile(parsing: archive([("epoch", Pickle.int(1)), (section, inner)]))
      #expect(file.section == section && file.names == ["w"] && file.otherKeys == ["epoch"])
    }
    // A tensor beside the model, its loss for instance, is no part of it.
    let beside = try PyTorchFile(parsing: archive([("loss", Pickle.tensor()), ("model", inner)]))
    #expect(beside.names == ["w"] && beside.otherKeys == ["loss"])
    let top = try PyTorchFile(
      parsing: archive([("model", Pickle.int(3)), ("a.b", Pickle.tensor()), ("n", Pickle.ops("N"))]))
    #expect(top.section == nil && top.names == ["a.b"] && top.otherKeys == ["model", "n"])
    // Two answers are none.
    let both = archive([("model", inner), ("state_dict", Pickle.dictionary(Pickle.tensor()))])
    #expect(refusal(both).contains("several: model, state_dict"))
    #expect(try PyTorchFile(parsing: both, section: "state_dict").section == "state_dict")
    #expect(throws: CheckpointError.self) { try PyTorchFile(parsing: both, section: "none") }
    #expect(throws: CheckpointError.self) { try PyTorchFile(parsing: both, section: "") }
    let other = archive([("ema", inner), ("w", Pickle.tensor())])
    #expect(try PyTorchFile(parsing: other).names == ["w"])
    #expect(try PyTorchFile(parsing: other, section: "ema").otherKeys == ["w"])
  }

  @Test func whatHoldsNoTensorsIsDescribed() {
    #expect(refusal(archive([("epoch", Pickle.int(1))])).contains("found a dictionary of epoch"))
    let state = archive([("state", Pickle.ops("}")), ("param_groups", Pickle.ops("]"))])
    #expect(refusal(state).contains("found the state of an optimizer"))
    #expect(refusal(Zip(pickle: Pickle.whole(Pickle.tensor())).bytes).contains("found a tensor"))
    #expect(refusal(Zip(pickle: Pickle.whole(Pickle.ops("]"))).bytes).contains("found a list"))
    #expect(refusal(archive([])).contains("a dictionary without names"))
    let nested = archive([
      (
        "model",
        Pickle.ops("}(") + Pickle.text("w") + Pickle.tensor() + Pickle.text("deep")
          + Pickle.dictionary(Pickle.tensor()) + Pickle.ops("u")
      )
    ])
    #expect(refusal(nested).contains("a dictionary of tensors under deep beside them"))
    let twice = archive([("w", Pickle.tensor()), ("w", Pickle.tensor())])
    #expect(refusal(twice).contains("w twice"))
    let numbered = Zip(pickle: Pickle.whole(Pickle.ops("}"), Pickle.int(1), Pickle.tensor(), Pickle.ops("s"))).bytes
    #expect(refusal(numbered).contains("names of tensors as text"))
  }

  @Test func otherFilesAreRecognised() throws {
    for (start, words) in [
      ("version https://git-lfs.github.com/spec/v1\noid sha256:", "a Git LFS pointer"),
      ("<!DOCTYPE html><html>", "a web page"), ("GGUF\u{3}", "a GGUF file"), ("nothing", "something else"),
    ] {
      #expect(refusal(Data(start.utf8)).contains(words))
    }
    #expect(refusal(Data([0x1f, 0x8b, 8, 0])).contains("gzip"))
    var tar = Data(count: 512)
    tar.replaceSubrange(257..<262, with: Data("ustar".utf8))
    #expect(refusal(tar).contains("a tar archive"))
    #expect(refusal(Pickle.whole(Pickle.ops("}"))).contains("a pickle of another origin"))
    var script = Zip(pickle: Pickle.whole(Pickle.dictionary(Pickle.tensor())))
    script.entries.append(Zip.Entry(name: "x/constants.pkl", data: Data()))
    #expect(refusal(script.bytes).contains("TorchScript"))
    // A pointer in the place of safetensors.
    let pointer = Data("version https://git-lfs.github.com/spec/v1\n".utf8)
    #expect(try malformation(pointer).contains("a Git LFS pointer"))
  }
}
