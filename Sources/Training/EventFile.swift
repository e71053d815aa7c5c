import Checkpoints
import Foundation

/// Scalars in the form that TensorBoard reads: records of `tensorflow.Event` messages.
///
/// A record is the length (8 bytes, little-endian), a checksum of those, the message, and a checksum of it. An event here
/// holds wall time (field 1), step (field 2) and a summary (field 5) of tagged values.
struct EventFile: Sendable {
  let url: URL

  /// A file in the folder of a run; made with the first event.
  init(folder: URL) { url = folder.appendingPathComponent("events.out.tfevents.qformer") }

  /// Appends the values of a step.
  func append(step: Int, _ values: [(tag: String, value: Double)], time: Date = Date()) throws {
    var data = Data()
    if !FileManager.default.fileExists(atPath: url.path) {
      data += Self.record(Self.double(1, time.timeIntervalSince1970) + Self.bytes(3, Data("brain.Event:2".utf8)))
    }
    let summary = values.map { tag, value in
      Self.bytes(1, Self.bytes(1, Data(tag.utf8)) + Self.float(2, Float(value)))
    }
    data += Self.record(
      Self.double(1, time.timeIntervalSince1970) + Self.varint(2 << 3) + Self.varint(UInt64(clamping: step))
        + Self.bytes(5, Data(summary.joined())))
    do {
      if !FileManager.default.fileExists(atPath: url.path) { try AtomicFile.write(Data(), to: url) }
      let handle = try FileHandle(forWritingTo: url)
      defer { try? handle.close() }
      try handle.seekToEnd()
      try handle.write(contentsOf: data)
    } catch {
      throw CheckpointError.cannotWrite(file: url.path, reason: error.localizedDescription)
    }
  }

  /// Removes events after a step, and what a killed run left half written.
  func cut(after step: Int) throws {
    guard let data = FileManager.default.contents(atPath: url.path) else { return }
    var kept = Data()
    var start = 0
    while data.count - start >= 16 {
      let length = data[start..<start + 8].enumerated().reduce(UInt64(0)) { $0 | UInt64($1.element) << (8 * $1.offset) }
      guard length <= UInt64(data.count - start - 16) else { break }
      let end = start + 16 + Int(length)
      if Self.step(ofMessage: data[start + 12..<end - 4]) <= step { kept += data[start..<end] }
      start = end
    }
    try AtomicFile.write(kept, to: url)
  }

  /// The step of an event written by ``append(step:_:time:)``; 0 for the file's first record.
  private static func step(ofMessage message: Data) -> Int {
    var rest = message.dropFirst(9)
    guard rest.popFirst() == 2 << 3 else { return 0 }
    var value = 0
    for shift in stride(from: 0, to: 63, by: 7) {
      guard let byte = rest.popFirst() else { return 0 }
      value |= Int(byte & 0x7F) << shift
      if byte < 0x80 { break }
    }
    return value
  }

  // MARK: Records and messages

  private static func record(_ message: Data) -> Data {
    let length = little(UInt64(message.count))
    return length + little(maskedChecksum(length)) + message + little(maskedChecksum(message))
  }

  private static func little(_ value: some FixedWidthInteger) -> Data {
    withUnsafeBytes(of: value.littleEndian) { Data($0) }
  }

  private static func varint(_ value: UInt64) -> Data {
    var (value, out) = (value, Data())
    while value >= 0x80 {
      out.append(UInt8(truncatingIfNeeded: value) | 0x80)
      value >>= 7
    }
    return out + [UInt8(value)]
  }

  private static func double(_ field: UInt64, _ value: Double) -> Data {
    varint(field << 3 | 1) + little(value.bitPattern)
  }
  private static func float(_ field: UInt64, _ value: Float) -> Data {
    varint(field << 3 | 5) + little(value.bitPattern)
  }
  private static func bytes(_ field: UInt64, _ value: Data) -> Data {
    varint(field << 3 | 2) + varint(UInt64(value.count)) + value
  }

  /// CRC-32C (Castagnoli), rotated and shifted as the record format wants it.
  private static func maskedChecksum(_ data: Data) -> UInt32 {
    var crc = ~UInt32(0)
    for byte in data {
      crc ^= UInt32(byte)
      for _ in 0..<8 { crc = crc & 1 == 1 ? crc >> 1 ^ 0x82F6_3B78 : crc >> 1 }
    }
    crc = ~crc
    return (crc >> 15 | crc << 17) &+ 0xA282_EAD8
  }
}
