import Checkpoints
import Foundation
import Media
import Pipelines
import QFormer
import TestSupport
import Testing
import Torch

@testable import Training

@Suite("Clips as data")
struct ClipDataTests {
  private func video(_ name: String) -> URL { fixtures.appendingPathComponent("media/video/\(name)") }

  private func frames(_ count: Int, _ place: AdapterConfiguration.Frames.Place = .uniformMiddle)
    -> AdapterConfiguration.Frames
  {
    var frames = AdapterConfiguration.Frames()
    (frames.count, frames.place) = (count, place)
    return frames
  }

  /// Tiny models, and `captions.jsonl` of these lines.
  private struct Place {
    let models: TinyModels
    let folder: URL
    let source: DataSource

    init(_ folder: URL, _ lines: [String]) throws {
      self.folder = folder
      models = try TinyModels(in: folder)
      let data = folder.appendingPathComponent("data")
      try FileManager.default.createDirectory(at: data, withIntermediateDirectories: true)
      for number in 0..<4 { try TinyPictures.picture(number).write(to: data.appendingPathComponent("\(number).png")) }
      let file = data.appendingPathComponent("captions.jsonl")
      try Data(lines.joined(separator: "\n").utf8).write(to: file)
      source = DataSource(format: .captionsJSONL, path: file.path)
    }

    func encoder() throws -> ImageEncoder { try ImageEncoder(TinyModels.encoder, store: models.store) }

    func open(
      _ frames: AdapterConfiguration.Frames?, reversed: Bool = false, encoder: (() throws -> ImageEncoder)? = nil
    ) throws -> FeatureCache {
      var source = source
      source.reversed = reversed
      return try FeatureCache.open(
        .load(source), views: 1, frames: frames, configuration: TinyModels.encoder,
        folder: folder.appendingPathComponent("features"), showsProgress: false, encoder: encoder ?? self.encoder)
    }
  }

  private struct MustNotEncode: Error {}

  @Test("Frames of pictures, a video and a picture alone: each encoded once, padded, with mask and times")
  func cache() throws {
    try withTemporaryFolder { folder in
      let file = video("bframes.mp4")
      let place = try Place(
        folder,
        [
          #"{"images": ["0.png", "1.png", "2.png", "3.png", "1.png"], "seconds": [0, 1, 2, 3, 7], "caption": "a"}"#,
          #"{"video": "\#(file.path)", "caption": "b", "id": "clip"}"#, #"{"image": "3.png", "caption": "c"}"#,
        ])
      #expect(try CaptionedImages.load(place.source).map(\.id) == ["0.png", "clip", "3.png"])
      let cache = try place.open(frames(4))
      #expect(cache.count == 3 && cache.frames == 4 && cache.width == TinyModels.encoderWidth)
      let clips = cache.clips([1, 2, 0])
      #expect(clips.features.shape == [3, 4, 17, TinyModels.encoderWidth])
      #expect(clips.mask.values(as: Float.self) == [1, 1, 1, 1, 1, 0, 0, 0, 1, 1, 1, 1])
      // Five pictures in four parts: the middles are frames 0, 1, 3 and 4.
      #expect(clips.seconds.slice(0, 1).values(as: Float.self) == [0, 0, 0, 0, 0, 1, 3, 7])
      let pictures = try [0, 1, 3, 1].map { try TinyPictures.picture($0) }
      expectClose(clips.features.select(0, 2), try place.encoder().features(pictures), relative: 1e-3)
      #expect(clips.features.select(0, 1).slice(0, 1).abs().max().item == 0)
      let decoded = try VideoFile(contentsOf: file).frames(.uniformMiddle(4)).frames
      expectClose(clips.features.select(0, 0), try place.encoder().features(decoded.map(\.image)), relative: 1e-3)
      #expect(clips.seconds.select(0, 0).values(as: Float.self) == decoded.map { Float($0.seconds) })
      // Opened again it is read; other frames are another file.
      let again = try place.open(frames(4)) { throw MustNotEncode() }
      #expect(again.clips([0]).features.values(as: Float.self) == cache.clips([0]).features.values())
      #expect(throws: MustNotEncode.self) { try place.open(frames(3)) { throw MustNotEncode() } }
      #expect(throws: MustNotEncode.self) { try place.open(frames(4, .uniform)) { throw MustNotEncode() } }
      #expect(try place.open(frames(2, .uniform)).clips([0]).seconds.values(as: Float.self) == [0, 2])
    }
  }

