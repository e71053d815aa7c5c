import Checkpoints
public import Foundation
import Torch
import TorchNN

/// What can be wrong with the `config.json` of a model. Every case names the file.
public enum BackboneError: Error, Sendable, Equatable, CustomStringConvertible, LocalizedError {
  /// The file cannot be read, or is larger than any configuration.
  case unreadable(file: String, reason: String)
  /// A field is absent, has another type or a value that the model cannot have.
  case configuration(file: String, field: String, reason: String)

  /// One line.
  public var description: String {
    switch self {
    case .unreadable(let file, let reason): "\(file): cannot be read: \(reason)"
    case .configuration(let file, let field, let reason): "\(file): \(field): \(reason)"
    }
  }

  /// The same words as ``description``.
  public var errorDescription: String? { description }
}

/// Reads `config.json` of a model folder.
///
/// - Throws: ``BackboneError`` that names the file and the field.
public func readConfiguration<Configuration: Decodable>(
  _ type: Configuration.Type, folder: URL
) throws -> Configuration {
  let file = folder.appendingPathComponent("config.json")
  let data: Data
  do {
    data = try SmallFile.read(file)
  } catch CheckpointError.unreadable(let file, let reason) {
    throw BackboneError.unreadable(file: file, reason: reason)
  }
  do {
    return try JSONDecoder().decode(type, from: data)
  } catch let error as DecodingError {
    throw BackboneError.configuration(file: file.path, field: error.field, reason: error.reason)
  }
}

extension DecodingError {
  private var context: (path: [any CodingKey], reason: String) {
    switch self {
    case .keyNotFound(let key, let context): (context.codingPath + [key], "is missing")
    case .typeMismatch(let type, let context): (context.codingPath, "is not of the type \(type)")
    case .valueNotFound(let type, let context): (context.codingPath, "is null, expected \(type)")
    case .dataCorrupted(let context): (context.codingPath, context.debugDescription)
    @unknown default: ([], "\(self)")
    }
  }

  /// The path of the field, or `JSON` for a file that is none.
  fileprivate var field: String {
    let path = context.path.map(\.stringValue).joined(separator: ".")
    return path.isEmpty ? "JSON" : path
  }

  fileprivate var reason: String { context.reason }
}

extension KeyedDecodingContainer {
  /// A field, or the default when it is absent or null.
  func value<Value: Decodable>(_ key: Key, default value: Value) throws -> Value {
    try decodeIfPresent(Value.self, forKey: key) ?? value
  }

  /// A whole number within limits, so that nothing absurd is ever allocated.
  func size(_ key: Key, default value: Int? = nil, in range: ClosedRange<Int>) throws -> Int {
    let found = try value.map { try self.value(key, default: $0) } ?? decode(Int.self, forKey: key)
    guard range.contains(found) else {
      throw corrupted(key, "expected \(range.lowerBound) … \(range.upperBound), found \(found)")
    }
    return found
  }

  /// A width given as one number or as a list of equal numbers.
  func side(_ key: Key, default value: Int, in range: ClosedRange<Int>) throws -> Int {
    guard let list = try? decode([Int].self, forKey: key) else { return try size(key, default: value, in: range) }
    guard let first = list.first, list.allSatisfy({ $0 == first }), range.contains(first) else {
      throw corrupted(key, "expected equal numbers from \(range.lowerBound) to \(range.upperBound), found \(list)")
    }
    return first
  }

  /// A field of text that must be one of the given words, when it is there at all.
  func word(_ key: Key, oneOf words: [String]) throws {
    guard let found = try decodeIfPresent(String.self, forKey: key), !words.contains(found) else { return }
    throw corrupted(key, "expected \(words.joined(separator: " or ")), found \(found)")
  }

  /// Token numbers given as one number or as a list; null stands for none.
  func oneOrMore(_ key: Key, default value: [Int]) throws -> [Int] {
    guard contains(key) else { return value }
    if let list = try? decode([Int].self, forKey: key) { return list }
    return try decodeIfPresent(Int.self, forKey: key).map { [$0] } ?? []
  }

  /// The error for a field whose value cannot be used.
  func corrupted(_ key: Key, _ reason: String) -> DecodingError {
    .dataCorruptedError(forKey: key, in: self, debugDescription: reason)
  }
}

/// Limits of what a configuration may ask for.
enum Limit {
  static let width = 1...65_536
  static let inner = 1...1_048_576
  static let side = 1...16_384
  static let layers = 1...1_024
  static let vocabulary = 1...4_194_304
  static let positions = 1...16_777_216
}

/// The configuration of one tower, alone in a file or inside that of a whole model: `vision_config`.
struct Part<Value: Decodable>: Decodable {
  let value: Value

  private enum Keys: String, CodingKey { case vision = "vision_config" }

  init(from decoder: any Decoder) throws {
    let whole = try decoder.container(keyedBy: Keys.self)
    value = try whole.decodeIfPresent(Value.self, forKey: .vision) ?? Value(from: decoder)
  }
}

/// Builds a vision tower on the weights of its own folder, or on what lies below `vision_model` in that of a whole model.
///
/// - Parameters:
///   - folder: A folder in Hugging Face layout.
///   - ignoring: Patterns of keys of the tower that may stay unused.
///   - build: Makes the tower from the scope it is given.
func loadVisionPart<Model>(
  folder: URL, ignoring: [String], build: (ParameterScope) throws -> Model
) throws -> (model: Model, report: LoadReport) {
  let checkpoint = try Checkpoint(contentsOf: folder)
  let prefix = "vision_model."
  guard checkpoint.names.contains(where: { $0.hasPrefix(prefix) }) else {
    return try loadModel(from: checkpoint, ignoring: ignoring, build: build)
  }
  let others = checkpoint.names.filter { !$0.hasPrefix(prefix) }
  return try loadModel(
    from: checkpoint, keyMap: KeyMap([KeyMap.Rule("", "vision_model")]), ignoring: ignoring + others, build: build)
}
