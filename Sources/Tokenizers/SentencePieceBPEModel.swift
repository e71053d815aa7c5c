/// Byte pair encoding as SentencePiece does it: any two neighbours that together are a piece may merge, the pair with
/// the highest score first.
struct SentencePieceBPEModel: Sendable {
  let vocabulary: Vocabulary
  private let merger: PairMerger
  /// Ids of what a text is cut into first: single characters, also such as are no pieces but parts of pieces.
  private let characters: TokenTable
  /// Symbols that are found before anything else and merge with nothing.
  private let symbols: PieceTrie?
  private let pieceCount: Int
  private let unknown: Int
  private let byteIDs: [Int]  // of `<0x00>` to `<0xFF>`; empty without byte fallback
  /// The id of characters that are part of no piece.
  private let strange: UInt32
  /// The id in words for user-defined symbols, whose own ids must not merge.
  private let frozen: UInt32

  init(_ file: SentencePieceFile) throws {
    vocabulary = try Vocabulary(file)
    pieceCount = file.pieces.count
    unknown = file.unknownID
    symbols = PieceTrie(userDefinedSymbolsOf: file)
    let vocabulary = vocabulary
    byteIDs =
      file.usesByteFallback ? (0..<256).compactMap { vocabulary.id(of: ByteTokens.token(of: UInt8($0))) } : []

    // Everything that can stand beside something else in a word has an id: pieces, and characters of pieces.
    var ids = TokenTable(minimumCapacity: file.pieces.count)
    var characters = TokenTable()
    for (id, piece) in file.pieces.enumerated() where piece.kind == .normal { ids[piece.text] = id }
    var nextID = file.pieces.count
    for piece in file.pieces where piece.kind == .normal {
      piece.text.withUnsafeBufferPointer { text in
        var start = 0
        while start < text.count {
          let end = text.scalar(at: start).next
          let character = UnsafeBufferPointer(rebasing: text[start..<end])
          if characters.find(character) == nil {
            let known = ids.find(character)
            characters.insert(character, known ?? nextID)
            if known == nil {
              ids.insert(character, nextID)
              nextID += 1
            }
          }
          start = end
        }
      }
    }
    strange = UInt32(nextID)
    frozen = UInt32(nextID + 1)
    self.characters = characters
    merger = Self.merger(file, ids)
  }

  /// All ways to make a piece of two symbols; pieces of one score have one rank.
  private static func merger(_ file: SentencePieceFile, _ ids: TokenTable) -> PairMerger {
    let order = file.pieces.indices.filter { file.pieces[$0].kind == .normal }.sorted { first, second in
      let scores = (file.pieces[first].score, file.pieces[second].score)
      return scores.0 != scores.1 ? scores.0 > scores.1 : first < second
    }
    var merger = PairMerger(minimumCapacity: order.count)
    var rank = -1
    var score: Float?
    for id in order {
      let piece = file.pieces[id]
      piece.text.withUnsafeBufferPointer { text in
        var middle = text.scalar(at: 0).next
        while middle < text.count {
          if let first = ids.find(UnsafeBufferPointer(rebasing: text[..<middle])),
            let second = ids.find(UnsafeBufferPointer(rebasing: text[middle...]))
          {
            if score != piece.score {
              rank += 1
              score = piece.score
            }
            merger.append(UInt32(first), UInt32(second), makes: UInt32(id), rank: rank)
          }
          middle = text.scalar(at: middle).next
        }
      }
    }
    return merger
  }

  /// Working memory for words, kept from one to the next.
  struct Scratch {
    fileprivate var word = PairMerger.Word()
    /// What the ids above the pieces stand for, in order: bounds in the word, and the id of a user-defined symbol.
    fileprivate var extras: [(start: Int, end: Int, symbol: Int)] = []
  }

  /// Appends the ids of one word (valid UTF-8, less than 2³¹ bytes).
  func append(_ word: UnsafeBufferPointer<UInt8>, to ids: inout [Int], _ scratch: inout Scratch) {
    scratch.word.ids.removeAll(keepingCapacity: true)
    scratch.extras.removeAll(keepingCapacity: true)
    var start = 0
    while start < word.count {
      var end = word.scalar(at: start).next
      var symbol = -1
      symbols?.forEachPrefix(of: word, at: start) { length, id in
        end = start + length
        symbol = Int(id)
      }
      if symbol >= 0 {
        scratch.word.ids.append(frozen)
        scratch.extras.append((start, end, symbol))
      } else if let id = characters.find(UnsafeBufferPointer(rebasing: word[start..<end])) {
        scratch.word.ids.append(UInt32(id))
        if id >= pieceCount { scratch.extras.append((start, end, -1)) }
      } else {
        scratch.word.ids.append(strange)
        scratch.extras.append((start, end, -1))
      }
      start = end
    }
    merger.merge(&scratch.word)

    var extra = 0
    var position = 0  // in the word, of the symbol at hand
    var followsUnknown = false
    scratch.word.forEach { id in
      guard id >= pieceCount else {
        position += pieceLength(Int(id))
        // Characters that went into this piece are none of the extras that are left.
        while extra < scratch.extras.count, scratch.extras[extra].start < position { extra += 1 }
        ids.append(Int(id))
        followsUnknown = false
        return
      }
      let part = scratch.extras[extra]
      extra += 1
      position = part.end
      if part.symbol >= 0 {
        ids.append(part.symbol)
        followsUnknown = false
      } else if byteIDs.isEmpty {
        if !followsUnknown { ids.append(unknown) }
        followsUnknown = true
      } else {
        for byte in word[part.start..<part.end] { ids.append(byteIDs[Int(byte)]) }
      }
    }
  }

  private func pieceLength(_ id: Int) -> Int { vocabulary.token(of: id)?.count ?? 0 }
}
