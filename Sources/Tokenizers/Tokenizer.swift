public import Foundation

/// Text to token ids and back, as a Hugging Face `tokenizer.json` or a vocabulary describes it.
///
/// Encoding and decoding give what the Python library `tokenizers` gives for a `tokenizer.json`, for `vocab.json` with
/// `merges.txt` (GPT-2, OPT) and for `vocab.txt` (BERT), and what `sentencepiece` gives for a `.model` file (T5, Llama),
/// where the special tokens that a text spells are found first. The `truncation` and `padding` sections of
/// `tokenizer.json` are left alone: pass `maximumLength` to cut, and pad where batches are made.
public struct Tokenizer: Sendable {
  let model: Model
  let normalizer: Normalizer?
  private let preTokenizer: PreTokenizer?
  var postProcessor: PostProcessor?
  private let decoder: TokenDecoder?
  var addedTokens = AddedTokens()
  var specialIDs: [SpecialToken: Int] = [:]

  /// Reads the tokenizer of a folder, or one file.
  ///
  /// In a folder, `tokenizer.json` is read if it is there. Else `tokenizer_class` of `tokenizer_config.json` says which
  /// files belong to it, or, without that, the first that is there of `vocab.json` with `merges.txt`, `spiece.model`,
  /// `tokenizer.model` and `vocab.txt`. Special tokens and flags come from `tokenizer_config.json`,
  /// `special_tokens_map.json` and `added_tokens.json` beside it. In a `.model`, what follows a special token is a text
  /// of its own, with the space in front that it then gets; where `legacy` is false, it is the rest of one text.
  ///
  /// - Throws: `TokenizerError`, which names the file and the key path, for a file that cannot be read, is broken,
  ///   contradicts itself, or asks for a kind of model, normalizer, pre-tokenizer, post-processor or decoder that is
  ///   not known (the error lists the known ones), and for a folder without a tokenizer.
  public init(contentsOf file: URL) throws {
    var isFolder: ObjCBool = false
    let exists = FileManager.default.fileExists(atPath: file.path, isDirectory: &isFolder)
    if exists, isFolder.boolValue {
      let settings = try TokenizerSettings(folder: file)
      try self.init(VocabularyFiles(folder: file, settings), settings)
    } else if file.pathExtension == "json", file.lastPathComponent != "vocab.json" {
      try self.init(JSONNode(contentsOf: file), nil)
    } else {
      let settings = try TokenizerSettings(folder: file.deletingLastPathComponent())
      try self.init(VocabularyFiles(file: file, settings), settings)
    }
  }

  init(model: Model, normalizer: Normalizer?, preTokenizer: PreTokenizer?, decoder: TokenDecoder?) {
    self.model = model
    self.normalizer = normalizer
    self.preTokenizer = preTokenizer
    self.decoder = decoder
  }

  /// Reads a `tokenizer.json`; the settings only say which of its tokens have which role.
  init(_ node: JSONNode, _ settings: TokenizerSettings?) throws {
    if let version = try node.optional("version"), try version.string().text != "1.0" {
      throw version.failure(expected: "\"1.0\"")
    }
    model = try Model(node.required("model"))
    normalizer = try node.optional("normalizer").map(Normalizer.init)
    preTokenizer = try node.optional("pre_tokenizer").map(PreTokenizer.init)
    postProcessor = try node.optional("post_processor").map(PostProcessor.init)
    decoder = try node.optional("decoder").map(TokenDecoder.init)

    // The reference implementation numbers tokens that the model lacks itself and ignores the ids of the file; a file
    // where the two differ would give other ids than it says.
    var nextID = model.vocabulary.count
    for element in try node.optional("added_tokens")?.elements() ?? [] {
      let token = try AddedToken(element)
      guard !token.content.isEmpty else { continue }
      let written = try element.required("id").count()
      let known = addedTokens.id(of: token.content) ?? model.vocabulary.id(of: token.content)
      guard written == known ?? nextID else {
        throw element.child("id", .integer(written)).failure(expected: "the id \(known ?? nextID)")
      }
      if known == nil { nextID += 1 }
      addedTokens.add(token, id: written, normalizer: normalizer)
    }
    addedTokens.refresh()
    for (role, token) in settings?.roles ?? [:] { specialIDs[role] = id(of: token.content.text) }
  }

