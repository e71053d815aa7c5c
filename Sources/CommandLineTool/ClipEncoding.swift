import Checkpoints
import Foundation
import Media
import Pipelines
import QFormer
import Torch

/// `encode` with a model that reads clips.
struct ClipEncoding {
  /// A tensor with its name in the file.
  typealias Named = (name: String, tensor: Tensor)

  /// A video adapter, or InstructBLIP-Video, which reads frame after frame.
  private enum Model {
    case adapter(VideoPipeline)
    case frames(ImageLanguagePipeline)
  }

  /// What the Q-Former reads of a clip, and what comes of it.
  private struct Row {
    /// After the adapter's LayerNorm, `[T, N, Dv]`.
    let embeds: VideoFeatures
    /// `[1, …, width]` each.
    let written: [Named]
    /// Of a model that hears: nil for a clip without sound.
    var sound: SoundRow?
  }

  private let model: Model
  private let reader: ClipReader
  private let instruction: String?
  private let common: CommonOptions

  /// Loads the model; no language model, where it has a folder of its own.
  init(_ folder: URL, _ command: EncodeCommand) throws {
    (instruction, common) = (command.instruction, command.common)
    if try ModelFolder(folder).isVideoAdapter {
      let loaded = try LoadedVideoModel(
        folder.path, command.frames, command.missing, common, writes: false, listens: !command.sound.noAudio)
      (model, reader) = (.adapter(loaded.model), loaded.reader)
      guard instruction == nil else {
        throw QFormerError.missingPart("instruction input: its Q-Former reads no text beside it")
      }
    } else {
      let pipeline = try ImageLanguagePipeline(folder.path, allowMissing: command.missing.allowMissing)
      command.missing.warn(pipeline.report, common)
      try pipeline.requireWords([instruction])
      let choice = try command.frames.choice(.instructBLIPVideo, seed: common.seed)
      (model, reader) = (.frames(pipeline), ClipReader(encoder: pipeline.encoder, choice: choice))
    }
  }

  /// Tensors of clips; those that fail are reported and left out.
  func encode(_ inputs: inout Inputs) throws -> [Named] {
    var rows: [Row] = []
    try inputs.forEachClip(
      batch: 1, load: {},
      read: { _, path, file in
        let clip = try reader.read(file, path: path, common)
        var row = try row(
          VideoFeatures(withError { withNoGrad { imageEmbeds(clip.features) } }, seconds: clip.seconds))
        if let branch, let heard = clip.sound { row.sound = try SoundRow(heard, branch) }
        return row
      }
    ) { _, group in rows += group.map(\.item) }
    guard !rows.isEmpty else { return [] }
    return try joined(rows) + (branch.map { try SoundRow.joined(rows.map(\.sound), $0) } ?? [])
  }

