/// Byte pair encoding: symbols are merged pair by pair, the pair that was learned first goes first.
///
/// Sennrich, Haddow and Birch, "Neural Machine Translation of Rare Words with Subword Units", ACL 2016.
struct BPEModel: Sendable {
  let vocabulary: Vocabulary
  private let merges: PairTable  // pair of ids → rank
  private let mergedIDs: [UInt32]  // rank → id of the merged token
  private let unknown: Int?
  private let fusesUnknown: Bool
  private let ignoresMerges: Bool
  private let prefix: [UInt8]  // before every symbol but the first of a word
  private let suffix: [UInt8]  // after the last symbol of a word
  private let byteTokens: [UInt32?]  // ids of `<0x00>` … `<0xFF>`; empty without byte fallback
  private let singleByteIDs: [Int]  // ids of one-byte symbols, -1 when there is none

  init(_ node: JSONNode) throws {
    let vocabulary = try Vocabulary(node.required("vocab"))
    self.vocabulary = vocabulary
    if let unknownNode = try node.optional("unk_token") {
      unknown = try vocabulary.requiredID(of: unknownNode.string(), unknownNode)
    } else {
      unknown = nil
    }
    if let dropout = try node.optional("dropout") {
      switch dropout.value {
      case .integer(0), .number(0): break
      default: throw dropout.failure(expected: "no dropout (null or 0)")
      }
    }
    fusesUnknown = try node.bool("fuse_unk", default: false)
    ignoresMerges = try node.bool("ignore_merges", default: false)
    prefix = try node.optional("continuing_subword_prefix")?.string() ?? []
    suffix = try node.optional("end_of_word_suffix")?.string() ?? []
    if try node.bool("byte_fallback", default: false) {
      byteTokens = (0..<256).map { byte in
        let hexadecimal = String(byte, radix: 16, uppercase: true)
        let name = "<0x" + (byte < 16 ? "0" : "") + hexadecimal + ">"
        return vocabulary.id(of: Array(name.utf8)).map { UInt32($0) }
      }
    } else {
      byteTokens = []
    }
    singleByteIDs = (0..<128).map { vocabulary.id(of: [UInt8($0)]) ?? -1 }
    (merges, mergedIDs) = try Self.readMerges(node.required("merges"), vocabulary, prefix: prefix)
  }

  private static func readMerges(
    _ node: JSONNode, _ vocabulary: Vocabulary, prefix: [UInt8]
  ) throws -> (PairTable, [UInt32]) {
    let elements = try node.elements()
    var table = PairTable(minimumCapacity: elements.count)
    var mergedIDs: [UInt32] = []
    mergedIDs.reserveCapacity(elements.count)
    for element in elements {
      guard let (first, second) = try pair(element) else { continue }
      let firstID = try vocabulary.requiredID(of: first, element)
      let secondID = try vocabulary.requiredID(of: second, element)
      guard second.count >= prefix.count else {
        throw element.failure(expected: "a second part that starts with \(prefix.quoted)", found: second.quoted)
      }
      let mergedID = try vocabulary.requiredID(of: first + second[prefix.count...], element)
      table.insert(UInt32(firstID), UInt32(secondID), UInt32(mergedIDs.count))
      mergedIDs.append(UInt32(mergedID))
    }
    return (table, mergedIDs)
  }

  /// A merge as `"a b"` or `["a", "b"]`; nil for the version line of old files.
  private static func pair(_ node: JSONNode) throws -> (first: [UInt8], second: [UInt8])? {
    let expected = "two tokens: \"a b\" or [\"a\", \"b\"]"
    switch node.value {
    case .string(let bytes):
      if bytes.starts(with: "#version".utf8) { return nil }
      let parts = bytes.split(separator: 0x20, omittingEmptySubsequences: false)
      guard parts.count == 2 else { throw node.failure(expected: expected) }
      return (Array(parts[0]), Array(parts[1]))
    case .array(let values):
      guard values.count == 2, case .string(let first) = values[0], case .string(let second) = values[1] else {
        throw node.failure(expected: expected)
      }
      return (first, second)
    default: throw node.failure(expected: expected)
    }
  }

  /// Working memory for words, kept from one to the next.
  struct Scratch {
    fileprivate var ids: [UInt32] = []
    fileprivate var next: [Int32] = []
    fileprivate var previous: [Int32] = []
    fileprivate var heap = MinimumHeap()
    fileprivate var symbol: [UInt8] = []
  }

  /// Appends the ids of one word (valid UTF-8).
  func append(_ word: UnsafeBufferPointer<UInt8>, to ids: inout [Int], _ scratch: inout Scratch) {
    if ignoresMerges, let id = vocabulary.ids.find(word) {
      ids.append(id)
      return
    }
    readSymbols(word, &scratch)
    let count = scratch.ids.count
    guard count > 1 else {
      if count == 1 { ids.append(Int(scratch.ids[0])) }
      return
    }
    merge(&scratch)
    var index = 0
    while index >= 0 {
      ids.append(Int(scratch.ids[index]))
      index = Int(scratch.next[index])
    }
  }

