public import Torch

extension GenerationOptions {
  /// What the next token is chosen by: the model's scores after repetition penalty, minimal length and, when a temperature
  /// is set, temperature, the k likeliest, and the likeliest that hold a probability of p (Holtzman et al.,
  /// arXiv 1904.09751), in this order.
  ///
  /// - Parameters:
  ///   - scores: `[rows, V]`: logits, or with beams their log-softmax.
  ///   - seen: For each row the ids that the repetition penalty counts.
  ///   - count: The number of the token that comes, from 1.
  /// - Returns: `[rows, V]`; −∞ for tokens that cannot come. Sampling draws from the softmax.
  public func processed(_ scores: Tensor, seen: [[Int]], count: Int) -> Tensor {
    withNoGrad {
      var scores = penalized(scores, seen: seen)
      if count <= minTokens, !endIDs.isEmpty {
        var isEnd = [Float](repeating: 0, count: scores.size(-1))
        for id in endIDs where isEnd.indices.contains(id) { isEnd[id] = 1 }
        scores = scores.maskedFill(Tensor(isEnd).notEqual(0), -.infinity)
      }
      guard temperature > 0 else { return scores }
      if temperature != 1 { scores = scores / temperature }
      if topK > 0, topK < scores.size(-1) { scores = scores.keepingLargest(topK) }
      if topP < 1 { scores = scores.keepingNucleus(topP) }
      return scores
    }
  }

  private func penalized(_ scores: Tensor, seen: [[Int]]) -> Tensor {
    guard repetitionPenalty != 1 else { return scores }
    var isSeen = [Float](repeating: 0, count: scores.count)
    let vocabulary = scores.size(-1)
    for (row, ids) in seen.enumerated() {
      for id in ids where (0..<vocabulary).contains(id) { isSeen[row * vocabulary + id] = 1 }
    }
    let lowered = (scores * repetitionPenalty).chosen(where: scores.less(0), else: scores / repetitionPenalty)
    return lowered.chosen(where: Tensor(isSeen, scores.shape).notEqual(0), else: scores)
  }
}

extension Tensor {
  /// −∞ for all but the `k` largest of each row; those that equal the smallest of these stay too.
  fileprivate func keepingLargest(_ k: Int) -> Tensor {
    let smallest = topK(k).values.narrow(-1, k - 1, 1)  // [rows, 1]
    return chosen(where: smallest.lessOrEqual(self), else: Tensor(-Float.infinity))
  }

  /// −∞ for the unlikeliest of each row that together hold at most 1 − p.
  fileprivate func keepingNucleus(_ p: Double) -> Tensor {
    let (rising, order) = sorted(-1)
    let held = rising.softmax().cumulativeSum(-1)
    let vocabulary = size(-1)
    let isOut = held.lessOrEqual(Tensor(Float(1 - p))).to(.float32)
    // The likeliest one always stays.
    let kept = Tensor.cat([isOut.narrow(-1, 0, vocabulary - 1), isOut.narrow(-1, 0, 1) * 0], -1)
    // Back from the order of probabilities to the vocabulary's.
    let flags = kept.gather(-1, order.sorted(-1).indices)
    return maskedFill(flags.notEqual(0), -.infinity)
  }
}
