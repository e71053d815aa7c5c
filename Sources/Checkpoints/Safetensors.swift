public import Foundation
public import Torch

/// A file in the safetensors format, memory-mapped: tensors borrow the file's bytes and copy nothing.
///
/// Format: 8 bytes little-endian header length, a JSON header `{name: {dtype, shape, data_offsets}}`, then the data.
/// Every size is checked against the file before it is used. Data must be covered without gaps or overlaps.
public final class SafetensorsFile: Sendable, StoredTensors {
  private static let dtypes: [String: DType] = [
    "F64": .float64, "F32": .float32, "F16": .float16, "BF16": .bfloat16, "I64": .int64, "I32": .int32, "I16": .int16,
    "I8": .int8, "U8": .uint8, "BOOL": .bool,
  ]
  /// The largest header that is read, the format's own limit.
  private static let headerLimit = 100_000_000

  let file: MappedFile
  private let entries: [String: StoredTensor]
  /// The names of all tensors, in the order of their data.
  public let names: [String]
  /// The header's `__metadata__`.
  public let metadata: [String: String]

  /// Where the file lies.
  public var url: URL { file.url }

  /// Maps a file and checks its header.
  ///
  /// - Throws: ``CheckpointError`` that says what was expected and found.
  public convenience init(contentsOf url: URL) throws { try self.init(MappedFile(url)) }

  /// Checks bytes that are in memory; tensors copy nothing more.
  ///
  /// - Parameters:
  ///   - bytes: A whole file.
  ///   - name: What stands for the file in errors.
  /// - Throws: ``CheckpointError`` that says what was expected and found.
  public convenience init(parsing bytes: Data, name: String = "memory.safetensors") throws {
    try self.init(MappedFile(bytes, name: name))
  }

  init(_ file: MappedFile) throws {
    self.file = file
    let url = file.url
    let size = file.bytes.count
    func malformed(_ expected: String, _ found: String) -> CheckpointError {
      .malformed(file: url.path, expected: expected, found: found)
    }
    guard size >= 8 else { throw malformed("at least 8 bytes of safetensors", "\(size) bytes") }
    let length = UInt64(littleEndian: file.bytes.loadUnaligned(as: UInt64.self))
    guard length <= UInt64(Self.headerLimit), Int(length) <= size - 8 else {
      let foreign = ForeignFile.recognise(UnsafeRawBufferPointer(file.bytes))
      throw malformed(
        "a safetensors header within the file's \(size) bytes", foreign ?? "a header length of \(length)")
    }
    let start = 8 + Int(length)
    let header = UnsafeRawBufferPointer(rebasing: file.bytes[8..<start])
    // The format wants UTF-8 that starts with a brace; JSON in UTF-16 would pass otherwise.
    guard header.first == UInt8(ascii: "{"), !header.contains(0) else {
      throw malformed("a JSON object as header", "\(length) bytes that are none")
    }
    let fields: SafetensorsHeader
    do {
      fields = try JSONDecoder().decode(
        SafetensorsHeader.self,
        from: Data(bytesNoCopy: file.bytes.baseAddress! + 8, count: Int(length), deallocator: .none))
    } catch {
      throw malformed("a JSON header of dtype, shape and data_offsets for each name", SafetensorsHeader.reason(error))
    }
    guard SafetensorsHeader.keyCount(header) == fields.keyCount else {
      throw malformed("a header that names each tensor once", "a name twice")
    }
    var entries: [String: StoredTensor] = [:]
    for (name, field) in fields.tensors {
      let (type, shape, offsets) = (field.dtype, field.shape, field.dataOffsets)
      guard let dtype = Self.dtypes[type] else {
        throw malformed("one of \(Self.dtypes.keys.sorted().joined(separator: ", ")) for \(name)", "dtype \(type)")
      }
      guard shape.count <= 64, shape.allSatisfy({ $0 >= 0 }) else {
        throw malformed("a shape of at most 64 non-negative integers for \(name)", "\(shape.prefix(64))")
      }
      guard offsets.count == 2, offsets[0] >= 0, offsets[1] >= offsets[0], offsets[1] <= size - start else {
        throw malformed("data_offsets within \(size - start) bytes of data for \(name)", "\(offsets.prefix(4))")
      }
      guard let bytes = byteCount(shape, dtype) else {
        throw malformed("a shape that fits in memory for \(name)", "\(shape)")
      }
      guard bytes == offsets[1] - offsets[0] else {
        throw malformed("\(bytes) bytes for \(name) \(type) \(shape)", "\(offsets[1] - offsets[0]) bytes")
      }
      entries[name] = StoredTensor(dtype: dtype, shape: shape, range: start + offsets[0]..<start + offsets[1])
    }
    var end = start
    // An empty tensor comes before what starts at the same byte.
    let ordered = entries.sorted {
      let (a, b) = ($0.value.range, $1.value.range)
      return (a.lowerBound, a.upperBound, $0.key) < (b.lowerBound, b.upperBound, $1.key)
    }
    for (name, entry) in ordered {
      guard entry.range.lowerBound == end else {
        throw malformed("\(name) to start at byte \(end - start) of the data", "byte \(entry.range.lowerBound - start)")
      }
      end = entry.range.upperBound
    }
    guard end == size else {
      throw malformed("\(end) bytes as the header says", "a file of \(size) bytes")
    }
    self.entries = entries
    names = ordered.map(\.key)
    metadata = fields.metadata
  }

