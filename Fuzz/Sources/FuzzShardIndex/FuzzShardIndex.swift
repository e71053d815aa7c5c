import Checkpoints
import Foundation
import Torch

/// A folder with two shards: `a` in `1.safetensors`, `b` in `2.safetensors`.
private let folder: URL = {
  let folder = FileManager.default.temporaryDirectory.appendingPathComponent("fuzz-\(getpid())-shards")
  do {
    try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    for (name, file) in [("a", "1.safetensors"), ("b", "2.safetensors")] {
      try SafetensorsFile.write([(name, Tensor.ones([2]))], to: folder.appendingPathComponent(file))
    }
  } catch { fatalError("\(error)") }
  return folder
}()

/// libFuzzer calls this with every input: the index of shards.
@_cdecl("LLVMFuzzerTestOneInput")
public func fuzz(_ start: UnsafePointer<UInt8>, _ count: Int) -> CInt {
  let index = folder.appendingPathComponent("model.safetensors.index.json")
  do {
    try Data(bytes: start, count: count).write(to: index)
    let checkpoint = try Checkpoint(contentsOf: folder)
    for name in checkpoint.names {
      // Nothing but the folder's own shards can be reached.
      precondition(name == "a" || name == "b")
      let size = try checkpoint.tensor(name).bytes().count
      precondition(size == 8)
    }
  } catch is CheckpointError {} catch is TorchError {} catch { fatalError("\(error)") }
  return 0
}
