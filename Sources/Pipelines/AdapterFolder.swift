import Checkpoints
public import Foundation
public import Torch

/// Reading and writing the folder of an adapter: `config.json` and `model.safetensors`.
public enum AdapterFolder {
  /// Writes an adapter, weights in `float16`.
  ///
  /// - Parameters:
  ///   - configuration: What is written to `config.json`.
  ///   - tensors: Names and weights; those that belong to a frozen model are left out.
  ///   - folder: Made when it does not exist; files in it are replaced one by one, each at once.
  /// - Throws: `CheckpointError.cannotWrite`.
  public static func write(
    _ configuration: AdapterConfiguration, _ tensors: [(name: String, tensor: Tensor)], to folder: URL
  ) throws {
    do {
      try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    } catch {
      throw CheckpointError.cannotWrite(file: folder.path, reason: error.localizedDescription)
    }
    let stored = try withError { tensors.map { (name: $0.name, tensor: $0.tensor.detached().to(.float16)) } }
    try SafetensorsFile.write(
      stored, metadata: ["format": "pt"], to: folder.appendingPathComponent("model.safetensors"))
    try configuration.write(to: folder)
  }
}
