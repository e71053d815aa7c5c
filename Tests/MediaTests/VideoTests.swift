import Foundation
import Media
import Testing

@Suite struct VideoTests {
  @Test(arguments: VideoFixtures.manifest.clips)
  func headers(_ clip: VideoFixtures.Clip) throws {
    let video = try VideoFile(contentsOf: VideoFixtures.file(clip.file))
    #expect(video.container == clip.container && video.codec == clip.codec)
    #expect(video.width == clip.width && video.height == clip.height && video.rotation == clip.rotation)
    #expect(video.videoTracks == clip.videos && video.soundTracks == clip.sounds && video.hasSound == (clip.sounds > 0))
    let duration = try #require(video.duration)
    let rate = try #require(video.frameRate)
    #expect(abs(duration - clip.duration) < 1e-5 && abs(rate - clip.rate) < 1e-3 * clip.rate)
  }

  /// All frames in order: times as ffprobe lists them, pixels as ffmpeg converts them.
  @Test(arguments: VideoFixtures.manifest.clips)
  func allFrames(_ clip: VideoFixtures.Clip) throws {
    let video = try VideoFile(contentsOf: VideoFixtures.file(clip.file))
    let times = try video.frameTimes()
    try #require(times.count == clip.times.count)
    for (time, expected) in zip(times, clip.times) { #expect(abs(time - expected) < 1e-5) }
    let found = try video.frames(.uniform(times.count))
    #expect(found.lostPackets == 0)
    try #require(found.frames.count == times.count)
    let strip = try Image(contentsOf: VideoFixtures.file(clip.strip))
    for (place, index) in clip.shown.enumerated() {
      let image = found.frames[index].image
      let expected = strip.pixels[place * image.pixels.count..<(place + 1) * image.pixels.count]
      #expect(difference(image.pixels, Array(expected)).most <= 2, "frame \(index)")
    }
    for (index, frame) in found.frames.enumerated() {
      #expect(frame.seconds == times[index] && !frame.isDamaged)
      #expect(frame.image.width == clip.width && frame.image.height == clip.height)
      #expect(crc32(frame.image.pixels) == clip.crc[index], "frame \(index)")
    }
    let fromMemory = try VideoFile(data: Data(contentsOf: VideoFixtures.file(clip.file)), name: "x")
    #expect(try fromMemory.frames(.uniform(times.count)) == found)
  }

  /// Each frame by itself, found by seeking: the same pixels as in order.
  @Test(arguments: VideoFixtures.manifest.clips)
  func singleFrames(_ clip: VideoFixtures.Clip) throws {
    let video = try VideoFile(contentsOf: VideoFixtures.file(clip.file))
    for index in stride(from: clip.times.count - 1, through: 0, by: -3) {
      let time = clip.times[index]
      let frame = try #require(try video.frames(.seconds([max(time, 0)])).frames.first)
      #expect(abs(frame.seconds - time) < 1e-5 && crc32(frame.image.pixels) == clip.crc[index], "frame \(index)")
    }
    // Backwards and twice in one call.
    let times = Array(clip.times.reversed()) + [max(0, clip.times[0])]
    let found = try video.frames(.seconds(times)).frames
    let expected = Array(clip.crc.reversed()) + [clip.crc[0]]
    #expect(found.map { crc32($0.image.pixels) } == expected)
    // Some by their number: frames between are skipped, key frames are sought.
    for count in [1, 2, 3, 5] where count <= clip.times.count {
      let some = try video.frames(.uniformMiddle(count)).frames
      let places = (0..<count).map { (2 * $0 + 1) * clip.times.count / (2 * count) }
      #expect(some.map { crc32($0.image.pixels) } == places.map { clip.crc[$0] })
    }
  }

  @Test func timesBetweenFrames() throws {
    let clip = VideoFixtures.clip("variable.mkv")
    let video = try VideoFile(contentsOf: VideoFixtures.file(clip.file))
    for (index, (time, next)) in zip(clip.times, clip.times.dropFirst()).enumerated() {
      for part in [0.0, 0.5, 0.95] {
        let frame = try #require(try video.frames(.seconds([time + part * (next - time)])).frames.first)
        #expect(abs(frame.seconds - time) < 1e-5 && crc32(frame.image.pixels) == clip.crc[index])
      }
    }
    let end = try #require(video.duration)
    #expect(try video.frames(.seconds([end])).frames.map { crc32($0.image.pixels) } == [clip.crc[clip.crc.count - 1]])
    let late = #expect(throws: MediaError.self) { try video.frames(.seconds([0, end + 0.01])) }
    let words = try #require(late).description
    #expect(words.contains("times up to the end at"))
    // A video that begins later than its sound shows its first frame before.
    let other = VideoFixtures.clip("late.mkv")
    let first = try #require(
      try VideoFile(contentsOf: VideoFixtures.file(other.file)).frames(.seconds([0])).frames.first)
    #expect(abs(first.seconds - other.times[0]) < 1e-5 && other.times[0] >= 0.5)
  }

  @Test(arguments: ["bframes.mp4", "vp9.webm", "variable.mkv", "moving.gif", "transport.ts"])
  func fixedRate(_ name: String) throws {
    let clip = VideoFixtures.clip(name)
    let video = try VideoFile(contentsOf: VideoFixtures.file(name))
    for rate in [0.1, 1, 3, 10, 25, 400] {
      var expected: [Int] = []
      for k in 0... {
        let time = Double(k) / rate
        let last = clip.times[clip.times.count - 1]
        guard time < max(clip.duration, clip.isAnimation ? 0 : last + 1 / clip.rate) - 1e-6 else { break }
        let shown = max(0, (clip.times.firstIndex { $0 > time + 1e-6 } ?? clip.times.count) - 1)
        if expected.last != shown { expected.append(shown) }
      }
      let found = try video.frames(.rate(rate)).frames
      #expect(found.map { crc32($0.image.pixels) } == expected.map { clip.crc[$0] }, "\(rate) a second")
    }
  }

