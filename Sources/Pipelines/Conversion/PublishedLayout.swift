import Backbones
import Checkpoints
import Foundation
import QFormer
import Torch

/// Writes a model as Hugging Face publishes it.
struct PublishedLayout {
  private let model: ConvertibleModel
  private let shardSize: Int

  init(_ model: ConvertibleModel, shardSize: Int) { (self.model, self.shardSize) = (model, shardSize) }

  /// Parameters of this library that transformers' models do not have.
  private static let foreign = ["temp", "cls.*", "embeddings.decoder_token"]

  /// Fills a folder.
  ///
  /// - Returns: The keys that the layout has no place for.
  func write(to folder: URL) throws -> [String] {
    let leftOut = model.names.filter { name in Self.foreign.contains { KeyMap.fits(name, $0) } }
    let names = model.names.filter { !leftOut.contains($0) }
    let config = try config(names)
    let map = model.configuration.architecture.keyMap
    try model.weights.writeModel(names.map { (name: $0, newName: map($0)) }, to: folder, shardSize: shardSize)
    try writeJSON(config, to: folder.appendingPathComponent("config.json"))
    try writeProcessing(to: folder)
    return leftOut
  }

  /// The configuration, with what transformers has to be told in every case.
  private func config(_ names: [String]) throws -> JSONObject {
    let (architecture, source) = (model.configuration.architecture, model.source)
    var config = source.config
    if architecture.hasLanguageModel {
      guard model.configuration.language != nil else {
        throw PipelineError.badInput(
          "\(source.url.path): a Hugging Face folder needs the language model; give its folder as --base")
      }
      let key = architecture.imageTokenKey
      guard let token = config[key] as? Int ?? model.configuration.imageTokenID else {
        throw PipelineError.badInput(
          "\(source.url.path): the language model's word table has no row for transformers' image token; give a "
            + "published folder of the same kind as --base")
      }
      config[key] = token
    }
    var vision = config["vision_config"] as? JSONObject ?? [:]
    vision["model_type"] = "\(architecture.prefix)_vision_model"
    // transformers has one epsilon for all norms of the tower.
    vision["post_layernorm_eps"] = nil
    config["vision_config"] = vision
    var qformer = config["qformer_config"] as? JSONObject ?? [:]
    qformer["model_type"] = "\(architecture.prefix)_qformer"
    for key in ["separate_decoder_token", "num_query_tokens"] { qformer[key] = nil }
    config["qformer_config"] = qformer
    // Mixed files are read in the widest type, so that no bit is lost; transformers would else take the first one's.
    let types = Set(names.compactMap(model.weights.dtype).filter(\.isFloatingPoint))
    config["torch_dtype"] = nil
    config["dtype"] = types.count == 1 ? types.first.map { "\($0)" } : types.contains(.float64) ? "float64" : "float32"
    return config
  }

  /// Tokenizers, and the settings of transformers' processor.
  private func writeProcessing(to folder: URL) throws {
    let (architecture, source) = (model.configuration.architecture, model.source)
    if let tokenizer = architecture.hasLanguageModel ? source.tokenizer : source.textTokenizer {
      try TokenizerFiles.copy(from: tokenizer, to: folder)
    }
    if architecture.hasLanguageModel, architecture.readsText, let text = source.textTokenizer {
      try TokenizerFiles.copy(from: text, to: folder.appendingPathComponent("qformer_tokenizer"))
    }
    let small = ["generation_config.json", "preprocessor_config.json", "processor_config.json"]
    if let published = source.published { try TokenizerFiles.copy(small, from: published, to: folder) }
    func isMissing(_ name: String) -> Bool {
      !FileManager.default.fileExists(atPath: folder.appendingPathComponent(name).path)
    }
    if isMissing("preprocessor_config.json") {
      try writeJSON(
        source.processor.published, to: folder.appendingPathComponent("preprocessor_config.json"))
    }
    if isMissing("processor_config.json") {
      var settings: JSONObject = ["processor_class": architecture.processorClass]
      if architecture.hasLanguageModel { settings["num_query_tokens"] = model.configuration.qformer.queries }
      try writeJSON(settings, to: folder.appendingPathComponent("processor_config.json"))
    }
  }
}

extension BLIPConfiguration.Architecture {
  /// The field of `config.json` that names the token of pictures or frames.
  var imageTokenKey: String { self == .instructBLIPVideo ? "video_token_index" : "image_token_index" }

  /// What `model_type` of the parts begins with.
  fileprivate var prefix: String {
    switch self {
    case .blip2, .blip2Matching: "blip_2"
    case .instructBLIP: "instructblip"
    case .instructBLIPVideo: "instructblipvideo"
    }
  }

  /// The name of transformers' processor.
  fileprivate var processorClass: String {
    switch self {
    case .blip2, .blip2Matching: "Blip2Processor"
    case .instructBLIP: "InstructBlipProcessor"
    case .instructBLIPVideo: "InstructBlipVideoProcessor"
    }
  }
}

extension ImageProcessor {
  /// The content of a `preprocessor_config.json`.
  fileprivate var published: JSONObject {
    [
      "image_processor_type": "BlipImageProcessor", "do_resize": true, "size": ["height": size, "width": size],
      "resample": 3, "do_rescale": true, "rescale_factor": 1.0 / 255, "do_normalize": true, "do_convert_rgb": true,
      // A Float's shortest decimal form, as the published files have it.
      "image_mean": mean.map { Double("\($0)") ?? 0 }, "image_std": standardDeviation.map { Double("\($0)") ?? 0 },
    ]
  }
}
