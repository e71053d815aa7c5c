import Foundation

/// The table of contents of a zip archive whose entries are stored as they are, as PyTorch writes them.
///
/// Nothing is unpacked: a compressed entry is refused, so that a small file cannot grow large. Every entry lies inside
/// the file, none overlaps another, no name occurs twice. Both the old and the 64-bit form are read. Checksums are not
/// compared: PyTorch may be told to write none.
struct ZipArchive {
  /// Where the data of each entry lies in the file.
  let entries: [String: Range<Int>]

  /// Entries that an archive may have.
  private static let entryLimit = 200_000

  /// Reads the table of contents.
  ///
  /// - Throws: ``CheckpointError/malformed(file:expected:found:)``.
  init(_ bytes: UnsafeRawBufferPointer, path: String) throws {
    let reader = LittleEndianReader(bytes)
    let (directory, count) = try Self.directory(reader, path)
    try self.init(reader, path, directory: directory, count: count)
  }

  private static func malformed(_ path: String, _ expected: String, _ found: String) -> CheckpointError {
    .malformed(file: path, expected: expected, found: found)
  }

  /// The bytes of the central directory and the number of its entries.
  private static func directory(_ reader: LittleEndianReader, _ path: String) throws -> (Range<Int>, Int) {
    let size = reader.count
    // The record at the end is 22 bytes and a comment of at most 65,535.
    var end = size - 22
    let lowest = max(0, size - 22 - 65535)
    while end >= lowest {
      if reader.uint32(end) == 0x0605_4b50, let comment = reader.uint16(end + 20), end + 22 + Int(comment) == size {
        break
      }
      end -= 1
    }
    guard end >= lowest, let disk = reader.uint16(end + 4), let firstDisk = reader.uint16(end + 6),
      let countHere = reader.uint16(end + 8), let count = reader.uint16(end + 10), let length = reader.uint32(end + 12),
      let start = reader.uint32(end + 16)
    else { throw malformed(path, "a zip archive with its directory at the end", "\(size) bytes without; cut off?") }
    guard disk == firstDisk, countHere == count else {
      throw malformed(path, "a zip archive in one file", "one part of several")
    }
    var (from, bytes, entries) = (UInt64(start), UInt64(length), UInt64(count))
    var limit = end
    if count == .max || length == .max || start == .max {
      guard reader.uint32(end - 20) == 0x0706_4b50, let offset = reader.uint64(end - 12), offset < UInt64(size),
        let record = Int(exactly: offset), reader.uint32(record) == 0x0606_4b50,
        let records = reader.uint64(record + 32), let wideLength = reader.uint64(record + 40),
        let wideStart = reader.uint64(record + 48)
      else { throw malformed(path, "a 64-bit directory record in the zip archive", "none at its place") }
      (from, bytes, entries, limit) = (wideStart, wideLength, records, record)
    }
    guard from <= UInt64(limit), bytes <= UInt64(limit) - from else {
      throw malformed(path, "a zip directory inside the file", "\(bytes) bytes at \(from) of \(size)")
    }
    guard entries <= UInt64(entryLimit) else {
      throw malformed(path, "at most \(entryLimit) entries in the zip archive", "\(entries)")
    }
    return (Int(from)..<Int(from + bytes), Int(entries))
  }

  private init(_ reader: LittleEndianReader, _ path: String, directory: Range<Int>, count: Int) throws {
    var entries: [String: Range<Int>] = [:]
    var spans: [(range: Range<Int>, name: String)] = []
    var position = directory.lowerBound
    for number in 0..<count {
      guard position + 46 <= directory.upperBound, let header = Header(reader, at: position),
        header.end <= directory.upperBound
      else { throw Self.malformed(path, "\(count) entries in the zip directory", "\(number) that are whole") }
      let name = header.name
      guard header.flags & 1 == 0 else {
        throw Self.malformed(path, "entries that are not encrypted", "\(name) is")
      }
      guard header.method == 0, header.storedSize == header.size else {
        throw Self.malformed(
          path, "entries stored without compression",
          "\(name) with \(header.storedSize) bytes for \(header.size) (method \(header.method))")
      }
      let range = try Self.data(of: header, reader, path, before: directory.lowerBound)
      guard entries.updateValue(range, forKey: header.key) == nil else {
        throw Self.malformed(path, "each entry of the zip archive once", "\(name) twice")
      }
      spans.append((Int(header.offset)..<range.upperBound, name))
      position = header.end
    }
    spans.sort { $0.range.lowerBound < $1.range.lowerBound }
    for (first, second) in zip(spans, spans.dropFirst()) where first.range.upperBound > second.range.lowerBound {
      throw Self.malformed(path, "zip entries that do not overlap", "\(first.name) and \(second.name) do")
    }
    self.entries = entries
  }

