/// A token that is found in the text before the model sees it.
struct AddedToken: Sendable, Equatable {
  var content: [UInt8]
  /// Skipped by `decode(_:skipSpecialTokens:)`.
  var isSpecial: Bool
  /// Matches only where no word character stands beside it.
  var matchesSingleWords = false
  /// Takes the white space on its left with it.
  var stripsLeft = false
  /// Takes the white space on its right with it.
  var stripsRight = false
  /// Matched, in its normalised form, in the normalised text.
  var isNormalized: Bool

  init(content: [UInt8], isSpecial: Bool, isNormalized: Bool) {
    self.content = content
    self.isSpecial = isSpecial
    self.isNormalized = isNormalized
  }

  init(_ node: JSONNode) throws {
    content = try node.required("content").string()
    isSpecial = try node.required("special").bool()
    matchesSingleWords = try node.required("single_word").bool()
    stripsLeft = try node.required("lstrip").bool()
    stripsRight = try node.required("rstrip").bool()
    isNormalized = try node.required("normalized").bool()
  }
}

/// The tokens that were added to a model's vocabulary.
struct AddedTokens: Sendable {
  private(set) var ids = TokenTable()
  private var tokens: [Int: AddedToken] = [:]
  /// What decoders see for a token: its normalised form if it is matched in normalised text.
  private var forms: [Int: [UInt8]] = [:]
  private var specialContents: Set<[UInt8]> = []
  private var rawTrie = ByteTrie()
  private var normalizedTrie = ByteTrie()

  func id(of token: [UInt8]) -> Int? { ids[token] }

  /// The content of a token as it was added.
  func content(of id: Int) -> [UInt8]? { tokens[id]?.content }

  /// What decoders see for a token.
  func form(of id: Int) -> [UInt8]? { forms[id] }

  /// Whether decoding may skip a token that reads so.
  func isSpecial(_ form: [UInt8]) -> Bool { specialContents.contains(form) }

  /// How many of the tokens the model's vocabulary lacks.
  func count(outside vocabulary: Vocabulary) -> Int {
    tokens.values.count { vocabulary.id(of: $0.content) == nil }
  }

  /// The id that the next new token gets: after the highest added one, but never inside the model's vocabulary.
  func nextID(_ vocabulary: Vocabulary) -> Int {
    guard let highest = tokens.keys.max() else { return vocabulary.count }
    return highest >= vocabulary.count ? highest + 1 : vocabulary.count
  }

  /// Adds a token under an id, or changes the one that is there; `refresh()` must follow.
  mutating func add(_ token: AddedToken, id: Int, normalizer: Normalizer?) {
    ids[token.content] = id
    tokens[id] = token
    forms[id] = token.isNormalized ? normalizer?.normalized(token.content) ?? token.content : token.content
    if token.isSpecial { specialContents.insert(token.content) }
  }

  /// Makes the tokens findable.
  mutating func refresh() {
    (rawTrie, normalizedTrie) = (ByteTrie(), ByteTrie())
    for (id, token) in tokens.sorted(by: { $0.key < $1.key }) {
      guard let form = forms[id] else { continue }
      if token.isNormalized {
        normalizedTrie.insert(form, id)
      } else {
        rawTrie.insert(form, id)
      }
    }
  }

  /// Cuts out the added tokens and normalises what lies between them.
  func extract(_ text: UnsafeBufferPointer<UInt8>, normalizer: Normalizer?) -> SplitText {
    var result = SplitText()
    result.bytes.reserveCapacity(text.count + 16)
    for match in matches(in: text, rawTrie) {
      if match.id >= 0 {
        result.append(token: match.id)
        continue
      }
      let part = UnsafeBufferPointer(rebasing: text[match.start..<match.end])
      let startsText = match.start == 0
      guard let normalizer else {
        appendNormalized(part, startLength: startsText ? 1 : 0, to: &result)
        continue
      }
      let startLength = startsText ? normalizer.startLength(of: part) : 0
      normalizer.normalized(part, startsText: startsText).withUnsafeBufferPointer {
        appendNormalized($0, startLength: startLength, to: &result)
      }
    }
    return result
  }

