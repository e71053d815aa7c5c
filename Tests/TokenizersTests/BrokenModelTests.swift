import Foundation
import Testing
import Tokenizers

/// SentencePiece models and rules that are not what they should be: every one gives an error that names the place.
@Suite struct BrokenModelTests {
  private func failure(_ change: (inout ModelFileBuilder) -> Void) throws -> TokenizerError {
    var builder = ModelFileBuilder()
    change(&builder)
    return try #require(throws: TokenizerError.self) { try builder.tokenizer() }
  }

  @Test func soundModels() throws {
    let unigram = try ModelFileBuilder().tokenizer()
    #expect(unigram.encode("ab b") == [1, 7, 4, 6, 4])
    #expect(unigram.encode("xyab</s>") == [1, 6, 0, 5, 2])
    #expect(unigram.decode([1, 7, 4, 6, 4, 0]) == "ab b")
    #expect(unigram.decode([7, 0, 4], skipSpecialTokens: false) == "a \u{2047} b")
    #expect(unigram.vocabularySize == 8)
    var builder = ModelFileBuilder()
    builder.modelKind = 2
    let bpe = try builder.tokenizer()
    #expect(bpe.encode("ab b", addSpecialTokens: false) == [6, 5, 6, 4])
    #expect(bpe.encode("xyab", addSpecialTokens: false) == [6, 0, 5])
    builder.charsmap = CharsmapBuilder().bytes
    #expect(try builder.tokenizer().encode("x", addSpecialTokens: false) == [6, 0])
    builder.charsmap = CharsmapBuilder([(0x78, 0)], replacements: "ab\0").bytes
    #expect(try builder.tokenizer().encode("xb", addSpecialTokens: false) == [6, 5, 4])
  }

  /// Characters that are no pieces take part in merges if pieces have them; of equal scores, the left pair goes first.
  @Test func mergesOfUnknownCharacters() throws {
    var builder = ModelFileBuilder()
    builder.modelKind = 2
    builder.pieces += [.init("xy", -5), .init("xyx", -6), .init("yx", -5)]
    let tokenizer = try builder.tokenizer()
    #expect(tokenizer.encode("xyxyx", addSpecialTokens: false) == [6, 8, 9])
    #expect(tokenizer.encode("yxy", addSpecialTokens: false) == [6, 10, 0])
    #expect(tokenizer.encode("xzy", addSpecialTokens: false) == [6, 0])
    #expect(tokenizer.encode("axbxyz", addSpecialTokens: false) == [7, 0, 4, 8, 0])
  }

  /// An unknown character costs ten more than the worst piece: "c" and "ab" lose against "ca" and "b" only by that.
  @Test func unknownCharacters() throws {
    var builder = ModelFileBuilder()
    builder.pieces += [.init("ca", -15), .init("d", -8)]
    builder.pieces[5].score = -1
    builder.pieces[4].score = -8
    #expect(try builder.tokenizer().encode("acab", addSpecialTokens: false) == [7, 8, 4])
    let text = """
      {"model":{"type":"Unigram","unk_id":0,"vocab":[["?",0],["a",-1],["b",-8],["ab",-1],["ca",-15]]}}
      """
    #expect(try Fixtures.tokenizer(from: Data(text.utf8)).encode("acab") == [1, 4, 2])
  }

