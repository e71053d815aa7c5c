import QFormer
import Torch

extension ObjectiveHeads {
  /// Scores of images or videos with texts.
  ///
  /// - Parameters:
  ///   - qformer: What the heads sit on.
  ///   - image: What its queries look at.
  ///   - batch: B, the number of images or videos.
  ///   - text: At least one text.
  ///   - head: Which scores are computed.
  /// - Returns: For each image a list of scores in the order of the texts.
  /// - Throws: `QFormerError`, also for matching scores alone where there is no matching head; with both heads there are
  ///   contrastive scores then.
  func scores(
    _ qformer: QFormer, _ image: ImageKeyValues, batch: Int, _ text: TextBatch, head: ImageTextPipeline.Head
  ) throws -> [[ImageTextPipeline.Score]] {
    let count = text.ids.size(0)
    var itc: [Float] = []
    if head != .itm {
      let hidden = qformer.readImage(image).hidden
      let textFeatures = textFeature(try qformer.readText(text.ids, mask: text.mask))
      itc = similarity(imageFeatures: imageFeatures(hidden), textFeatures: textFeatures).values()
    }
    var itm: [Float] = []
    if head == .itm || head == .both && hasMatchingHead {
      for row in 0..<batch {
        let pairs = image.select(Tensor(Array(repeating: row, count: count)))
        let hidden = try qformer.readImageAndText(pairs, text.ids, mask: text.mask).hidden
        itm += try matchingLogits(hidden).softmax(1).select(1, 1).values(as: Float.self)
      }
    }
    return (0..<batch).map { row in
      (0..<count).map { column in
        let index = row * count + column
        return ImageTextPipeline.Score(
          itc: itc.isEmpty ? nil : Double(itc[index]), itm: itm.isEmpty ? nil : Double(itm[index]))
      }
    }
  }
}
