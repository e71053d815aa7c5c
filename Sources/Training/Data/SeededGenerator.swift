import Foundation

/// SplitMix64: a small generator whose numbers are the same on every machine and in every version.
///
/// Source: Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014; the constants are those of
/// Vigna's public-domain `splitmix64.c`. State 64 bits, period 2⁶⁴. Not for secrets.
public struct SeededGenerator: RandomNumberGenerator, Codable, Sendable, Equatable {
  private var state: UInt64

  /// A generator that starts at `seed`.
  public init(seed: UInt64) {
    state = seed
  }

  /// A generator of its own for every `(seed, stream)`: an epoch, a sample, a rank.
  public init(seed: UInt64, stream: UInt64) {
    state = Self.mix(Self.mix(seed) &+ stream &* 0x9E37_79B9_7F4A_7C15)
  }

  /// The next 64 bits.
  public mutating func next() -> UInt64 {
    state &+= 0x9E37_79B9_7F4A_7C15
    return Self.mix(state)
  }

  /// A number in `0..<bound`: the high half of a 128-bit product. Its bias, at most `bound / 2⁶⁴`, is of no account here.
  /// `bound` must be positive.
  public mutating func number(below bound: Int) -> Int {
    precondition(bound > 0, "a bound must be positive")
    return Int(next().multipliedFullWidth(by: UInt64(bound)).high)
  }

  /// A number in `0..<1`, with 53 random bits.
  public mutating func unit() -> Double {
    Double(next() >> 11) * 0x1p-53
  }

  /// A normally distributed number, mean 0 and deviation 1 (Box and Muller's cosine branch).
  public mutating func normal() -> Double {
    let radius = 1 - unit()  // in (0, 1]
    let angle = unit()
    return (-2 * log(radius)).squareRoot() * cos(2 * .pi * angle)
  }

  /// Shuffles in place, from the last element down (Fisher, Yates, Durstenfeld).
  ///
  /// The standard library's `shuffle(using:)` may change its order between versions; this one does not.
  public mutating func shuffle<Element>(_ elements: inout [Element]) {
    guard elements.count > 1 else { return }
    for last in stride(from: elements.count - 1, through: 1, by: -1) {
      elements.swapAt(last, number(below: last + 1))
    }
  }

  private static func mix(_ value: UInt64) -> UInt64 {
    var z = value
    z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
    z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
    return z ^ (z >> 31)
  }
}
