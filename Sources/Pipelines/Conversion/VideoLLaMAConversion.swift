import Backbones
public import Checkpoints
public import Foundation
import QFormer
import Torch
import TorchNN

/// Video-LLaMA as it is published, in half a dozen files, put together into one adapter folder.
///
/// ```swift
/// let model = try VideoLLaMAConversion(
///   videoBranch, bases: [audioBranch, blip2FlanT5, evaViTg, imageBind, vicunaFolder], conversation: .vicuna)
/// try model.write(to: folder)
/// ```
///
/// | part | what it gives |
/// |---|---|
/// | Video-LLaMA's `.pth` | the temporal or the audio Q-Former, or both, with positions and projections |
/// | BLIP-2 with Flan-T5-XXL of LAVIS | the image Q-Former, its queries and `ln_vision` |
/// | `eva_vit_g.pth` | the vision tower |
/// | `imagebind_huge.pth` | the audio trunk |
/// | a folder of Llama 2 or Vicuna | the language model and its tokenizer |
///
/// Without an audio branch the model is deaf; without a video branch it is for sound alone. Nothing is computed: every tensor
/// keeps its type and every bit.
public struct VideoLLaMAConversion {
  /// What became of the keys of each branch's own file: nothing is missing, and nothing but known buffers was left.
  public let reports: [LoadReport]
  private let configuration: AdapterConfiguration
  private let adapter: Part
  private let encoder: Part?
  private let audio: Part?
  private let language: Part
  private let languageFolder: URL

  /// Weights under this library's names, and what is written of them.
  private struct Part {
    let weights: Checkpoint
    let names: [String]
    /// What the names begin with and the part's own file does not have.
    var prefix = ""
    /// `config.json`, of a frozen model.
    var config: JSONObject = [:]

    func write(to folder: URL, shardSize: Int) throws {
      let renamed = names.map { (name: $0, newName: String($0.dropFirst(prefix.count))) }
      try weights.writeModel(renamed, to: folder, shardSize: shardSize)
    }
  }

  /// Whether a file holds a branch of Video-LLaMA.
  ///
  /// - Throws: What opening the file throws; a folder holds none.
  public static func holdsBranch(_ file: URL) throws -> Bool {
    var isFolder: ObjCBool = false
    guard FileManager.default.fileExists(atPath: file.path, isDirectory: &isFolder), !isFolder.boolValue else {
      return false
    }
    return VideoLLaMAFiles.isBranch(try Checkpoint(contentsOf: file))
  }

  /// Finds out what each file holds, and compares keys and shapes with those of the model; no weight is read yet.
  ///
  /// - Parameters:
  ///   - source: A `.pth` of Video-LLaMA.
  ///   - bases: The other parts, in any order; a folder with a `config.json` of BLIP-2 gives numbers of heads where the widths
  ///     are not those of the published model.
  ///   - conversation: The words that the language model was trained with.
  /// - Throws: `CheckpointError.mismatch` with every key that is missing, unused or of another shape;
  ///   ``PipelineError`` for parts that are missing, given twice or of another kind; what reading files throws.
  public init(_ source: URL, bases: [URL], conversation: VideoLLaMAConversation) throws {
    let files = try VideoLLaMAFiles([source] + bases)
    guard files.video != nil || files.audio != nil else {
      throw PipelineError.wrongModel(
        folder: source.path, expected: "a branch of Video-LLaMA (video_Qformer or audio_Qformer)", found: "another file"
      )
    }
    let (text, folder) = try files.languageModel()
    let size = text.hiddenSize
    var reports: [LoadReport] = []
    var sources: [BaseCheckpoint] = []
    var names: [String] = []
    var language = AdapterConfiguration.Language()
    (language.model, language.conversation) = ("./language", conversation)

    var cascade: (sizes: CascadedVideoConfiguration, vision: BLIP2VisionConfiguration)?
    if let video = files.video {
      let sizes = try files.cascade(video, languageSize: size)
      let image = BaseCheckpoint(
        try files.image(), keyMap: LAVIS.model,
        providing: ["query_tokens", "qformer.*", "vision_model.post_layernorm.*"])
      let asked = try Self.ask(
        video, VideoLLaMA.video, bases: [image], ignoring: files.audioIgnored(in: video)
      ) { _ = try CascadedVideoQFormer(sizes.cascade, $0) }
      reports.append(asked.report)
      names += asked.names
      sources += [BaseCheckpoint(video, keyMap: VideoLLaMA.video), image]
      cascade = (sizes.cascade, sizes.vision)
    }
    var branch: AdapterConfiguration.Audio?
    if let audio = files.audio {
      let sizes = try files.audioSizes(audio, languageSize: size)
      let asked = try Self.ask(audio, VideoLLaMA.audio, ignoring: files.videoIgnored(in: audio)) {
        _ = try AudioQFormer(sizes, $0["audio"])
      }
      reports.append(asked.report)
      names += asked.names
      sources.append(BaseCheckpoint(audio, keyMap: VideoLLaMA.audio))
      var encoder = AudioEncoderConfiguration.imageBind("./audio")
      encoder.clips = sizes.time.maxFrames
      branch = AdapterConfiguration.Audio(encoder: encoder, sizes: sizes)
    }
    self.reports = reports
    adapter = Part(weights: try Checkpoint(merging: sources, precedence: .first), names: names)
    self.language = try Self.languagePart(text, folder)
    languageFolder = folder
    audio = try branch.map { _ in try Self.audioPart(files) }
    guard let cascade else {
      guard let branch else { preconditionFailure("a branch was found above") }
      (encoder, configuration) = (nil, AdapterConfiguration(audio: branch, language: language))
      return
    }
    encoder = try Self.visionPart(files, cascade.vision)
    var image = AdapterConfiguration.Encoder()
    (image.model, image.block) = ("./encoder", cascade.vision.layers - 1)
    image.imageSize = cascade.vision.imageSize
    var frames = AdapterConfiguration.Frames()
    (frames.count, frames.place) = (8, .uniform)
    var configuration = AdapterConfiguration(
      cascaded: cascade.sizes, frames: frames, encoder: image, text: nil, language: language)
    configuration.audio = branch
    self.configuration = configuration
  }

