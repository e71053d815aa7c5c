import Foundation

/// What the small files beside a vocabulary say: `tokenizer_config.json`, `special_tokens_map.json`,
/// `added_tokens.json`, and of `config.json` the kind of model. Files that are not there say nothing.
struct TokenizerSettings {
  /// `tokenizer_class`.
  private(set) var className: (name: String, node: JSONNode)?
  /// `model_type` of `config.json`.
  private(set) var modelType: String?
  /// Tokens that the files name by their role.
  private(set) var roles: [SpecialToken: AddedToken] = [:]
  /// Further special tokens, without ids.
  private(set) var additional: [AddedToken] = []
  /// Tokens with the ids that the files give them, lowest first.
  private(set) var added: [(id: Int, token: AddedToken, node: JSONNode)] = []
  private(set) var addsBeginning: Bool?
  private(set) var addsEnd: Bool?
  private(set) var addsPrefixSpace: Bool?
  private(set) var isLegacy: Bool?
  private(set) var lowercases: Bool?
  private(set) var stripsAccents: Bool?
  private(set) var isolatesChinese: Bool?
  /// How many `<extra_id_…>` T5 has; at most `extraIDLimit`.
  private(set) var extraIDCount: Int?

  private static let extraIDLimit = 1 << 16

  /// Reads the files of a folder.
  init(folder: URL) throws {
    func node(_ name: String) throws -> JSONNode? {
      let url = folder.appendingPathComponent(name)
      return FileManager.default.fileExists(atPath: url.path) ? try JSONNode(contentsOf: url) : nil
    }
    let config = try node("tokenizer_config.json")
    let map = try node("special_tokens_map.json")
    modelType = try node("config.json")?.optional("model_type")?.string().text
    for file in [map, config].compactMap({ $0 }) {
      for role in SpecialToken.allCases {
        if let token = try file.optional(role.rawValue) { roles[role] = try AddedToken(special: token) }
      }
      if let tokens = try file.optional("additional_special_tokens") {
        additional = try tokens.elements().map(AddedToken.init(special:))
      }
      // Newer files say it so; an object there names tokens of a single model.
      if let tokens = try file.optional("extra_special_tokens"), case .array = tokens.value {
        additional += try tokens.elements().map(AddedToken.init(special:))
      }
    }
    if let config { try read(config) }
    if let tokens = try node("added_tokens.json") { try readAddedTokens(tokens) }
    added.sort { $0.id < $1.id }
  }

  private mutating func read(_ config: JSONNode) throws {
    func flag(_ key: String) throws -> Bool? { try config.optional(key)?.bool() }
    className = try config.optional("tokenizer_class").map { ($0.value.text, $0) }
    addsBeginning = try flag("add_bos_token")
    addsEnd = try flag("add_eos_token")
    addsPrefixSpace = try flag("add_prefix_space")
    isLegacy = try flag("legacy")
    lowercases = try flag("do_lower_case")
    stripsAccents = try flag("strip_accents")
    isolatesChinese = try flag("tokenize_chinese_chars")
    if let node = try config.optional("extra_ids") {
      let count = try node.count()
      guard count <= Self.extraIDLimit else { throw node.failure(expected: "at most \(Self.extraIDLimit)") }
      extraIDCount = count
    }
    for (key, value) in try config.optional("added_tokens_decoder")?.members() ?? [] {
      let node = config.child("added_tokens_decoder.\(key.text)", value)
      guard let id = Int(key.text), id >= 0, id < Int(UInt32.max) else {
        throw node.failure(expected: "an id as key", found: key.quoted)
      }
      added.append((id, try AddedToken(special: node), node))
    }
  }

  /// Reads an object of token → id. Tokens that no other file calls special are none.
  private mutating func readAddedTokens(_ file: JSONNode) throws {
    let named = Array(roles.values) + additional
    for (content, value) in try file.members() where !added.contains(where: { $0.token.content == content }) {
      let node = file.child(content.quoted, value)
      let token =
        named.first { $0.content == content } ?? AddedToken(content: content, isSpecial: false, isNormalized: true)
      added.append((try node.count(), token, node))
    }
  }
}

extension AddedToken {
  /// Reads a special token as the settings of a tokenizer write it: as text, or as an object with flags.
  init(special node: JSONNode) throws {
    if case .string(let content) = node.value {
      self.init(content: content, isSpecial: true, isNormalized: false)
      return
    }
    let special = try node.bool("special", default: true)
    self.init(
      content: try node.required("content").string(), isSpecial: special,
      isNormalized: try node.bool("normalized", default: !special))
    matchesSingleWords = try node.bool("single_word", default: false)
    stripsLeft = try node.bool("lstrip", default: false)
    stripsRight = try node.bool("rstrip", default: false)
  }
}

extension JSONValue {
  /// A string, or what an error message calls anything else.
  var text: String {
    if case .string(let bytes) = self { bytes.text } else { summary }
  }
}
