import Backbones
import Checkpoints
import Foundation
import Tokenizers

/// The configuration of a model in LAVIS' files, which have none: sizes follow from shapes; what shapes do not tell comes
/// from a base, or from the published models where the width is theirs.
struct LAVISSizes {
  private let file: URL
  /// All weights under this library's names.
  private let weights: Checkpoint
  private let bases: [ConversionBase]
  /// The kind of language model that the projection is named for.
  private let language: LAVIS.Language?
  private let architecture: BLIPConfiguration.Architecture
  /// A base that is a whole model of the same architecture.
  let published: ConversionBase?
  /// The folder of the language model's tokenizer.
  let tokenizer: URL?
  /// The folder of the tokenizer of the Q-Former's text.
  let textTokenizer: URL?

  /// - Throws: ``PipelineError/wrongModel(folder:expected:found:)`` when the file belongs to no stage.
  init(file: URL, names: [String], weights: Checkpoint, bases: [ConversionBase]) throws {
    (self.file, self.weights, self.bases) = (file, weights, bases)
    language = LAVIS.Language.allCases.first { names.contains("\($0.rawValue)_proj.weight") }
    let compares = names.contains("vision_proj.weight") && names.contains("text_proj.weight")
    guard compares != (language != nil) else {
      throw PipelineError.wrongModel(
        folder: file.path, expected: "vision_proj and text_proj (stage 1), or opt_proj, t5_proj or llm_proj (stage 2)",
        found: compares ? "both" : "neither")
    }
    architecture =
      compares
      ? .blip2Matching : weights.shape("embeddings.word_embeddings.weight") == nil ? .blip2 : .instructBLIP
    let type = architecture.modelType
    published = bases.first { $0.config?["model_type"] as? String == type }
    tokenizer = bases.firstValue(\.tokenizer)
    textTokenizer = bases.firstValue(\.textTokenizer)
  }

  /// The configuration that a published model would have.
  ///
  /// - Throws: ``PipelineError/badInput(_:)`` for sizes that cannot be known.
  func config() throws -> JSONObject {
    var config = published?.config ?? [:]
    config["architectures"] = [architecture.rawValue]
    config["model_type"] = architecture.modelType
    config["num_query_tokens"] = try shape("query_tokens")[1]
    config["qformer_config"] = try qformer()
    config["vision_config"] = try vision()
    config["text_config"] = nil
    if architecture == .blip2Matching {
      config["image_text_hidden_size"] = try shape("vision_projection.weight")[0]
    } else if let text = try text() {
      config["text_config"] = text
      config["image_token_index"] = try config["image_token_index"] ?? imageToken(text)
    }
    return config
  }

  private func shape(_ name: String) throws -> [Int] {
    guard let shape = weights.shape(name), !shape.isEmpty, shape.allSatisfy({ $0 > 0 }) else {
      throw PipelineError.badInput("\(file.path): expected \(LAVIS.model(name)), found no such tensor")
    }
    return shape
  }

  /// The numbers that stand behind a path.
  private func numbers(after path: String, before suffix: String = "") -> [Int] {
    Set(
      weights.names.compactMap { name -> Int? in
        guard name.hasPrefix(path), suffix.isEmpty || name.contains(suffix) else { return nil }
        return name.dropFirst(path.count).prefix { $0 != "." }.isEmpty
          ? nil : Int(name.dropFirst(path.count).prefix { $0 != "." })
      }
    ).sorted()
  }

  private func heads(_ given: Any?, width: Int, published: (width: Int, heads: Int), _ what: String) throws -> Int {
    if let given = given as? Int { return given }
    guard width == published.width else {
      throw PipelineError.badInput(
        "\(file.path): the number of heads of \(what) of width \(width) does not follow from shapes; give a folder with "
          + "its config.json as --base")
    }
    return published.heads
  }

