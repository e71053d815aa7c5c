/// What turns tokens back into text.
indirect enum TokenDecoder: Sendable {
  case byteLevel
  case wordPiece(prefix: [UInt8], cleansUp: Bool)
  case replace([UInt8], with: [UInt8])
  case fuse
  case metaspace(Metaspace)
  case byteFallback
  case strip(UInt32, start: Int, stop: Int)
  case sequence([TokenDecoder])
  case sentencePiece(SentencePieceDecoder)

  /// The names of `decoder.type`.
  enum Kind: String, CaseIterable {
    case byteLevel = "ByteLevel"
    case wordPiece = "WordPiece"
    case replace = "Replace"
    case fuse = "Fuse"
    case metaspace = "Metaspace"
    case byteFallback = "ByteFallback"
    case strip = "Strip"
    case sequence = "Sequence"
  }

  init(_ node: JSONNode) throws {
    switch try node.type(Kind.self) {
    case .byteLevel: self = .byteLevel
    case .wordPiece:
      self = .wordPiece(
        prefix: try node.required("prefix").string(), cleansUp: try node.required("cleanup").bool())
    case .replace:
      self = .replace(try node.required("pattern").literal(), with: try node.required("content").string())
    case .fuse: self = .fuse
    case .metaspace: self = .metaspace(try Metaspace(node))
    case .byteFallback: self = .byteFallback
    case .strip:
      let content = try node.required("content")
      let scalars = try content.string().withUnsafeBufferPointer { $0.scalars() }
      guard scalars.count == 1 else { throw content.failure(expected: "one character") }
      self = .strip(
        scalars[0], start: try node.required("start").count(), stop: try node.required("stop").count())
    case .sequence: self = .sequence(try node.required("decoders").elements().map(TokenDecoder.init))
    }
  }

  /// Changes the tokens so that, joined, they are the text.
  ///
  /// - Parameters:
  ///   - tokens: What `AddedTokens` and the vocabulary have for the ids.
  ///   - isSpecial: Whether a token is a special one.
  func apply(to tokens: [[UInt8]], isSpecial: ([UInt8]) -> Bool) -> [[UInt8]] {
    switch self {
    case .byteLevel: return [Self.decodeBytes(tokens)]
    case .wordPiece(let prefix, let cleansUp):
      return tokens.enumerated().map { index, token in
        var text = token
        if index > 0 {
          text = token.starts(with: prefix) ? Array(token[prefix.count...]) : [0x20] + token
        }
        return cleansUp ? Self.cleanedUp(text) : text
      }
    case .replace(let pattern, let content): return tokens.map { $0.replacing(pattern, with: content) }
    case .fuse: return [Array(tokens.joined())]
    case .metaspace(let metaspace): return metaspace.decode(tokens)
    case .byteFallback: return Self.decodeByteTokens(tokens)
    case .strip(let scalar, let start, let stop):
      return tokens.map { Self.stripped($0, of: scalar, start: start, stop: stop) }
    case .sequence(let parts): return parts.reduce(tokens) { $1.apply(to: $0, isSpecial: isSpecial) }
    case .sentencePiece(let decoder): return [decoder.text(of: tokens, isSpecial: isSpecial)]
    }
  }

  /// Runs of byte tokens as the text they spell; one U+FFFD for each if a run spells none.
  private static func decodeByteTokens(_ tokens: [[UInt8]]) -> [[UInt8]] {
    var result: [[UInt8]] = []
    var bytes: [UInt8] = []
    func flush() {
      if bytes.isEmpty { return }
      if String(validating: bytes, as: UTF8.self) != nil {
        result.append(bytes)
      } else {
        result += repeatElement([0xEF, 0xBF, 0xBD], count: bytes.count)
      }
      bytes = []
    }
    for token in tokens {
      if let byte = ByteTokens.byteInAnyCase(of: token) {
        bytes.append(byte)
      } else {
        flush()
        result.append(token)
      }
    }
    flush()
    return result
  }

  /// A token without up to `start` and `stop` of a scalar at its ends.
  private static func stripped(_ token: [UInt8], of scalar: UInt32, start: Int, stop: Int) -> [UInt8] {
    var scalars = token.withUnsafeBufferPointer { $0.scalars() }[...]
    for _ in 0..<min(start, scalars.count) where scalars.first == scalar { scalars.removeFirst() }
    for _ in 0..<min(stop, scalars.count) where scalars.last == scalar { scalars.removeLast() }
    return Array(scalars).utf8
  }

  /// The bytes that the tokens spell in GPT-2's alphabet, as text: what is not UTF-8 becomes U+FFFD.
  private static func decodeBytes(_ tokens: [[UInt8]]) -> [UInt8] {
    var result: [UInt8] = []
    for token in tokens {
      let before = result.count
      token.withUnsafeBufferPointer { token in
        var index = 0
        while index < token.count {
          let (scalar, next) = token.scalar(at: index)
          guard let byte = ByteAlphabet.byte(of: scalar) else {
            // A token with any other scalar in it is taken as it is.
            result.removeSubrange(before...)
            result.append(contentsOf: token)
            return
          }
          result.append(byte)
          index = next
        }
      }
    }
    return Array(result.text.utf8)
  }

  private static let cleanups: [(pattern: [UInt8], content: [UInt8])] = [
    (" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"), (" n't", "n't"), (" 'm", "'m"),
    (" do not", " don't"), (" 's", "'s"), (" 've", "'ve"), (" 're", "'re"),
  ].map { (Array($0.utf8), Array($1.utf8)) }

  /// Removes the spaces before punctuation and English contractions.
  private static func cleanedUp(_ text: [UInt8]) -> [UInt8] {
    // Most tokens have nothing to clean: each pattern is a space and one of these.
    let isDirty = zip(text, text.dropFirst()).contains { $0 == 0x20 && ".?!,'nd".utf8.contains($1) }
    guard isDirty else { return text }
    return cleanups.reduce(text) { $0.replacing($1.pattern, with: $1.content) }
  }
}
