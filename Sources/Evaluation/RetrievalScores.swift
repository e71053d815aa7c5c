/// Recall of image–text retrieval, both ways.
///
/// The rank of an image's search is 1 plus the number of foreign texts that score as high as the best of its own texts or
/// higher; the rank of a text's search likewise with the images it belongs to. Ties thus count against the model, so that
/// a constant score earns nothing. A text may belong to several images: two pictures of one thing may carry one caption,
/// and which of the two a search finds says nothing.
public struct RetrievalScores: Codable, Sendable, Equatable {
  /// For each k the share of images (0…1) with one of their texts among the first k.
  public let imageToText: [Int: Double]
  /// For each k the share of texts (0…1) whose image is among the first k.
  public let textToImage: [Int: Double]
  /// The median rank over images, best 1 (the lower median of an even number).
  public let medianImageRank: Int
  /// The median rank over texts, best 1.
  public let medianTextRank: Int
  /// How many images and texts were searched.
  public let images: Int
  /// How many texts were searched.
  public let texts: Int

  /// The mean of all recalls, both ways.
  public var meanRecall: Double {
    let all = Array(imageToText.values) + Array(textToImage.values)
    return all.reduce(0, +) / Double(all.count)
  }

  /// Ranks a similarity matrix in which every text belongs to one image.
  ///
  /// - Parameters:
  ///   - similarity: `[images × texts]`, row-major, higher is closer. Infinities are welcome (what was never compared may be
  ///     −∞), NaN is not.
  ///   - imageOfText: for each text the index of its image; every image needs a text.
  ///   - cutoffs: the values of k, each at least 1.
  /// - Throws: ``EvaluationError`` on sizes that do not fit, an index out of range, NaN, or an image without text.
  public init(
    similarity: [Float], imageOfText: [Int], cutoffs: [Int] = [1, 5, 10]
  ) throws(EvaluationError) {
    try self.init(similarity: similarity, imagesOfText: imageOfText.map { [$0] }, cutoffs: cutoffs)
  }

  /// Ranks a similarity matrix in which a text may belong to several images.
  ///
  /// - Parameters:
  ///   - similarity: `[images × texts]`, row-major, as above.
  ///   - imagesOfText: for each text the indices of its images, at least one; every image needs a text.
  ///   - cutoffs: the values of k, each at least 1.
  /// - Throws: ``EvaluationError`` on sizes that do not fit, an index out of range, NaN, a text without image, or an image
  ///   without text.
  public init(
    similarity: [Float], imagesOfText: [[Int]], cutoffs: [Int] = [1, 5, 10]
  ) throws(EvaluationError) {
    let texts = imagesOfText.count
    guard texts > 0 else { throw .empty(what: "text") }
    guard !similarity.isEmpty, similarity.count.isMultiple(of: texts) else {
      let rows = (similarity.count + texts - 1) / texts
      throw .countMismatch(what: "similarities", expected: max(1, rows) * texts, found: similarity.count)
    }
    let images = similarity.count / texts
    if let k = cutoffs.first(where: { $0 < 1 }) { throw .badCutoff(k) }
    guard !cutoffs.isEmpty else { throw .empty(what: "cut-off") }
    for owners in imagesOfText {
      if owners.isEmpty { throw .empty(what: "image of a text") }
      for image in owners where image < 0 || image >= images {
        throw .indexOutOfRange(what: "image", index: image, count: images)
      }
    }
    if let index = similarity.firstIndex(where: \.isNaN) {
      throw .notANumber(image: index / texts, text: index % texts)
    }
    let owned = Set(imagesOfText.joined())
    if owned.count < images, let image = (0..<images).first(where: { !owned.contains($0) }) {
      throw .imageWithoutText(image: image)
    }

    var belongs = [Bool](repeating: false, count: images * texts)
    var bestOfText = [Float](repeating: -.infinity, count: texts)
    for (text, owners) in imagesOfText.enumerated() {
      for image in owners {
        belongs[image * texts + text] = true
        bestOfText[text] = max(bestOfText[text], similarity[image * texts + text])
      }
    }
    var imageRanks = [Int](repeating: 1, count: images)
    var textRanks = [Int](repeating: 1, count: texts)
    for image in 0..<images {
      let row = image * texts
      var best = -Float.infinity
      for text in 0..<texts where belongs[row + text] { best = max(best, similarity[row + text]) }
      for text in 0..<texts where !belongs[row + text] {
        let value = similarity[row + text]
        if value >= best { imageRanks[image] += 1 }
        if value >= bestOfText[text] { textRanks[text] += 1 }
      }
    }
    func recalls(_ ranks: [Int]) -> [Int: Double] {
      var result: [Int: Double] = [:]
      for k in cutoffs { result[k] = Double(ranks.count { $0 <= k }) / Double(ranks.count) }
      return result
    }
    imageToText = recalls(imageRanks)
    textToImage = recalls(textRanks)
    medianImageRank = imageRanks.sorted()[(images - 1) / 2]
    medianTextRank = textRanks.sorted()[(texts - 1) / 2]
    self.images = images
    self.texts = texts
  }
}
