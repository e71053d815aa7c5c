// Text from a language model: greedy, sampled, or by beam search. One implementation for all models.
//
// Results equal those of `generate` in transformers 5 with the same settings (sampling apart from the random numbers).
// Shapes: B batch · L prompt tokens · V vocabulary · K beams.
public import Torch

/// What generation and training need of a language model, decoder-only or encoder-decoder.
public protocol GenerativeModel: Sendable {
  /// D, the width of the embeddings that go in.
  var hiddenSize: Int { get }
  /// V.
  var vocabularySize: Int { get }
  /// Word embeddings: `int64` of any shape to `[…, D]`.
  func embed(_ ids: Tensor) -> Tensor
  /// The ids that the repetition penalty counts before the first new token comes.
  ///
  /// - Parameter prompt: The ids of the prompt, as far as it has any.
  func penalizedIDs(prompt: [Int]) -> [Int]
  /// Reads prompts.
  ///
  /// - Parameters:
  ///   - inputsEmbeds: `[B, L, D]`, padded on the left.
  ///   - attentionMask: `[B, L]`, 1 for tokens and 0 for padding.
  /// - Returns: Logits `[B, V]` of the first new token, and where to go on from.
  func read(inputsEmbeds: Tensor, attentionMask: Tensor?) -> (logits: Tensor, state: any TextState)
  /// Logits that predict each token of targets from the embeddings and the targets before it: what training scores.
  ///
  /// Gradients flow to the embeddings.
  /// - Parameters:
  ///   - inputsEmbeds: `[B, P, D]`: picture tokens, begin token, prompt; padded on the left.
  ///   - attentionMask: `[B, P]`, 1 for tokens and 0 for padding; none when nothing is padded.
  ///   - targets: `int64 [B, L]`, padded on the right with any token of the vocabulary.
  /// - Returns: `[B, L, V]`.
  func targetLogits(inputsEmbeds: Tensor, attentionMask: Tensor?, targets: Tensor) -> Tensor
}

/// Texts under way, one a row. Belongs to one generation; not thread-safe; holds no gradients.
public protocol TextState: AnyObject {
  /// Takes one more token for each row.
  ///
  /// - Returns: Logits `[rows, V]` of the token after it.
  func next(_ ids: [Int]) -> Tensor
  /// Keeps, repeats and reorders rows.
  ///
  /// - Parameter rows: For each new row the old row that it goes on from.
  func reorder(_ rows: [Int])
}

/// A decoder-only language model: the prompt's embeddings come first, then the text.
public protocol CausalLanguageModel: GenerativeModel {
  /// Layers that a ``KVCache`` has to hold.
  var layerCount: Int { get }
  /// Hidden states `[B, L, D]` of embeddings `[B, L, D]`, to be given to ``head(_:)``.
  ///
  /// - Parameters:
  ///   - inputsEmbeds: `[B, L, D]`.
  ///   - plan: Who sees whom, and where each token stands.
  ///   - remember: Gets a layer's new keys and values and gives those that its queries see.
  func states(inputsEmbeds: Tensor, plan: AttentionPlan, remember: RememberKeyValues) -> Tensor
  /// Logits `[…, V]` of hidden states `[…, D]`.
  func head(_ hidden: Tensor) -> Tensor
}

extension CausalLanguageModel {
  /// Hidden states of embeddings, to be given to ``head(_:)``.
  ///
  /// - Parameters:
  ///   - inputsEmbeds: `[B, L, D]`: word embeddings, projected picture tokens, or both in a row.
  ///   - attentionMask: `[B, L]`, 1 for tokens, 0 for padding on either side. None: no padding, or padding on the right
  ///     whose outputs do not matter.
  ///   - cache: Takes the keys and values of these tokens, which then come after those it holds.
  /// - Returns: `[B, L, D]`. A wrong shape is a failure for `withError`.
  public func forward(inputsEmbeds: Tensor, attentionMask: Tensor? = nil, cache: KVCache? = nil) -> Tensor {
    let shape = inputsEmbeds.shape
    guard shape.count == 3, shape[2] == hiddenSize, shape[1] > 0 else {
      return .failed("\(Self.self) takes embeddings [B, L, \(hiddenSize)], L > 0; found \(shape)")
    }
    guard let plan = attentionPlan(batch: shape[0], length: shape[1], mask: attentionMask, cache: cache) else {
      return .failed("\(Self.self) has no attention plan")
    }
    return states(inputsEmbeds: inputsEmbeds, plan: plan) { layer, key, value in
      cache?.update(layer: layer, key: key, value: value) ?? (key, value)
    }
  }

