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

      A .pth of Video-LLaMA becomes an adapter folder with all that it needs: --base names the other branch, BLIP-2 with
      Flan-T5-XXL of LAVIS, eva_vit_g.pth, imagebind_huge.pth and the folder of the language model; --conversation says how
      that is talked to.

      --to spatio-temporal or cascaded makes a video adapter of an image adapter, or of BLIP-2. Before any training a
      spatio-temporal one reads the mean of a clip's frames as its source reads an image; a cascade's second Q-Former
      comes from a text model and has to be trained.

      EXAMPLES:
        qformer convert blip2_pretrained_opt2.7b.pth blip2-opt --base eva_vit_g.pth --base opt-2.7b
        qformer convert blip2_pretrained.pth stage1 --to qformer --base eva_vit_g.pth --base bert-base-uncased
        qformer convert runs/my-adapter/adapter my-blip2 --to huggingface
        qformer convert finetune-vicuna7b-v2.pth video-llama --conversation vicuna --base finetune_vicuna7b_audiobranch.pth \
          --base blip2_pretrained_flant5xxl.pth --base eva_vit_g.pth --base imagebind_huge.pth --base vicuna-7b
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

  /// The words around clip and question that Video-LLaMA's language models were trained with.
  enum Conversation: String, ExpressibleByArgument, CaseIterable {
    case vicuna
    case llama2 = "llama-2"

    var words: VideoLLaMAConversation {
      switch self {
      case .vicuna: .vicuna
      case .llama2: .llama2
      }
    }
  }

  @Argument(help: "A .pth file or a model folder; to become a video adapter, also the name of an adapter.")
  var source: String

  @Argument(help: "The folder to make.")
  var destination: String?

  @Option(help: "The folder to make, in the place of DESTINATION.")
  var output: String?

  @Option(
    help:
      "The layout to write, huggingface unless told otherwise and qformer alone for Video-LLaMA; or the video adapter to make."
  )
  var to: Target?

  @Option(help: "Of Video-LLaMA: the words that its language model was trained with: vicuna or llama-2.")
  var conversation: Conversation?

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
      guard let to, to.layout == nil else {
        throw ValidationError("--frames is for a new video adapter: --to spatio-temporal")
      }
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
    let isExpanded = to.map { $0.layout == nil } ?? false
    if !isExpanded, try VideoLLaMAConversion.holdsBranch(URL(fileURLWithPath: source)) {
      try convertVideoLLaMA(to: folder)
      return
    }
    guard conversation == nil else { throw ValidationError("--conversation: expected a .pth of Video-LLaMA") }
    guard let layout = (to ?? .huggingface).layout else { return try expand(to: folder) }
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

  private func convertVideoLLaMA(to folder: URL) throws {
    guard to != .huggingface else { throw ValidationError("--to huggingface: transformers has no Video-LLaMA") }
    guard missing.allowMissing.isEmpty else { throw ValidationError("--allow-missing: a Video-LLaMA must be whole") }
    guard let conversation else {
      let known = Conversation.allCases.map(\.rawValue).joined(separator: " or ")
      throw ValidationError("--conversation: expected \(known), since the files of Video-LLaMA do not say")
    }
    let model = try VideoLLaMAConversion(
      URL(fileURLWithPath: source), bases: base.map { URL(fileURLWithPath: $0) }, conversation: conversation.words)
    try model.write(to: folder)
    let parts = model.parts
    guard common.json else {
      Output.line("\(source) → \(folder.path)")
      for part in parts {
        let millions = String(format: "%.2f M", Double(part.elements) / 1e6)
        Output.line("\(part.name)\t\(part.tensors) tensors\t\(millions) numbers")
      }
      return
    }
    Output.json([
      "source": source, "destination": folder.path, "layout": Target.qformer.rawValue, "architecture": "Video-LLaMA",
      "conversation": conversation.rawValue, "loaded": model.reports.reduce(0) { $0 + $1.loaded.count },
      "missing": [String](), "ignored": model.reports.flatMap(\.ignored),
      "parts": parts.map { ["name": $0.name, "tensors": $0.tensors, "elements": $0.elements] as [String: Any] },
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