  @Test func placesOfChoices() throws {
    let clip = VideoFixtures.clip("bframes.mp4")
    let video = try VideoFile(contentsOf: VideoFixtures.file(clip.file))
    func places(_ choice: FrameChoice) throws -> [Int] {
      try video.frames(choice, size: .exactly(width: 8, height: 8)).frames.map { frame in
        clip.times.firstIndex { abs($0 - frame.seconds) < 1e-5 } ?? -1
      }
    }
    #expect(try places(.uniform(8)) == [0, 6, 12, 18, 25, 31, 37, 43])
    #expect(try places(.uniform(7)) == [0, 7, 14, 21, 28, 35, 42])
    #expect(try places(.uniformMiddle(4)) == [6, 18, 31, 43])
    #expect(try places(.uniform(1)) == [0])
    #expect(try places(.uniform(1000)) == Array(0..<50))
    #expect(try places(.headTail(1000, seed: 1)) == Array(0..<50))
    var seen = Set<[Int]>()
    for seed in 0..<6 {
      let found = try places(.headTail(9, seed: UInt64(seed)))
      #expect(found == found.sorted() && Set(found).count == 9)
      #expect(found.filter { $0 < 25 }.count == 4)
      #expect(try places(.headTail(9, seed: UInt64(seed))) == found)
      seen.insert(found)
    }
    #expect(seen.count == 6)
    for choice: FrameChoice in [
      .uniform(0), .uniform(-1), .uniformMiddle(0), .headTail(0, seed: 0), .rate(0), .rate(-1), .rate(.nan),
      .rate(.infinity), .seconds([]), .seconds([-1]), .seconds([.nan]), .seconds([.infinity]), .uniform(.max),
    ] {
      let error = #expect(throws: MediaError.self) { try video.frames(choice) }
      guard case .outOfRange = try #require(error) else {
        Issue.record("\(choice): \(String(describing: error))")
        continue
      }
    }
    #expect(throws: MediaError.self) { try video.forEachFrame(.seconds([1, 0])) { _ in } }
  }

  @Test func sizes() throws {
    let video = try VideoFile(contentsOf: VideoFixtures.file("turned90.mov"))  // 64 x 32 as stored
    #expect(video.width == 32 && video.height == 64)
    func size(_ size: FrameSize) throws -> [Int] {
      let image = try #require(try video.frames(.uniform(1), size: size).frames.first).image
      return [image.width, image.height, image.pixels.count]
    }
    #expect(try size(.full) == [32, 64, 32 * 64 * 3])
    #expect(try size(.shorterSide(16)) == [16, 32, 16 * 32 * 3])
    #expect(try size(.shorterSide(5)) == [5, 10, 150])
    #expect(try size(.shorterSide(100)) == [32, 64, 32 * 64 * 3])
    #expect(try size(.exactly(width: 7, height: 3)) == [7, 3, 63])
    // Scaled frames look like the frame: its mean colour stays.
    let full = try #require(try video.frames(.uniform(1)).frames.first).image.pixels
    let small = try #require(try video.frames(.uniform(1), size: .shorterSide(16)).frames.first).image.pixels
    for channel in 0..<3 {
      func mean(_ pixels: [UInt8]) -> Double {
        let levels = stride(from: channel, to: pixels.count, by: 3).map { Double(pixels[$0]) }
        return levels.reduce(0, +) / Double(levels.count)
      }
      #expect(abs(mean(full) - mean(small)) < 2)
    }
    let gif = try VideoFile(contentsOf: VideoFixtures.file("moving.gif"))
    #expect(try gif.frames(.uniform(1), size: .shorterSide(15)).frames[0].image.width == 20)
    for size: FrameSize in [
      .shorterSide(0), .shorterSide(-3), .exactly(width: 0, height: 1), .exactly(width: 1 << 40, height: 1),
    ] {
      #expect(throws: MediaError.self) { try video.frames(.uniform(1), size: size) }
    }
  }

  /// One after the other, and all that `body` throws comes through.
  @Test func oneAtATime() throws {
    struct Enough: Error {}
    let video = try VideoFile(contentsOf: VideoFixtures.file("bframes.mp4"))
    var count = 0
    #expect(throws: Enough.self) {
      try video.forEachFrame(.rate(25)) { _ in
        count += 1
        if count == 5 { throw Enough() }
      }
    }
    #expect(count == 5)
  }

  @Test func manyTasksAtOnce() async throws {
    let clips = VideoFixtures.manifest.clips
    try await withThrowingTaskGroup(of: Void.self) { group in
      for i in 0..<60 {
        group.addTask {
          let clip = clips[i % clips.count]
          let video = try VideoFile(contentsOf: VideoFixtures.file(clip.file))
          let found = try video.frames(.uniform(clip.crc.count)).frames
          #expect(found.map { crc32($0.image.pixels) } == clip.crc)
        }
      }
      try await group.waitForAll()
    }
  }

  @Test func aCancelledTaskStops() async throws {
    let task = Task {
      withUnsafeCurrentTask { $0?.cancel() }
      return try VideoFile(contentsOf: VideoFixtures.file("bframes.mp4")).frames(.uniform(8))
    }
    await #expect(throws: CancellationError.self) { try await task.value }
  }
}
