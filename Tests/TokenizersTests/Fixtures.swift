import Foundation
import Testing
import Tokenizers

/// The files that `make_tokenizers.py` wrote, and how its hashes are formed.
enum Fixtures {
  static let folder = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
    .appending(path: "Fixtures/tokenizers")

  static let texts: [String] = {
    guard let data = try? Data(contentsOf: folder.appending(path: "strings.json")),
      let texts = try? JSONDecoder().decode([String].self, from: data)
    else { return [] }
    return texts
  }()

  private static let sweepStarts = stride(from: UInt32(0), to: 0x20000, by: 512) + [0x2F800, 0xE0000]

  /// Every scalar of two planes and parts of others, each before an "a", 512 to a text.
  static let sweep = sweepStarts.map(sweepText)

  /// The sweep without the long blocks of ideographs, syllables and ancient scripts, which are all alike.
  static let sampledSweep: [String] = {
    let alike: [Range<UInt32>] = [0x3400..<0xA000, 0xAC00..<0xD600, 0xE000..<0xF800, 0x12000..<0x1D000]
    return sweepStarts.filter { start in !alike.contains { $0.contains(start) } }.map(sweepText)
  }()

  /// The texts that variants are tried with: the first, and every fourth of the others.
  static let sampled = texts.enumerated().filter { $0.offset < 260 || $0.offset % 4 == 0 }.map(\.element)

  private static func sweepText(from start: UInt32) -> String {
    var text = String.UnicodeScalarView()
    for scalar in (start..<start + 512).compactMap(UnicodeScalar.init) {
      text.append(scalar)
      text.append("a")
    }
    return String(text)
  }

  static func expected(_ name: String) throws -> Expected {
    let data = try Data(contentsOf: folder.appending(path: "expected-\(name).json"))
    return try JSONDecoder().decode(Expected.self, from: data)
  }

  /// Where models were fetched to.
  static let cache: URL = {
    let variable = ProcessInfo.processInfo.environment["QFORMER_CACHE"]
    return variable.map { URL(filePath: $0) }
      ?? FileManager.default.homeDirectoryForCurrentUser.appending(path: ".cache/swift-qformer")
  }()

  /// The folder of a fetched model's tokenizer, or nil, with a note why, when it was not fetched.
  static func fetched(_ name: String) -> URL? {
    let folder = cache.appending(path: "models/\(name)")
    if FileManager.default.fileExists(atPath: folder.appending(path: "tokenizer.json").path) { return folder }
    print("skipped: \(folder.path)/tokenizer.json is not there; scripts/fetch-models fetches it")
    return nil
  }

  /// A small tokenizer that the fixtures script trained, with texts of its file replaced.
  static func small(_ name: String, replacing replacements: [[String]] = []) throws -> Tokenizer {
    let file = folder.appending(path: "\(name)/tokenizer.json")
    guard !replacements.isEmpty else { return try Tokenizer(contentsOf: file) }
    var bytes = [UInt8](try Data(contentsOf: file))
    for pair in replacements {
      let range = try #require(bytes.firstRange(of: Array(pair[0].utf8)))
      bytes.replaceSubrange(range, with: Array(pair[1].utf8))
    }
    return try tokenizer(from: Data(bytes))
  }

  /// A temporary folder with copies of files and with files of the given texts.
  static func folder(copying files: [URL], with texts: [String: String] = [:]) throws -> URL {
    let folder = FileManager.default.temporaryDirectory.appending(path: "tokenizer-\(UUID().uuidString)")
    try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    for file in files {
      try FileManager.default.copyItem(at: file, to: folder.appending(path: file.lastPathComponent))
    }
    for (name, text) in texts { try Data(text.utf8).write(to: folder.appending(path: name)) }
    return folder
  }

  /// Reads a tokenizer from text by way of a temporary file.
  static func tokenizer(from data: Data) throws -> Tokenizer {
    let file = FileManager.default.temporaryDirectory.appending(path: "tokenizer-\(UUID().uuidString).json")
    try data.write(to: file)
    defer { try? FileManager.default.removeItem(at: file) }
    return try Tokenizer(contentsOf: file)
  }
}

/// What the Python library answered for one tokenizer.
struct Expected: Decodable {
  struct Hashes: Decodable {
    let plain: String
    let special: String
    let kept: String
    let skipped: String
  }

  struct Variant: Decodable {
    let replacements: [[String]]
    let texts: String
    let sweep: String
    let pairs: String
  }

  /// `[ids, ids with special tokens, decoded, decoded without special tokens]`
  struct Full: Decodable {
    let plain: [Int]
    let special: [Int]
    let kept: String
    let skipped: String

    init(from decoder: any Decoder) throws {
      var container = try decoder.unkeyedContainer()
      plain = try container.decode([Int].self)
      special = try container.decode([Int].self)
      kept = try container.decode(String.self)
      skipped = try container.decode(String.self)
    }
  }

  /// `[ids, decoded, decoded without special tokens]`
  struct Decoded: Decodable {
    let ids: [Int]
    let kept: String
    let skipped: String

    init(from decoder: any Decoder) throws {
      var container = try decoder.unkeyedContainer()
      ids = try container.decode([Int].self)
      kept = try container.decode(String.self)
      skipped = try container.decode(String.self)
    }
  }

  /// `[index, index, hash with special tokens, hash without]`
  struct Pair: Decodable {
    let first: Int
    let second: Int
    let special: String
    let plain: String

    init(from decoder: any Decoder) throws {
      var container = try decoder.unkeyedContainer()
      first = try container.decode(Int.self)
      second = try container.decode(Int.self)
      special = try container.decode(String.self)
      plain = try container.decode(String.self)
    }
  }

  let size: Int
  let hashes: Hashes
  let full: [Full]
  let decoded: [Decoded]
  let pairs: [Pair]
  let sweep: String
  let variants: [String: Variant]
}

/// The 64-bit hash FNV-1a, folded to 32 bits, in eight hexadecimal digits.
func hash(_ bytes: [UInt8]) -> String {
  var value: UInt64 = 0xCBF2_9CE4_8422_2325
  bytes.withUnsafeBufferPointer { bytes in
    for i in 0..<bytes.count { value = (value ^ UInt64(bytes[i])) &* 0x100_0000_01B3 }
  }
  let folded = String(UInt32(truncatingIfNeeded: value >> 32 ^ value), radix: 16)
  return String(repeating: "0", count: 8 - folded.count) + folded
}

func hash(_ text: String) -> String { hash(Array(text.utf8)) }

func hash(_ ids: [Int]) -> String {
  hash(ids.map(String.init).joined(separator: ","))
}

/// Compares scalars: `==` on `String` would take canonically equivalent texts for equal.
func isSame(_ a: String, _ b: String) -> Bool {
  a.utf8.elementsEqual(b.utf8)
}

/// Cuts a row of hashes into its parts.
func parts(_ hashes: String) -> [Substring] {
  let utf8 = Array(hashes.utf8)
  return stride(from: 0, to: utf8.count, by: 8).map { Substring(decoding: utf8[$0..<$0 + 8], as: UTF8.self) }
}

/// A text as escapes, short enough for a failure message.
func escaped(_ text: String) -> String {
  text.unicodeScalars.prefix(60).map { $0.escaped(asASCII: true) }.joined()
}
