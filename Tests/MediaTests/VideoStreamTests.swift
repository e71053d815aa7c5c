import Foundation
import Media
import Synchronization
import Testing

@Suite struct VideoStreamTests {
  /// A pipe into which a thread writes pieces of a file, with what is to happen at its end.
  private static func pipe(
    _ bytes: Data, piece: Int = 1000, keepOpen: Bool = false
  ) throws -> (read: Int32, close: @Sendable () -> Void) {
    var ends: [Int32] = [0, 0]
    try #require(Foundation.pipe(&ends) == 0)
    let write = ends[1]
    let isOpen = Mutex(true)
    let close: @Sendable () -> Void = {
      isOpen.withLock { open in
        if open { _ = Foundation.close(write) }
        open = false
      }
    }
    // A stream that is given up closes its end; the writer then gets an error and no signal.
    signal(SIGPIPE, SIG_IGN)
    Thread.detachNewThread {
      var place = 0
      while place < bytes.count {
        let end = min(place + piece, bytes.count)
        let sent = bytes[place..<end].withUnsafeBytes { Foundation.write(write, $0.baseAddress, $0.count) }
        guard sent > 0 else { break }
        place += sent
      }
      if !keepOpen { close() }
    }
    return (ends[0], close)
  }

  private static func frames(_ stream: VideoStream) throws -> [VideoFrame] {
    var frames: [VideoFrame] = []
    while let frame = try stream.next() { frames.append(frame) }
    #expect(try stream.next() == nil)
    return frames
  }