  @Test("A picture file made anew under its old name is encoded anew")
  func age() throws {
    try withTemporaryFolder { folder in
      let place = try Place(folder, [#"{"images": ["0.png", "1.png"], "caption": "a"}"#])
      let first = try place.open(frames(2))
      try TinyPictures.picture(2, width: 41).write(to: folder.appendingPathComponent("data/1.png"))
      let second = try place.open(frames(2))
      #expect(relativeError(second.clips([0]).features, first.clips([0]).features) > 0.01)
    }
  }

  @Test("An interrupted encoding goes on where it was")
  func resumes() throws {
    try withTemporaryFolder { folder in
      // Blocks of two clips of 128 frames. The encoder is lost on the way to the second block.
      let lines = (0..<3).map { number in
        let names = Array(repeating: "\"\(number).png\"", count: 128)
        return #"{"images": [\#(names.joined(separator: ", "))], "caption": "a", "id": "\#(number)"}"#
      }
      let place = try Place(folder, lines)
      let late = folder.appendingPathComponent("data/2.png")
      let picture = try Data(contentsOf: late)
      let age = try #require(try FileManager.default.attributesOfItem(atPath: late.path)[.modificationDate] as? Date)
      func write(_ bytes: Data) throws {
        try bytes.write(to: late)
        try FileManager.default.setAttributes([.modificationDate: age], ofItemAtPath: late.path)
      }
      try write(Data(repeating: 0, count: picture.count))
      #expect(throws: MediaError.self) { try place.open(frames(128)) }
      let features = folder.appendingPathComponent("features")
      let parts = try #require(try FileManager.default.contentsOfDirectory(atPath: features.path).first)
      #expect(parts.hasSuffix(".parts"))
      // A mark in the first block shows that it is taken as it is.
      let part = features.appendingPathComponent("\(parts)/0.safetensors")
      let block = try SafetensorsFile(contentsOf: part)
      let tensors = try block.names.map { (name: $0, tensor: try block.tensor($0).cloned()) }
      withNoGrad { tensors.first { $0.name == "features" }?.tensor.select(0, 1).zero() }
      try SafetensorsFile.write(tensors, to: part)
      try write(picture)
      let cache = try place.open(frames(128))
      #expect(cache.count == 3 && cache.frames == 128)
      #expect(cache.clips([1]).features.abs().max().item == 0)
      let expected = try place.encoder().features([TinyPictures.picture(2)])
      expectClose(cache.clips([2]).features.select(1, 127), expected, relative: 1e-3)
    }
  }

  @Test("Rows of pictures and clips together: padded to the longest, and what a held-back model sees of them")
  func stack() throws {
    try withTemporaryFolder { folder in
      let clips = try Place(
        folder.appendingPathComponent("clips"),
        [
          #"{"images": ["0.png", "1.png", "2.png"], "caption": "a"}"#,
          #"{"images": ["2.png", "3.png"], "seconds": [1, 5], "caption": "b"}"#,
        ])
      let pictures = try Place(folder.appendingPathComponent("pictures"), [#"{"image": "3.png", "caption": "c"}"#])
      let caches = [try clips.open(frames(8)), try pictures.open(frames(8))]
      #expect(caches.map(\.frames) == [3, 1])
      let all = try FeatureStack(caches).clips([2, 0, 1])
      #expect(all.features.shape == [3, 3, 17, TinyModels.encoderWidth] && all.lengths == [1, 3, 2])
      #expect(all.mask?.values(as: Float.self) == [1, 0, 0, 1, 1, 1, 1, 1, 0])
      #expect(all.seconds?.values(as: Float.self) == [0, 0, 0, 0, 1, 2, 1, 5, 0])
      let short = try FeatureStack(caches).clips([1, 2])
      #expect(short.features.shape[1] == 2 && short.features.select(0, 0).shape[0] == 2)
      #expect(try FeatureStack(caches).clips([1]).mask == nil)
      let whole = all.features
      func picture(_ clip: Int, _ frame: Int) -> Tensor { whole.select(0, clip).select(0, frame) }

      let single = try FeatureStack(caches, baseline: .singleFrame).clips([2, 0, 1])
      #expect(single.features.shape[1] == 1 && single.mask == nil)
      #expect(single.seconds?.values(as: Float.self) == [0, 1, 5])
      for (clip, frame) in [(0, 0), (1, 1), (2, 1)] {
        #expect(single.features.select(0, clip).select(0, 0).values(as: Float.self) == picture(clip, frame).values())
      }
      let pooled = try FeatureStack(caches, baseline: .meanPooled).clips([2, 0, 1])
      #expect(pooled.lengths == all.lengths && pooled.seconds?.values(as: Float.self) == all.seconds?.values())
      let mean = (picture(2, 0) + picture(2, 1)) / 2
      for frame in 0..<2 { expectClose(pooled.features.select(0, 2).select(0, frame), mean, relative: 1e-6) }
      expectClose(
        pooled.features.select(0, 1).select(0, 2), (picture(1, 0) + picture(1, 1) + picture(1, 2)) / 3, relative: 1e-6)
    }
  }

  @Test(
    "Clips played backwards stand behind all others; their frames are read in the opposite order, from the same file")
  func reversed() throws {
    try withTemporaryFolder { folder in
      let place = try Place(
        folder,
        [
          #"{"images": ["0.png", "1.png", "2.png"], "seconds": [1, 2, 5], "caption": "a", "id": "x", "reversed": "#
            + #"{"captions": ["z", " y "], "questions": [{"question": "q", "answer": "n", "choices": ["m", "n"], "#
            + #""task": "t"}]}}"#,
          #"{"images": ["3.png", "2.png", "1.png", "0.png"], "caption": "b"}"#,
          #"{"images": ["1.png", "3.png"], "caption": "c", "reversed": {"captions": ["d"]}}"#,
        ])
      let forward = try place.open(frames(4))
      var source = place.source
      source.reversed = true
      let clips = try CaptionedImages.load(source)
      #expect(clips.map(\.id) == ["x", "3.png", "1.png", "x-reversed", "1.png-reversed"])
      #expect(clips.map(\.captions) == [["a"], ["b"], ["c"], ["z", "y"], ["d"]])
      #expect(clips.map(\.isReversed) == [false, false, false, true, true])
      #expect(clips[3].questions.map(\.answer) == ["n"] && clips[0].questions.isEmpty)

      let cache = try place.open(frames(4), reversed: true) { throw MustNotEncode() }
      #expect(cache.count == 5 && forward.count == 3)
      let (read, known) = (cache.clips([3, 1, 4, 0]), forward.clips([0, 1, 2]))
      #expect(read.mask.values(as: Float.self) == [1, 1, 1, 0, 1, 1, 1, 1, 1, 1, 0, 0, 1, 1, 1, 0])
      // Steps of 3 and 1 seconds after the first frame's time in the place of 1 and 3.
      #expect(read.seconds.values(as: Float.self) == [1, 4, 5, 0, 0, 1, 2, 3, 0, 1, 0, 0, 1, 2, 5, 0])
      func frame(_ clips: Tensor, _ row: Int, _ place: Int) -> [Float] {
        clips.select(0, row).select(0, place).values()
      }
      for place in 0..<3 { #expect(frame(read.features, 0, place) == frame(known.features, 0, 2 - place)) }
      for place in 0..<2 { #expect(frame(read.features, 2, place) == frame(known.features, 2, 1 - place)) }
      for place in 0..<4 { #expect(frame(read.features, 1, place) == frame(known.features, 1, place)) }
      for place in 0..<3 { #expect(frame(read.features, 3, place) == frame(known.features, 0, place)) }
      #expect(frame(known.features, 0, 0) != frame(known.features, 0, 2))
      #expect(read.features.select(0, 0).select(0, 3).abs().max().item == 0, "padding stays at the end")

      // Where pictures alone are read there is nothing to play backwards.
      #expect(throws: DataError.self) { try place.open(nil, reversed: true) }
      let untold = try Place(
        folder.appendingPathComponent("untold"), [#"{"images": ["0.png", "1.png"], "caption": "a"}"#])
      #expect(throws: DataError.self) { try untold.open(frames(2), reversed: true) }
    }
  }

  @Test("Pictures of a recipe on clips share the file of recipes on pictures; videos are no pictures")
  func pictures() throws {
    try withTemporaryFolder { folder in
      let place = try Place(folder, [#"{"image": "0.png", "caption": "a"}"#])
      _ = try place.open(nil)
      _ = try place.open(frames(8)) { throw MustNotEncode() }
      let videos = try Place(
        folder.appendingPathComponent("videos"), [#"{"video": "\#(video("bframes.mp4").path)", "caption": "a"}"#])
      #expect {
        try videos.open(nil)
      } throws: { error in
        guard case .badSetting(let name, _, let found) = error as? DataError else { return false }
        return name.hasSuffix("bframes.mp4") && found == "a video"
      }
      // A header without frames.
      let empty = try Place(
        folder.appendingPathComponent("empty"), [#"{"video": "\#(video("header.mp4").path)", "caption": "a"}"#])
      #expect {
        try empty.open(frames(8))
      } throws: { error in "\(error)".contains("header.mp4") && (error is MediaError || error is DataError) }
    }
  }

  @Test("WebDataset: frames by their numbers, videos in the archive, times and questions from the JSON")
  func webDataset() throws {
    try withTemporaryFolder { folder in
      let models = try TinyModels(in: folder)
      var archive = TarBuilder()
      for number in (0..<11).reversed() { archive.add("v.\(number).jpg", "\(number)") }
      archive.add(
        "v.json",
        #"{"captions": ["a"], "questions": [{"question": "q", "answer": "x", "choices": ["x", "y"], "task": "t"}]}"#)
      archive.add("w.gif", Array(try Data(contentsOf: video("moving.gif"))))
      archive.add("w.txt", "b")
      archive.end()
      let file = folder.appendingPathComponent("clips.tar")
      try Data(archive.bytes).write(to: file)
      let clips = try CaptionedImages.load(DataSource(format: .webDataset, path: file.path))
      #expect(try clips[0].frames.map { String(decoding: try $0.read(), as: UTF8.self) } == (0..<11).map(String.init))
      #expect(clips[0].questions.map(\.task) == ["t"] && !clips[0].isVideo && clips[1].isVideo)
      let gif = try CaptionedImages([clips[1]])
      let cache = try FeatureCache.open(
        gif, views: 1, frames: frames(3), configuration: TinyModels.encoder, folder: folder, showsProgress: false
      ) { try ImageEncoder(TinyModels.encoder, store: models.store) }
      #expect(cache.clips([0]).mask.values(as: Float.self) == [1, 1, 1])
    }
  }

  @Test("What is wrong with a clip or a question is named with its line")
  func badLines() throws {
    let scratch = try ScratchFolder()
    try scratch.write("a.png", "x")
    func question(_ fields: String) -> String {
      #"{"image": "a.png", "caption": "a", "questions": [{"question": "q", "task": "t", \#(fields)}]}"#
    }
    for (bad, words) in [
      (#"{"video": "none.mp4", "caption": "a"}"#, "expected the video \(scratch.path)/none.mp4, found no such file"),
      (#"{"images": [], "caption": "a"}"#, "'images' without a frame"),
      (#"{"video": "a.png", "image": "a.png", "caption": "a"}"#, "expected 'video' or pictures, found both"),
      (#"{"images": ["a.png"], "seconds": [0, 1], "caption": "a"}"#, "'seconds' of 1 pictures, found 2"),
      (#"{"images": ["a.png", "a.png"], "seconds": [1, 0], "caption": "a"}"#, "in order"),
      (question(#""answer": "x", "choices": ["y", "z"]"#), "'x', the answer to 'q', among the choices, found 'y', 'z'"),
      (question(#""answer": "x", "choices": ["x"]"#), "at least two choices for 'q', found 1"),
      (question(#""answer": "x", "choices": ["x", "x"]"#), "different choices for 'q'"),
      (question(#""answer": "", "choices": ["", "x"]"#), "'answer' with words, found an empty one"),
      (question(#""choices": ["x", "y"]"#), "no 'answer'"),
      (#"{"image": "a.png", "caption": "a", "reversed": {"captions": ["b"]}}"#, "a clip, since 'reversed' is told"),
      (#"{"images": ["a.png", "a.png"], "caption": "a", "reversed": {"captions": [" "]}}"#, "a caption in 'reversed'"),
      (
        #"{"images": ["a.png", "a.png"], "caption": "a", "reversed": {"captions": ["b"], "questions": [{"question": "q", "#
          + #""task": "t", "answer": "x", "choices": ["x"]}]}}"#, "at least two choices for 'q', found 1"
      ),
      (#"{"images": ["a.png", "a.png"], "caption": "a", "reversed": {"questions": []}}"#, "no 'captions'"),
    ] {
      let file = try scratch.write("captions.jsonl", bad)
      do {
        _ = try CaptionedImages.load(DataSource(format: .captionsJSONL, path: file))
        Issue.record("read without complaint: \(bad)")
      } catch {
        #expect(error.description.contains(words), "\(error)")
        #expect(error.description.contains("line 1"))
      }
    }
  }
}
