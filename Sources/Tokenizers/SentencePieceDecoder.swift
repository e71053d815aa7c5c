/// SentencePiece's way back from pieces to text.
struct SentencePieceDecoder: Sendable {
  private enum Kind: Int {
    case unknown, byte
  }

  /// Pieces that are not taken as they are.
  private let kinds: TokenTable
  private let unknownSurface: [UInt8]
  /// Whether the space that encoding puts in front is taken away.
  private let stripsSpace: Bool
  /// Whether more than one is.
  private let stripsSpaces: Bool

  init(_ file: SentencePieceFile) {
    var kinds = TokenTable()
    for piece in file.pieces {
      switch piece.kind {
      case .unknown: kinds[piece.text] = Kind.unknown.rawValue
      case .byte: kinds[piece.text] = Kind.byte.rawValue
      default: break
      }
    }
    self.kinds = kinds
    unknownSurface = file.unknownSurface
    stripsSpace = file.addsDummyPrefix || file.removesExtraWhitespace
    stripsSpaces = file.removesExtraWhitespace
  }

  /// The text of pieces and of special tokens, which appear as they are written.
  func text(of tokens: [[UInt8]], isSpecial: ([UInt8]) -> Bool) -> [UInt8] {
    let space = SentencePieceNormalizer.space
    var result: [UInt8] = []
    var bytes: [UInt8] = []
    var isStart = true
    var hasSpace = false  // whether the space in front was met
    for token in tokens {
      let kind = kinds[token].flatMap(Kind.init)
      if kind == .byte {
        bytes += ByteTokens.byte(of: token).map { [$0] } ?? token
        continue
      }
      appendBytes(&bytes, to: &result)
      if hasSpace || !result.isEmpty { isStart = false }
      hasSpace = false
      if kind == .unknown {
        result += unknownSurface
      } else if isSpecial(token) {
        result += token
      } else {
        var piece = token[...]
        if isStart, stripsSpace, piece.starts(with: space) {
          piece = piece.dropFirst(space.count)
          hasSpace = !stripsSpaces
        }
        result += Array(piece).replacing(space, with: [0x20])
      }
    }
    appendBytes(&bytes, to: &result)
    return result
  }

  /// Appends bytes as text, U+FFFD for each that is part of no character.
  private func appendBytes(_ bytes: inout [UInt8], to result: inout [UInt8]) {
    var start = 0
    while start < bytes.count {
      let length = Self.characterLength(bytes[start...])
      if length > 0 {
        result += bytes[start..<start + length]
        start += length
      } else {
        result += [0xEF, 0xBF, 0xBD]
        start += 1
      }
    }
    bytes.removeAll(keepingCapacity: true)
  }

  /// How many bytes the character at the front has; 0 if there is none.
  private static func characterLength(_ bytes: ArraySlice<UInt8>) -> Int {
    guard let first = bytes.first else { return 0 }
    let length =
      switch first {
      case 0x00...0x7F: 1
      case 0xC2...0xDF: 2
      case 0xE0...0xEF: 3
      case 0xF0...0xF4: 4
      default: 0
      }
    guard length > 0, bytes.count >= length else { return 0 }
    return String(validating: bytes.prefix(length), as: UTF8.self) == nil ? 0 : length
  }
}
