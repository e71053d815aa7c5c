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
