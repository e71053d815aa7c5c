import Foundation

/// Reads a file beside `make_evaluation.py`.
func evaluationFixture<Value: Decodable>(_ name: String, as type: Value.Type) throws -> Value {
  let folder = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
  let file = folder.appending(path: "Fixtures/evaluation/\(name)")
  return try JSONDecoder().decode(type, from: Data(contentsOf: file))
}
