import ArgumentParser
import Checkpoints
import Foundation
import Pipelines

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

      EXAMPLES:
        qformer convert blip2_pretrained_opt2.7b.pth blip2-opt --base eva_vit_g.pth --base opt-2.7b
        qformer convert blip2_pretrained.pth stage1 --to qformer --base eva_vit_g.pth --base bert-base-uncased
        qformer convert runs/my-adapter/adapter my-blip2 --to huggingface
        qformer convert finetune-vicuna7b-v2.pth video-llama --conversation vicuna --base finetune_vicuna7b_audiobranch.pth \
          --base blip2_pretrained_flant5xxl.pth --base eva_vit_g.pth --base imagebind_huge.pth --base vicuna-7b
      """)

  /// What can be written.
  enum Target: String, ExpressibleByArgument, CaseIterable {
    case huggingface, qformer

    var layout: ModelConversion.Layout {
      switch self {
      case .huggingface: .huggingFace
      case .qformer: .qformer
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

  @Argument(help: "A .pth file or a model folder.")
  var source: String

  @Argument(help: "The folder to make.")
  var destination: String

  @Option(help: "The layout to write: huggingface unless told otherwise; qformer alone for Video-LLaMA.")
  var to: Target?

  @Option(help: "Of Video-LLaMA: the words that its language model was trained with: vicuna or llama-2.")
  var conversation: Conversation?

  @Option(help: "A file or folder that has what SOURCE lacks. May be repeated.")
  var base: [String] = []

  @OptionGroup var missing: MissingOptions
  @OptionGroup var common: CommonOptions

  func run() throws {
    try common.apply()
    if try VideoLLaMAConversion.holdsBranch(URL(fileURLWithPath: source)) {
      try convertVideoLLaMA()
      return
    }
    guard conversation == nil else { throw ValidationError("--conversation: expected a .pth of Video-LLaMA") }
    let model = try ModelConversion(
      URL(fileURLWithPath: source), bases: base.map { URL(fileURLWithPath: $0) }, allowMissing: missing.allowMissing)
    let report = try model.write((to ?? .huggingface).layout, to: URL(fileURLWithPath: destination))
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

  private func convertVideoLLaMA() throws {
    guard to != .huggingface else { throw ValidationError("--to huggingface: transformers has no Video-LLaMA") }
    guard missing.allowMissing.isEmpty else { throw ValidationError("--allow-missing: a Video-LLaMA must be whole") }
    guard let conversation else {
      let known = Conversation.allCases.map(\.rawValue).joined(separator: " or ")
      throw ValidationError("--conversation: expected \(known), since the files of Video-LLaMA do not say")
    }
    let model = try VideoLLaMAConversion(
      URL(fileURLWithPath: source), bases: base.map { URL(fileURLWithPath: $0) }, conversation: conversation.words)
    try model.write(to: URL(fileURLWithPath: destination))
    let parts = model.parts
    guard common.json else {
      Output.line("\(source) → \(destination)")
      for part in parts {
        let millions = String(format: "%.2f M", Double(part.elements) / 1e6)
        Output.line("\(part.name)\t\(part.tensors) tensors\t\(millions) numbers")
      }
      return
    }
    Output.json([
      "source": source, "destination": destination, "layout": Target.qformer.rawValue, "architecture": "Video-LLaMA",
      "conversation": conversation.rawValue, "loaded": model.reports.reduce(0) { $0 + $1.loaded.count },
      "missing": [String](), "ignored": model.reports.flatMap(\.ignored),
      "parts": parts.map { ["name": $0.name, "tensors": $0.tensors, "elements": $0.elements] as [String: Any] },
    ])
  }
}
