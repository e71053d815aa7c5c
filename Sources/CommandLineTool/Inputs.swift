import ArgumentParser
import Foundation
import Media
import Pipelines
import QFormer

/// Files named on the command line; `-` reads a list of paths from standard input.
struct Inputs {
  let paths: [String]
  private var failures: [any Error] = []

  /// - Throws: A usage error when nothing is named.
  init(_ arguments: [String]) throws {
    paths = arguments.flatMap { argument -> [String] in
      guard argument == "-" else { return [argument] }
      return sequence(state: (), next: { _ in readLine() }).filter { !$0.isEmpty }
    }
    if paths.isEmpty { throw ValidationError("expected at least one input") }
  }

  /// No inputs at all.
  static let none = Inputs(paths: [])

  private init(paths: [String]) { self.paths = paths }

  /// Those that are videos, and all others, among them what cannot be opened.
  func videosApart() -> (videos: Inputs, others: Inputs) {
    func isVideo(_ path: String) -> Bool {
      if case .video = try? VisualFile(contentsOf: URL(fileURLWithPath: path)) { true } else { false }
    }
    let kinds = paths.map { (path: $0, isVideo: isVideo($0)) }
    return (
      Inputs(paths: kinds.filter(\.isVideo).map(\.path)), Inputs(paths: kinds.filter { !$0.isVideo }.map(\.path))
    )
  }

  /// These inputs, and then others, with what became of both.
  func joined(_ others: Inputs) -> Inputs {
    var all = Inputs(paths: paths + others.paths)
    all.failures = failures + others.failures
    return all
  }

  /// Decodes all pictures, in groups, and hands them on. One that cannot be decoded is reported and does not stop the
  /// others.
  ///
  /// - Parameter model: What the model is, for errors about videos.
  mutating func forEach(
    batch size: Int, for model: ModelFolder, _ body: ([(path: String, image: Image)]) throws -> Void
  ) throws {
    var group: [(path: String, image: Image)] = []
    for path in paths {
      if let image = attempt(path, { try Self.picture(path, for: model) }) { group.append((path, image)) }
      if group.count == size {
        try body(group)
        group = []
      }
    }
    if !group.isEmpty { try body(group) }
  }

  /// Opens all files, reads them as clips, and hands on what they are made into, in groups. One that fails is reported and
  /// does not stop the others.
  ///
  /// - Parameters:
  ///   - size: The number of clips in a group.
  ///   - load: Loads the model, once the first file is there to be read.
  ///   - read: Makes something of a clip.
  ///   - body: Takes a group.
  mutating func forEachClip<Model, Item>(
    batch size: Int, load: () throws -> Model,
    read: (_ model: Model, _ path: String, _ file: VisualFile) throws -> Item,
    _ body: (_ model: Model, [(path: String, item: Item)]) throws -> Void
  ) throws {
    try forEachFile(batch: size, open: { try VisualFile(contentsOf: $0) }, load: load, read: read, body)
  }

  /// The same for files of another kind.
  ///
  /// - Parameter open: Opens a file.
  mutating func forEachFile<File, Model, Item>(
    batch size: Int, open: (URL) throws -> File, load: () throws -> Model,
    read: (_ model: Model, _ path: String, _ file: File) throws -> Item,
    _ body: (_ model: Model, [(path: String, item: Item)]) throws -> Void
  ) throws {
    var loaded: Model?
    var group: [(path: String, item: Item)] = []
    for path in paths {
      guard let file = attempt(path, { try open(URL(fileURLWithPath: path)) }) else { continue }
      let model = try loaded ?? load()
      loaded = model
      if let item = attempt(path, { try read(model, path, file) }) { group.append((path, item)) }
      if group.count == size {
        try body(model, group)
        group = []
      }
    }
    if let loaded, !group.isEmpty { try body(loaded, group) }
  }

  /// Throws when some input failed: its own error when it was the only one, else how many.
  func finish() throws {
    guard let first = failures.first else { return }
    throw paths.count == 1 ? first : CommandError.someInputsFailed(failures.count, of: paths.count)
  }

  /// What an input is made into; nil, and reported, when that fails.
  private mutating func attempt<Value>(_ path: String, _ body: () throws -> Value) -> Value? {
    do {
      return try body()
    } catch {
      // A Q-Former does not know which file its frames come from.
      let error = (error as? QFormerError).map { PipelineError.badInput("\(path): \($0)") } ?? error
      failures.append(error)
      if paths.count > 1 { Failure.report(error) }
      return nil
    }
  }

  /// A picture; for a video the error says which models read it.
  private static func picture(_ path: String, for model: ModelFolder) throws -> Image {
    let file = URL(fileURLWithPath: path)
    do {
      return try Image(contentsOf: file)
    } catch let error as MediaError {
      guard case .unsupportedOrCorrupt = error, case .video = try? VisualFile(contentsOf: file) else { throw error }
      throw model.readsNoVideo(path)
    }
  }
}

extension ModelFolder {
  /// The error for a video that is given to a model of pictures.
  func readsNoVideo(_ name: String) -> PipelineError {
    .badInput("\(name): expected a picture for \(self.name), found a video; models that read one: \(Self.videoKinds)")
  }
}
