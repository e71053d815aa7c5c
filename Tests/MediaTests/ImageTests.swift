import Foundation
import Media
import Testing

@Suite struct ImageTests {
  @Test(arguments: Fixtures.manifest.decode)
  func decodes(_ fixture: Fixtures.Decode) throws {
    let image = try Image(contentsOf: Fixtures.file(fixture.file))
    try #require(image.width == fixture.width && image.height == fixture.height)
    let expected = [UInt8](try Data(contentsOf: Fixtures.expected(fixture.expected)))
    try #require(image.pixels.count == expected.count)
    let (most, mean) = difference(image.pixels, expected)
    #expect(most <= fixture.most && mean <= fixture.mean, "largest difference \(most), mean \(mean)")

    let fromMemory = try Image(data: Data(contentsOf: Fixtures.file(fixture.file)), name: fixture.file)
    #expect(fromMemory == image)
  }

  @Test(arguments: Fixtures.manifest.bad)
  func refuses(_ fixture: Fixtures.Bad) throws {
    let file = Fixtures.file(fixture.file)
    let error = try #require(throws: MediaError.self) { try Image(contentsOf: file) }
    let kind =
      switch error {
      case .unsupportedOrCorrupt: "unsupportedOrCorrupt"
      case .empty: "empty"
      case .tooLarge(_, let width, let height, let limit):
        width == 30_000 && height == 30_000 && limit == 100_000_000 ? "tooLarge" : "\(error)"
      default: "\(error)"
      }
    #expect(kind == fixture.error)
    let line = error.description
    #expect(line.hasPrefix(file.path(percentEncoded: false)) && !line.contains("\n"))
    #expect(error.errorDescription == line)
  }

  @Test func aFileCutOffAnywhereIsAnError() throws {
    for name in ["plain.jpg", "rgb.png", "lossy.webp", "rgb.tif", "pillow.bmp", "rgba16.png"] {
      let whole = try Data(contentsOf: Fixtures.file(name))
      for part in [0.1, 0.5, 0.8, 0.9] {
        let data = whole.prefix(Int(Double(whole.count) * part))
        #expect(throws: MediaError.self, "\(name) at \(part)") { try Image(data: data, name: name) }
      }
    }
  }