  /// The shape of a tensor, or nil when there is none of this name.
  public func shape(_ name: String) -> [Int]? { entries[name]?.shape }

  /// The element type of a tensor, or nil when there is none of this name.
  public func dtype(_ name: String) -> DType? { entries[name]?.dtype }

  /// A tensor in the type it has in the file, on the file's own memory.
  ///
  /// - Throws: ``CheckpointError/noSuchTensor(file:name:)``.
  public func tensor(_ name: String) throws -> Tensor {
    guard let entry = entries[name] else { throw CheckpointError.noSuchTensor(file: url.path, name: name) }
    return try file.tensor(entry)
  }

  func stored(_ name: String) -> StoredTensor? { entries[name] }

  /// Writes tensors in the given order under a temporary name, then renames.
  ///
  /// - Throws: ``CheckpointError/cannotWrite(file:reason:)`` also when the disk is full; the destination is untouched.
  public static func write(
    _ tensors: [(name: String, tensor: Tensor)], metadata: [String: String] = [:], to url: URL
  ) throws {
    for (name, tensor) in tensors where !tensor.isValid {
      throw CheckpointError.cannotWrite(file: url.path, reason: "\(name) is the result of an operator that failed")
    }
    let entries = tensors.map { Entry(name: $0.name, dtype: $0.tensor.dtype, shape: $0.tensor.shape) }
    try write(entries, metadata: metadata, to: url) { index, append in
      // The destination must stay as it is when a copy to the CPU fails, say.
      try withError { try tensors[index].tensor.withBytes(append) }
    }
  }

  /// What a header says of a tensor.
  struct Entry {
    let name: String
    let dtype: DType
    let shape: [Int]

    var byteCount: Int { shape.reduce(dtype.byteCount, *) }
  }

  /// Writes tensors whose bytes are asked for one after the other.
  static func write(
    _ entries: [Entry], metadata: [String: String], to url: URL,
    content: (_ index: Int, _ append: @escaping (UnsafeRawBufferPointer) throws -> Void) throws -> Void
  ) throws {
    let types = Dictionary(uniqueKeysWithValues: dtypes.map { ($1, $0) })
    var fields: [String: Any] = [:]
    if !metadata.isEmpty { fields[SafetensorsHeader.metadataKey] = metadata }
    // Largest types first, so that every tensor starts at a multiple of its element size.
    let order = entries.indices.sorted {
      (entries[$1].dtype.byteCount, $0) < (entries[$0].dtype.byteCount, $1)
    }
    var offset = 0
    for entry in order.map({ entries[$0] }) {
      guard fields[entry.name] == nil, entry.name != SafetensorsHeader.metadataKey else {
        throw CheckpointError.cannotWrite(
          file: url.path,
          reason: fields[entry.name] == nil
            ? "no tensor can be named \(entry.name)" : "two tensors are named \(entry.name)")
      }
      fields[entry.name] = [
        "dtype": types[entry.dtype] ?? "F32", "shape": entry.shape,
        "data_offsets": [offset, offset + entry.byteCount],
      ]
      offset += entry.byteCount
    }
    let json = try header(fields)
    try AtomicFile.write(to: url) { append in
      try json.withUnsafeBytes(append)
      try withoutActuallyEscaping(append) { append in for index in order { try content(index, append) } }
    }
  }
}

