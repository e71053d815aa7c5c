import Foundation

/// Running means of what is measured between two lines of metrics, and the speed.
struct Meter {
  private var sums: [String: Double] = [:]
  private var steps = 0
  private var start = Date()

  mutating func add(_ values: [String: Double]) {
    for (name, value) in values { sums[name, default: 0] += value }
    steps += 1
  }

  /// The means in a few words.
  var words: String {
    sums.keys.sorted().map { String(format: "%@ %.3f", $0 as NSString, sums[$0]! / Double(max(steps, 1))) }
      .joined(separator: " ")
  }

  /// The means, and a new beginning.
  mutating func take(samples: Int) -> [String: Any] {
    var out: [String: Any] = sums.mapValues { $0 / Double(max(steps, 1)) }
    let seconds = Date().timeIntervalSince(start)
    out["seconds"] = seconds
    out["samplesPerSecond"] = Double(steps * samples) / max(seconds, 1e-9)
    self = Meter()
    return out
  }
}
