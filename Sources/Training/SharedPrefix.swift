import Backbones
import Torch

/// Several texts behind one prefix, in one row of a causal model: the prefix is computed once for all of them.
///
/// A token sees the prefix and its own text up to itself; every text starts at the position after the prefix. Losses and
/// gradients equal those of rows that hold one text each.
struct SharedPrefix {
  /// A text: what is read without being scored, and what is scored.
  struct Text: Equatable {
    /// The tokens before the answer; none for a caption.
    var prompt: [Int] = []
    /// The tokens that are scored, at least one.
    let target: [Int]

    /// All tokens.
    var count: Int { prompt.count + target.count }
  }

  /// Inputs `int64 [B, L]`: for each text the begin token and all tokens but the last; padded at the end.
  let ids: Tensor
  /// Masks and positions over prefix and texts.
  let plan: AttentionPlan
  /// Which of the `B · L` positions are scored, `int64 [K]`.
  let scored: Tensor
  /// What they should predict, `int64 [K]`.
  let targets: Tensor
  /// How many positions of each text are scored, in order.
  let counts: [Int]

  /// - Parameters:
  ///   - texts: For each row its texts.
  ///   - prefix: Tokens of the prefix.
  ///   - begin: The token that every text starts with; the first thing predicted is the text's first token.
  ///   - past: Tokens of a `TextPrefix` before the prefix, which everything sees.
  ///   - absent: For each row how many of the prefix's first tokens do not exist: nothing sees them, and positions are
  ///     counted as if they were not there. None when left out.
  init(texts: [[Text]], prefix: Int, begin: Int, past: Int = 0, absent: [Int] = []) {
    let length = texts.map { $0.reduce(0) { $0 + $1.count } }.max() ?? 0
    let total = prefix + length
    var ids = [Int](repeating: 0, count: texts.count * length)
    var positions = [Int](repeating: 0, count: texts.count * total)
    var seen = [Float](repeating: 0, count: texts.count * total * (past + total))
    var scored: [Int] = []
    var targets: [Int] = []
    for (row, list) in texts.enumerated() {
      func see(_ token: Int, _ range: Range<Int>) {
        let start = (row * total + token) * (past + total)
        for other in 0..<past { seen[start + other] = 1 }
        for other in range { seen[start + past + other] = 1 }
      }
      let first = absent.isEmpty ? 0 : absent[row]
      for token in 0..<prefix {
        positions[row * total + token] = past + max(0, token - first)
        see(token, min(first, token)..<token + 1)  // What does not exist sees itself alone, so that it is finite.
      }
      var start = 0
      for text in list {
        let tokens = text.prompt + text.target
        for (offset, target) in tokens.enumerated() {
          let token = prefix + start + offset
          ids[row * length + start + offset] = offset == 0 ? begin : tokens[offset - 1]
          positions[row * total + token] = past + prefix - first + offset
          see(token, first..<prefix)
          see(token, prefix + start..<token + 1)
          guard offset >= text.prompt.count else { continue }
          scored.append(row * length + start + offset)
          targets.append(target)
        }
        start += text.count
      }
      // Padding sees the prefix, so that its rows are finite.
      for token in prefix + start..<total { see(token, 0..<max(prefix, 1)) }
    }
    self.ids = Tensor(ids, [texts.count, length])
    plan = AttentionPlan(
      seen: Tensor(seen, [texts.count, total, past + total]), positions: Tensor(positions, [texts.count, total]))
    self.scored = Tensor(scored)
    self.targets = Tensor(targets)
    counts = texts.flatMap { $0.map(\.target.count) }
  }
}
