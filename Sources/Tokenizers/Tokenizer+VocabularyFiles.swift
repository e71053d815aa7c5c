import Foundation

extension Tokenizer {
  /// Reads a vocabulary that comes without a `tokenizer.json`.
  init(_ files: VocabularyFiles, _ settings: TokenizerSettings) throws {
    switch files {
    case .json(let url): try self.init(JSONNode(contentsOf: url), settings)
    case .wordPiece(let url): try self.init(wordPiece: url, settings)
    case .byteLevel(let vocabulary, let merges): try self.init(byteLevel: vocabulary, merges: merges, settings)
    case .sentencePiece(let url, let family): try self.init(sentencePiece: url, family, settings)
    }
  }

  /// BERT: `vocab.txt`, one token a line.
  private init(wordPiece url: URL, _ settings: TokenizerSettings) throws {
    var roles = settings.roles
    let usual: [(SpecialToken, String)] = [
      (.unknown, "[UNK]"), (.separator, "[SEP]"), (.padding, "[PAD]"), (.classification, "[CLS]"), (.mask, "[MASK]"),
    ]
    roles.fill(usual)
    let lines = try FileBytes.lines(url)
    var seen = TokenTable(minimumCapacity: lines.count)
    for (index, line) in lines.enumerated() {
      if let first = seen[line] {
        throw TokenizerError(
          file: url.path, keyPath: "line \(index + 1)", expected: "another token than that of line \(first + 1)",
          found: line.quoted)
      }
      seen[line] = index
    }
    let node = JSONNode(
      value: .object([
        ("vocab".bytes, .object(lines.enumerated().map { ($0.element, .integer($0.offset)) })),
        ("unk_token".bytes, .string(roles[.unknown]?.content ?? [])),
        ("max_input_chars_per_word".bytes, .integer(100)),
        ("continuing_subword_prefix".bytes, .string("##".bytes)),
      ]), path: "", file: url.path)
    let lowercases = settings.lowercases ?? true
    let normalizer = BertNormalizer(
      cleansText: true, isolatesChinese: settings.isolatesChinese ?? true,
      stripsAccents: settings.stripsAccents ?? lowercases, lowercases: lowercases)
    self.init(
      model: .wordPiece(try WordPieceModel(node)), normalizer: .bert(normalizer), preTokenizer: .bert,
      decoder: .wordPiece(prefix: "##".bytes, cleansUp: true))
    try add(roles, settings, file: url)
    let start = PostProcessor.Piece.special([try requiredID(.classification, file: url)])
    let end = PostProcessor.Piece.special([try requiredID(.separator, file: url)])
    postProcessor = .template(single: [start, .text(0), end], pair: [start, .text(0), end, .text(1), end])
  }

  /// GPT-2 and OPT: `vocab.json` and `merges.txt`.
  private init(byteLevel vocabulary: URL, merges: URL, _ settings: TokenizerSettings) throws {
    let lines = try FileBytes.lines(merges).map { JSONValue.string($0) }
    let node = JSONNode(value: .object([]), path: "", file: vocabulary.path)
    let model = try BPEModel(
      node, vocab: JSONNode(contentsOf: vocabulary),
      merges: JSONNode(value: .array(lines), path: "lines", file: merges.path))
    self.init(
      model: .bytePairEncoding(model), normalizer: nil,
      preTokenizer: .byteLevel(addsPrefixSpace: settings.addsPrefixSpace ?? false, usesPattern: true),
      decoder: .byteLevel)
    let isOPT = settings.modelType == "opt"
    var roles = settings.roles
    let text = isOPT ? "</s>" : "<|endoftext|>"
    roles.fill([(.beginning, text), (.end, text), (.unknown, text)])
    if isOPT { roles.fill([(.padding, "<pad>")]) }
    try add(roles, settings, file: vocabulary)
    try frame(
      addsBeginning: settings.addsBeginning ?? isOPT, addsEnd: settings.addsEnd ?? false, file: vocabulary)
  }

