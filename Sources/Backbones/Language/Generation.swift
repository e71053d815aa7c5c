// Text from a causal language model: greedy, sampled, or by beam search. One implementation for all models.
//
// Results equal those of `generate` in transformers 5 with the same settings (sampling apart from the random numbers).
// Shapes: B batch · L prompt tokens · V vocabulary · K beams.
public import Foundation
public import Torch

/// What generation needs of a language model.
public protocol CausalLanguageModel: Sendable {
  /// D, the width of the embeddings that go in.
  var hiddenSize: Int { get }
  /// V.
  var vocabularySize: Int { get }
  /// Layers that a ``KVCache`` has to hold.
  var layerCount: Int { get }
  /// Word embeddings: `int64` of any shape to `[…, D]`.
  func embed(_ ids: Tensor) -> Tensor
  /// Hidden states `[B, L, D]` of embeddings `[B, L, D]`, to be given to ``head(_:)``.
  ///
  /// - Parameters:
  ///   - inputsEmbeds: `[B, L, D]`.
  ///   - attentionMask: `[B, L]`, 1 for tokens and 0 for padding.
  ///   - cache: Tokens before these; takes these too.
  func forward(inputsEmbeds: Tensor, attentionMask: Tensor?, cache: KVCache?) -> Tensor
  /// Logits `[…, V]` of hidden states `[…, D]`.
  func head(_ hidden: Tensor) -> Tensor
}

/// How text is generated.
public struct GenerationOptions: Sendable, Equatable, Codable {
  /// The largest number of new tokens.
  public var maxTokens = 30
  /// No end before this many new tokens.
  public var minTokens = 1
  /// Beams; 1 for none. Exclusive with a temperature.
  public var beams = 1
  /// 0 takes the likeliest token, more samples.
  public var temperature = 0.0
  /// Samples among this many likeliest tokens; 0 for all.
  public var topK = 0
  /// Samples among the likeliest tokens that hold this much probability.
  public var topP = 1.0
  /// Divides the positive logits, and multiplies the negative ones, of tokens that are there already (Keskar et al.,
  /// arXiv 1909.05858).
  public var repetitionPenalty = 1.0
  /// Beams are ranked by log-probability over length to this power.
  public var lengthPenalty = 1.0
  /// Tokens that end a text.
  public var endIDs: [Int] = []
  /// Row i of a batch draws from the seed plus i, so that a row does not depend on its neighbours.
  public var seed: UInt64 = 0

  /// Greedy, at most 30 tokens, no end.
  public init() {}

  /// Throws what makes no sense.
  func validate(vocabulary: Int) throws {
    func require(_ holds: Bool, _ name: String, _ found: any CustomStringConvertible, _ expected: String) throws {
      if !holds { throw GenerationError.option(name: name, found: "\(found)", expected: expected) }
    }
    try require((1...1_000_000).contains(maxTokens), "maxTokens", maxTokens, "1 … 1000000")
    try require((0...maxTokens).contains(minTokens), "minTokens", minTokens, "0 … maxTokens")
    try require((1...64).contains(beams), "beams", beams, "1 … 64")
    let kept = beams * max(2, endIDs.count + 1)
    try require(beams == 1 || kept <= vocabulary, "beams", beams, "fewer for a vocabulary of \(vocabulary)")
    try require(temperature >= 0 && temperature.isFinite, "temperature", temperature, "0 or more")
    try require(beams == 1 || temperature == 0, "temperature", temperature, "0 with beams")
    try require(topK >= 0, "topK", topK, "0 or more")
    try require(topP > 0 && topP <= 1, "topP", topP, "above 0, at most 1")
    try require(
      repetitionPenalty > 0 && repetitionPenalty.isFinite, "repetitionPenalty", repetitionPenalty, "more than 0")
    try require(lengthPenalty.isFinite, "lengthPenalty", lengthPenalty, "a number")
    for id in endIDs { try require((0..<vocabulary).contains(id), "endIDs", id, "0 ..< \(vocabulary)") }
  }
}

