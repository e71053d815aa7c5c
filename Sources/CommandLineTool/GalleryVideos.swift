import Foundation
import Media
import Pipelines

/// What `gallery` shows of videos: one account of each model.
struct GalleryVideos {
  let models: [String]
  let questions: [String]
  let text: TextOptions
  let common: CommonOptions

  /// A model that writes, and what looks into it.
  private struct Model {
    let name: String
    let pipeline: VideoPipeline
    let explainer: Explainer
  }

  /// Describes all videos; those that fail are reported and left out.
  ///
  /// - Parameter credits: By the name of the file.
  func describe(_ inputs: inout Inputs, _ credits: [String: String]) throws -> [Gallery.Clip] {
    var clips: [Gallery.Clip] = []
    try inputs.forEachClip(
      batch: 1, load: { try models.map(load) },
      read: { models, path, file in try models.map { try account($0, path, file) } }
    ) { _, group in
      for (path, accounts) in group {
        let name = URL(fileURLWithPath: path).lastPathComponent
        clips.append(Gallery.Clip(name: name, accounts: accounts, credit: credits[name]))
        for account in accounts { print(path, account) }
      }
    }
    return clips
  }

  private func load(_ name: String) throws -> Model {
    let pipeline = try VideoPipeline(name)
    _ = try pipeline.requireLanguage()
    return Model(
      name: URL(fileURLWithPath: name).lastPathComponent, pipeline: pipeline, explainer: Explainer(pipeline))
  }

  private func account(_ model: Model, _ path: String, _ file: VisualFile) throws -> Gallery.Clip.Account {
    let pipeline = model.pipeline
    let watched = try pipeline.encoder.watch(
      file, frames: pipeline.usualFrames, name: path, pictureSize: Gallery.frameSize)
    var clip = watched.features
    if clip.lostPackets > 0 { Notes.lost(clip.lostPackets, of: path, common) }
    clip.sound = try pipeline.sound?.features(of: URL(fileURLWithPath: path))
    let prompts = [nil] + questions.map(pipeline.questions.prompt)
    let texts = try pipeline.describe(
      prompts.map { _ in clip }, prompts: prompts, options: text.options(seed: common.seed), stops: text.stop
    ).map(\.text)
    return Gallery.Clip.Account(
      model: model.name, caption: texts[0], answers: Array(zip(questions, texts.dropFirst())),
      frames: watched.frames, seconds: clip.seconds,
      importance: try model.explainer.explain(clip).frameImportance)
  }

  private func print(_ path: String, _ account: Gallery.Clip.Account) {
    guard common.json else {
      Output.line("\(URL(fileURLWithPath: path).lastPathComponent)  \(account.model): \(account.caption)")
      for (question, text) in account.answers { Output.line("  \(question) \(text)") }
      return
    }
    Output.json([
      "input": path, "model": account.model, "text": account.caption, "frames": account.seconds.rounded,
      "frame_importance": account.importance.rounded,
      "answers": account.answers.map { ["question": $0.question, "text": $0.text] },
    ])
  }
}
