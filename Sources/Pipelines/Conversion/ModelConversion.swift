public import Checkpoints
public import Foundation
import Torch

/// A model read from one layout of files, ready to be written in another.
///
/// ```swift
/// let model = try ModelConversion(stage2File, bases: [evaFile, optFolder])
/// print(try model.write(.huggingFace, to: folder).summary)
/// ```
///
/// | source | what it holds |
/// |---|---|
/// | LAVIS' `.pth` | what was trained; the frozen towers and tokenizers come from the bases |
/// | a Hugging Face folder | BLIP-2, InstructBLIP, their matching and video models |
/// | an adapter folder of this package | the adapter, on a vision tower of BLIP-2; the frozen models it names |
///
/// Nothing is computed: every tensor keeps its type and every bit, and is copied a piece at a time.
public struct ModelConversion {
  /// What can be written.
  public enum Layout: String, Sendable, CaseIterable {
    /// A folder that transformers loads strictly. It has no place for the temperature and the Q-Former's
    /// language-model head.
    case huggingFace = "huggingface"
    /// An adapter folder of this package with the frozen models in folders of their own inside it.
    case qformer
  }

  private let model: ConvertibleModel

  /// Reads what SOURCE is and compares its keys with those of the model; no weight is read yet.
  ///
  /// - Parameters:
  ///   - source: A `.pth` file of LAVIS or a model folder.
  ///   - bases: Where to look, in order, for frozen towers, sizes and tokenizers that the source lacks: `eva_vit_g.pth`,
  ///     folders of language models, of tokenizers, of published models.
  ///   - allowMissing: Patterns (`*` stands for anything) of keys in the model's names that may be missing: they are left
  ///     out of what is written. `tokenizer` and `qformer_tokenizer` stand for those folders.
  ///   - store: Where the frozen models of adapters lie.
  /// - Throws: `CheckpointError.mismatch` with every key that is missing, unused or of another shape;
  ///   ``PipelineError/wrongModel(folder:expected:found:)`` for files of another kind; what reading files throws.
  public init(
    _ source: URL, bases: [URL] = [], allowMissing: [String] = [], store: ModelStore = ModelStore()
  ) throws {
    let bases = try bases.flatMap { try ConversionBase.read($0, store: store) }
    model = try ConvertibleModel(
      ConversionSource.read(source, bases: bases, store: store), allowMissing: allowMissing)
  }

  /// What is converted, in the terms of a published model.
  public var configuration: BLIPConfiguration { model.configuration }

  /// What became of the keys of the source.
  public var loadReport: LoadReport { model.report }

  /// Writes the model under a temporary name and renames it when it is complete.
  ///
  /// - Parameters:
  ///   - layout: What to write.
  ///   - folder: The destination; it must not exist, or be empty.
  ///   - shardSize: The largest size in bytes of a file of weights.
  /// - Throws: `CheckpointError.cannotWrite`; ``PipelineError/badInput(_:)`` for what the layout cannot hold.
  @discardableResult
  public func write(
    _ layout: Layout, to folder: URL, shardSize: Int = Checkpoint.shardSize
  ) throws -> ConversionReport {
    try AtomicFolder.write(to: folder) { temporary in
      let leftOut =
        switch layout {
        case .huggingFace: try PublishedLayout(model, shardSize: shardSize).write(to: temporary)
        case .qformer: try AdapterLayout(model, shardSize: shardSize).write(to: temporary)
        }
      let written = model.names.filter { !leftOut.contains($0) }
      return ConversionReport(
        destination: folder.path, layout: layout, architecture: model.configuration.architecture, load: model.report,
        parts: ConversionReport.parts(written, model.weights), leftOut: leftOut, files: try files(below: temporary))
    }
  }

  /// Relative paths of all files, sorted.
  private func files(below folder: URL) throws -> [String] {
    try FileManager.default.subpathsOfDirectory(atPath: folder.path).filter { path in
      var isFolder: ObjCBool = false
      _ = FileManager.default.fileExists(
        atPath: folder.appendingPathComponent(path).path, isDirectory: &isFolder)
      return !isFolder.boolValue
    }.sorted()
  }
}
