import Foundation
import Media
import Testing

/// Video and sound from strangers: every bad file is one clear error, or the frames that are there.
@Suite struct BadVideoTests {
  @Test(arguments: VideoFixtures.manifest.bad)
  func refuses(_ fixture: VideoFixtures.Bad) throws {
    let file = VideoFixtures.file(fixture.file)
    let error = try #require(
      throws: MediaError.self
    ) { try VideoFile(contentsOf: file).frames(.uniform(4)) }
    let kind =
      switch error {
      case .unsupportedOrCorrupt: "unsupportedOrCorrupt"
      case .noTrack: "noTrack"
      case .tooLarge(_, 16384, 16384, 100_000_000): "tooLarge"
      default: "\(error)"
      }
    #expect(kind == fixture.error, "\(error)")
    let line = error.description
    #expect(line.hasPrefix(file.path(percentEncoded: false)) && !line.contains("\n"))
    #expect(line.contains("expected") && line.contains("found"))
  }

  @Test func anEmptyFile() throws {
    try Fixtures.withTemporaryFolder { folder in
      let empty = folder.appending(path: "empty.mp4")
      try Data().write(to: empty)
      #expect(throws: MediaError.empty(empty.path)) { try VideoFile(contentsOf: empty) }
      #expect(throws: MediaError.empty(empty.path)) { try AudioClip(contentsOf: empty) }
      #expect(throws: MediaError.empty("x")) { try VideoFile(data: Data(), name: "x") }
      #expect(throws: MediaError.empty("x")) { try AudioClip(data: Data(), name: "x") }
    }
  }

  @Test func pathsThatAreNoFiles() throws {
    try Fixtures.withTemporaryFolder { folder in
      let missing = folder.appending(path: "none.mp4")
      #expect(throws: MediaError.noSuchFile(missing.path)) { try VideoFile(contentsOf: missing) }
      #expect(throws: MediaError.noSuchFile(missing.path)) { try AudioClip(contentsOf: missing) }
      #expect(throws: MediaError.noSuchFile(missing.path)) { try VideoStream(following: missing) }
      #expect(throws: MediaError.notAFile(folder.path, found: "a folder")) {
        try VideoFile(contentsOf: URL(filePath: folder.path))
      }
      let pipe = folder.appending(path: "pipe.mp4")
      try #require(mkfifo(pipe.path, 0o600) == 0)
      #expect(throws: MediaError.notAFile(pipe.path, found: "a named pipe")) { try VideoFile(contentsOf: pipe) }
      #expect(throws: MediaError.notAFile("/dev/zero", found: "a character device")) {
        try VideoStream(following: URL(filePath: "/dev/zero"))
      }
      let address = try #require(URL(string: "http://127.0.0.1/a.mp4"))
      #expect(throws: MediaError.notAFile("http://127.0.0.1/a.mp4", found: "an address that is no file")) {
        try VideoFile(contentsOf: address)
      }
    }
  }

  /// A film of which the end is missing gives what is there and says what is lost.
  @Test func cutOff() throws {
    let clip = VideoFixtures.clip("bframes.mp4")
    let video = try VideoFile(contentsOf: VideoFixtures.file("cut_fast.mp4"))
    let found = try video.frames(.rate(25))
    #expect(found.frames.count > 10 && found.frames.count < 45)
    #expect(found.frames.count + found.lostPackets >= 45)  // of 50 that the index promises
    for (frame, crc) in zip(found.frames, clip.crc).prefix(found.frames.count - 4) {
      #expect(crc32(frame.image.pixels) == crc)
    }
  }

  /// Damage in the middle: frames before and after are those of the whole film, and the loss is told.
  @Test(arguments: [("damaged.ts", "transport.ts"), ("damaged.mp4", "bframes.mp4")])
  func damagedInTheMiddle(_ name: String, _ original: String) throws {
    let clip = VideoFixtures.clip(original)
    let video = try VideoFile(contentsOf: VideoFixtures.file(name))
    let found = try video.frames(.rate(1000))
    var good = 0
    for frame in found.frames {
      let index = clip.times.firstIndex { abs($0 - frame.seconds) < 1e-4 }
      if let index, crc32(frame.image.pixels) == clip.crc[index] { good += 1 }
    }
    let last = try #require(found.frames.last)
    #expect(crc32(found.frames[0].image.pixels) == clip.crc[0])
    #expect(crc32(last.image.pixels) == clip.crc[clip.crc.count - 1])
    #expect(good >= 12 && good < clip.crc.count)
    #expect(found.lostPackets > 0)
  }

  /// The container says 80 x 60, the frames are 64 x 48: what is decoded counts.
  @Test func aHeaderThatLies() throws {
    let clip = VideoFixtures.clip("one.mp4")
    let frames = try VideoFile(contentsOf: VideoFixtures.file("lying.mp4")).frames(.uniform(3)).frames
    #expect(frames.count == 1 && crc32(frames[0].image.pixels) == clip.crc[0])
  }

  @Test func limits() throws {
    func limits(_ change: (inout MovieLimits) -> Void) -> MovieLimits {
      var limits = MovieLimits.default
      change(&limits)
      return limits
    }
    let file = VideoFixtures.file("bframes.mp4")  // 64 x 48, two tracks, 50 frames
    #expect(throws: MediaError.tooLarge(file.path, width: 64, height: 48, limit: 3071)) {
      try VideoFile(contentsOf: file, limits: limits { $0.maxPixels = 3071 })
    }
    #expect(try VideoFile(contentsOf: file, limits: limits { $0.maxPixels = 3072 }).width == 64)
    #expect(throws: MediaError.outOfRange(file.path, expected: "at most 49 frames", found: "more")) {
      try VideoFile(contentsOf: file, limits: limits { $0.maxFrames = 49 }).frames(.uniform(1))
    }
    #expect(try VideoFile(contentsOf: file, limits: limits { $0.maxFrames = 50 }).frameTimes().count == 50)
    #expect(throws: MediaError.self) { try VideoFile(contentsOf: file, limits: limits { $0.maxTracks = 1 }) }
    let impatient = #expect(throws: MediaError.self) {
      try VideoFile(contentsOf: file, limits: limits { $0.maxSeconds = 0 })
    }
    guard case .timedOut = try #require(impatient) else {
      Issue.record("\(String(describing: impatient))")
      return
    }
    // Frames that are too large one by one are lost, and a video of such alone has none.
    #expect(throws: MediaError.self) {
      try VideoFile(contentsOf: file, limits: limits { $0.maxPacketBytes = 10 }).frames(.uniform(1))
    }
    #expect(throws: MediaError.outOfRange(file.path, expected: "at most 1.0 seconds of sound at a time", found: "more"))
    {
      try AudioClip(contentsOf: file, limits: limits { $0.maxSoundSeconds = 1 })
    }
    let gif = VideoFixtures.file("moving.gif")  // 40 x 30, 7 pages
    #expect(throws: MediaError.tooLarge(gif.path, width: 40, height: 30, limit: 1199)) {
      try VideoFile(contentsOf: gif, limits: limits { $0.maxPixels = 1199 })
    }
    #expect(throws: MediaError.self) { try VideoFile(contentsOf: gif, limits: limits { $0.maxPages = 6 }) }
    #expect(try VideoFile(contentsOf: gif, limits: limits { $0.maxPages = 7 }).frameTimes().count == 7)
    let bytes = try Data(contentsOf: gif).count
    #expect(throws: MediaError.fileTooLarge(gif.path, bytes: bytes, limit: bytes - 1)) {
      try VideoFile(contentsOf: gif, limits: limits { $0.maxFileBytes = bytes - 1 })
    }
    #expect(throws: MediaError.fileTooLarge("x", bytes: bytes, limit: 5)) {
      try VideoFile(data: Data(contentsOf: gif), name: "x", limits: limits { $0.maxFileBytes = 5 })
    }
  }

  /// Clips cut off anywhere and with bytes changed: errors or frames, never a crash, never long.
  @Test func damagedBytes() throws {
    var state: UInt64 = 0x9E37_79B9_7F4A_7C15
    func random(_ below: Int) -> Int {
      state ^= state << 13
      state ^= state >> 7
      state ^= state << 17
      return Int(state % UInt64(below))
    }
    var limits = MovieLimits.default
    limits.maxPixels = 1_000_000
    limits.maxSeconds = 5
    var (failures, tries) = (0, 0)
    for clip in VideoFixtures.manifest.clips {
      let whole = [UInt8](try Data(contentsOf: VideoFixtures.file(clip.file)))
      for attempt in 0..<16 {
        var bytes = whole
        // Headers lie at both ends, and damage there does most.
        for _ in 0...random(6) {
          let place = random(3)
          let span = place == 2 ? bytes.count : min(bytes.count, 800)
          let offset = random(span)
          bytes[place == 1 ? bytes.count - 1 - offset : offset] =
            [0, 1, 0x7F, 0x80, 0xFF, UInt8(random(256))][random(6)]
        }
        if attempt % 4 == 3 { bytes.removeLast(random(bytes.count)) }
        tries += 1
        do {
          let video = try VideoFile(data: Data(bytes), name: "x", limits: limits)
          let choice: FrameChoice = attempt % 2 == 0 ? .uniform(3) : .seconds([0, 0.2])
          for frame in try video.frames(choice, size: .shorterSide(24)).frames {
            #expect(frame.image.pixels.count == frame.image.width * frame.image.height * 3)
          }
          if video.hasSound { _ = try AudioClip(data: Data(bytes), name: "x", to: 1, limits: limits) }
        } catch is MediaError {
          failures += 1
        }
      }
    }
    #expect(tries > 300 && failures > tries / 10 && failures < tries)
  }
}
