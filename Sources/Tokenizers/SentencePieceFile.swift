import Foundation

/// What a SentencePiece `.model` file says: pieces, how text is normalised, and which ids are special.
///
/// The file is a Protocol Buffers message, `ModelProto` of `sentencepiece_model.proto`; fields that only training needs
/// are passed over.
struct SentencePieceFile {
  /// `TrainerSpec.model_type`.
  enum ModelKind: UInt64, CaseIterable {
    case unigram = 1
    case bytePairEncoding = 2
  }

  /// `ModelProto.SentencePiece.Type`.
  enum PieceKind: UInt64 {
    case normal = 1
    case unknown = 2
    case control = 3
    case userDefined = 4
    case unused = 5
    case byte = 6
  }

  struct Piece {
    var text: [UInt8] = []
    var score: Float = 0
    var kind = PieceKind.normal
  }

  /// The library refuses longer pieces as well.
  private static let longestPiece = 8000

  let file: String
  private(set) var pieces: [Piece] = []
  private(set) var kind = ModelKind.unigram
  private(set) var usesByteFallback = false
  private(set) var unknownSurface = Array(" \u{2047} ".utf8)
  private(set) var characterMap: CharacterMap?
  private(set) var addsDummyPrefix = true
  private(set) var removesExtraWhitespace = true
  private(set) var escapesWhitespace = true
  private(set) var whitespaceIsSuffix = false
  /// The id of the piece that stands for unknown characters.
  private(set) var unknownID = 0
  /// The ids of the pieces for the start and the end of a text, and for padding; those that there are.
  private(set) var startID: Int?
  private(set) var endID: Int?
  private(set) var paddingID: Int?

  private let bytes: [UInt8]

  init(contentsOf url: URL) throws {
    file = url.path
    bytes = try FileBytes.read(url)
    do {
      try read()
    } catch let error as ProtobufReader.Failure {
      throw failure("", expected: "\(error.expected) at byte \(error.offset)", found: error.found)
    }
    try check()
  }

  func failure(_ path: String, expected: String, found: String) -> TokenizerError {
    TokenizerError(file: file, keyPath: path, expected: expected, found: found)
  }

  // MARK: Fields

  private mutating func read() throws {
    var ids: [Int: Int] = [41: 1, 42: 2, 43: -1]  // defaults of bos_id, eos_id and pad_id
    var charsmap: Range<Int>?
    var message = ProtobufReader(bytes)
    while let (number, value) = try message.next() {
      switch number {
      case 1: pieces.append(try piece(range(value, "pieces[\(pieces.count)]")))
      case 2: try readTrainerSpec(range(value, "trainer_spec"), &ids)
      case 3: try readNormalizerSpec(range(value, "normalizer_spec"), &charsmap)
      case 5: try refuseDenormalizer(range(value, "denormalizer_spec"))
      default: break
      }
    }
    if let charsmap, !charsmap.isEmpty {
      do throws(CharacterMap.Failure) {
        characterMap = try CharacterMap(bytes[charsmap])
      } catch {
        throw failure("normalizer_spec.precompiled_charsmap", expected: error.expected, found: error.found)
      }
    }
    func known(_ field: Int) -> Int? { ids[field].flatMap { pieces.indices.contains($0) ? $0 : nil } }
    (startID, endID, paddingID) = (known(41), known(42), known(43))
  }

  private func piece(_ range: Range<Int>) throws -> Piece {
    let path = "pieces[\(pieces.count)]"
    var piece = Piece()
    var message = ProtobufReader(bytes, range)
    while let (number, value) = try message.next() {
      switch number {
      case 1: piece.text = Array(bytes[try self.range(value, path + ".piece")])
      case 2:
        guard case .fixed32(let bits) = value else {
          throw failure(path + ".score", expected: "a 32-bit float", found: value.summary)
        }
        piece.score = Float(bitPattern: bits)
      case 3:
        let code = try integer(value, path + ".type")
        guard let kind = PieceKind(rawValue: code) else {
          throw failure(path + ".type", expected: "a type from 1 to 6", found: "\(code)")
        }
        piece.kind = kind
      default: break
      }
    }
    return piece
  }

