/// What turns one pre-token into ids.
enum Model: Sendable {
  case wordPiece(WordPieceModel)
  case bytePairEncoding(BPEModel)
  case unigram(UnigramModel)
  case sentencePieceBPE(SentencePieceBPEModel)

  /// The names of `model.type`.
  enum Kind: String, CaseIterable {
    case wordPiece = "WordPiece"
    case bytePairEncoding = "BPE"
    case unigram = "Unigram"
  }

  init(_ node: JSONNode) throws {
    switch try Self.kind(node) {
    case .wordPiece: self = .wordPiece(try WordPieceModel(node))
    case .bytePairEncoding: self = .bytePairEncoding(try BPEModel(node))
    case .unigram: self = .unigram(try UnigramModel(node))
    }
  }

  /// Files from before 2022 leave the type out: a model with merges is a BPE.
  private static func kind(_ node: JSONNode) throws -> Kind {
    if try node.optional("type") != nil { return try node.type(Kind.self) }
    if try node.optional("merges") != nil { return .bytePairEncoding }
    if try node.optional("continuing_subword_prefix") != nil { return .wordPiece }
    if try node.optional("unk_id") != nil { return .unigram }
    return try node.type(Kind.self)
  }

  var vocabulary: Vocabulary {
    switch self {
    case .wordPiece(let model): model.vocabulary
    case .bytePairEncoding(let model): model.vocabulary
    case .unigram(let model): model.vocabulary
    case .sentencePieceBPE(let model): model.vocabulary
    }
  }

  /// Appends the ids of the text pieces; pieces that are tokens already pass through.
  func append(_ text: SplitText, to ids: inout [Int]) {
    switch self {
    case .wordPiece(let model): Self.append(text, to: &ids) { model.append($0, to: &$1) }
    case .bytePairEncoding(let model):
      var scratch = BPEModel.Scratch()
      Self.append(text, to: &ids) { model.append($0, to: &$1, &scratch) }
    case .unigram(let model):
      var scratch = UnigramModel.Scratch()
      Self.append(text, to: &ids) { model.append($0, to: &$1, &scratch) }
    case .sentencePieceBPE(let model):
      var scratch = SentencePieceBPEModel.Scratch()
      Self.append(text, to: &ids) { model.append($0, to: &$1, &scratch) }
    }
  }

  @inline(__always)
  private static func append(
    _ text: SplitText, to ids: inout [Int], _ body: (UnsafeBufferPointer<UInt8>, inout [Int]) -> Void
  ) {
    text.bytes.withUnsafeBufferPointer { bytes in
      for piece in text.pieces {
        if piece.id >= 0 {
          ids.append(piece.id)
        } else {
          body(UnsafeBufferPointer(rebasing: bytes[piece.start..<piece.end]), &ids)
        }
      }
    }
  }
}
