import Foundation
import Testing
import Tokenizers

/// Which files of a folder are read, and what the small files beside them change.
@Suite struct VocabularyFilesTests {
  private func file(_ path: String) -> URL { Fixtures.folder.appending(path: path) }

  private func tokenizer(copying files: [String], with texts: [String: String] = [:]) throws -> Tokenizer {
    let folder = try Fixtures.folder(copying: files.map(file), with: texts)
    defer { try? FileManager.default.removeItem(at: folder) }
    return try Tokenizer(contentsOf: folder)
  }

  private func failure(copying files: [String], with texts: [String: String] = [:]) throws -> TokenizerError {
    try #require(throws: TokenizerError.self) { try tokenizer(copying: files, with: texts) }
  }

  @Test func tokenizerJSONComesFirst() throws {
    let tokenizer = try tokenizer(
      copying: ["word-piece/tokenizer.json", "t5/spiece.model", "opt/vocab.json", "opt/merges.txt"],
      with: ["special_tokens_map.json": "{\"sep_token\":\"[SEP]\",\"bos_token\":\"nowhere\"}"])
    #expect(tokenizer.encode("a dog").first == 2)
    #expect(tokenizer.id(of: .separator) == 3)
    #expect(tokenizer.id(of: .beginning) == nil)
  }

  @Test func classChoosesAmongFiles() throws {
    let files = ["t5/spiece.model", "opt/vocab.json", "opt/merges.txt", "bert/vocab.txt"]
    let sizes = try [
      "T5Tokenizer", "GPT2TokenizerFast", "BertTokenizer", "PreTrainedTokenizerFast",
    ].map { name in
      try tokenizer(copying: files, with: ["tokenizer_config.json": "{\"tokenizer_class\":\"\(name)\"}"]).vocabularySize
    }
    let t5 = try Tokenizer(contentsOf: file("t5/spiece.model")).vocabularySize
    #expect(sizes == [t5, 1000, 1200, 1000])
    #expect(try tokenizer(copying: files).vocabularySize == 1000)
    #expect(try tokenizer(copying: ["t5/spiece.model", "bert/vocab.txt"]).vocabularySize == t5)
    #expect(try tokenizer(copying: ["bert/vocab.txt"]).vocabularySize == 1200)
  }

  @Test func singleFiles() throws {
    let texts = ["The dog rides a red bus.", "Zürich 日本"]
    for name in ["t5/spiece.model", "llama/tokenizer.model", "opt/vocab.json", "opt/merges.txt", "bert/vocab.txt"] {
      let folder = try Tokenizer(contentsOf: file(name).deletingLastPathComponent())
      let single = try Tokenizer(contentsOf: file(name))
      for text in texts { #expect(single.encode(text) == folder.encode(text), "\(name)") }
    }
  }

  @Test func nothingThere() throws {
    let empty = try failure(copying: [])
    let names = "tokenizer.json, vocab.json with merges.txt, spiece.model, tokenizer.model, vocab.txt"
    #expect(empty.expected == "one of \(names)")
    #expect(empty.found == "an empty folder")
    let half = try failure(copying: ["opt/vocab.json"])
    #expect(half.found == "vocab.json")
    let other = try failure(
      copying: ["bert/vocab.txt"], with: ["tokenizer_config.json": "{\"tokenizer_class\":\"T5Tokenizer\"}"])
    #expect(other.expected == "one of tokenizer.json, spiece.model, tokenizer.model")
    #expect(other.found == "tokenizer_config.json, vocab.txt")
    let merges = try #require(throws: TokenizerError.self) {
      try self.tokenizer(
        copying: ["opt/vocab.json"], with: ["tokenizer_config.json": "{\"tokenizer_class\":\"GPT2Tokenizer\"}"])
    }
    #expect(merges.expected == "one of tokenizer.json, vocab.json with merges.txt")
  }

  @Test func unknownClass() throws {
    let error = try failure(
      copying: ["t5/spiece.model"], with: ["tokenizer_config.json": "{\"tokenizer_class\":\"XLMRobertaTokenizer\"}"])
    #expect(error.keyPath == "tokenizer_class")
    #expect(error.expected.contains("BertTokenizer, ") && error.expected.contains("T5Tokenizer"))
    #expect(error.found == "\"XLMRobertaTokenizer\"")
  }