  private mutating func readTrainerSpec(_ range: Range<Int>, _ ids: inout [Int: Int]) throws {
    var message = ProtobufReader(bytes, range)
    while let (number, value) = try message.next() {
      switch number {
      case 3:
        let code = try integer(value, "trainer_spec.model_type")
        guard let kind = ModelKind(rawValue: code) else {
          let expected = "1 (unigram) or 2 (BPE)"
          throw failure("trainer_spec.model_type", expected: expected, found: "\(code)")
        }
        self.kind = kind
      case 24: whitespaceIsSuffix = try integer(value, "trainer_spec.treat_whitespace_as_suffix") != 0
      case 35: usesByteFallback = try integer(value, "trainer_spec.byte_fallback") != 0
      case 41, 42, 43:
        let code = try integer(value, "trainer_spec.\(["bos", "eos", "pad"][number - 41])_id")
        ids[number] = Int(Int32(truncatingIfNeeded: code))
      case 44: unknownSurface = Array(bytes[try self.range(value, "trainer_spec.unk_surface")])
      default: break
      }
    }
  }

  private mutating func readNormalizerSpec(_ range: Range<Int>, _ charsmap: inout Range<Int>?) throws {
    var message = ProtobufReader(bytes, range)
    while let (number, value) = try message.next() {
      switch number {
      case 2: charsmap = try self.range(value, "normalizer_spec.precompiled_charsmap")
      case 3: addsDummyPrefix = try integer(value, "normalizer_spec.add_dummy_prefix") != 0
      case 4: removesExtraWhitespace = try integer(value, "normalizer_spec.remove_extra_whitespaces") != 0
      case 5: escapesWhitespace = try integer(value, "normalizer_spec.escape_whitespaces") != 0
      default: break
      }
    }
  }

  /// Decoded text that is normalised once more: no model that is read here has it.
  private func refuseDenormalizer(_ range: Range<Int>) throws {
    var message = ProtobufReader(bytes, range)
    while let (number, value) = try message.next() {
      guard number == 2 else { continue }
      let path = "denormalizer_spec.precompiled_charsmap"
      let rules = try self.range(value, path)
      guard rules.isEmpty else { throw failure(path, expected: "no rules", found: "\(rules.count) bytes") }
    }
  }

  private func integer(_ value: ProtobufReader.Value, _ path: String) throws -> UInt64 {
    guard case .integer(let integer) = value else {
      throw failure(path, expected: "a variable-length integer", found: value.summary)
    }
    return integer
  }

  private func range(_ value: ProtobufReader.Value, _ path: String) throws -> Range<Int> {
    guard case .bytes(let range) = value else {
      throw failure(path, expected: "bytes with their length", found: value.summary)
    }
    return range
  }

  // MARK: Checks

  private mutating func check() throws {
    guard !pieces.isEmpty else { throw failure("pieces", expected: "at least one piece", found: "none") }
    var seen = TokenTable(minimumCapacity: pieces.count)
    var unknown: Int?
    var byteCount = 0
    for (index, piece) in pieces.enumerated() {
      func wrong(_ field: String, _ expected: String, _ found: String) -> TokenizerError {
        failure("pieces[\(index)]" + field, expected: expected, found: found)
      }
      guard !piece.text.isEmpty, piece.text.count < Self.longestPiece, !piece.text.contains(0) else {
        let found = piece.text.count < Self.longestPiece ? piece.text.quoted : "\(piece.text.count) bytes"
        throw wrong(".piece", "1 to \(Self.longestPiece - 1) bytes without a zero", found)
      }
      guard String(validating: piece.text, as: UTF8.self) != nil else {
        throw wrong(".piece", "UTF-8 text", "other bytes")
      }
      guard piece.score.isFinite else { throw wrong(".score", "a finite number", "\(piece.score)") }
      if let first = seen[piece.text] {
        throw wrong(".piece", "another text than that of pieces[\(first)]", piece.text.quoted)
      }
      seen[piece.text] = index
      switch piece.kind {
      case .unknown:
        if let unknown { throw wrong(".type", "one piece for the unknown, pieces[\(unknown)]", "a second one") }
        unknown = index
      case .byte:
        guard usesByteFallback else { throw wrong(".type", "no byte pieces without byte_fallback", "one") }
        guard ByteTokens.byte(of: piece.text) != nil else {
          throw wrong(".piece", "a byte, <0x00> to <0xFF>", piece.text.quoted)
        }
        byteCount += 1
      case .unused where kind == .bytePairEncoding: throw wrong(".type", "no unused pieces in a BPE model", "one")
      default: break
      }
    }
    guard let unknown else { throw failure("pieces", expected: "a piece for the unknown", found: "none") }
    unknownID = unknown
    guard !usesByteFallback || byteCount == 256 else {
      throw failure("pieces", expected: "256 byte pieces with byte_fallback", found: "\(byteCount)")
    }
    guard String(validating: unknownSurface, as: UTF8.self) != nil else {
      throw failure("trainer_spec.unk_surface", expected: "UTF-8 text", found: "other bytes")
    }
  }
}
