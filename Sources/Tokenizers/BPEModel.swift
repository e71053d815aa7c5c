/// Byte pair encoding: symbols are merged pair by pair, the pair that was learned first goes first.
///
/// Sennrich, Haddow and Birch, "Neural Machine Translation of Rare Words with Subword Units", ACL 2016.
struct BPEModel: Sendable {
  let vocabulary: Vocabulary
  private let merger: PairMerger
  private let unknown: Int?
  private let fusesUnknown: Bool
  private let ignoresMerges: Bool
  private let prefix: [UInt8]  // before every symbol but the first of a word
  private let suffix: [UInt8]  // after the last symbol of a word
  private let byteTokens: [UInt32?]  // ids of `<0x00>` … `<0xFF>`; empty without byte fallback
  private let singleByteIDs: [Int]  // ids of one-byte symbols, -1 when there is none

  /// Reads `model` of a `tokenizer.json`.
  ///
  /// - Parameters:
  ///   - node: The model.
  ///   - vocab: The object of tokens and ids, where it stands in a file of its own.
  ///   - merges: The list of merges, likewise.
  init(_ node: JSONNode, vocab: JSONNode? = nil, merges: JSONNode? = nil) throws {
    let vocabulary = try Vocabulary(vocab ?? node.required("vocab"))
    self.vocabulary = vocabulary
    if let unknownNode = try node.optional("unk_token") {
      unknown = try vocabulary.requiredID(of: unknownNode.string(), unknownNode)
    } else {
      unknown = nil
    }
    if let dropout = try node.optional("dropout") {
      switch dropout.value {
      case .integer(0), .number(0): break
      default: throw dropout.failure(expected: "no dropout (null or 0)")
      }
    }
    fusesUnknown = try node.bool("fuse_unk", default: false)
    ignoresMerges = try node.bool("ignore_merges", default: false)
    prefix = try node.optional("continuing_subword_prefix")?.string() ?? []
    suffix = try node.optional("end_of_word_suffix")?.string() ?? []
    if try node.bool("byte_fallback", default: false) {
      byteTokens = (0..<256).map { byte in
        vocabulary.id(of: ByteTokens.token(of: UInt8(byte))).map { UInt32($0) }
      }
    } else {
      byteTokens = []
    }
    singleByteIDs = (0..<128).map { vocabulary.id(of: [UInt8($0)]) ?? -1 }
    merger = try Self.readMerges(merges ?? node.required("merges"), vocabulary, prefix: prefix)
  }

  private static func readMerges(
    _ node: JSONNode, _ vocabulary: Vocabulary, prefix: [UInt8]
  ) throws -> PairMerger {
    let elements = try node.elements()
    var merger = PairMerger(minimumCapacity: elements.count)
    for element in elements {
      guard let (first, second) = try pair(element) else { continue }
      let firstID = try vocabulary.requiredID(of: first, element)
      let secondID = try vocabulary.requiredID(of: second, element)
      guard second.count >= prefix.count else {
        throw element.failure(expected: "a second part that starts with \(prefix.quoted)", found: second.quoted)
      }
      let mergedID = try vocabulary.requiredID(of: first + second[prefix.count...], element)
      merger.append(UInt32(firstID), UInt32(secondID), makes: UInt32(mergedID), rank: merger.count)
    }
    return merger
  }

  /// A merge as `"a b"` or `["a", "b"]`; nil for the version line of old files.
  private static func pair(_ node: JSONNode) throws -> (first: [UInt8], second: [UInt8])? {
    let expected = "two tokens: \"a b\" or [\"a\", \"b\"]"
    switch node.value {
    case .string(let bytes):
      if bytes.starts(with: "#version".utf8) { return nil }
      let parts = bytes.split(separator: 0x20, omittingEmptySubsequences: false)
      guard parts.count == 2 else { throw node.failure(expected: expected) }
      return (Array(parts[0]), Array(parts[1]))
    case .array(let values):
      guard values.count == 2, case .string(let first) = values[0], case .string(let second) = values[1] else {
        throw node.failure(expected: expected)
      }
      return (first, second)
    default: throw node.failure(expected: expected)
    }
  }

  /// Working memory for words, kept from one to the next.
  struct Scratch {
    fileprivate var word = PairMerger.Word()
    fileprivate var symbol: [UInt8] = []
  }

  /// Appends the ids of one word (valid UTF-8).
  func append(_ word: UnsafeBufferPointer<UInt8>, to ids: inout [Int], _ scratch: inout Scratch) {
    if ignoresMerges, let id = vocabulary.ids.find(word) {
      ids.append(id)
      return
    }
    readSymbols(word, &scratch)
    merger.merge(&scratch.word)
    scratch.word.forEach { ids.append(Int($0)) }
  }

  /// Cuts the word into scalars and looks each up.
  private func readSymbols(_ word: UnsafeBufferPointer<UInt8>, _ scratch: inout Scratch) {
    scratch.word.ids.removeAll(keepingCapacity: true)
    let isPlain = prefix.isEmpty && suffix.isEmpty
    var pendingUnknown: UInt32?
    var start = 0
    while start < word.count {
      let end = word.scalar(at: start).next
      let found: UInt32?
      if isPlain, end == start + 1 {
        let id = singleByteIDs[Int(word[start])]
        found = id < 0 ? nil : UInt32(id)
      } else if isPlain {
        found = vocabulary.ids.find(UnsafeBufferPointer(rebasing: word[start..<end])).map { UInt32($0) }
      } else {
        scratch.symbol.removeAll(keepingCapacity: true)
        if start > 0 { scratch.symbol += prefix }
        scratch.symbol += word[start..<end]
        if end == word.count { scratch.symbol += suffix }
        found = vocabulary.ids[scratch.symbol].map { UInt32($0) }
      }
      if let found {
        if let unknown = pendingUnknown {
          scratch.word.ids.append(unknown)
          pendingUnknown = nil
        }
        scratch.word.ids.append(found)
      } else if let bytes = fallback(isPlain ? Array(word[start..<end]) : scratch.symbol) {
        // An unknown symbol that waits stays behind these bytes, as in the reference implementation.
        scratch.word.ids += bytes
      } else if let unknown {
        if let waiting = pendingUnknown, !fusesUnknown { scratch.word.ids.append(waiting) }
        pendingUnknown = UInt32(unknown)
      }
      start = end
    }
    if let unknown = pendingUnknown { scratch.word.ids.append(unknown) }
  }

  /// The byte tokens of a symbol, if the vocabulary has all of them.
  private func fallback(_ symbol: [UInt8]) -> [UInt32]? {
    guard !byteTokens.isEmpty else { return nil }
    var result: [UInt32] = []
    for byte in symbol {
      guard let id = byteTokens[Int(byte)] else { return nil }
      result.append(id)
    }
    return result
  }
}
