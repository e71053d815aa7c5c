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
