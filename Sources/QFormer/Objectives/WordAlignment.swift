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

  /// Cross-entropy between the softmax over all words and the distribution of an image's own.
  ///
  /// - Parameters:
  ///   - tokens: As above.
  ///   - words: As above.
  ///   - targets: `[B, W]`, rows sum to 1.
  ///   - temperature: Cosines are divided by it.
  public static func loss(tokens: Tensor, words: Tensor, targets: Tensor, temperature: Double) -> Tensor {
    (similarity(tokens: tokens, words: words) / temperature).crossEntropy(targets)
  }
}
