import Foundation
import Testing
import Tokenizers

/// What the Python libraries answered for one tokenizer, as `make_vocabularies.py` writes it.
struct CompactExpected: Decodable {
  /// `[ids, ids with special tokens, decoded, decoded without special tokens]`, with the text before them in `extra`.
  struct Row: Decodable {
    let text: String?
    let plain: [Int]
    let special: [Int]
    let kept: String
    let skipped: String

    init(from decoder: any Decoder) throws {
      var container = try decoder.unkeyedContainer()
      text = container.count == 5 ? try container.decode(String.self) : nil
      plain = try container.decode([Int].self)
      special = try container.decode([Int].self)
      kept = try container.decode(String.self)
      skipped = try container.decode(String.self)
    }
  }

  struct Variant: Decodable {
    let replacements: [[String]]
    let ids: String
    let decoded: String
    let sweep: String
  }

  let size: Int
  let ids: String
  let decoded: String
  let full: [Row]
  let lists: [Expected.Decoded]
  let extra: [Row]
  let pairs: String
  let sweep: String
  let variants: [String: Variant]
  let charsmap: [Int]?

  static func read(_ name: String) throws -> CompactExpected {
    let data = try Data(contentsOf: Fixtures.folder.appending(path: "compact-\(name).json"))
    return try JSONDecoder().decode(CompactExpected.self, from: data)
  }

  /// Compares everything with a tokenizer.
  func compare(_ tokenizer: Tokenizer, _ name: String) throws {
    #expect(tokenizer.vocabularySize == size)
    let texts = Fixtures.texts
    try #require(texts.count >= 2000)
    #expect(!full.isEmpty && !extra.isEmpty)
    for (text, row) in zip(texts, full) { compare(tokenizer, text, row, name) }
    for row in extra { compare(tokenizer, try #require(row.text), row, name) }
    try compare(tokenizer, texts, ids: ids, decoded: decoded, name)
    try compareSweep(tokenizer, Fixtures.sweep, sweep, name)
    for list in lists {
      let kept = tokenizer.decode(list.ids, skipSpecialTokens: false)
      #expect(isSame(kept, list.kept), "\(name): \(list.ids) gave \(escaped(kept)), not \(escaped(list.kept))")
      let skipped = tokenizer.decode(list.ids)
      #expect(isSame(skipped, list.skipped), "\(name): \(list.ids) gave \(escaped(skipped))")
    }
    try #require(parts(pairs).count == 50)
    for (index, expected) in zip(stride(from: 0, to: 200, by: 4), parts(pairs)) {
      let found = tokenizer.encode(texts[index], pair: texts[index + 1])
      #expect(hash(found) == expected, "\(name): pair \(index) gave \(found.prefix(40))")
    }
  }

  /// Compares what a variant has been tried with.
  func compare(_ tokenizer: Tokenizer, variant: Variant, _ name: String) throws {
    let texts = Fixtures.sampled + extra.compactMap(\.text)
    try compare(tokenizer, texts, ids: variant.ids, decoded: variant.decoded, name)
    try compareSweep(tokenizer, Fixtures.sampledSweep, variant.sweep, name)
  }

  private func compare(_ tokenizer: Tokenizer, _ text: String, _ row: Row, _ name: String) {
    let plain = tokenizer.encode(text, addSpecialTokens: false)
    let special = tokenizer.encode(text)
    #expect(plain == row.plain, "\(name): \(escaped(text))")
    #expect(special == row.special, "\(name): \(escaped(text))")
    let kept = tokenizer.decode(row.special, skipSpecialTokens: false)
    #expect(isSame(kept, row.kept), "\(name): \(escaped(text)) gave \(escaped(kept)), not \(escaped(row.kept))")
    let skipped = tokenizer.decode(row.special)
    #expect(isSame(skipped, row.skipped), "\(name): \(escaped(text)) gave \(escaped(skipped))")
  }

  private func compare(
    _ tokenizer: Tokenizer, _ texts: [String], ids: String, decoded: String, _ name: String
  ) throws {
    try #require(parts(ids).count == texts.count && parts(decoded).count == texts.count)
    for (text, expected) in zip(texts, zip(parts(ids), parts(decoded))) {
      let plain = tokenizer.encode(text, addSpecialTokens: false)
      let special = tokenizer.encode(text)
      let lists = [plain, special].map { $0.map(String.init).joined(separator: ",") }
      #expect(hash(lists.joined(separator: "\n")) == expected.0, "\(name): \(escaped(text)) gave \(plain.prefix(40))")
      let kept = tokenizer.decode(special, skipSpecialTokens: false)
      let both = kept + "\n" + tokenizer.decode(special)
      #expect(hash(both) == expected.1, "\(name): \(escaped(text)) gave \(escaped(kept))")
    }
  }

  private func compareSweep(_ tokenizer: Tokenizer, _ texts: [String], _ hashes: String, _ name: String) throws {
    try #require(parts(hashes).count == texts.count)
    for (text, expected) in zip(texts, parts(hashes)) {
      #expect(hash(tokenizer.encode(text)) == expected, "\(name): sweep \(escaped(text))")
    }
  }
}
