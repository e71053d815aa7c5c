import Backbones
import Checkpoints
import Foundation
import Media
import Pipelines
import QFormer
import TestSupport
import Torch
import TorchNN

/// Stand-ins for the frozen models and the adapters: the same files and names, widths of a few numbers, random weights.
///
/// One source, linked into every test target that needs it.
struct TinyModels {
  /// As `$QFORMER_CACHE`: `models/NAME` holds the three frozen models.
  let cache: URL
  /// As `$QFORMER_MODELS`: holds `image-match` and `image-caption`.
  let adapters: URL

  /// Dv, the width of image features.
  static let encoderWidth = 16
  /// D, the width of the text model and the Q-Formers.
  static let width = 24
  /// d_llm, the width of the language model.
  static let languageWidth = 32
  /// N, the tokens of a picture: 4 × 4 patches and the class token.
  static let imageTokens = 17
  /// M, the queries of the adapters.
  static let queries = 4
  /// Texts are cut to so many tokens.
  static let maximumLength = 12

  /// What the models are called by in the environment of a process.
  var environment: [String: String] { ["QFORMER_CACHE": cache.path, "QFORMER_MODELS": adapters.path] }
  /// The same for a pipeline.
  var store: ModelStore { ModelStore(environment: environment) }
  /// The folder of a frozen model.
  func frozen(_ name: String) -> URL { cache.appendingPathComponent("models/\(name)") }

  /// The encoder's block and image size, as small as the models.
  static let encoder: AdapterConfiguration.Encoder = {
    var encoder = AdapterConfiguration.Encoder()
    encoder.block = 1
    encoder.imageSize = 56
    return encoder
  }()

  /// The text model with short texts.
  static let text: AdapterConfiguration.Text = {
    var text = AdapterConfiguration.Text()
    text.maximumLength = maximumLength
    return text
  }()

  /// Sizes of the image–text adapter.
  static let imageText: ImageTextConfiguration = {
    var configuration = ImageTextConfiguration()
    configuration.qformer.hiddenSize = width
    configuration.qformer.layers = 2
    configuration.qformer.heads = 2
    configuration.qformer.intermediateSize = 32
    configuration.qformer.encoderHiddenSize = encoderWidth
    configuration.qformer.queries = queries
    configuration.qformer.vocabularySize = 2008
    configuration.qformer.maxPositions = 32
    configuration.objectives.contrastiveSize = 8
    return configuration
  }()

  /// Sizes of the image–language adapter.
  static let imageLanguage: ImageLanguageConfiguration = {
    var configuration = ImageLanguageConfiguration()
    configuration.qformer = imageText.qformer
    configuration.qformer.readsText = false
    configuration.qformer.separateDecoderToken = false
    configuration.languageSize = languageWidth
    return configuration
  }()

  /// Writes all models into a folder.
  init(in folder: URL) throws {
    cache = folder.appendingPathComponent("cache")
    adapters = folder.appendingPathComponent("Models")
    try Self.frozen(
      "dinov2-small-focus", in: cache, seed: 1,
      """
      {"model_type": "dinov2", "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "mlp_ratio": 2,
       "image_size": 56, "patch_size": 14}
      """
    ) { DINOv2(try readConfiguration(DINOv2Configuration.self, folder: $0), $1) }
    try Self.frozen(
      "minilm-l6", in: cache, seed: 2, tokenizer: "word-piece",
      """
      {"model_type": "bert", "vocab_size": 2008, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
       "intermediate_size": 32, "max_position_embeddings": 48, "type_vocab_size": 2}
      """
    ) { BERT(try readConfiguration(BERTConfiguration.self, folder: $0), $1) }
    try Self.frozen(
      "smollm2-135m-instruct", in: cache, seed: 3, tokenizer: "byte-bpe",
      """
      {"model_type": "llama", "vocab_size": 1508, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
       "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": true, "bos_token_id": 1500,
       "eos_token_id": 1501}
      """, scale: ["model.embed_tokens.weight": 25]
    ) { Llama(try readConfiguration(LlamaConfiguration.self, folder: $0), $1) }
    try Self.writeMatch(to: adapters.appendingPathComponent("image-match"))
    try Self.writeCaption(to: adapters.appendingPathComponent("image-caption"))
  }

  /// Writes an image–text adapter with random weights, without the word table.
  static func writeMatch(to folder: URL, seed: UInt64 = 4, encoder: AdapterConfiguration.Encoder = encoder) throws {
    let parameters = Parameters()
    _ = try ImageTextQFormer(imageText, ParameterScope(FreshParameters(seed: seed), parameters: parameters))
    try AdapterFolder.write(
      AdapterConfiguration(imageText: imageText, encoder: encoder, text: text),
      parameters.all.filter { $0.name != ImageTextPipeline.wordTable }, to: folder)
  }