  private func qformer() throws -> JSONObject {
    let query = try shape("query_tokens")
    let width = query.count == 3 ? query[2] : 0
    let given = bases.firstValue { base -> JSONObject? in
      let sizes = base.config?["qformer_config"] as? JSONObject
      return sizes?["hidden_size"] as? Int ?? 768 == width ? sizes : nil
    }
    var sizes = given ?? [:]
    let path = "qformer.encoder.layer."
    let layers = numbers(after: path)
    let crossing = numbers(after: path, before: ".crossattention.")
    sizes["hidden_size"] = width
    let published = (width: 768, heads: 12)
    sizes["num_attention_heads"] = try heads(
      sizes["num_attention_heads"] ?? (given != nil ? 12 : nil), width: width, published: published, "a Q-Former")
    sizes["num_hidden_layers"] = layers.count
    sizes["intermediate_size"] = try shape("\(path)0.intermediate_query.dense.weight")[0]
    sizes["cross_attention_frequency"] = crossing.count > 1 ? crossing[1] : max(layers.count, 1)
    sizes["encoder_hidden_size"] = try shape("\(path)0.crossattention.attention.key.weight").last
    sizes["use_qformer_text_input"] = architecture.readsText
    if architecture.readsText {
      sizes["vocab_size"] = try shape("embeddings.word_embeddings.weight")[0]
      sizes["max_position_embeddings"] = try shape("embeddings.position_embeddings.weight")[0]
    }
    return sizes
  }

  private func vision() throws -> JSONObject {
    // LAVIS' own epsilon for the norm of the output, whatever tower it is.
    let eps = ["post_layernorm_eps": BLIP2VisionConfiguration.lavis.outputNormEps]
    if let given = bases.firstValue(\.vision) { return given.merging(eps) { $1 } }
    let preset = BLIP2VisionConfiguration.lavis
    guard let width = weights.shape("vision_model.embeddings.class_embedding")?.last else {
      return try jsonObject(preset)  // Its weights will be named as missing.
    }
    let positions = try shape("vision_model.embeddings.position_embedding")
    let patch = try shape("vision_model.embeddings.patch_embedding.weight")
    let side = Int(Double(max(0, (positions.count == 3 ? positions[1] : 0) - 1)).squareRoot().rounded())
    var sizes: JSONObject = eps
    sizes["hidden_size"] = width
    let published = (width: preset.hiddenSize, heads: preset.heads)
    sizes["num_attention_heads"] = try heads(nil, width: width, published: published, "a vision tower")
    // EVA's file has the fortieth block, which BLIP-2 drops.
    sizes["num_hidden_layers"] = min(numbers(after: "vision_model.encoder.layers.").count, preset.layers)
    sizes["intermediate_size"] = try shape("vision_model.encoder.layers.0.mlp.fc1.weight")[0]
    sizes["patch_size"] = patch[patch.count - 1]
    sizes["image_size"] = max(1, side) * patch[patch.count - 1]
    return sizes
  }

  private func text() throws -> JSONObject? {
    guard let base = bases.first(where: { $0.text != nil }), let text = base.text else { return nil }
    let kinds: [LAVIS.Language: String] = [.opt: "opt", .t5: "t5", .llm: "llama"]
    let expected = language.flatMap { kinds[$0] } ?? ""
    let found = text["model_type"] as? String ?? "opt"
    guard found == expected else {
      throw PipelineError.wrongModel(
        folder: base.url.path, expected: "a language model of model_type \(expected) for \(file.lastPathComponent)",
        found: "model_type \(found)")
    }
    return text
  }

  /// The number that transformers' processor gives to the image token: the first one after the tokenizer's own. Nil when
  /// the word table has no such row.
  private func imageToken(_ text: JSONObject) throws -> Int? {
    guard let tokenizer else { return nil }
    let known = try Tokenizer(contentsOf: tokenizer)
    let id = known.id(of: "<image>") ?? known.vocabularySize
    let rows = try decode(LanguageTowerConfiguration.self, text, file: file.path).vocabularySize
    return id < rows ? id : nil
  }
}
