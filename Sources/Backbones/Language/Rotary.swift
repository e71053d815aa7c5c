import Foundation
import Synchronization
import Torch

/// How fast the pairs of a head turn from one position to the next (rotary positions, Su et al., arXiv 2104.09864).
public struct RotaryConfiguration: Codable, Sendable, Equatable {
  /// Llama 3.1 stretches the slow turns for texts longer than those of its first training.
  public struct Stretch: Sendable, Equatable {
    /// How much slower the slowest pairs turn.
    public var factor: Double
    /// Pairs with fewer turns than this in the original length are slowed by the whole factor.
    public var lowFrequencyFactor: Double
    /// Pairs with more turns than this are left alone.
    public var highFrequencyFactor: Double
    /// Tokens.
    public var originalPositions: Int
  }

  /// The wavelength of the slowest pair, over 2π, in tokens.
  public var base = 10_000.0
  /// None for `default`; set for `llama3`.
  public var stretch: Stretch?

  enum CodingKeys: String, CodingKey {
    case base = "rope_theta"
    case kind = "rope_type"
    case oldKind = "type"
    case factor
    case lowFrequencyFactor = "low_freq_factor"
    case highFrequencyFactor = "high_freq_factor"
    case originalPositions = "original_max_position_embeddings"
  }

  /// A base of 10,000 without stretching.
  public init() {}

  /// Decodes `rope_parameters` or `rope_scaling`; throws a `DecodingError` that names any other kind.
  public init(from decoder: any Decoder) throws {
    let fields = try decoder.container(keyedBy: CodingKeys.self)
    try fields.word(.kind, oneOf: ["default", "llama3"])
    try fields.word(.oldKind, oneOf: ["default", "llama3"])
    base = try fields.value(.base, default: base)
    guard base > 1, base.isFinite else { throw fields.corrupted(.base, "expected more than 1, found \(base)") }
    let kind = try fields.decodeIfPresent(String.self, forKey: .kind)
    guard try kind ?? fields.decodeIfPresent(String.self, forKey: .oldKind) == "llama3" else { return }
    let stretch = Stretch(
      factor: try fields.decode(Double.self, forKey: .factor),
      lowFrequencyFactor: try fields.decode(Double.self, forKey: .lowFrequencyFactor),
      highFrequencyFactor: try fields.decode(Double.self, forKey: .highFrequencyFactor),
      originalPositions: try fields.size(.originalPositions, in: Limit.positions))
    guard stretch.factor >= 1, stretch.highFrequencyFactor > stretch.lowFrequencyFactor else {
      throw fields.corrupted(.factor, "expected 1 or more, and high_freq_factor above low_freq_factor")
    }
    self.stretch = stretch
  }

  /// Encodes what ``init(from:)`` decodes.
  public func encode(to encoder: any Encoder) throws {
    var fields = encoder.container(keyedBy: CodingKeys.self)
    try fields.encode(base, forKey: .base)
    try fields.encode(stretch == nil ? "default" : "llama3", forKey: .kind)
    guard let stretch else { return }
    try fields.encode(stretch.factor, forKey: .factor)
    try fields.encode(stretch.lowFrequencyFactor, forKey: .lowFrequencyFactor)
    try fields.encode(stretch.highFrequencyFactor, forKey: .highFrequencyFactor)
    try fields.encode(stretch.originalPositions, forKey: .originalPositions)
  }

  /// The angle of each pair from one position to the next, in radians, `[d/2]`.
  func angles(headWidth: Int) -> Tensor {
    // In float32 from the first step on, as the models were trained.
    let exponents = Tensor((0..<headWidth / 2).map { Float(2 * $0) }) / Double(headWidth)
    let angles = 1 / Tensor.pow(base, exponents)
    guard let stretch else { return angles }
    return Tensor(
      angles.values(as: Float.self).map { angle in
        let turns = Double(stretch.originalPositions) * Double(angle) / (2 * .pi)
        let (low, high) = (stretch.lowFrequencyFactor, stretch.highFrequencyFactor)
        let kept = min(max((turns - low) / (high - low), 0), 1)
        return Float((1 - kept) * Double(angle) / stretch.factor + kept * Double(angle))
      })
  }
}

/// (cos, sin) of every pair at every position, grown as longer texts come.
final class RotaryTable: Sendable {
  private let angles: Tensor  // [d/2]
  private let table: Mutex<Tensor>  // [positions, d/2, 2]

  init(_ configuration: RotaryConfiguration, headWidth: Int) {
    angles = withNoGrad { configuration.angles(headWidth: headWidth) }
    table = Mutex(Tensor.zeros([0, headWidth / 2, 2]))
  }

  /// What the pairs are multiplied by, `[B or 1, L, 1, d/2, 2]`.
  func turns(_ plan: AttentionPlan, length: Int) -> Tensor {
    withNoGrad {
      let table = table.withLock { table in
        let needed = plan.start + length
        if table.size(0) < needed {
          let positions = Tensor.arange(0, (needed + 255) / 256 * 256).to(.float32)
          let phases = positions.unsqueezed(1) * angles  // [positions, d/2]
          table = Tensor.stack([phases.cos(), phases.sin()], -1)
        }
        return table
      }
      guard let positions = plan.positions else {
        return table.narrow(0, plan.start, length).unsqueezed(1).unsqueezed(0)
      }
      return table.indexSelect(0, positions.flattened())
        .reshaped(positions.size(0), length, 1, angles.size(0), 2)
    }
  }
}