  /// Writes an image–language adapter with random weights.
  static func writeCaption(
    to folder: URL, seed: UInt64 = 5, configuration: ImageLanguageConfiguration = imageLanguage
  ) throws {
    let parameters = Parameters()
    _ = try ImageLanguageQFormer(configuration, ParameterScope(FreshParameters(seed: seed), parameters: parameters))
    try AdapterFolder.write(
      AdapterConfiguration(imageLanguage: configuration, encoder: encoder), parameters.all, to: folder)
  }

  /// Gives frozen models matrices that do not shrink what goes through them, as trained ones do not: what they see then reaches
  /// their outputs.
  func strengthen(_ names: [String] = ["dinov2-small-focus", "minilm-l6", "smollm2-135m-instruct"]) throws {
    for name in names {
      let file = frozen(name).appendingPathComponent("model.safetensors")
      let stored = try SafetensorsFile(contentsOf: file)
      let tensors = try stored.names.map { name -> (name: String, tensor: Tensor) in
        let tensor = try stored.tensor(name)
        return (name, tensor.rank == 2 && !name.contains("embed") ? tensor * 8 : tensor.cloned())
      }
      try SafetensorsFile.write(tensors, to: file)
    }
  }

  private static func frozen<Model>(
    _ name: String, in cache: URL, seed: UInt64, tokenizer: String? = nil, _ configuration: String,
    scale: [String: Double] = [:], _ build: (URL, ParameterScope) throws -> Model
  ) throws {
    let folder = cache.appendingPathComponent("models/\(name)")
    let manager = FileManager.default
    try manager.createDirectory(at: folder, withIntermediateDirectories: true)
    try Data(configuration.utf8).write(to: folder.appendingPathComponent("config.json"))
    if let tokenizer {
      try manager.copyItem(
        at: fixtures.appendingPathComponent("tokenizers/\(tokenizer)/tokenizer.json"),
        to: folder.appendingPathComponent("tokenizer.json"))
    }
    let parameters = Parameters()
    _ = try build(folder, ParameterScope(FreshParameters(seed: seed), parameters: parameters))
    try SafetensorsFile.write(
      parameters.all.map { ($0.name, $0.tensor * (scale[$0.name] ?? 1)) },
      to: folder.appendingPathComponent("model.safetensors"))
  }
}

/// Pictures and captions that a tiny model can tell apart.
enum TinyPictures {
  private static let colours: [(name: String, rgb: [UInt8])] = [
    ("red", [220, 30, 30]), ("green", [30, 200, 40]), ("blue", [40, 60, 230]), ("white", [240, 240, 240]),
  ]
  private static let shapes = ["square", "circle", "dog", "the thing"]

  /// A picture of one colour with a mark that depends on the number.
  static func picture(_ number: Int, width: Int = 40, height: Int = 30) throws -> Image {
    let colour = colours[number % 4].rgb
    let mark = number / 4 % 4
    var pixels: [UInt8] = []
    for y in 0..<height {
      for x in 0..<width {
        let isMarked = (x * 4 / width == mark) != (y * 4 / height == mark)
        pixels += isMarked ? colour.map { 255 - $0 } : colour
      }
    }
    return try Image(width: width, height: height, pixels: pixels)
  }

  /// Two captions of a picture.
  static func captions(_ number: Int) -> [String] {
    let (colour, shape) = (colours[number % 4].name, shapes[number / 4 % 4])
    return ["a \(colour) \(shape)", "\(shape) on \(colour) number \(number % 16)"]
  }

  /// Writes `captions.jsonl` and its pictures: `train` ones, then `validation` ones that repeat the first.
  static func write(to folder: URL, train: Int, validation: Int) throws {
    try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    var lines: [String] = []
    for (split, count) in [("train", train), ("val", validation)] {
      for number in 0..<count {
        let name = "\(split)-\(number).png"
        try picture(number).write(to: folder.appendingPathComponent(name))
        let captions = captions(number).map { "\"\($0)\"" }.joined(separator: ", ")
        lines.append("{\"image\": \"\(name)\", \"captions\": [\(captions)], \"split\": \"\(split)\"}")
      }
    }
    try Data((lines.joined(separator: "\n") + "\n").utf8).write(to: folder.appendingPathComponent("captions.jsonl"))
  }
}
