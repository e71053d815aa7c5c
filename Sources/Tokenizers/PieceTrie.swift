/// Byte strings with numbers, in which all prefixes of a text are found in one pass.
///
/// The children of a node lie side by side, in the order of their bytes.
struct PieceTrie: Sendable {
  private static let none = UInt32.max

  private var bytes: [UInt8] = [0]  // that leads to a node
  private var firstChildren: [Int32] = []  // of each node, and one more
  private var values: [UInt32] = []  // of each node, `none` where no key ends
  private var roots = [Int32](repeating: -1, count: 256)  // children of the root by byte

  /// Makes a trie of keys that are not empty and differ from each other, with values below 2³² - 1.
  init(_ keys: [(key: [UInt8], value: UInt32)]) {
    let keys = keys.sorted { $0.key.lexicographicallyPrecedes($1.key) }
    // Nodes in order of depth: each stands for a range of the sorted keys that share the bytes that lead to it.
    var ranges: [(start: Int, end: Int)] = [(0, keys.count)]
    var depth = 0
    var levelEnd = 1
    var node = 0
    while node < ranges.count {
      if node == levelEnd {
        depth += 1
        levelEnd = ranges.count
      }
      var start = ranges[node].start
      let end = ranges[node].end
      firstChildren.append(Int32(ranges.count))
      if start < end, keys[start].key.count == depth {
        values.append(keys[start].value)
        start += 1
      } else {
        values.append(Self.none)
      }
      while start < end {
        let byte = keys[start].key[depth]
        var last = start
        while last < end, keys[last].key[depth] == byte { last += 1 }
        if node == 0 { roots[Int(byte)] = Int32(ranges.count) }
        ranges.append((start, last))
        bytes.append(byte)
        start = last
      }
      node += 1
    }
    firstChildren.append(Int32(ranges.count))
  }

  /// Reports the length and the value of every key that the text has at `start`, shortest first.
  @inline(__always)
  func forEachPrefix(
    of text: UnsafeBufferPointer<UInt8>, at start: Int, _ body: (_ length: Int, _ value: UInt32) -> Void
  ) {
    guard start < text.count else { return }
    var node = Int(roots[Int(text[start])])
    var index = start + 1
    while node >= 0 {
      let value = values[node]
      if value != Self.none { body(index - start, value) }
      guard index < text.count else { return }
      node = child(of: node, text[index])
      index += 1
    }
  }

  /// The length of the longest key that the text has at `start`.
  func longestMatch(in text: UnsafeBufferPointer<UInt8>, at start: Int) -> Int? {
    var result: Int?
    forEachPrefix(of: text, at: start) { length, _ in result = length }
    return result
  }

  @inline(__always)
  private func child(of node: Int, _ byte: UInt8) -> Int {
    var low = Int(firstChildren[node])
    var high = Int(firstChildren[node + 1])
    while high - low > 8 {
      let middle = (low + high) / 2
      if bytes[middle] <= byte {
        low = middle
      } else {
        high = middle
      }
    }
    while low < high {
      if bytes[low] == byte { return low }
      low += 1
    }
    return -1
  }
}
