// A spatio-temporal Q-Former that starts from an image Q-Former, so that before any training it reads the mean of the
// frames as its source reads an image.

import Torch
public import TorchNN

extension SpatioTemporalQFormer {
  /// A model made of an image adapter's tensors.
  public struct Expansion {
    /// The model.
    public let model: SpatioTemporalQFormer
    /// Its parameters; none shares storage with the source.
    public let parameters: Parameters
    /// Names of what the source could not give and is not part of the recipe: fresh, from the seed.
    public let fresh: [String]
  }

  /// Expands an image Q-Former: attention, text parts, projection and heads are copied; its feed-forward part for
  /// queries becomes that of every group; its queries become the spatial ones, with noise N(0, 0.02²) the temporal
  /// ones, and their mean the summary; attentive pooling starts as the mean, time and λ at zero.
  ///
  /// - Parameters:
  ///   - source: The parameters of an ``ImageTextQFormer`` or an ``ImageLanguageQFormer``.
  ///   - configuration: Of the new model; its layers and widths must be the source's.
  ///   - seed: Of the noise, and of the projection or the heads where the source has none.
  /// - Throws: ``QFormerError/invalidConfiguration(_:)`` that names every tensor that is missing or of another shape.
  public static func fromImageQFormer(
    _ source: Parameters, _ configuration: SpatioTemporalConfiguration, seed: UInt64
  ) throws -> Expansion {
    try configuration.validate()
    let expanded = ExpandedParameters(source, configuration, seed: seed)
    let parameters = Parameters()
    let model = try SpatioTemporalQFormer(configuration, ParameterScope(expanded, parameters: parameters))
    guard expanded.faults.isEmpty else {
      throw QFormerError.invalidConfiguration(
        "the image Q-Former does not fit: " + expanded.faults.joined(separator: "; "))
    }
    return Expansion(model: model, parameters: parameters, fresh: expanded.freshNames)
  }
}

/// Answers for a spatio-temporal model out of an image Q-Former.
private final class ExpandedParameters: ParameterSource {
  private let source: Parameters
  private let configuration: SpatioTemporalConfiguration
  private let fresh: FreshParameters
  private let noise: Generator
  private(set) var faults: [String] = []
  private(set) var freshNames: [String] = []

  /// What an image Q-Former has not, and what starts as it does in any fresh model.
  private static let added = ["pooling.", "time_embedding.", "importance_scale"]
  /// What one stage's adapter has and the other's has not.
  private static let optional = [
    "language_projection.", "vision_projection.", "text_projection.", "itm_head.", "temp", "cls.",
  ]

  init(_ source: Parameters, _ configuration: SpatioTemporalConfiguration, seed: UInt64) {
    self.source = source
    self.configuration = configuration
    fresh = FreshParameters(seed: seed)
    noise = Generator(seed: seed &+ 1)
  }

  func has(_ name: String) -> Bool { true }

  func parameter(_ name: String, shape: [Int], initializer: Initializer) -> Tensor {
    let starts = { (prefixes: [String]) in prefixes.contains { name.hasPrefix($0) } }
    if starts(Self.added) { return fresh.parameter(name, shape: shape, initializer: initializer) }
    if name == "query_tokens" { return queryTokens(shape) }
    let original = Self.original(name)
    guard let tensor = source[original] else {
      if starts(Self.optional) {
        freshNames.append(name)
      } else {
        faults.append("it has no \(original)")
      }
      return fresh.parameter(name, shape: shape, initializer: initializer)
    }
    guard tensor.shape == shape else {
      faults.append("\(original): expected the shape \(shape), found \(tensor.shape)")
      return .zeros(shape)
    }
    return tensor.detached().cloned()
  }

  /// `intermediate_spatial` and `output_spatial` come from `intermediate_query` and `output_query`.
  private static func original(_ name: String) -> String {
    name.split(separator: ".").map { part in
      for group in QueryGroup.allCases where part.hasSuffix("_\(group.rawValue)") {
        return part.dropLast(group.rawValue.count) + "query"
      }
      return String(part)
    }.joined(separator: ".")
  }

  private func queryTokens(_ shape: [Int]) -> Tensor {
    let width = shape[2]
    let found = source["query_tokens"]?.detached()
    let count = found?.size(1) ?? 0
    let (spatial, temporal) = (configuration.spatialQueries, configuration.temporalQueries)
    guard let found, found.shape == [1, count, width], max(spatial, temporal) <= count else {
      faults.append(
        "query_tokens: expected the shape [1, at least \(max(spatial, temporal)), \(width)] for \(spatial) spatial and "
          + "\(temporal) temporal queries, found \(found?.shape.description ?? "none")")
      return .zeros(shape)
    }
    var parts: [Tensor] = []
    if spatial > 0 { parts.append(found.narrow(1, 0, spatial)) }
    if temporal > 0 {
      parts.append(found.narrow(1, 0, temporal) + Tensor.randn([1, temporal, width], generator: noise) * 0.02)
    }
    if configuration.summaryQueries > 0 {
      parts.append(found.mean(1, keepDimension: true).repeated(1, configuration.summaryQueries, 1))
    }
    return .cat(parts, 1).contiguous()
  }
}
