/// What changes the text before it is cut into words.
indirect enum Normalizer: Sendable {
  case bert(BertNormalizer)
  case lowercase
  case form(UnicodeForm)
  case replace([UInt32], with: [UInt32])
  /// Runs of two spaces or more.
  case replaceSpaces(with: [UInt32])
  case prepend([UInt32])
  case strip(left: Bool, right: Bool)
  case precompiled(PrecompiledNormalizer)
  case sequence([Normalizer])
  case sentencePiece(SentencePieceNormalizer)

  /// The names of `normalizer.type`.
  enum Kind: String, CaseIterable {
    case bert = "BertNormalizer"
    case lowercase = "Lowercase"
    case nfc = "NFC"
    case nfd = "NFD"
    case nfkc = "NFKC"
    case nfkd = "NFKD"
    case replace = "Replace"
    case prepend = "Prepend"
    case strip = "Strip"
    case precompiled = "Precompiled"
    case sequence = "Sequence"
  }

  /// A Unicode normalisation form.
  struct UnicodeForm: Sendable {
    var isComposed: Bool
    var isCompatible: Bool
  }

  init(_ node: JSONNode) throws {
    switch try node.type(Kind.self) {
    case .bert: self = .bert(try BertNormalizer(node))
    case .lowercase: self = .lowercase
    case .nfc: self = .form(UnicodeForm(isComposed: true, isCompatible: false))
    case .nfd: self = .form(UnicodeForm(isComposed: false, isCompatible: false))
    case .nfkc: self = .form(UnicodeForm(isComposed: true, isCompatible: true))
    case .nfkd: self = .form(UnicodeForm(isComposed: false, isCompatible: true))
    case .replace:
      let patternNode = try node.required("pattern")
      let content = try node.required("content").string().scalars
      if let expression = try patternNode.optional("Regex") {
        let known = " {2,}"
        guard try expression.string().text == known else {
          throw expression.failure(expected: "\"\(known)\", the one expression that is known here")
        }
        self = .replaceSpaces(with: content)
      } else {
        self = .replace(try patternNode.literal().scalars, with: content)
      }
    case .prepend: self = .prepend(try node.required("prepend").string().scalars)
    case .strip:
      self = .strip(left: try node.required("strip_left").bool(), right: try node.required("strip_right").bool())
    case .precompiled: self = .precompiled(try PrecompiledNormalizer(node))
    case .sequence: self = .sequence(try node.required("normalizers").elements().map(Normalizer.init))
    }
  }

  func normalized(_ text: [UInt8]) -> [UInt8] {
    text.withUnsafeBufferPointer { normalized($0) }
  }

  /// The normalised form of valid UTF-8.
  ///
  /// - Parameters:
  ///   - text: A text, or the part of one beside a special token.
  ///   - startsText: Whether nothing stands before it.
  func normalized(_ text: UnsafeBufferPointer<UInt8>, startsText: Bool = true) -> [UInt8] {
    switch self {
    case .sentencePiece(let normalizer): return normalizer.normalized(text, startsText: startsText)
    case .precompiled(let normalizer): return normalizer.normalized(text)
    case .sequence(let parts) where parts.contains { $0.isPrecompiled }:
      return parts.reduce(Array(text)) { text, part in text.withUnsafeBufferPointer { part.normalized($0) } }
    default:
      if text.isASCII, let result = normalizedASCII(text) { return result }
      return normalized(text.scalars()).utf8
    }
  }

  private var isPrecompiled: Bool {
    if case .precompiled = self { true } else { false }
  }

  /// How many bytes of the normalised form stand for the first character of the text: 0 if it is stripped away, 1 if
  /// it matters no more precisely.
  func startLength(of text: UnsafeBufferPointer<UInt8>) -> Int {
    if text.isEmpty { return 0 }
    switch self {
    case .strip(let left, _):
      return left && UnicodeClasses.shared.contains(text.scalar(at: 0).scalar, .whitespace) ? 0 : 1
    case .precompiled(let normalizer): return normalizer.startLength(of: text)
    case .sequence(let parts):
      // Only rules make more than a word of one character; what follows them is taken to leave it alone. A piece from
      // the front shows enough.
      var end = min(text.count, 256)
      while end < text.count, text[end] & 0xC0 == 0x80 { end -= 1 }
      var text = Array(text[..<end])
      for part in parts {
        let length = text.withUnsafeBufferPointer { part.startLength(of: $0) }
        if length != 1 { return length }
        text = text.withUnsafeBufferPointer { part.normalized($0) }
      }
      return 1
    default: return 1
    }
  }

  /// The short way for ASCII, where one applies.
  private func normalizedASCII(_ text: UnsafeBufferPointer<UInt8>) -> [UInt8]? {
    switch self {
    case .form: return Array(text)
    case .lowercase: return text.map { $0 &- 0x41 < 26 ? $0 + 0x20 : $0 }
    case .bert(let bert): return bert.normalizedASCII(text)
    case .replace, .replaceSpaces, .prepend, .strip, .precompiled, .sentencePiece: return nil
    case .sequence(let parts):
      var result = Array(text)
      for part in parts {
        // Every short way leads from ASCII to ASCII.
        guard let next = result.withUnsafeBufferPointer({ part.normalizedASCII($0) }) else { return nil }
        result = next
      }
      return result
    }
  }

  private func normalized(_ scalars: [UInt32]) -> [UInt32] {
    switch self {
    case .bert(let bert): return bert.normalized(scalars)
    case .lowercase: return scalars.lowercased
    case .form(let form):
      let tables = UnicodeNormalization.shared
      return form.isComposed
        ? tables.composed(scalars, compatibility: form.isCompatible)
        : tables.decomposed(scalars, compatibility: form.isCompatible)
    case .replace(let pattern, let content): return scalars.replacing(pattern, with: content)
    case .replaceSpaces(let content): return scalars.replacingSpaces(with: content)
    case .prepend(let content): return scalars.isEmpty ? scalars : content + scalars
    case .strip(let left, let right): return scalars.stripped(left: left, right: right)
    case .precompiled, .sentencePiece:
      return scalars.utf8.withUnsafeBufferPointer { normalized($0) }.scalars
    case .sequence(let parts): return parts.reduce(scalars) { $1.normalized($0) }
    }
  }
}

