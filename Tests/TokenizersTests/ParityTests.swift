import Foundation
import Testing
import Tokenizers

/// Ids and texts compared with those of the Python library, text by text.
@Suite struct ParityTests {
  @Test(arguments: ["byte-bpe", "word-piece", "char-bpe"])
  func smallTokenizers(name: String) throws {
    try compare(Fixtures.small(name), Fixtures.expected(name))
  }

  @Test(arguments: ["minilm-l6", "smollm2-135m-instruct"])
  func fetchedTokenizers(name: String) throws {
    guard let folder = Fixtures.fetched(name) else { return }
    try compare(Tokenizer(contentsOf: folder), Fixtures.expected(name))
  }

  /// Other normalizers, pre-tokenizers, post-processors, decoders and model options around the small models.
  @Test(arguments: ["byte-bpe", "word-piece", "char-bpe"])
  func variants(name: String) throws {
    let expected = try Fixtures.expected(name)
    #expect(!expected.variants.isEmpty)
    for (variantName, variant) in expected.variants.sorted(by: { $0.key < $1.key }) {
      let tokenizer = try Fixtures.small(name, replacing: variant.replacements)
      let hashes = parts(variant.texts)
      try #require(hashes.count == Fixtures.sampled.count)
      for (text, expected) in zip(Fixtures.sampled, hashes) {
        let ids = tokenizer.encode(text)
        let decoded = tokenizer.decode(ids, skipSpecialTokens: false)
        let found = hash(ids.map(String.init).joined(separator: ",") + "\n" + decoded)
        #expect(found == expected, "\(variantName): \(escaped(text)) gave \(ids.prefix(40)) \(escaped(decoded))")
      }
      try #require(variant.sweep.isEmpty || parts(variant.sweep).count == Fixtures.sampledSweep.count)
      for (text, expected) in zip(Fixtures.sampledSweep, parts(variant.sweep)) {
        #expect(hash(tokenizer.encode(text)) == expected, "\(variantName): sweep \(escaped(text))")
      }
      for (index, expected) in zip(stride(from: 0, to: 200, by: 4), parts(variant.pairs)) {
        let ids = tokenizer.encode(Fixtures.texts[index], pair: Fixtures.texts[index + 1])
        #expect(hash(ids) == expected, "\(variantName): pair \(index) gave \(ids.prefix(40))")
      }
    }
  }

  private func compare(_ tokenizer: Tokenizer, _ expected: Expected) throws {
    #expect(tokenizer.vocabularySize == expected.size)
    let texts = Fixtures.texts
    try #require(texts.count >= 2000)

    for (text, full) in zip(texts, expected.full) {
      let plain = tokenizer.encode(text, addSpecialTokens: false)
      let special = tokenizer.encode(text)
      #expect(plain == full.plain, "\(escaped(text))")
      #expect(special == full.special, "\(escaped(text))")
      #expect(isSame(tokenizer.decode(special, skipSpecialTokens: false), full.kept), "\(escaped(text))")
      #expect(isSame(tokenizer.decode(special), full.skipped), "\(escaped(text))")
    }

    let hashes = expected.hashes
    let rows = zip(zip(parts(hashes.plain), parts(hashes.special)), zip(parts(hashes.kept), parts(hashes.skipped)))
    try #require(parts(hashes.skipped).count == texts.count)
    for (text, row) in zip(texts, rows) {
      let special = tokenizer.encode(text)
      #expect(hash(tokenizer.encode(text, addSpecialTokens: false)) == row.0.0, "\(escaped(text))")
      #expect(hash(special) == row.0.1, "\(escaped(text)) gave \(special.prefix(40))")
      let kept = tokenizer.decode(special, skipSpecialTokens: false)
      #expect(hash(kept) == row.1.0, "\(escaped(text)) gave \(escaped(kept))")
      #expect(hash(tokenizer.decode(special)) == row.1.1, "\(escaped(text))")
    }

    for decoded in expected.decoded {
      #expect(isSame(tokenizer.decode(decoded.ids, skipSpecialTokens: false), decoded.kept), "\(decoded.ids)")
      #expect(isSame(tokenizer.decode(decoded.ids), decoded.skipped), "\(decoded.ids)")
    }
    for pair in expected.pairs {
      let (first, second) = (texts[pair.first], texts[pair.second])
      #expect(hash(tokenizer.encode(first, pair: second)) == pair.special, "\(escaped(first))")
      #expect(hash(tokenizer.encode(first, pair: second, addSpecialTokens: false)) == pair.plain)
    }
    try #require(parts(expected.sweep).count == Fixtures.sweep.count)
    for (text, expected) in zip(Fixtures.sweep, parts(expected.sweep)) {
      #expect(hash(tokenizer.encode(text)) == expected, "sweep \(escaped(text))")
    }
  }
}
