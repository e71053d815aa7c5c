/// A dictionary from byte strings to numbers that is looked up without building a key.
///
/// Swift's `String` keys would be wrong here: they are equal when they are canonically equivalent.
struct TokenTable: Sendable {
  /// Differs in each process, so that no file can be made to collide.
  private static let seed = UInt64.random(in: 0...UInt64.max)

  private var bytes: [UInt8] = []
  private var ends: [Int] = [0]  // end of key i in `bytes` at i + 1
  private var values: [Int] = []
  private var slots: [Int32]  // index of a key, -1 when free; the count is a power of two
  /// Length of the longest key.
  private(set) var longestKey = 0

  var count: Int { values.count }

  init(minimumCapacity: Int = 0) {
    var capacity = 16
    while capacity < minimumCapacity * 2 { capacity *= 2 }
    slots = [Int32](repeating: -1, count: capacity)
  }

  subscript(key: [UInt8]) -> Int? {
    get { key.withUnsafeBufferPointer { find($0) } }
    set {
      guard let newValue else { return }
      key.withUnsafeBufferPointer { insert($0, newValue) }
    }
  }

  /// The value of a key.
  func find(_ key: UnsafeBufferPointer<UInt8>) -> Int? {
    let slot = slots[position(of: key)]
    return slot < 0 ? nil : values[Int(slot)]
  }

  /// Sets the value of a key.
  mutating func insert(_ key: UnsafeBufferPointer<UInt8>, _ value: Int) {
    let at = position(of: key)
    if slots[at] >= 0 {
      values[Int(slots[at])] = value
      return
    }
    slots[at] = Int32(values.count)
    values.append(value)
    bytes.append(contentsOf: key)
    ends.append(bytes.count)
    longestKey = max(longestKey, key.count)
    if values.count * 2 > slots.count { grow() }
  }

  private mutating func grow() {
    slots = [Int32](repeating: -1, count: slots.count * 2)
    for index in values.indices {
      let slot = bytes.withUnsafeBufferPointer { buffer in
        position(of: UnsafeBufferPointer(rebasing: buffer[ends[index]..<ends[index + 1]]))
      }
      slots[slot] = Int32(index)
    }
  }

  /// The slot that holds the key, or the free one where it belongs.
  private func position(of key: UnsafeBufferPointer<UInt8>) -> Int {
    var hash = Self.seed ^ UInt64(key.count)
    for byte in key { hash = (hash ^ UInt64(byte)) &* 0x100_0000_01B3 }
    hash ^= hash >> 32
    hash = hash &* 0x9E37_79B9_7F4A_7C15
    let mask = slots.count - 1
    var slot = Int(truncatingIfNeeded: hash >> 24) & mask
    while slots[slot] >= 0, !matches(Int(slots[slot]), key) { slot = (slot + 1) & mask }
    return slot
  }

  @inline(__always)
  private func matches(_ index: Int, _ key: UnsafeBufferPointer<UInt8>) -> Bool {
    let start = ends[index]
    guard ends[index + 1] - start == key.count else { return false }
    for i in 0..<key.count where bytes[start + i] != key[i] { return false }
    return true
  }
}

/// A dictionary from pairs of 32-bit ids to a number.
struct PairTable: Sendable {
  private static let free = UInt64.max

  private var keys: [UInt64]
  private var values: [UInt32]
  private var count = 0

  init(minimumCapacity: Int = 0) {
    var capacity = 16
    while capacity < minimumCapacity * 2 { capacity *= 2 }
    keys = [UInt64](repeating: Self.free, count: capacity)
    values = [UInt32](repeating: 0, count: capacity)
  }

  @inline(__always)
  func find(_ first: UInt32, _ second: UInt32) -> UInt32? {
    let key = UInt64(first) << 32 | UInt64(second)
    let slot = position(of: key)
    return keys[slot] == key ? values[slot] : nil
  }

  mutating func insert(_ first: UInt32, _ second: UInt32, _ value: UInt32) {
    let key = UInt64(first) << 32 | UInt64(second)
    let slot = position(of: key)
    if keys[slot] == Self.free {
      keys[slot] = key
      count += 1
    }
    values[slot] = value
    guard count * 2 > keys.count else { return }
    let (oldKeys, oldValues) = (keys, values)
    keys = [UInt64](repeating: Self.free, count: oldKeys.count * 2)
    values = [UInt32](repeating: 0, count: oldKeys.count * 2)
    for (key, value) in zip(oldKeys, oldValues) where key != Self.free {
      let slot = position(of: key)
      keys[slot] = key
      values[slot] = value
    }
  }

  @inline(__always)
  private func position(of key: UInt64) -> Int {
    var hash = key &* 0x9E37_79B9_7F4A_7C15
    hash ^= hash >> 29
    hash = hash &* 0xBF58_476D_1CE4_E5B9
    let mask = keys.count - 1
    var slot = Int(truncatingIfNeeded: hash >> 20) & mask
    while keys[slot] != key, keys[slot] != Self.free { slot = (slot + 1) & mask }
    return slot
  }
}
