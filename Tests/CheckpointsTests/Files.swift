import Checkpoints
import Foundation
import TestSupport
import Testing
import Torch

/// A safetensors file put together by hand: length, header, data.
func safetensors(_ header: String, data: Int = 0, length: UInt64? = nil) -> Data {
  let text = Data(header.utf8)
  let count = (length ?? UInt64(text.count)).littleEndian
  return withUnsafeBytes(of: count) { Data($0) } + text + Data(repeating: 1, count: data)
}

/// What opening a file with these bytes throws.
func malformation(_ bytes: Data, sourceLocation: SourceLocation = #_sourceLocation) throws -> String {
  try withTemporaryFolder { folder in
    let file = folder.appendingPathComponent("bad.safetensors")
    try bytes.write(to: file)
    let error = #expect(throws: CheckpointError.self, sourceLocation: sourceLocation) {
      try SafetensorsFile(contentsOf: file)
    }
    guard let error, case .malformed(let path, _, _) = error else {
      Issue.record("\(String(describing: error)) is no malformation", sourceLocation: sourceLocation)
      return ""
    }
    #expect(path == file.path, sourceLocation: sourceLocation)
    #expect(error.description.count < 2000, "the message is of bounded length", sourceLocation: sourceLocation)
    return error.description
  }
}

/// A folder of shards with an index; `shards` maps file names to the tensors in them.
func writeShards(_ shards: [String: [String]], index: String?, in folder: URL) throws {
  for (file, names) in shards {
    let tensors = names.map { (name: $0, tensor: Tensor([Float(1), 2])) }
    try SafetensorsFile.write(tensors, to: folder.appendingPathComponent(file))
  }
  if let index {
    try Data(index.utf8).write(to: folder.appendingPathComponent("model.safetensors.index.json"))
  }
}