  /// As ``forward(inputsEmbeds:attentionMask:cache:)``, without a cache and with masks and positions of the caller's own.
  ///
  /// - Parameters:
  ///   - inputsEmbeds: `[B, L, D]`.
  ///   - plan: Who sees whom, and where each token stands.
  ///   - prefix: What every row begins with; the plan counts its tokens.
  /// - Returns: `[B, L, D]`.
  public func forward(inputsEmbeds: Tensor, plan: AttentionPlan, prefix: TextPrefix? = nil) -> Tensor {
    states(inputsEmbeds: inputsEmbeds, plan: plan) { layer, key, value in
      prefix?.joined(layer: layer, key: key, value: value) ?? (key, value)
    }
  }

  /// The prompt: it is the beginning of the text.
  public func penalizedIDs(prompt: [Int]) -> [Int] { prompt }

  /// Reads prompts into a ``KVCache``.
  public func read(inputsEmbeds: Tensor, attentionMask: Tensor?) -> (logits: Tensor, state: any TextState) {
    read(inputsEmbeds: inputsEmbeds, attentionMask: attentionMask, cache: KVCache(layers: layerCount))
  }

  /// Reads prompts after what a cache holds.
  func read(inputsEmbeds: Tensor, attentionMask: Tensor?, cache: KVCache) -> (logits: Tensor, state: any TextState) {
    let hidden = forward(inputsEmbeds: inputsEmbeds, attentionMask: attentionMask, cache: cache)
    return (head(hidden.select(1, -1)), CausalState(self, cache: cache))
  }

  /// Embeddings and targets in one row; the last target is predicted but not read.
  public func targetLogits(inputsEmbeds: Tensor, attentionMask: Tensor?, targets: Tensor) -> Tensor {
    targetLogits(inputsEmbeds: inputsEmbeds, attentionMask: attentionMask, targets: targets, prefix: nil)
  }

  /// The same behind a text that has been read.
  func targetLogits(
    inputsEmbeds: Tensor, attentionMask: Tensor?, targets: Tensor, prefix past: TextPrefix?
  ) -> Tensor {
    let (prefix, shape) = (inputsEmbeds.size(1), targets.shape)
    guard shape.count == 2, shape[1] > 0, prefix > 0 else {
      return .failed("expected embeddings [B, P, D], P > 0, and targets [B, L], L > 0; found \(shape)")
    }
    let read = shape[1] - 1
    let row = read == 0 ? inputsEmbeds : .cat([inputsEmbeds, embed(targets.narrow(1, 0, read))], 1)
    let mask = attentionMask.map { Tensor.cat([$0.to(.float32), .ones([shape[0], read])], 1) }
    guard let past else {
      return head(forward(inputsEmbeds: row, attentionMask: mask, cache: nil).narrow(1, prefix - 1, shape[1]))
    }
    guard
      let plan = attentionPlan(
        batch: shape[0], length: row.size(1), mask: mask, cache: KVCache(past, rows: shape[0]))
    else { return .failed("the model has no attention plan") }
    return head(forward(inputsEmbeds: row, plan: plan, prefix: past).narrow(1, prefix - 1, shape[1]))
  }
}

private final class CausalState: TextState {
  let model: any CausalLanguageModel
  let cache: KVCache

  init(_ model: any CausalLanguageModel, cache: KVCache) {
    (self.model, self.cache) = (model, cache)
  }

  func next(_ ids: [Int]) -> Tensor {
    let embeds = model.embed(Tensor(ids, [ids.count, 1]))
    return model.head(model.forward(inputsEmbeds: embeds, attentionMask: nil, cache: cache).select(1, 0))
  }

