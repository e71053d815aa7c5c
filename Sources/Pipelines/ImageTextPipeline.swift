public import Checkpoints
import Foundation
public import Media
public import QFormer
public import Torch

/// Images and texts in, scores out.
public final class ImageTextPipeline: Sendable {
  /// How well an image and a text fit.
  public struct Score: Sendable, Equatable, Codable {
    /// The cosine between the text and the queries, −1 … 1, without temperature: the largest over the queries, or as the
    /// heads are configured.
    public let itc: Double?
    /// The probability that they match, 0 … 1.
    public let itm: Double?
  }

  /// Which scores are computed.
  public enum Head: String, Sendable, CaseIterable {
    /// Contrastive: one pass over each image and each text.
    case itc
    /// Matching: one pass over each pair.
    case itm
    /// Both.
    case both
  }

  /// The adapter.
  public let adapter: ImageTextQFormer
  /// The image encoder.
  public let encoder: ImageEncoder
  /// The text side.
  public let texts: TextEncoder
  /// What became of the keys of the model's own file.
  public let report: LoadReport

  /// The text model's word table, which the adapter's file does not repeat.
  public static let wordTable = "embeddings.word_embeddings.weight"

  /// Loads an adapter folder with the frozen models that its configuration names, or a published model.
  ///
  /// - Parameters:
  ///   - model: A name such as `image-match`, or a folder.
  ///   - store: Where models lie.
  ///   - allowMissing: Patterns (`*` stands for anything) of keys that the model's own file may lack; they are initialised
  ///     afresh, and ``report`` names them.
  /// - Throws: ``PipelineError`` when something is not there or is of another kind, `CheckpointError` when weights do
  ///   not fit.
  public init(
    _ model: String = "image-match", store: ModelStore = ModelStore(), allowMissing: [String] = []
  ) throws {
    let folder = try store.adapter(model)
    let contents = try ModelFolder(folder)
    guard contents.comparesTexts else {
      throw PipelineError.wrongModel(
        folder: folder.path, expected: "a model that compares images with texts", found: contents.words)
    }
    switch contents {
    case .blip:
      let published = try BLIPModel(folder: folder, allowMissing: allowMissing)
      guard let adapter = published.text, let texts = published.texts else {
        throw PipelineError.badConfiguration(file: folder.path, reason: "names no matching heads")
      }
      (encoder, self.adapter, self.texts, report) = (published.encoder, adapter, texts, published.report)
    case .adapter(let configuration):
      (encoder, adapter, texts, report) = try Self.load(
        configuration, folder: folder, store: store, allowMissing: allowMissing)
    }
    guard encoder.width == adapter.configuration.qformer.encoderHiddenSize else {
      throw PipelineError.badConfiguration(
        file: folder.path,
        reason: "the adapter reads width \(adapter.configuration.qformer.encoderHiddenSize), but the encoder gives "
          + "\(encoder.width)")
    }
  }

  private static func load(
    _ configuration: AdapterConfiguration, folder: URL, store: ModelStore, allowMissing: [String]
  ) throws -> (ImageEncoder, ImageTextQFormer, TextEncoder, LoadReport) {
    guard let sizes = configuration.imageText, let text = configuration.text else {
      throw PipelineError.badConfiguration(file: folder.path, reason: "lacks the sizes of its Q-Former")
    }
    let texts = try TextEncoder(text, positions: sizes.qformer.maxPositions, folder: folder, store: store)
    let encoder = try ImageEncoder(configuration.encoder, store: store)
    let textFolder = try store.frozenModel(text.model)
    // Files for comparing alone drop the temperature; nothing that is computed here depends on it.
    let optional = sizes.objectives.hasGenerationHead ? [] : ["temp"]
    let (adapter, report) = try loadModel(
      from: Checkpoint(contentsOf: folder), bases: [BaseCheckpoint(Checkpoint(contentsOf: textFolder))],
      allowMissing: optional + allowMissing
    ) { try ImageTextQFormer(sizes, $0) }
    return (encoder, adapter, texts, report)
  }

  /// Scores every image with every text.
  ///
  /// - Returns: For each image a list of scores in the order of the texts.
  /// - Throws: `MediaError`, `TorchError`; ``PipelineError/badInput(_:)`` for a tokenizer of another model.
  public func scores(_ images: [Image], texts: [String], head: Head = .both) throws -> [[Score]] {
    guard !images.isEmpty, !texts.isEmpty else { return images.map { _ in [] } }
    return try scores(features: encoder.features(images), texts: texts, head: head)
  }

  /// Scores encoder features `[B, N, Dv]` with every text.
  ///
  /// - Throws: `QFormerError`, `TorchError`; ``PipelineError/badInput(_:)`` for a tokenizer of another model.
  public func scores(features: Tensor, texts: [String], head: Head = .both) throws -> [[Score]] {
    guard !texts.isEmpty else { return (0..<features.size(0)).map { _ in [] } }
    try self.texts.requireWords(texts, count: adapter.configuration.qformer.vocabularySize, of: report.file)
    return try withError {
      try withNoGrad {
        try adapter.heads.scores(
          adapter.qformer, adapter.qformer.imageKeyValues(adapter.imageEmbeds(features)), batch: features.size(0),
          self.texts.batch(texts), head: head)
      }
    }
  }
}