/// What generation cannot do.
public enum GenerationError: Error, Sendable, Equatable, CustomStringConvertible, LocalizedError {
  /// An option has a value that makes no sense.
  case option(name: String, found: String, expected: String)
  /// A prompt holds no tokens, or one that the model does not know.
  case prompt(row: Int, reason: String)

  /// One line.
  public var description: String {
    switch self {
    case .option(let name, let found, let expected): "\(name): expected \(expected), found \(found)"
    case .prompt(let row, let reason): "prompt \(row): \(reason)"
    }
  }

  /// The same words as ``description``.
  public var errorDescription: String? { description }
}

extension CausalLanguageModel {
  /// Continues prompts of token ids, of unequal lengths.
  ///
  /// - Parameters:
  ///   - prompts: At least one token each; padded on the left together.
  ///   - options: How text is generated.
  ///   - onToken: Row and id of every new token as it comes; with beams, at the end. Throwing ends the generation.
  /// - Returns: The new tokens of each row, the end token included when it was reached.
  /// - Throws: ``GenerationError``, `TorchError`, `CancellationError`, or what `onToken` throws.
  public func generate(
    prompts: [[Int]], options: GenerationOptions, onToken: ((_ row: Int, _ id: Int) throws -> Void)? = nil
  ) throws -> [[Int]] {
    for (row, prompt) in prompts.enumerated() {
      if prompt.isEmpty { throw GenerationError.prompt(row: row, reason: "holds no tokens") }
      if let id = prompt.first(where: { !(0..<vocabularySize).contains($0) }) {
        throw GenerationError.prompt(row: row, reason: "the token \(id) is not in 0 ..< \(vocabularySize)")
      }
    }
    guard let longest = prompts.map(\.count).max() else { return [] }
    let ids = prompts.flatMap { Array(repeating: 0, count: longest - $0.count) + $0 }
    let mask = prompts.flatMap { Array(repeating: Float(0), count: longest - $0.count) + $0.map { _ in Float(1) } }
    let shape = [prompts.count, longest]
    let embeds = try withError { withNoGrad { embed(Tensor(ids, shape)) } }
    return try generate(
      inputsEmbeds: embeds, attentionMask: Tensor(mask, shape), options: options, history: prompts, onToken: onToken)
  }

  /// Continues embeddings: projected picture tokens, words, or both in a row.
  ///
  /// - Parameters:
  ///   - inputsEmbeds: `[B, L, D]`, padded on the left.
  ///   - attentionMask: `[B, L]`, 1 for tokens and 0 for padding; none when nothing is padded.
  ///   - options: How text is generated.
  ///   - history: For each row, the ids that the repetition penalty counts beside the new ones.
  ///   - onToken: Row and id of every new token as it comes; with beams, at the end. Throwing ends the generation.
  /// - Returns: The new tokens of each row, the end token included when it was reached.
  /// - Throws: ``GenerationError``, `TorchError`, `CancellationError`, or what `onToken` throws.
  public func generate(
    inputsEmbeds: Tensor, attentionMask: Tensor? = nil, options: GenerationOptions, history: [[Int]] = [],
    onToken: ((_ row: Int, _ id: Int) throws -> Void)? = nil
  ) throws -> [[Int]] {
    try options.validate(vocabulary: vocabularySize)
    let batch = inputsEmbeds.size(0)
    guard history.isEmpty || history.count == batch else {
      throw GenerationError.option(name: "history", found: "\(history.count) rows", expected: "\(batch)")
    }
    let history = history.isEmpty ? Array(repeating: [], count: batch) : history
    return try withError {
      try withNoGrad {
        let cache = KVCache(layers: layerCount)
        let hidden = forward(inputsEmbeds: inputsEmbeds, attentionMask: attentionMask, cache: cache)
        let logits = head(hidden.select(1, -1))  // [B, V]
        if options.beams == 1 { return try decode(logits, cache, options, history, onToken) }
        let rows = try beamSearch(logits, cache, options, history)
        for (row, ids) in rows.enumerated() { for id in ids { try onToken?(row, id) } }
        return rows
      }
    }
  }

