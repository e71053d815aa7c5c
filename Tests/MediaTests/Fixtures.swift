import Foundation
import Media
import Testing

/// What `Tests/Fixtures/media/make_media.py` wrote.
enum Fixtures {
  struct Decode: Decodable, Sendable, CustomTestStringConvertible {
    let file: String
    let width: Int
    let height: Int
    let expected: String
    let most: Int
    let mean: Double
    var testDescription: String { file }
  }

  struct Bad: Decodable, Sendable, CustomTestStringConvertible {
    let file: String
    let error: String
    var testDescription: String { file }
  }

  struct Resize: Decodable, Sendable, CustomTestStringConvertible {
    let source: String
    let width: Int
    let height: Int
    let expected: String
    var testDescription: String { expected }
  }

  struct Manifest: Decodable, Sendable {
    let decode: [Decode]
    let bad: [Bad]
    let resize: [Resize]
  }

  static let folder = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
    .appending(path: "Fixtures/media")

  static let manifest: Manifest = {
    do {
      return try JSONDecoder().decode(Manifest.self, from: Data(contentsOf: folder.appending(path: "manifest.json")))
    } catch {
      fatalError("manifest.json: \(error)")
    }
  }()

  static func file(_ name: String) -> URL { folder.appending(path: "files/\(name)") }

  static func expected(_ name: String) -> URL { folder.appending(path: "expected/\(name)") }

  /// A fresh empty folder, removed after `body`.
  static func withTemporaryFolder<R>(_ body: (URL) throws -> R) throws -> R {
    let folder = FileManager.default.temporaryDirectory.appending(path: "media-\(UUID().uuidString)")
    try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    defer { try? FileManager.default.removeItem(at: folder) }
    return try body(folder)
  }
}

/// Largest and mean difference of two equally long lists of levels.
func difference(_ a: [UInt8], _ b: [UInt8]) -> (most: Int, mean: Double) {
  precondition(a.count == b.count)
  var most = 0
  var sum = 0
  for (x, y) in zip(a, b) {
    let distance = abs(Int(x) - Int(y))
    most = max(most, distance)
    sum += distance
  }
  return (most, Double(sum) / Double(max(a.count, 1)))
}

/// What `Tests/Fixtures/media/make_video.py` wrote.
enum VideoFixtures {
  struct Clip: Decodable, Sendable, CustomTestStringConvertible {
    let file: String
    let width: Int
    let height: Int
    let rotation: Int
    let container: String
    let codec: String
    let duration: Double
    let rate: Double
    let videos: Int
    let sounds: Int
    let times: [Double]
    let crc: [UInt32]
    let strip: String
    let shown: [Int]
    var testDescription: String { file }
    var isAnimation: Bool { container == "gif" || container == "webp" }
  }

  struct Bad: Decodable, Sendable, CustomTestStringConvertible {
    let file: String
    let error: String
    var testDescription: String { file }
  }

  struct Sound: Decodable, Sendable, CustomTestStringConvertible {
    let file: String
    let count: Int
    let start: Double
    var testDescription: String { file }
  }

  struct Manifest: Decodable, Sendable {
    let clips: [Clip]
    let bad: [Bad]
    let sounds: [Sound]
  }

  static let manifest: Manifest = {
    do {
      return try JSONDecoder().decode(
        Manifest.self, from: Data(contentsOf: Fixtures.folder.appending(path: "video.json")))
    } catch {
      fatalError("video.json: \(error)")
    }
  }()

  static func file(_ name: String) -> URL { Fixtures.folder.appending(path: "video/\(name)") }

  static func clip(_ name: String) -> Clip {
    guard let clip = manifest.clips.first(where: { $0.file == name }) else { fatalError("no clip \(name)") }
    return clip
  }

  /// The float tensor `name` of a safetensors file: 8 bytes of length, a JSON header, values.
  static func floats(_ file: String, _ name: String) throws -> (shape: [Int], values: [Float]) {
    struct Entry: Decodable {
      let shape: [Int]
      let offsets: [Int]
      enum CodingKeys: String, CodingKey {
        case shape
        case offsets = "data_offsets"
      }
    }
    let data = try Data(contentsOf: self.file(file))
    let length = data.prefix(8).enumerated().reduce(0) { $0 + Int($1.element) << (8 * $1.offset) }
    let header = try JSONDecoder().decode([String: Entry].self, from: data[8..<8 + length])
    guard let entry = header[name] else { fatalError("no tensor \(name) in \(file)") }
    let values = data[8 + length + entry.offsets[0]..<8 + length + entry.offsets[1]].withUnsafeBytes { bytes in
      (0..<bytes.count / 4).map { bytes.loadUnaligned(fromByteOffset: 4 * $0, as: Float.self) }
    }
    return (entry.shape, values)
  }
}

/// The CRC-32 that zlib computes.
func crc32(_ bytes: [UInt8]) -> UInt32 {
  bytes.withUnsafeBufferPointer { bytes in
    crcTable.withUnsafeBufferPointer { table in
      var crc: UInt32 = 0xFFFF_FFFF
      for byte in bytes { crc = table[Int((crc ^ UInt32(byte)) & 255)] ^ (crc >> 8) }
      return ~crc
    }
  }
}

private let crcTable: [UInt32] = (0..<256).map { value in
  (0..<8).reduce(UInt32(value)) { crc, _ in crc & 1 == 1 ? 0xEDB8_8320 ^ (crc >> 1) : crc >> 1 }
}