/// BERT's cleaning: control characters, Chinese characters, accents, lower case, each of them optional.
struct BertNormalizer: Sendable {
  private let cleansText: Bool
  private let isolatesChinese: Bool
  private let stripsAccents: Bool
  private let lowercases: Bool

  init(cleansText: Bool, isolatesChinese: Bool, stripsAccents: Bool, lowercases: Bool) {
    self.cleansText = cleansText
    self.isolatesChinese = isolatesChinese
    self.stripsAccents = stripsAccents
    self.lowercases = lowercases
  }

  init(_ node: JSONNode) throws {
    cleansText = try node.required("clean_text").bool()
    isolatesChinese = try node.required("handle_chinese_chars").bool()
    lowercases = try node.required("lowercase").bool()
    stripsAccents = try node.bool("strip_accents", default: lowercases)
  }

  func normalizedASCII(_ text: UnsafeBufferPointer<UInt8>) -> [UInt8] {
    var result: [UInt8] = []
    result.reserveCapacity(text.count)
    for byte in text {
      if cleansText {
        if byte == 0x09 || byte == 0x0A || byte == 0x0D {
          result.append(0x20)
          continue
        }
        if byte < 0x20 || byte == 0x7F { continue }
      }
      result.append(lowercases && byte &- 0x41 < 26 ? byte + 0x20 : byte)
    }
    return result
  }

  func normalized(_ scalars: [UInt32]) -> [UInt32] {
    let classes = UnicodeClasses.shared
    var result = scalars
    if cleansText {
      result = result.compactMap { scalar in
        let cls = classes[scalar]
        if cls.contains(.control) { return nil }
        return cls.contains(.whitespace) ? 0x20 : scalar
      }
    }
    if isolatesChinese, result.contains(where: Self.isChinese) {
      result = result.flatMap { Self.isChinese($0) ? [0x20, $0, 0x20] : [$0] }
    }
    if stripsAccents {
      result = UnicodeNormalization.shared.decomposed(result, compatibility: false)
      result.removeAll { classes.contains($0, .mark) }
    }
    return lowercases ? result.lowercased : result
  }

  /// Ideographs of the blocks that BERT's authors listed; one block starts later than in the Unicode standard.
  private static func isChinese(_ scalar: UInt32) -> Bool {
    guard scalar >= 0x3400 else { return false }
    return switch scalar {
    case 0x3400...0x4DBF, 0x4E00...0x9FFF, 0xF900...0xFAFF, 0x20000...0x2A6DF, 0x2A700...0x2B81F, 0x2B920...0x2CEAF,
      0x2F800...0x2FA1F:
      true
    default: false
    }
  }
}

extension JSONNode {
  /// A pattern that is literal text: `{"String": "…"}`.
  func literal() throws -> [UInt8] {
    guard let node = try optional("String") else {
      throw failure(expected: "a literal pattern {\"String\": …}", found: try members().map(\.key.text).description)
    }
    let bytes = try node.string()
    guard !bytes.isEmpty else { throw node.failure(expected: "text") }
    return bytes
  }
}

extension Array where Element == UInt8 {
  /// The scalars of valid UTF-8.
  var scalars: [UInt32] { withUnsafeBufferPointer { $0.scalars() } }
}

extension Array where Element == UInt32 {
  /// Every run of two spaces or more replaced.
  func replacingSpaces(with content: [UInt32]) -> [UInt32] {
    var result: [UInt32] = []
    result.reserveCapacity(count)
    var index = 0
    while index < count {
      var end = index
      while end < count, self[end] == 0x20 { end += 1 }
      if end - index >= 2 {
        result += content
        index = end
      } else {
        result.append(self[index])
        index += 1
      }
    }
    return result
  }

  /// Without the white space at its ends.
  func stripped(left: Bool, right: Bool) -> [UInt32] {
    let classes = UnicodeClasses.shared
    var result = self[...]
    if left { result = result.drop { classes.contains($0, .whitespace) } }
    if right {
      while let last = result.last, classes.contains(last, .whitespace) { result.removeLast() }
    }
    return Array(result)
  }

  /// Every scalar in lower case, without regard to its neighbours.
  var lowercased: [UInt32] {
    let classes = UnicodeClasses.shared
    var result: [UInt32] = []
    result.reserveCapacity(count)
    for scalar in self { classes.appendLowercase(scalar, to: &result) }
    return result
  }
}

extension Array where Element: Equatable {
  /// Replaces `pattern`, which is not empty, from left to right.
  func replacing(_ pattern: [Element], with content: [Element]) -> [Element] {
    var result: [Element] = []
    result.reserveCapacity(count)
    var index = 0
    while index < count {
      if self[index] == pattern[0], index + pattern.count <= count,
        self[index..<index + pattern.count].elementsEqual(pattern)
      {
        result += content
        index += pattern.count
      } else {
        result.append(self[index])
        index += 1
      }
    }
    return result
  }
}
