import Foundation

/// The table of contents of a tar file: ustar, with GNU long names and pax paths and sizes.
///
/// Only headers are read; the bytes of a member are fetched when its ``DataLocation`` is read. Every number is checked
/// against the file's size before it is used. Formats: POSIX.1-2017 `pax`, GNU tar manual, "Basic Tar Format".
public struct TarArchive: Sendable {
  /// A regular file in the archive.
  public struct Member: Sendable, Equatable {
    /// The name with its folders, as the archive spells it, without a leading `./`.
    public let name: String
    /// Where its bytes lie.
    public let location: DataLocation
    /// Its size in bytes.
    public var size: Int { location.count ?? 0 }
  }

  /// The file.
  public let path: String
  /// Its regular files, in the order of the archive.
  public let members: [Member]

  private static let block = 512
  private static let longestMetadata = 1 << 20
  private static let mostMembers = 10_000_000

  /// Reads the table of contents.
  ///
  /// - Throws: ``DataError`` on a cut header or member, a wrong checksum, a size that is no number, negative or beyond the
  ///   file, a missing end mark, content after it, links and other members that are neither files nor folders.
  public init(path: String) throws(DataError) {
    let file = try RandomAccessFile(path: path)
    var reader = TarReader(file: file)
    try reader.readAll()
    self.path = path
    members = reader.members
  }

  /// Walks from header to header.
  private struct TarReader {
    let file: RandomAccessFile
    var members: [Member] = []
    var offset = 0
    // What a GNU or pax header says of the member that follows it.
    var longName: String?
    var longSize: Int?

    init(file: RandomAccessFile) {
      self.file = file
    }

    mutating func readAll() throws(DataError) {
      guard file.count > 0 else { throw malformed("a tar archive", "an empty file") }
      while true {
        guard file.count - offset >= block else {
          let expected = "a header of \(block) bytes, or the end mark (a block of zeros)"
          throw malformed(expected, "\(file.count - offset) bytes to the end of the file: the archive is cut")
        }
        let header = [UInt8](try file.read(at: offset, count: block))
        if header.allSatisfy({ $0 == 0 }) { break }
        try readMember(header)
      }
      guard longName == nil, longSize == nil else {
        throw malformed("the member that a long name announced", "the end")
      }
      try checkEnd()
    }

    private mutating func readMember(_ header: [UInt8]) throws(DataError) {
      try checkSum(header)
      var size = try number(header[124..<136], what: "size")
      let kind = header[156]
      let isMetadata = [UInt8(ascii: "L"), UInt8(ascii: "K"), UInt8(ascii: "x"), UInt8(ascii: "g")].contains(kind)
      if !isMetadata, let longSize { size = longSize }
      let start = offset + block
      let room = file.count - start
      guard size <= room else {
        throw malformed("a member of at most the \(room) bytes left", "\(size) bytes: the archive is cut or damaged")
      }
      let padded = (size + block - 1) / block * block
      guard padded <= room else { throw malformed("padding to \(padded) bytes", "\(room): the archive is cut") }
      if isMetadata {
        guard size <= longestMetadata else {
          throw malformed("a name record of at most \(longestMetadata) bytes", "\(size)")
        }
        try readMetadata(kind, [UInt8](try file.read(at: start, count: size)))
      } else {
        try add(kind, header, start: start, size: size)
      }
      offset = start + padded
    }

    private mutating func add(_ kind: UInt8, _ header: [UInt8], start: Int, size: Int) throws(DataError) {
      let name: String
      if let longName { name = longName } else { name = try shortName(header) }
      longName = nil
      longSize = nil
      switch kind {
      case 0, UInt8(ascii: "0"), UInt8(ascii: "7"):
        if kind == 0, name.hasSuffix("/") { return }  // a folder, before ustar
        guard !name.isEmpty else { throw malformed("a member name", "an empty one") }
        guard members.count < mostMembers else { throw malformed("at most \(mostMembers) members", "more") }
        let plain = name.hasPrefix("./") ? String(name.dropFirst(2)) : name
        members.append(
          Member(name: plain, location: DataLocation(path: file.path, member: plain, offset: start, count: size)))
      case UInt8(ascii: "5"): return
      default:
        let found = "type \(kind < 0x7F && kind > 0x20 ? String(UnicodeScalar(kind)) : "\(kind)") (\(name))"
        throw malformed("a file or folder: links, devices and sparse files are not read", found)
      }
    }

    private mutating func readMetadata(_ kind: UInt8, _ bytes: [UInt8]) throws(DataError) {
      switch kind {
      case UInt8(ascii: "L"): longName = try text(bytes.prefix { $0 != 0 }, what: "long name")
      case UInt8(ascii: "x"): try readRecords(bytes)
      default: return  // long link targets, and archive-wide comments
      }
    }

