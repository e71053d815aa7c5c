import Foundation
import Testing
import Tokenizers

/// Writes Protocol Buffers messages, sound ones and others.
struct MessageWriter {
  private(set) var bytes: [UInt8] = []

  mutating func integer(_ value: UInt64) {
    var value = value
    while value >= 0x80 {
      bytes.append(UInt8(value & 0x7F) | 0x80)
      value >>= 7
    }
    bytes.append(UInt8(value))
  }

  mutating func integer(_ field: UInt64, _ value: UInt64) {
    integer(field << 3)
    integer(value)
  }

  mutating func float(_ field: UInt64, _ value: Float) {
    integer(field << 3 | 5)
    for shift in stride(from: 0, to: 32, by: 8) { bytes.append(UInt8(value.bitPattern >> UInt32(shift) & 0xFF)) }
  }

  mutating func bytes(_ field: UInt64, _ value: [UInt8]) {
    integer(field << 3 | 2)
    integer(UInt64(value.count))
    bytes += value
  }

  mutating func raw(_ value: [UInt8]) { bytes += value }
}

/// A small SentencePiece model, of which the tests break parts.
struct ModelFileBuilder {
  struct Piece {
    var text: [UInt8]
    var score: Float
    var kind: UInt64

    init(_ text: String, _ score: Float = 0, kind: UInt64 = 1) {
      self.text = Array(text.utf8)
      self.score = score
      self.kind = kind
    }
  }

  var pieces = [
    Piece("<unk>", kind: 2), Piece("<s>", kind: 3), Piece("</s>", kind: 3), Piece("a", -1), Piece("b", -2),
    Piece("ab", -2.5), Piece("\u{2581}", -3), Piece("\u{2581}a", -3.25),
  ]
  var modelKind: UInt64 = 1
  var byteFallback = false
  var charsmap: [UInt8] = []
  var rest: [UInt8] = []

  var bytes: [UInt8] {
    var model = MessageWriter()
    for piece in pieces {
      var message = MessageWriter()
      message.bytes(1, piece.text)
      message.float(2, piece.score)
      message.integer(3, piece.kind)
      model.bytes(1, message.bytes)
    }
    var trainer = MessageWriter()
    trainer.integer(3, modelKind)
    trainer.integer(35, byteFallback ? 1 : 0)
    model.bytes(2, trainer.bytes)
    var normalizer = MessageWriter()
    normalizer.bytes(1, Array("test".utf8))
    if !charsmap.isEmpty { normalizer.bytes(2, charsmap) }
    model.bytes(3, normalizer.bytes)
    model.raw(rest)
    return model.bytes
  }

  /// Reads the model by way of a temporary file.
  func tokenizer() throws -> Tokenizer { try Self.tokenizer(from: bytes) }

  static func tokenizer(from bytes: [UInt8]) throws -> Tokenizer {
    let folder = try Fixtures.folder(copying: [])
    defer { try? FileManager.default.removeItem(at: folder) }
    let file = folder.appending(path: "tokenizer.model")
    try Data(bytes).write(to: file)
    return try Tokenizer(contentsOf: file)
  }
}

/// Double-array tries with replacements, as `precompiled_charsmap` holds them.
struct CharsmapBuilder {
  var units: [UInt32]
  var replacements: [UInt8]

  /// Keys of one byte: the children of the root lie at 256 ^ byte, their values 256 units further.
  init(_ keys: [(byte: UInt8, value: UInt32)] = [(0x78, 0)], replacements: String = "yz\0") {
    units = [UInt32](repeating: 0, count: 1024)
    units[0] = 256 << 10
    for (byte, value) in keys {
      units[256 + Int(byte)] = 512 << 10 | 1 << 8 | UInt32(byte)
      units[768 + Int(byte)] = 1 << 31 | value
    }
    self.replacements = Array(replacements.utf8)
  }

  var bytes: [UInt8] {
    var result: [UInt8] = []
    for unit in [UInt32(units.count * 4)] + units {
      for shift in stride(from: UInt32(0), to: 32, by: 8) { result.append(UInt8(unit >> shift & 0xFF)) }
    }
    return result + replacements
  }
}
