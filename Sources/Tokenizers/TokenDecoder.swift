/// What turns tokens back into text.
indirect enum TokenDecoder: Sendable {
  case byteLevel
  case wordPiece(prefix: [UInt8], cleansUp: Bool)
  case replace([UInt8], with: [UInt8])
  case fuse
  case sequence([TokenDecoder])

  /// The names of `decoder.type`.
  enum Kind: String, CaseIterable {
    case byteLevel = "ByteLevel"
    case wordPiece = "WordPiece"
    case replace = "Replace"
    case fuse = "Fuse"
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
    case .sequence: self = .sequence(try node.required("decoders").elements().map(TokenDecoder.init))
    }
  }

  /// Changes the tokens so that, joined, they are the text.
  func apply(to tokens: [[UInt8]]) -> [[UInt8]] {
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
    case .sequence(let parts): return parts.reduce(tokens) { $1.apply(to: $0) }
    }
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
