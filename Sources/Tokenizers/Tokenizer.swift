public import Foundation

/// Text to token ids and back, as a Hugging Face `tokenizer.json` describes it.
///
/// Encoding and decoding give what the Python library `tokenizers` gives. The `truncation` and `padding` sections of
/// the file are left alone: pass `maximumLength` to cut, and pad where batches are made.
public struct Tokenizer: Sendable {
  private let model: Model
  private let normalizer: Normalizer?
  private let preTokenizer: PreTokenizer?
  private let postProcessor: PostProcessor?
  private let decoder: TokenDecoder?
  private var addedTokens = AddedTokens()

  /// Reads a `tokenizer.json`, or the one inside a folder.
  ///
  /// - Throws: `TokenizerError`, which names the file and the key path, for a file that cannot be read, is not JSON,
  ///   contradicts itself, or asks for a kind of model, normalizer, pre-tokenizer, post-processor or decoder that is
  ///   not known (the error lists the known ones).
  public init(contentsOf file: URL) throws {
    var isFolder: ObjCBool = false
    let exists = FileManager.default.fileExists(atPath: file.path, isDirectory: &isFolder)
    let url = exists && isFolder.boolValue ? file.appendingPathComponent("tokenizer.json") : file
    try self.init(JSONNode(contentsOf: url))
  }

  private init(_ node: JSONNode) throws {
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
    return Array(decoder.apply(to: tokens).joined()).text
  }

  /// The id of a token as it stands in the vocabulary, such as `##ing` or `Ġthe`.
  public func id(of token: String) -> Int? {
    let bytes = Array(token.utf8)
    return addedTokens.id(of: bytes) ?? model.vocabulary.id(of: bytes)
  }

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