  /// Writes an adapter folder with the frozen models in folders of their own inside it, under a temporary name until it is
  /// complete.
  ///
  /// - Parameters:
  ///   - folder: The destination; it must not exist, or be empty.
  ///   - shardSize: The largest size in bytes of a file of weights.
  /// - Throws: `CheckpointError.cannotWrite`.
  public func write(to folder: URL, shardSize: Int = Checkpoint.shardSize) throws {
    try AtomicFolder.write(to: folder) { temporary in
      try configuration.write(to: temporary)
      try adapter.write(to: temporary, shardSize: shardSize)
      for (name, part) in [("encoder", encoder), ("audio", audio), ("language", language)] {
        guard let part else { continue }
        let own = temporary.appendingPathComponent(name)
        do {
          try FileManager.default.createDirectory(at: own, withIntermediateDirectories: true)
        } catch {
          throw CheckpointError.cannotWrite(file: own.path, reason: error.localizedDescription)
        }
        try part.write(to: own, shardSize: shardSize)
        try writeJSON(part.config, to: own.appendingPathComponent("config.json"))
      }
      let own = temporary.appendingPathComponent("language")
      try TokenizerFiles.copy(from: languageFolder, to: own)
      try TokenizerFiles.copy(["generation_config.json"], from: languageFolder, to: own)
    }
  }

  /// A line for each part: its name, tensors and numbers.
  public var parts: [(name: String, tensors: Int, elements: Int)] {
    [("adapter", adapter), ("vision tower", encoder), ("audio trunk", audio), ("language model", language)].compactMap {
      name, part in
      guard let part else { return nil }
      return (
        name, part.names.count, part.names.reduce(0) { $0 + (part.weights.shape($1) ?? []).reduce(1, *) }
      )
    }
  }

  // MARK: Parts

  /// Names that a model asks for, compared with what a file and its bases have.
  ///
  /// - Parameter isWhole: Whether the file may hold nothing else.
  private static func ask(
    _ checkpoint: Checkpoint, _ keyMap: KeyMap, bases: [BaseCheckpoint] = [], ignoring: [String] = [],
    isWhole: Bool = true, _ build: (ParameterScope) throws -> Void
  ) throws -> (names: [String], report: LoadReport) {
    let asked = CheckpointParameters(checkpoint, keyMap: keyMap, bases: bases, readsTensors: false)
    let parameters = Parameters()
    try withError { try build(ParameterScope(asked, parameters: parameters)) }
    var report = asked.finish(ignoring: ignoring)
    if !isWhole { report.unused = [] }
    guard report.isStrict else { throw CheckpointError.mismatch(report) }
    return (parameters.names, report)
  }

  private static func visionPart(_ files: VideoLLaMAFiles, _ sizes: BLIP2VisionConfiguration) throws -> Part {
    let (tower, image) = try (files.vision(), files.image())
    // The file has a block and a head that the model drops.
    let asked = try ask(tower, LAVIS.vision, isWhole: false) {
      _ = BLIP2Vision(sizes, $0["vision_model"], hasOutputNorm: false)
    }
    let norm = BaseCheckpoint(image, keyMap: LAVIS.model, providing: ["vision_model.post_layernorm.*"])
    var config = try jsonObject(sizes)
    config["model_type"] = "blip_2_vision_model"
    return Part(
      weights: try Checkpoint(merging: [BaseCheckpoint(tower, keyMap: LAVIS.vision), norm], precedence: .first),
      names: asked.names + ["weight", "bias"].map { "vision_model.post_layernorm.\($0)" }, prefix: "vision_model.",
      config: config)
  }

  private static func audioPart(_ files: VideoLLaMAFiles) throws -> Part {
    let (trunk, sizes) = try files.audioTrunk()
    let isOriginal = trunk.names.contains { $0.hasPrefix("modality_") }
    let map = isOriginal ? ImageBind.audio : KeyMap.identity
    // The file has five more senses.
    let asked = try ask(trunk, map, isWhole: false) { _ = ImageBindAudio(sizes, $0) }
    var config = try jsonObject(sizes)
    config["model_type"] = "imagebind_audio_model"
    return Part(
      weights: try Checkpoint(merging: [BaseCheckpoint(trunk, keyMap: map)]), names: asked.names, config: config)
  }

  private static func languagePart(_ sizes: LanguageTowerConfiguration, _ folder: URL) throws -> Part {
    let checkpoint = try Checkpoint(contentsOf: folder)
    let asked = try ask(
      checkpoint, .identity, ignoring: sizes.ignoredKeys(hasHead: checkpoint.names.contains("lm_head.weight"))
    ) { _ = LanguageTower(sizes, $0) }
    return Part(
      weights: checkpoint, names: asked.names,
      config: try jsonObject(contentsOf: folder.appendingPathComponent("config.json")))
  }
}