  /// Tensors of features that are there already: `image_embeds [B, T, N, Dv]`, and where they are there `frame_mask
  /// [B, T]` and `seconds [B, T]`; else every frame counts, and time is told by the frames' numbers.
  func encode(features file: String) throws -> [Named] {
    let checkpoint = try Checkpoint(contentsOf: URL(fileURLWithPath: file))
    let embeds = try checkpoint.tensor("image_embeds")
    guard embeds.rank == 4, embeds.count > 0 else {
      throw PipelineError.badInput("\(file): expected image_embeds [B, T, N, Dv], found \(embeds.shape)")
    }
    let shape = Array(embeds.shape.prefix(2))
    func optional(_ name: String) throws -> [Double]? {
      guard let found = checkpoint.shape(name) else { return nil }
      guard found == shape else {
        throw PipelineError.badInput("\(file): expected \(name) [B, T] = \(shape), found \(found)")
      }
      return try withError { try checkpoint.tensor(name).values(as: Double.self) }
    }
    let (mask, seconds) = (try optional("frame_mask"), try optional("seconds"))
    if case .adapter(let pipeline) = model, pipeline.configuration.time?.encoding == .sinusoid, seconds == nil {
      throw PipelineError.badInput("\(file): expected seconds [B, T], which this model tells time by, found none")
    }
    var sounds: [SoundRow?]?
    if checkpoint.shape("audio_embeds") != nil {
      guard let branch else { throw PipelineError.badInput("\(file): audio_embeds, but the model does not hear") }
      sounds = try SoundRow.read(checkpoint, clips: shape[0], branch)
    }
    let rows = try (0..<shape[0]).map { clip in
      let frames = (clip * shape[1]..<(clip + 1) * shape[1])
      let counted = frames.filter { frame in mask.map { $0[frame] != 0 } ?? true }
      guard !counted.isEmpty else {
        throw PipelineError.badInput("\(file): clip \(clip) has no frame: its whole frame_mask is 0")
      }
      let places = Tensor(counted.map { $0 - frames.lowerBound })
      return try row(
        VideoFeatures(
          withError { embeds.select(0, clip).indexSelect(0, places).to(.float32) },
          seconds: counted.map { seconds?[$0] ?? Double($0 - frames.lowerBound) }))
    }
    let heard = try sounds.flatMap { sounds in try branch.map { try SoundRow.joined(sounds, $0) } } ?? []
    return try joined(rows).filter { seconds != nil || $0.name != "seconds" } + heard
  }

  private var branch: AudioBranch? {
    if case .adapter(let pipeline) = model { pipeline.sound } else { nil }
  }

  private func imageEmbeds(_ features: Tensor) -> Tensor {
    switch model {
    case .adapter(let pipeline): pipeline.adapter.imageEmbeds(features)
    case .frames(let pipeline): pipeline.adapter.imageEmbeds(features)
    }
  }

  /// One clip through the Q-Former.
  private func row(_ clip: VideoFeatures) throws -> Row {
    try withError {
      try withNoGrad {
        switch model {
        case .adapter(let pipeline):
          let hidden = try pipeline.queries(of: VideoFeatures.batch([clip], areEmbeds: true))
          var written: [Named] = [("query_output", hidden)]
          if pipeline.adapter.languageSize != nil {
            written.append(("language_tokens", try pipeline.adapter.languageTokens(hidden)))
          }
          if let heads = pipeline.adapter.heads { written.append(("image_features", heads.imageFeatures(hidden))) }
          return Row(embeds: clip, written: written)
        case .frames(let pipeline):
          let text = pipeline.instruction(Array(repeating: instruction, count: clip.frames), count: clip.frames)
          let frames = try pipeline.adapter.readEmbeds(clip.features, text: text).hidden  // [T, M, D]
          let hidden = frames.reshaped(1, -1, frames.size(2))  // [T, M, D] → [1, T · M, D]
          return Row(
            embeds: clip,
            written: [("query_output", hidden), ("language_tokens", pipeline.adapter.languageTokens(hidden))])
        }
      }
    }
  }

  /// All clips in one batch, shorter ones padded with zeros.
  private func joined(_ rows: [Row]) throws -> [Named] {
    let clips = try VideoFeatures.batch(rows.map(\.embeds))
    return try withError {
      let names = rows.first?.written.map(\.name) ?? []
      let written = names.indices.map { index in
        let parts = rows.map { $0.written[index].tensor }
        let longest = parts.map { $0.size(1) }.max() ?? 0
        return (
          name: names[index],
          tensor: Tensor.cat(
            parts.map { .cat([$0, .zeros([1, longest - $0.size(1), $0.size(2)])], 1) }, 0)
        )
      }
      let mask = clips.mask ?? .ones([clips.batch, clips.frames], dtype: .int64)
      let frames: [Named] = [("seconds", clips.seconds), ("frame_mask", mask)].compactMap { name, tensor in
        tensor.map { (name, $0) }
      }
      return [("image_embeds", clips.features)] + written + frames
    }
  }
}