  @Test(arguments: [
    "fragments.mp4", "variable.mkv", "vp9.webm", "transport.ts", "theora.ogv", "mpeg4.avi", "program.mpg",
  ])
  func fromAPipe(_ name: String) throws {
    let clip = VideoFixtures.clip(name)
    let (descriptor, _) = try Self.pipe(Data(contentsOf: VideoFixtures.file(name)))
    defer { close(descriptor) }
    let found = try Self.frames(VideoStream(descriptor: descriptor, name: "pipe"))
    #expect(found.map { crc32($0.image.pixels) } == clip.crc)
    for (frame, time) in zip(found, clip.times) { #expect(abs(frame.seconds - time) < 1e-5) }
  }

  @Test func someFramesOnly() throws {
    let clip = VideoFixtures.clip("fragments.mp4")
    let (descriptor, _) = try Self.pipe(Data(contentsOf: VideoFixtures.file(clip.file)))
    defer { close(descriptor) }
    let stream = try VideoStream(descriptor: descriptor, name: "pipe", every: 0.2, size: .shorterSide(24))
    let found = try Self.frames(stream)
    #expect(found.map { ($0.seconds * 100).rounded() } == [0, 20, 40, 60, 80, 100])
    #expect(found.allSatisfy { $0.image.height == 24 && $0.image.width == 32 })
  }

  /// The first frames are there before the last have been written.
  @Test func framesComeWhileTheStreamRuns() throws {
    let clip = VideoFixtures.clip("transport.ts")
    let whole = try Data(contentsOf: VideoFixtures.file(clip.file))
    let (descriptor, _) = try Self.pipe(whole.prefix(whole.count * 9 / 10), keepOpen: true)
    defer { close(descriptor) }
    var limits = MovieLimits.default
    limits.maxSeconds = 3
    let stream = try VideoStream(descriptor: descriptor, name: "a pipe", limits: limits)
    var found: [UInt32] = []
    let error = #expect(throws: MediaError.self) {
      while let frame = try stream.next() { found.append(crc32(frame.image.pixels)) }
    }
    // It stalls, which is an error after three seconds, with all frames before it.
    guard case .timedOut("a pipe", _) = try #require(error) else {
      Issue.record("\(String(describing: error))")
      return
    }
    #expect(found.count > 5 && found == Array(clip.crc.prefix(found.count)))
  }

  @Test func aPipeClosedEarly() throws {
    let clip = VideoFixtures.clip("variable.mkv")
    let whole = try Data(contentsOf: VideoFixtures.file(clip.file))
    for part in [0.6, 0.8, 0.95] {
      let (descriptor, _) = try Self.pipe(whole.prefix(Int(Double(whole.count) * part)))
      defer { close(descriptor) }
      let found = try Self.frames(VideoStream(descriptor: descriptor, name: "pipe"))
      #expect(!found.isEmpty && found.count <= clip.crc.count)
      let good = zip(found, clip.crc).prefix { crc32($0.image.pixels) == $1 }.count
      #expect(good >= found.count - 2)
    }
    for length in [0, 1, 40] {
      let (descriptor, _) = try Self.pipe(whole.prefix(length))
      defer { close(descriptor) }
      #expect(throws: MediaError.self) { try VideoStream(descriptor: descriptor, name: "pipe") }
    }
  }

  /// The index of this MP4 comes after its frames: an error, not an empty video.
  @Test func anIndexAtTheEnd() throws {
    // 400 kB of nothing after the frames, more than any buffer could go back.
    var bytes = try Data(contentsOf: VideoFixtures.file("bframes.mp4"))
    let name = try #require(bytes.range(of: Data("mdat".utf8)))
    let start = name.lowerBound - 4
    let size = bytes[start..<start + 4].reduce(0) { $0 << 8 | Int($1) }
    bytes.insert(contentsOf: Data(count: 400_000), at: start + size)
    let longer = withUnsafeBytes(of: UInt32(size + 400_000).bigEndian) { Data($0) }
    bytes.replaceSubrange(start..<start + 4, with: longer)
    let (descriptor, _) = try Self.pipe(bytes, piece: 50_000)
    defer { close(descriptor) }
    let error = #expect(throws: MediaError.self) { try VideoStream(descriptor: descriptor, name: "pipe").next() }
    guard case .unsupportedOrCorrupt("pipe", "at least one frame", _) = try #require(error) else {
      Issue.record("\(String(describing: error))")
      return
    }
  }

  @Test func rubbishIsRefused() throws {
    let rubbish = Data((0..<200_000).map { UInt8(truncatingIfNeeded: $0 &* 2_654_435_761 >> 7) })
    let (descriptor, _) = try Self.pipe(rubbish, piece: 60_000)
    defer { close(descriptor) }
    #expect(throws: MediaError.self) { try VideoStream(descriptor: descriptor, name: "pipe") }
  }

  /// A file that is written while it is read.
  @Test func aGrowingFile() throws {
    let clip = VideoFixtures.clip("variable.mkv")
    let whole = try Data(contentsOf: VideoFixtures.file(clip.file))
    try Fixtures.withTemporaryFolder { folder in
      let file = folder.appending(path: "grows.mkv")
      try whole.prefix(6000).write(to: file)
      let writer = Thread {
        guard let handle = try? FileHandle(forWritingTo: file) else { return }
        _ = try? handle.seekToEnd()
        for place in stride(from: 6000, to: whole.count, by: 2000) {
          usleep(60_000)
          try? handle.write(contentsOf: whole[place..<min(place + 2000, whole.count)])
        }
        try? handle.close()
      }
      writer.start()
      let found = try Self.frames(VideoStream(following: file, patience: 2))
      #expect(found.map { crc32($0.image.pixels) } == clip.crc)
    }
  }

  @Test func aNamedPipe() throws {
    let clip = VideoFixtures.clip("fragments.mp4")
    let whole = try Data(contentsOf: VideoFixtures.file(clip.file))
    try Fixtures.withTemporaryFolder { folder in
      let file = folder.appending(path: "named")
      try #require(mkfifo(file.path, 0o600) == 0)
      Thread.detachNewThread {
        usleep(100_000)
        let descriptor = open(file.path, O_WRONLY)
        _ = whole.withUnsafeBytes { write(descriptor, $0.baseAddress, $0.count) }
        close(descriptor)
      }
      let found = try Self.frames(VideoStream(following: file))
      #expect(found.map { crc32($0.image.pixels) } == clip.crc)
    }
  }

  @Test func cancelling() throws {
    let whole = try Data(contentsOf: VideoFixtures.file("transport.ts"))
    let (descriptor, _) = try Self.pipe(whole, keepOpen: true)
    defer { close(descriptor) }
    let stream = try VideoStream(descriptor: descriptor, name: "pipe")
    let cancellation = stream.cancellation
    Thread.detachNewThread {
      usleep(300_000)
      cancellation.cancel()
    }
    #expect(throws: MediaError.cancelled("pipe")) { while try stream.next() != nil {} }
    #expect(throws: MediaError.cancelled("pipe")) { try stream.next() }
  }

  @Test func impossibleArguments() throws {
    let file = VideoFixtures.file("fragments.mp4")
    for every in [0, -1, .nan, .infinity] {
      #expect(throws: MediaError.self) { try VideoStream(following: file, every: every) }
    }
    #expect(throws: MediaError.self) { try VideoStream(following: file, patience: 0) }
    #expect(throws: MediaError.self) { try VideoStream(following: file, size: .shorterSide(0)) }
    #expect(throws: MediaError.self) { try VideoStream(descriptor: -1, name: "none") }
    let sound = #expect(throws: MediaError.self) {
      try VideoStream(following: VideoFixtures.file("speech.ogg"), patience: 0.1)
    }
    guard case .noTrack = try #require(sound) else {
      Issue.record("\(String(describing: sound))")
      return
    }
  }
}
