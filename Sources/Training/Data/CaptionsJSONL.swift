import Foundation

/// Pictures and videos on disk with one JSON object a line.
///
/// ```json
/// {"image": "bee.png", "captions": ["a bee", "an insect"], "image_id": "bee", "split": "train", "category": "animals"}
/// {"video": "7.mp4", "captions": ["a bee moves left"], "id": "7", "questions": [{"question": "Where does the bee go?",
///  "answer": "left", "choices": ["left", "right"], "task": "direction"}]}
/// ```
///
/// One of `image`, `images` (the frames of a clip, perhaps with their `seconds`) and `video`, relative to the file's
/// folder; `audio`, a file with the sound of pictures, or the one that is heard in the place of a video's own track; `captions`
/// or `caption`; `reversed`, an object with `captions` and `questions` of the clip played backwards; the rest may be absent, but
/// when a split is asked for, every line must name its own.
/// A path may be the file, or a folder that holds `captions.jsonl`.
public enum CaptionsJSONL {
  private struct Line: Decodable {
    let image: String?
    let images: [String]?
    let video: String?
    let seconds: [Double]?
    let audio: String?
    let caption: String?
    let captions: [String]?
    let questions: [Question]?
    let reversed: Backwards?
    let imageID: String?
    let id: String?
    let split: String?
    let category: String?

    enum CodingKeys: String, CodingKey {
      case image, images, video, seconds, audio, caption, captions, questions, reversed
      case imageID = "image_id"
      case id, split, category
    }
  }

  private struct Backwards: Decodable {
    let captions: [String]
    let questions: [Question]?
  }

  static func captionedImages(path: String, split: String?) throws(DataError) -> [CaptionedImage] {
    let file = DataFolder.isFolder(path) == true ? path + "/captions.jsonl" : path
    let folder = (file as NSString).deletingLastPathComponent
    let decoder = JSONDecoder()
    var items: [CaptionedImage] = []
    var splits: Set<String> = []
    for (index, text) in try DataFolder.lines(file).enumerated() {
      guard !text.allSatisfy(\.isWhitespace) else { continue }
      let place = "line \(index + 1)"
      let line: Line
      do {
        line = try decoder.decode(Line.self, from: Data(text.utf8))
      } catch {
        throw .malformed(
          path: file, place: place, expected: "a JSON object with image and captions", found: DataFolder.reason(error))
      }
      if let split {
        guard let own = line.split else {
          throw .malformed(path: file, place: place, expected: "a split, since '\(split)' is asked for", found: "none")
        }
        splits.insert(own)
        if own != split { continue }
      }
      items.append(try item(line, file: file, folder: folder, place: place))
    }
    if let split, items.isEmpty, !splits.isEmpty {
      let known = splits.sorted().joined(separator: ", ")
      throw .badSetting("split of \(file)", expected: "one of \(known)", found: split)
    }
    return items
  }

  private static func item(
    _ line: Line, file: String, folder: String, place: String
  ) throws(DataError) -> CaptionedImage {
    func bad(_ expected: String, _ found: String) -> DataError {
      .badSample(path: file, key: place, expected: expected, found: found)
    }
    let pictures = line.images ?? line.image.map { [$0] } ?? []
    guard let first = line.video ?? pictures.first else {
      let found = line.images == nil ? "none of them" : "'images' without a frame"
      throw .malformed(path: file, place: place, expected: "'image', 'images' or 'video'", found: found)
    }
    guard line.video == nil || pictures.isEmpty else { throw bad("'video' or pictures", "both") }
    let names = line.video.map { [$0] } ?? pictures
    func located(_ name: String) -> DataLocation {
      DataLocation(path: name.hasPrefix("/") || folder.isEmpty ? name : folder + "/" + name)
    }
    let (frames, sound) = (names.map(located), line.audio.map(located))
    if let sound, DataFolder.isFolder(sound.path) != false { throw bad("the sound \(sound.path)", "no such file") }
    for frame in frames where DataFolder.isFolder(frame.path) != false {
      throw bad("the \(line.video == nil ? "picture" : "video") \(frame.path)", "no such file")
    }
    if let wrong = Self.objection(seconds: line.seconds, frames: line.video == nil ? frames.count : 0) {
      throw bad(wrong.expected, wrong.found)
    }
    guard line.reversed == nil || line.video != nil || frames.count > 1 else {
      throw bad("a clip, since 'reversed' is told", "one picture")
    }
    let reversed = line.reversed.map { CaptionedImage.Reversed(captions: $0.captions, questions: $0.questions ?? []) }
    if case .some(.none) = reversed { throw bad("a caption in 'reversed'", "none that is not empty") }
    for question in (line.questions ?? []) + (line.reversed?.questions ?? []) {
      if let wrong = question.objection { throw bad(wrong.expected, wrong.found) }
    }
    guard
      let item = CaptionedImage(
        id: line.imageID ?? line.id ?? first, captions: line.captions ?? line.caption.map { [$0] } ?? [],
        frames: frames,
        isVideo: line.video != nil, seconds: line.seconds, questions: line.questions ?? [], category: line.category,
        sound: sound, reversed: reversed ?? nil)
    else { throw bad("a caption", "none that is not empty") }
    return item
  }

  /// What is wrong with the times of frames, as (expected, found).
  static func objection(seconds: [Double]?, frames: Int) -> (expected: String, found: String)? {
    guard let seconds else { return nil }
    guard seconds.count == frames else { return ("'seconds' of \(frames) pictures", "\(seconds.count) of them") }
    guard seconds.allSatisfy({ $0.isFinite && $0 >= 0 }), zip(seconds, seconds.dropFirst()).allSatisfy({ $0 <= $1 })
    else { return ("'seconds' from 0 on, in order", "\(seconds)") }
    return nil
  }
}
