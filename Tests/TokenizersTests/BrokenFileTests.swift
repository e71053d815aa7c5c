import Foundation
import Testing
import Tokenizers

/// Files that are not what they should be: every one gives an error that names the place.
@Suite struct BrokenFileTests {
  /// A tokenizer of seven tokens; the tests break one part of it.
  private static let sound = """
    {"version":"1.0","added_tokens":[{"id":6,"content":"<s>","single_word":false,"lstrip":false,"rstrip":false,\
    "normalized":false,"special":true}],"normalizer":{"type":"NFC"},"pre_tokenizer":{"type":"Digits",\
    "individual_digits":true},"post_processor":{"type":"BertProcessing","sep":["<s>",6],"cls":["a",0]},\
    "decoder":{"type":"Fuse"},"model":{"type":"BPE","unk_token":"?","vocab":{"a":0,"b":1,"c":2,"ab":3,"abc":4,"?":5},\
    "merges":["a b",["ab","c"]]}}
    """

  private func read(_ text: String) throws -> Tokenizer {
    try Fixtures.tokenizer(from: Data(text.utf8))
  }

  @Test func soundFile() throws {
    let tokenizer = try read(Self.sound)
    #expect(tokenizer.encode("abcxabb<s>a1") == [0, 4, 5, 3, 1, 6, 0, 5, 6])
    #expect(tokenizer.vocabularySize == 7)
  }

