import Checkpoints
public import Foundation

/// What can be wrong before a model runs.
public enum PipelineError: Error, Sendable, Equatable, CustomStringConvertible, LocalizedError {
  /// A model that has a name here but lies in no folder that was searched.
  case notFetched(model: String, searched: [String], command: String)
  /// Neither a folder nor a name that is known.
  case unknownModel(String, known: [String])
  /// A folder whose configuration is for something else.
  case wrongModel(folder: String, expected: String, found: String)
  /// A configuration that cannot be read.
  case badConfiguration(file: String, reason: String)
  /// Input that the model cannot take.
  case badInput(String)

  /// One line.
  public var description: String {
    switch self {
    case .notFetched(let model, let searched, let command):
      "the model \(model) has not been fetched: looked in \(searched.joined(separator: ", ")); run \(command)"
    case .unknownModel(let name, let known):
      "\(name): neither a model folder nor one of \(known.joined(separator: ", "))"
    case .wrongModel(let folder, let expected, let found): "\(folder): expected \(expected), found \(found)"
    case .badConfiguration(let file, let reason): "\(file): \(reason)"
    case .badInput(let words): words
    }
  }

  /// The same words as ``description``.
  public var errorDescription: String? { description }
}

/// Where models lie on this machine.
///
/// Frozen models are fetched into the cache, `$QFORMER_CACHE` or `~/.cache/swift-qformer`. Adapters trained with this
/// package lie in its folder `Models`, which is found beside the program or through `$QFORMER_MODELS`.
public struct ModelStore: Sendable {
  /// The frozen models that `scripts/fetch-models` fetches.
  public static let frozen = ["dinov2-small-focus", "minilm-l6", "smollm2-135m-instruct", "whisper-tiny-en"]
  /// The adapters that come with the package.
  public static let adapters = ["image-match", "image-caption"]

  /// The cache folder.
  public let cache: URL
  /// Folders of adapters, searched in order.
  public let adapterFolders: [URL]

  /// The folders that the environment names, or the usual ones.
  public init(environment: [String: String] = ProcessInfo.processInfo.environment) {
    cache =
      environment["QFORMER_CACHE"].map { URL(fileURLWithPath: $0) }
      ?? FileManager.default.homeDirectoryForCurrentUser.appendingPathComponent(".cache/swift-qformer")
    if let folder = environment["QFORMER_MODELS"] {
      adapterFolders = [URL(fileURLWithPath: folder)]
    } else {
      // Upwards from the program (…/.build/release/qformer, …/bin/qformer), then from the current folder.
      let program = (Bundle.main.executableURL ?? URL(fileURLWithPath: CommandLine.arguments.first ?? "."))
        .resolvingSymlinksInPath().deletingLastPathComponent()
      let starts = [program, URL(fileURLWithPath: FileManager.default.currentDirectoryPath)]
      adapterFolders = starts.flatMap { start in
        sequence(first: start) { $0.path == "/" ? nil : $0.deletingLastPathComponent() }.prefix(6).flatMap {
          [$0.appendingPathComponent("Models"), $0.appendingPathComponent("share/swift-qformer/Models")]
        }
      }
    }
  }

  /// The folder of a frozen model, by its name or as a path.
  ///
  /// - Throws: ``PipelineError/notFetched(model:searched:command:)``, ``PipelineError/unknownModel(_:known:)``.
  public func frozenModel(_ name: String) throws -> URL {
    if let folder = Self.folder(at: name) { return folder }
    let folder = cache.appendingPathComponent("models/\(name)")
    if !name.contains("/"), Self.folder(at: folder.path) != nil { return folder }
    guard Self.frozen.contains(name) else { throw PipelineError.unknownModel(name, known: Self.frozen) }
    throw PipelineError.notFetched(
      model: name, searched: [cache.appendingPathComponent("models").path], command: "scripts/fetch-models")
  }

  /// The folder of an adapter, by its name or as a path.
  ///
  /// - Throws: as ``frozenModel(_:)``.
  public func adapter(_ name: String) throws -> URL {
    if name.contains("/") || !Self.adapters.contains(name), let folder = Self.folder(at: name) { return folder }
    for parent in adapterFolders {
      let folder = parent.appendingPathComponent(name)
      if !name.contains("/"), Self.folder(at: folder.path) != nil { return folder }
    }
    if !Self.adapters.contains(name), let kind = Self.fileKind(name) {
      throw PipelineError.wrongModel(
        folder: name, expected: "a model folder; qformer convert makes one of LAVIS' files", found: kind)
    }
    guard Self.adapters.contains(name) else { throw PipelineError.unknownModel(name, known: Self.adapters) }
    throw PipelineError.notFetched(
      model: name, searched: ["Models beside the program and above the current folder"],
      command: "the program from its package, or set QFORMER_MODELS")
  }

  /// What the file of a path seems to be, or nil when there is no file.
  private static func fileKind(_ path: String) -> String? {
    var isFolder: ObjCBool = false
    guard FileManager.default.fileExists(atPath: path, isDirectory: &isFolder), !isFolder.boolValue else { return nil }
    return (try? Checkpoint(contentsOf: URL(fileURLWithPath: path)))?.apparentKind ?? "a file"
  }

  private static func folder(at path: String) -> URL? {
    let url = URL(fileURLWithPath: path)
    return FileManager.default.fileExists(atPath: url.appendingPathComponent("config.json").path) ? url : nil
  }
}
