import Pipelines
import QFormer
import Torch
import TorchNN

/// Contrastive heads that start from canonical correlations over the training pairs, before the first step.
enum CanonicalStart {
  /// At most so many pairs are read: covariances of some hundred dimensions need no more.
  private static let limit = 16_384

  /// Replaces `vision_projection` and `text_projection`, so that the mean over queries agrees best with the text's first
  /// token.
  ///
  /// - Parameters:
  ///   - model: As it starts.
  ///   - parameters: Its parameters; those of the heads are overwritten.
  ///   - features: Those of the training images or clips.
  ///   - captions: Token numbers of each one's captions; the first two are read.
  ///   - showsProgress: Whether a progress line is printed.
  static func apply(
    _ model: any VideoQFormer, _ parameters: Parameters, features: FeatureStack, captions: [[[Int]]],
    showsProgress: Bool
  ) throws {
    let names = ["vision_projection", "text_projection"]
    let heads = names.compactMap { name in
      parameters["\(name).weight"].flatMap { weight in parameters["\(name).bias"].map { (weight, $0) } }
    }
    guard heads.count == 2 else { throw QFormerError.missingPart("contrastive heads") }
    let count = min(features.count, limit / 2)
    // Even distances: sources that stand behind each other are all read.
    let rows = (0..<count).map { $0 * features.count / count }.filter { !captions[$0].isEmpty }
    let progress = Progress("aligning", total: rows.count, isOn: showsProgress)
    try withError {
      try withNoGrad {
        var (images, texts): ([Tensor], [Tensor]) = ([], [])
        var weights: [Double] = []
        for batch in RetrievalEvaluation.batches(Array(rows.indices), 64) {
          let own = batch.map { rows[$0] }
          let pairs = own.enumerated().flatMap { place, row in captions[row].prefix(2).map { (place, $0) } }
          // An image counts once, however many captions it has.
          weights += pairs.map { 1 / Double(min(2, captions[own[$0.0]].count)) }
          let clips = try features.clips(own)
          let hidden = model.textQFormer.readImage(try model.keyValues(clips, isTraining: false)).hidden.mean(1)
          images.append(hidden.indexSelect(0, Tensor(pairs.map(\.0))))
          let text = TextEncoder.pad(pairs.map(\.1))
          texts.append(try model.textQFormer.readText(text.ids, mask: text.mask).select(1, 0))
          progress.update(batch.last.map { $0 + 1 } ?? 0)
        }
        let (image, text) = (Tensor.cat(images, 0), Tensor.cat(texts, 0))
        let width = heads[0].0.size(0)
        // There are no more directions than the sides have; the heads' other rows start at 0.
        let size = min(width, image.size(1), text.size(1))
        let alignment = try CanonicalAlignment(image, text, size: size, weights: weights)
        for (head, map) in zip(heads, [alignment.first, alignment.second]) {
          head.0.copy(from: .cat([map.weight, .zeros([width - size, map.weight.size(1)])], 0))
          head.1.copy(from: .cat([map.bias, .zeros([width - size])], 0))
        }
      }
    }
  }
}
