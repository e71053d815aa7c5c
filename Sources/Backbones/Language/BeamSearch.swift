import Foundation
import Torch

/// Beam search over one batch: what transformers 5 does with `early_stopping` `False` or `True`.
///
/// Each text keeps K running beams and its K best finished ones. A finished beam is ranked by the sum of its
/// log-probabilities over length^lengthPenalty. A text is done when its best running beam, ranked at the length it has
/// now, falls behind its worst finished one; with early stopping already when it has K finished ones.
///
/// - Parameters:
///   - first: Logits `[B, V]` after the prompts.
///   - state: The prompts, B rows.
///   - seen: For each text the ids that the repetition penalty counts beside the new ones.
/// - Returns: The best beam of each text.
func beamSearch(
  _ first: Tensor, _ state: any TextState, _ options: GenerationOptions, _ seen: [[Int]], _ stop: TextStop?
) throws -> [GeneratedText] {
  let beams = options.beams ?? 1
  let vocabulary = first.size(-1)
  // Enough candidates that K go on even if all the best ones end.
  let kept = max(2, 1 + options.endIDs.count) * beams
  var texts = seen.map { _ in BeamText(beams: beams) }
  let copies = texts.indices.flatMap { Array(repeating: $0, count: beams) }
  var logits = first.indexSelect(0, Tensor(copies))  // [B · K, V]
  state.reorder(copies)
  for count in 1...options.maxTokens {
    try Task.checkCancellation()
    let history = texts.indices.flatMap { text in texts[text].running.map { seen[text] + $0.ids } }
    let scores = options.processed(logits.logSoftmax(), seen: history, count: count)
    let running = Tensor(texts.flatMap { $0.running.map(\.score) }, [texts.count * beams, 1])
    let (values, indices) = (scores + running).reshaped(texts.count, beams * vocabulary).topK(kept)
    let (bestScores, bestIndices) = (values.values(as: Float.self), indices.values(as: Int.self))
    // After a failure there are no values: the open error scope has the reason.
    guard bestIndices.count == texts.count * kept else { return [] }
    var rows: [Int] = []
    var ids: [Int] = []
    for text in texts.indices {
      let candidates = (0..<kept).map { place -> BeamText.Candidate in
        let (parent, id) = bestIndices[text * kept + place].quotientAndRemainder(dividingBy: vocabulary)
        let beam = texts[text].running[parent].ids + [id]
        return BeamText.Candidate(
          parent: parent, ids: beam, score: bestScores[text * kept + place],
          isEnd: texts[text].isDone || options.ending(beam, stop) != nil)
      }
      let parents = texts[text].advance(
        candidates, count: count, lengthPenalty: options.lengthPenalty, stopsEarly: options.earlyStopping)
      rows += parents.map { text * beams + $0 }
      ids += texts[text].running.map { $0.ids[count - 1] }
    }
    if count == options.maxTokens || texts.allSatisfy(\.isDone) { break }
    state.reorder(rows)
    logits = state.next(ids)
  }
  return texts.map { text in
    let best = text.finished[0]
    return GeneratedText(
      ids: best.ids, ending: options.ending(best.ids, stop) ?? .length, score: Double(best.score))
  }
}

/// The beams of one text. Scores are `Float`, as the tensors they come from.
private struct BeamText {
  struct Beam {
    var ids: [Int] = []
    var score: Float
    var isFinished = false
  }

  struct Candidate {
    let parent: Int
    let ids: [Int]
    let score: Float
    let isEnd: Bool
  }

  /// What stands for "cannot be chosen".
  private static let none: Float = -1e9

  var running: [Beam]
  var finished: [Beam]
  /// Whether nothing better can come.
  var isDone = false

  init(beams: Int) {
    // The first step must not choose the same token once for each beam.
    running = (0..<beams).map { Beam(score: $0 == 0 ? 0 : Self.none) }
    finished = (0..<beams).map { _ in Beam(score: Self.none) }
  }

  /// Takes the best candidates, best first, as running or finished beams.
  ///
  /// - Returns: The beams that the running ones go on from.
  mutating func advance(
    _ candidates: [Candidate], count: Int, lengthPenalty: Double, stopsEarly: Bool
  ) -> [Int] {
    let beams = running.count
    let length = Float(pow(Double(count), lengthPenalty))
    // Only an end among the K best counts; once done, none does.
    if !isDone {
      let ended = candidates.prefix(beams).filter(\.isEnd).map {
        Beam(ids: $0.ids, score: $0.score / length, isFinished: true)
      }
      finished = Array((finished + ended).stablySorted().prefix(beams))
    }
    let going = (candidates.filter { !$0.isEnd } + candidates.filter(\.isEnd)).prefix(beams)
    running = going.map { Beam(ids: $0.ids, score: $0.isEnd ? $0.score + Self.none : $0.score) }
    let worst = finished.map(\.score).min() ?? Self.none
    let best = running[0].score / length
    // An open place among the finished ones can be filled, as long as anything goes on.
    let isFull = finished.allSatisfy(\.isFinished)
    isDone = isDone || isFull && (stopsEarly || best <= worst) || candidates.allSatisfy(\.isEnd)
    return going.map(\.parent)
  }
}

extension [BeamText.Beam] {
  /// Best score first; equal ones keep their order.
  fileprivate func stablySorted() -> Self {
    enumerated().sorted { ($1.element.score, $0.offset) < ($0.element.score, $1.offset) }.map(\.element)
  }
}
