import Checkpoints
import Foundation
import Torch

/// libFuzzer calls this with every input.
@_cdecl("LLVMFuzzerTestOneInput")
public func fuzz(_ start: UnsafePointer<UInt8>, _ count: Int) -> CInt {
  do {
    let file = try SafetensorsFile(parsing: Data(bytes: start, count: count))
    for name in file.names {
      let size = try file.tensor(name).bytes().count
      precondition(size <= count)
    }
  } catch is CheckpointError {} catch is TorchError {} catch { fatalError("\(error)") }
  return 0
}