  @Test func roles() throws {
    let t5 = try Tokenizer(contentsOf: file("t5"))
    #expect(t5.id(of: .padding) == 0 && t5.id(of: .end) == 1 && t5.id(of: .unknown) == 2)
    #expect(t5.id(of: .beginning) == nil)
    #expect(t5.id(of: "<extra_id_0>") == t5.vocabularySize - 1)
    #expect(t5.id(of: "<extra_id_99>") == t5.vocabularySize - 100)
    let llama = try Tokenizer(contentsOf: file("llama"))
    #expect(llama.id(of: .beginning) == 1 && llama.id(of: .end) == 2 && llama.id(of: .padding) == nil)
    let opt = try Tokenizer(contentsOf: file("opt"))
    #expect(opt.id(of: .beginning) == 2 && opt.id(of: .end) == 2 && opt.id(of: .padding) == 1)
    #expect(opt.encode("a dog").first == 2)
    #expect(opt.encode("").elementsEqual([2]))
    let bert = try Tokenizer(contentsOf: file("bert"))
    #expect(bert.id(of: "[DEC]") == 1200 && bert.id(of: .beginning) == 1200 && bert.id(of: .classification) == 2)
  }

  /// OPT's tokens without OPT's settings: the kind of model in `config.json` is enough.
  @Test func optByItsConfiguration() throws {
    let files = ["opt/vocab.json", "opt/merges.txt"]
    let opt = try tokenizer(copying: files, with: ["config.json": "{\"model_type\":\"opt\"}"])
    let settings = try Tokenizer(contentsOf: file("opt"))
    #expect(opt.encode("</s>a dog") == settings.encode("</s>a dog"))
    #expect(opt.id(of: .padding) == 1)
    let plain = try tokenizer(copying: files)
    #expect(plain.encode("a dog") == Array(settings.encode("a dog").dropFirst()))
    #expect(plain.id(of: .end) == nil)
  }

  @Test func settings() throws {
    let cased = try tokenizer(
      copying: ["bert/vocab.txt"], with: ["tokenizer_config.json": "{\"do_lower_case\":false}"])
    let uncased = try tokenizer(copying: ["bert/vocab.txt"])
    #expect(cased.encode("The dog") != uncased.encode("The dog"))
    #expect(cased.encode("the dog") == uncased.encode("the dog"))

    let extra = try tokenizer(copying: ["t5/spiece.model"], with: ["tokenizer_config.json": "{\"extra_ids\":3}"])
    #expect(extra.id(of: "<extra_id_2>") == extra.vocabularySize - 3)
    #expect(extra.id(of: "<extra_id_3>") == nil)
    let none = try tokenizer(copying: ["t5/spiece.model"], with: ["tokenizer_config.json": "{\"extra_ids\":0}"])
    #expect(none.vocabularySize == extra.vocabularySize - 3)

    let bare = try tokenizer(
      copying: ["llama/tokenizer.model"],
      with: [
        "tokenizer_config.json": "{\"add_bos_token\":false,\"add_eos_token\":true}"
      ])
    let usual = try tokenizer(copying: ["llama/tokenizer.model"])
    #expect(bare.encode("a dog") == Array(usual.encode("a dog").dropFirst()) + [2])
    #expect(bare.encode("a", pair: "dog") == bare.encode("a") + bare.encode("dog"))

    let prefixed = try tokenizer(
      copying: ["opt/vocab.json", "opt/merges.txt"], with: ["tokenizer_config.json": "{\"add_prefix_space\":true}"])
    let opt = try tokenizer(copying: ["opt/vocab.json", "opt/merges.txt"])
    #expect(prefixed.encode("dog") == opt.encode(" dog"))
  }

