import Backbones
import Foundation
import Pipelines
import QFormer
import Torch

private let folder = FileManager.default.temporaryDirectory.appendingPathComponent("fuzz-\(getpid())-configuration")

/// Runs a reader; typed errors are its right.
private func read(_ body: () throws -> Void) {
  do {
    try body()
  } catch is PipelineError {} catch is BackboneError {} catch is QFormerError {} catch is TorchError {} catch {
    fatalError("\(error)")
  }
}

/// libFuzzer calls this with every input: `config.json` and `preprocessor_config.json` of a model folder.
@_cdecl("LLVMFuzzerTestOneInput")
public func fuzz(_ start: UnsafePointer<UInt8>, _ count: Int) -> CInt {
  do {
    try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    for name in ["config.json", "preprocessor_config.json"] {
      try Data(bytes: start, count: count).write(to: folder.appendingPathComponent(name))
    }
  } catch { fatalError("\(error)") }
  read {
    guard case .blip(let configuration) = try ModelFolder(folder) else { return }
    // Layers beyond the published ones only cost time.
    guard configuration.vision.layers < 50, configuration.qformer.layers < 50 else { return }
    _ = try configuration.parameterShapes()
  }
  read { _ = try ImageProcessor(folder: folder, size: 224) }
  return 0
}
