/// The `precompiled_charsmap` of SentencePiece: byte strings and what replaces each.
///
/// The format is the size of a trie in bytes (32 bits, little-endian), the trie as 32-bit units, and after it the
/// replacements, each of which ends with a zero byte. The trie is a double array as darts-clone writes it: a unit holds
/// the byte that leads to it (bits 0 to 7, and bit 31 for values), whether a key ends there (bit 8) and how far its
/// children lie away (bits 9 to 30).
///
/// Everything that a search can reach is checked once, when the map is read.
struct CharacterMap: Sendable {
  struct Failure: Error {
    let expected: String
    let found: String
  }

  /// No key is longer, in bytes.
  static let longestKey = 64
  /// No replacement is longer, in bytes.
  private static let longestReplacement = 1024

  private let units: [UInt32]
  private let replacements: [UInt8]
  /// For each byte, whether a key starts with it.
  private let starts: [Bool]

  init(_ blob: ArraySlice<UInt8>) throws(Failure) {
    guard blob.count >= 8 else { throw Failure(expected: "at least 8 bytes", found: "\(blob.count)") }
    func unit(at index: Int) -> UInt32 {
      let at = blob.startIndex + index
      return UInt32(blob[at]) | UInt32(blob[at + 1]) << 8 | UInt32(blob[at + 2]) << 16 | UInt32(blob[at + 3]) << 24
    }
    let size = Int(unit(at: 0))
    guard size > 0, size % 4 == 0, size <= blob.count - 4 else {
      throw Failure(expected: "a trie of 4 to \(blob.count - 4) bytes, a multiple of 4", found: "\(size) bytes")
    }
    var units: [UInt32] = []
    units.reserveCapacity(size / 4)
    for index in 0..<size / 4 { units.append(unit(at: 4 + 4 * index)) }
    let replacements = Array(blob[(blob.startIndex + 4 + size)...])
    guard String(validating: replacements, as: UTF8.self) != nil else {
      throw Failure(expected: "replacements in UTF-8", found: "other bytes")
    }
    try Self.check(units, replacements)
    let root = Self.children(of: 0, units[0])
    starts = (0..<256).map { byte in
      let child = root ^ byte
      return byte > 0 && child < units.count && Self.label(units[child]) == UInt32(byte)
    }
    self.units = units
    self.replacements = replacements
  }

  /// Whether a key starts with this byte.
  @inline(__always)
  func hasKeys(startingWith byte: UInt8) -> Bool { starts[Int(byte)] }

  /// The longest key that starts at `start`, and what replaces it.
  func longestMatch(
    in text: UnsafeBufferPointer<UInt8>, from start: Int, to end: Int
  ) -> (length: Int, replacement: ArraySlice<UInt8>)? {
    match(in: text, from: start, to: end, isShortest: false)
  }

  /// The shortest key that starts at `start`, and what replaces it.
  func shortestMatch(
    in text: UnsafeBufferPointer<UInt8>, from start: Int, to end: Int
  ) -> (length: Int, replacement: ArraySlice<UInt8>)? {
    match(in: text, from: start, to: end, isShortest: true)
  }

  @inline(__always)
  private func match(
    in text: UnsafeBufferPointer<UInt8>, from start: Int, to end: Int, isShortest: Bool
  ) -> (length: Int, replacement: ArraySlice<UInt8>)? {
    guard start < end, starts[Int(text[start])] else { return nil }
    var base = Self.children(of: 0, units[0])
    var found: (length: Int, value: Int)?
    var index = start
    while index < end, text[index] != 0 {
      let node = base ^ Int(text[index])
      guard node < units.count else { break }
      let unit = units[node]
      guard Self.label(unit) == UInt32(text[index]) else { break }
      index += 1
      base = Self.children(of: node, unit)
      if Self.isKey(unit) {
        found = (index - start, Int(units[base] & 0x7FFF_FFFF))
        if isShortest { break }
      }
    }
    guard let found else { return nil }
    var textEnd = found.value
    while textEnd < replacements.count, replacements[textEnd] != 0 { textEnd += 1 }
    return (found.length, replacements[found.value..<textEnd])
  }

