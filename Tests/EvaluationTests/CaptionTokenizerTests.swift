import Evaluation
import Testing

private struct TokenizedCaption: Decodable {
  let caption: String
  let words: [String]
}

@Suite("Caption words agree with the COCO evaluation")
struct CaptionTokenizerTests {
  @Test("Every caption of the fixture")
  func fixture() throws {
    let captions = try evaluationFixture("tokens.json", as: [TokenizedCaption].self)
    #expect(captions.count > 1000)
    for caption in captions {
      #expect(CaptionTokenizer.words(caption.caption) == caption.words, "\(caption.caption)")
    }
  }

  @Test("What captions hold most")
  func usual() {
    #expect(
      CaptionTokenizer.words("The dog's toy isn't here, it can't be!") == [
        "the", "dog", "'s", "toy", "is", "n't", "here", "it", "ca", "n't", "be",
      ])
    #expect(CaptionTokenizer.tokens("A t-shirt (red) .") == ["a", "t-shirt", "-lrb-", "red", "-rrb-", "."])
    #expect(CaptionTokenizer.words("") == [])
    #expect(CaptionTokenizer.words(" . ,  ") == [])
    #expect(CaptionTokenizer.words("two\nlines\r\nhere") == ["two", "lines", "here"])
  }

  @Test("Long and hostile text is read in linear time and without a crash")
  func hostile() {
    for piece in ["a.", "'", "-", "a-", "1/", "<a", "&", "@", "a'a", "\u{301}", "🐶", "http://", "."] {
      let text = String(repeating: piece, count: 2000)
      #expect(CaptionTokenizer.tokens(text).joined().unicodeScalars.count <= 3 * text.unicodeScalars.count)
    }
  }
}
