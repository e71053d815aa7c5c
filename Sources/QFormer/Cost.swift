extension QFormerConfiguration {
  /// Multiply–accumulates of one image's query pass: projections, attention and feed-forward parts.
  ///
  /// - Parameter imageTokens: N, the number of image tokens that cross-attention reads.
  public func multiplyAccumulates(imageTokens: Int) -> Int {
    let (m, d, n) = (queries, hiddenSize, imageTokens)
    let selfAttention = 4 * m * d * d + 2 * m * m * d
    let crossAttention = 2 * m * d * d + 2 * n * encoderHiddenSize * d + 2 * m * n * d
    let feedForward = 2 * m * d * intermediateSize
    let crossLayers = (layers + crossAttentionFrequency - 1) / crossAttentionFrequency
    return layers * (selfAttention + feedForward) + crossLayers * crossAttention
  }
}

extension CascadedVideoConfiguration {
  /// Multiply–accumulates of one clip's query passes, the projection to the language model left out.
  ///
  /// - Parameters:
  ///   - frames: T.
  ///   - imageTokens: N, the number of tokens of a frame.
  public func multiplyAccumulates(frames: Int, imageTokens: Int) -> Int {
    frames * frame.multiplyAccumulates(imageTokens: imageTokens)
      + temporal.multiplyAccumulates(imageTokens: frames * frame.queries)
  }
}

extension SpatioTemporalConfiguration {
  /// Multiply–accumulates of one clip's pooling and query pass, the projection to the language model left out.
  ///
  /// - Parameters:
  ///   - frames: T.
  ///   - imageTokens: N, the number of tokens of a frame.
  public func multiplyAccumulates(frames: Int, imageTokens: Int) -> Int {
    poolingMultiplyAccumulates(frames: frames, imageTokens: imageTokens)
      + qformer.multiplyAccumulates(imageTokens: imageTokens + frames)
  }

  /// Multiply–accumulates of attentive pooling: scores and sums over all tokens, twice, then two projections of each
  /// sum.
  public func poolingMultiplyAccumulates(frames: Int, imageTokens: Int) -> Int {
    guard pooling == .attentive else { return 0 }
    let (t, n, width) = (frames, imageTokens, qformer.encoderHiddenSize)
    return 2 * 2 * t * n * width * poolingHeads + 2 * (t + n) * width * width
  }
}
