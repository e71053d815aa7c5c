public import Foundation
public import Torch

/// The weights of a model: one safetensors file, or a folder with `model.safetensors` or a sharded index.
public final class Checkpoint: Sendable {
  private let files: [SafetensorsFile]
  private let fileOfName: [String: Int]
  /// The file or folder that was asked for.
  public let url: URL
  /// The names of all tensors.
  public let names: [String]

  /// Opens a file or a folder in Hugging Face layout.
  ///
  /// - Throws: ``CheckpointError`` for missing shards, names in no or two shards, and shard paths that leave the folder.
  public init(contentsOf url: URL) throws {
    self.url = url
    var isFolder: ObjCBool = false
    guard FileManager.default.fileExists(atPath: url.path, isDirectory: &isFolder) else {
      throw CheckpointError.notFound(file: url.path, expected: "a safetensors file or a model folder")
    }
    let index = url.appendingPathComponent("model.safetensors.index.json")
    if !isFolder.boolValue {
      files = [try SafetensorsFile(contentsOf: url)]
    } else if FileManager.default.fileExists(atPath: index.path) {
      files = try Self.shards(index).map(SafetensorsFile.init(contentsOf:))
    } else {
      let single = url.appendingPathComponent("model.safetensors")
      guard FileManager.default.fileExists(atPath: single.path) else {
        throw CheckpointError.notFound(
          file: url.path, expected: "model.safetensors or model.safetensors.index.json in the folder")
      }
      files = [try SafetensorsFile(contentsOf: single)]
    }
    var fileOfName: [String: Int] = [:]
    for (number, file) in files.enumerated() {
      for name in file.names {
        guard fileOfName.updateValue(number, forKey: name) == nil else {
          throw CheckpointError.malformed(
            file: file.url.path, expected: "each tensor in one shard", found: "\(name) in two")
        }
      }
    }
    if files.count > 1 || isFolder.boolValue, FileManager.default.fileExists(atPath: index.path) {
      for name in try Self.weightMap(index).keys where fileOfName[name] == nil {
        throw CheckpointError.malformed(file: index.path, expected: "\(name) in its shard", found: "no such tensor")
      }
    }
    self.fileOfName = fileOfName
    names = files.flatMap(\.names)
  }

  private static func weightMap(_ index: URL) throws -> [String: String] {
    struct Index: Decodable {
      let weightMap: [String: String]
      enum CodingKeys: String, CodingKey { case weightMap = "weight_map" }
    }
    // Links are followed: model folders may hold links into a cache.
    let attributes = try FileManager.default.attributesOfItem(atPath: index.resolvingSymlinksInPath().path)
    // Reading a pipe would wait for ever.
    guard attributes[.type] as? FileAttributeType == .typeRegular, let size = attributes[.size] as? Int,
      size < 200_000_000
    else {
      throw CheckpointError.malformed(
        file: index.path, expected: "a regular file below 200 MB", found: "a larger file, a folder or a device")
    }
    do {
      return try JSONDecoder().decode(Index.self, from: Data(contentsOf: index)).weightMap
    } catch {
      throw CheckpointError.malformed(file: index.path, expected: "JSON with weight_map", found: "something else")
    }
  }

  private static func shards(_ index: URL) throws -> [URL] {
    let folder = index.deletingLastPathComponent()
    return try Set(weightMap(index).values).sorted().map { name in
      guard !name.contains("/"), !name.contains("\0"), name.hasSuffix(".safetensors") else {
        throw CheckpointError.malformed(
          file: index.path, expected: "names of safetensors files in the same folder", found: name)
      }
      return folder.appendingPathComponent(name)
    }
  }

  private func file(_ name: String) -> SafetensorsFile? { fileOfName[name].map { files[$0] } }

  /// The shape of a tensor, or nil when there is none of this name.
  public func shape(_ name: String) -> [Int]? { file(name)?.shape(name) }

  /// The element type of a tensor, or nil when there is none of this name.
  public func dtype(_ name: String) -> DType? { file(name)?.dtype(name) }

  /// The metadata of all files together.
  public var metadata: [String: String] { files.reduce(into: [:]) { $0.merge($1.metadata) { first, _ in first } } }

  /// A tensor in the type it has in the file, on the file's own memory (copy-on-write).
  ///
  /// - Throws: ``CheckpointError/noSuchTensor(file:name:)``.
  public func tensor(_ name: String) throws -> Tensor {
    guard let file = file(name) else { throw CheckpointError.noSuchTensor(file: url.path, name: name) }
    return try file.tensor(name)
  }
}