  @Test func brokenPieces() throws {
    let cases: [(ModelFileBuilder.Piece, String, String)] = [
      (.init("a", -9), "pieces[8].piece", "another text than that of pieces[3]"),
      (.init("", -9), "pieces[8].piece", "without a zero"),
      (.init("c\0", -9), "pieces[8].piece", "without a zero"),
      (.init(String(repeating: "c", count: 8000), -9), "pieces[8].piece", "1 to 7999 bytes"),
      (.init("c", .nan), "pieces[8].score", "a finite number"),
      (.init("c", -.infinity), "pieces[8].score", "a finite number"),
      (.init("c", -9, kind: 7), "pieces[8].type", "a type from 1 to 6"),
      (.init("c", -9, kind: 0), "pieces[8].type", "a type from 1 to 6"),
      (.init("c", -9, kind: 2), "pieces[8].type", "pieces[0]"),
      (.init("<0x41>", -9, kind: 6), "pieces[8].type", "without byte_fallback"),
    ]
    for (piece, path, expected) in cases {
      let error = try failure { $0.pieces.append(piece) }
      #expect(error.keyPath == path)
      #expect(error.expected.contains(expected), "\(error)")
      #expect(error.file.hasSuffix("tokenizer.model"))
    }
    let bytes = try failure {
      $0.byteFallback = true
      $0.pieces.append(.init("c", -9, kind: 6))
    }
    #expect(bytes.expected == "a byte, <0x00> to <0xFF>")
    let missing = try failure { $0.byteFallback = true }
    #expect(missing.expected.contains("256 byte pieces") && missing.found == "0")
    #expect(try failure { $0.pieces = [] }.keyPath == "pieces")
    #expect(try failure { $0.pieces.removeFirst() }.expected == "a piece for the unknown")
    #expect(try failure { $0.pieces[3].text = [0x61, 0xFF] }.expected == "UTF-8 text")
    #expect(try failure { $0.modelKind = 3 }.keyPath == "trainer_spec.model_type")
    let unused = try failure {
      $0.modelKind = 2
      $0.pieces.append(.init("c", -9, kind: 5))
    }
    #expect(unused.expected == "no unused pieces in a BPE model")
  }

  /// Fields with another type than theirs, lengths beyond the file, endless numbers, groups.
  @Test func brokenMessages() throws {
    let cases: [(rest: [UInt8], path: String, expected: String)] = [
      ([0x08, 0x01], "pieces[8]", "bytes with their length"),
      ([0x12, 0x02, 0x1A, 0x00], "trainer_spec.model_type", "a variable-length integer"),
      ([0x12, 0x03, 0x98, 0x02, 0x00], "", ""),  // byte_fallback, sound
      ([0x1A, 0x02, 0x10, 0x01], "normalizer_spec.precompiled_charsmap", "bytes with their length"),
      ([0x0A, 0x04, 0x0A, 0x01, 0x63, 0x10], "", "an integer of at most 64 bits"),
      ([0x0A, 0x05, 0x0A, 0x01, 0x63, 0x10, 0x01], "pieces[8].score", "a 32-bit float"),
      ([0x0A, 0x7F], "", "a length of at most the 0 bytes that are left"),
      ([0x0A, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x01], "", "a length of at most"),
      ([0x38] + [UInt8](repeating: 0xFF, count: 11), "", "an integer of at most 64 bits"),
      ([0x00, 0x01], "", "a field number from 1"),
      ([0x3B], "", "a wire type of 0, 1, 2 or 5"),
      ([0x3D, 0x01], "", "4 bytes"),
      ([0x39, 0x01], "", "8 bytes"),
      ([0x2A, 0x03, 0x12, 0x01, 0x61], "denormalizer_spec.precompiled_charsmap", "no rules"),
    ]
    for (rest, path, expected) in cases where !expected.isEmpty {
      let error = try failure { $0.rest = rest }
      #expect(error.keyPath == path, "\(error)")
      #expect(error.expected.contains(expected), "\(error)")
    }
    var builder = ModelFileBuilder()
    builder.rest = cases[2].rest
    #expect(try builder.tokenizer().encode("a") == [1, 7])
  }

  /// A model cut anywhere is refused or, where a field ends, read as the smaller model it then is.
  @Test func truncatedModel() throws {
    let bytes = ModelFileBuilder().bytes
    var refused = 0
    for count in 0..<bytes.count {
      do {
        _ = try ModelFileBuilder.tokenizer(from: Array(bytes[..<count])).encode("ab </s>x")
      } catch is TokenizerError {
        refused += 1
      }
    }
    #expect(refused > bytes.count * 3 / 4)
    #expect(throws: TokenizerError.self) { try ModelFileBuilder.tokenizer(from: []) }
  }

