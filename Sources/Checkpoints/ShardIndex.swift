import Foundation

/// `model.safetensors.index.json` or `pytorch_model.bin.index.json`: which tensor lies in which file beside it.
struct ShardIndex {
  /// The file name for each tensor.
  let fileOfName: [String: String]
  /// All files, sorted by name.
  let files: [URL]

  /// - Throws: ``CheckpointError/malformed(file:expected:found:)``, also for names that leave the folder.
  init(contentsOf index: URL) throws {
    func malformed(_ expected: String, _ found: String) -> CheckpointError {
      .malformed(file: index.path, expected: expected, found: found)
    }
    struct Content: Decodable {
      let weightMap: [String: String]
      enum CodingKeys: String, CodingKey { case weightMap = "weight_map" }
    }
    guard let data = try? SmallFile.read(index, limit: 200_000_000) else {
      throw malformed("a regular file below 200 MB", "a larger file, a folder or a device")
    }
    do {
      fileOfName = try JSONDecoder().decode(Content.self, from: data).weightMap
    } catch {
      throw malformed("JSON with weight_map", "something else")
    }
    guard !fileOfName.isEmpty else { throw malformed("tensors in weight_map", "none") }
    let folder = index.deletingLastPathComponent()
    files = try Set(fileOfName.values).sorted().map { name in
      guard !name.contains("/"), !name.contains("\0"), name.hasSuffix(".safetensors") || name.hasSuffix(".bin"),
        !name.hasPrefix(".")
      else { throw malformed("names of .safetensors or .bin files in the same folder", printable(name)) }
      return folder.appendingPathComponent(name)
    }
  }
}
