import Foundation
import Media
import Pipelines
import TestSupport
import Testing
import Torch

@Suite("Pixels for an encoder")
struct ImageProcessorTests {
  @Test("Resized and normalised as Pillow and NumPy do it", arguments: ["wide", "small", "same"])
  func values(name: String) throws {
    let fixture = try Fixture("pipelines/processor.safetensors")
    let picture = fixture["picture.\(name)"]
    let image = try Image(width: picture.size(1), height: picture.size(0), pixels: picture.values())
    for (processor, constants) in [(ImageProcessor.imageNet(size: 14), "imagenet"), (.clip(size: 14), "clip")] {
      let pixels = try processor.pixels([image])
      #expect(pixels.shape == [1, 3, 14, 14])
      #expect(pixels.dtype == .float32)
      expectClose(pixels.select(0, 0), fixture["\(constants).\(name)"], relative: 1e-6, "\(constants) \(name)")
    }
  }

  @Test("A batch holds what each picture gives alone, in its order")
  func batch() throws {
    let processor = ImageProcessor.imageNet(size: 28)
    let images = try (0..<3).map { try TinyPictures.picture($0, width: 30 + $0, height: 20 + 2 * $0) }
    let together = try processor.pixels(images)
    #expect(together.shape == [3, 3, 28, 28])
    for (row, image) in images.enumerated() {
      #expect(try processor.pixels([image]).select(0, 0).values(as: Float.self) == together.select(0, row).values())
    }
  }
}
