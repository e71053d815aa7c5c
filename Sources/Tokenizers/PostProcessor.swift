/// What puts special tokens around the ids of one or two texts.
indirect enum PostProcessor: Sendable {
  /// Changes offsets only, which are not kept here.
  case byteLevel
  case template(single: [Piece], pair: [Piece])
  /// `cls a sep`, and `firstOfPair b sep` for a second text.
  case classification(start: Int, end: Int, pairStart: [Int])
  case sequence([PostProcessor])

  /// The names of `post_processor.type`.
  enum Kind: String, CaseIterable {
    case byteLevel = "ByteLevel"
    case template = "TemplateProcessing"
    case bert = "BertProcessing"
    case roberta = "RobertaProcessing"
    case sequence = "Sequence"
  }

  /// A part of a template.
  enum Piece: Sendable {
    case text(Int)  // 0 or 1
    case special([Int])
  }

  init(_ node: JSONNode) throws {
    switch try node.type(Kind.self) {
    case .byteLevel: self = .byteLevel
    case .template:
      let specials = try Self.specialTokens(node.required("special_tokens"))
      self = .template(
        single: try Self.template(node.required("single"), specials, texts: 1),
        pair: try Self.template(node.required("pair"), specials, texts: 2))
    case .bert: self = .classification(start: try Self.id(node, "cls"), end: try Self.id(node, "sep"), pairStart: [])
    case .roberta:
      let end = try Self.id(node, "sep")
      self = .classification(start: try Self.id(node, "cls"), end: end, pairStart: [end])
    case .sequence: self = .sequence(try node.required("processors").elements().map(PostProcessor.init))
    }
  }

  /// The id in `["[SEP]", 102]`.
  private static func id(_ node: JSONNode, _ key: String) throws -> Int {
    let node = try node.required(key)
    let elements = try node.elements()
    guard elements.count == 2 else { throw node.failure(expected: "[token, id]") }
    return try elements[1].count()
  }

  private static func specialTokens(_ node: JSONNode) throws -> [[UInt8]: [Int]] {
    var result: [[UInt8]: [Int]] = [:]
    for (key, value) in try node.members() {
      result[key] = try node.child(key.text, value).required("ids").elements().map { try $0.count() }
    }
    return result
  }

  private static func template(
    _ node: JSONNode, _ specials: [[UInt8]: [Int]], texts: Int
  ) throws -> [Piece] {
    try node.elements().map { element in
      if let sequence = try element.optional("Sequence") {
        let id = try sequence.required("id")
        switch try id.string().text {
        case "A": return .text(0)
        case "B" where texts == 2: return .text(1)
        default: throw id.failure(expected: texts == 2 ? "\"A\" or \"B\"" : "\"A\"")
        }
      }
      guard let special = try element.optional("SpecialToken") else {
        throw element.failure(expected: "Sequence or SpecialToken")
      }
      let id = try special.required("id")
      guard let ids = specials[try id.string()] else { throw id.failure(expected: "a key of special_tokens") }
      return .special(ids)
    }
  }

  /// The texts with special tokens between them, still in parts.
  func apply(to texts: [[Int]], addSpecialTokens: Bool) -> [[Int]] {
    switch self {
    case .byteLevel: return texts
    case .template(let single, let pair):
      guard texts.count == 1 || texts.count == 2 else { return texts }
      return (texts.count == 1 ? single : pair).compactMap { piece in
        switch piece {
        case .text(let index): texts[index]
        case .special(let ids): addSpecialTokens ? ids : nil
        }
      }
    case .classification(let start, let end, let pairStart):
      guard addSpecialTokens else { return texts }
      return texts.enumerated().map { index, ids in (index == 0 ? [start] : pairStart) + ids + [end] }
    case .sequence(let parts):
      return parts.reduce(texts) { $1.apply(to: $0, addSpecialTokens: addSpecialTokens) }
    }
  }
}