  /// Logits `[B, V]` of one more token in each row.
  func step(_ ids: [Int], _ cache: KVCache) -> Tensor {
    let embeds = embed(Tensor(ids, [ids.count, 1]))
    return head(forward(inputsEmbeds: embeds, attentionMask: nil, cache: cache).select(1, 0))
  }

  /// Greedy or sampled, token by token. Rows that have ended leave the batch.
  private func decode(
    _ first: Tensor, _ cache: KVCache, _ options: GenerationOptions, _ history: [[Int]],
    _ onToken: ((_ row: Int, _ id: Int) throws -> Void)?
  ) throws -> [[Int]] {
    var logits = first
    var rows = Array(repeating: [Int](), count: history.count)
    var active = Array(rows.indices)
    let generators = options.temperature > 0 ? rows.indices.map { Generator(seed: options.seed &+ UInt64($0)) } : []
    for count in 1...options.maxTokens {
      try Task.checkCancellation()
      logits = adjusted(logits, options, active.map { history[$0] + rows[$0] }, count: count)
      let ids: [Int]
      if options.temperature > 0 {
        ids = active.enumerated().map { sample(logits.select(0, $0), options, generators[$1]) }
      } else {
        ids = logits.argmax(-1).values()
      }
      // After a failure there are no values: the open error scope has the reason.
      guard ids.count == active.count else { return rows }
      var going: [Int] = []
      for (place, row) in active.enumerated() {
        rows[row].append(ids[place])
        try onToken?(row, ids[place])
        if !options.endIDs.contains(ids[place]) { going.append(place) }
      }
      if going.isEmpty || count == options.maxTokens { break }
      cache.reorder(going)
      active = going.map { active[$0] }
      logits = step(going.map { ids[$0] }, cache)
    }
    return rows
  }
}

/// Scores `[rows, V]` with the repetition penalty, and without an end before its time.
///
/// - Parameters:
///   - seen: For each row the ids that are there already.
///   - count: The number of the token that comes, from 1.
func adjusted(_ scores: Tensor, _ options: GenerationOptions, _ seen: [[Int]], count: Int) -> Tensor {
  var scores = scores
  if options.repetitionPenalty != 1 {
    var isSeen = [Float](repeating: 0, count: scores.count)
    let vocabulary = scores.size(-1)
    for (row, ids) in seen.enumerated() { for id in ids { isSeen[row * vocabulary + id] = 1 } }
    let penalised = (scores * options.repetitionPenalty).chosen(
      where: scores.less(0), else: scores / options.repetitionPenalty)
    scores = penalised.chosen(where: Tensor(isSeen, scores.shape).notEqual(0), else: scores)
  }
  if count <= options.minTokens, !options.endIDs.isEmpty {
    var isEnd = [Float](repeating: 0, count: scores.size(-1))
    for id in options.endIDs { isEnd[id] = 1 }
    scores = scores.maskedFill(Tensor(isEnd).notEqual(0), -.infinity)
  }
  return scores
}

/// Draws a token from the logits `[V]` of one row.
private func sample(_ logits: Tensor, _ options: GenerationOptions, _ generator: Generator) -> Int {
  let scaled = logits / options.temperature
  let limit = options.topK == 0 ? scaled.count : min(options.topK, scaled.count)
  if limit == scaled.count, options.topP == 1 {
    return scaled.softmax().multinomial(1, generator: generator).intItem
  }
  let (values, indices) = scaled.topK(limit)  // likeliest first
  let probabilities = values.softmax()
  // A token stays when the likelier ones together hold less than topP.
  let before = probabilities.cumulativeSum(0) - probabilities
  let kept = options.topP == 1 ? probabilities : probabilities * before.less(options.topP)
  return indices.gather(0, kept.multinomial(1, generator: generator)).intItem
}
