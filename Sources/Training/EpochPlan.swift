/// Which image with which caption comes when: a function of the seed and the step alone.
///
/// Every image comes once an epoch, with one or some of its captions, in batches of similar length; what fills no batch waits
/// for another epoch's order.
struct EpochPlan {
  struct Item: Equatable {
    let row: Int
    let captions: [Int]
    let mirrored: Bool
  }

  private let lengths: [[Int]]
  private let captionsPerImage: Int
  private let sampler: EpochSampler
  private let cache = Cache()

  // The epoch that was asked for last.
  private final class Cache {
    var epoch = -1
    var batches: [[Item]] = []
  }

  /// - Parameters:
  ///   - lengths: For every image the lengths of its captions, at least one.
  ///   - captionsPerImage: Captions that come with an image, as far as it has so many.
  /// - Throws: `DataError` when there are fewer images than a batch holds.
  init(lengths: [[Int]], batchSize: Int, captionsPerImage: Int = 1, seed: UInt64) throws {
    self.lengths = lengths
    self.captionsPerImage = captionsPerImage
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
    let chosen = lengths.indices.map { row in
      let count = lengths[row].count
      let first = sampler.choice(epoch: epoch, item: row, of: count)
      return (0..<min(captionsPerImage, count)).map { (first + $0) % count }
    }
    let chosenLengths = zip(lengths, chosen).map { all, list in list.reduce(0) { $0 + all[$1] } }
    let bucketed = try EpochSampler(
      count: lengths.count, batchSize: sampler.batchSize, seed: sampler.seed, lengths: chosenLengths, window: 16,
      dropsLast: true)
    var random = SeededGenerator(seed: sampler.seed &+ 1, stream: UInt64(epoch))
    let mirrored = lengths.map { _ in Bool.random(using: &random) }
    return bucketed.batches(epoch: epoch).map { batch in
      batch.map { Item(row: $0, captions: chosen[$0], mirrored: mirrored[$0]) }
    }
  }
}
