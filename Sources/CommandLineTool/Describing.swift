import ArgumentParser
import Backbones
import Checkpoints
import Foundation
import Media
import Pipelines
import QFormer
import Torch

/// Text on standard output that grows while it is generated.
struct GrowingText {
  private var shown = ""

  /// Prints what is new. The last character waits while only some of its bytes are there.
  mutating func show(_ text: String, isWhole: Bool) {
    var text = text
    while !isWhole, text.last == "\u{FFFD}" { text.removeLast() }
    guard text.utf8.starts(with: shown.utf8) else { return }
    Output.write(String(decoding: text.utf8.dropFirst(shown.utf8.count), as: UTF8.self))
    shown = text
  }
}

/// What `caption` and `ask` share: pictures, clips or sounds in, lines out.
struct Describing {
  let model: String
  let text: TextOptions
  let frames: FrameOptions
  let sound: SoundOptions
  let missing: MissingOptions
  let common: CommonOptions
  /// Windows of a stream; nil where none are read.
  var windows: WindowOptions?

  func run(_ arguments: [String], prompt: (QuestionTemplate) -> String?) throws {
    let folder = try ModelStore().adapter(model)
    let contents = try ModelFolder(folder)
    guard contents.readsVideo || !frames.isGiven else {
      let read = contents.isAudioAdapter ? "sound" : "pictures"
      throw ValidationError("--frames, --frames-from, --fps, --seconds: \(contents.name) reads \(read)")
    }
    try sound.check(contents)
    if let windows, text.stream, try windows.isVideo(arguments, for: contents) {
      try WindowDescribing(describing: self, windows: windows).run(arguments, prompt: prompt)
      return
    }
    if windows?.isGiven == true {
      throw ValidationError("--window, --stride, --patience: expected --stream and a video")
    }
    var inputs = try Inputs(arguments)
    // Inputs are looked at before a model is loaded: a mistyped path should not cost seconds.
    if contents.isAudioAdapter {
      try describeSounds(&inputs, prompt)
    } else if contents.isVideoAdapter {
      try describeClips(&inputs, prompt)
    } else if contents.readsVideo {
      try describeFrames(&inputs, prompt)
    } else {
      try describePictures(&inputs, contents, prompt)
    }
    try inputs.finish()
  }

  private func describePictures(
    _ inputs: inout Inputs, _ contents: ModelFolder, _ prompt: (QuestionTemplate) -> String?
  ) throws {
    let isSingle = inputs.paths.count == 1
    var pipeline: ImageLanguagePipeline?
    try inputs.forEach(batch: 8, for: contents) { group in
      let model = try pipeline ?? loadImages()
      pipeline = model
      try print(group.map { Line(path: $0.path) }, isSingle) { onText in
        try model.describe(
          group.map(\.image), prompt: prompt(model.questions), options: options, stops: text.stop, onText: onText)
      }
    }
  }

  private func describeClips(_ inputs: inout Inputs, _ prompt: (QuestionTemplate) -> String?) throws {
    let isSingle = inputs.paths.count == 1
    try inputs.forEachClip(
      batch: 8, load: loadVideos,
      read: { loaded, path, file -> (tokens: Tensor, line: Line) in
        let clip = try loaded.reader.read(file, path: path, common)
        var line = Line(path: path, clip: clip)
        if let audio = loaded.model.configuration.audio {
          line.soundTokens = clip.sound == nil ? 0 : audio.sizes.qformer.queries
        }
        return (try loaded.model.languageTokens(ofClips: [clip])[0], line)
      }
    ) { loaded, group in
      let prompt = prompt(loaded.model.questions)
      try print(group.map(\.item.line), isSingle) { onText in
        try loaded.model.requireLanguage().describe(
          rows: group.map(\.item.tokens),
          prompts: group.map { loaded.model.prompt(prompt, at: $0.item.line.clip?.seconds ?? []) }, options: options,
          stops: text.stop, onText: onText)
      }
    }
  }

