import Backbones
import Checkpoints
import Foundation
import QFormer

/// The files that Video-LLaMA is published in, told apart by the names of their tensors, and the sizes that follow.
struct VideoLLaMAFiles {
  /// The temporal Q-Former's file.
  let video: Checkpoint?
  /// The audio Q-Former's file; it may be the same.
  let audio: Checkpoint?
  private let source: URL
  private var blip2: Checkpoint?
  private var tower: Checkpoint?
  private var trunk: (checkpoint: Checkpoint, sizes: ImageBindAudioConfiguration)?
  private var language: URL?
  /// Folders with the `config.json` of a published model.
  private var published: [ConversionBase] = []

  static func isBranch(_ checkpoint: Checkpoint) -> Bool {
    checkpoint.names.contains { $0.hasPrefix("video_Qformer.") || $0.hasPrefix("audio_Qformer.") }
  }

  /// - Throws: ``PipelineError/wrongModel(folder:expected:found:)`` for what is no part of the model,
  ///   ``PipelineError/badInput(_:)`` for a part that is given twice.
  init(_ paths: [URL]) throws {
    guard let first = paths.first else { throw PipelineError.badInput("expected a file of Video-LLaMA, found none") }
    source = first
    var (video, audio): (Checkpoint?, Checkpoint?)
    func set<Value>(_ part: inout Value?, _ value: Value, _ path: URL, _ name: String) throws {
      guard part == nil else { throw PipelineError.badInput("\(path.path): \(name) has been given already") }
      part = value
    }
    for path in paths {
      var isFolder: ObjCBool = false
      guard FileManager.default.fileExists(atPath: path.path, isDirectory: &isFolder) else {
        throw CheckpointError.notFound(file: path.path, expected: "a file of weights or a folder")
      }
      if isFolder.boolValue {
        switch try ModelType(folder: path).name ?? "" {
        case "llama": try set(&language, path, path, "the language model")
        case "imagebind_audio_model", "imagebind":
          let sizes = try readConfiguration(ImageBindAudioConfiguration.self, folder: path)
          try set(&trunk, (try Checkpoint(contentsOf: path), sizes), path, "the audio trunk")
        case let type where BLIPConfiguration.modelTypes.contains(type):
          published += try ConversionBase.read(path, store: ModelStore())
        case let type:
          throw PipelineError.wrongModel(
            folder: path.path, expected: "a folder of model_type llama, imagebind or blip-2",
            found: "model_type \(type.isEmpty ? "none" : type)")
        }
        continue
      }
      let checkpoint = try Checkpoint(contentsOf: path)
      func has(_ pattern: String) -> Bool { checkpoint.names.contains { KeyMap.fits($0, pattern) } }
      if Self.isBranch(checkpoint) {
        if has("video_Qformer.*") { try set(&video, checkpoint, path, "the video branch") }
        if has("audio_Qformer.*") { try set(&audio, checkpoint, path, "the audio branch") }
      } else if has("Qformer.bert.*"), has("query_tokens"), has("ln_vision.*") {
        try set(&blip2, checkpoint, path, "BLIP-2's Q-Former")
      } else if has("blocks.*.attn.*"), has("patch_embed.proj.weight") {
        try set(&tower, checkpoint, path, "the vision tower")
      } else if has("modality_trunks.audio.*") {
        try set(&trunk, (checkpoint, .huge), path, "the audio trunk")
      } else {
        throw PipelineError.wrongModel(
          folder: path.path,
          expected: "a branch of Video-LLaMA, BLIP-2 of LAVIS, EVA's vision tower, ImageBind or a folder of Llama",
          found: checkpoint.apparentKind ?? "tensors such as \(checkpoint.names.prefix(3).joined(separator: ", "))")
      }
    }
    (self.video, self.audio) = (video, audio)
  }

  // MARK: Parts

  private func lacks(_ part: String, _ file: String) -> PipelineError {
    .badInput("\(source.path): needs \(part); give \(file) as --base")
  }

  func image() throws -> Checkpoint {
    guard let blip2 else { throw lacks("BLIP-2's Q-Former and ln_vision", "blip2_pretrained_flant5xxl.pth") }
    return blip2
  }

  func vision() throws -> Checkpoint {
    guard let tower else { throw lacks("the vision tower", "eva_vit_g.pth") }
    return tower
  }

  func audioTrunk() throws -> (Checkpoint, ImageBindAudioConfiguration) {
    guard let trunk else { throw lacks("the audio trunk", "imagebind_huge.pth") }
    return trunk
  }

