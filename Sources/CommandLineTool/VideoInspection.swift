import Foundation
import Pipelines
import QFormer

/// What there is to say about a video adapter at the number of frames that it was trained on.
struct VideoInspection {
  /// T.
  let frames: Int
  /// Tokens that are written for a clip.
  let tokens: Int
  /// Multiply–accumulates for a clip, with the projection to the language model.
  let cost: Int
  /// Sizes that this family has, with their names in JSON.
  let sizes: [(name: String, value: String)]
  /// The three families at these sizes.
  let families: [VideoFamily]

  /// - Parameter imageTokens: N, the tokens of a frame.
  init?(_ configuration: AdapterConfiguration, imageTokens: Int) {
    let frames = (configuration.frames ?? AdapterConfiguration.Frames()).count
    self.frames = frames
    let width: Int
    let languageSize: Int?
    if let cascade = configuration.cascaded {
      let (frame, temporal) = (cascade.frame, cascade.temporal)
      families = cascade.families(frames: frames, imageTokens: imageTokens)
      (width, languageSize) = (temporal.hiddenSize, cascade.languageSize)
      sizes = [
        ("frame Q-Former", "\(frame.layers) layers, \(frame.queries) queries, width \(frame.hiddenSize)"),
        ("temporal Q-Former", "\(temporal.layers) layers, \(temporal.queries) queries, width \(temporal.hiddenSize)"),
        ("time", "\(cascade.time.words), \(cascade.site.rawValue)"),
        ("heads", Self.words(cascade.objectives)),
      ]
    } else if let whole = configuration.spatioTemporal {
      families = whole.families(frames: frames, imageTokens: imageTokens)
      (width, languageSize) = (whole.qformer.hiddenSize, whole.languageSize)
      let experts = whole.expertLayers ?? whole.qformer.layers
      sizes = [
        ("Q-Former", "\(whole.qformer.layers) layers, \(experts) with experts, width \(whole.qformer.hiddenSize)"),
        (
          "queries",
          "\(whole.spatialQueries) spatial, \(whole.temporalQueries) temporal, \(whole.summaryQueries) summary"
        ),
        (
          "pooling",
          whole.pooling == .mean
            ? "mean"
            : String(
              format: "attentive, %d heads, %.2f GMAC", whole.poolingHeads,
              Double(whole.poolingMultiplyAccumulates(frames: frames, imageTokens: imageTokens)) / 1e9)
        ),
        ("cross mask", whole.hasCrossMask ? "on" : "off"),
        ("time", "\(whole.time.words), \(whole.timeSite.rawValue)"),
        ("heads", Self.words(whole.objectives)),
      ]
    } else {
      return nil
    }
    let own = families.first(where: \.isOwn)
    tokens = own?.tokens ?? 0
    cost = (own?.multiplyAccumulates ?? 0) + tokens * width * (languageSize ?? 0)
  }

  private static func words(_ objectives: ObjectiveConfiguration?) -> String {
    guard let objectives else { return "none" }
    return "contrast over \(objectives.aggregation.rawValue), matching by \(objectives.matchingHead.rawValue), width "
      + "\(objectives.contrastiveSize)"
  }

  /// Lines for people.
  var lines: [String] {
    let rows =
      [["family", "queries see", "tokens", "time", "objectives", "GMAC"]]
      + families.map { family in
        [
          (family.isOwn ? "* " : "  ") + family.kind.rawValue, family.queriesSee,
          "\(family.tokens)" + (family.growsWithFrames ? " (\(family.tokens / frames) · T)" : ""), family.time,
          family.objectives, String(format: "%.2f", Double(family.multiplyAccumulates) / 1e9),
        ]
      }
    let widths = (rows.first ?? []).indices.map { column in rows.map { $0[column].count }.max() ?? 0 }
    let table = rows.map { row in
      zip(row, widths).map { $0.padding(toLength: $1, withPad: " ", startingAt: 0) }.joined(separator: "  ")
        .replacingOccurrences(of: " +$", with: "", options: .regularExpression)
    }
    return sizes.map { $0.name.padding(toLength: max(19, $0.name.count + 1), withPad: " ", startingAt: 0) + $0.value }
      + ["", "families at T = \(frames), * this model, the projection left out"] + table
  }

  /// Fields for JSON.
  var json: [String: Any] {
    [
      "frames": frames, "sizes": Dictionary(sizes) { first, _ in first },
      "families": families.map { family -> [String: Any] in
        [
          "family": family.kind.rawValue, "queries_see": family.queriesSee, "tokens": family.tokens,
          "time": family.time, "objectives": family.objectives,
          "multiply_accumulates": family.multiplyAccumulates, "is_model": family.isOwn,
        ]
      },
    ]
  }
}

extension TimeConfiguration {
  /// The encoding, and how far a table reaches.
  fileprivate var words: String {
    guard encoding == .learned else { return encoding.rawValue }
    return "learned, \(maxFrames) frames" + (interpolation.map { ", \($0.rawValue) beyond" } ?? "")
  }
}
