import Foundation

/// JSON with keys and strings as UTF-8 bytes.
///
/// Foundation's readers build Swift dictionaries, whose `String` keys are equal whenever they are canonically
/// equivalent: a vocabulary with both "é" and "e" + U+0301 would lose one of them.
enum JSONValue {
  case null
  case bool(Bool)
  case integer(Int)
  case number(Double)
  case string([UInt8])
  case array([JSONValue])
  case object([(key: [UInt8], value: JSONValue)])

  /// What an error message calls the value.
  var summary: String {
    switch self {
    case .null: "null"
    case .bool(let value): "\(value)"
    case .integer(let value): "\(value)"
    case .number(let value): "\(value)"
    case .string(let bytes): bytes.quoted
    case .array(let values): "an array of \(values.count)"
    case .object(let members): "an object of \(members.count) members"
    }
  }
}

extension Array where Element == UInt8 {
  /// The bytes as text in quotation marks, shortened for messages.
  var quoted: String {
    count <= 60 ? "\"\(text)\"" : "\"\(Array(self[..<60]).text)…\""
  }

  /// The bytes as text; what is not UTF-8 becomes U+FFFD.
  var text: String { String(decoding: self, as: UTF8.self) }
}

/// A strict reader of one JSON document (RFC 8259) that is valid UTF-8.
struct JSONParser {
  struct Failure: Error {
    let offset: Int
    let expected: String
    let found: String
  }

  private static let depthLimit = 128

  private let bytes: UnsafeBufferPointer<UInt8>
  private var index = 0

  private init(bytes: UnsafeBufferPointer<UInt8>) {
    self.bytes = bytes
  }

  /// Reads the whole of `bytes`, which must be valid UTF-8.
  static func parse(_ bytes: UnsafeBufferPointer<UInt8>) throws(Failure) -> JSONValue {
    var parser = JSONParser(bytes: bytes)
    let value = try parser.value(depth: 0)
    parser.skipSpace()
    guard parser.index == bytes.count else { throw parser.failure("the end of the document") }
    return value
  }

  private func failure(_ expected: String) -> Failure {
    guard index < bytes.count else { return Failure(offset: index, expected: expected, found: "the end of the file") }
    let end = min(bytes.count, index + 12)
    return Failure(offset: index, expected: expected, found: Array(bytes[index..<end]).quoted)
  }

  private mutating func skipSpace() {
    while index < bytes.count {
      let byte = bytes[index]
      guard byte == 0x20 || byte == 0x0A || byte == 0x0D || byte == 0x09 else { return }
      index += 1
    }
  }

  private mutating func take(_ byte: UInt8) -> Bool {
    guard index < bytes.count, bytes[index] == byte else { return false }
    index += 1
    return true
  }

  private mutating func value(depth: Int) throws(Failure) -> JSONValue {
    skipSpace()
    guard index < bytes.count else { throw failure("a JSON value") }
    guard depth < Self.depthLimit else { throw failure("at most \(Self.depthLimit) levels of nesting") }
    switch bytes[index] {
    case UInt8(ascii: "{"): return try object(depth: depth)
    case UInt8(ascii: "["): return try array(depth: depth)
    case UInt8(ascii: "\""): return .string(try string())
    case UInt8(ascii: "t"): return try word("true", .bool(true))
    case UInt8(ascii: "f"): return try word("false", .bool(false))
    case UInt8(ascii: "n"): return try word("null", .null)
    default: return try number()
    }
  }

  private mutating func word(_ word: StaticString, _ value: JSONValue) throws(Failure) -> JSONValue {
    let end = index + word.utf8CodeUnitCount
    guard end <= bytes.count else { throw failure("\(word)") }
    for i in 0..<word.utf8CodeUnitCount where bytes[index + i] != word.utf8Start[i] { throw failure("\(word)") }
    index = end
    return value
  }

  private mutating func object(depth: Int) throws(Failure) -> JSONValue {
    index += 1
    var members: [(key: [UInt8], value: JSONValue)] = []
    skipSpace()
    if take(UInt8(ascii: "}")) { return .object(members) }
    while true {
      skipSpace()
      guard index < bytes.count, bytes[index] == UInt8(ascii: "\"") else { throw failure("a key in quotation marks") }
      let key = try string()
      skipSpace()
      guard take(UInt8(ascii: ":")) else { throw failure("':'") }
      members.append((key, try value(depth: depth + 1)))
      skipSpace()
      if take(UInt8(ascii: ",")) { continue }
      guard take(UInt8(ascii: "}")) else { throw failure("',' or '}'") }
      return .object(members)
    }
  }

