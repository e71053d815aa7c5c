import ArgumentParser
import Foundation
import Media
import Pipelines

/// `qformer gallery INPUT… --output DIR`
struct GalleryCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "gallery",
    abstract: "Write a page with captions, best matches and where the queries look; of videos, what models say.",
    discussion: """
      EXAMPLES:
        qformer gallery *.jpg --output gallery
        qformer gallery *.jpg --candidates sentences.txt --output gallery
        qformer gallery *.mp4 --video-model video-cascaded --question "What happens first?" --output gallery
      """)

  @Argument(help: "Pictures, and with --video-model videos; - reads a list of paths from standard input.")
  var inputs: [String] = []

  @Option(help: "A text file with one candidate caption a line.")
  var candidates: String?

  @Option(help: "A JSON file {\"pictures\": [{\"file\", \"credit\", \"licence\"}]} with credits to print.")
  var credits: String?

  @Option(help: "The folder for index.html.")
  var output = "gallery"

  @Option(help: "Name or folder of the captioning model.")
  var model = "image-caption"

  @Option(help: "Name or folder of the matching model.")
  var matchModel = "image-match"

  @Option(help: "Name or folder of a model that describes videos. May be given several times.")
  var videoModel: [String] = []

  @Option(help: "What each video is asked besides. May be given several times.")
  var question: [String] = []

  @OptionGroup var text: TextOptions
  @OptionGroup var common: CommonOptions

  func validate() throws {
    guard question.isEmpty || !videoModel.isEmpty else {
      throw ValidationError("--question: expected --video-model, which answers")
    }
  }

  func run() throws {
    try common.apply()
    let candidates = try self.candidates.map(Self.lines) ?? []
    let credits = try self.credits.map(Self.credits) ?? [:]
    let all = try Inputs(inputs)
    var (videos, pictures) = videoModel.isEmpty ? (Inputs.none, all) : all.videosApart()
    let width = min(all.paths.map { Self.name($0).count }.max() ?? 0, 30)
    let entries = try pictures.paths.isEmpty ? [] : describe(&pictures, candidates, credits, width)
    let clips = try GalleryVideos(models: videoModel, questions: question, text: text, common: common)
      .describe(&videos, credits)
    let page = try Gallery.write(
      entries, clips: clips, candidates: candidates.count, to: URL(fileURLWithPath: output))
    if !common.json { Output.line("\nopen \(page.path)") }
    try pictures.joined(videos).finish()
  }

  private func describe(
    _ inputs: inout Inputs, _ candidates: [String], _ credits: [String: String], _ width: Int
  ) throws -> [Gallery.Entry] {
    let caption = try ImageLanguagePipeline(model)
    let match = candidates.isEmpty ? nil : try ImageTextPipeline(matchModel)
    var entries: [Gallery.Entry] = []
    let contents = try ModelFolder(ModelStore().adapter(model))
    try inputs.forEach(batch: 4, for: contents) { group in
      let images = group.map(\.image)
      let features = try caption.encoder.features(images)
      let answers = try caption.language.describe(
        tokens: caption.languageTokens(features: features), options: text.options(seed: common.seed))
      let attention = try caption.attention(features: features)
      // Both adapters may read other features; the usual ones read the same.
      let scores = try match.map { match in
        try match.scores(
          features: match.encoder.givesFeatures(of: caption.encoder) ? features : match.encoder.features(images),
          texts: candidates)
      }
      for (index, item) in group.enumerated() {
        let name = Self.name(item.path)
        func best(_ value: (ImageTextPipeline.Score) -> Double?) -> (text: String, score: Double)? {
          scores?[index].enumerated().compactMap { number, score in value(score).map { (candidates[number], $0) } }
            .max { $0.1 < $1.1 }
        }
        let entry = Gallery.Entry(
          name: name, caption: answers[index].text, contrastive: best(\.itc), matching: best(\.itm),
          picture: try AttentionOverlay.scaled(item.image, limit: 320),
          overlay: try AttentionOverlay.draw(item.image, weights: attention[index]), credit: credits[name])
        entries.append(entry)
        if common.json {
          var line: [String: Any] = ["input": item.path, "text": entry.caption]
          if let best = entry.contrastive { line["itc"] = ["text": best.text, "score": best.score] }
          if let best = entry.matching { line["itm"] = ["text": best.text, "score": best.score] }
          Output.json(line)
        } else {
          let padded = name.padding(toLength: max(width, name.count), withPad: " ", startingAt: 0)
          Output.line("\(padded)  \(entry.caption)")
        }
      }
    }
    return entries
  }

  private static func name(_ path: String) -> String { URL(fileURLWithPath: path).lastPathComponent }

  private static func lines(_ path: String) throws -> [String] {
    guard let data = FileManager.default.contents(atPath: path) else {
      throw CommandError.noInput("\(path): expected a text file, found none that can be read")
    }
    return String(decoding: data, as: UTF8.self).split(whereSeparator: \.isNewline).map(String.init)
  }

  private static func credits(_ path: String) throws -> [String: String] {
    struct List: Decodable {
      struct Picture: Decodable { let file: String, credit: String?, licence: String? }
      let pictures: [Picture]
    }
    guard let data = FileManager.default.contents(atPath: path) else {
      throw CommandError.noInput("\(path): expected a JSON file, found none that can be read")
    }
    guard let list = try? JSONDecoder().decode(List.self, from: data) else {
      throw PipelineError.badInput("\(path): expected {\"pictures\": [{\"file\": …}]}")
    }
    return Dictionary(
      list.pictures.map { ($0.file, [$0.credit, $0.licence].compactMap { $0 }.joined(separator: ", ")) },
      uniquingKeysWith: { first, _ in first })
  }
}
