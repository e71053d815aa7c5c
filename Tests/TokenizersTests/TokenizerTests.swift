import Foundation
import Testing
import Tokenizers

@Suite struct TokenizerTests {
  @Test func tokensAndIDs() throws {
    let tokenizer = try Fixtures.small("word-piece")
    let id = try #require(tokenizer.id(of: "[CLS]"))
    #expect(id == 2)
    #expect(tokenizer.token(of: id) == "[CLS]")
    #expect(tokenizer.id(of: "no such token") == nil)
    #expect(tokenizer.token(of: -1) == nil)
    #expect(tokenizer.token(of: tokenizer.vocabularySize) == nil)
  }

  @Test func folderOrFile() throws {
    let folder = Fixtures.folder.appending(path: "byte-bpe")
    let file = folder.appending(path: "tokenizer.json")
    #expect(try Tokenizer(contentsOf: folder).encode("two dogs") == Tokenizer(contentsOf: file).encode("two dogs"))
  }

  @Test func unknownIDsAreSkipped() throws {
    let tokenizer = try Fixtures.small("byte-bpe")
    let ids = tokenizer.encode("a red bus")
    let mixed = [-1, Int.min, .max, tokenizer.vocabularySize] + ids.flatMap { [$0, 1 << 40] }
    #expect(tokenizer.decode(mixed) == "a red bus")
    #expect(tokenizer.decode([]) == "")
  }

  @Test func addedSpecialToken() throws {
    var tokenizer = try Fixtures.small("word-piece")
    let size = tokenizer.vocabularySize
    let before = tokenizer.encode("a [DEC] dog")
    #expect(tokenizer.addSpecialToken("[DEC]") == size)
    #expect(tokenizer.addSpecialToken("[DEC]") == size)
    #expect(tokenizer.vocabularySize == size + 1)
    #expect(tokenizer.id(of: "[DEC]") == size)
    #expect(tokenizer.token(of: size) == "[DEC]")
    let after = tokenizer.encode("a [DEC] dog")
    #expect(after != before)
    #expect(after.contains(size))
    #expect(tokenizer.decode(after) == "a dog")
    #expect(tokenizer.decode(after, skipSpecialTokens: false) == "[CLS] a [DEC] dog [SEP]")
    #expect(tokenizer.addSpecialToken("[ENC]") == size + 1)
    #expect(tokenizer.addSpecialToken("[SEP]") == 3)
    #expect(tokenizer.vocabularySize == size + 2)
  }

  /// BLIP-2 gives BERT's vocabulary one more token, which must come right after it.
  @Test func decoderTokenOfBERT() throws {
    guard let folder = Fixtures.fetched("minilm-l6") else { return }
    var tokenizer = try Tokenizer(contentsOf: folder)
    #expect(tokenizer.addSpecialToken("[DEC]") == 30522)
    #expect(tokenizer.encode("[DEC]a cat") == [101, 30522, 1037, 4937, 102])
  }

  @Test func maximumLength() throws {
    let tokenizer = try Fixtures.small("word-piece")
    let text = "two women carry an umbrella"
    let all = tokenizer.encode(text)
    for length in 0...all.count + 2 {
      let cut = tokenizer.encode(text, maximumLength: length)
      let kept = max(0, min(length, all.count) - 2)
      #expect(cut == Array(all[0...kept]) + [all[all.count - 1]])
    }
    #expect(tokenizer.encode(text, addSpecialTokens: false, maximumLength: 3) == Array(all[1...3]))
  }

  /// Tokens that are canonically equivalent are different tokens; Swift's `String` would take them for one.
  @Test func canonicallyEquivalentTokens() throws {
    let text = """
      {"model":{"type":"BPE","vocab":{"\u{E9}":0,"e":1,"\u{301}":2,"e\u{301}":3},"merges":["e \u{301}"]}}
      """
    let tokenizer = try Fixtures.tokenizer(from: Data(text.utf8))
    #expect(tokenizer.vocabularySize == 4)
    #expect(tokenizer.encode("\u{E9}") == [0])
    #expect(tokenizer.encode("e\u{301}") == [3])
    #expect(tokenizer.id(of: "e\u{301}") == 3)
    #expect(tokenizer.token(of: 0)?.unicodeScalars.count == 1)
  }

  /// Processor time of this thread: other work on the machine does not count.
  private func threadSeconds() -> Double {
    var time = timespec()
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time)
    return Double(time.tv_sec) + Double(time.tv_nsec) * 1e-9
  }

  /// One word of a megabyte: merging pair by pair from the start each time would take hours.
  @Test(arguments: ["byte-bpe", "word-piece"])
  func longWord(name: String) throws {
    let tokenizer = try Fixtures.small(name)
    var state: UInt32 = 1
    let letters = (0..<1 << 20).map { _ in
      state = state &* 1_664_525 &+ 1_013_904_223
      return UInt8(97 + state >> 24 % 26)
    }
    for word in [String(repeating: "a", count: 1 << 20), String(decoding: letters, as: UTF8.self)] {
      let start = threadSeconds()
      let ids = tokenizer.encode(word, addSpecialTokens: false)
      let seconds = threadSeconds() - start
      #expect(!ids.isEmpty)
      #expect(seconds < 8, "took \(seconds) s")
      if name == "byte-bpe" { #expect(isSame(tokenizer.decode(ids), word)) }
    }
  }
}