  // MARK: Rules

  private func rulesFailure(_ change: (inout CharsmapBuilder) -> Void) throws -> TokenizerError {
    var charsmap = CharsmapBuilder()
    change(&charsmap)
    let error = try failure { $0.charsmap = charsmap.bytes }
    #expect(error.keyPath == "normalizer_spec.precompiled_charsmap")
    return error
  }

  @Test func brokenRules() throws {
    // "x" leads to its own siblings.
    #expect(try rulesFailure { $0.units[256 + 0x78] = UInt32(0x78) << 10 | 0x78 }.expected.contains("cycles"))
    let value = try rulesFailure { $0.units[768 + 0x78] = 1 << 31 | 3 }
    #expect(value.expected == "the start of a text below 3 as value" && value.found == "3")
    #expect(try rulesFailure { $0.units[768 + 0x78] = 0 }.expected.contains("a value at unit"))
    #expect(try rulesFailure { $0.units[256 + 0x78] = 0x1FFFFF << 10 | 1 << 8 | 0x78 }.expected.contains("a value"))
    #expect(try rulesFailure { $0.units[0] = 0x3FFFFF << 10 }.expected == "children of the root")
    #expect(try rulesFailure { $0.replacements = [0x79, 0xFF, 0] }.expected == "replacements in UTF-8")
    #expect(try rulesFailure { $0.replacements = Array("yz".utf8) }.expected.contains("end with a zero"))
    let long = String(repeating: "y", count: 1025) + "\0"
    #expect(try rulesFailure { $0.replacements = Array(long.utf8) }.expected.contains("at most 1024 bytes"))
    let middle = try rulesFailure {
      $0.replacements = Array("é\0".utf8)
      $0.units[768 + 0x78] = 1 << 31 | 1
    }
    #expect(middle.expected.contains("the start of a text"))

    let sound = CharsmapBuilder().bytes
    for size: [UInt8] in [[0, 0, 0, 0], [1, 0x10, 0, 0], [4, 0x10, 0, 0], [0xFF, 0xFF, 0xFF, 0xFF]] {
      let error = try failure { $0.charsmap = size + sound[4...] }
      #expect(error.expected.contains("a multiple of 4"), "\(error)")
    }
    #expect(try failure { $0.charsmap = [4, 0, 0] }.expected == "at least 8 bytes")
  }

  /// A chain of 65 bytes: longer than any rule, and a cycle if it went on.
  @Test func deepRules() throws {
    func chain(_ length: Int) -> [UInt8] {
      var charsmap = CharsmapBuilder([])
      charsmap.units = [UInt32](repeating: 0, count: 256 * (length + 2))
      charsmap.units[0] = 256 << 10
      var node = 256 + 0x78
      for depth in 2...length + 1 {
        let base = 256 * depth
        let isLast = depth == length + 1
        charsmap.units[node] = UInt32(node ^ base) << 10 | (isLast ? 1 << 8 : 0) | 0x78
        node = isLast ? base : base + 0x78
      }
      charsmap.units[node] = 1 << 31
      return charsmap.bytes
    }
    var builder = ModelFileBuilder()
    builder.charsmap = chain(60)
    let tokenizer = try builder.tokenizer()
    #expect(tokenizer.encode(String(repeating: "x", count: 60), addSpecialTokens: false) == [6, 0])
    #expect(tokenizer.encode(String(repeating: "x", count: 59), addSpecialTokens: false) == [6, 0])
    let error = try failure { $0.charsmap = chain(66) }
    #expect(error.expected.contains("keys of at most 64 bytes"))
  }

  // MARK: tokenizer.json