  /// Cuts the word into scalars and looks each up.
  private func readSymbols(_ word: UnsafeBufferPointer<UInt8>, _ scratch: inout Scratch) {
    scratch.ids.removeAll(keepingCapacity: true)
    let isPlain = prefix.isEmpty && suffix.isEmpty
    var pendingUnknown: UInt32?
    var start = 0
    while start < word.count {
      let end = word.scalar(at: start).next
      let found: UInt32?
      if isPlain, end == start + 1 {
        let id = singleByteIDs[Int(word[start])]
        found = id < 0 ? nil : UInt32(id)
      } else if isPlain {
        found = vocabulary.ids.find(UnsafeBufferPointer(rebasing: word[start..<end])).map { UInt32($0) }
      } else {
        scratch.symbol.removeAll(keepingCapacity: true)
        if start > 0 { scratch.symbol += prefix }
        scratch.symbol += word[start..<end]
        if end == word.count { scratch.symbol += suffix }
        found = vocabulary.ids[scratch.symbol].map { UInt32($0) }
      }
      if let found {
        if let unknown = pendingUnknown {
          scratch.ids.append(unknown)
          pendingUnknown = nil
        }
        scratch.ids.append(found)
      } else if let bytes = fallback(isPlain ? Array(word[start..<end]) : scratch.symbol) {
        // An unknown symbol that waits stays behind these bytes, as in the reference implementation.
        scratch.ids += bytes
      } else if let unknown {
        if let waiting = pendingUnknown, !fusesUnknown { scratch.ids.append(waiting) }
        pendingUnknown = UInt32(unknown)
      }
      start = end
    }
    if let unknown = pendingUnknown { scratch.ids.append(unknown) }
  }

  /// The byte tokens of a symbol, if the vocabulary has all of them.
  private func fallback(_ symbol: [UInt8]) -> [UInt32]? {
    guard !byteTokens.isEmpty else { return nil }
    var result: [UInt32] = []
    for byte in symbol {
      guard let id = byteTokens[Int(byte)] else { return nil }
      result.append(id)
    }
    return result
  }

  /// Merges pairs of neighbours, lowest rank first and leftmost first within a rank, until none is left.
  ///
  /// Time is O(n log n): neighbours are linked, and candidates wait in a heap.
  private func merge(_ scratch: inout Scratch) {
    let count = scratch.ids.count
    scratch.next.removeAll(keepingCapacity: true)
    scratch.previous.removeAll(keepingCapacity: true)
    scratch.next.append(contentsOf: 1...Int32(count))
    scratch.previous.append(contentsOf: -1..<Int32(count - 1))
    scratch.next[count - 1] = -1
    scratch.heap.removeAll()
    for index in 0..<count - 1 {
      if let rank = merges.find(scratch.ids[index], scratch.ids[index + 1]) {
        scratch.heap.append(UInt64(rank) << 32 | UInt64(index))
      }
    }
    scratch.heap.arrange()

    // A symbol that was merged into the one before it links to itself.
    while let key = scratch.heap.popMinimum() {
      let index = Int(key & 0xFFFF_FFFF)
      let right = Int(scratch.next[index])
      guard right >= 0, right != index else { continue }
      // The entry may be out of date. What counts, as in the reference implementation, is that the pair that is
      // there now makes the token that the entry promised.
      let promised = mergedIDs[Int(key >> 32)]
      guard let rank = merges.find(scratch.ids[index], scratch.ids[right]), mergedIDs[Int(rank)] == promised else {
        continue
      }
      scratch.ids[index] = promised
      let following = scratch.next[right]
      scratch.next[index] = following
      scratch.next[right] = Int32(right)
      if following >= 0 {
        scratch.previous[Int(following)] = Int32(index)
        if let rank = merges.find(promised, scratch.ids[Int(following)]) {
          scratch.heap.push(UInt64(rank) << 32 | UInt64(index))
        }
      }
      let left = Int(scratch.previous[index])
      if left >= 0, let rank = merges.find(scratch.ids[left], promised) {
        scratch.heap.push(UInt64(rank) << 32 | UInt64(left))
      }
    }
  }
}

/// A binary heap of numbers.
private struct MinimumHeap {
  private var items: [UInt64] = []

  mutating func removeAll() { items.removeAll(keepingCapacity: true) }

  /// Adds an item without order; `arrange` must follow before items are taken.
  mutating func append(_ item: UInt64) { items.append(item) }

  mutating func arrange() {
    // Items in ascending order are a heap.
    items.sort()
  }

  mutating func push(_ item: UInt64) {
    var index = items.count
    items.append(item)
    items.withUnsafeMutableBufferPointer { items in
      while index > 0 {
        let parent = (index - 1) / 2
        guard items[parent] > item else { break }
        items[index] = items[parent]
        index = parent
      }
      items[index] = item
    }
  }

  mutating func popMinimum() -> UInt64? {
    guard let last = items.popLast() else { return nil }
    guard let minimum = items.first else { return last }
    items.withUnsafeMutableBufferPointer { items in
      let count = items.count
      var index = 0
      while true {
        var child = 2 * index + 1
        guard child < count else { break }
        if child + 1 < count, items[child + 1] < items[child] { child += 1 }
        guard items[child] < last else { break }
        items[index] = items[child]
        index = child
      }
      items[index] = last
    }
    return minimum
  }
}
