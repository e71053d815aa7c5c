import Checkpoints
import Foundation
import Pipelines
import TestSupport
import Testing
import Torch

@testable import Training

@Suite("Features on disk")
struct FeatureTests {
  /// Tiny models, pictures, and the folder of features.
  private struct Place {
    let models: TinyModels
    let images: CaptionedImages
    let features: URL

    init(_ folder: URL, pictures: Int) throws {
      models = try TinyModels(in: folder)
      let data = folder.appendingPathComponent("data")
      try TinyPictures.write(to: data, train: pictures, validation: 0)
      images = try .load(DataSource(format: .captionsJSONL, path: data.path))
      features = folder.appendingPathComponent("features")
    }

    func encoder() throws -> ImageEncoder { try ImageEncoder(TinyModels.encoder, store: models.store) }

    func open(views: Int = 1, _ encoder: () throws -> ImageEncoder) throws -> FeatureCache {
      try FeatureCache.open(
        images, views: views, configuration: TinyModels.encoder, folder: features, showsProgress: false,
        encoder: encoder)
    }

    var files: [String] { (try? FileManager.default.contentsOfDirectory(atPath: features.path))?.sorted() ?? [] }
  }

  private struct MustNotEncode: Error {}

  @Test("Pictures are encoded once; after that the file is opened")
  func once() throws {
    try withTemporaryFolder { folder in
      let place = try Place(folder, pictures: 11)
      let first = try place.open { try place.encoder() }
      #expect(first.count == 11 && first.width == TinyModels.encoderWidth)
      #expect(place.files.count == 1 && place.files[0].hasSuffix(".safetensors"), "\(place.files)")
      let again = try place.open { throw MustNotEncode() }
      #expect(again.batch([3, 0]).values(as: Float.self) == first.batch([3, 0]).values())
      // Values are the encoder's, in the order asked for, to the precision of float16.
      let images = try [7, 2].map { try TinyPictures.picture($0) }
      expectClose(first.batch([7, 2]), try place.encoder().features(images), relative: 1e-3)
      #expect(relativeError(first.batch([7]), first.batch([2])) > 0.01)
    }
  }

  @Test("Mirrored views lie beside the others; other settings have other files")
  func views() throws {
    try withTemporaryFolder { folder in
      let place = try Place(folder, pictures: 3)
      let plain = try place.open { try place.encoder() }
      let both = try place.open(views: 2) { try place.encoder() }
      #expect(place.files.count == 2)
      #expect(both.count == 3)
      let mirrored = try place.encoder().features([TinyPictures.picture(1)], flipped: true)
      expectClose(both.batch([1], mirrored: [true]), mirrored, relative: 1e-3)
      let mixed = both.batch([1, 1, 2], mirrored: [false, true, false])
      #expect(mixed.select(0, 0).values(as: Float.self) == plain.batch([1]).values())
      #expect(mixed.select(0, 1).values(as: Float.self) == both.batch([1], mirrored: [true]).values())
      #expect(relativeError(mixed.select(0, 0), mixed.select(0, 1)) > 0.001)
      // A cache of one view has no mirrored one to give.
      #expect(plain.batch([1], mirrored: [true]).values(as: Float.self) == plain.batch([1]).values())
    }
  }

  @Test("An interrupted encoding goes on where it was")
  func resumes() throws {
    try withTemporaryFolder { folder in
      // Two blocks of 256; the picture that is missing at first lies in the second.
      let place = try Place(folder, pictures: 258)
      let late = folder.appendingPathComponent("data/train-257.png")
      let picture = try Data(contentsOf: late)
      try FileManager.default.removeItem(at: late)
      #expect(throws: DataError.self) { try place.open { try place.encoder() } }
      #expect(place.files.count == 1 && place.files[0].hasSuffix(".parts"), "\(place.files)")
      let part = place.features.appendingPathComponent(place.files[0]).appendingPathComponent("0.safetensors")
      // A mark in the first block shows that it is taken as it is.
      let block = try SafetensorsFile(contentsOf: part).tensor("features").cloned()
      #expect(block.shape == [256, 1, TinyModels.imageTokens, TinyModels.encoderWidth])
      withNoGrad { block.select(0, 5).zero() }
      try SafetensorsFile.write([("features", block)], to: part)
      try picture.write(to: late)
      let cache = try place.open { try place.encoder() }
      #expect(cache.count == 258)
      #expect(cache.batch([5]).abs().max().item == 0)
      expectClose(cache.batch([257]), try place.encoder().features([TinyPictures.picture(257)]), relative: 1e-3)
      #expect(place.files.count == 1 && place.files[0].hasSuffix(".safetensors"), "\(place.files)")
    }
  }

  @Test("A file with another number of pictures is refused by name")
  func wrongCount() throws {
    try withTemporaryFolder { folder in
      let place = try Place(folder, pictures: 4)
      _ = try place.open { try place.encoder() }
      let file = place.features.appendingPathComponent(place.files[0])
      for shape in [[3, 1, 17, 16], [4, 2, 17, 16], [4, 17, 16]] {
        try SafetensorsFile.write([("features", Tensor.zeros(shape, dtype: .float16))], to: file)
        #expect {
          try place.open { throw MustNotEncode() }
        } throws: { error in
          guard case .malformed(let name, let expected, let found) = error as? CheckpointError else { return false }
          return name == file.path && expected.contains("[4, 1, N, Dv]") && found == "\(shape)"
        }
      }
    }
  }

  @Test("A folder that cannot be written is an error that names it")
  func unwritable() throws {
    try withTemporaryFolder { folder in
      let place = try Place(folder, pictures: 2)
      try Data().write(to: place.features)
      #expect {
        try place.open { try place.encoder() }
      } throws: { error in
        guard case .cannotWrite(let name, _) = error as? CheckpointError else { return false }
        return name.hasPrefix(place.features.path)
      }
    }
  }

  @Test("Rows of several caches behind each other, in the order asked for")
  func stack() throws {
    try withTemporaryFolder { folder in
      var caches: [FeatureCache] = []
      for (number, count) in [3, 1, 4].enumerated() {
        let place = try Place(folder.appendingPathComponent("\(number)"), pictures: count)
        _ = try place.open(views: 2) { try place.encoder() }
        // Image i of cache c holds 10 c + i, mirrored 0.5 more.
        let values = (0..<count).flatMap { index -> [Float] in
          let value = Float(10 * number + index)
          return [value, value + 0.5]
        }
        try SafetensorsFile.write(
          [("features", Tensor(values, [count, 2, 1, 1]).to(.float16))],
          to: place.features.appendingPathComponent(place.files[0]))
        caches.append(try place.open(views: 2) { throw MustNotEncode() })
      }
      let stack = FeatureStack(caches)
      #expect(stack.count == 8 && stack.width == 1)
      #expect(stack.batch(Array(0..<8)).values(as: Float.self) == [0, 1, 2, 10, 20, 21, 22, 23])
      #expect(stack.batch([7, 0, 3, 3, 4, 1]).values(as: Float.self) == [23, 0, 10, 10, 20, 1])
      #expect(
        stack.batch([7, 0, 3], mirrored: [true, false, true]).values(as: Float.self) == [23.5, 0, 10.5])
      let single = FeatureStack([caches[2]])
      #expect(single.batch([3, 1], mirrored: [false, true]).values(as: Float.self) == [23, 21.5])
      #expect(FeatureStack([]).count == 0)
    }
  }
}
