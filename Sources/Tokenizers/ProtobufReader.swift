/// Reads the fields of one Protocol Buffers message, without a schema and without copying.
///
/// Lengths are checked against the message that holds them, so that nothing is asked of memory that the file does not
/// hold. Messages inside are read by readers of their own, as deep as the caller knows them; groups are refused.
struct ProtobufReader {
  struct Failure: Error {
    /// From the start of the file.
    let offset: Int
    let expected: String
    let found: String
  }

  enum Value {
    case integer(UInt64)
    case fixed32(UInt32)
    case fixed64(UInt64)
    /// Bounds of a string, of bytes, or of a message.
    case bytes(Range<Int>)

    /// What an error message calls the value.
    var summary: String {
      switch self {
      case .integer: "a variable-length integer"
      case .fixed32: "four bytes"
      case .fixed64: "eight bytes"
      case .bytes(let range): "\(range.count) bytes with their length"
      }
    }
  }

  let bytes: [UInt8]
  private(set) var offset: Int
  private let end: Int

  /// Reads a whole file.
  init(_ bytes: [UInt8]) {
    self.init(bytes, 0..<bytes.count)
  }

  /// Reads the message within `range`, which lies in `bytes`.
  init(_ bytes: [UInt8], _ range: Range<Int>) {
    self.bytes = bytes
    offset = range.lowerBound
    end = range.upperBound
  }

  /// The next field, or nil at the end of the message.
  mutating func next() throws(Failure) -> (number: Int, value: Value)? {
    guard offset < end else { return nil }
    let start = offset
    let tag = try integer()
    let number = tag >> 3
    guard number > 0, number < 1 << 29 else {
      throw Failure(offset: start, expected: "a field number from 1 to \(1 << 29 - 1)", found: "\(number)")
    }
    switch tag & 7 {
    case 0: return (Int(number), .integer(try integer()))
    case 1: return (Int(number), .fixed64(try fixed(8)))
    case 2:
      let lengthOffset = offset
      let length = try integer()
      guard length <= UInt64(end - offset) else {
        throw Failure(
          offset: lengthOffset, expected: "a length of at most the \(end - offset) bytes that are left",
          found: "\(length)")
      }
      let range = offset..<offset + Int(length)
      offset = range.upperBound
      return (Int(number), .bytes(range))
    case 5: return (Int(number), .fixed32(UInt32(truncatingIfNeeded: try fixed(4))))
    default: throw Failure(offset: start, expected: "a wire type of 0, 1, 2 or 5", found: "\(tag & 7)")
    }
  }

  private mutating func integer() throws(Failure) -> UInt64 {
    let start = offset
    var result: UInt64 = 0
    var shift: UInt64 = 0
    while offset < end {
      let byte = bytes[offset]
      offset += 1
      guard shift < 63 || byte <= 1 else { break }
      result |= UInt64(byte & 0x7F) << shift
      if byte < 0x80 { return result }
      shift += 7
      guard shift < 64 else { break }
    }
    throw Failure(
      offset: start, expected: "an integer of at most 64 bits",
      found: offset < end ? "a longer one" : "the end of the message")
  }

  private mutating func fixed(_ count: Int) throws(Failure) -> UInt64 {
    guard end - offset >= count else {
      throw Failure(offset: offset, expected: "\(count) bytes", found: "the end of the message")
    }
    var result: UInt64 = 0
    for index in 0..<count { result |= UInt64(bytes[offset + index]) << UInt64(8 * index) }
    offset += count
    return result
  }
}