  @Test(arguments: [
    // (text to replace, replacement, key path, a part of what was expected, a part of what was found)
    ("\"BPE\"", "\"Bigram\"", "model.type", "one of WordPiece, BPE", "\"Bigram\""),
    ("\"BPE\"", "7", "model.type", "a string", "7"),
    ("\"NFC\"", "\"NFX\"", "normalizer.type", "one of BertNormalizer, Lowercase, NFC", "\"NFX\""),
    ("\"Digits\"", "\"Words\"", "pre_tokenizer.type", "one of BertPreTokenizer, ByteLevel, Digits", "\"Words\""),
    ("\"BertProcessing\"", "\"Bart\"", "post_processor.type", "one of ByteLevel, TemplateProcessing", "\"Bart\""),
    ("\"Fuse\"", "\"Fuze\"", "decoder.type", "one of ByteLevel, WordPiece", "\"Fuze\""),
    ("\"a b\"", "\"a z\"", "model.merges[0]", "a token of the vocabulary", "\"z\""),
    ("\"a b\"", "\"b a\"", "model.merges[0]", "a token of the vocabulary", "\"ba\""),
    ("\"a b\"", "\"a  b\"", "model.merges[0]", "two tokens", "\"a  b\""),
    ("\"a b\"", "null", "model.merges[0]", "two tokens", "null"),
    ("[\"ab\",\"c\"]", "[\"ab\",\"c\",\"c\"]", "model.merges[1]", "two tokens", "an array of 3"),
    ("[\"ab\",\"c\"]", "[\"ab\",3]", "model.merges[1]", "two tokens", "an array of 2"),
    ("[\"a b\",[\"ab\",\"c\"]]", "{}", "model.merges", "an array", "an object"),
    (",\"merges\":[\"a b\",[\"ab\",\"c\"]]", "", "model.merges", "a value", "nothing"),
    ("\"b\":1", "\"b\":-1", "model.vocab.\"b\"", "an id from 0", "-1"),
    ("\"b\":1", "\"b\":1.5", "model.vocab.\"b\"", "an id from 0", "1.5"),
    ("\"b\":1", "\"b\":99999999999999999999", "model.vocab.\"b\"", "an id from 0", "1e+20"),
    ("\"b\":1", "\"b\":\"1\"", "model.vocab.\"b\"", "an id from 0", "\"1\""),
    ("\"unk_token\":\"?\"", "\"unk_token\":\"!\"", "model.unk_token", "a token of the vocabulary", "\"!\""),
    ("\"unk_token\"", "\"dropout\":0.1,\"unk_token\"", "model.dropout", "no dropout", "0.1"),
    ("\"individual_digits\":true", "\"individual_digits\":1", "pre_tokenizer.individual_digits", "true or false", "1"),
    ("\"individual_digits\":true", "\"x\":1", "pre_tokenizer.individual_digits", "a value", "nothing"),
    ("[\"<s>\",6]", "[\"<s>\"]", "post_processor.sep", "[token, id]", "an array of 1"),
    ("[\"<s>\",6]", "[\"<s>\",-6]", "post_processor.sep[1]", "a whole number", "-6"),
    ("\"id\":6", "\"id\":9", "added_tokens[0].id", "the id 6", "9"),
    ("\"single_word\":false", "\"single_word\":null", "added_tokens[0].single_word", "a value", "nothing"),
    ("\"1.0\"", "\"2.0\"", "version", "\"1.0\"", "\"2.0\""),
    ("{\"version\"", "[{\"version\"", "", "',' or ']' at byte", "the end of the file"),
    ("\"NFC\"", "\"N\\qC\"", "", "one of the escapes", "\"qC"),
    ("\"NFC\"", "\"\\ud800\"", "", "a low surrogate", "pre_toke"),
    ("\"NFC\"", "\"\\udc00\"", "", "a high surrogate", "pre_toke"),
    ("\"NFC\"", "NFC", "", "a JSON value", "\"NFC}"),
    ("\"b\":1", "\"b\":01", "", "a number without leading zeros", "01"),
    (
      "{\"type\":\"NFC\"}", "{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"x+\"},\"content\":\"\"}",
      "normalizer.pattern.Regex",
      "\" {2,}\"", "\"x+\""
    ),
    (
      "{\"type\":\"Digits\"",
      "{\"type\":\"Split\",\"behavior\":\"Isolated\",\"invert\":false,\"pattern\":{\"Regex\":\"x+\"}",
      "pre_tokenizer.pattern.Regex", "one of 's|'t|'re", "\"x+\""
    ),
    (
      "{\"type\":\"Digits\"",
      "{\"type\":\"Split\",\"behavior\":\"Apart\",\"invert\":false,\"pattern\":{\"String\":\"x\"}",
      "pre_tokenizer.behavior", "one of Removed, Isolated", "\"Apart\""
    ),
    (
      "\"type\":\"BertProcessing\"",
      "\"type\":\"TemplateProcessing\",\"special_tokens\":{},\"pair\":[],\"single\":[{\"SpecialToken\":{\"id\":\"X\"}}]",
      "post_processor.single[0].SpecialToken.id", "a key of special_tokens", "\"X\""
    ),
    (
      "\"type\":\"BertProcessing\"",
      "\"type\":\"TemplateProcessing\",\"special_tokens\":{},\"pair\":[],\"single\":[{\"Sequence\":{\"id\":\"B\"}}]",
      "post_processor.single[0].Sequence.id", "\"A\"", "\"B\""
    ),
  ])
  func brokenPart(pattern: String, replacement: String, path: String, expected: String, found: String) throws {
    try #require(Self.sound.contains(pattern))
    let range = try #require(Self.sound.range(of: pattern))
    let error = try #require(throws: TokenizerError.self) {
      try read(Self.sound.replacingCharacters(in: range, with: replacement))
    }
    #expect(error.keyPath == path)
    #expect(error.expected.contains(expected), "\(error)")
    #expect(error.found.contains(found), "\(error)")
    #expect(error.file.hasSuffix(".json"))
    #expect(error.description.contains(error.file) && error.description.contains(error.found))
  }

  /// A file cut anywhere is refused, and nothing is read beyond its end.
  @Test func truncatedFile() throws {
    let bytes = Array(Self.sound.utf8)
    for count in 0..<bytes.count {
      let error = #expect(throws: TokenizerError.self) { try Fixtures.tokenizer(from: Data(bytes[..<count])) }
      #expect(error?.keyPath == "")
    }
  }

  @Test func wordPieceWithoutItsUnknownToken() throws {
    let text = """
      {"model":{"type":"WordPiece","unk_token":"[UNK]","continuing_subword_prefix":"##",\
      "max_input_chars_per_word":100,"vocab":{"a":0}}}
      """
    let error = try #require(throws: TokenizerError.self) { try read(text) }
    #expect(error.keyPath == "model.unk_token")
  }

  @Test(arguments: ["", " ", "\u{0}", "nul", "{", "[]", "3", "\"text\"", "{}", "{\"model\":[]}", "{\"model\":{}}"])
  func somethingElse(text: String) {
    #expect(throws: TokenizerError.self) { try read(text) }
  }

  @Test func notUTF8() throws {
    let bytes = Array(Self.sound.utf8).map { $0 == UInt8(ascii: "?") ? 0xFF : $0 }
    let error = try #require(throws: TokenizerError.self) { try Fixtures.tokenizer(from: Data(bytes)) }
    #expect(error.expected == "UTF-8 text")
  }

  @Test func deepNesting() throws {
    let text = String(repeating: "[", count: 1 << 20)
    let error = try #require(throws: TokenizerError.self) { try read(text) }
    #expect(error.expected.contains("levels of nesting"))
  }

  @Test func missingFile() throws {
    let file = URL(filePath: "/nowhere/tokenizer.json")
    let error = try #require(throws: TokenizerError.self) { try Tokenizer(contentsOf: file) }
    #expect(error.file == "/nowhere/tokenizer.json")
    #expect(error.expected == "a readable file")
  }
}
