import Foundation

/// Pictures on disk with one JSON object a line.
///
/// ```json
/// {"image": "bee.png", "captions": ["a bee", "an insect"], "image_id": "bee", "split": "train", "category": "animals"}
/// ```
///
/// `image` (or `images`, the frames of a clip) is relative to the file's folder; `captions` or `caption`; the rest may be
/// absent, but when a split is asked for, every line must name its own. A path may be the file, or a folder that holds
/// `captions.jsonl`.
public enum CaptionsJSONL {
  private struct Line: Decodable {
    let image: String?
    let images: [String]?
    let caption: String?
    let captions: [String]?
    let imageID: String?
    let split: String?
    let category: String?

    enum CodingKeys: String, CodingKey {
      case image, images, caption, captions
      case imageID = "image_id"
      case split, category
    }
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
      let names = line.images ?? line.image.map { [$0] } ?? []
      guard let first = names.first else {
        throw .malformed(path: file, place: place, expected: "'image' or 'images'", found: "neither")
      }
      let frames = names.map { DataLocation(path: $0.hasPrefix("/") || folder.isEmpty ? $0 : folder + "/" + $0) }
      for frame in frames where DataFolder.isFolder(frame.path) != false {
        throw .badSample(path: file, key: place, expected: "the picture \(frame.path)", found: "no such file")
      }
      let captions = line.captions ?? line.caption.map { [$0] } ?? []
      guard
        let item = CaptionedImage(
          id: line.imageID ?? first, captions: captions, frames: frames, category: line.category)
      else { throw .badSample(path: file, key: place, expected: "a caption", found: "none that is not empty") }
      items.append(item)
    }
    if let split, items.isEmpty, !splits.isEmpty {
      let known = splits.sorted().joined(separator: ", ")
      throw .badSetting("split of \(file)", expected: "one of \(known)", found: split)
    }
    return items
  }
}
