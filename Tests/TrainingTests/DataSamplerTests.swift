import Foundation
import Testing
import Training

@Suite("Random numbers and batches")
struct DataSamplerTests {
  @Test("SplitMix64 gives the published numbers")
  func splitMix() {
    var generator = SeededGenerator(seed: 1_234_567)
    #expect(
      (0..<5).map { _ in generator.next() } == [
        6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423, 4_593_380_528_125_082_431,
        16_408_922_859_458_223_821,
      ])
  }

  @Test("Numbers keep their bounds and their spread; streams differ")
  func numbers() {
    var generator = SeededGenerator(seed: 3)
    var counts = [Int](repeating: 0, count: 7)
    for _ in 0..<70_000 { counts[generator.number(below: 7)] += 1 }
    #expect(counts.allSatisfy { abs($0 - 10_000) < 500 })
    var sum = 0.0
    var squares = 0.0
    for _ in 0..<20_000 {
      let unit = generator.unit()
      #expect((0..<1).contains(unit))
      let normal = generator.normal()
      sum += normal
      squares += normal * normal
    }
    #expect(abs(sum / 20_000) < 0.03)
    #expect(abs(squares / 20_000 - 1) < 0.05)
    let first = Set(
      (0..<1000).map { stream in
        var generator = SeededGenerator(seed: 3, stream: UInt64(stream))
        return generator.next()
      })
    #expect(first.count == 1000)
  }

  @Test("Every item comes once an epoch, in an order of the epoch's own, the same each time")
  func epochs() throws {
    let sampler = try EpochSampler(count: 103, batchSize: 10, seed: 1)
    #expect(sampler.stepsPerEpoch == 11)
    let first = Array(sampler.batches(epoch: 0))
    #expect(first.count == 11)
    #expect(first.last?.count == 3)
    #expect(first.flatMap { $0 }.sorted() == Array(0..<103))
    #expect(first.flatMap { $0 } != Array(0..<103))
    #expect(Array(sampler.batches(epoch: 0)) == first)
    #expect(Array(sampler.batches(epoch: 1)) != first)
    #expect(Array(try EpochSampler(count: 103, batchSize: 10, seed: 2).batches(epoch: 0)) != first)
    let dropping = try EpochSampler(count: 103, batchSize: 10, seed: 1, dropsLast: true)
    #expect(dropping.stepsPerEpoch == 10)
    #expect(dropping.batches(epoch: 0).allSatisfy { $0.count == 10 })
    #expect(Set(dropping.batches(epoch: 0).flatMap { $0 }) != Set(dropping.batches(epoch: 1).flatMap { $0 }))
  }

  @Test("The order is pinned: a resumed run of an older version must meet the same batches")
  func pinned() throws {
    let sampler = try EpochSampler(count: 10, batchSize: 4, seed: 42)
    #expect(Array(sampler.batches(epoch: 0)) == [[0, 3, 5, 7], [9, 8, 2, 1], [4, 6]])
  }

  @Test("A run resumes at any place")
  func resume() throws {
    let sampler = try EpochSampler(count: 103, batchSize: 10, seed: 1, lengths: (0..<103).map { $0 % 17 }, window: 3)
    let whole = (0..<3).flatMap { Array(sampler.batches(epoch: $0)) }
    for done in [0, 1, 10, 11, 12, 25, 32] {
      let position = sampler.position(after: done)
      #expect(sampler.steps(before: position) == done)
      let rest = (position.epoch..<3).flatMap { epoch in
        Array(sampler.batches(epoch: epoch, from: epoch == position.epoch ? position.step : 0))
      }
      #expect(rest == Array(whole.dropFirst(done)))
    }
    #expect(sampler.position(after: 25) == EpochSampler.Position(epoch: 2, step: 3))
    let data = try JSONEncoder().encode(sampler.position(after: 25))
    #expect(try JSONDecoder().decode(EpochSampler.Position.self, from: data) == sampler.position(after: 25))
  }

  @Test("Buckets save padding and lose nothing")
  func buckets() throws {
    var generator = SeededGenerator(seed: 8)
    let lengths = (0..<1000).map { _ in 5 + generator.number(below: 30) }
    func padding(_ sampler: EpochSampler) -> Int {
      sampler.batches(epoch: 4).reduce(0) { sum, batch in
        let longest = batch.map { lengths[$0] }.max() ?? 0
        return sum + batch.reduce(0) { $0 + longest - lengths[$1] }
      }
    }
    let plain = try EpochSampler(count: 1000, batchSize: 8, seed: 1)
    let bucketed = try EpochSampler(count: 1000, batchSize: 8, seed: 1, lengths: lengths, window: 20)
    #expect(padding(bucketed) * 5 < padding(plain))
    let batches = Array(bucketed.batches(epoch: 4))
    #expect(batches.flatMap { $0 }.sorted() == Array(0..<1000))
    // The batches themselves are shuffled: their lengths do not rise from one to the next.
    let longest = batches.map { batch in batch.map { lengths[$0] }.max() ?? 0 }
    #expect(zip(longest, longest.dropFirst()).count { $0 > $1 } > 30)
    #expect(Array(bucketed.batches(epoch: 5)) != batches)
  }

  @Test("Each caption of a picture comes once in as many epochs as it has captions")
  func choices() throws {
    let sampler = try EpochSampler(count: 50, batchSize: 10, seed: 1)
    for item in 0..<50 {
      #expect(Set((3..<8).map { sampler.choice(epoch: $0, item: item, of: 5) }) == Set(0..<5))
    }
    #expect(Set((0..<50).map { sampler.choice(epoch: 0, item: $0, of: 5) }).count == 5)
    #expect(sampler.choice(epoch: 9, item: 1, of: 1) == 0)
  }

  @Test("A subset is the same each time and keeps the order")
  func subset() throws {
    let items = (0..<100).compactMap {
      CaptionedImage(id: "\($0)", captions: ["c"], frames: [DataLocation(path: "\($0).jpg")])
    }
    let set = try CaptionedImages(items)
    let part = try set.subset(limit: 10, seed: 4)
    #expect(part.count == 10)
    #expect(part == (try set.subset(limit: 10, seed: 4)))
    #expect(part != (try set.subset(limit: 10, seed: 5)))
    let places = part.compactMap { Int($0.id) }
    #expect(places == places.sorted())
    #expect(try set.subset(limit: 100, seed: 4) == set)
    #expect(throws: DataError.badSetting("limit", expected: "at least 1", found: "0")) { try set.subset(limit: 0) }
    #expect(throws: DataError.self) { try CaptionedImages([]) }
    #expect(CaptionedImage(id: "x", captions: [" "], frames: [DataLocation(path: "a")]) == nil)
    #expect(CaptionedImage(id: "x", captions: ["a"], frames: []) == nil)
  }

  @Test("Settings that make no batches are refused")
  func refusals() {
    #expect(throws: DataError.badSetting("count", expected: "at least 1", found: "0")) {
      try EpochSampler(count: 0, batchSize: 1, seed: 0)
    }
    #expect(throws: DataError.badSetting("batch size", expected: "at least 1", found: "0")) {
      try EpochSampler(count: 1, batchSize: 0, seed: 0)
    }
    #expect(throws: DataError.badSetting("window", expected: "at least 1", found: "0")) {
      try EpochSampler(count: 1, batchSize: 1, seed: 0, window: 0)
    }
    #expect(throws: DataError.badSetting("lengths", expected: "2 of them", found: "1")) {
      try EpochSampler(count: 2, batchSize: 1, seed: 0, lengths: [1])
    }
    #expect(throws: DataError.badSetting("batch size", expected: "at most the 3 items there are", found: "4")) {
      try EpochSampler(count: 3, batchSize: 4, seed: 0, dropsLast: true)
    }
  }
}
