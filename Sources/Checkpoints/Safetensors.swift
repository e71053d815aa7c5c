public import Foundation
public import Torch

/// A file in the safetensors format, memory-mapped: tensors borrow the file's bytes and copy nothing.
///
/// Format: 8 bytes little-endian header length, a JSON header `{name: {dtype, shape, data_offsets}}`, then the data.
/// Every size is checked against the file before it is used. Data must be covered without gaps or overlaps.
public final class SafetensorsFile: Sendable {
  struct Entry: Sendable {
    let dtype: DType
    let shape: [Int]
    let range: Range<Int>  // in bytes from the start of the file
  }

  private static let dtypes: [String: DType] = [
    "F64": .float64, "F32": .float32, "F16": .float16, "BF16": .bfloat16, "I64": .int64, "I32": .int32, "I16": .int16,
    "I8": .int8, "U8": .uint8, "BOOL": .bool,
  ]
  /// The largest header that is read, the format's own limit.
  private static let headerLimit = 100_000_000

  private let file: MappedFile
  private let entries: [String: Entry]
  /// The names of all tensors, in the order of their data.
  public let names: [String]
  /// The header's `__metadata__`.
  public let metadata: [String: String]

  /// Where the file lies.
  public var url: URL { file.url }

  /// Maps a file and checks its header.
  ///
  /// - Throws: ``CheckpointError`` that says what was expected and found.
  public init(contentsOf url: URL) throws {
    let file = try MappedFile(url)
    self.file = file
    let size = file.bytes.count
    func malformed(_ expected: String, _ found: String) -> CheckpointError {
      .malformed(file: url.path, expected: expected, found: found)
    }
    guard size >= 8 else { throw malformed("at least 8 bytes of safetensors", "\(size) bytes") }
    let length = UInt64(littleEndian: file.bytes.loadUnaligned(as: UInt64.self))
    guard length <= UInt64(Self.headerLimit), Int(length) <= size - 8 else {
      throw malformed("a header within the file's \(size) bytes", "a header length of \(length)")
    }
    let start = 8 + Int(length)
    let header = Data(bytesNoCopy: file.bytes.baseAddress! + 8, count: Int(length), deallocator: .none)
    guard let root = try? JSONSerialization.jsonObject(with: header) as? [String: Any] else {
      throw malformed("a JSON object as header", "\(length) bytes that are none")
    }
    var entries: [String: Entry] = [:]
    for (name, value) in root where name != "__metadata__" {
      guard let value = value as? [String: Any], let type = value["dtype"] as? String else {
        throw malformed("dtype, shape and data_offsets for \(name)", "\(value)".prefix(80).description)
      }
      guard let dtype = Self.dtypes[type] else {
        throw malformed("one of \(Self.dtypes.keys.sorted().joined(separator: ", ")) for \(name)", "dtype \(type)")
      }
      guard let shape = Self.integers(value["shape"]), shape.allSatisfy({ $0 >= 0 }) else {
        throw malformed("a shape of non-negative integers for \(name)", "\(value["shape"] ?? "none")")
      }
      guard let offsets = Self.integers(value["data_offsets"]), offsets.count == 2, offsets[0] >= 0,
        offsets[1] >= offsets[0], offsets[1] <= size - start
      else {
        throw malformed(
          "data_offsets within \(size - start) bytes of data for \(name)", "\(value["data_offsets"] ?? "none")")
      }
      var bytes = dtype.byteCount
      for extent in shape {
        let (product, overflow) = bytes.multipliedReportingOverflow(by: extent)
        guard !overflow else { throw malformed("a shape that fits in memory for \(name)", "\(shape)") }
        bytes = product
      }
      guard bytes == offsets[1] - offsets[0] else {
        throw malformed("\(bytes) bytes for \(name) \(type) \(shape)", "\(offsets[1] - offsets[0]) bytes")
      }
      entries[name] = Entry(dtype: dtype, shape: shape, range: start + offsets[0]..<start + offsets[1])
    }
    var end = start
    let ordered = entries.sorted { ($0.value.range.lowerBound, $0.key) < ($1.value.range.lowerBound, $1.key) }
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
    metadata = root["__metadata__"] as? [String: String] ?? [:]
  }

  private static func integers(_ value: Any?) -> [Int]? {
    guard let list = value as? [Any] else { return nil }
    var out: [Int] = []
    for item in list {
      guard let number = item as? NSNumber, CFNumberIsWhole(number) else { return nil }
      out.append(number.intValue)
    }
    return out
  }

  private static func CFNumberIsWhole(_ number: NSNumber) -> Bool {
    let value = number.doubleValue
    return value.isFinite && value == value.rounded() && Swift.abs(value) < 9e15
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
    return try withError {
      guard entry.range.count > 0 else { return Tensor.zeros(entry.shape, dtype: entry.dtype) }
      let start = file.bytes.baseAddress! + entry.range.lowerBound
      if Int(bitPattern: start) % entry.dtype.byteCount == 0 {
        return Tensor(borrowing: start, shape: entry.shape, dtype: entry.dtype, owner: file)
      }
      let copy = AlignedCopy(UnsafeRawBufferPointer(start: start, count: entry.range.count))
      return Tensor(borrowing: copy.start, shape: entry.shape, dtype: entry.dtype, owner: copy)
    }
  }

  /// Writes tensors in the given order under a temporary name, then renames.
  ///
  /// - Throws: ``CheckpointError/cannotWrite(file:reason:)`` also when the disk is full; the destination is untouched.
  public static func write(
    _ tensors: [(name: String, tensor: Tensor)], metadata: [String: String] = [:], to url: URL
  ) throws {
    let names = Dictionary(uniqueKeysWithValues: dtypes.map { ($1, $0) })
    var header: [String: Any] = [:]
    if !metadata.isEmpty { header["__metadata__"] = metadata }
    // Largest types first, so that every tensor starts at a multiple of its element size.
    let ordered = tensors.enumerated().sorted {
      ($1.element.tensor.dtype.byteCount, $0.offset) < ($0.element.tensor.dtype.byteCount, $1.offset)
    }.map(\.element)
    var offset = 0
    for (name, tensor) in ordered {
      guard header[name] == nil else {
        throw CheckpointError.cannotWrite(file: url.path, reason: "two tensors are named \(name)")
      }
      let count = tensor.count * tensor.dtype.byteCount
      header[name] = [
        "dtype": names[tensor.dtype] ?? "F32", "shape": tensor.shape, "data_offsets": [offset, offset + count],
      ]
      offset += count
    }
    var json = try JSONSerialization.data(withJSONObject: header, options: [.sortedKeys, .withoutEscapingSlashes])
    while (json.count + 8) % 64 != 0 { json.append(0x20) }
    try AtomicFile.write(to: url) { append in
      try withUnsafeBytes(of: UInt64(json.count).littleEndian) { try append($0) }
      try json.withUnsafeBytes { try append($0) }
      for (_, tensor) in ordered { try tensor.withBytes { try append($0) } }
    }
  }
}

/// Bytes of a file moved to where their type may lie.
private final class AlignedCopy {
  let start: UnsafeMutableRawPointer

  init(_ source: UnsafeRawBufferPointer) {
    start = .allocate(byteCount: source.count, alignment: 64)
    start.copyMemory(from: source.baseAddress!, byteCount: source.count)
  }

  deinit { start.deallocate() }
}
