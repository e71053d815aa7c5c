import Foundation
import Pipelines
import TestSupport
import Testing
import Tokenizers
import Torch

@Suite("Texts for a Q-Former")
struct TextEncoderTests {
  private func encoder(_ length: Int) throws -> TextEncoder {
    TextEncoder(
      try Tokenizer(contentsOf: fixtures.appendingPathComponent("tokenizers/word-piece")), maximumLength: length)
  }

  // Of the tokenizer's file: [CLS] 2, [SEP] 3, a 33, red 885, dog 780.
  @Test("A text that is too long keeps its [SEP]")
  func cut() throws {
    #expect(try encoder(32).ids("a red dog") == [2, 33, 885, 780, 3])
    #expect(try encoder(5).ids("a red dog") == [2, 33, 885, 780, 3])
    #expect(try encoder(4).ids("a red dog") == [2, 33, 885, 3])
    #expect(try encoder(2).ids("a red dog") == [2, 3])
    // Nothing shorter than both tokens makes sense.
    #expect(try encoder(0).ids("a red dog") == [2, 3])
    #expect(try encoder(32).text([2, 33, 885, 780, 3]) == "a red dog")
  }

  @Test("A batch is padded at the end and masked")
  func batch() throws {
    let batch = try encoder(32).batch(["a red dog", "", "dog"])
    #expect(batch.ids.shape == [3, 5])
    #expect(batch.ids.values(as: Int.self) == [2, 33, 885, 780, 3, 2, 3, 0, 0, 0, 2, 780, 3, 0, 0])
    #expect(batch.mask.values(as: Int.self) == [1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 1, 1, 1, 0, 0])
    #expect(TextEncoder.pad([]).ids.shape == [0, 0])
  }
}
