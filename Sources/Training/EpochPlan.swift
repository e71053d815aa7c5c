/// Which image with which caption comes when: a function of the seed and the step alone.
///
/// Every image comes once an epoch, with one or some of its captions and questions, in batches of similar length; what
/// fills no batch waits for another epoch's order.
struct EpochPlan {
  struct Item: Equatable {
    let row: Int
    let captions: [Int]
    var questions: [Int] = []
    let mirrored: Bool
  }

  private let lengths: [[Int]]
  private let captionsPerImage: Int
  private let questionLengths: [[Int]]
  private let questionsPerImage: Int
  private let sampler: EpochSampler
  private let cache = Cache()

  // The epoch that was asked for last.
  private final class Cache {
    var epoch = -1
    var batches: [[Item]] = []
  }

  /// - Parameters:
  ///   - lengths: For every image the lengths of its captions, at least one.
  ///   - captionsPerImage: Captions that come with an image, as far as it has so many; one at least where no question
  ///     comes with it.
  ///   - questionLengths: For every image the lengths of its questions, if there are any; empty for none at all.
  ///   - questionsPerImage: Questions that come with an image, as far as it has so many.
  /// - Throws: `DataError` when there are fewer images than a batch holds.
  init(
    lengths: [[Int]], batchSize: Int, captionsPerImage: Int = 1, questionLengths: [[Int]] = [],
    questionsPerImage: Int = 0, seed: UInt64
  ) throws {
    self.lengths = lengths
    self.captionsPerImage = captionsPerImage
    self.questionLengths = questionLengths
    self.questionsPerImage = questionsPerImage
    sampler = try EpochSampler(count: lengths.count, batchSize: batchSize, seed: seed, dropsLast: true)
  }

  /// Full batches in an epoch.
  var stepsPerEpoch: Int { sampler.stepsPerEpoch }

  /// The batch of a step, counted from 0 over all epochs.
  func batch(step: Int) throws -> [Item] {
    let position = sampler.position(after: step)
    if cache.epoch != position.epoch {
      cache.batches = try batches(epoch: position.epoch)
      cache.epoch = position.epoch
    }
    return cache.batches[position.step]
  }

  private func batches(epoch: Int) throws -> [[Item]] {
    // Those of an image that come with it, beginning at another one in each epoch.
    func chosen(_ row: Int, of count: Int, most: Int) -> [Int] {
      let first = sampler.choice(epoch: epoch, item: row, of: count)
      return (0..<min(most, count)).map { (first + $0) % count }
    }
    let questions = lengths.indices.map { row in
      let count = questionLengths.indices.contains(row) ? questionLengths[row].count : 0
      return chosen(row, of: count, most: questionsPerImage)
    }
    let captions = lengths.indices.map { row in
      chosen(row, of: lengths[row].count, most: questions[row].isEmpty ? max(captionsPerImage, 1) : captionsPerImage)
    }
    let chosenLengths = lengths.indices.map { row in
      captions[row].reduce(0) { $0 + lengths[row][$1] } + questions[row].reduce(0) { $0 + questionLengths[row][$1] }
    }
    let bucketed = try EpochSampler(
      count: lengths.count, batchSize: sampler.batchSize, seed: sampler.seed, lengths: chosenLengths, window: 16,
      dropsLast: true)
    var random = SeededGenerator(seed: sampler.seed &+ 1, stream: UInt64(epoch))
    let mirrored = lengths.map { _ in Bool.random(using: &random) }
    return bucketed.batches(epoch: epoch).map { batch in
      batch.map { Item(row: $0, captions: captions[$0], questions: questions[$0], mirrored: mirrored[$0]) }
    }
  }
}
