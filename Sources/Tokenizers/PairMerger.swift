/// The merges of byte pair encoding: which neighbours become one symbol, and in which order.
struct PairMerger: Sendable {
  private var rules: PairTable  // pair of ids → rule
  private var ranks: [UInt32] = []  // of each rule; lower goes first
  private var results: [UInt32] = []  // of each rule: the id that the pair becomes
  private var firstRules: [UInt32] = []  // of each rank

  /// How many rules there are.
  var count: Int { results.count }

  init(minimumCapacity: Int = 0) {
    rules = PairTable(minimumCapacity: minimumCapacity)
    ranks.reserveCapacity(minimumCapacity)
    results.reserveCapacity(minimumCapacity)
    firstRules.reserveCapacity(minimumCapacity)
  }

  /// Adds a rule. Its rank is that of the rule before it, or the next higher one.
  mutating func append(_ first: UInt32, _ second: UInt32, makes result: UInt32, rank: Int) {
    if rank == firstRules.count { firstRules.append(UInt32(results.count)) }
    rules.insert(first, second, UInt32(results.count))
    ranks.append(UInt32(rank))
    results.append(result)
  }

  /// The symbols of a word, linked, and the merges that wait; kept from one word to the next.
  struct Word {
    var ids: [UInt32] = []
    fileprivate var next: [Int32] = []
    fileprivate var previous: [Int32] = []
    fileprivate var heap = MinimumHeap()

    /// Reports the symbols that are left after `merge`.
    @inline(__always)
    func forEach(_ body: (UInt32) -> Void) {
      var index = ids.isEmpty ? -1 : 0
      while index >= 0 {
        body(ids[index])
        index = Int(next[index])
      }
    }
  }

  /// Merges pairs of neighbours, lowest rank first and leftmost first within a rank, until none is left.
  ///
  /// Time is O(n log n): neighbours are linked, and candidates wait in a heap.
  func merge(_ word: inout Word) {
    let count = word.ids.count
    word.next.removeAll(keepingCapacity: true)
    word.previous.removeAll(keepingCapacity: true)
    guard count > 0 else { return }
    word.next.append(contentsOf: 1...Int32(count))
    word.previous.append(contentsOf: -1..<Int32(count - 1))
    word.next[count - 1] = -1
    word.heap.removeAll()
    for index in 0..<count - 1 {
      if let rule = rules.find(word.ids[index], word.ids[index + 1]) {
        word.heap.append(UInt64(ranks[Int(rule)]) << 32 | UInt64(index))
      }
    }
    word.heap.arrange()

    // A symbol that was merged into the one before it links to itself.
    while let key = word.heap.popMinimum() {
      let index = Int(key & 0xFFFF_FFFF)
      let right = Int(word.next[index])
      guard right >= 0, right != index else { continue }
      // The entry may be out of date. What counts, as in the reference implementation, is that the pair that is
      // there now makes the token that the entry promised.
      let rank = Int(key >> 32)
      guard let rule = rules.find(word.ids[index], word.ids[right]) else { continue }
      let result = results[Int(rule)]
      guard ranks[Int(rule)] == rank || result == results[Int(firstRules[rank])] else { continue }
      word.ids[index] = result
      let following = word.next[right]
      word.next[index] = following
      word.next[right] = Int32(right)
      if following >= 0 {
        word.previous[Int(following)] = Int32(index)
        if let rule = rules.find(result, word.ids[Int(following)]) {
          word.heap.push(UInt64(ranks[Int(rule)]) << 32 | UInt64(index))
        }
      }
      let left = Int(word.previous[index])
      if left >= 0, let rule = rules.find(word.ids[left], result) {
        word.heap.push(UInt64(ranks[Int(rule)]) << 32 | UInt64(left))
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