  func languageModel() throws -> (LanguageTowerConfiguration, URL) {
    guard let language else { throw lacks("the language model", "the folder of Llama 2 or Vicuna") }
    guard TokenizerFiles.areThere(in: language) else {
      throw PipelineError.badInput("\(language.path): expected the tokenizer beside the language model, found none")
    }
    return (try readConfiguration(LanguageTowerConfiguration.self, folder: language), language)
  }

  /// Names of the other branch, of a file that holds both.
  func audioIgnored(in file: Checkpoint) -> [String] { file === audio ? ["audio_*"] : [] }

  /// The same the other way round.
  func videoIgnored(in file: Checkpoint) -> [String] {
    file === video ? ["video_*", "llama_proj.*", "query_tokens", "Qformer.*", "ln_vision.*"] : []
  }

  // MARK: Sizes

  private func shape(_ checkpoint: Checkpoint, _ name: String, _ rank: Int) throws -> [Int] {
    guard let shape = checkpoint.shape(name), shape.count == rank, shape.allSatisfy({ $0 > 0 }) else {
      throw PipelineError.badInput(
        "\(checkpoint.url.path): expected \(name) of \(rank) dimensions, found \(checkpoint.shape(name).map { "\($0)" } ?? "none")"
      )
    }
    return shape
  }

  /// The sizes of a branch's Q-Former, whose layers all have cross-attention; those that shapes do not tell from another.
  private func branch(_ name: String, _ file: Checkpoint, like other: QFormerConfiguration) throws
    -> QFormerConfiguration
  {
    let layer = "\(name)_Qformer.bert.encoder.layer."
    let numbers = file.names.compactMap {
      $0.hasPrefix(layer) ? Int($0.dropFirst(layer.count).prefix { $0 != "." }) : nil
    }
    var sizes = other
    let queries = try shape(file, "\(name)_query_tokens", 3)
    guard queries[2] == other.hiddenSize else {
      throw PipelineError.badInput(
        "\(file.url.path): expected \(name)_query_tokens of width \(other.hiddenSize), found \(queries[2])")
    }
    sizes.queries = queries[1]
    sizes.layers = (numbers.max() ?? -1) + 1
    sizes.crossAttentionFrequency = 1
    sizes.intermediateSize = try shape(file, "\(layer)0.intermediate_query.dense.weight", 2)[0]
    sizes.encoderHiddenSize = try shape(file, "\(layer)0.crossattention.self.key.weight", 2)[1]
    return sizes
  }

  private func projection(_ file: Checkpoint, _ name: String, languageSize: Int) throws {
    let size = try shape(file, "\(name).weight", 2)[0]
    guard size == languageSize else {
      throw PipelineError.badInput(
        "\(file.url.path): \(name) writes width \(size), but the language model takes \(languageSize)")
    }
  }

  /// Sizes of both Q-Formers of the video branch, and of the vision tower.
  func cascade(
    _ file: Checkpoint, languageSize: Int
  ) throws -> (cascade: CascadedVideoConfiguration, vision: BLIP2VisionConfiguration) {
    let image = try image()
    let parts = [
      BaseCheckpoint(image, keyMap: LAVIS.model), BaseCheckpoint(try vision(), keyMap: LAVIS.vision),
    ]
    let config = try LAVISSizes(
      file: image.url, names: image.names, weights: Checkpoint(merging: parts, precedence: .first), bases: published
    ).config()
    let blip = try decode(BLIPConfiguration.self, config, file: image.url.path)
    var sizes = CascadedVideoConfiguration.videoLLaMA
    sizes.frame = blip.qformer
    (sizes.frame.readsText, sizes.frame.separateDecoderToken) = (false, false)
    sizes.temporal = try branch("video", file, like: sizes.frame)
    sizes.time.maxFrames = try shape(file, "video_frame_position_embedding.weight", 2)[0]
    sizes.visionNormEps = blip.vision.outputNormEps
    sizes.languageSize = languageSize
    try projection(file, "llama_proj", languageSize: languageSize)
    return (sizes, blip.vision)
  }

  /// Sizes of the audio Q-Former.
  func audioSizes(_ file: Checkpoint, languageSize: Int) throws -> AudioQFormerConfiguration {
    var sizes = AudioQFormerConfiguration.videoLLaMA
    var usual = QFormerConfiguration.blip2
    if let given = published.firstValue({ $0.config?["qformer_config"] as? JSONObject }) {
      usual = try decode(QFormerConfiguration.self, given, file: source.path)
    }
    (usual.readsText, usual.separateDecoderToken) = (false, false)
    sizes.qformer = try branch("audio", file, like: usual)
    sizes.time.maxFrames = try shape(file, "audio_position_embedding.weight", 2)[0]
    sizes.languageSize = languageSize
    try projection(file, "audio_llama_proj", languageSize: languageSize)
    return sizes
  }
}
