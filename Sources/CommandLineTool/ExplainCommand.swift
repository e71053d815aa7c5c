import ArgumentParser
import Foundation
import Media
import Pipelines
import QFormer

/// `qformer explain INPUT… --output DIR`
struct ExplainCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "explain", abstract: "Show where each query looks in pictures or videos.",
    discussion: """
      DIR gets index.html, a page that needs no other file; NAME.png for each input, of videos all frames on one sheet, and
      NAME.frame-00.png … for their frames; and attention.safetensors. NAME is the file's name without its ending, with
      hyphens for dots, and a number where it is taken. Tensors of each input:

        NAME.cross_attention [layers, H, M, K]   weights as the model has them; K is N for pictures, T · M for a cascade,
                                                 N + T for a spatio-temporal Q-Former: places, then frames
        NAME.query_maps [M, N] or [M, T, N]      where each query looks, traced back to patches; 1 together
        NAME.frame_importance, .frame_attention, .seconds [T]    videos only
        NAME.text_attention [L, N] or [L, T, N], .text_to_queries [L, M]    with --text

      EXAMPLES:
        qformer explain photo.jpg --output attention
        qformer explain photo.jpg --model image-match --text "a dog on a beach" --output attention
        qformer explain clip.mp4 --model my-video-adapter --frames 8 --output attention
        qformer explain photo.jpg --layer 4 --head 2 --query 7 --output attention
      """)

  @Argument(help: "Pictures or videos; - reads a list of paths from standard input.")
  var inputs: [String] = []

  @Option(help: "The folder to write.")
  var output: String

  @Option(help: "A text; shows what each of its words looks at when it is compared with the input.")
  var text: String?

  @Option(help: "A layer with cross-attention, by its number. Default: the mean over all.")
  var layer: Int?

  @Option(help: "A head, from 0. Default: the mean over all.")
  var head: Int?

  @Option(help: "A query, from 0, for the summary. Default: the mean over all.")
  var query: Int?

  @Option(help: "Name or folder of the model. Default: image-caption, with --text image-match.")
  var model: String?

  @OptionGroup var frames: FrameOptions
  @OptionGroup var missing: MissingOptions
  @OptionGroup var common: CommonOptions

  func validate() throws {
    for (name, value) in [("layer", layer), ("head", head), ("query", query)] {
      if let value, value < 0 { throw ValidationError("--\(name) \(value): expected 0 or more") }
    }
    if let text, text.allSatisfy(\.isWhitespace) { throw ValidationError("--text must not be empty") }
  }

  private var choice: AttentionChoice { AttentionChoice(layer: layer, head: head, query: query) }

  func run() throws {
    try common.apply()
    let model = self.model ?? (text == nil ? "image-caption" : "image-match")
    let contents = try ModelFolder(ModelStore().adapter(model))
    guard contents.isVideoAdapter || !frames.isGiven else {
      throw ValidationError("--frames, --frames-from, --fps, --seconds: \(contents.name) is explained on pictures")
    }
    var inputs = try Inputs(self.inputs)
    var page: ExplanationPage?
    var explainer: Explainer?
    func load() throws -> Explainer {
      let loaded = try explainer ?? self.load(model)
      explainer = loaded
      return loaded
    }
    func add(_ path: String, _ frames: [Image], _ explanation: Explanation, isClip: Bool) throws {
      var drawn =
        try page
        ?? ExplanationPage(in: URL(fileURLWithPath: output), model: model)
      let entry = try drawn.add(URL(fileURLWithPath: path), explanation, frames: frames, isClip: isClip)
      page = drawn
      print(path, explanation, entry, isClip: isClip)
    }
    if contents.isVideoAdapter {
      try inputs.forEachClip(
        batch: 1, load: load,
        read: { explainer, path, file in
          let clip = try read(explainer, path, file)
          return (clip.frames, try explainer.explain(clip.features, text: text, choice: choice), file.isVideo)
        }
      ) { _, group in
        for (path, item) in group { try add(path, item.0, item.1, isClip: item.2) }
      }
    } else {
      try inputs.forEach(batch: 1, for: contents) { group in
        for (path, image) in group {
          let clip = try load().encoder.watch(.picture(image), frames: .uniform(1), name: path)
          try add(path, clip.frames, load().explain(clip.features, text: text, choice: choice), isClip: false)
        }
      }
    }
    if let written = try page?.finish(), !common.json { Output.line("\nopen \(written.page.path)") }
    try inputs.finish()
  }

  private func load(_ model: String) throws -> Explainer {
    let explainer = try Explainer(model, allowMissing: missing.allowMissing)
    missing.warn(explainer.report, common)
    do {
      try explainer.check(choice, text: text)
    } catch let error as PipelineError {
      throw ValidationError("--\(error)")
    }
    return explainer
  }

  private func read(_ explainer: Explainer, _ path: String, _ file: VisualFile) throws -> WatchedClip {
    let usual = explainer.usualFrames ?? AdapterConfiguration.Frames()
    let clip = try explainer.encoder.watch(file, frames: frames.choice(usual, seed: common.seed), name: path)
    if clip.features.lostPackets > 0 { Notes.lost(clip.features.lostPackets, of: path, common) }
    return clip
  }

  private func print(_ path: String, _ explanation: Explanation, _ entry: ExplanationPage.Entry, isClip: Bool) {
    guard common.json else {
      Output.line("\(path)\t\(entry.overlay.path)")
      return
    }
    var line: [String: Any] = [
      "input": path, "name": entry.name, "overlay": entry.overlay.path,
      "page": URL(fileURLWithPath: output).appendingPathComponent("index.html").path,
      "tensors": URL(fileURLWithPath: output).appendingPathComponent("attention.safetensors").path,
    ]
    if isClip {
      line["frame_overlays"] = entry.frames.map(\.path)
      line["seconds"] = explanation.seconds.rounded
      line["frame_importance"] = explanation.frameImportance.rounded
      line["segment_importance"] = explanation.segmentImportance(min(4, explanation.frames)).rounded
    }
    if let words = explanation.words { line["tokens"] = words.tokens }
    Output.json(line)
  }
}

extension VisualFile {
  fileprivate var isVideo: Bool { if case .video = self { true } else { false } }
}