  /// Follows a directory entry to its data.
  private static func data(
    of header: Header, _ reader: LittleEndianReader, _ path: String, before end: Int
  ) throws -> Range<Int> {
    func outside() -> CheckpointError {
      malformed(path, "\(header.name) inside the zip archive", "\(header.size) bytes at \(header.offset) of \(end)")
    }
    guard header.offset <= UInt64(end), end - Int(header.offset) >= 30 else { throw outside() }
    let local = Int(header.offset)
    guard reader.uint32(local) == 0x0403_4b50, let nameLength = reader.uint16(local + 26),
      let extraLength = reader.uint16(local + 28), let name = reader.bytes(local + 30, Int(nameLength)),
      name.elementsEqual(header.rawName)
    else { throw malformed(path, "\(header.name) at byte \(local) of the zip archive", "something else") }
    let start = local + 30 + Int(nameLength) + Int(extraLength)
    guard start <= end, header.size <= UInt64(end - start) else { throw outside() }
    return start..<start + Int(header.size)
  }

  /// One row of the central directory.
  private struct Header {
    let flags: UInt16
    let method: UInt16
    var storedSize: UInt64
    var size: UInt64
    var offset: UInt64
    let rawName: UnsafeRawBufferPointer
    /// Behind the row.
    let end: Int

    init?(_ reader: LittleEndianReader, at position: Int) {
      guard reader.uint32(position) == 0x0201_4b50, let flags = reader.uint16(position + 8),
        let method = reader.uint16(position + 10), let stored = reader.uint32(position + 20),
        let size = reader.uint32(position + 24), let nameLength = reader.uint16(position + 28),
        let extraLength = reader.uint16(position + 30), let commentLength = reader.uint16(position + 32),
        let offset = reader.uint32(position + 42), let rawName = reader.bytes(position + 46, Int(nameLength))
      else { return nil }
      (self.flags, self.method, self.rawName) = (flags, method, rawName)
      (storedSize, self.size, self.offset) = (UInt64(stored), UInt64(size), UInt64(offset))
      let extra = position + 46 + Int(nameLength)
      end = extra + Int(extraLength) + Int(commentLength)
      guard stored == .max || size == .max || offset == .max else { return }
      // The 64-bit values stand in an extra field, in this order, those that did not fit alone.
      var field = extra
      while field + 4 <= extra + Int(extraLength) {
        guard let tag = reader.uint16(field), let length = reader.uint16(field + 2) else { return nil }
        if tag == 1 {
          var value = field + 4
          let fieldEnd = min(field + 4 + Int(length), extra + Int(extraLength))
          func next() -> UInt64? {
            defer { value += 8 }
            return value + 8 <= fieldEnd ? reader.uint64(value) : nil
          }
          if size == .max { guard let wide = next() else { return nil }; self.size = wide }
          if stored == .max { guard let wide = next() else { return nil }; storedSize = wide }
          if offset == .max { guard let wide = next() else { return nil }; self.offset = wide }
          return
        }
        field += 4 + Int(length)
      }
      return nil
    }

    /// For the table: exact, also where the bytes are no UTF-8.
    var key: String { String(validating: rawName, as: UTF8.self) ?? rawName.map { String($0, radix: 16) }.joined() }

    /// For messages.
    var name: String { printable(rawName) }
  }
}

/// Reads numbers at any place of a buffer; nil outside.
struct LittleEndianReader {
  private let bytes: UnsafeRawBufferPointer

  init(_ bytes: UnsafeRawBufferPointer) { self.bytes = bytes }

  var count: Int { bytes.count }

  private func load<Integer: FixedWidthInteger & BitwiseCopyable>(_ position: Int, _: Integer.Type) -> Integer? {
    guard position >= 0, position <= bytes.count - MemoryLayout<Integer>.size else { return nil }
    return Integer(littleEndian: bytes.loadUnaligned(fromByteOffset: position, as: Integer.self))
  }

  func uint16(_ position: Int) -> UInt16? { load(position, UInt16.self) }
  func uint32(_ position: Int) -> UInt32? { load(position, UInt32.self) }
  func uint64(_ position: Int) -> UInt64? { load(position, UInt64.self) }

  func bytes(_ position: Int, _ length: Int) -> UnsafeRawBufferPointer? {
    guard position >= 0, length >= 0, position <= bytes.count - length else { return nil }
    return UnsafeRawBufferPointer(rebasing: bytes[position..<position + length])
  }
}

/// Bytes from a file as words for a message: short, one line, no control characters.
func printable(_ bytes: UnsafeRawBufferPointer) -> String {
  let text = String(decoding: bytes.prefix(200), as: UTF8.self)
  return String(
    String.UnicodeScalarView(text.unicodeScalars.map { $0.properties.generalCategory == .control ? "?" : $0 }))
}

/// Words from a file for a message: short, one line, no control characters.
func printable(_ text: String) -> String {
  Array(text.utf8.prefix(200)).withUnsafeBytes { printable($0) }
}
