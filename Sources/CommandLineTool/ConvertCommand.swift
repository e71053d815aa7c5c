import ArgumentParser
import Checkpoints
import Foundation
import Pipelines
import QFormer
import Training

/// `qformer convert SOURCE DESTINATION`
struct ConvertCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "convert", abstract: "Write a model in another layout of files.",
    discussion: """
      SOURCE is a .pth of LAVIS, a Hugging Face folder or an adapter folder. LAVIS' files hold what was trained: --base
      names eva_vit_g.pth, the language model's folder, folders of tokenizers, or a published folder that has them all.
      Tensors keep their type and every bit.

      --to spatio-temporal or cascaded makes a video adapter of an image adapter, or of BLIP-2. Before any training a
      spatio-temporal one reads the mean of a clip's frames as its source reads an image; a cascade's second Q-Former
      comes from a text model and has to be trained.

      EXAMPLES:
        qformer convert blip2_pretrained_opt2.7b.pth blip2-opt --base eva_vit_g.pth --base opt-2.7b
        qformer convert blip2_pretrained.pth stage1 --to qformer --base eva_vit_g.pth --base bert-base-uncased
        qformer convert runs/my-adapter/adapter my-blip2 --to huggingface
        qformer convert image-caption --to spatio-temporal --output my-video-adapter
      """)

  /// What can be written.
  enum Target: String, ExpressibleByArgument, CaseIterable {
    case huggingface, qformer, cascaded
    case spatioTemporal = "spatio-temporal"

    /// A layout of the same model; nil for another model.
    var layout: ModelConversion.Layout? {
      switch self {
      case .huggingface: .huggingFace
      case .qformer: .qformer
      case .cascaded, .spatioTemporal: nil
      }
    }
  }

  @Argument(help: "A .pth file or a model folder; to become a video adapter, also the name of an adapter.")
  var source: String

  @Argument(help: "The folder to make.")
  var destination: String?

  @Option(help: "The folder to make, in the place of DESTINATION.")
  var output: String?

  @Option(help: "The layout to write, or the video adapter to make.")
  var to = Target.huggingface

  @Option(help: "Frames of clips that a new video adapter reads. Default: 8.")
  var frames: Int?

  @Option(help: "Temporal queries of a new spatio-temporal adapter. Default: as many as the source has queries.")
  var temporalQueries: Int?

  @Option(help: "Summary queries of a new spatio-temporal adapter. Default: 1.")
  var summaryQueries: Int?

  @Option(help: "A file or folder that has what SOURCE lacks. May be repeated.")
  var base: [String] = []

  @OptionGroup var missing: MissingOptions
  @OptionGroup var common: CommonOptions

  func validate() throws {
    guard (destination == nil) != (output == nil) else {
      throw ValidationError("give the folder to make once: as DESTINATION or with --output")
    }
    if let frames {
      guard to.layout == nil else { throw ValidationError("--frames is for a new video adapter: --to spatio-temporal") }
      guard (1...4096).contains(frames) else { throw ValidationError("--frames \(frames): expected 1 … 4096") }
    }
    for (name, count) in [("--temporal-queries", temporalQueries), ("--summary-queries", summaryQueries)] {
      guard let count else { continue }
      guard to == .spatioTemporal else { throw ValidationError("\(name) is for --to spatio-temporal") }
      guard (0...100_000).contains(count) else { throw ValidationError("\(name) \(count): expected 0 … 100000") }
    }
  }

  func run() throws {
    try common.apply()
    let folder = URL(fileURLWithPath: destination ?? output ?? "")
    guard let layout = to.layout else { return try expand(to: folder) }
    let model = try ModelConversion(
      URL(fileURLWithPath: source), bases: base.map { URL(fileURLWithPath: $0) }, allowMissing: missing.allowMissing)
    let report = try model.write(layout, to: folder)
    guard common.json else {
      Output.line(report.summary)
      return
    }
    Output.json([
      "source": report.load.file, "destination": report.destination, "layout": report.layout.rawValue,
      "architecture": report.architecture.rawValue, "loaded": report.load.loaded.count,
      "missing": report.load.initialised, "ignored": report.load.ignored, "left_out": report.leftOut,
      "files": report.files,
      "parts": report.parts.map { part -> [String: Any] in
        [
          "name": part.name, "tensors": part.tensors, "elements": part.elements, "types": part.types,
          "sources": part.sources,
        ]
      },
    ])
  }

  /// Makes a video adapter of an image adapter.
  private func expand(to folder: URL) throws {
    var expansion = AdapterExpansion(to == .cascaded ? .cascaded : .spatioTemporal)
    expansion.seed = common.seed
    if let frames {
      expansion.video.frames = frames
      expansion.video.time.maxFrames = max(expansion.video.time.maxFrames, frames)
    }
    if let temporalQueries { expansion.video.spatioTemporal.temporalQueries = temporalQueries }
    if let summaryQueries { expansion.video.spatioTemporal.summaryQueries = summaryQueries }
    expansion.video.spatioTemporal.languageGroups = QueryGroup.allCases.filter { group in
      !(group == .temporal && temporalQueries == 0 || group == .summary && summaryQueries == 0)
    }
    let exists = FileManager.default.fileExists(atPath: source)
    let report = try expansion.write(
      exists ? URL(fileURLWithPath: source) : ModelStore().adapter(source), to: folder,
      bases: base.map { URL(fileURLWithPath: $0) })
    guard common.json else {
      Output.line("\(report.source) → \(report.destination)")
      Output.line("\(report.kind.rawValue): \(report.inherited) tensors from the source or the text model, new ones:")
      for name in report.fresh { Output.line("  \(name)") }
      return
    }
    Output.json([
      "source": report.source, "destination": report.destination, "model_type": report.kind.rawValue,
      "inherited": report.inherited, "fresh": report.fresh,
    ])
  }
}
