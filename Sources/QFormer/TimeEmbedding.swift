// When a frame is shown, as a vector: a learned table of frame numbers (Video-LLaMA, arXiv 2306.02858), or sine and
// cosine of seconds (Vaswani et al., arXiv 1706.03762, section 3.5, with seconds in the position's place).

import Foundation
import Torch
import TorchNN

/// How the time of a frame is told.
public enum TimeEncoding: String, Codable, Sendable, CaseIterable {
  /// A learned vector for each frame number.
  case learned
  /// Sine and cosine of the seconds; needs no weights and has no limit.
  case sinusoid
  /// Not at all.
  case none
}

/// How a learned table is stretched over a clip of more frames than it has rows.
public enum TableInterpolation: String, Codable, Sendable, CaseIterable {
  /// The row at ⌊t · rows / frames⌋.
  case nearest
  /// The mean of the two rows around (t + ½) · rows / frames − ½, weighted by their distance.
  case linear
}

/// How time is told, and how far a learned table reaches.
public struct TimeConfiguration: Codable, Sendable, Equatable {
  /// The kind of encoding.
  public var encoding = TimeEncoding.learned
  /// Rows of a learned table.
  public var maxFrames = 32
  /// What happens to clips of more frames than rows; nil makes them an error.
  public var interpolation: TableInterpolation?

  /// A learned table of 32 rows.
  public init() {}

  enum CodingKeys: String, CodingKey {
    case encoding
    case maxFrames = "max_frames"
    case interpolation
  }

  /// Fields that are absent take the defaults.
  public init(from decoder: any Decoder) throws {
    let fields = try decoder.container(keyedBy: CodingKeys.self)
    encoding = try fields.decodeIfPresent(TimeEncoding.self, forKey: .encoding) ?? encoding
    maxFrames = try fields.decodeIfPresent(Int.self, forKey: .maxFrames) ?? maxFrames
    interpolation = try fields.decodeIfPresent(TableInterpolation.self, forKey: .interpolation)
  }

  func validate() throws {
    guard (1...1_000_000).contains(maxFrames) else {
      throw QFormerError.invalidConfiguration("max_frames is \(maxFrames), expected 1 … 10⁶")
    }
  }
}

/// Vectors that say when a frame is shown.
struct TimeEmbedding: Sendable {
  let configuration: TimeConfiguration
  let width: Int
  /// `[maxFrames, width]`.
  let table: Embedding?

  /// N(0, 1), the start of Video-LLaMA's and Flamingo's tables, which are added to what has left a LayerNorm. Of a table that
  /// starts much smaller hardly anything is seen beside that.
  static let asLargeAsTokens = Initializer.normal(standardDeviation: 1)

  /// Takes `weight [maxFrames, width]` from the scope when the encoding is learned.
  init(_ configuration: TimeConfiguration, _ width: Int, _ scope: ParameterScope, initializer: Initializer) throws {
    try configuration.validate()
    self.configuration = configuration
    self.width = width
    table =
      configuration.encoding == .learned
      ? Embedding(configuration.maxFrames, width, scope, initializer: initializer) : nil
  }

  /// One vector for each frame of each clip, `[B, T, width]`, or nil when time is not told.
  ///
  /// A clip's own length counts, not that of the longest one in the batch: padding changes nothing.
  ///
  /// - Parameters:
  ///   - clip: Its lengths and seconds are read.
  ///   - first: The number of its first frame in a longer video. A table is then never stretched: the end is unknown.
  /// - Throws: ``QFormerError/invalidInput(_:)`` for more frames than rows, or no seconds.
  func callAsFunction(_ clip: TimedFeatures, first: Int = 0) throws -> Tensor? {
    switch configuration.encoding {
    case .none: return nil
    case .sinusoid:
      guard let seconds = clip.seconds else {
        throw QFormerError.invalidInput("this adapter tells time by a sinusoid of seconds, and the clip has no seconds")
      }
      return Self.sinusoid(seconds, width)
    case .learned: return try rows(clip, first)
    }
  }

  /// sin(τ / 10000^(2i / width)) in the even places 2i, cos of the same in the odd ones: `[…, width]`.
  static func sinusoid(_ seconds: Tensor, _ width: Int) -> Tensor {
    let pairs = (width + 1) / 2
    let frequencies = (0..<pairs).map { pow(10_000, -2 * Double($0) / Double(width)) }
    let angles = seconds.to(.float64).unsqueezed(-1) * Tensor(frequencies)  // […, width / 2]
    let both = Tensor.stack([angles.sin(), angles.cos()], -1)  // […, width / 2, 2]
    return both.reshaped(seconds.shape + [2 * pairs]).slice(-1, 0, width).to(.float32)
  }

  private func rows(_ clip: TimedFeatures, _ first: Int) throws -> Tensor? {
    guard let table else { return nil }
    let rows = configuration.maxFrames
    var (lower, upper, part): ([Int], [Int], [Double]) = ([], [], [])
    for length in clip.lengths {
      let stretch = first + length > rows ? configuration.interpolation : nil
      guard first + length <= rows || (stretch != nil && first == 0) else {
        throw QFormerError.invalidInput(
          "frame \(first + length) is behind the \(rows) rows of the table of frame positions; "
            + (first == 0
              ? "set an interpolation (nearest or linear), take fewer frames, or encode seconds by a sinusoid"
              : "a stream has no end to stretch it over: encode seconds by a sinusoid, or count within each window"))
      }
      for frame in 0..<clip.frames {
        // Padding takes any row.
        let frame = min(frame, length - 1)
        var place = Double(first + frame)
        switch stretch {
        case .nearest: place = Double(frame * rows / length)
        case .linear: place = max(0, (Double(frame) + 0.5) * Double(rows) / Double(length) - 0.5)
        case nil: break
        }
        lower.append(Int(place))
        upper.append(min(Int(place) + 1, rows - 1))
        part.append(place - place.rounded(.down))
      }
    }
    let shape = [clip.batch, clip.frames]
    let start = table(Tensor(lower, shape))  // [B, T, width]
    guard part.contains(where: { $0 > 0 }) else { return start }
    let weight = Tensor(part, shape + [1]).to(.float32)
    return start * (1 - weight) + table(Tensor(upper, shape)) * weight
  }
}
