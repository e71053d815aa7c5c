import Foundation
import Media
import Testing

@Suite struct ResizeTests {
  /// The levels are Pillow's own, bit for bit.
  @Test(arguments: Fixtures.manifest.resize)
  func asPillow(_ fixture: Fixtures.Resize) throws {
    let source = try Image(contentsOf: Fixtures.file(fixture.source))
    let expected = try Image(contentsOf: Fixtures.expected(fixture.expected))
    let result = try source.resized(width: fixture.width, height: fixture.height)
    try #require(result.width == expected.width && result.height == expected.height)
    #expect(difference(result.pixels, expected.pixels).most == 0)
  }

  @Test func sameSizeIsTheSamePicture() throws {
    let source = try Image(contentsOf: Fixtures.file("resize_noise.png"))
    #expect(try source.resized(width: source.width, height: source.height) == source)
  }

  /// More taps than 32-bit sums of low halves could hold: they are carried over.
  @Test func aConstantStaysConstantAtAnyScale() throws {
    for (width, height, newWidth, newHeight) in [(60_000, 1, 3, 1), (1, 60_000, 1, 3), (9_001, 7, 1, 1)] {
      let white = try Image(width: width, height: height, pixels: [UInt8](repeating: 255, count: width * height * 3))
      #expect(try white.resized(width: newWidth, height: newHeight).pixels.allSatisfy { $0 >= 252 })
    }
    let grey = try Image(width: 3, height: 2, pixels: [UInt8](repeating: 77, count: 18))
    #expect(try grey.resized(width: 500, height: 300).pixels.allSatisfy { $0 == 77 })
  }

  @Test func impossibleSizes() throws {
    let image = try Image(width: 1, height: 1, pixels: [1, 2, 3])
    for (width, height) in [(0, 5), (5, 0), (-1, -1), (Int.max, 2), (20_000, 20_000), (1 << 25, 1)] {
      #expect(throws: MediaError.self) { try image.resized(width: width, height: height) }
    }
  }
}
