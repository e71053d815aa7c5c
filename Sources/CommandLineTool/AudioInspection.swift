import Pipelines
import QFormer

/// What there is to say about the branch for sound.
struct AudioInspection {
  /// S, the most pieces of a sound.
  let pieces: Int
  /// Tokens that are written for a sound.
  let tokens: Int
  /// Multiply–accumulates for a sound of S pieces, with the projection to the language model.
  let cost: Int
  /// Lines for people.
  let lines: [String]

  init(_ configuration: AdapterConfiguration.Audio) {
    let (encoder, qformer) = (configuration.encoder, configuration.sizes.qformer)
    (pieces, tokens) = (encoder.pieces, qformer.queries)
    cost =
      qformer.multiplyAccumulates(imageTokens: pieces) + tokens * qformer.hiddenSize * configuration.sizes.languageSize
    let distance = encoder.strideSeconds.map { "one every \($0) s" } ?? "at even distances"
    let each = encoder.tokensPerClip == 1 ? "a piece each" : "\(encoder.tokensPerClip) pieces each"
    lines = [
      "sound              up to \(encoder.clips) clips of \(encoder.clipSeconds) s, \(distance), \(each)",
      "audio Q-Former     \(qformer.layers) layers, \(qformer.queries) queries, width \(qformer.hiddenSize)",
    ]
  }
}
