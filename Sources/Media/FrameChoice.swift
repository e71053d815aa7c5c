import CMedia

/// Which frames of a video are taken.
public enum FrameChoice: Sendable, Equatable {
  /// `n` frames at even distances, frame `floor(i L / n)` of `L` for i = 0 ... n - 1: each part's left edge, as
  /// Video-LLaMA takes them. A video with fewer frames gives all it has.
  case uniform(Int)
  /// `n` frames at even distances, frame `floor((i + 0.5) L / n)`: each part's middle. A video with fewer frames gives
  /// all it has.
  case uniformMiddle(Int)
  /// `floor(n / 2)` different frames at random out of the first half and the others out of the second, in order of time
  /// (Video-LLaMA's choice in training). The same seed gives the same frames. A video with fewer frames gives all.
  case headTail(Int, seed: UInt64)
  /// The frames shown at 0, 1/rate, 2/rate, … seconds, each once: a rate above the video's own gives every frame once.
  case rate(Double)
  /// The frames shown at these seconds from the file's start, in the order given.
  case seconds([Double])

  /// The places among `count` frames that are in order of time, ascending; nil for choices that go by time.
  public func places(of count: Int) -> [Int]? {
    switch self {
    case .uniform(let n):
      let n = min(n, count)
      return (0..<n).map { Int(UInt64($0).product(count) / UInt64(n)) }
    case .uniformMiddle(let n):
      let n = min(n, count)
      return (0..<n).map { Int((2 * UInt64($0) + 1).product(count) / (2 * UInt64(n))) }
    case .headTail(let n, let seed):
      let n = min(n, count)
      var generator = SplitMix64(state: seed)
      let head = generator.sample(n / 2, below: count / 2)
      let tail = generator.sample(n - n / 2, below: count - count / 2).map { $0 + count / 2 }
      return head + tail
    case .rate, .seconds: return nil
    }
  }

  /// What is wrong with the numbers themselves, as (expected, found).
  var objection: (expected: String, found: String)? {
    switch self {
    case .uniform(let n), .uniformMiddle(let n), .headTail(let n, _):
      (1...1_000_000).contains(n) ? nil : ("1 to 1000000 frames", "\(n)")
    case .rate(let rate):
      rate > 0 && rate <= 1000 ? nil : ("a rate above 0 and at most 1000 frames a second", "\(rate)")
    case .seconds(let times):
      if times.isEmpty {
        ("at least one time", "none")
      } else if let bad = times.first(where: { !($0 >= 0 && $0 <= 1e9) }) {
        ("times from 0 to 1e9 seconds", "\(bad)")
      } else {
        nil
      }
    }
  }
}

extension UInt64 {
  fileprivate func product(_ other: Int) -> UInt64 { self * UInt64(other) }
}

/// Steele, Lea and Flood's SplitMix64, "Fast splittable pseudorandom number generators" (2014).
struct SplitMix64: RandomNumberGenerator {
  var state: UInt64

  mutating func next() -> UInt64 {
    state &+= 0x9E37_79B9_7F4A_7C15
    var z = state
    z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
    z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
    return z ^ (z >> 31)
  }

  /// `count` different numbers below `limit`, ascending (Floyd's method: memory for `count` of them).
  mutating func sample(_ count: Int, below limit: Int) -> [Int] {
    var chosen = Set<Int>()
    for last in (limit - count)..<limit {
      let candidate = Int(next() % UInt64(last + 1))
      chosen.insert(chosen.contains(candidate) ? last : candidate)
    }
    return chosen.sorted()
  }
}

/// The size of the frames that come out.
public enum FrameSize: Sendable, Equatable {
  /// As the file has them.
  case full
  /// Scaled so that the shorter side has so many pixels, while converting; frames that are smaller stay as they are.
  case shorterSide(Int)
  /// Scaled to this size, whatever the proportions.
  case exactly(width: Int, height: Int)

  func size(width: Int, height: Int) -> (width: Int, height: Int) {
    switch self {
    case .full: return (width, height)
    case .exactly(let width, let height): return (width, height)
    case .shorterSide(let side):
      let shorter = min(width, height)
      guard side < shorter else { return (width, height) }
      func scaled(_ length: Int) -> Int {
        max(1, Int((Double(length) * Double(side) / Double(shorter)).rounded()))
      }
      return (scaled(width), scaled(height))
    }
  }

  var objection: (expected: String, found: String)? {
    switch self {
    case .full: nil
    case .shorterSide(let side): side > 0 && side <= 65_536 ? nil : ("a side of 1 to 65536 pixels", "\(side)")
    case .exactly(let width, let height):
      (1...65_536).contains(width) && (1...65_536).contains(height)
        ? nil : ("sides of 1 to 65536 pixels", "\(width) x \(height)")
    }
  }
}

/// Where a video's frames lie: all times, and the places where decoding can begin.
struct FrameIndex {
  /// Presentation times in ticks, ascending once finished, each once.
  private(set) var times: [Int64] = []
  /// Frames that need no other.
  private(set) var keys: [(presentation: Int64, decoding: Int64)] = []

  private var hasGuesses = false

  mutating func append(_ packets: ArraySlice<cm_movie_packet>) {
    for packet in packets {
      times.append(packet.presentation)
      if packet.is_guess != 0 { hasGuesses = true }
      if packet.is_key != 0 { keys.append((packet.presentation, packet.decoding)) }
    }
  }

  /// Sorts. A file that says only when frames are decoded (AVI) shows each when `delay` more have been decoded, and the
  /// last ones at even distances: so does the decoder.
  mutating func finish(delay: Int, frameLength: Int64) {
    times.sort()
    if hasGuesses, delay > 0, let last = times.last {
      times.removeFirst(min(delay, times.count))
      for i in 1...delay { times.append(last + Int64(i) * frameLength) }
      // Where such a key frame is shown is known roughly only: too late is safe, decoding then begins earlier.
      for i in keys.indices { keys[i].presentation += Int64(delay + 3) * frameLength }
    }
    var kept = 0
    for (i, time) in times.enumerated() where i == 0 || time != times[kept - 1] {
      times[kept] = time
      kept += 1
    }
    times.removeLast(times.count - kept)
    keys.sort { $0.presentation < $1.presentation }
  }

  /// The last key frame at or before `presentation`.
  func key(before presentation: Int64) -> (presentation: Int64, decoding: Int64)? {
    var low = 0
    var high = keys.count
    while low < high {
      let middle = (low + high) / 2
      if keys[middle].presentation <= presentation { low = middle + 1 } else { high = middle }
    }
    return low == 0 ? nil : keys[low - 1]
  }
}
