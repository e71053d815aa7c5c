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

      EXAMPLES:
        qformer convert blip2_pretrained_opt2.7b.pth blip2-opt --base eva_vit_g.pth --base opt-2.7b
        qformer convert blip2_pretrained.pth stage1 --to qformer --base eva_vit_g.pth --base bert-base-uncased
        qformer convert runs/my-adapter/adapter my-blip2 --to huggingface
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

  @Argument(help: "A .pth file or a model folder.")
  var source: String

  @Argument(help: "The folder to make.")
  var destination: String

  @Option(help: "The layout to write.")
  var to = Target.huggingface

  @Option(help: "A file or folder that has what SOURCE lacks. May be repeated.")
  var base: [String] = []

  @OptionGroup var missing: MissingOptions
  @OptionGroup var common: CommonOptions

  func run() throws {
    try common.apply()
    let model = try ModelConversion(
      URL(fileURLWithPath: source), bases: base.map { URL(fileURLWithPath: $0) }, allowMissing: missing.allowMissing)
    let report = try model.write(to.layout, to: URL(fileURLWithPath: destination))
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
}