  /// A unigram model with the parts of T5, of which the tests break one at a time.
  private static let sound = """
    {"version":"1.0","added_tokens":[],"normalizer":{"type":"Sequence","normalizers":[{"type":"Precompiled",\
    "precompiled_charsmap":"RULES"},{"type":"Strip","strip_left":false,"strip_right":true},{"type":"Replace",\
    "pattern":{"Regex":" {2,}"},"content":" "},{"type":"Prepend","prepend":"b"}]},"pre_tokenizer":{"type":"Metaspace",\
    "replacement":"_","add_prefix_space":true,"prepend_scheme":"always"},"decoder":{"type":"Sequence","decoders":[\
    {"type":"ByteFallback"},{"type":"Strip","content":"a","start":1,"stop":0}]},\
    "model":{"type":"Unigram","unk_id":0,"byte_fallback":false,"vocab":[["?",0],["_",-2],["a",-1.5],["b",-1],["_a",-3]]}}
    """.replacingOccurrences(of: "RULES", with: Data(CharsmapBuilder().bytes).base64EncodedString())

  @Test func soundUnigram() throws {
    let tokenizer = try Fixtures.tokenizer(from: Data(Self.sound.utf8))
    #expect(tokenizer.encode("a  a") == [1, 3, 2, 4])
    #expect(tokenizer.encode("qqa") == [1, 3, 0, 2])
    #expect(tokenizer.encode("") == [])
    #expect(tokenizer.vocabularySize == 5)
  }

  @Test(arguments: [
    ("\"unk_id\":0", "\"unk_id\":5", "model.unk_id", "an id below the 5", "5"),
    ("\"unk_id\":0", "\"unk_id\":null", "model.unk_id", "a value", "nothing"),
    ("\"unk_id\":0", "\"unk_id\":-1", "model.unk_id", "a whole number", "-1"),
    ("[\"a\",-1.5]", "[\"a\",1e999]", "", "a finite number", "],["),
    ("[\"a\",-1.5]", "[\"a\",null]", "model.vocab[2][1]", "a finite number", "null"),
    ("[\"a\",-1.5]", "[\"a\"]", "model.vocab[2]", "[piece, score]", "an array of 1"),
    ("[\"a\",-1.5]", "[2,-1.5]", "model.vocab[2][0]", "a string", "2"),
    ("[\"a\",-1.5]", "[\"b\",-1.5]", "model.vocab[3]", "another piece than that of [2]", "\"b\""),
    ("[\"a\",-1.5]", "\"a\"", "model.vocab[2]", "an array", "\"a\""),
    ("\"replacement\":\"_\"", "\"replacement\":\"__\"", "pre_tokenizer.replacement", "one character", "\"__\""),
    ("\"always\"", "\"last\"", "pre_tokenizer.prepend_scheme", "one of first, never, always", "\"last\""),
    (
      "\"add_prefix_space\":true", "\"add_prefix_space\":false", "pre_tokenizer.prepend_scheme", "\"never\"",
      "\"always\""
    ),
    ("\" {2,}\"", "\" +\"", "normalizer.normalizers[2].pattern.Regex", "\" {2,}\"", "\" +\""),
    ("\"content\":\"a\"", "\"content\":\"\"", "decoder.decoders[1].content", "one character", "\"\""),
    ("\"start\":1", "\"start\":-1", "decoder.decoders[1].start", "a whole number", "-1"),
    ("\"strip_left\":false", "\"strip_left\":0", "normalizer.normalizers[1].strip_left", "true or false", "0"),
    (
      "\"precompiled_charsmap\":\"AB", "\"precompiled_charsmap\":\"*", "normalizer.normalizers[0].precompiled_charsmap",
      "Base64", "*"
    ),
    (
      "\"precompiled_charsmap\":\"AB", "\"precompiled_charsmap\":\"//",
      "normalizer.normalizers[0].precompiled_charsmap", "a multiple of 4", "bytes"
    ),
  ])
  func brokenPart(pattern: String, replacement: String, path: String, expected: String, found: String) throws {
    let range = try #require(Self.sound.range(of: pattern))
    let text = Self.sound.replacingCharacters(in: range, with: replacement)
    let error = try #require(throws: TokenizerError.self) { try Fixtures.tokenizer(from: Data(text.utf8)) }
    #expect(error.keyPath == path)
    #expect(error.expected.contains(expected), "\(error)")
    #expect(error.found.contains(found), "\(error)")
  }

