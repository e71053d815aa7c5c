import ArgumentParser
import Foundation
import Pipelines

/// `qformer match INPUT… --text T…`
struct MatchCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "match", abstract: "Score how well pictures or videos and texts fit.",
    discussion: """
      itc is the cosine between the text and the queries of the picture or video, the largest one unless the model's heads \
      are configured otherwise; itm is the probability that they match, of models whose matching was trained. Videos need a \
      model that reads them.

      EXAMPLES:
        qformer match photo.jpg --text "a dog on a beach" --text "a plate of food"
        qformer match *.jpg --text "a red car" --head itc --json
        qformer match clip.mp4 --text "a ball rolls to the left" --model my-video-adapter
      """)

  @Argument(help: "Pictures or videos; - reads a list of paths from standard input.")
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

  @OptionGroup var frames: FrameOptions
  @OptionGroup var missing: MissingOptions
  @OptionGroup var common: CommonOptions

  func validate() throws {
    if text.isEmpty { throw ValidationError("expected at least one --text") }
    if text.contains(where: { $0.allSatisfy(\.isWhitespace) }) { throw ValidationError("--text must not be empty") }
  }

  func run() throws {
    try common.apply()
    let folder = try ModelStore().adapter(model)
    let contents = try ModelFolder(folder)
    guard contents.isVideoAdapter || contents.comparesTexts else {
      throw PipelineError.wrongModel(
        folder: folder.path, expected: "a model that compares pictures or videos with texts", found: contents.words)
    }
    guard contents.isVideoAdapter || !frames.isGiven else {
      throw ValidationError("--frames, --frames-from, --fps, --seconds: \(contents.name) compares pictures")
    }
    var inputs = try Inputs(self.inputs)
    if contents.isVideoAdapter { try matchClips(&inputs) } else { try matchPictures(&inputs, contents) }
    try inputs.finish()
  }

  private func matchPictures(_ inputs: inout Inputs, _ contents: ModelFolder) throws {
    var pipeline: ImageTextPipeline?
    try inputs.forEach(batch: 8, for: contents) { group in
      let model = try pipeline ?? ImageTextPipeline(self.model, allowMissing: missing.allowMissing)
      if pipeline == nil { missing.warn(model.report, common) }
      pipeline = model
      for (item, scores) in zip(group, try model.scores(group.map(\.image), texts: text, head: head.scores)) {
        print(item.path, scores)
      }
    }
  }

  private func matchClips(_ inputs: inout Inputs) throws {
    try inputs.forEachClip(
      batch: 1, load: { try LoadedVideoModel(model, frames, missing, common, writes: false, listens: false) },
      read: { loaded, path, file -> (clip: VideoFeatures, scores: [ImageTextPipeline.Score]) in
        let clip = try loaded.reader.read(file, path: path, common)
        return (clip, try loaded.model.scores([clip], texts: text, head: head.scores)[0])
      }
    ) { _, group in
      for (path, item) in group { print(path, item.scores, frames: item.clip.seconds) }
    }
  }

  /// A line for each text.
  private func print(_ path: String, _ scores: [ImageTextPipeline.Score], frames: [Double]? = nil) {
    for (text, score) in zip(text, scores) {
      if common.json {
        var line: [String: Any] = ["input": path, "text": text]
        line["itc"] = score.itc
        line["itm"] = score.itm
        line["frames"] = frames?.rounded
        Output.json(line)
      } else {
        let values = [("itc", score.itc), ("itm", score.itm)].compactMap { name, value in
          value.map { String(format: "%@ %.4f", name as NSString, $0) }
        }
        Output.line("\(path)\t\(values.joined(separator: "\t"))\t\(Output.cell(text))")
      }
    }
  }
}
