public import Foundation
public import Torch
public import TorchNN

/// Sizes of a language model of any kind that this library knows; `model_type` says which.
public enum LanguageTowerConfiguration: Codable, Sendable, Equatable {
  /// Llama, Vicuna, SmolLM2.
  case llama(LlamaConfiguration)
  /// OPT.
  case opt(OPTConfiguration)
  /// T5 and Flan-T5.
  case t5(T5Configuration)

  private enum Keys: String, CodingKey { case modelType = "model_type" }

  /// Decodes a `config.json` or `text_config`; throws a `DecodingError` that lists the known kinds for another one.
  public init(from decoder: any Decoder) throws {
    let fields = try decoder.container(keyedBy: Keys.self)
    switch try fields.decode(String.self, forKey: .modelType) {
    case "llama": self = .llama(try LlamaConfiguration(from: decoder))
    case "opt": self = .opt(try OPTConfiguration(from: decoder))
    case "t5": self = .t5(try T5Configuration(from: decoder))
    case let other: throw fields.corrupted(.modelType, "expected llama, opt or t5; found \(other)")
    }
  }

  /// Encodes the model's configuration and its `model_type`.
  public func encode(to encoder: any Encoder) throws {
    var fields = encoder.container(keyedBy: Keys.self)
    switch self {
    case .llama(let configuration):
      try fields.encode("llama", forKey: .modelType)
      try configuration.encode(to: encoder)
    case .opt(let configuration):
      try fields.encode("opt", forKey: .modelType)
      try configuration.encode(to: encoder)
    case .t5(let configuration):
      try fields.encode("t5", forKey: .modelType)
      try configuration.encode(to: encoder)
    }
  }

  /// The width of the embeddings that go in.
  public var hiddenSize: Int {
    switch self {
    case .llama(let configuration): configuration.hiddenSize
    case .opt(let configuration): configuration.embeddingSize
    case .t5(let configuration): configuration.hiddenSize
    }
  }

  /// V, the rows of the word table.
  public var vocabularySize: Int {
    switch self {
    case .llama(let configuration): configuration.vocabularySize
    case .opt(let configuration): configuration.vocabularySize
    case .t5(let configuration): configuration.vocabularySize
    }
  }

  /// Patterns of keys that files hold beside the weights: tied matrices stored again, and tables that are recomputed.
  ///
  /// - Parameter hasHead: Whether the file has `lm_head.weight`.
  public func ignoredKeys(hasHead: Bool) -> [String] {
    switch self {
    case .llama(let configuration):
      ["*.rotary_emb.inv_freq"] + (configuration.tiesEmbeddings ? ["lm_head.weight"] : [])
    case .opt(let configuration): configuration.tiesEmbeddings ? ["lm_head.weight"] : []
    case .t5(let configuration): T5.copies(configuration, hasHead: hasHead)
    }
  }

  /// Tokens that end a text.
  public var endIDs: [Int] {
    switch self {
    case .llama(let configuration): configuration.endIDs
    case .opt(let configuration): configuration.endIDs
    case .t5(let configuration): configuration.endIDs
    }
  }
}

/// A language model of any kind that this library knows.
public enum LanguageTower: GenerativeModel {
  /// Llama, Vicuna, SmolLM2.
  case llama(Llama)
  /// OPT.
  case opt(OPT)
  /// T5 and Flan-T5.
  case t5(T5)

  /// Takes all weights from the scope, under Hugging Face's names (in a whole BLIP-2 model: below `language_model`).
  public init(_ configuration: LanguageTowerConfiguration, _ scope: ParameterScope) {
    switch configuration {
    case .llama(let configuration): self = .llama(Llama(configuration, scope))
    case .opt(let configuration): self = .opt(OPT(configuration, scope))
    case .t5(let configuration): self = .t5(T5(configuration, scope))
    }
  }

  /// Loads `config.json` and the weights of a folder in Hugging Face layout, strictly.
  ///
  /// - Throws: ``BackboneError`` for the configuration or an unknown `model_type`, `CheckpointError` for the weights.
  public static func load(folder: URL) throws -> LanguageTower {
    switch try readConfiguration(LanguageTowerConfiguration.self, folder: folder) {
    case .llama: .llama(try Llama.load(folder: folder))
    case .opt: .opt(try OPT.load(folder: folder))
    case .t5: .t5(try T5.load(folder: folder))
    }
  }

  /// The model's sizes.
  public var configuration: LanguageTowerConfiguration {
    switch self {
    case .llama(let model): .llama(model.configuration)
    case .opt(let model): .opt(model.configuration)
    case .t5(let model): .t5(model.configuration)
    }
  }

  /// The model when it is decoder-only, for callers with masks of their own.
  public var causal: (any CausalLanguageModel)? {
    switch self {
    case .llama(let model): model
    case .opt(let model): model
    case .t5: nil
    }
  }

  private var model: any GenerativeModel {
    switch self {
    case .llama(let model): model
    case .opt(let model): model
    case .t5(let model): model
    }
  }

  /// The width of the embeddings that go in.
  public var hiddenSize: Int { model.hiddenSize }
  /// V.
  public var vocabularySize: Int { model.vocabularySize }
  /// Word embeddings: `int64` of any shape to `[…, D]`.
  public func embed(_ ids: Tensor) -> Tensor { model.embed(ids) }
  /// The ids that the repetition penalty counts before the first new token comes.
  public func penalizedIDs(prompt: [Int]) -> [Int] { model.penalizedIDs(prompt: prompt) }
  /// Reads prompts `[B, L, D]`.
  public func read(inputsEmbeds: Tensor, attentionMask: Tensor?) -> (logits: Tensor, state: any TextState) {
    model.read(inputsEmbeds: inputsEmbeds, attentionMask: attentionMask)
  }
  /// Logits `[B, L, V]` that predict each token of targets `[B, L]`.
  public func targetLogits(inputsEmbeds: Tensor, attentionMask: Tensor?, targets: Tensor) -> Tensor {
    model.targetLogits(inputsEmbeds: inputsEmbeds, attentionMask: attentionMask, targets: targets)
  }
}
