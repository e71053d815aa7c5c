public import Foundation
public import Torch

/// The weights of a model, wherever they lie: one file, the shards of a folder, or several sources as one.
///
/// | given | read |
/// |---|---|
/// | `x.safetensors` | that file |
/// | `x.pth`, `.pt`, `.bin`, `.ckpt`, `.th` | that file, as ``PyTorchFile`` says |
/// | `x.index.json` | the shards that it names, beside it |
/// | a folder | `model.safetensors.index.json`, `model.safetensors`, `pytorch_model.bin.index.json`, `pytorch_model.bin`: the first that there is |
public final class Checkpoint: Sendable {
  /// How names that two sources have are dealt with.
  public enum Precedence: Sendable, Equatable {
    /// The earlier source is taken where both have the same shape; another shape is an error.
    case sameShapes
    /// The earlier source is taken.
    case first
  }

  private let sources: [any TensorSource]
  private let sourceOfName: [String: Int]
  /// The file or folder that was asked for; of several sources the first.
  public let url: URL
  /// The names of all tensors.
  public let names: [String]

  init(url: URL, _ sources: [any TensorSource], _ sourceOfName: [String: Int], names: [String]) {
    self.url = url
    self.sources = sources
    self.sourceOfName = sourceOfName
    self.names = names
  }

  /// Opens a file or a folder.
  ///
  /// - Parameters:
  ///   - url: What to open: see the table above.
  ///   - section: For PyTorch's files: the entry of the outermost dictionary that holds the tensors.
  ///   - inertClasses: For PyTorch's files: classes whose objects are read as nothing instead of being refused.
  /// - Throws: ``CheckpointError`` for missing shards, names in no, two or other shards than the index says, and shard
  ///   paths that leave the folder.
  public convenience init(contentsOf url: URL, section: String? = nil, inertClasses: Set<String> = []) throws {
    var isFolder: ObjCBool = false
    guard FileManager.default.fileExists(atPath: url.path, isDirectory: &isFolder) else {
      throw CheckpointError.notFound(file: url.path, expected: "a file of weights or a model folder")
    }
    func open(_ file: URL) throws -> any TensorSource {
      try Self.file(file, section: section, inertClasses: inertClasses)
    }
    func exists(_ name: String) -> URL? {
      let file = url.appendingPathComponent(name)
      return FileManager.default.fileExists(atPath: file.path) ? file : nil
    }
    if isFolder.boolValue {
      if let index = exists("model.safetensors.index.json") {
        try self.init(shards: index, of: url, open)
      } else if let single = exists("model.safetensors") {
        try self.init(url: url, [open(single)])
      } else if let index = exists("pytorch_model.bin.index.json") {
        try self.init(shards: index, of: url, open)
      } else if let single = exists("pytorch_model.bin") {
        try self.init(url: url, [open(single)])
      } else {
        throw CheckpointError.notFound(
          file: url.path,
          expected: "model.safetensors or model.safetensors.index.json in the folder, or pytorch_model.bin with or "
            + "without its index")
      }
    } else if url.pathExtension == "json" {
      try self.init(shards: url, of: url, open)
    } else {
      try self.init(url: url, [open(url)])
    }
  }

  /// Suffixes of files that `torch.save` writes.
  private static let pytorchSuffixes: Set<String> = ["pth", "pt", "bin", "ckpt", "th"]

  private static func file(_ url: URL, section: String?, inertClasses: Set<String>) throws -> any TensorSource {
    pytorchSuffixes.contains(url.pathExtension.lowercased())
      ? try PyTorchFile(contentsOf: url, section: section, inertClasses: inertClasses)
      : try SafetensorsFile(contentsOf: url)
  }

  /// The shards that an index names.
  private convenience init(shards index: URL, of url: URL, _ open: (URL) throws -> any TensorSource) throws {
    let table = try ShardIndex(contentsOf: index)
    let sources = try table.files.map(open)
    try self.init(url: url, sources)
    for (name, file) in table.fileOfName.sorted(by: { $0.key < $1.key }) {
      guard let source = sourceOfName[name] else {
        throw CheckpointError.malformed(
          file: index.path, expected: "\(printable(name)) in its shard", found: "no such tensor")
      }
      guard table.files[source].lastPathComponent == file else {
        throw CheckpointError.malformed(
          file: index.path, expected: "\(printable(name)) in \(file)",
          found: "it in \(table.files[source].lastPathComponent)")
      }
    }
  }