  /// T5 and Llama: a SentencePiece model.
  private init(sentencePiece url: URL, _ family: VocabularyFiles.Family, _ settings: TokenizerSettings) throws {
    let file = try SentencePieceFile(contentsOf: url)
    let model: Model =
      switch file.kind {
      case .unigram: .unigram(try UnigramModel(file))
      case .bytePairEncoding: .sentencePieceBPE(try SentencePieceBPEModel(file))
      }
    self.init(
      model: model, normalizer: .sentencePiece(SentencePieceNormalizer(file, isLegacy: settings.isLegacy ?? true)),
      preTokenizer: nil, decoder: .sentencePiece(SentencePieceDecoder(file)))
    var roles = settings.roles
    func piece(_ id: Int?) -> [UInt8]? { id.map { file.pieces[$0].text } }
    for (role, content) in [
      (SpecialToken.beginning, piece(file.startID)), (.end, piece(file.endID)), (.padding, piece(file.paddingID)),
      (.unknown, piece(file.unknownID)),
    ] where roles[role] == nil {
      roles[role] = content.map { AddedToken(content: $0, isSpecial: true, isNormalized: false) }
    }
    for (id, piece) in file.pieces.enumerated() where piece.kind == .control || piece.kind == .unknown {
      addedTokens.add(
        AddedToken(content: piece.text, isSpecial: true, isNormalized: false), id: id, normalizer: nil)
    }
    if family == .t5, id(of: "<extra_id_0>") == nil {
      let count = settings.extraIDCount ?? 100
      for index in 0..<count {
        let token = AddedToken(content: "<extra_id_\(count - 1 - index)>".bytes, isSpecial: true, isNormalized: false)
        addedTokens.add(token, id: file.pieces.count + index, normalizer: nil)
      }
    }
    try add(roles, settings, file: url, normalized: false)
    if family == .t5 {
      try frame(addsBeginning: false, addsEnd: true, file: url)
    } else {
      try frame(addsBeginning: settings.addsBeginning ?? true, addsEnd: settings.addsEnd ?? false, file: url)
    }
  }

  // MARK: Special tokens

  /// Adds the tokens that the settings name; those that have no id get the next free one.
  ///
  /// - Parameter normalized: Whether tokens may be looked for in normalised text.
  private mutating func add(
    _ roles: [SpecialToken: AddedToken], _ settings: TokenizerSettings, file: URL, normalized: Bool = true
  ) throws {
    func prepared(_ token: AddedToken) -> AddedToken {
      var token = token
      if !normalized { token.isNormalized = false }
      return token
    }
    for (id, token, node) in settings.added where !token.content.isEmpty {
      if let known = self.id(of: token.content.text), known != id {
        throw node.failure(expected: "the id \(known) of \(token.content.quoted)", found: "\(id)")
      }
      if let other = self.token(of: id), !other.utf8.elementsEqual(token.content) {
        throw node.failure(expected: "an id that is free", found: "\(id) of \(Array(other.utf8).quoted)")
      }
      addedTokens.add(prepared(token), id: id, normalizer: normalizer)
    }
    for role in SpecialToken.allCases {
      guard let token = roles[role], !token.content.isEmpty else { continue }
      let known = id(of: token.content.text)
      // What only custom names, and the vocabulary lacks, is not there.
      guard let id = known ?? (settings.roles[role] == nil ? nil : addedTokens.nextID(model.vocabulary)) else {
        continue
      }
      if addedTokens.content(of: id) == nil || !addedTokens.isSpecial(token.content) {
        var token = prepared(token)
        token.isSpecial = true
        addedTokens.add(token, id: id, normalizer: normalizer)
      }
      specialIDs[role] = id
    }
    for token in settings.additional where !token.content.isEmpty && id(of: token.content.text) == nil {
      addedTokens.add(prepared(token), id: addedTokens.nextID(model.vocabulary), normalizer: normalizer)
    }
    addedTokens.refresh()
  }

  private func requiredID(_ role: SpecialToken, file: URL) throws -> Int {
    guard let id = specialIDs[role] else {
      let expected = "a token of the vocabulary"
      throw TokenizerError(file: file.path, keyPath: role.rawValue, expected: expected, found: "none")
    }
    return id
  }

  /// Puts the tokens for the start and the end of a text around each text.
  private mutating func frame(addsBeginning: Bool, addsEnd: Bool, file: URL) throws {
    var start: [PostProcessor.Piece] = []
    var end: [PostProcessor.Piece] = []
    if addsBeginning { start = [.special([try requiredID(.beginning, file: file)])] }
    if addsEnd { end = [.special([try requiredID(.end, file: file)])] }
    let single = start + [.text(0)] + end
    postProcessor = .template(single: single, pair: single + start + [.text(1)] + end)
  }
}

extension Dictionary where Key == SpecialToken, Value == AddedToken {
  /// Sets the tokens that are not there.
  fileprivate mutating func fill(_ tokens: [(SpecialToken, String)]) {
    for (role, content) in tokens where self[role] == nil {
      self[role] = AddedToken(content: content.bytes, isSpecial: true, isNormalized: false)
    }
  }
}

extension String {
  fileprivate var bytes: [UInt8] { Array(utf8) }
}
