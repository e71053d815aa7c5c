import Foundation

/// Which files of a folder a tokenizer is read from, and what family it belongs to.
enum VocabularyFiles {
  case json(URL)
  case wordPiece(URL)
  case byteLevel(vocabulary: URL, merges: URL)
  case sentencePiece(URL, Family)

  /// Tokenizers whose vocabularies come without a `tokenizer.json`.
  enum Family: CaseIterable {
    case bert, gpt2, t5, llama

    /// The names of `tokenizer_class`.
    var classNames: [String] {
      switch self {
      case .bert: ["BertTokenizer", "BertTokenizerFast", "DistilBertTokenizer", "DistilBertTokenizerFast"]
      case .gpt2: ["GPT2Tokenizer", "GPT2TokenizerFast"]
      case .t5: ["T5Tokenizer", "T5TokenizerFast"]
      case .llama: ["LlamaTokenizer", "LlamaTokenizerFast"]
      }
    }
  }

  /// Names that say nothing about a family.
  private static let anyClass = ["PreTrainedTokenizer", "PreTrainedTokenizerFast", "TokenizersBackend"]

  /// Chooses among the files of a folder: `tokenizer.json` first, else what the family needs, else what is there.
  init(folder: URL, _ settings: TokenizerSettings) throws {
    func file(_ name: String) -> URL? {
      let url = folder.appendingPathComponent(name)
      return FileManager.default.fileExists(atPath: url.path) ? url : nil
    }
    if let url = file("tokenizer.json") {
      self = .json(url)
      return
    }
    let family = try Self.family(settings)
    let spiece = file("spiece.model").map { ($0, Family.t5) }
    let model = file("tokenizer.model").map { ($0, Family.llama) }
    let sentencePiece = family == .llama ? model ?? spiece : spiece ?? model
    let vocabulary = file("vocab.json")
    let merges = file("merges.txt")
    let words = file("vocab.txt")
    switch family {
    case .t5, .llama:
      if let (url, usual) = sentencePiece {
        self = .sentencePiece(url, family ?? usual)
        return
      }
      throw Self.missing(folder, "tokenizer.json, spiece.model, tokenizer.model")
    case .gpt2:
      guard let vocabulary, let merges else { throw Self.missing(folder, "tokenizer.json, vocab.json with merges.txt") }
      self = .byteLevel(vocabulary: vocabulary, merges: merges)
    case .bert:
      guard let words else { throw Self.missing(folder, "tokenizer.json, vocab.txt") }
      self = .wordPiece(words)
    case nil:
      if let vocabulary, let merges {
        self = .byteLevel(vocabulary: vocabulary, merges: merges)
      } else if let (url, family) = sentencePiece {
        self = .sentencePiece(url, family)
      } else if let words {
        self = .wordPiece(words)
      } else {
        let names = "tokenizer.json, vocab.json with merges.txt, spiece.model, tokenizer.model, vocab.txt"
        throw Self.missing(folder, names)
      }
    }
  }

  /// Takes one file by its name, with its neighbours where it needs them.
  init(file: URL, _ settings: TokenizerSettings) throws {
    let folder = file.deletingLastPathComponent()
    switch file.lastPathComponent {
    case "vocab.txt": self = .wordPiece(file)
    case "vocab.json", "merges.txt":
      self = .byteLevel(
        vocabulary: folder.appendingPathComponent("vocab.json"), merges: folder.appendingPathComponent("merges.txt"))
    case let name where name.hasSuffix(".model"):
      let family = try Self.family(settings) ?? (name.hasPrefix("spiece") ? .t5 : .llama)
      self = .sentencePiece(file, family)
    default: self = .json(file)
    }
  }

  private static func family(_ settings: TokenizerSettings) throws -> Family? {
    guard let (name, node) = settings.className else { return nil }
    if let family = Family.allCases.first(where: { $0.classNames.contains(name) }) { return family }
    if anyClass.contains(name) { return nil }
    // Another family may number the same pieces in another way.
    let names = Family.allCases.flatMap(\.classNames).joined(separator: ", ")
    throw node.failure(expected: "a tokenizer.json, or one of \(names)")
  }

  private static func missing(_ folder: URL, _ names: String) -> TokenizerError {
    var found = (try? FileManager.default.contentsOfDirectory(atPath: folder.path).sorted()) ?? []
    if found.count > 12 { found = found.prefix(12) + ["…"] }
    let listed = found.isEmpty ? "an empty folder" : found.joined(separator: ", ")
    return TokenizerError(file: folder.path, keyPath: "", expected: "one of \(names)", found: listed)
  }
}