  func reorder(_ rows: [Int]) { cache.reorder(rows) }
}

extension GenerativeModel {
  /// Continues prompts of token ids, of unequal lengths.
  ///
  /// - Parameters:
  ///   - prompts: At least one token each; padded on the left together.
  ///   - options: How text is generated.
  ///   - stop: Strings that end a text; they are looked for in the new tokens.
  ///   - onToken: Row and id of every new token as it comes; with beams, at the end. Throwing ends the generation.
  /// - Returns: The new tokens of each row, the end token included when it was reached.
  /// - Throws: ``GenerationError``, `TorchError`, `CancellationError`, or what `onToken` throws.
  public func generate(
    prompts: [[Int]], options: GenerationOptions, stop: TextStop? = nil,
    onToken: ((_ row: Int, _ id: Int) throws -> Void)? = nil
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
      inputsEmbeds: embeds, attentionMask: Tensor(mask, shape), options: options, history: prompts, stop: stop,
      onToken: onToken)
  }

  /// Continues embeddings: projected picture tokens, words, or both in a row.
  ///
  /// - Parameters:
  ///   - inputsEmbeds: `[B, L, D]`, padded on the left.
  ///   - attentionMask: `[B, L]`, 1 for tokens and 0 for padding; none when nothing is padded.
  ///   - options: How text is generated.
  ///   - history: For each row the ids of the prompt. With a decoder-only model the repetition penalty counts them beside
  ///     the new ones; left out, it counts the new ones alone.
  ///   - stop: Strings that end a text; they are looked for in the new tokens.
  ///   - onToken: Row and id of every new token as it comes; with beams, at the end. Throwing ends the generation.
  /// - Returns: The new tokens of each row, the end token included when it was reached.
  /// - Throws: ``GenerationError``, `TorchError`, `CancellationError`, or what `onToken` throws.
  public func generate(
    inputsEmbeds: Tensor, attentionMask: Tensor? = nil, options: GenerationOptions, history: [[Int]] = [],
    stop: TextStop? = nil, onToken: ((_ row: Int, _ id: Int) throws -> Void)? = nil
  ) throws -> [[Int]] {
    try texts(
      inputsEmbeds: inputsEmbeds, attentionMask: attentionMask, options: options, history: history, stop: stop,
      onToken: onToken
    ).map(\.ids)
  }

  /// As ``generate(inputsEmbeds:attentionMask:options:history:stop:onToken:)``, with what ended each text and its score.
  ///
  /// - Throws: ``GenerationError``, `TorchError`, `CancellationError`, or what `onToken` throws.
  public func texts(
    inputsEmbeds: Tensor, attentionMask: Tensor? = nil, options: GenerationOptions, history: [[Int]] = [],
    stop: TextStop? = nil, onToken: ((_ row: Int, _ id: Int) throws -> Void)? = nil
  ) throws -> [GeneratedText] {
    try options.validate(vocabulary: vocabularySize)
    let batch = inputsEmbeds.size(0)
    guard history.isEmpty || history.count == batch else {
      throw GenerationError.option(name: "history", found: "\(history.count) rows", expected: "\(batch)")
    }
    guard batch > 0 else { return [] }
    let seen = (history.isEmpty ? Array(repeating: [], count: batch) : history).map { penalizedIDs(prompt: $0) }
    return try withError {
      try withNoGrad {
        let (logits, state) = read(inputsEmbeds: inputsEmbeds, attentionMask: attentionMask)
        if options.beams ?? 1 == 1 {
          return try decode(logits, state, options, seen, stop, onToken, choose: options.choice(rows: batch))
        }
        let texts = try beamSearch(logits, state, options, seen, stop)
        for (row, text) in texts.enumerated() { for id in text.ids { try onToken?(row, id) } }
        return texts
      }
    }
  }

  /// Draws several continuations of each row; what comes before them is read once.
  ///
  /// - Parameters:
  ///   - inputsEmbeds: `[B, L, D]`, padded on the left.
  ///   - attentionMask: `[B, L]`, 1 for tokens and 0 for padding; none when nothing is padded.
  ///   - count: How many of each row.
  ///   - options: How they are drawn; the temperature is above 0, and the seed is not used.
  ///   - generator: What all of them are drawn with.
  /// - Returns: For each row its `count` texts.
  /// - Throws: ``GenerationError``, `TorchError`, `CancellationError`.
  public func samples(
    inputsEmbeds: Tensor, attentionMask: Tensor? = nil, count: Int, options: GenerationOptions, generator: Generator
  ) throws -> [[GeneratedText]] {
    try options.validate(vocabulary: vocabularySize)
    let batch = inputsEmbeds.size(0)
    guard options.temperature > 0, count > 0 else {
      throw GenerationError.option(
        name: "samples", found: "\(count) at a temperature of \(options.temperature)", expected: "1 or more, above 0")
    }
    guard batch > 0 else { return [] }
    let copies = (0..<batch).flatMap { Array(repeating: $0, count: count) }
    let texts = try withError {
      try withNoGrad {
        let (logits, state) = read(inputsEmbeds: inputsEmbeds, attentionMask: attentionMask)
        state.reorder(copies)
        return try decode(
          logits.indexSelect(0, Tensor(copies)), state, options, copies.map { _ in [] }, nil, nil
        ) { scores, _ in
          scores.softmax().multinomial(1, generator: generator).reshaped(-1).values()
        }
      }
    }
    return (0..<batch).map { Array(texts[$0 * count..<($0 + 1) * count]) }
  }
}

