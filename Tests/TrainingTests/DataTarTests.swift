import Foundation
import Testing
import Training

private struct ExpectedMember: Decodable {
  let name: String
  let size: Int
}

@Suite("Tar archives")
struct DataTarTests {
  @Test("Reads what Python's tar writer wrote, GNU and POSIX", arguments: ["gnu.tar", "pax.tar"])
  func pythonArchives(name: String) throws {
    let expected = try JSONDecoder().decode(
      [ExpectedMember].self, from: Data(contentsOf: URL(fileURLWithPath: dataFixture("expected.json"))))
    let archive = try TarArchive(path: dataFixture(name))
    #expect(archive.members.map(\.name) == expected.map(\.name))
    #expect(archive.members.map(\.size) == expected.map(\.size))
    for member in archive.members where member.name.hasSuffix(".png") || member.name.hasSuffix(".webp") {
      let data = try member.location.read()
      #expect(data.prefix(4) == Data([0x89, 0x50, 0x4E, 0x47]))
      #expect(data.suffix(8) == Data([0x49, 0x45, 0x4E, 0x44, 0xAE, 0x42, 0x60, 0x82]))
    }
    let text = try #require(archive.members.first { $0.name.hasSuffix(".txt") })
    #expect(try text.location.read() == Data("a green dot\n\ngreen\n".utf8))
  }

  @Test("Joins the ustar prefix, drops a leading ./, reads binary sizes, skips folders")
  func forms() throws {
    let scratch = try ScratchFolder()
    var builder = TarBuilder()
    builder.add("./a/", "", kind: "5")
    builder.add("b.txt", "hello", prefix: "deep/er")
    var binary = [UInt8](repeating: 0, count: 12)
    binary[0] = 0x80
    binary[11] = 3
    builder.bytes += TarBuilder.header("./c.txt", size: 3, sizeField: binary)
    builder.bytes += Array("xyz".utf8) + [UInt8](repeating: 0, count: 509)
    builder.end(blocks: 1)
    let archive = try TarArchive(path: try scratch.write("a.tar", builder.bytes))
    #expect(archive.members.map(\.name) == ["deep/er/b.txt", "c.txt"])
    #expect(try archive.members[1].location.read() == Data("xyz".utf8))
  }

  /// What is wrong, and words that the message must hold.
  private static func damaged() -> [(name: String, bytes: [UInt8], words: String)] {
    let good = TarBuilder.archive(["a.txt": "hello", "b.txt": "world"])
    func changed(_ change: (inout [UInt8]) -> Void) -> [UInt8] {
      var bytes = good
      change(&bytes)
      return bytes
    }
    func withHeader(_ header: [UInt8]) -> [UInt8] { header + [UInt8](repeating: 0, count: 2048) }
    func metadata(_ kind: Character, _ content: String) -> [UInt8] {
      var builder = TarBuilder()
      builder.add("meta", content, kind: kind)
      builder.add("x.txt", "x")
      builder.end()
      return builder.bytes
    }
    let huge = Array("77777777777\u{0}".utf8)
    return [
      ("empty", [], "an empty file"),
      ("cut header", Array(good.prefix(300)), "300 bytes to the end"),
      ("cut member", Array(good.prefix(515)), "cut"),
      ("cut padding", Array(good.prefix(600)), "cut"),
      ("cut between members", Array(good.prefix(1024)), "end mark"),
      ("checksum", changed { $0[0] = UInt8(ascii: "z") }, "checksum"),
      ("not a tar", [UInt8](repeating: 0x41, count: 2048), "checksum"),
      ("size beyond the file", withHeader(TarBuilder.header("a", size: 0, sizeField: huge)), "bytes left"),
      (
        "size no number", withHeader(TarBuilder.header("a", size: 0, sizeField: Array("12x45678901\u{0}".utf8))),
        "octal"
      ),
      (
        "decimal digits", withHeader(TarBuilder.header("a", size: 0, sizeField: Array("00000000009\u{0}".utf8))),
        "octal"
      ),
      (
        "negative size", withHeader(TarBuilder.header("a", size: 0, sizeField: [UInt8](repeating: 0xFF, count: 12))),
        "negative"
      ),
      (
        "size over 63 bits",
        withHeader(TarBuilder.header("a", size: 0, sizeField: [0x80] + [UInt8](repeating: 0xFF, count: 11))), "63 bits"
      ),
      ("symbolic link", withHeader(TarBuilder.header("a", size: 0, kind: "2")), "links"),
      ("device", withHeader(TarBuilder.header("a", size: 0, kind: "3")), "type 3"),
      ("no name", withHeader(TarBuilder.header("", size: 0)), "member name"),
      ("joined", good + good, "after the end mark"),
      ("pax length", metadata("x", "99 path=a\n"), "pax record"),
      ("pax length overflow", metadata("x", "99999999999999999999999999 path=a\n"), "pax record"),
      ("pax length short", metadata("x", "2 path=a\n"), "pax record"),
      ("pax no equals", metadata("x", "8 patha\n"), "pax record"),
      ("pax negative size", metadata("x", "11 size=-5\n"), "decimal digits"),
      ("pax huge size", metadata("x", "27 size=999999999999999999\n"), "bytes left"),
      ("pax sparse", metadata("x", "22 GNU.sparse.major=1\n"), "sparse"),
      ("long name of another time", metadata("L", String(repeating: "a", count: 2_000_000)), "name record"),
      (
        "long name, then nothing", Array(metadata("L", "name").prefix(1024)) + [UInt8](repeating: 0, count: 1024),
        "announced"
      ),
    ]
  }