  @Test func addedTokens() throws {
    let tokenizer = try tokenizer(
      copying: ["llama/tokenizer.model"],
      with: [
        "added_tokens.json": "{\"<image>\":5000,\"<plain>\":5001}",
        "special_tokens_map.json": "{\"pad_token\":\"[PAD]\",\"additional_special_tokens\":[\"<image>\",\"<more>\"]}",
      ])
    #expect(tokenizer.id(of: "<image>") == 5000 && tokenizer.id(of: "<plain>") == 5001)
    #expect(tokenizer.id(of: .padding) == 5002 && tokenizer.id(of: "<more>") == 5003)
    let ids = tokenizer.encode("<image>a<plain>", addSpecialTokens: false)
    #expect(ids.first == 5000 && ids.last == 5001)
    #expect(tokenizer.decode(ids) == "a<plain>")
  }

  @Test(arguments: [
    ("added_tokens.json", "{\"<x>\":1}", "\"<x>\"", "an id that is free"),
    ("added_tokens.json", "{\"<s>\":7}", "\"<s>\"", "the id 1"),
    ("added_tokens.json", "{\"<x>\":-1}", "\"<x>\"", "a whole number"),
    ("added_tokens.json", "[]", "", "an object"),
    (
      "tokenizer_config.json", "{\"added_tokens_decoder\":{\"x\":{\"content\":\"a\"}}}", "added_tokens_decoder.x",
      "an id"
    ),
    ("tokenizer_config.json", "{\"added_tokens_decoder\":{\"9\":{}}}", "added_tokens_decoder.9.content", "a value"),
    ("tokenizer_config.json", "{\"bos_token\":3}", "bos_token", "an object"),
    ("tokenizer_config.json", "{\"legacy\":\"no\"}", "legacy", "true or false"),
    ("tokenizer_config.json", "{\"extra_ids\":99999999}", "extra_ids", "at most"),
    ("tokenizer_config.json", "{", "", "at byte"),
    ("special_tokens_map.json", "{\"additional_special_tokens\":[1]}", "additional_special_tokens[0]", "an object"),
  ])
  func brokenSettings(name: String, text: String, path: String, expected: String) throws {
    let error = try failure(copying: ["llama/tokenizer.model"], with: [name: text])
    #expect(error.file.hasSuffix(name))
    #expect(error.keyPath == path)
    #expect(error.expected.contains(expected), "\(error)")
  }

  @Test func brokenWords() throws {
    func read(_ text: String) throws -> Tokenizer { try tokenizer(copying: [], with: ["vocab.txt": text]) }
    let sound = "[PAD]\n[UNK]\n[CLS]\n[SEP]\na\n##b\n"
    #expect(try read(sound).encode("ab") == [2, 4, 5, 3])
    #expect(try read(sound.replacingOccurrences(of: "\n", with: "\r\n")).encode("ab") == [2, 4, 5, 3])
    let twice = try #require(throws: TokenizerError.self) { try read(sound + "a\n") }
    #expect(twice.keyPath == "line 7" && twice.expected == "another token than that of line 5")
    let unknown = try #require(throws: TokenizerError.self) { try read("[CLS]\n[SEP]\na\n") }
    #expect(unknown.keyPath == "unk_token")
    let start = try #require(throws: TokenizerError.self) { try read("[UNK]\n[SEP]\na\n") }
    #expect(start.keyPath == "cls_token")
    #expect(throws: TokenizerError.self) { try read("") }
  }

  @Test func brokenMerges() throws {
    func read(_ merges: String, _ vocabulary: String = "{\"a\":0,\"b\":1,\"ab\":2}") throws -> Tokenizer {
      try tokenizer(copying: [], with: ["vocab.json": vocabulary, "merges.txt": merges])
    }
    #expect(try read("#version: 0.2\na b\n").encode("ab") == [2])
    #expect(try read("a b").encode("ab") == [2])
    for (merges, path) in [("a b c\n", "lines[0]"), ("#version\na z\n", "lines[1]"), ("a b\n\na b\n", "lines[1]")] {
      let error = try #require(throws: TokenizerError.self) { try read(merges) }
      #expect(error.keyPath == path)
      #expect(error.file.hasSuffix("merges.txt"))
    }
    let error = try #require(throws: TokenizerError.self) { try read("a b\n", "{\"a\":0,\"b\":-1,\"ab\":2}") }
    #expect(error.file.hasSuffix("vocab.json"))
    #expect(error.keyPath == "\"b\"")
  }
}