extension GenerationOptions {
  /// How the next token of each of the rows that go on is chosen: the likeliest, or drawn with a generator of the row's own.
  fileprivate func choice(rows: Int) -> (_ scores: Tensor, _ rows: [Int]) -> [Int] {
    guard temperature > 0 else { return { scores, _ in scores.argmax(-1).values() } }
    let generators = (0..<rows).map { Generator(seed: seed &+ UInt64($0)) }
    return { scores, rows in
      let probabilities = scores.softmax()
      return rows.enumerated().map {
        probabilities.select(0, $0).multinomial(1, generator: generators[$1]).intItem
      }
    }
  }

  /// Why a text of these new tokens has ended, if it has.
  func ending(_ ids: [Int], _ stop: TextStop?) -> GeneratedText.Ending? {
    if let last = ids.last, endIDs.contains(last) { return .endToken }
    if let stop, stop.ends(ids) { return .stopString }
    return ids.count >= maxTokens ? .length : nil
  }
}

/// Greedy or sampled, token by token. Rows that have ended leave the batch.
private func decode(
  _ first: Tensor, _ state: any TextState, _ options: GenerationOptions, _ seen: [[Int]], _ stop: TextStop?,
  _ onToken: ((_ row: Int, _ id: Int) throws -> Void)?, choose: (_ scores: Tensor, _ rows: [Int]) -> [Int]
) throws -> [GeneratedText] {
  var logits = first
  var rows = Array(repeating: [Int](), count: seen.count)
  var endings = Array(repeating: GeneratedText.Ending.length, count: seen.count)
  var active = Array(rows.indices)
  for count in 1...options.maxTokens {
    try Task.checkCancellation()
    let scores = options.processed(logits, seen: active.map { seen[$0] + rows[$0] }, count: count)
    let ids = choose(scores, active)
    // After a failure there are no values: the open error scope has the reason.
    guard scores.isValid, ids.count == active.count else { break }
    var going: [Int] = []
    for (place, row) in active.enumerated() {
      rows[row].append(ids[place])
      try onToken?(row, ids[place])
      if let ending = options.ending(rows[row], stop) { endings[row] = ending } else { going.append(place) }
    }
    if going.isEmpty { break }
    if going.count < active.count { state.reorder(going) }
    active = going.map { active[$0] }
    logits = state.next(going.map { ids[$0] })
  }
  return rows.indices.map { GeneratedText(ids: rows[$0], ending: endings[$0], score: nil) }
}