extension SafetensorsFile {
  /// Writes one tensor that is the concatenation of others along their first dimension, without joining them in memory.
  ///
  /// - Parameters:
  ///   - name: The tensor's name.
  ///   - parts: At least one; all of one type and, but for the first dimension, one shape.
  ///   - url: The file to write.
  /// - Throws: ``CheckpointError/cannotWrite(file:reason:)``.
  public static func writeConcatenated(_ name: String, _ parts: [Tensor], to url: URL) throws {
    try writeConcatenated([(name, parts)], to: url)
  }

  /// Writes several such tensors into one file.
  ///
  /// - Parameters:
  ///   - tensors: Names and parts, as above.
  ///   - url: The file to write.
  /// - Throws: ``CheckpointError/cannotWrite(file:reason:)``.
  public static func writeConcatenated(_ tensors: [(name: String, parts: [Tensor])], to url: URL) throws {
    let entries = try tensors.map { name, parts in
      guard let first = parts.first, dtypes.contains(where: { $1 == first.dtype }),
        parts.allSatisfy({
          $0.isValid && $0.rank > 0 && $0.dtype == first.dtype && $0.shape.dropFirst() == first.shape.dropFirst()
        })
      else {
        throw CheckpointError.cannotWrite(file: url.path, reason: "the parts of \(name) do not fit together")
      }
      return Entry(
        name: name, dtype: first.dtype, shape: [parts.reduce(0) { $0 + $1.size(0) }] + first.shape.dropFirst())
    }
    try write(entries, metadata: [:], to: url) { index, append in
      for part in tensors[index].parts { try withError { try part.withBytes(append) } }
    }
  }

  /// Length and JSON, padded with spaces to a multiple of 64 bytes.
  private static func header(_ entries: [String: Any]) throws -> Data {
    var json = try JSONSerialization.data(withJSONObject: entries, options: [.sortedKeys, .withoutEscapingSlashes])
    while (json.count + 8) % 64 != 0 { json.append(0x20) }
    return withUnsafeBytes(of: UInt64(json.count).littleEndian) { Data($0) } + json
  }
}

/// The JSON header of a file.
private struct SafetensorsHeader: Decodable {
  struct Field: Decodable {
    let dtype: String
    let shape: [Int]
    let dataOffsets: [Int]

    enum CodingKeys: String, CodingKey {
      case dtype, shape
      case dataOffsets = "data_offsets"
    }
  }

  private struct Name: CodingKey {
    let stringValue: String
    var intValue: Int? { nil }
    init(stringValue: String) { self.stringValue = stringValue }
    init?(intValue: Int) { nil }
  }

  static let metadataKey = "__metadata__"

  var tensors: [(name: String, field: Field)] = []
  var metadata: [String: String] = [:]
  let keyCount: Int

  init(from decoder: any Decoder) throws {
    let container = try decoder.container(keyedBy: Name.self)
    keyCount = container.allKeys.count
    for key in container.allKeys {
      if key.stringValue == Self.metadataKey {
        metadata = try container.decode([String: String].self, forKey: key)
      } else {
        tensors.append((key.stringValue, try container.decode(Field.self, forKey: key)))
      }
    }
  }

  /// The number of keys of the outer object as they stand in the text, equal ones counted again.
  static func keyCount(_ json: UnsafeRawBufferPointer) -> Int {
    var (count, depth, inString, escaped) = (0, 0, false, false)
    for byte in json {
      if escaped {
        escaped = false
      } else if inString {
        if byte == UInt8(ascii: "\\") { escaped = true } else if byte == UInt8(ascii: "\"") { inString = false }
      } else {
        switch byte {
        case UInt8(ascii: "\""): inString = true
        case UInt8(ascii: "{"), UInt8(ascii: "["): depth += 1
        case UInt8(ascii: "}"), UInt8(ascii: "]"): depth -= 1
        case UInt8(ascii: ":"): count += depth == 1 ? 1 : 0
        default: break
        }
      }
    }
    return count
  }

  /// Where the header is wrong, and how, in few words.
  static func reason(_ error: any Error) -> String {
    let context: DecodingError.Context? =
      switch error as? DecodingError {
      case .typeMismatch(_, let context), .valueNotFound(_, let context), .keyNotFound(_, let context),
        .dataCorrupted(let context):
        context
      default: nil
      }
    guard let context else { return "something else" }
    let path = context.codingPath.map(\.stringValue).joined(separator: ".")
    return "\(path.prefix(200)): \(context.debugDescription.prefix(200))"
  }
}
