public import Torch
public import TorchNN

/// How the similarities of a text with all queries of one image or video become one number.
public enum QueryAggregation: String, Codable, Sendable, CaseIterable {
  /// The largest (BLIP-2).
  case max
  /// The mean (VideoChat2, arXiv 2311.17005).
  case mean
  /// That of the last query, which stands for the whole.
  case summary
}

/// What the matching head reads.
public enum MatchingHead: String, Codable, Sendable, CaseIterable {
  /// Every query; the logits are averaged (BLIP-2).
  case meanLogits
  /// The mean of the queries and, beside it, the text's first token (VideoChat2).
  case catTextCLS
  /// The last query, which stands for the whole.
  case summary
  /// Nothing: matching has not been trained, and there is no head.
  case none
}

/// What the temperature of contrastive similarities is kept within in training.
public struct TemperatureRange: Codable, Sendable, Equatable {
  /// The lowest value.
  public var minimum: Double
  /// The highest value.
  public var maximum: Double

  /// Makes a range.
  public init(minimum: Double, maximum: Double) {
    self.minimum = minimum
    self.maximum = maximum
  }

  /// 0.001 … 0.5, as in VideoChat2.
  public static let videoChat2 = TemperatureRange(minimum: 0.001, maximum: 0.5)
}

/// Sizes and choices of ``ObjectiveHeads``.
public struct ObjectiveConfiguration: Codable, Sendable, Equatable {
  /// E, the width of contrastive features.
  public var contrastiveSize = 256
  /// The temperature that training starts with.
  public var temperature = 0.07
  /// What the temperature is kept within before each loss; nil for no limits.
  public var temperatureRange: TemperatureRange?
  /// Whether there is a language-model head for generation. Models for retrieval alone do without.
  public var hasGenerationHead = true
  /// How queries are compared with a text.
  public var aggregation = QueryAggregation.max
  /// What matching reads.
  public var matchingHead = MatchingHead.meanLogits

  /// BLIP-2's choices.
  public init() {}

  enum CodingKeys: String, CodingKey {
    case contrastiveSize = "image_text_hidden_size"
    case temperature = "initial_temperature"
    case temperatureRange = "temperature_range"
    case hasGenerationHead = "has_generation_head"
    case aggregation = "query_aggregation"
    case matchingHead = "matching_head"
  }

  /// Fields that are absent take BLIP-2's choices.
  public init(from decoder: any Decoder) throws {
    let fields = try decoder.container(keyedBy: CodingKeys.self)
    contrastiveSize = try fields.decodeIfPresent(Int.self, forKey: .contrastiveSize) ?? contrastiveSize
    temperature = try fields.decodeIfPresent(Double.self, forKey: .temperature) ?? temperature
    temperatureRange = try fields.decodeIfPresent(TemperatureRange.self, forKey: .temperatureRange)
    hasGenerationHead = try fields.decodeIfPresent(Bool.self, forKey: .hasGenerationHead) ?? hasGenerationHead
    aggregation = try fields.decodeIfPresent(QueryAggregation.self, forKey: .aggregation) ?? aggregation
    matchingHead = try fields.decodeIfPresent(MatchingHead.self, forKey: .matchingHead) ?? matchingHead
  }
}

/// What compares queries with texts: projections for contrast, the matching head, the language-model head.
public struct ObjectiveHeads: Sendable {
  /// Its sizes and choices.
  public let configuration: ObjectiveConfiguration
  /// The temperature that contrastive similarities are divided by, a parameter of one element.
  public let temperature: Tensor
  private let queries: Int
  private let visionProjection: Linear
  private let textProjection: Linear
  private let matchingHead: Linear?
  private let generationHead: GenerationHead?

