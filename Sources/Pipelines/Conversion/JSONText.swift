import Checkpoints
import Foundation

/// A JSON object with fields of any kind.
typealias JSONObject = [String: Any]

/// JSON as text in which numbers keep their kind: `JSONSerialization` writes 1.0 as 1, and transformers then refuses it
/// where it wants a number with a fraction.
enum JSONText {
  /// The text of a value, indented, with sorted keys.
  static func write(_ value: Any, indent: String = "") -> String {
    let deeper = indent + "  "
    switch value {
    case let object as JSONObject:
      guard !object.isEmpty else { return "{}" }
      let fields = object.sorted { $0.key < $1.key }.map { key, value in
        "\(deeper)\(quoted(key)): \(write(value, indent: deeper))"
      }
      return "{\n\(fields.joined(separator: ",\n"))\n\(indent)}"
    case let array as [Any]: return "[\(array.map { write($0, indent: deeper) }.joined(separator: ", "))]"
    case let text as String: return quoted(text)
    case is NSNull: return "null"
    case let number as NSNumber: return write(number)
    default: return quoted("\(value)")
    }
  }

  private static func write(_ number: NSNumber) -> String {
    switch String(cString: number.objCType) {
    case "c", "B": number.boolValue ? "true" : "false"
    case "d", "f": "\(number.doubleValue)"
    default: number.stringValue
    }
  }

  private static func quoted(_ text: String) -> String {
    let options: JSONSerialization.WritingOptions = [.fragmentsAllowed, .withoutEscapingSlashes]
    guard let data = try? JSONSerialization.data(withJSONObject: text, options: options) else { return "\"\"" }
    return String(decoding: data, as: UTF8.self)
  }
}

/// The fields of an object as a type.
///
/// - Throws: ``PipelineError/badConfiguration(file:reason:)``.
func decode<Value: Decodable>(_ type: Value.Type, _ object: JSONObject, file: String) throws -> Value {
  do {
    return try JSONDecoder().decode(type, from: JSONSerialization.data(withJSONObject: object))
  } catch let error as DecodingError {
    throw PipelineError.badConfiguration(file: file, reason: error.words)
  }
}

/// A value as an object.
func jsonObject(_ value: some Encodable) throws -> JSONObject {
  try JSONSerialization.jsonObject(with: JSONEncoder().encode(value)) as? JSONObject ?? [:]
}

/// The object in a file.
///
/// - Throws: ``PipelineError/badConfiguration(file:reason:)``.
func jsonObject(contentsOf file: URL) throws -> JSONObject {
  guard let object = try? JSONSerialization.jsonObject(with: SmallFile.configuration(file)) as? JSONObject else {
    throw PipelineError.badConfiguration(file: file.path, reason: "expected a JSON object below 10 MB")
  }
  return object
}

/// Writes an object for people to read.
func writeJSON(_ object: JSONObject, to file: URL) throws {
  try AtomicFile.write(Data((JSONText.write(object) + "\n").utf8), to: file)
}
