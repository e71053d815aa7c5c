/// What cuts normalised text into words.
indirect enum PreTokenizer: Sendable {
  case bert
  case byteLevel(addsPrefixSpace: Bool, usesPattern: Bool)
  case digits(individual: Bool)
  case metaspace(Metaspace)
  case whitespaceSplit
  case split(SplitPattern, SplitBehavior, isInverted: Bool)
  case sequence([PreTokenizer])

  /// The names of `pre_tokenizer.type`.
  enum Kind: String, CaseIterable {
    case bert = "BertPreTokenizer"
    case byteLevel = "ByteLevel"
    case digits = "Digits"
    case metaspace = "Metaspace"
    case whitespaceSplit = "WhitespaceSplit"
    case split = "Split"
    case sequence = "Sequence"
  }

  init(_ node: JSONNode) throws {
    switch try node.type(Kind.self) {
    case .bert: self = .bert
    case .byteLevel:
      self = .byteLevel(
        addsPrefixSpace: try node.required("add_prefix_space").bool(),
        usesPattern: try node.bool("use_regex", default: true))
    case .digits: self = .digits(individual: try node.required("individual_digits").bool())
    case .metaspace: self = .metaspace(try Metaspace(node))
    case .whitespaceSplit: self = .whitespaceSplit
    case .split:
      self = .split(
        try SplitPattern(node.required("pattern")), try node.required("behavior").name(SplitBehavior.self),
        isInverted: try node.required("invert").bool())
    case .sequence: self = .sequence(try node.required("pretokenizers").elements().map(PreTokenizer.init))
    }
  }

  func apply(to text: inout SplitText) {
    switch self {
    case .bert: Self.splitForBert(&text)
    case .byteLevel(let addsPrefixSpace, let usesPattern):
      if addsPrefixSpace { Self.addPrefixSpaces(&text) }
      if usesPattern { SplitPattern.gpt2.split(&text, .isolated, isInverted: false) }
      text.rewrite(capacity: text.bytes.count * 2) { piece, _, output in
        for byte in piece { ByteAlphabet.append(byte, to: &output) }
      }
    case .digits(let individual):
      SplitPattern.digit.split(&text, individual ? .isolated : .contiguous, isInverted: false)
    case .metaspace(let metaspace): metaspace.split(&text)
    case .whitespaceSplit: Self.splitAtWhitespace(&text)
    case .split(let pattern, let behavior, let isInverted): pattern.split(&text, behavior, isInverted: isInverted)
    case .sequence(let parts): for part in parts { part.apply(to: &text) }
    }
  }

  /// White space separates words and is dropped; each punctuation scalar is a word.
  private static func splitForBert(_ text: inout SplitText) {
    let classes = UnicodeClasses.shared
    text.split { bytes, start, end, emit in
      var wordStart = start
      var index = start
      while index < end {
        let (scalar, next) = bytes.scalar(at: index)
        let cls = classes[scalar]
        if cls.contains(.whitespace) {
          emit(wordStart, index)
          wordStart = next
        } else if cls.contains(.punctuation) {
          emit(wordStart, index)
          emit(index, next)
          wordStart = next
        }
        index = next
      }
      emit(wordStart, end)
    }
  }

  /// White space separates words and is dropped.
  private static func splitAtWhitespace(_ text: inout SplitText) {
    let classes = UnicodeClasses.shared
    text.split { bytes, start, end, emit in
      var wordStart = start
      var index = start
      while index < end {
        let (scalar, next) = bytes.scalar(at: index)
        if classes.contains(scalar, .whitespace) {
          emit(wordStart, index)
          wordStart = next
        }
        index = next
      }
      emit(wordStart, end)
    }
  }

  private static func addPrefixSpaces(_ text: inout SplitText) {
    text.rewrite(capacity: text.bytes.count + text.pieces.count) { piece, _, output in
      if piece.first != 0x20 { output.append(0x20) }
      output.append(contentsOf: piece)
    }
  }
}

/// GPT-2's alphabet of 256 visible scalars, one for each byte.
///
/// Bytes that Latin-1 prints stand for themselves; the other 68 become U+0100 and onwards, in order.
enum ByteAlphabet {
  private static let scalars: [UInt32] = {
    var result: [UInt32] = []
    var spare: UInt32 = 0x100
    for byte in UInt32(0)..<256 {
      switch byte {
      case 0x21...0x7E, 0xA1...0xAC, 0xAE...0xFF: result.append(byte)
      default:
        result.append(spare)
        spare += 1
      }
    }
    return result
  }()

  private static let bytes: [UInt8?] = {
    var result = [UInt8?](repeating: nil, count: 0x144)
    for (byte, scalar) in scalars.enumerated() { result[Int(scalar)] = UInt8(byte) }
    return result
  }()

  @inline(__always)
  static func append(_ byte: UInt8, to output: inout [UInt8]) {
    output.append(scalar: scalars[Int(byte)])
  }

  /// The byte that a scalar stands for.
  static func byte(of scalar: UInt32) -> UInt8? {
    scalar < 0x144 ? bytes[Int(scalar)] : nil
  }
}