  /// Takes `vision_projection`, `text_projection`, `itm_head`, `temp` and `cls.predictions` from the scope.
  ///
  /// - Parameters:
  ///   - configuration: Sizes and choices.
  ///   - qformer: What the heads sit on; it must read text.
  ///   - scope: Where the parameters come from.
  /// - Throws: ``QFormerError/invalidConfiguration(_:)``.
  public init(_ configuration: ObjectiveConfiguration, on qformer: QFormer, _ scope: ParameterScope) throws {
    guard let words = qformer.wordTable else {
      throw QFormerError.invalidConfiguration("use_qformer_text_input is false, but matching needs text")
    }
    guard (1...1_000_000).contains(configuration.contrastiveSize) else {
      throw QFormerError.invalidConfiguration("image_text_hidden_size is \(configuration.contrastiveSize)")
    }
    if let range = configuration.temperatureRange, !(0 < range.minimum && range.minimum <= range.maximum) {
      throw QFormerError.invalidConfiguration(
        "temperature_range is \(range.minimum) … \(range.maximum), expected 0 < minimum ≤ maximum")
    }
    self.configuration = configuration
    queries = qformer.configuration.queries
    let width = qformer.configuration.hiddenSize
    visionProjection = Linear(width, configuration.contrastiveSize, scope["vision_projection"])
    textProjection = Linear(width, configuration.contrastiveSize, scope["text_projection"])
    matchingHead =
      configuration.matchingHead == .none
      ? nil : Linear(configuration.matchingHead == .catTextCLS ? 2 * width : width, 2, scope["itm_head"])
    temperature = scope.parameter("temp", [], .constant(configuration.temperature))
    generationHead =
      configuration.hasGenerationHead
      ? GenerationHead(qformer.configuration, words: words, scope["cls.predictions"]) : nil
  }

  /// Contrastive features of hidden states of queries `[B, M, D]`, each of length 1: `[B, M, E]`, or `[B, 1, E]` where
  /// the last query alone counts.
  public func imageFeatures(_ hidden: Tensor) -> Tensor {
    visionProjection(configuration.aggregation == .summary ? hidden.slice(1, -1) : hidden).normalized()
  }

  /// The contrastive feature `[B, E]` of hidden states of text `[B, L, D]`: its first token, of length 1.
  public func textFeature(_ hidden: Tensor) -> Tensor { textProjection(hidden.select(1, 0)).normalized() }

  /// Similarities `[B, T]` of features `[B, M, E]` with texts `[T, E]`, without temperature.
  public func similarity(imageFeatures: Tensor, textFeatures: Tensor) -> Tensor {
    Contrastive.similarity(
      imageFeatures: imageFeatures, textFeatures: textFeatures, aggregation: configuration.aggregation)
  }

  /// Whether there is a matching head.
  public var hasMatchingHead: Bool { matchingHead != nil }

  /// Matching logits `[B, 2]` of hidden states of queries and text `[B, M + L, D]`; index 1 is "match".
  ///
  /// - Throws: ``QFormerError/missingPart(_:)`` when there is no such head.
  public func matchingLogits(_ hidden: Tensor) throws -> Tensor {
    guard let matchingHead else { throw QFormerError.missingPart("matching head (ITM): it has not been trained") }
    let query = hidden.narrow(1, 0, queries)
    switch configuration.matchingHead {
    case .meanLogits: return matchingHead(query).mean(1)
    case .catTextCLS: return matchingHead(.cat([query.mean(1), hidden.select(1, queries)], 1))  // [B, 2 D]
    case .summary, .none: return matchingHead(query.select(1, queries - 1))
    }
  }

  /// Next-token logits `[…, vocabulary]` of hidden states of text `[…, D]`.
  ///
  /// - Throws: ``QFormerError/missingPart(_:)`` when there is no such head.
  public func generationLogits(_ hidden: Tensor) throws -> Tensor {
    guard let generationHead else { throw QFormerError.missingPart("language-model head") }
    return generationHead(hidden)
  }

  /// Brings the temperature back into its range, in place and outside the graph (VideoChat2 does so before each step).
  func clampTemperature() {
    guard let range = configuration.temperatureRange else { return }
    withNoGrad { temperature.copy(from: temperature.clamped(min: range.minimum, max: range.maximum)) }
  }
}

/// BERT's head for predicting tokens; its output matrix is the word table.
private struct GenerationHead: Sendable {
  let dense: Linear
  let norm: LayerNorm
  let bias: Tensor
  let words: Tensor

  init(_ configuration: QFormerConfiguration, words: Tensor, _ scope: ParameterScope) {
    dense = Linear(configuration.hiddenSize, configuration.hiddenSize, scope["transform.dense"])
    norm = LayerNorm(configuration.hiddenSize, eps: configuration.layerNormEps, scope["transform.LayerNorm"])
    bias = scope.parameter("bias", [configuration.vocabularySize], .zeros)
    self.words = words
  }

  func callAsFunction(_ hidden: Tensor) -> Tensor { norm(dense(hidden).gelu()).linear(words, bias) }
}
