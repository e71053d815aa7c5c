/// What the tokenizer needs to know about a scalar.
struct ScalarClass: OptionSet, Sendable {
  let rawValue: UInt8

  /// `\p{L}`.
  static let letter = ScalarClass(rawValue: 1)
  /// `\p{N}`.
  static let number = ScalarClass(rawValue: 2)
  /// `\s`.
  static let whitespace = ScalarClass(rawValue: 4)
  /// What the `Digits` pre-tokenizer splits.
  static let digit = ScalarClass(rawValue: 8)
  /// What the `BertPreTokenizer` isolates.
  static let punctuation = ScalarClass(rawValue: 16)
  /// Non-spacing marks.
  static let mark = ScalarClass(rawValue: 32)
  /// What `clean_text` removes.
  static let control = ScalarClass(rawValue: 64)
  /// `\w`.
  static let word = ScalarClass(rawValue: 128)
}

/// Classes, lower case and canonical combining classes of all scalars, in tables of two stages.
struct UnicodeClasses: Sendable {
  static let shared = UnicodeClasses()

  private let classes: PagedTable
  private let combining: PagedTable
  private let lower: [UInt32: UInt32]
  private let lowerLong: [UInt32: [UInt32]]

  private init() {
    var classes = [UInt8](repeating: 0, count: 0x110000)
    let sets: [(String, ScalarClass)] = [
      (UnicodeData.letters, .letter), (UnicodeData.numbers, .number), (UnicodeData.whitespace, .whitespace),
      (UnicodeData.digits, .digit), (UnicodeData.punctuation, .punctuation), (UnicodeData.marks, .mark),
      (UnicodeData.controls, .control), (UnicodeData.words, .word),
    ]
    for (text, bit) in sets {
      for scalar in HexadecimalTable(text).runs().joined() { classes[Int(scalar)] |= bit.rawValue }
    }
    self.classes = PagedTable(classes)

    var combining = [UInt8](repeating: 0, count: 0x110000)
    var end = 0
    for row in HexadecimalTable(UnicodeData.combiningClasses).rows {
      for scalar in end + row[0]..<end + row[0] + row[1] { combining[scalar] = UInt8(row[2]) }
      end += row[0] + row[1]
    }
    self.combining = PagedTable(combining)

    var lower: [UInt32: UInt32] = [:]
    for row in HexadecimalTable(UnicodeData.lowercase).rows {
      for i in 0..<row[1] {
        let scalar = row[0] + i * row[2]
        lower[UInt32(scalar)] = UInt32(scalar + row[3])
      }
    }
    self.lower = lower
    lowerLong = HexadecimalTable(UnicodeData.lowercaseLong).mappings()
  }

  @inline(__always)
  func contains(_ scalar: UInt32, _ bits: ScalarClass) -> Bool {
    classes[scalar] & bits.rawValue != 0
  }

  @inline(__always)
  subscript(scalar: UInt32) -> ScalarClass { ScalarClass(rawValue: classes[scalar]) }

  @inline(__always)
  func combiningClass(_ scalar: UInt32) -> UInt8 { combining[scalar] }

  /// Appends the lower case of one scalar, without regard to its neighbours.
  func appendLowercase(_ scalar: UInt32, to result: inout [UInt32]) {
    if scalar < 0x80 {
      result.append(scalar >= 0x41 && scalar <= 0x5A ? scalar + 0x20 : scalar)
    } else if let long = lowerLong[scalar] {
      result += long
    } else {
      result.append(lower[scalar] ?? scalar)
    }
  }
}

/// One byte for each scalar; pages of 256 that are alike are kept once.
struct PagedTable: Sendable {
  private let pages: [UInt16]
  private let bytes: [UInt8]

  init(_ full: [UInt8]) {
    var known: [ArraySlice<UInt8>: UInt16] = [:]
    var pages: [UInt16] = []
    var bytes: [UInt8] = []
    for start in stride(from: 0, to: full.count, by: 256) {
      let page = full[start..<start + 256]
      if let index = known[page] {
        pages.append(index)
      } else {
        let index = UInt16(known.count)
        known[page] = index
        pages.append(index)
        bytes += page
      }
    }
    self.pages = pages
    self.bytes = bytes
  }

  @inline(__always)
  subscript(scalar: UInt32) -> UInt8 {
    bytes[Int(pages[Int(scalar >> 8)]) << 8 | Int(scalar & 0xFF)]
  }
}

/// Reads the number tables of `UnicodeData`: hexadecimal numbers, optionally negative, in rows.
struct HexadecimalTable {
  /// Numbers that are joined by `.` or `:` form a row.
  let rows: [[Int]]

  init(_ text: String) {
    var rows: [[Int]] = []
    var row: [Int] = []
    var number = 0
    var sign = 1
    var hasDigits = false
    func flush() {
      if hasDigits { row.append(sign * number) }
      (number, sign, hasDigits) = (0, 1, false)
    }
    for byte in text.utf8 {
      switch byte {
      case 0x30...0x39:
        number = number << 4 | Int(byte - 0x30)
        hasDigits = true
      case 0x61...0x66:
        number = number << 4 | Int(byte - 0x57)
        hasDigits = true
      case UInt8(ascii: "-"): sign = -1
      case UInt8(ascii: "."), UInt8(ascii: ":"): flush()
      default:
        flush()
        if !row.isEmpty { rows.append(row) }
        row = []
      }
    }
    flush()
    if !row.isEmpty { rows.append(row) }
    self.rows = rows
  }

  /// `gap length gap length …` as ranges of scalars.
  func runs() -> [Range<UInt32>] {
    var result: [Range<UInt32>] = []
    var end = 0
    for i in stride(from: 0, to: rows.count - 1, by: 2) {
      let start = end + rows[i][0]
      end = start + rows[i + 1][0]
      result.append(UInt32(start)..<UInt32(end))
    }
    return result
  }

  /// `gap:scalar.scalar…` as a dictionary.
  func mappings() -> [UInt32: [UInt32]] {
    var result: [UInt32: [UInt32]] = [:]
    var source = 0
    for row in rows {
      source += row[0]
      result[UInt32(source)] = row[1...].map { UInt32($0) }
    }
    return result
  }
}
