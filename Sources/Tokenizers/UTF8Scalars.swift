extension Array where Element == UInt8 {
  /// Appends the UTF-8 form of a scalar value.
  mutating func append(scalar: UInt32) {
    if scalar < 0x80 {
      append(UInt8(truncatingIfNeeded: scalar))
    } else if scalar < 0x800 {
      append(UInt8(truncatingIfNeeded: 0xC0 | scalar >> 6))
      append(UInt8(truncatingIfNeeded: 0x80 | scalar & 0x3F))
    } else if scalar < 0x10000 {
      append(UInt8(truncatingIfNeeded: 0xE0 | scalar >> 12))
      append(UInt8(truncatingIfNeeded: 0x80 | scalar >> 6 & 0x3F))
      append(UInt8(truncatingIfNeeded: 0x80 | scalar & 0x3F))
    } else {
      append(UInt8(truncatingIfNeeded: 0xF0 | scalar >> 18))
      append(UInt8(truncatingIfNeeded: 0x80 | scalar >> 12 & 0x3F))
      append(UInt8(truncatingIfNeeded: 0x80 | scalar >> 6 & 0x3F))
      append(UInt8(truncatingIfNeeded: 0x80 | scalar & 0x3F))
    }
  }
}

extension UnsafeBufferPointer where Element == UInt8 {
  /// The scalar that starts at `index`, and where the next one starts. The bytes must be valid UTF-8.
  @inline(__always)
  func scalar(at index: Int) -> (scalar: UInt32, next: Int) {
    let first = UInt32(self[index])
    if first < 0x80 { return (first, index + 1) }
    let second = UInt32(self[index + 1]) & 0x3F
    if first < 0xE0 { return ((first & 0x1F) << 6 | second, index + 2) }
    let third = UInt32(self[index + 2]) & 0x3F
    if first < 0xF0 { return ((first & 0x0F) << 12 | second << 6 | third, index + 3) }
    return ((first & 0x07) << 18 | second << 12 | third << 6 | UInt32(self[index + 3]) & 0x3F, index + 4)
  }

  /// Where the scalar that ends at `index` starts; `index` is greater than 0.
  @inline(__always)
  func start(ofScalarBefore index: Int) -> Int {
    var start = index - 1
    while start > 0, self[start] & 0xC0 == 0x80 { start -= 1 }
    return start
  }

  /// The scalars of valid UTF-8.
  func scalars() -> [UInt32] {
    var result: [UInt32] = []
    result.reserveCapacity(count)
    var index = 0
    while index < count {
      let (scalar, next) = scalar(at: index)
      result.append(scalar)
      index = next
    }
    return result
  }

  var isASCII: Bool { allSatisfy { $0 < 0x80 } }
}

extension Array where Element == UInt32 {
  /// The UTF-8 form of scalar values.
  var utf8: [UInt8] {
    var result: [UInt8] = []
    result.reserveCapacity(count + count / 2)
    for scalar in self { result.append(scalar: scalar) }
    return result
  }
}
