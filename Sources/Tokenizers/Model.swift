/// What turns one pre-token into ids.
enum Model: Sendable {
  case wordPiece(WordPieceModel)
  case bytePairEncoding(BPEModel)

  /// The names of `model.type`.
  enum Kind: String, CaseIterable {
    case wordPiece = "WordPiece"
    case bytePairEncoding = "BPE"
  }

  init(_ node: JSONNode) throws {
    switch try Self.kind(node) {
    case .wordPiece: self = .wordPiece(try WordPieceModel(node))
    case .bytePairEncoding: self = .bytePairEncoding(try BPEModel(node))
    }
  }

  /// Files from before 2022 leave the type out: a model with merges is a BPE.
  private static func kind(_ node: JSONNode) throws -> Kind {
    if try node.optional("type") != nil { return try node.type(Kind.self) }
    if try node.optional("merges") != nil { return .bytePairEncoding }
    if try node.optional("continuing_subword_prefix") != nil { return .wordPiece }
    return try node.type(Kind.self)
  }

  var vocabulary: Vocabulary {
    switch self {
    case .wordPiece(let model): model.vocabulary
    case .bytePairEncoding(let model): model.vocabulary
    }
  }

  /// Appends the ids of the text pieces; pieces that are tokens already pass through.
  func append(_ text: SplitText, to ids: inout [Int]) {
    text.bytes.withUnsafeBufferPointer { bytes in
      switch self {
      case .wordPiece(let model):
        for piece in text.pieces {
          if piece.id >= 0 {
            ids.append(piece.id)
          } else {
            model.append(UnsafeBufferPointer(rebasing: bytes[piece.start..<piece.end]), to: &ids)
          }
        }
      case .bytePairEncoding(let model):
        var scratch = BPEModel.Scratch()
        for piece in text.pieces {
          if piece.id >= 0 {
            ids.append(piece.id)
          } else {
            model.append(UnsafeBufferPointer(rebasing: bytes[piece.start..<piece.end]), to: &ids, &scratch)
          }
        }
      }
    }
  }
}