  @Test func limitsAreCheckedBeforeDecoding() throws {
    let file = Fixtures.file("orientation6.jpg")  // 41 x 27 as stored
    #expect(throws: MediaError.tooLarge(file.path, width: 27, height: 41, limit: 1_106)) {
      try Image(contentsOf: file, limits: ImageLimits(maxPixels: 1_106))
    }
    #expect(try Image(contentsOf: file, limits: ImageLimits(maxPixels: 1_107)).width == 27)
    let bytes = try Data(contentsOf: file).count
    #expect(throws: MediaError.fileTooLarge(file.path, bytes: bytes, limit: bytes - 1)) {
      try Image(contentsOf: file, limits: ImageLimits(maxFileBytes: bytes - 1))
    }
    #expect(throws: MediaError.fileTooLarge("a", bytes: bytes, limit: 10)) {
      try Image(data: Data(contentsOf: file), name: "a", limits: ImageLimits(maxFileBytes: 10))
    }
  }

  @Test func pathsThatAreNoFiles() throws {
    try Fixtures.withTemporaryFolder { folder in
      let missing = folder.appending(path: "none.png")
      #expect(throws: MediaError.noSuchFile(missing.path)) { try Image(contentsOf: missing) }
      let beneath = Fixtures.file("rgb.png").appending(path: "x.png")
      #expect(throws: MediaError.noSuchFile(beneath.path)) { try Image(contentsOf: beneath) }
      #expect(throws: MediaError.notAFile(folder.path, found: "a folder")) {
        try Image(contentsOf: URL(filePath: folder.path))
      }
      let pipe = folder.appending(path: "pipe.png")
      try #require(mkfifo(pipe.path, 0o600) == 0)
      #expect(throws: MediaError.notAFile(pipe.path, found: "a named pipe")) { try Image(contentsOf: pipe) }
      #expect(throws: MediaError.notAFile("/dev/zero", found: "a character device")) {
        try Image(contentsOf: URL(filePath: "/dev/zero"))
      }
      let locked = folder.appending(path: "locked.png")
      try Data([1]).write(to: locked)
      try #require(chmod(locked.path, 0) == 0)
      if geteuid() != 0 {  // the superuser may read everything
        #expect(throws: MediaError.unreadable(locked.path, reason: "Permission denied")) {
          try Image(contentsOf: locked)
        }
      }
    }
  }

  @Test func sizesMustFit() throws {
    #expect(throws: MediaError.self) { try Image(width: 2, height: 2, pixels: [0]) }
    #expect(throws: MediaError.self) { try Image(width: 0, height: 2, pixels: []) }
    #expect(throws: MediaError.self) { try Image(width: -1, height: -1, pixels: [1, 2, 3]) }
    #expect(throws: MediaError.self) { try Image(width: .max, height: .max, pixels: []) }
    var image = try Image(width: 2, height: 1, pixels: [1, 2, 3, 4, 5, 6])
    image.pixels.removeLast()
    #expect(throws: MediaError.self) { try image.pngData() }
    #expect(throws: MediaError.self) { try image.resized(width: 1, height: 1) }
  }

  @Test func encodesAndWrites() throws {
    let image = try Image(contentsOf: Fixtures.file("resize_scene.png"))
    #expect(try Image(data: image.pngData(), name: "png") == image)
    let small = try image.jpegData(quality: 30)
    let fine = try image.jpegData(quality: 95)
    #expect(small.count < fine.count)
    let back = try Image(data: fine, name: "jpeg")
    #expect(back.width == image.width && back.height == image.height)
    #expect(difference(back.pixels, image.pixels).mean < 4)
    #expect(throws: MediaError.self) { try image.jpegData(quality: 0) }
    #expect(throws: MediaError.self) { try image.jpegData(quality: 101) }

    try Fixtures.withTemporaryFolder { folder in
      let file = folder.appending(path: "a picture.png")
      try image.write(to: file)
      try image.write(to: file)  // over an older one
      #expect(try Image(contentsOf: file) == image)
      try image.write(to: folder.appending(path: "b.JPG"))
      #expect(try FileManager.default.contentsOfDirectory(atPath: folder.path).sorted() == ["a picture.png", "b.JPG"])
      for bad in [folder.appending(path: "c.bmp"), folder.appending(path: "none/c.png")] {
        let error = try #require(throws: MediaError.self) { try image.write(to: bad) }
        guard case .cannotWrite(bad.path, _) = error else {
          Issue.record("\(error)")
          continue
        }
      }
    }
  }

  /// Each thread's errors name its own file, and good decodes are not disturbed by bad ones beside them.
  @Test func manyThreadsAtOnce() async throws {
    let good = try Image(contentsOf: Fixtures.file("wide.png"))
    try await withThrowingTaskGroup(of: Void.self) { group in
      for i in 0..<200 {
        group.addTask {
          switch i % 4 {
          case 0: #expect(try Image(contentsOf: Fixtures.file("wide.png")) == good)
          case 1:
            let error = try #require(throws: MediaError.self) {
              try Image(contentsOf: Fixtures.file("truncated.jpg"))
            }
            #expect(error.description.contains("JPEG") && error.description.lowercased().contains("jpeg:"))
          case 2:
            let error = try #require(throws: MediaError.self) {
              try Image(contentsOf: Fixtures.file("truncated.png"))
            }
            #expect(error.description.contains("PNG") && error.description.contains("png"))
          default: #expect(try Image(contentsOf: Fixtures.file("animated.gif")).width == 40)
          }
        }
      }
      try await group.waitForAll()
    }
  }

  /// Damaged files are errors or pictures of the right size, never a crash.
  @Test func damagedBytes() throws {
    var state: UInt64 = 0x9E37_79B9_7F4A_7C15
    func random(_ below: Int) -> Int {
      state ^= state << 13
      state ^= state >> 7
      state ^= state << 17
      return Int(state % UInt64(below))
    }
    var failures = 0
    var tries = 0
    for fixture in Fixtures.manifest.decode {
      let whole = [UInt8](try Data(contentsOf: Fixtures.file(fixture.file)))
      for _ in 0..<6 {
        var bytes = whole
        for _ in 0...random(4) { bytes[random(bytes.count)] = UInt8(random(256)) }
        if random(4) == 0 { bytes.removeLast(random(bytes.count)) }
        tries += 1
        do {
          let image = try Image(data: Data(bytes), name: "x", limits: ImageLimits(maxPixels: 1_000_000))
          #expect(image.pixels.count == image.width * image.height * 3)
        } catch is MediaError {
          failures += 1
        }
      }
    }
    #expect(failures > tries / 10 && failures < tries)
  }
}
