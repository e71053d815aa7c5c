/// Spaces made visible by another character, U+2581 as a rule, with one in front of the text.
struct Metaspace: Sendable {
  /// Where the character is put in front.
  enum Scheme: String, CaseIterable, Sendable {
    case first
    case never
    case always
  }

  private let replacement: [UInt8]
  private let scheme: Scheme
  /// Whether text is cut before each.
  private let splits: Bool

  /// Reads `{"type": "Metaspace", …}` of today, and that of files with `add_prefix_space`.
  init(_ node: JSONNode) throws {
    let replacementNode = try node.required("replacement")
    replacement = try replacementNode.string()
    guard replacement.withUnsafeBufferPointer({ $0.scalars().count }) == 1 else {
      throw replacementNode.failure(expected: "one character")
    }
    let schemeNode = try node.optional("prepend_scheme")
    let written = try schemeNode?.name(Scheme.self)
    let addsPrefix = try node.bool("add_prefix_space", default: true)
    if !addsPrefix, let schemeNode, written != .never {
      throw schemeNode.failure(expected: "\"never\", as add_prefix_space is false")
    }
    scheme = addsPrefix ? written ?? .always : .never
    splits = try node.bool("split", default: true)
  }

  func split(_ text: inout SplitText) {
    text.rewrite(capacity: text.bytes.count * 3 / 2 + 3 * text.pieces.count) { piece, startsText, output in
      let start = output.count
      let addsPrefix = scheme == .always || scheme == .first && startsText
      if addsPrefix, piece.first != 0x20 { output += replacement }
      let textStart = output.count
      for byte in piece {
        if byte == 0x20 {
          output += replacement
        } else {
          output.append(byte)
        }
      }
      // A text that starts with the replacement itself gets no second one.
      if textStart > start, output[textStart...].starts(with: replacement) {
        output.removeSubrange(start..<textStart)
      }
    }
    if splits { SplitPattern.literal(replacement).split(&text, .mergedWithNext, isInverted: false) }
  }

  func decode(_ tokens: [[UInt8]]) -> [[UInt8]] {
    tokens.enumerated().map { index, token in
      token.replacing(replacement, with: index == 0 && scheme != .never ? [] : [0x20])
    }
  }
}
