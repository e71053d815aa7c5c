import Checkpoints
import Foundation
import QFormer
import TestSupport
import Testing
import Torch
import TorchNN

/// Windows and memory: what a stream says must equal what the whole clip says, and one stream must not know of another.
@Suite struct StreamingTests {
  let expected: Fixture
  let features: Tensor  // [2, 40, 7, 13]
  let seconds: [[Double]]

  init() throws {
    expected = try Fixture("video/cascade.safetensors")
    features = expected["in.features"]
    seconds = (0..<2).map { [expected] in expected["in.seconds"].select(0, $0).values(as: Double.self) }
  }

  func frame(_ clip: Int, _ number: Int) -> Tensor { features.select(0, clip).select(0, number) }

  func model(
    site: FrameEmbeddingSite = .afterFrameQFormer, encoding: TimeEncoding = .sinusoid,
    interpolation: TableInterpolation? = nil
  ) throws -> CascadedVideoQFormer {
    try Cascades.model(Cascades.configuration(site: site, encoding: encoding, interpolation: interpolation)).model
  }

  // MARK: Sliding windows

  @Test(arguments: [WindowPositions.global, .withinWindow]) func windowsOfAWholeClip(_ positions: WindowPositions)
    throws
  {
    let model = try model(encoding: .learned)
    let clip = try Cascades.clip([12, 7])
    let frames = try model.readFrames(clip)
    let window = SlidingWindow(length: 5, stride: 4, positions: positions)
    let (hidden, mask) = try model.readWindows(frames: frames, window: window)
    // ⌈12 / 4⌉ windows of 4 queries; the shorter clip ends in the second.
    #expect(hidden.shape == [2, 3 * 4, 18])
    #expect(mask.values(as: Int.self) == [Int](repeating: 1, count: 20) + [0, 0, 0, 0])
    #expect(hidden.select(0, 1).slice(0, 8).abs().max().item == 0)
    for (number, range) in [0..<5, 4..<9, 8..<12].enumerated() {
      for (row, length) in [12, 7].enumerated() where range.lowerBound < length {
        let count = min(range.upperBound, length) - range.lowerBound
        let part = try TimedFeatures(
          clip.features.narrow(0, row, 1).narrow(1, range.lowerBound, count))
        let alone = try model.readVideo(
          frames: model.readFrames(part), firstFrame: positions == .global ? range.lowerBound : 0)
        expectClose(hidden.narrow(0, row, 1).narrow(1, number * 4, 4), alone.hidden, relative: 2e-6)
      }
    }
  }

