public import Torch

/// Word alignment: language tokens learn to lie near the embeddings of the words that people describe an image with.
///
/// Not part of BLIP-2. A frozen language model reads embeddings of words without any training, and this objective costs no
/// pass through it; the language model's own loss then starts from tokens that already say something. The score of a word
/// is its largest cosine over the queries, as in contrastive learning: different queries may take different words.
public enum WordAlignment {
  /// The score of every word for every image.
  ///
  /// - Parameters:
  ///   - tokens: Language tokens `[B, M, d]`, as differences from the mean word.
  ///   - words: `[W, d]`, embeddings as differences from the mean word, of length 1.
  /// - Returns: `[B, W]`, cosines.
  public static func similarity(tokens: Tensor, words: Tensor) -> Tensor {
    Contrastive.similarity(imageFeatures: tokens.normalized(), textFeatures: words)
  }

  /// The logarithm of every word's probability for every image, up to a constant: how common the word is, and what the
  /// tokens say beyond that.
  ///
  /// - Parameters:
  ///   - tokens: As above.
  ///   - words: As above.
  ///   - prior: `[W]`, the logarithm of how common each word is. Tokens that had to say that, too, would all say it.
  ///   - temperature: Cosines are divided by it.
  /// - Returns: `[B, W]`.
  public static func logits(tokens: Tensor, words: Tensor, prior: Tensor, temperature: Double) -> Tensor {
    similarity(tokens: tokens, words: words) / temperature + prior
  }

  /// Cross-entropy between the softmax over all words and the distribution of an image's own.
  ///
  /// - Parameters:
  ///   - tokens: As above.
  ///   - words: As above.
  ///   - prior: As above, of `targets`.
  ///   - targets: `[B, W]`, rows sum to 1.
  ///   - temperature: Cosines are divided by it.
  public static func loss(
    tokens: Tensor, words: Tensor, prior: Tensor, targets: Tensor, temperature: Double
  ) -> Tensor {
    logits(tokens: tokens, words: words, prior: prior, temperature: temperature).crossEntropy(targets)
  }
}