  /// Sources of which no two have a name in common.
  private convenience init(url: URL, _ sources: [any TensorSource]) throws {
    var sourceOfName: [String: Int] = [:]
    for (number, source) in sources.enumerated() {
      for name in source.names {
        guard sourceOfName.updateValue(number, forKey: name) == nil else {
          throw CheckpointError.malformed(
            file: source.url.path, expected: "each tensor in one shard", found: "\(printable(name)) in two")
        }
      }
    }
    self.init(url: url, sources, sourceOfName, names: sources.flatMap(\.names))
  }

  /// Several checkpoints as one, each under the names that its key map gives.
  ///
  /// - Parameters:
  ///   - sources: Those whose tensors are preferred first.
  ///   - precedence: What to do with a name that two of them have.
  /// - Throws: ``CheckpointError/malformed(file:expected:found:)`` for a name that two sources have with different shapes
  ///   unless the earlier one is preferred by `precedence`, and what ``renamed(by:)`` throws.
  public convenience init(merging sources: [BaseCheckpoint], precedence: Precedence = .sameShapes) throws {
    guard let first = sources.first else { throw CheckpointError.notFound(file: "", expected: "a source of weights") }
    let views = try sources.map { try $0.checkpoint.renamed(by: $0.keyMap) }
    var sourceOfName: [String: Int] = [:]
    var names: [String] = []
    for (number, view) in views.enumerated() {
      for name in view.names where sources[number].provides(name) {
        guard let earlier = sourceOfName[name] else {
          sourceOfName[name] = number
          names.append(name)
          continue
        }
        let (expected, found) = (views[earlier].shape(name) ?? [], view.shape(name) ?? [])
        guard precedence == .first || expected == found else {
          throw CheckpointError.malformed(
            file: view.url.path, expected: "\(printable(name)) of shape \(expected) as in \(views[earlier].url.path)",
            found: "\(found)")
        }
      }
    }
    self.init(url: first.checkpoint.url, views, sourceOfName, names: names)
  }

  private func source(_ name: String) -> (any TensorSource)? { sourceOfName[name].map { sources[$0] } }

  /// The shape of a tensor, or nil when there is none of this name.
  public func shape(_ name: String) -> [Int]? { source(name)?.shape(name) }

  /// The element type of a tensor, or nil when there is none of this name.
  public func dtype(_ name: String) -> DType? { source(name)?.dtype(name) }

  /// The metadata of all files together.
  public var metadata: [String: String] { sources.reduce(into: [:]) { $0.merge($1.metadata) { first, _ in first } } }

  /// The file that a tensor lies in, or nil when there is none of this name.
  public func file(of name: String) -> URL? {
    guard let source = source(name) else { return nil }
    return (source as? Checkpoint)?.file(of: name) ?? source.url
  }

  /// A tensor in the type it has in the file, on the file's own memory (copy-on-write) where it lies there in order and
  /// aligned.
  ///
  /// - Throws: ``CheckpointError/noSuchTensor(file:name:)``.
  public func tensor(_ name: String) throws -> Tensor {
    guard let source = source(name) else { throw CheckpointError.noSuchTensor(file: url.path, name: name) }
    return try source.tensor(name)
  }

  /// A tensor converted to another type while it is read, so that no more memory than the result's is used.
  ///
  /// - Throws: ``CheckpointError/noSuchTensor(file:name:)``.
  public func tensor(_ name: String, as dtype: DType) throws -> Tensor {
    guard let source = source(name) else { throw CheckpointError.noSuchTensor(file: url.path, name: name) }
    return try source.tensor(name, as: dtype)
  }

  func forEachPiece(_ name: String, _ body: (UnsafeRawBufferPointer) throws -> Void) throws {
    guard let source = source(name) else { throw CheckpointError.noSuchTensor(file: url.path, name: name) }
    try source.forEachPiece(name, body)
  }
}

extension Checkpoint: TensorSource {}

/// A checkpoint that stands in for what another lacks, or one of several that make up a model.
public struct BaseCheckpoint: Sendable {
  /// The weights.
  public let checkpoint: Checkpoint
  /// From the model's names to the file's.
  public let keyMap: KeyMap
  /// Patterns of the model's names that are taken from here; nil for all.
  public let providing: [String]?

  /// Names a checkpoint to look into for what the first one lacks; what it has beyond that is no matter.
  ///
  /// - Parameters:
  ///   - checkpoint: The weights.
  ///   - keyMap: From the model's names to the file's.
  ///   - providing: Patterns (`*` stands for anything) of the model's names that are taken from here; nil for all.
  public init(_ checkpoint: Checkpoint, keyMap: KeyMap = .identity, providing: [String]? = nil) {
    self.checkpoint = checkpoint
    self.keyMap = keyMap
    self.providing = providing
  }

  func provides(_ name: String) -> Bool { providing?.contains { matches(name, pattern: $0) } ?? true }
}
