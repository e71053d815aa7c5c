/// WordPiece: the longest token that fits, from left to right; one unknown part makes the whole word unknown.
///
/// Schuster and Nakajima, "Japanese and Korean voice search", ICASSP 2012; the greedy form is BERT's.
struct WordPieceModel: Sendable {
  let vocabulary: Vocabulary
  private let unknown: Int
  private let longestWord: Int  // in scalars
  /// Tokens that continue a word, without their prefix.
  private let continuations: TokenTable

  init(_ node: JSONNode) throws {
    vocabulary = try Vocabulary(node.required("vocab"))
    let unknownNode = try node.required("unk_token")
    unknown = try vocabulary.requiredID(of: unknownNode.string(), unknownNode)
    longestWord = try node.required("max_input_chars_per_word").count()
    let prefix = try node.required("continuing_subword_prefix").string()
    var continuations = TokenTable()
    for (token, value) in try node.required("vocab").members() where token.starts(with: prefix) {
      guard case .integer(let id) = value else { continue }
      continuations[Array(token[prefix.count...])] = id
    }
    self.continuations = continuations
  }

  /// Appends the ids of one word (valid UTF-8).
  func append(_ word: UnsafeBufferPointer<UInt8>, to ids: inout [Int]) {
    if word.count > longestWord, word.count(where: { $0 & 0xC0 != 0x80 }) > longestWord {
      ids.append(unknown)
      return
    }
    let before = ids.count
    var start = 0
    while start < word.count {
      let table = start == 0 ? vocabulary.ids : continuations
      var end = min(word.count, start + table.longestKey)
      while end > start, end < word.count, word[end] & 0xC0 == 0x80 { end -= 1 }
      var found: Int?
      while end > start {
        found = table.find(UnsafeBufferPointer(rebasing: word[start..<end]))
        if found != nil { break }
        end = word.start(ofScalarBefore: end)
      }
      guard let found else {
        ids.removeSubrange(before...)
        ids.append(unknown)
        return
      }
      ids.append(found)
      start = end
    }
  }
}
