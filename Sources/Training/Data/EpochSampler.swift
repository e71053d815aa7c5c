/// Deals the items of a data set out in batches, epoch after epoch, the same way for the same seed.
///
/// Every item comes once an epoch. The order of epoch e depends on `(seed, e)` alone, so that a run resumes at any
/// ``Position`` without replaying what came before. With lengths given, the shuffled items are sorted by length within
/// windows of `window` batches, so that a batch holds items of similar length and little padding; the batches are then
/// shuffled among themselves.
public struct EpochSampler: Sendable, Equatable {
  /// A place in the run: the batch that comes next.
  public struct Position: Codable, Sendable, Equatable {
    /// The epoch, from 0.
    public var epoch: Int
    /// The batch within the epoch, from 0.
    public var step: Int

    /// The beginning of the run unless told otherwise.
    public init(epoch: Int = 0, step: Int = 0) {
      self.epoch = epoch
      self.step = step
    }
  }

  /// How many items there are.
  public let count: Int
  /// How many items a batch holds; the last one of an epoch may hold fewer.
  public let batchSize: Int
  /// What the order follows from.
  public let seed: UInt64
  /// The length of each item, if batches are to be of similar length.
  public let lengths: [Int]?
  /// Within how many batches items are sorted by length.
  public let window: Int
  /// Whether a last batch that is not full is left out. Its items come in other epochs.
  public let dropsLast: Bool

  /// Describes how items are dealt.
  ///
  /// - Throws: ``DataError/badSetting(_:expected:found:)`` unless count, batch size and window are positive, there are as many
  ///   lengths as items, and an epoch has at least one batch.
  public init(
    count: Int, batchSize: Int, seed: UInt64, lengths: [Int]? = nil, window: Int = 50, dropsLast: Bool = false
  ) throws(DataError) {
    guard count > 0 else { throw .badSetting("count", expected: "at least 1", found: "\(count)") }
    guard batchSize > 0 else { throw .badSetting("batch size", expected: "at least 1", found: "\(batchSize)") }
    guard window > 0 else { throw .badSetting("window", expected: "at least 1", found: "\(window)") }
    if let lengths, lengths.count != count {
      throw .badSetting("lengths", expected: "\(count) of them", found: "\(lengths.count)")
    }
    guard !dropsLast || count >= batchSize else {
      throw .badSetting("batch size", expected: "at most the \(count) items there are", found: "\(batchSize)")
    }
    self.count = count
    self.batchSize = batchSize
    self.seed = seed
    self.lengths = lengths
    self.window = window
    self.dropsLast = dropsLast
  }

  /// How many batches an epoch has.
  public var stepsPerEpoch: Int {
    let full = count / batchSize
    return dropsLast || count.isMultiple(of: batchSize) ? full : full + 1
  }

  /// The batches of an epoch, from `step` on: lists of item indices.
  public func batches(epoch: Int, from step: Int = 0) -> ArraySlice<[Int]> {
    var generator = SeededGenerator(seed: seed, stream: UInt64(bitPattern: Int64(epoch)))
    var order = Array(0..<count)
    generator.shuffle(&order)
    if dropsLast { order.removeLast(count % batchSize) }
    if let lengths {
      // Equal lengths keep their shuffled order.
      let place = order.count <= window &* batchSize ? order.count : window * batchSize
      var sorted: [Int] = []
      sorted.reserveCapacity(order.count)
      for start in stride(from: 0, to: order.count, by: place) {
        let part = order[start..<min(start + place, order.count)].enumerated()
        sorted += part.sorted { (lengths[$0.element], $0.offset) < (lengths[$1.element], $1.offset) }.map(\.element)
      }
      order = sorted
    }
    var batches = stride(from: 0, to: order.count, by: batchSize).map { start in
      Array(order[start..<min(start + batchSize, order.count)])
    }
    if lengths != nil { generator.shuffle(&batches) }
    return batches.dropFirst(max(0, step))
  }

  /// The place after `steps` batches from the beginning of the run.
  public func position(after steps: Int) -> Position {
    Position(epoch: steps / stepsPerEpoch, step: steps % stepsPerEpoch)
  }

  /// How many batches lie before a place.
  public func steps(before position: Position) -> Int {
    position.epoch * stepsPerEpoch + position.step
  }

  /// Which of an item's `choices` captions an epoch uses: each once in `choices` epochs, beginning anywhere.
  public func choice(epoch: Int, item: Int, of choices: Int) -> Int {
    guard choices > 1 else { return 0 }
    var generator = SeededGenerator(seed: seed ^ 0xCA97_1085, stream: UInt64(bitPattern: Int64(item)))
    return (generator.number(below: choices) + epoch % choices) % choices
  }
}