    /// pax records: `LENGTH KEY=VALUE\n`, the length counting itself.
    private mutating func readRecords(_ bytes: [UInt8]) throws(DataError) {
      var start = 0
      while start < bytes.count, bytes[start] != 0 {
        var length = 0
        var position = start
        while position < bytes.count, (0x30...0x39).contains(bytes[position]), length <= bytes.count {
          length = length * 10 + Int(bytes[position] - 0x30)
          position += 1
        }
        guard position < bytes.count, bytes[position] == 0x20, length <= bytes.count - start,
          length > position - start + 1, bytes[start + length - 1] == 0x0A,
          let equals = bytes[position..<(start + length)].firstIndex(of: UInt8(ascii: "="))
        else { throw malformed("a pax record 'LENGTH KEY=VALUE'", "something else at byte \(start) of the header") }
        let value = bytes[(equals + 1)..<(start + length - 1)]
        switch String(decoding: bytes[(position + 1)..<equals], as: UTF8.self) {
        case "path": longName = try text(value, what: "path")
        case "size":
          guard let size = Int(String(decoding: value, as: UTF8.self)), size >= 0 else {
            throw malformed("a size in decimal digits", "'\(String(decoding: value.prefix(40), as: UTF8.self))'")
          }
          longSize = size
        case let key where key.hasPrefix("GNU.sparse."): throw malformed("a plain file", "a sparse one")
        default: break
        }
        start += length
      }
    }

    private func shortName(_ header: [UInt8]) throws(DataError) -> String {
      let name = try text(header[0..<100].prefix { $0 != 0 }, what: "name")
      // The prefix field is ustar's alone: GNU's own format keeps times there.
      guard Array(header[257..<263]) == Array("ustar\0".utf8) else { return name }
      let prefix = try text(header[345..<500].prefix { $0 != 0 }, what: "name prefix")
      return prefix.isEmpty ? name : prefix + "/" + name
    }

    private func text(_ bytes: ArraySlice<UInt8>, what: String) throws(DataError) -> String {
      guard let text = String(validating: bytes, as: UTF8.self), !text.contains("\0") else {
        throw malformed("a \(what) in UTF-8", "other bytes")
      }
      return text
    }

    /// The sum of all header bytes, the field of the sum itself counted as spaces.
    private func checkSum(_ header: [UInt8]) throws(DataError) {
      let field = 148..<156
      let stored = try number(header[field], what: "checksum")
      var sum = 0
      var signedSum = 0  // some old writers summed signed bytes
      for (index, byte) in header.enumerated() {
        let value = field.contains(index) ? 0x20 : byte
        sum += Int(value)
        signedSum += Int(Int8(bitPattern: value))
      }
      guard stored == sum || stored == signedSum else {
        throw malformed("a header with the checksum \(sum)", "\(stored)")
      }
    }

    /// Octal digits between spaces and NULs, or, with the first bit set, a big-endian binary number.
    private func number(_ field: ArraySlice<UInt8>, what: String) throws(DataError) -> Int {
      guard let first = field.first else { return 0 }
      if first & 0x80 != 0 {
        guard first & 0x40 == 0 else { throw malformed("a \(what) of zero or more", "a negative number") }
        var value = Int(first & 0x3F)
        for byte in field.dropFirst() {
          guard value <= Int.max >> 8 else { throw malformed("a \(what) of at most 63 bits", "a larger number") }
          value = value << 8 | Int(byte)
        }
        return value
      }
      let digits = field.drop { $0 == 0x20 }.prefix { $0 != 0x20 && $0 != 0 }
      var value = 0
      for digit in digits {
        guard (0x30...0x37).contains(digit), value <= Int.max >> 3 else {
          throw malformed("a \(what) in octal digits", "'\(String(decoding: field.prefix { $0 != 0 }, as: UTF8.self))'")
        }
        value = value << 3 | Int(digit - 0x30)
      }
      return value
    }

    /// After the end mark only zeros may follow, or a second archive would be lost without a word.
    private func checkEnd() throws(DataError) {
      let rest = min(file.count - offset, 1 << 20)
      let bytes = try file.read(at: offset, count: rest)
      if let index = bytes.firstIndex(where: { $0 != 0 }) {
        let place = offset + index - bytes.startIndex
        throw malformed("nothing after the end mark", "more at byte \(place): joined archives?")
      }
    }

    private func malformed(_ expected: String, _ found: String) -> DataError {
      .malformed(path: file.path, place: "byte \(offset)", expected: expected, found: found)
    }
  }
}
