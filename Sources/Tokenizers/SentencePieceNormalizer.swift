/// How SentencePiece prepares a text: its rules applied from left to right, white space tidied, spaces made visible.
struct SentencePieceNormalizer: Sendable {
  /// U+2581, which stands for a space in pieces.
  static let space: [UInt8] = [0xE2, 0x96, 0x81]

  private let map: CharacterMap?
  private let addsDummyPrefix: Bool
  private let removesExtraWhitespace: Bool
  private let whitespaceIsSuffix: Bool
  private let space: [UInt8]
  /// Whether every part between special tokens is a text of its own; else only the first has the dummy prefix.
  private let isLegacy: Bool
  /// User-defined symbols, which no rule touches.
  private let symbols: PieceTrie?

  init(_ file: SentencePieceFile, isLegacy: Bool) {
    map = file.characterMap
    addsDummyPrefix = file.addsDummyPrefix
    removesExtraWhitespace = file.removesExtraWhitespace
    whitespaceIsSuffix = file.whitespaceIsSuffix
    space = file.escapesWhitespace ? Self.space : [0x20]
    self.isLegacy = isLegacy
    symbols = PieceTrie(userDefinedSymbolsOf: file)
  }

  /// The normalised form of valid UTF-8.
  ///
  /// - Parameter startsText: Whether nothing, not even a special token, stands before it.
  func normalized(_ text: UnsafeBufferPointer<UInt8>, startsText: Bool) -> [UInt8] {
    let isStart = startsText || isLegacy
    var index = 0
    if removesExtraWhitespace, isStart {
      while index < text.count, let next = spaceEnd(text, at: index) { index = next }
    }
    var result: [UInt8] = []
    guard index < text.count else { return result }
    result.reserveCapacity(text.count + text.count / 2 + 8)
    let addsSpace = addsDummyPrefix && isStart
    if addsSpace, !whitespaceIsSuffix { result += space }
    var followsSpace = removesExtraWhitespace && isStart
    while index < text.count {
      let first = text[index]
      if first < 0x80, first != 0x20, symbols == nil, map?.hasKeys(startingWith: first) != true {
        result.append(first)
        followsSpace = false
        index += 1
        continue
      }
      let (end, replacement) = step(text, at: index)
      if let replacement {
        append(replacement, &followsSpace, to: &result)
      } else {
        append(text[index..<end], &followsSpace, to: &result)
      }
      if !removesExtraWhitespace { followsSpace = false }
      index = end
    }
    if removesExtraWhitespace {
      while result.count >= space.count, result.suffix(space.count).elementsEqual(space) {
        result.removeLast(space.count)
      }
    }
    if addsSpace, whitespaceIsSuffix { result += space }
    return result
  }

  /// Appends a part with its spaces made visible, without the leading ones if a space stands before it.
  private func append(_ part: some Collection<UInt8>, _ followsSpace: inout Bool, to result: inout [UInt8]) {
    let part = followsSpace ? part.drop { $0 == 0x20 } : part.dropFirst(0)
    guard !part.isEmpty else { return }
    var last: UInt8 = 0
    for byte in part {
      if byte == 0x20 {
        result += space
      } else {
        result.append(byte)
      }
      last = byte
    }
    followsSpace = last == 0x20
  }

  /// The next part of the text, and what replaces it, if something does.
  @inline(__always)
  private func step(
    _ text: UnsafeBufferPointer<UInt8>, at index: Int
  ) -> (end: Int, replacement: ArraySlice<UInt8>?) {
    if let symbols, let length = symbols.longestMatch(in: text, at: index) { return (index + length, nil) }
    if let match = map?.longestMatch(in: text, from: index, to: text.count) {
      return (index + match.length, match.replacement)
    }
    return (text.scalar(at: index).next, nil)
  }

  /// Where the part at `index` ends if it is a space.
  private func spaceEnd(_ text: UnsafeBufferPointer<UInt8>, at index: Int) -> Int? {
    let (end, replacement) = step(text, at: index)
    let isSpace =
      replacement.map { $0.elementsEqual([0x20]) } ?? (end == index + 1 && text[index] == 0x20)
    return isSpace ? end : nil
  }
}

extension PieceTrie {
  /// The user-defined symbols of a file; nil if there are none.
  init?(userDefinedSymbolsOf file: SentencePieceFile) {
    let symbols = file.pieces.enumerated().filter { $0.element.kind == .userDefined }
    guard !symbols.isEmpty else { return nil }
    self.init(symbols.map { ($0.element.text, UInt32($0.offset)) })
  }
}