  private func appendNormalized(
    _ text: UnsafeBufferPointer<UInt8>, startLength: Int, to result: inout SplitText
  ) {
    for match in matches(in: text, normalizedTrie) {
      if match.id >= 0 {
        result.append(token: match.id)
      } else {
        result.append(text: text[match.start..<match.end], startLength: max(0, startLength - match.start))
      }
    }
  }

  /// Leftmost-longest matches and the text between them.
  private func matches(in text: UnsafeBufferPointer<UInt8>, _ trie: ByteTrie) -> [SplitText.Piece] {
    guard !trie.isEmpty, !text.isEmpty else { return [SplitText.Piece(start: 0, end: text.count, id: -1)] }
    let classes = UnicodeClasses.shared
    var result: [SplitText.Piece] = []
    var taken = 0  // everything before belongs to a match or to text that was reported
    var position = 0
    while position < text.count {
      guard let (id, length) = trie.longestMatch(in: text, at: position), let token = tokens[id] else {
        position += 1
        continue
      }
      var start = position
      var end = position + length
      position = end
      if token.matchesSingleWords {
        let before = start > 0 ? text.scalar(at: text.start(ofScalarBefore: start)).scalar : 0x20
        let followsWord = classes.contains(before, .word)
        let precedesWord = end < text.count && classes.contains(text.scalar(at: end).scalar, .word)
        if followsWord || precedesWord { continue }
      }
      if token.stripsLeft {
        while start > taken {
          let before = text.start(ofScalarBefore: start)
          guard classes.contains(text.scalar(at: before).scalar, .whitespace) else { break }
          start = before
        }
        start = max(start, taken)
      }
      if token.stripsRight {
        while end < text.count {
          let (scalar, next) = text.scalar(at: end)
          guard classes.contains(scalar, .whitespace) else { break }
          end = next
        }
      }
      if taken < start { result.append(SplitText.Piece(start: taken, end: start, id: -1)) }
      result.append(SplitText.Piece(start: start, end: end, id: id))
      taken = end
    }
    if taken != text.count { result.append(SplitText.Piece(start: taken, end: text.count, id: -1)) }
    return result
  }
}

/// A set of byte strings in which the longest prefix of a text is found.
private struct ByteTrie: Sendable {
  private var edges: [UInt64: Int] = [:]  // node and byte → node
  private var firstNodes = [Int32](repeating: -1, count: 256)
  private var ids: [Int] = [-1]  // of each node, -1 where no key ends

  var isEmpty: Bool { ids.count == 1 }

  mutating func insert(_ key: [UInt8], _ id: Int) {
    guard let first = key.first else { return }
    if firstNodes[Int(first)] < 0 {
      firstNodes[Int(first)] = Int32(ids.count)
      ids.append(-1)
    }
    var node = Int(firstNodes[Int(first)])
    for byte in key.dropFirst() {
      let edge = UInt64(node) << 8 | UInt64(byte)
      if let next = edges[edge] {
        node = next
      } else {
        edges[edge] = ids.count
        node = ids.count
        ids.append(-1)
      }
    }
    ids[node] = id
  }

  @inline(__always)
  func longestMatch(in text: UnsafeBufferPointer<UInt8>, at start: Int) -> (id: Int, length: Int)? {
    let first = firstNodes[Int(text[start])]
    return first < 0 ? nil : longestMatch(in: text, at: start, node: Int(first))
  }

  private func longestMatch(
    in text: UnsafeBufferPointer<UInt8>, at start: Int, node first: Int
  ) -> (id: Int, length: Int)? {
    var node = first
    var index = start + 1
    var best: (id: Int, length: Int)? = ids[node] < 0 ? nil : (ids[node], 1)
    while index < text.count, let next = edges[UInt64(node) << 8 | UInt64(text[index])] {
      node = next
      index += 1
      if ids[node] >= 0 { best = (ids[node], index - start) }
    }
    return best
  }
}
