import Foundation

/// A JSON value that knows where it stands, so that every complaint names the file and the key path.
struct JSONNode {
  let value: JSONValue
  let path: String
  let file: String

  init(value: JSONValue, path: String, file: String) {
    self.value = value
    self.path = path
    self.file = file
  }

  /// Reads a JSON file.
  init(contentsOf url: URL) throws {
    let file = url.path
    func failure(_ expected: String, _ found: String) -> TokenizerError {
      TokenizerError(file: file, keyPath: "", expected: expected, found: found)
    }
    let bytes = try FileBytes.read(url)
    guard String(validating: bytes, as: UTF8.self) != nil else { throw failure("UTF-8 text", "other bytes") }
    do throws(JSONParser.Failure) {
      value = try bytes.withUnsafeBufferPointer { buffer throws(JSONParser.Failure) in try JSONParser.parse(buffer) }
    } catch {
      throw failure("\(error.expected) at byte \(error.offset)", error.found)
    }
    path = ""
    self.file = file
  }

  func failure(expected: String) -> TokenizerError {
    failure(expected: expected, found: value.summary)
  }

  func failure(expected: String, found: String) -> TokenizerError {
    TokenizerError(file: file, keyPath: path, expected: expected, found: found)
  }

  /// The members of an object, in the order of the file.
  func members() throws -> [(key: [UInt8], value: JSONValue)] {
    guard case .object(let members) = value else { throw failure(expected: "an object") }
    return members
  }

  func elements() throws -> [JSONNode] {
    guard case .array(let values) = value else { throw failure(expected: "an array") }
    return values.enumerated().map { JSONNode(value: $1, path: "\(path)[\($0)]", file: file) }
  }

  func child(_ key: String, _ value: JSONValue) -> JSONNode {
    JSONNode(value: value, path: path.isEmpty ? key : "\(path).\(key)", file: file)
  }

  /// The member, or nil when it is absent or null.
  func optional(_ key: String) throws -> JSONNode? {
    let bytes = Array(key.utf8)
    guard let member = try members().last(where: { $0.key == bytes }) else { return nil }
    if case .null = member.value { return nil }
    return child(key, member.value)
  }

  /// The member, which must be there and not null.
  func required(_ key: String) throws -> JSONNode {
    guard let node = try optional(key) else {
      throw child(key, .null).failure(expected: "a value", found: "nothing")
    }
    return node
  }

  func string() throws -> [UInt8] {
    guard case .string(let bytes) = value else { throw failure(expected: "a string") }
    return bytes
  }

  func bool() throws -> Bool {
    guard case .bool(let value) = value else { throw failure(expected: "true or false") }
    return value
  }

  /// A whole number that fits 32 bits, as ids and sizes do.
  func count() throws -> Int {
    guard case .integer(let value) = value, value >= 0, value <= Int(UInt32.max) else {
      throw failure(expected: "a whole number from 0 to \(UInt32.max)")
    }
    return value
  }

  /// A number that is neither infinite nor a NaN.
  func number() throws -> Double {
    switch value {
    case .integer(let value): return Double(value)
    case .number(let value) where value.isFinite: return value
    default: throw failure(expected: "a finite number")
    }
  }

  func bool(_ key: String, default fallback: Bool) throws -> Bool {
    try optional(key)?.bool() ?? fallback
  }

  /// The `type` member as one of the names of a closed enumeration.
  func type<Kind: RawRepresentable & CaseIterable>(_: Kind.Type) throws -> Kind where Kind.RawValue == String {
    let node = try required("type")
    return try node.name(Kind.self)
  }

  /// A string that is one of the names of a closed enumeration.
  func name<Kind: RawRepresentable & CaseIterable>(_: Kind.Type) throws -> Kind where Kind.RawValue == String {
    guard let kind = Kind(rawValue: try string().text) else {
      throw failure(expected: "one of " + Kind.allCases.map(\.rawValue).joined(separator: ", "))
    }
    return kind
  }
}