  // MARK: Anything

  /// Files with bytes changed, cut out, doubled and moved: whatever they say, reading and using them ends well.
  @Test func mutatedFiles() throws {
    var charsmap = CharsmapBuilder([(0x78, 0), (0xC3, 3), (0x20, 6), (0xE3, 0)], replacements: "yz\0ab\0 \0")
    charsmap.replacements += Array("é\0".utf8)
    var state: UInt64 = 7
    func random(_ limit: Int) -> Int {
      state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
      return Int(state >> 33) % max(limit, 1)
    }
    let texts = ["ab xé", "</s><s> \u{2581}a  b\u{3000}", "\u{1F600}<unk>abab", ""]
    func mutated(_ bytes: [UInt8], within range: Range<Int>) -> [UInt8] {
      var bytes = bytes
      for _ in 0...random(3) {
        let at = range.lowerBound + random(range.count)
        guard at < bytes.count else { continue }
        switch random(6) {
        case 0: bytes[at] = UInt8(random(256))
        case 1: bytes[at] ^= 1 << UInt8(random(8))
        case 2: bytes.removeSubrange(at..<min(bytes.count, at + 1 + random(8)))
        case 3: bytes.insert(contentsOf: bytes[at..<min(bytes.count, at + 1 + random(8))], at: at)
        case 4: bytes[at] = 0xFF
        default: bytes[at] = 0
        }
      }
      return bytes
    }
    var read = 0
    var refused = 0
    func use(_ open: () throws -> Tokenizer) throws {
      do {
        let tokenizer = try open()
        for text in texts {
          let ids = tokenizer.encode(text)
          #expect(ids.allSatisfy { $0 >= 0 })
          _ = tokenizer.decode(ids, skipSpecialTokens: false)
        }
        _ = tokenizer.decode(Array(0..<40))
        read += 1
      } catch is TokenizerError {
        refused += 1
      }
    }
    for kind: UInt64 in [1, 2] {
      var builder = ModelFileBuilder()
      builder.modelKind = kind
      builder.pieces.append(.init("xé", -4, kind: 4))
      let plain = builder.bytes
      for _ in 0..<250 { try use { try ModelFileBuilder.tokenizer(from: mutated(plain, within: 0..<plain.count)) } }
      builder.charsmap = charsmap.bytes
      let ruled = builder.bytes
      // The units of the trie that are in use, and what follows them.
      let start = ruled.count - charsmap.bytes.count
      for _ in 0..<150 { try use { try ModelFileBuilder.tokenizer(from: mutated(ruled, within: start..<start + 8)) } }
      for unit in [256 + 0x78, 256 + 0xC3, 768 + 0x78, 1024] {
        let place = start + 4 + 4 * unit
        for _ in 0..<50 { try use { try ModelFileBuilder.tokenizer(from: mutated(ruled, within: place..<place + 4)) } }
      }
    }
    let json = Array(Self.sound.utf8)
    for _ in 0..<250 { try use { try Fixtures.tokenizer(from: Data(mutated(json, within: 0..<json.count))) } }
    let (words, merges) = ("[UNK]\n[CLS]\n[SEP]\na\n##b\n", "#version: 0.2\na b\nab a\n")
    let vocabulary = "{\"a\":0,\"b\":1,\"ab\":2,\"aba\":3}"
    for _ in 0..<60 {
      for (name, text) in [("vocab.txt", words), ("merges.txt", merges), ("vocab.json", vocabulary)] {
        let folder = try Fixtures.folder(copying: [], with: ["merges.txt": merges, "vocab.json": vocabulary])
        defer { try? FileManager.default.removeItem(at: folder) }
        let file = folder.appending(path: name)
        try Data(mutated(Array(text.utf8), within: 0..<text.utf8.count)).write(to: file)
        try use { try Tokenizer(contentsOf: file) }
      }
    }
    // Both happen, or the mutations would prove nothing.
    #expect(read > 100 && refused > 100, "\(read) read, \(refused) refused")
  }
}