  // MARK: Units

  @inline(__always)
  private static func label(_ unit: UInt32) -> UInt32 { unit & 0x8000_00FF }

  @inline(__always)
  private static func isKey(_ unit: UInt32) -> Bool { unit >> 8 & 1 == 1 }

  /// The position of which the child for a byte is that position with its lowest eight bits flipped by the byte.
  @inline(__always)
  private static func children(of node: Int, _ unit: UInt32) -> Int {
    node ^ Int(unit >> 10) << Int((unit & 1 << 9) >> 6)
  }

  // MARK: Checks

  /// Walks all keys: no cycles, no key longer than the limit, and a sound replacement for each.
  ///
  /// Nodes may share their children, so that what is walked is a graph without cycles, not a tree.
  private static func check(_ units: [UInt32], _ replacements: [UInt8]) throws(Failure) {
    // Children of a base, as linked lists.
    let baseCount = (units.count + 255) / 256 * 256
    var firstChild = [Int32](repeating: -1, count: baseCount)
    var nextChild = [Int32](repeating: -1, count: units.count)
    for (index, unit) in units.enumerated() where unit >> 31 == 0 && unit & 0xFF != 0 {
      let base = index ^ Int(unit & 0xFF)
      nextChild[index] = firstChild[base]
      firstChild[base] = Int32(index)
    }

    var heights = [Int8](repeating: -1, count: baseCount)  // -1 unseen, -2 on the way down
    var stack: [(base: Int, child: Int, height: Int)] = []
    func enter(_ base: Int) throws(Failure) {
      guard stack.count <= longestKey else {
        throw Failure(expected: "keys of at most \(longestKey) bytes", found: "a longer one")
      }
      heights[base] = -2
      stack.append((base, Int(firstChild[base]), 0))
    }
    let root = children(of: 0, units[0])
    guard root < baseCount else { throw Failure(expected: "children of the root", found: "none") }
    try enter(root)
    while var top = stack.popLast() {
      guard top.child >= 0 else {
        heights[top.base] = Int8(top.height)
        if var parent = stack.popLast() {
          parent.height = max(parent.height, top.height + 1)
          stack.append(parent)
        }
        continue
      }
      let child = top.child
      let unit = units[child]
      let base = children(of: child, unit)
      if isKey(unit) { try checkValue(at: base, units, replacements) }
      top.child = Int(nextChild[child])
      guard base < baseCount else {
        stack.append((top.base, top.child, max(top.height, 1)))
        continue
      }
      switch heights[base] {
      case -2: throw Failure(expected: "a trie without cycles", found: "one at unit \(child)")
      case -1:
        stack.append(top)
        try enter(base)
      default:
        top.height = max(top.height, Int(heights[base]) + 1)
        guard stack.count + top.height <= longestKey else {
          throw Failure(expected: "keys of at most \(longestKey) bytes", found: "a longer one")
        }
        stack.append(top)
      }
    }
  }

  private static func checkValue(at index: Int, _ units: [UInt32], _ replacements: [UInt8]) throws(Failure) {
    guard index < units.count, units[index] >> 31 == 1 else {
      throw Failure(expected: "a value at unit \(index)", found: "none")
    }
    let value = Int(units[index] & 0x7FFF_FFFF)
    guard value < replacements.count, replacements[value] & 0xC0 != 0x80 else {
      throw Failure(expected: "the start of a text below \(replacements.count) as value", found: "\(value)")
    }
    let end = min(replacements.count, value + longestReplacement + 1)
    guard replacements[value..<end].contains(0) else {
      let expected = "replacements of at most \(longestReplacement) bytes that end with a zero"
      throw Failure(expected: expected, found: "another one at \(value)")
    }
  }
}
