import Checkpoints
public import Foundation
public import Pipelines
import QFormer
import TorchNN

/// A video adapter made of an image adapter, before any training.
///
/// A spatio-temporal one then reads the mean of a clip's frames as its source reads an image. A cascade has the image
/// adapter's frame Q-Former and projection; its second Q-Former comes from the text model and has to be trained.
///
/// Attentive pooling gets as many heads, up to those that are asked for, as divide the encoder's width.
public struct AdapterExpansion {
  /// Choices of the new adapter; what is left out is as a recipe leaves it.
  public var video = Recipe.Video()
  /// Of noise and of what the source does not have.
  public var seed: UInt64 = 1

  /// The defaults of a recipe: eight frames.
  public init(_ family: Recipe.Video.Family) { video.family = family }

  /// What was written.
  public struct Report: Sendable {
    /// The source.
    public let source: String
    /// The folder.
    public let destination: String
    /// The kind of adapter.
    public let kind: AdapterConfiguration.Kind
    /// Tensors that are the source's, copied or multiplied.
    public let inherited: Int
    /// Names of those that are new.
    public let fresh: [String]
  }

  /// Writes a video adapter under a temporary name and renames it when it is complete.
  ///
  /// - Parameters:
  ///   - source: The folder of an image adapter, or what `ModelConversion` makes one of: a folder or file of BLIP-2. Frozen
  ///     models inside it are copied.
  ///   - folder: The destination; it must not exist, or be empty.
  ///   - bases: Where to look for what a published source lacks.
  ///   - store: Where models lie.
  /// - Throws: ``TrainingError/badRecipe(file:reason:)`` for a source that is no image adapter; `PipelineError`,
  ///   `CheckpointError`, `QFormerError`.
  @discardableResult
  public func write(
    _ source: URL, to folder: URL, bases: [URL] = [], store: ModelStore = ModelStore()
  ) throws -> Report {
    var isFolder: ObjCBool = false
    guard FileManager.default.fileExists(atPath: source.path, isDirectory: &isFolder) else {
      throw CheckpointError.notFound(file: source.path, expected: "an image adapter, or a folder or file of BLIP-2")
    }
    var isAdapter = false
    if isFolder.boolValue, case .adapter = try ModelFolder(source) { isAdapter = true }
    return try AtomicFolder.write(to: folder) { temporary in
      var adapter = source
      if !isAdapter {
        adapter = temporary.appendingPathComponent("image")
        try ModelConversion(source, bases: bases, store: store).write(.qformer, to: adapter)
      }
      let report = try expand(adapter, named: source.path, to: temporary, destination: folder, store: store)
      if !isAdapter { try FileManager.default.removeItem(at: adapter) }
      return report
    }
  }

  private func expand(
    _ source: URL, named name: String, to temporary: URL, destination: URL, store: ModelStore
  ) throws -> Report {
    let adapter = try AdapterConfiguration(folder: source)
    guard let sizes = adapter.imageText?.qformer ?? adapter.imageLanguage?.qformer else {
      throw TrainingError.badRecipe(file: name, reason: "is \(adapter.kind.rawValue), expected an adapter of images")
    }
    let start = try AdapterStart.make(
      recipe(adapter, sizes, source), store: store, encoderWidth: sizes.encoderHiddenSize,
      languageSize: adapter.imageLanguage?.languageSize)
    // Frozen models that lie in the source are named from there on: they come along.
    var configuration = start.configuration
    try Self.bring(&configuration.encoder.model, from: source, to: temporary)
    if var text = configuration.text {
      try Self.bring(&text.model, from: source, to: temporary)
      configuration.text = text
    }
    if var language = configuration.language {
      try Self.bring(&language.model, from: source, to: temporary)
      configuration.language = language
    }
    let own = start.parameters.all.filter { !AdapterStart.wordTables.contains($0.name) }
    try AdapterFolder.write(configuration, own, to: temporary)
    let fresh = own.map(\.name).filter { !start.inherited.contains($0) }
    return Report(
      source: name, destination: destination.path, kind: configuration.kind, inherited: own.count - fresh.count,
      fresh: fresh)
  }

  /// A recipe that starts from the adapter and keeps its frozen models.
  private func recipe(_ adapter: AdapterConfiguration, _ sizes: QFormerConfiguration, _ folder: URL) -> Recipe {
    var recipe = Recipe()
    recipe.objective = adapter.imageText == nil ? .videoLanguage : .videoText
    (recipe.seed, recipe.video, recipe.encoder) = (seed, video, adapter.encoder)
    recipe.adapter.start = folder.path
    if let text = adapter.text { recipe.text = text }
    if let language = adapter.language { recipe.language = language }
    recipe.adapter.positions = sizes.maxPositions
    (recipe.adapter.hiddenDropout, recipe.adapter.attentionDropout) = (sizes.hiddenDropout, sizes.attentionDropout)
    // Widths are not always multiples of 16.
    let most = recipe.video.spatioTemporal.poolingHeads
    recipe.video.spatioTemporal.poolingHeads =
      (1...max(1, most)).last { sizes.encoderHiddenSize.isMultiple(of: $0) } ?? 1
    return recipe
  }

  /// Copies a frozen model that lies inside the source, and names it from the new folder on.
  private static func bring(_ model: inout String, from source: URL, to folder: URL) throws {
    let start = source.path + "/"
    guard model.hasPrefix(start) else { return }
    let name = String(model.dropFirst(start.count))
    let destination = folder.appendingPathComponent(name)
    if !FileManager.default.fileExists(atPath: destination.path) {
      do {
        try FileManager.default.createDirectory(
          at: destination.deletingLastPathComponent(), withIntermediateDirectories: true)
        try FileManager.default.copyItem(at: URL(fileURLWithPath: model), to: destination)
      } catch {
        throw CheckpointError.cannotWrite(file: destination.path, reason: error.localizedDescription)
      }
    }
    model = "./\(name)"
  }
}
