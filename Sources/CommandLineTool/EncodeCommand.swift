import ArgumentParser
import Checkpoints
import Foundation
import Media
import Pipelines
import QFormer
import Torch

/// `qformer encode INPUT… --output F.safetensors`
struct EncodeCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "encode", abstract: "Write features and tokens of pictures or videos to a safetensors file.",
    discussion: """
      Tensors: image_embeds [B, N, Dv] (what the Q-Former reads), query_output [B, M, D], and, as far as the model has
      them, language_tokens [B, M, d_llm] and image_features [B, M, E] of length 1. A model that reads videos writes
      image_embeds [B, T, N, Dv], and beside it seconds [B, T] and frame_mask [B, T], 1 for frames and 0 for padding;
      --features takes them in again. A model that hears writes audio_embeds [B, S, Da] (what the audio encoder says of
      pieces of sound), audio_mask and audio_seconds [B, S], audio_query_output and audio_language_tokens, which stand before
      language_tokens; of a video without a sound track all of its rows are 0.

      EXAMPLES:
        qformer encode photo.jpg --output tokens.safetensors
        qformer encode --features embeds.safetensors --output tokens.safetensors
        qformer encode clip.mp4 --model my-video-adapter --fps 2 --output tokens.safetensors
      """)

  @Argument(help: "Pictures, videos or sounds; - reads a list of paths from standard input.")
  var inputs: [String] = []

  @Option(help: "The file to write.")
  var output: String

  @Option(
    help: """
      A safetensors file with image_embeds [B, N, Dv] in place of pictures, or [B, T, N, Dv] in place of videos, then \
      frame_mask and seconds [B, T], too, where they matter.
      """)
  var features: String?

  @Option(help: "Text that the Q-Former reads beside the picture.")
  var instruction: String?

  @Option(help: "Name or folder of the model.")
  var model = "image-caption"

  @OptionGroup var frames: FrameOptions
  @OptionGroup var sound: SoundOptions
  @OptionGroup var missing: MissingOptions
  @OptionGroup var common: CommonOptions

  func validate() throws {
    if features != nil && !inputs.isEmpty { throw ValidationError("give pictures or --features, not both") }
    if features == nil && inputs.isEmpty { throw ValidationError("expected at least one input, or --features") }
  }

  func run() throws {
    try common.apply()
    let folder = try ModelStore().adapter(model)
    let contents = try ModelFolder(folder)
    guard contents.readsVideo && features == nil || !frames.isGiven else {
      throw ValidationError("--frames, --frames-from, --fps, --seconds: expected videos and a model that reads them")
    }
    try sound.check(contents)
    var inputs = features == nil ? try Inputs(self.inputs) : nil
    let tensors =
      try contents.isAudioAdapter
      ? encodeSounds(folder, &inputs)
      : contents.readsVideo ? encodeClips(folder, &inputs) : encodePictures(folder, contents, &inputs)
    if !tensors.isEmpty {
      try SafetensorsFile.write(tensors, to: URL(fileURLWithPath: output))
      for (name, tensor) in tensors {
        if common.json {
          Output.json(["name": name, "shape": tensor.shape])
        } else {
          Output.line("\(name)\t\(tensor.shape)")
        }
      }
    }
    try inputs?.finish()
  }

  private func encodeClips(_ folder: URL, _ inputs: inout Inputs?) throws -> [(name: String, tensor: Tensor)] {
    let clips = try ClipEncoding(folder, self)
    guard var list = inputs else {
      return try namingFeatures { file in try clips.encode(features: file) }
    }
    defer { inputs = list }
    return try clips.encode(&list)
  }

  private func encodeSounds(_ folder: URL, _ inputs: inout Inputs?) throws -> [(name: String, tensor: Tensor)] {
    guard instruction == nil else {
      throw QFormerError.missingPart("instruction input: its Q-Former reads no text beside it")
    }
    guard var list = inputs else {
      throw ValidationError("--features: expected a model of pictures or videos, found one for sound")
    }
    defer { inputs = list }
    var rows: [SoundRow] = []
    var branch: AudioBranch?
    try list.forEachFile(
      batch: 1, open: { try AudioClip(contentsOf: $0) },
      load: {
        let model = try AudioPipeline(folder.path, allowMissing: missing.allowMissing, loadsLanguageModel: false)
        missing.warn(model.report, common)
        branch = model.sound
        return model.sound
      },
      read: { (branch: AudioBranch, _, clip) in try SoundRow(branch.encoder.features([clip]), branch) }
    ) { _, group in rows += group.map(\.item) }
    return try branch.map { try SoundRow.joined(rows, $0) } ?? []
  }

  private func encodePictures(
    _ folder: URL, _ contents: ModelFolder, _ inputs: inout Inputs?
  ) throws -> [(name: String, tensor: Tensor)] {
    let adapter = try Adapter(folder, allowMissing: missing.allowMissing)
    missing.warn(adapter.report, common)
    if instruction != nil, !adapter.readsInstructions {
      throw QFormerError.missingPart("instruction input: its Q-Former reads no text beside it")
    }
    guard var list = inputs else {
      return try namingFeatures { file in
        let given = try Checkpoint(contentsOf: URL(fileURLWithPath: file)).tensor("image_embeds")
        return try adapter.encode(embeds: given, instruction: instruction)
      }
    }
    defer { inputs = list }
    var parts: [[(name: String, tensor: Tensor)]] = []
    try list.forEach(batch: 8, for: contents) {
      parts.append(try adapter.encode($0.map(\.image), instruction: instruction))
    }
    guard let first = parts.first else { return [] }
    return try withError {
      first.indices.map { index in
        (name: first[index].name, tensor: Tensor.cat(parts.map { $0[index].tensor }, 0))
      }
    }
  }

  /// Reads the file of features; a Q-Former does not know its name.
  private func namingFeatures<Result>(_ body: (_ file: String) throws -> Result) throws -> Result {
    let file = features ?? ""
    do {
      return try body(file)
    } catch let error as QFormerError {
      throw PipelineError.badInput("\(file): \(error)")
    }
  }

  /// Either kind of adapter.
  private enum Adapter {
    case text(ImageTextPipeline)
    case language(ImageLanguagePipeline)

    init(_ folder: URL, allowMissing: [String]) throws {
      self =
        try ModelFolder(folder).comparesTexts
        ? .text(try ImageTextPipeline(folder.path, allowMissing: allowMissing))
        : .language(try ImageLanguagePipeline(folder.path, allowMissing: allowMissing))
    }

    /// What became of the keys of the model's file.
    var report: LoadReport {
      switch self {
      case .text(let pipeline): pipeline.report
      case .language(let pipeline): pipeline.report
      }
    }

    /// Whether the Q-Former reads text beside the picture.
    var readsInstructions: Bool {
      switch self {
      case .text: false
      case .language(let pipeline): pipeline.instructions != nil
      }
    }

    func encode(_ images: [Image], instruction: String?) throws -> [(name: String, tensor: Tensor)] {
      switch self {
      case .text(let pipeline):
        let features = try pipeline.encoder.features(images)
        return try encode(
          embeds: withError { withNoGrad { pipeline.adapter.imageEmbeds(features) } }, instruction: instruction)
      case .language(let pipeline):
        let features = try pipeline.encoder.features(images)
        return try encode(
          embeds: withError { withNoGrad { pipeline.adapter.imageEmbeds(features) } }, instruction: instruction)
      }
    }

    func encode(embeds: Tensor, instruction: String?) throws -> [(name: String, tensor: Tensor)] {
      try withError {
        try withNoGrad {
          let embeds = embeds.to(.float32)
          switch self {
          case .text(let pipeline):
            let qformer = pipeline.adapter.qformer
            let hidden = try qformer.readImage(qformer.imageKeyValues(embeds)).hidden
            return [
              ("image_embeds", embeds), ("query_output", hidden),
              ("image_features", pipeline.adapter.imageFeatures(hidden)),
            ]
          case .language(let pipeline):
            let rows = embeds.rank == 3 ? embeds.size(0) : 0
            try pipeline.requireWords([instruction])
            let text = pipeline.instruction(Array(repeating: instruction, count: rows), count: rows)
            let hidden = try pipeline.adapter.readEmbeds(embeds, text: text).hidden
            return [
              ("image_embeds", embeds), ("query_output", hidden),
              ("language_tokens", pipeline.adapter.languageTokens(hidden)),
            ]
          }
        }
      }
    }
  }
}
