import Foundation
import Media
import Pipelines
import TestSupport
import Testing

@Suite("Overlays and the gallery")
struct GalleryTests {
  private func grey(_ width: Int, _ height: Int) throws -> Image {
    try Image(width: width, height: height, pixels: Array(repeating: 100, count: width * height * 3))
  }

  @Test("The overlay is bright where attention goes, dark elsewhere, and as large as asked")
  func overlay() throws {
    // A quarter of a 4 × 4 grid, at the lower right.
    let weights = (0..<16).map { Float($0 % 4 >= 2 && $0 / 4 >= 2 ? 0.2 : 0.01) }
    let picture = try AttentionOverlay.draw(grey(80, 40), weights: weights)
    #expect(picture.width == 80 && picture.height == 40)
    func red(_ x: Int, _ y: Int) -> UInt8 { picture.pixels[(y * 80 + x) * 3] }
    // Tinted by 35 % towards 255: 100 + 155 · 0.35 = 154; dark: 100 · 0.3 = 30.
    #expect(red(75, 37) == 154)
    #expect(red(5, 37) == 30)
    #expect(red(75, 3) == 30)
    #expect(red(5, 3) == 30)
  }

  @Test("Large pictures are scaled, small ones are not; any shape will do")
  func sizes() throws {
    let weights = Array(repeating: Float(1), count: 9)
    let wide = try AttentionOverlay.draw(grey(1000, 20), weights: weights)
    #expect(wide.width == 320 && wide.height == 6)
    let tall = try AttentionOverlay.scaled(grey(3, 900), limit: 300)
    #expect(tall.width == 1 && tall.height == 300)
    let one = try AttentionOverlay.draw(grey(1, 1), weights: [0.5])
    #expect(one.width == 1 && one.height == 1)
    #expect(try AttentionOverlay.scaled(grey(30, 20), limit: 320) == grey(30, 20))
  }

  @Test("Weights that are no square or no numbers are refused")
  func badWeights() throws {
    let picture = try grey(8, 8)
    for weights in [[], [1, 2, 3], [.nan, 1, 1, 1], [1, .infinity, 1, 1]] as [[Float]] {
      #expect(throws: PipelineError.self) { try AttentionOverlay.draw(picture, weights: weights) }
    }
  }

  @Test("The page needs no other file and escapes every text")
  func page() throws {
    try withTemporaryFolder { folder in
      let entry = Gallery.Entry(
        name: "<b>.jpg", caption: "a \"dog\" & <script>alert(1)</script>", contrastive: ("x < y", 0.126),
        matching: nil, picture: try grey(8, 6), overlay: try grey(8, 6), credit: "Tom & Anna, CC0")
      let target = folder.appendingPathComponent("deep/gallery")
      let file = try Gallery.write([entry], candidates: 17, to: target)
      #expect(file.path == target.appendingPathComponent("index.html").path)
      #expect(try FileManager.default.contentsOfDirectory(atPath: target.path) == ["index.html"])
      let page = try String(contentsOf: file, encoding: .utf8)
      #expect(!page.contains("<script"))
      #expect(!page.contains("<b>"))
      #expect(page.contains("a &quot;dog&quot; &amp; &lt;script&gt;alert(1)&lt;/script&gt;"))
      #expect(page.contains("alt=\"&lt;b&gt;.jpg\""))
      #expect(page.contains("x &lt; y</dd><dd class=\"score\">0.13"))
      #expect(page.contains("Tom &amp; Anna, CC0"))
      #expect(page.contains("17 candidate"))
      #expect(!page.contains("ITM</dt>"))
      // Both pictures are in the page and can be decoded.
      let pictures = page.components(separatedBy: "data:image/jpeg;base64,").dropFirst()
      #expect(pictures.count == 2)
      for picture in pictures {
        let data = try #require(Data(base64Encoded: String(picture.prefix { $0 != "\"" })))
        #expect(try Image(data: data, name: "page").width == 8)
      }
    }
  }
}