  @Test("A damaged or hostile archive is refused in words")
  func damagedArchives() throws {
    let scratch = try ScratchFolder()
    for (name, bytes, words) in Self.damaged() {
      let path = try scratch.write("bad.tar", bytes)
      do {
        let archive = try TarArchive(path: path)
        Issue.record("\(name): read \(archive.members.count) members without complaint")
      } catch {
        #expect(error.description.contains(words), "\(name): \(error)")
        #expect(error.description.hasPrefix(path), "\(name)")
      }
    }
  }

  @Test("A name that is no UTF-8 is refused")
  func badName() throws {
    let scratch = try ScratchFolder()
    var header = TarBuilder.header("aa", size: 0)
    header[0] = 0xFF
    var sum = 0
    for (index, byte) in header.enumerated() { sum += (148..<156).contains(index) ? 0x20 : Int(byte) }
    header.replaceSubrange(148..<154, with: Array(("000000" + String(sum, radix: 8)).suffix(6).utf8))
    let path = try scratch.write("a.tar", header + [UInt8](repeating: 0, count: 1024))
    #expect(throws: DataError.malformed(path: path, place: "byte 0", expected: "a name in UTF-8", found: "other bytes"))
    {
      try TarArchive(path: path)
    }
  }

  @Test("Flipping any byte of a header never crashes the reader")
  func flippedBytes() throws {
    let scratch = try ScratchFolder()
    let good = TarBuilder.archive(["a.txt": "hello"])
    var refused = 0
    for index in 0..<512 {
      var bytes = good
      bytes[index] ^= 0x85
      let path = try scratch.write("a.tar", bytes)
      do { _ = try TarArchive(path: path) } catch { refused += 1 }
    }
    // Only changes of the checksum's own padding can pass.
    #expect(refused > 505)
  }

  @Test("A missing file, a folder, a pipe and a stretch beyond the file are refused")
  func files() throws {
    let scratch = try ScratchFolder()
    let missing = scratch.path + "/none.tar"
    #expect(throws: DataError.missing(path: missing, expected: "a file")) { try TarArchive(path: missing) }
    #expect(throws: DataError.self) { try TarArchive(path: scratch.path) }
    let pipe = scratch.path + "/pipe"
    #expect(mkfifo(pipe, 0o600) == 0)
    #expect(throws: DataError.unreadable(path: pipe, reason: "expected a regular file, found something else")) {
      try TarArchive(path: pipe)
    }
    let short = try scratch.write("short", "12345")
    for (offset, count) in [(3, 3), (6, 0), (-1, 2), (0, -1), (1, Int.max), (Int.max, 1)] {
      #expect(throws: DataError.self) {
        try DataLocation(path: short, member: nil, offset: offset, count: count).read(limit: .max)
      }
    }
    #expect(try DataLocation(path: short, member: nil, offset: 3, count: 2).read() == Data("45".utf8))
    #expect(throws: DataError.malformed(path: short, place: "size", expected: "at most 4 bytes", found: "5")) {
      try DataLocation(path: short).read(limit: 4)
    }
  }
}
