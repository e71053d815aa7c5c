import ArgumentParser
import Foundation
import Pipelines

/// `qformer match INPUT… --text T…`
struct MatchCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "match", abstract: "Score how well pictures and texts fit.",
    discussion: """
      itc is the largest cosine between the text and the picture's queries; itm is the probability that they match.

      EXAMPLES:
        qformer match photo.jpg --text "a dog on a beach" --text "a plate of food"
        qformer match *.jpg --text "a red car" --head itc --json
      """)

  @Argument(help: "Pictures; - reads a list of paths from standard input.")
  var inputs: [String] = []

  @Option(help: "A text. May be repeated.")
  var text: [String] = []

  /// Which scores are printed.
  enum Head: String, ExpressibleByArgument, CaseIterable {
    case itc, itm, both

    var scores: ImageTextPipeline.Head {
      switch self {
      case .itc: .itc
      case .itm: .itm
      case .both: .both
      }
    }
  }

  @Option(help: "Which scores.")
  var head = Head.both

  @Option(help: "Name or folder of the model.")
  var model = "image-match"

  @OptionGroup var missing: MissingOptions
  @OptionGroup var common: CommonOptions

  func validate() throws {
    if text.isEmpty { throw ValidationError("expected at least one --text") }
    if text.contains(where: { $0.allSatisfy(\.isWhitespace) }) { throw ValidationError("--text must not be empty") }
  }

  func run() throws {
    try common.apply()
    var inputs = try Inputs(self.inputs)
    var pipeline: ImageTextPipeline?
    try inputs.forEach(batch: 8) { group in
      let model = try pipeline ?? ImageTextPipeline(self.model, allowMissing: missing.allowMissing)
      if pipeline == nil { missing.warn(model.report, common) }
      pipeline = model
      for (item, scores) in zip(group, try model.scores(group.map(\.image), texts: text, head: head.scores)) {
        for (text, score) in zip(text, scores) {
          if common.json {
            var line: [String: Any] = ["input": item.path, "text": text]
            line["itc"] = score.itc
            line["itm"] = score.itm
            Output.json(line)
          } else {
            let values = [("itc", score.itc), ("itm", score.itm)].compactMap { name, value in
              value.map { String(format: "%@ %.4f", name as NSString, $0) }
            }
            Output.line("\(item.path)\t\(values.joined(separator: "\t"))\t\(Output.cell(text))")
          }
        }
      }
    }
    try inputs.finish()
  }
}
