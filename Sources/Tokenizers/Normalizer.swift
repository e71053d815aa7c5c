/// What changes the text before it is cut into words.
indirect enum Normalizer: Sendable {
  case bert(BertNormalizer)
  case lowercase
  case form(UnicodeForm)
  case replace([UInt32], with: [UInt32])
  case sequence([Normalizer])

  /// The names of `normalizer.type`.
  enum Kind: String, CaseIterable {
    case bert = "BertNormalizer"
    case lowercase = "Lowercase"
    case nfc = "NFC"
    case nfd = "NFD"
    case nfkc = "NFKC"
    case nfkd = "NFKD"
    case replace = "Replace"
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
      let pattern = try node.required("pattern").literal()
      let content = try node.required("content").string()
      self = .replace(
        pattern.withUnsafeBufferPointer { $0.scalars() }, with: content.withUnsafeBufferPointer { $0.scalars() })
    case .sequence: self = .sequence(try node.required("normalizers").elements().map(Normalizer.init))
    }
  }

  func normalized(_ text: [UInt8]) -> [UInt8] {
    text.withUnsafeBufferPointer { normalized($0) }
  }

  /// The normalised form of valid UTF-8.
  func normalized(_ text: UnsafeBufferPointer<UInt8>) -> [UInt8] {
    if text.isASCII, let result = normalizedASCII(text) { return result }
    return normalized(text.scalars()).utf8
  }

  /// The short way for ASCII, where one applies.
  private func normalizedASCII(_ text: UnsafeBufferPointer<UInt8>) -> [UInt8]? {
    switch self {
    case .form: return Array(text)
    case .lowercase: return text.map { $0 &- 0x41 < 26 ? $0 + 0x20 : $0 }
    case .bert(let bert): return bert.normalizedASCII(text)
    case .replace: return nil
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

extension Array where Element == UInt32 {
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