  private mutating func array(depth: Int) throws(Failure) -> JSONValue {
    index += 1
    var values: [JSONValue] = []
    skipSpace()
    if take(UInt8(ascii: "]")) { return .array(values) }
    while true {
      values.append(try value(depth: depth + 1))
      skipSpace()
      if take(UInt8(ascii: ",")) { continue }
      guard take(UInt8(ascii: "]")) else { throw failure("',' or ']'") }
      return .array(values)
    }
  }

  private mutating func number() throws(Failure) -> JSONValue {
    let start = index
    _ = take(UInt8(ascii: "-"))
    let firstDigit = index
    guard digits() > 0 else { throw failure("a JSON value") }
    guard bytes[firstDigit] != UInt8(ascii: "0") || index == firstDigit + 1 else {
      index = firstDigit
      throw failure("a number without leading zeros")
    }
    var isInteger = true
    if take(UInt8(ascii: ".")) {
      isInteger = false
      guard digits() > 0 else { throw failure("a digit") }
    }
    if take(UInt8(ascii: "e")) || take(UInt8(ascii: "E")) {
      isInteger = false
      if !take(UInt8(ascii: "+")) { _ = take(UInt8(ascii: "-")) }
      guard digits() > 0 else { throw failure("a digit") }
    }
    let text = String(decoding: bytes[start..<index], as: UTF8.self)
    if isInteger, let value = Int(text) { return .integer(value) }
    guard let value = Double(text), value.isFinite else { throw failure("a finite number") }
    return .number(value)
  }

  private mutating func digits() -> Int {
    let start = index
    while index < bytes.count, bytes[index] >= 0x30, bytes[index] <= 0x39 { index += 1 }
    return index - start
  }

  private mutating func string() throws(Failure) -> [UInt8] {
    index += 1
    let start = index
    while index < bytes.count, bytes[index] != UInt8(ascii: "\""), bytes[index] != UInt8(ascii: "\\"),
      bytes[index] >= 0x20
    {
      index += 1
    }
    var result = Array(bytes[start..<index])
    while index < bytes.count {
      let byte = bytes[index]
      if byte == UInt8(ascii: "\"") {
        index += 1
        return result
      }
      guard byte >= 0x20 else { throw failure("no control character inside a string") }
      if byte == UInt8(ascii: "\\") {
        index += 1
        try escape(into: &result)
      } else {
        result.append(byte)
        index += 1
      }
    }
    throw failure("'\"'")
  }

  private mutating func escape(into result: inout [UInt8]) throws(Failure) {
    guard index < bytes.count else { throw failure("an escape") }
    let byte = bytes[index]
    index += 1
    switch byte {
    case UInt8(ascii: "\""), UInt8(ascii: "\\"), UInt8(ascii: "/"): result.append(byte)
    case UInt8(ascii: "b"): result.append(0x08)
    case UInt8(ascii: "f"): result.append(0x0C)
    case UInt8(ascii: "n"): result.append(0x0A)
    case UInt8(ascii: "r"): result.append(0x0D)
    case UInt8(ascii: "t"): result.append(0x09)
    case UInt8(ascii: "u"):
      var scalar = try hexadecimal()
      if scalar >= 0xD800, scalar < 0xDC00 {
        guard take(UInt8(ascii: "\\")), take(UInt8(ascii: "u")) else { throw failure("a low surrogate") }
        let low = try hexadecimal()
        guard low >= 0xDC00, low < 0xE000 else { throw failure("a low surrogate before here") }
        scalar = 0x10000 + ((scalar - 0xD800) << 10) + (low - 0xDC00)
      }
      guard scalar < 0xDC00 || scalar >= 0xE000 else { throw failure("a high surrogate before here") }
      result.append(scalar: scalar)
    default:
      index -= 1
      throw failure("one of the escapes \\\" \\\\ \\/ \\b \\f \\n \\r \\t \\u")
    }
  }

  private mutating func hexadecimal() throws(Failure) -> UInt32 {
    guard index + 4 <= bytes.count else { throw failure("four hexadecimal digits") }
    var value: UInt32 = 0
    for i in index..<index + 4 {
      let byte = bytes[i]
      switch byte {
      case 0x30...0x39: value = value << 4 | UInt32(byte - 0x30)
      case 0x41...0x46: value = value << 4 | UInt32(byte - 0x37)
      case 0x61...0x66: value = value << 4 | UInt32(byte - 0x57)
      default: throw failure("four hexadecimal digits")
      }
    }
    index += 4
    return value
  }
}
