import Foundation
import Testing
import Tokenizers

/// SentencePiece models, vocabularies without `tokenizer.json`, and the `tokenizer.json` made of the former, compared
/// with `sentencepiece` and `tokenizers` text by text.
@Suite struct VocabularyParityTests {
  /// Folders as they are published: `.model` files, `vocab.json` with `merges.txt`, and `vocab.txt`.
  @Test(arguments: ["t5", "llama", "unigram-bytes", "bpe-rules", "opt", "bert"])
  func vocabularies(name: String) throws {
    try CompactExpected.read(name).compare(Tokenizer(contentsOf: Fixtures.folder.appending(path: name)), name)
  }

  /// Without `legacy`, only what starts a text gets the dummy prefix.
  @Test func llamaWithoutLegacy() throws {
    let expected = try CompactExpected.read("llama")
    let variant = try #require(expected.variants["current"])
    let model = Fixtures.folder.appending(path: "llama/tokenizer.model")
    let folder = try Fixtures.folder(
      copying: [model], with: ["tokenizer_config.json": "{\"legacy\": false, \"add_eos_token\": true}"])
    defer { try? FileManager.default.removeItem(at: folder) }
    let tokenizer = try Tokenizer(contentsOf: folder)
    try expected.compare(tokenizer, variant: variant, "current")
    #expect(tokenizer.encode("</s>a", addSpecialTokens: false) != tokenizer.encode("</s> a", addSpecialTokens: false))
  }

  @Test(arguments: ["t5-fast", "llama-fast", "unigram-fast"])
  func fastTokenizers(name: String) throws {
    let expected = try CompactExpected.read(name)
    try expected.compare(fast(name, expected), name)
  }

  /// Files of older versions, and options that these models do not use themselves.
  @Test(arguments: ["t5-fast", "llama-fast"])
  func variants(name: String) throws {
    let expected = try CompactExpected.read(name)
    #expect(expected.variants.count >= 5)
    for (key, variant) in expected.variants.sorted(by: { $0.key < $1.key }) {
      try expected.compare(fast(name, expected, variant.replacements), variant: variant, "\(name) \(key)")
    }
  }

  /// How texts fall into grapheme clusters, as the number of bars shows it that rules for every first byte make.
  @Test func clusters() throws {
    struct Row: Decodable {
      let text: String
      let count: Int

      init(from decoder: any Decoder) throws {
        var container = try decoder.unkeyedContainer()
        text = try container.decode(String.self)
        count = try container.decode(Int.self)
      }
    }
    let rows = try JSONDecoder().decode(
      [Row].self, from: Data(contentsOf: Fixtures.folder.appending(path: "clusters.json")))
    try #require(rows.count == 1200)
    let keys = (2..<0xF5).filter { $0 < 0x80 || $0 >= 0xC2 }.map { (byte: UInt8($0), value: UInt32(0)) }
    let rules = Data(CharsmapBuilder(keys, replacements: "|\0").bytes).base64EncodedString()
    let json = """
      {"normalizer":{"type":"Precompiled","precompiled_charsmap":"\(rules)"},"model":{"type":"Unigram","unk_id":0,\
      "vocab":[["?",0],["|",-1]]}}
      """
    let tokenizer = try Fixtures.tokenizer(from: Data(json.utf8))
    for row in rows {
      let ids = tokenizer.encode(row.text)
      #expect(ids == [Int](repeating: 1, count: row.count), "\(escaped(row.text))")
    }
  }

  /// A tokenizer from the text of its file, with the rules of the model file put in.
  private func fast(_ name: String, _ expected: CompactExpected, _ replacements: [[String]] = []) throws -> Tokenizer {
    var text = try String(contentsOf: Fixtures.folder.appending(path: "\(name)/tokenizer.json"), encoding: .utf8)
    for pair in replacements {
      try #require(text.contains(pair[0]))
      text = text.replacingOccurrences(of: pair[0], with: pair[1])
    }
    if text.contains("CHARSMAP"), let place = expected.charsmap {
      let model = try Data(contentsOf: Fixtures.folder.appending(path: "t5/spiece.model"))
      let rules = model[place[0]..<place[0] + place[1]]
      text = text.replacingOccurrences(of: "CHARSMAP", with: rules.base64EncodedString())
    }
    return try Fixtures.tokenizer(from: Data(text.utf8))
  }
}
