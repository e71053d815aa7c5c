import Foundation
import Testing
import Tokenizers

/// Time in proportion to the length of a text, whatever it holds.
@Suite(.serialized) struct SpeedTests {
  private static let long: [(name: String, text: String)] = {
    var state: UInt32 = 1
    let letters = (0..<100_000).map { _ -> UInt8 in
      state = state &* 1_664_525 &+ 1_013_904_223
      return UInt8(97 + state >> 24 % 26)
    }
    func times(_ text: String) -> String { String(repeating: text, count: 100_000 / text.unicodeScalars.count) }
    return [
      ("a", times("a")), ("letters", String(decoding: letters, as: UTF8.self)), ("spaces", times(" ")),
      ("visible spaces", times("\u{2581}")), ("marks", times("\u{301}")), ("unknown", times("\u{65E5}")),
      ("emoji", times("\u{1F468}\u{200D}")), ("words", times("a dog and ")), ("special", times("</s>")),
      ("lines", times("\r\n")), ("hangul", times("\u{1100}\u{1161}\u{301}")), ("conjuncts", times("\u{915}\u{94D}")),
    ]
  }()

  /// Processor time of this thread: other work on the machine does not count.
  private func seconds(_ body: () throws -> Void) rethrows -> Double {
    func now() -> Double {
      var time = timespec()
      clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time)
      return Double(time.tv_sec) + Double(time.tv_nsec) * 1e-9
    }
    let start = now()
    try body()
    return now() - start
  }

  /// 100,000 characters: milliseconds in a release build, seconds in a debug one; a quadratic way would take hours.
  @Test(arguments: ["t5", "llama", "unigram-bytes", "bpe-rules", "opt", "bert", "llama-fast", "unigram-fast"])
  func longTexts(name: String) throws {
    let tokenizer = try Tokenizer(contentsOf: Fixtures.folder.appending(path: name))
    for (kind, text) in Self.long {
      var ids: [Int] = []
      let encoding = seconds { ids = tokenizer.encode(text) }
      #expect(encoding < 12, "\(name) took \(encoding) s for \(kind)")
      let decoding = seconds { _ = tokenizer.decode(ids, skipSpecialTokens: false) }
      #expect(decoding < 12, "\(name) took \(decoding) s to decode \(kind)")
    }
  }

  @Test(arguments: ["t5", "llama", "opt", "bert"])
  func sentence(name: String) throws {
    let tokenizer = try Tokenizer(contentsOf: Fixtures.folder.appending(path: name))
    let text = "Two women are riding the brown horse near Z\u{FC}rich, and nobody sees the 3rd umbrella behind them."
    _ = tokenizer.encode(text)
    let time = seconds { for _ in 0..<100 { _ = tokenizer.encode(text) } } / 100
    #expect(time < 0.005, "\(time * 1e6) µs")
  }
}