  /// The ids of a text.
  ///
  /// - Parameters:
  ///   - text: Any text. Added tokens that it spells, such as `[CLS]` or `<|im_start|>`, become their ids.
  ///   - addSpecialTokens: Whether the post-processor adds its tokens, such as `[CLS]` and `[SEP]`.
  public func encode(_ text: String, addSpecialTokens: Bool = true) -> [Int] {
    finish([textIDs(text)], addSpecialTokens)
  }

  /// The ids of two texts in one sequence.
  public func encode(_ text: String, pair: String, addSpecialTokens: Bool = true) -> [Int] {
    finish([textIDs(text), textIDs(pair)], addSpecialTokens)
  }

  /// The ids of a text, cut at its end so that, with special tokens, there are at most `maximumLength`.
  ///
  /// Special tokens are never cut: there are more ids than `maximumLength` if they alone are.
  public func encode(_ text: String, addSpecialTokens: Bool = true, maximumLength: Int) -> [Int] {
    let ids = textIDs(text)
    let specialCount = finish([[]], addSpecialTokens).count
    return finish([Array(ids.prefix(max(0, maximumLength - specialCount)))], addSpecialTokens)
  }

  /// The text of a list of ids; ids that no token has are passed over.
  ///
  /// - Parameters:
  ///   - ids: Token ids.
  ///   - skipSpecialTokens: Whether tokens such as `[SEP]` are left out.
  public func decode(_ ids: [Int], skipSpecialTokens: Bool = true) -> String {
    var tokens: [[UInt8]] = []
    tokens.reserveCapacity(ids.count)
    for id in ids {
      guard let token = addedTokens.form(of: id) ?? model.vocabulary.token(of: id) else { continue }
      if skipSpecialTokens, addedTokens.isSpecial(token) { continue }
      tokens.append(token)
    }
    guard let decoder else { return Array(tokens.joined(separator: [0x20])).text }
    return Array(decoder.apply(to: tokens, isSpecial: addedTokens.isSpecial).joined()).text
  }

  /// The id of a token as it stands in the vocabulary, such as `##ing` or `Ġthe`.
  public func id(of token: String) -> Int? {
    let bytes = Array(token.utf8)
    return addedTokens.id(of: bytes) ?? model.vocabulary.id(of: bytes)
  }

  /// The id of the token with a role, such as the one that ends a text; nil if the files name none.
  public func id(of role: SpecialToken) -> Int? { specialIDs[role] }

  /// The token of an id, as it stands in the vocabulary.
  public func token(of id: Int) -> String? {
    (addedTokens.content(of: id) ?? model.vocabulary.token(of: id))?.text
  }

  /// How many tokens there are, with added ones.
  public var vocabularySize: Int {
    model.vocabulary.count + addedTokens.count(outside: model.vocabulary)
  }

  /// Makes a text a special token: it is found in texts as it stands and skipped in decoding.
  ///
  /// - Returns: Its id: the one it has in the vocabulary, or the next free one, which for a vocabulary without holes is
  ///   `vocabularySize` before the call.
  /// - Precondition: `token` is not empty.
  @discardableResult
  public mutating func addSpecialToken(_ token: String) -> Int {
    precondition(!token.isEmpty, "a special token needs at least one character")
    let bytes = Array(token.utf8)
    let id = id(of: token) ?? addedTokens.nextID(model.vocabulary)
    addedTokens.add(
      AddedToken(content: bytes, isSpecial: true, isNormalized: false), id: id, normalizer: normalizer)
    addedTokens.refresh()
    return id
  }

  private func textIDs(_ text: String) -> [Int] {
    var text = text
    return text.withUTF8 { utf8 in
      var parts = addedTokens.extract(utf8, normalizer: normalizer)
      preTokenizer?.apply(to: &parts)
      var ids: [Int] = []
      ids.reserveCapacity(utf8.count / 3 + 4)
      model.append(parts, to: &ids)
      return ids
    }
  }

  private func finish(_ texts: [[Int]], _ addSpecialTokens: Bool) -> [Int] {
    let parts = postProcessor?.apply(to: texts, addSpecialTokens: addSpecialTokens) ?? texts
    return parts.count == 1 ? parts[0] : Array(parts.joined())
  }
}