  /// An adapter for sound alone.
  private func describeSounds(_ inputs: inout Inputs, _ prompt: (QuestionTemplate) -> String?) throws {
    let isSingle = inputs.paths.count == 1
    try inputs.forEachFile(
      batch: 8, open: { try AudioClip(contentsOf: $0) },
      load: {
        let model = try AudioPipeline(model, allowMissing: missing.allowMissing)
        missing.warn(model.report, common)
        return model
      },
      read: { (model: AudioPipeline, path, clip) -> (sound: TimedFeatures, line: Line) in
        if clip.lostPackets > 0 { Notes.lost(clip.lostPackets, of: path, common) }
        var line = Line(path: path)
        line.soundTokens = model.sound.tokens
        return (try model.sound.encoder.features([clip]), line)
      }
    ) { model, group in
      let prompt = prompt(model.questions)
      try print(group.map(\.item.line), isSingle) { onText in
        try model.describe(
          group.map(\.item.sound), prompts: group.map { _ in prompt }, options: options, stops: text.stop,
          onText: onText)
      }
    }
  }

  /// InstructBLIP-Video: the tokens of a clip are those of its frames, as many as it has.
  private func describeFrames(_ inputs: inout Inputs, _ prompt: (QuestionTemplate) -> String?) throws {
    let isSingle = inputs.paths.count == 1
    let choice = try frames.choice(.instructBLIPVideo, seed: common.seed)
    try inputs.forEachClip(
      batch: 1, load: loadImages,
      read: { model, path, file -> (tokens: Tensor, line: Line) in
        let clip = try ClipReader(encoder: model.encoder, choice: choice).read(file, path: path, common)
        let features = try withError { clip.features.unsqueezed(0) }  // [1, T, N, Dv]
        let tokens = try model.languageTokens(features: features, prompts: [prompt(model.questions)])
        return (tokens, Line(path: path, clip: clip))
      }
    ) { model, group in
      for (_, item) in group {
        try print([item.line], isSingle) { onText in
          try model.language.describe(
            tokens: item.tokens, prompt: prompt(model.questions), options: options, stops: text.stop, onText: onText)
        }
      }
    }
  }

  // MARK: Output

  /// What is known of an input beside its text.
  struct Line {
    let path: String
    var clip: (seconds: [Double], lost: Int)?
    /// Tokens of sound that the language model reads; nil for a model that does not hear.
    var soundTokens: Int?

    init(path: String, clip: VideoFeatures? = nil) {
      self.path = path
      self.clip = clip.map { ($0.seconds, $0.lostPackets) }
    }
  }

  var options: GenerationOptions { text.options(seed: common.seed) }

  /// Generates the texts of a group and prints a line for each; a single one grows, where that is asked for.
  private func print(
    _ lines: [Line], _ isSingle: Bool,
    _ generate: (_ onText: ((Int, String) -> Void)?) throws -> [LanguageModel.Answer]
  ) throws {
    let start = Date()
    var shown = GrowingText()
    let streams = text.stream && isSingle && !common.json
    let answers = try generate(streams ? { _, soFar in shown.show(soFar, isWhole: false) } : nil)
    let seconds = Date().timeIntervalSince(start) / Double(lines.count)
    for (line, answer) in zip(lines, answers) {
      if common.json {
        var object = Self.object(answer, seconds: seconds)
        object["input"] = line.path
        if let tokens = line.soundTokens { object["audio_tokens"] = tokens }
        if let clip = line.clip {
          object["frames"] = clip.seconds.rounded
          if clip.lost > 0 { object["lost_packets"] = clip.lost }
        }
        Output.json(object)
      } else if streams {
        shown.show(answer.text + "\n", isWhole: true)
      } else {
        Output.line(isSingle ? answer.text : "\(line.path)\t\(Output.cell(answer.text))")
      }
    }
  }

  /// The fields of JSON that every text has.
  static func object(_ answer: LanguageModel.Answer, seconds: Double) -> [String: Any] {
    [
      "text": answer.text, "token_ids": answer.tokenIDs, "seconds": seconds,
      "tokens_per_second": Double(answer.tokenIDs.count) / max(seconds, 1e-9),
    ]
  }

  // MARK: Models

  private func loadImages() throws -> ImageLanguagePipeline {
    let pipeline = try ImageLanguagePipeline(model, allowMissing: missing.allowMissing)
    missing.warn(pipeline.report, common)
    return pipeline
  }

  func loadVideos() throws -> LoadedVideoModel {
    try LoadedVideoModel(model, frames, missing, common, writes: true, listens: !sound.noAudio)
  }
}

extension AdapterConfiguration.Frames {
  /// Four frames at left edges, as in the published examples of InstructBLIP-Video.
  static let instructBLIPVideo: AdapterConfiguration.Frames = {
    var frames = AdapterConfiguration.Frames()
    (frames.count, frames.place) = (4, .uniform)
    return frames
  }()
}
