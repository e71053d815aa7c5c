/// The four normalisation forms (Unicode Standard Annex 15) over fixed tables.
struct UnicodeNormalization: Sendable {
  static let shared = UnicodeNormalization()

  private static let syllableBase: UInt32 = 0xAC00
  private static let leadBase: UInt32 = 0x1100
  private static let vowelBase: UInt32 = 0x1161
  private static let trailBase: UInt32 = 0x11A7
  private static let leadCount: UInt32 = 19
  private static let vowelCount: UInt32 = 21
  private static let trailCount: UInt32 = 28
  private static let syllableCount = leadCount * vowelCount * trailCount

  private let canonical: [UInt32: [UInt32]]
  private let compatible: [UInt32: [UInt32]]
  private let compositions: [UInt64: UInt32]

  private init() {
    let canonical = HexadecimalTable(UnicodeDecompositions.canonical).mappings()
    self.canonical = canonical
    compatible = HexadecimalTable(UnicodeDecompositions.compatible).mappings()
    // The tables hold full decompositions. A composed scalar is the composition of its last mark with what the
    // scalars before it compose to, which is a shorter entry.
    let composed = HexadecimalTable(UnicodeDecompositions.composed).runs().joined()
    var byDecomposition: [[UInt32]: UInt32] = [:]
    for scalar in composed { byDecomposition[canonical[scalar] ?? []] = scalar }
    var compositions: [UInt64: UInt32] = [:]
    for (parts, scalar) in byDecomposition {
      guard parts.count >= 2, let last = parts.last else { continue }
      let head = Array(parts.dropLast())
      guard let first = head.count == 1 ? head[0] : byDecomposition[head] else { continue }
      compositions[UInt64(first) << 32 | UInt64(last)] = scalar
    }
    self.compositions = compositions
  }

  /// NFD, or NFKD with `compatibility`.
  func decomposed(_ scalars: [UInt32], compatibility: Bool) -> [UInt32] {
    let classes = UnicodeClasses.shared
    var result: [UInt32] = []
    result.reserveCapacity(scalars.count + scalars.count / 4)
    var runStart = -1  // where the run of marks that is being read begins in `result`
    for scalar in scalars {
      let start = result.count
      appendDecomposition(of: scalar, compatibility: compatibility, to: &result)
      for index in start..<result.count {
        if classes.combiningClass(result[index]) != 0 {
          if runStart < 0 { runStart = index }
        } else if runStart >= 0 {
          Self.order(&result, from: runStart, to: index, classes)
          runStart = -1
        }
      }
    }
    if runStart >= 0 { Self.order(&result, from: runStart, to: result.count, classes) }
    return result
  }

  /// NFC, or NFKC with `compatibility`.
  func composed(_ scalars: [UInt32], compatibility: Bool) -> [UInt32] {
    let classes = UnicodeClasses.shared
    let source = decomposed(scalars, compatibility: compatibility)
    var result: [UInt32] = []
    result.reserveCapacity(source.count)
    var starter = -1
    var lastClass = -1  // class of the last mark kept after the starter; -1 when there is none
    for scalar in source {
      let cls = Int(classes.combiningClass(scalar))
      if starter >= 0, lastClass < cls, let pair = compose(result[starter], scalar) {
        result[starter] = pair
        continue
      }
      if cls == 0 {
        starter = result.count
        lastClass = -1
      } else {
        lastClass = cls
      }
      result.append(scalar)
    }
    return result
  }

  private func appendDecomposition(of scalar: UInt32, compatibility: Bool, to result: inout [UInt32]) {
    if scalar < 0xA0 {
      result.append(scalar)
    } else if scalar >= Self.syllableBase, scalar < Self.syllableBase + Self.syllableCount {
      let index = scalar - Self.syllableBase
      result.append(Self.leadBase + index / (Self.vowelCount * Self.trailCount))
      result.append(Self.vowelBase + index / Self.trailCount % Self.vowelCount)
      if index % Self.trailCount != 0 { result.append(Self.trailBase + index % Self.trailCount) }
    } else if compatibility, let parts = compatible[scalar] {
      result += parts
    } else if let parts = canonical[scalar] {
      result += parts
    } else {
      result.append(scalar)
    }
  }

  private func compose(_ first: UInt32, _ second: UInt32) -> UInt32? {
    if first >= Self.leadBase, first < Self.leadBase + Self.leadCount, second >= Self.vowelBase,
      second < Self.vowelBase + Self.vowelCount
    {
      let lead = (first - Self.leadBase) * Self.vowelCount
      return Self.syllableBase + (lead + second - Self.vowelBase) * Self.trailCount
    }
    if first >= Self.syllableBase, first < Self.syllableBase + Self.syllableCount, second > Self.trailBase,
      second < Self.trailBase + Self.trailCount, (first - Self.syllableBase) % Self.trailCount == 0
    {
      return first + second - Self.trailBase
    }
    return compositions[UInt64(first) << 32 | UInt64(second)]
  }

  /// Canonical order: by class; marks of one class keep their order.
  private static func order(_ scalars: inout [UInt32], from start: Int, to end: Int, _ classes: UnicodeClasses) {
    guard end - start > 1 else { return }
    var keys = (start..<end).map { index in
      UInt64(classes.combiningClass(scalars[index])) << 56 | UInt64(index - start) << 24 | UInt64(scalars[index])
    }
    keys.sort()
    for (offset, key) in keys.enumerated() { scalars[start + offset] = UInt32(key & 0xFF_FFFF) }
  }
}