  @Test(arguments: [WindowPositions.global, .withinWindow]) func aStreamEqualsTheClip(_ positions: WindowPositions)
    throws
  {
    for site in FrameEmbeddingSite.allCases where site == .afterFrameQFormer || positions == .global {
      let model = try model(site: site)
      let clip = try TimedFeatures(features.narrow(0, 1, 1), seconds: expected["in.seconds"].narrow(0, 1, 1))
      let window = SlidingWindow(length: 6, stride: 4, positions: positions)
      let whole = try model.readWindows(frames: model.readFrames(clip), window: window).hidden
      var stream = try WindowStream(model, window: window)
      #expect(try stream.hidden == nil && stream.tokens == nil)
      for number in 0..<40 {
        let made = try stream.append(frame(1, number), seconds: seconds[1][number])
        #expect((made != nil) == (number >= 5 && (number - 5) % 4 == 0))
        if let made {
          #expect(made.frames == number - 5..<number + 1)
          #expect(made.seconds == seconds[1][number - 5]...seconds[1][number])
        }
        #expect(try #require(try stream.hidden).size(1) == (number + 4) / 4 * 4)
      }
      expectClose(try #require(try stream.hidden), whole, relative: 2e-6, "\(site)")
      expectClose(try #require(try stream.tokens), try model.languageTokens(whole), relative: 2e-6)
      #expect(try #require(try stream.tokens).shape == [1, 10 * 4, 11])
    }
  }

  /// As clips of a window's length are read on their own, which start at 0 seconds.
  @Test func secondsWithinAWindowCountFromItsStart() throws {
    let model = try model()
    let window = SlidingWindow(length: 3, stride: 2, positions: .withinWindow)
    let times = (0..<5).map { 1000 + 0.5 * Double($0 * $0) }
    let clip = try TimedFeatures(features.narrow(0, 0, 1).narrow(1, 0, 5), seconds: Tensor(times, [1, 5]))
    let whole = try model.readWindows(frames: model.readFrames(clip), window: window).hidden
    var stream = try WindowStream(model, window: window)
    #expect(try stream.rest == nil)
    for number in 0..<5 {
      let made = try stream.append(frame(0, number), seconds: times[number])
      guard let made else { continue }
      let part = try TimedFeatures(
        features.narrow(0, 0, 1).narrow(1, made.frames.lowerBound, 3),
        seconds: Tensor(times[made.frames].map { $0 - times[made.frames.lowerBound] }, [1, 3]))
      let alone = try model.readVideo(part).hidden
      expectClose(made.hidden, alone, relative: 2e-6)
      expectClose(whole.narrow(1, made.frames.lowerBound / 2 * 4, 4), alone, relative: 2e-6)
    }
    // Frame 4 ended a whole window: nothing is left, until one more comes.
    #expect(try stream.rest == nil)
    try stream.append(frame(0, 5), seconds: 1020)
    #expect(try stream.rest?.frames == 4..<6)
  }

  @Test func aWindowThatMovesByOneFramePaysForOneFrame() throws {
    let model = try model()
    var stream = try WindowStream(model, window: SlidingWindow(length: 4, stride: 1), history: 1)
    for number in 0..<20 {
      let given = frame(0, number).cloned()
      let made = try stream.append(given, seconds: seconds[0][number])
      // What has been read once is not read again: whoever did so would find nothing but this.
      given.copy(from: Tensor(Float.nan))
      #expect(stream.cachedFrames <= 4 && stream.windows.count <= 1 && stream.frameCount == number + 1)
      guard number >= 3 else { continue }
      let clip = try TimedFeatures(
        features.narrow(0, 0, 1).narrow(1, number - 3, 4),
        seconds: expected["in.seconds"].narrow(0, 0, 1).narrow(1, number - 3, 4))
      expectClose(try #require(made).hidden, try model.readVideo(clip).hidden, relative: 2e-6)
    }
  }

  @Test func twoStreamsNeverMix() throws {
    let model = try model()
    let window = SlidingWindow(length: 3, stride: 2)
    func alone(_ clip: Int, _ frames: Range<Int>) throws -> Tensor {
      var stream = try WindowStream(model, window: window)
      for number in frames { try stream.append(frame(clip, number), seconds: seconds[clip][number]) }
      return try #require(try stream.hidden)
    }
    var (one, other) = (try WindowStream(model, window: window), try WindowStream(model, window: window))
    for number in 0..<7 {
      try one.append(frame(0, number), seconds: seconds[0][number])
      try other.append(frame(1, number), seconds: seconds[1][number])
    }
    #expect(relativeError(try #require(try one.hidden), try alone(0, 0..<7)) == 0)
    #expect(relativeError(try #require(try other.hidden), try alone(1, 0..<7)) == 0)
    // A copy goes its own way.
    var copy = one
    try copy.append(frame(0, 30), seconds: 1000)
    #expect(one.frameCount == 7 && copy.frameCount == 8)
    #expect(relativeError(try #require(try one.hidden), try alone(0, 0..<7)) == 0)
    try one.append(frame(0, 7), seconds: seconds[0][7])
    #expect(relativeError(try #require(try one.hidden), try alone(0, 0..<8)) == 0)
    // As if new.
    one.reset()
    #expect(try one.frameCount == 0 && one.hidden == nil)
    for number in 2..<6 { try one.append(frame(1, number), seconds: seconds[1][number] - seconds[1][2]) }
    var new = try WindowStream(model, window: window)
    for number in 2..<6 { try new.append(frame(1, number), seconds: seconds[1][number] - seconds[1][2]) }
    #expect(relativeError(try #require(try one.hidden), try #require(try new.hidden)) == 0)
  }

  @Test func whatAStreamCannotTakeLeavesItAsItWas() throws {
    let model = try model(encoding: .learned, interpolation: .linear)
    var stream = try WindowStream(model, window: SlidingWindow(length: 4, stride: 4))
    for number in 0..<12 { try stream.append(frame(0, number), seconds: seconds[0][number]) }
    let before = try #require(try stream.hidden)
    // The table has 12 rows, and a stream has no end to stretch them over.
    let error = #expect(throws: QFormerError.self) { try stream.append(frame(0, 12), seconds: 100) }
    #expect(error?.description.contains("frame 13 is behind the 12 rows") == true)
    #expect(throws: QFormerError.self) { try stream.append(frame(0, 0), seconds: 1) }
    #expect(throws: QFormerError.self) { try stream.append(frame(0, 0), seconds: .nan) }
    #expect(throws: QFormerError.self) { try stream.append(.zeros([7, 12]), seconds: 100) }
    #expect(stream.frameCount == 12)
    #expect(relativeError(try #require(try stream.hidden), before) == 0)
    // Counted within each window it goes on for ever.
    var endless = try WindowStream(
      model, window: SlidingWindow(length: 4, stride: 4, positions: .withinWindow), history: 2)
    for number in 0..<40 { try endless.append(frame(0, number), seconds: seconds[0][number]) }
    #expect(endless.windows.map(\.frames) == [32..<36, 36..<40] && endless.cachedFrames == 0)
    for window in [
      SlidingWindow(length: 0, stride: 1), SlidingWindow(length: 3, stride: 4), SlidingWindow(length: 3, stride: 0),
    ] {
      #expect(throws: QFormerError.self) { try WindowStream(model, window: window) }
    }
    #expect(throws: QFormerError.self) {
      try WindowStream(self.model(site: .beforeFrameQFormer), window: SlidingWindow(positions: .withinWindow))
    }
    #expect(throws: QFormerError.self) { try WindowStream(model, history: -1) }
  }

  // MARK: Memory

  func adapter() throws -> ImageLanguageQFormer {
    var configuration = ImageLanguageConfiguration()
    configuration.qformer = Cascades.configuration().frame
    configuration.visionNormEps = 5e-3
    configuration.languageSize = 11
    return try loadModel(
      from: Fixture("video/cascade_weights.safetensors").checkpoint,
      ignoring: ["temporal.*", "audio.*", "after.*", "before.*"]
    ) { try ImageLanguageQFormer(configuration, $0) }.model
  }

  @Test(arguments: [1, 3, 20]) func memory(_ capacity: Int) throws {
    let model = try adapter()
    var stream = try MemoryStream(model, capacity: capacity)
    #expect(stream.tokens == nil)
    for number in 0..<10 {
      let given = frame(0, number).cloned()
      try stream.append(given)
      given.copy(from: Tensor(Float.nan))
      expectClose(
        try #require(stream.hidden).select(0, 0), expected["memory.\(capacity).hidden"].select(0, number), "\(number)")
      #expect(try #require(stream.sizes).size(1) == min(number + 1, capacity))
    }
    // Every frame is in there once.
    let sizes = try #require(stream.sizes).select(0, 0)
    #expect(sizes.values(as: Int.self) == expected["memory.\(capacity).sizes"].values(as: Int.self))
    #expect(sizes.sum(0).values(as: Int.self) == Array(repeating: 10, count: 7))
    #expect(try #require(stream.tokens).shape == [1, 5, 11])
    stream.reset()
    #expect(stream.frameCount == 0 && stream.hidden == nil && stream.sizes == nil)
    try stream.append(frame(0, 0))
    expectClose(
      try #require(stream.hidden), try model.readImage(features.narrow(1, 0, 1).select(0, 0)).hidden, relative: 1e-6)
  }

  @Test func memoriesNeverMix() throws {
    let model = try adapter()
    func alone(_ clip: Int) throws -> Tensor {
      var stream = try MemoryStream(model, capacity: 2)
      for number in 0..<6 { try stream.append(frame(clip, number)) }
      return try #require(stream.hidden)
    }
    var one = try MemoryStream(model, capacity: 2)
    var other = one
    for number in 0..<6 {
      try one.append(frame(0, number))
      try other.append(frame(1, number))
    }
    #expect(relativeError(try #require(one.hidden), try alone(0)) == 0)
    #expect(relativeError(try #require(other.hidden), try alone(1)) == 0)
    #expect(relativeError(try #require(other.hidden), try alone(0)) > 1e-3)
    // Frames of another size are an error and change nothing.
    #expect(throws: QFormerError.self) { try one.append(.zeros([6, 13])) }
    #expect(throws: QFormerError.self) { try one.append(.zeros([7, 14])) }
    var empty = try MemoryStream(model, capacity: 2)
    #expect(throws: QFormerError.self) { try empty.append(.zeros([0, 13])) }
    #expect(one.frameCount == 6)
    try one.append(frame(0, 6))
    #expect(throws: QFormerError.self) { try MemoryStream(model, capacity: 0) }
  }

  /// 1,500 frames of 0.4 MB each, were they kept. In a process of its own, whose memory is its alone.
  @Test(.enabled(if: residentMemory != nil, "resident memory is read from /proc/self/statm, which is not there"))
  func endlessStreamsKeepTheirMemory() async {
    await #expect(processExitsWith: .success) { try StreamingTests.readEndlessly() }
  }

  private static func readEndlessly() throws {
    var cascade = Cascades.configuration(encoding: .sinusoid)
    cascade.frame.encoderHiddenSize = 384
    cascade.frame.layers = 1
    var adapter = ImageLanguageConfiguration()
    adapter.qformer = cascade.frame
    let model = try CascadedVideoQFormer(cascade, ParameterScope(FreshParameters(seed: 1)))
    var stream = try WindowStream(model, window: SlidingWindow(length: 8, stride: 4), history: 2)
    var memory = try MemoryStream(
      ImageLanguageQFormer(adapter, ParameterScope(FreshParameters(seed: 1))), capacity: 2)
    let generator = Generator(seed: 3)
    var before = 0
    for number in 0..<1500 {
      let frame = Tensor.randn([257, 384], generator: generator)
      try stream.append(frame, seconds: Double(number) * 5)
      try memory.append(frame)
      if number == 100 { before = try #require(residentMemory) }
    }
    #expect(stream.frameCount == 1500 && stream.cachedFrames < 8 && stream.windows.count == 2)
    #expect(try #require(memory.sizes).sum(1).max().item == 1500)
    #expect(try #require(residentMemory) - before < 150_000_000)
  }

  @Test func neighboursThatAreMostAlikeAreMerged() throws {
    var bank = try MemoryBank(capacity: 3)
    // One token; the second and third frame point the same way, then the merged one and the fourth do not.
    for vector: [Float] in [[1, 0], [0, 1], [0, 3], [1, 1], [-1, 0]] { bank.append(Tensor(vector, [1, 1, 2])) }
    // [1, 0], ([0, 1] + [0, 3]) / 2 = [0, 2], [1, 1], [-1, 0]: of 0, 0.71 and −0.71 the second.
    let values = try #require(bank.values)
    expectClose(values.reshaped(3, 2), Tensor([Float(1), 0, 1 / 3, 5 / 3, -1, 0], [3, 2]), relative: 1e-6)
    #expect(try #require(bank.sizes).values(as: Int.self) == [1, 3, 1])
  }
}
