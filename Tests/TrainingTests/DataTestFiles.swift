import Foundation

/// Builds a tar file byte by byte, so that a test can damage it.
struct TarBuilder {
  var bytes: [UInt8] = []

  /// A header; `sizeField` replaces the twelve bytes of the size.
  static func header(
    _ name: String, size: Int, kind: Character = "0", prefix: String = "", sizeField: [UInt8]? = nil
  ) -> [UInt8] {
    var block = [UInt8](repeating: 0, count: 512)
    func put(_ text: [UInt8], at offset: Int) { block.replaceSubrange(offset..<(offset + text.count), with: text) }
    func octal(_ value: Int, _ digits: Int) -> [UInt8] {
      let text = String(value, radix: 8)
      return Array((String(repeating: "0", count: digits - text.count) + text).utf8)
    }
    put(Array(name.utf8.prefix(100)), at: 0)
    put(octal(0o644, 7), at: 100)
    put(sizeField ?? octal(size, 11), at: 124)
    put(octal(0, 11), at: 136)
    put(Array("        ".utf8), at: 148)
    block[156] = kind.asciiValue ?? 0
    put(Array("ustar\u{0}00".utf8), at: 257)
    put(Array(prefix.utf8), at: 345)
    put(octal(block.reduce(0) { $0 + Int($1) }, 6) + [0, 0x20], at: 148)
    return block
  }

  mutating func add(_ name: String, _ content: [UInt8], kind: Character = "0", prefix: String = "") {
    bytes += Self.header(name, size: content.count, kind: kind, prefix: prefix)
    bytes += content
    bytes += [UInt8](repeating: 0, count: (512 - content.count % 512) % 512)
  }

  mutating func add(_ name: String, _ content: String, kind: Character = "0", prefix: String = "") {
    add(name, Array(content.utf8), kind: kind, prefix: prefix)
  }

  mutating func end(blocks: Int = 2) {
    bytes += [UInt8](repeating: 0, count: 512 * blocks)
  }

  /// A good archive with these files.
  static func archive(_ files: KeyValuePairs<String, String>) -> [UInt8] {
    var builder = TarBuilder()
    for (name, content) in files { builder.add(name, content) }
    builder.end()
    return builder.bytes
  }
}

/// A folder of a test's own that goes away with it.
final class ScratchFolder {
  let path: String

  init() throws {
    path = FileManager.default.temporaryDirectory.appending(path: "data-tests-\(UUID().uuidString)").path()
    try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
  }

  deinit { try? FileManager.default.removeItem(atPath: path) }

  /// Writes a file, with its folders, and returns its path.
  @discardableResult
  func write(_ name: String, _ bytes: [UInt8]) throws -> String {
    let url = URL(fileURLWithPath: path).appending(path: name)
    try FileManager.default.createDirectory(at: url.deletingLastPathComponent(), withIntermediateDirectories: true)
    try Data(bytes).write(to: url)
    return url.path(percentEncoded: false)
  }

  @discardableResult
  func write(_ name: String, _ text: String) throws -> String {
    try write(name, Array(text.utf8))
  }
}

/// The path of a file beside `make_data.py`.
func dataFixture(_ name: String) -> String {
  let folder = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
  return folder.appending(path: "Fixtures/data/\(name)").path(percentEncoded: false)
}
