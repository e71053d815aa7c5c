import Foundation

/// Tar files in which the parts of a sample share a key: `KEY.jpg`, `KEY.json`, or the frames of a clip `KEY.0.jpg`,
/// `KEY.1.jpg` …, or a video `KEY.mp4`.
///
/// The key ends at the first dot of the file name. Frames go by their numbers, the first one leading where there are
/// several. A path may be one `.tar`, a folder of them, or a folder with a folder of them for each split (`train/`,
/// `val/`). Samples keep the order of the archives (by name) and of their first member.
public enum WebDataset {
  /// The parts of one sample.
  public struct Sample: Sendable, Equatable {
    /// The name up to its first dot, folders included.
    public let key: String
    /// The archive.
    public let path: String
    /// The parts by what follows the first dot of their names, lower case: `jpg`, `json`, `00.jpg`.
    public let parts: [String: DataLocation]

    /// The parts whose names end in one of these extensions, in the order of their numbers, or else of their names.
    public func parts(endingIn extensions: Set<String>) -> [DataLocation] {
      parts.filter { part in
        part.key.split(separator: ".").last.map { extensions.contains(String($0)) } ?? false
      }.sorted { (Self.number($0.key), $0.key) < (Self.number($1.key), $1.key) }.map(\.value)
    }

    /// What a part's name begins with; -1 for a name without a number.
    private static func number(_ part: String) -> Int { Int(part.prefix { $0.isASCII && $0.isNumber }) ?? -1 }
  }

  /// The extensions of pictures.
  public static let imageExtensions: Set<String> = ["jpg", "jpeg", "png", "webp"]
  /// The extensions of videos.
  public static let videoExtensions: Set<String> = ["mp4", "mov", "webm", "mkv", "avi", "mpg", "gif"]

  private static let longestText = 1 << 20

  /// What a sample's JSON may tell.
  private struct Sidecar: Decodable {
    let id: String?
    let captions: [String]
    let category: String?
    let seconds: [Double]?
    let questions: [Question]

    private enum CodingKeys: String, CodingKey {
      case imageID = "image_id"
      case captions, caption, category, label, seconds, questions
    }

    init(from decoder: any Decoder) throws {
      let values = try decoder.container(keyedBy: CodingKeys.self)
      if let text = try? values.decodeIfPresent(String.self, forKey: .imageID) {
        id = text
      } else {
        id = try values.decodeIfPresent(Int.self, forKey: .imageID).map { String($0) }
      }
      let list = try values.decodeIfPresent([String].self, forKey: .captions)
      captions = try list ?? values.decodeIfPresent(String.self, forKey: .caption).map { [$0] } ?? []
      // Other data sets keep numbers under these names; they are no categories.
      category =
        (try? values.decodeIfPresent(String.self, forKey: .category))
        ?? (try? values.decodeIfPresent(String.self, forKey: .label))
      seconds = try values.decodeIfPresent([Double].self, forKey: .seconds)
      questions = try values.decodeIfPresent([Question].self, forKey: .questions) ?? []
    }

    init(captions: [String]) {
      (id, self.captions, category, seconds, questions) = (nil, captions, nil, nil, [])
    }
  }

  /// The archives of a path and split, sorted by name.
  ///
  /// - Throws: ``DataError`` when there is none; the splits that exist are named.
  public static func archives(path: String, split: String?) throws(DataError) -> [String] {
    guard let isFolder = DataFolder.isFolder(path) else {
      throw .missing(path: path, expected: "a .tar file or a folder of them")
    }
    guard isFolder else {
      guard split == nil else {
        throw .badSetting("split of \(path)", expected: "none: this is a single archive", found: split ?? "")
      }
      return [path]
    }
    let names = try DataFolder.names(path)
    let tars = names.filter { $0.hasSuffix(".tar") }
    let splits = names.filter { name in
      DataFolder.isFolder(path + "/" + name) == true
        && ((try? DataFolder.names(path + "/" + name)) ?? []).contains { $0.hasSuffix(".tar") }
    }
    let list = splits.isEmpty ? "no folder with .tar files" : splits.joined(separator: ", ")
    if let split {
      guard splits.contains(split) else { throw .badSetting("split of \(path)", expected: list, found: split) }
      return try archives(path: path + "/" + split, split: nil)
    }
    if tars.isEmpty, !splits.isEmpty {
      throw .badSetting("split of \(path)", expected: "one of \(list)", found: "none")
    }
    guard !tars.isEmpty else { throw .empty(path: path, expected: ".tar file") }
    return tars.map { path + "/" + $0 }
  }

  /// All samples of a path and split.
  ///
  /// - Throws: ``DataError`` on a damaged archive, or a part that occurs twice in one.
  public static func samples(path: String, split: String? = nil) throws(DataError) -> [Sample] {
    var samples: [Sample] = []
    for archive in try archives(path: path, split: split) {
      var order: [String] = []
      var groups: [String: [String: DataLocation]] = [:]
      for member in try TarArchive(path: archive).members {
        let folderEnd = member.name.lastIndex(of: "/").map { member.name.index(after: $0) } ?? member.name.startIndex
        let file = member.name[folderEnd...]
        // Names without a dot or a key (README, .DS_Store) belong to no sample.
        guard let dot = file.firstIndex(of: "."), dot > file.startIndex else { continue }
        let key = String(member.name[..<dot])
        let part = file[file.index(after: dot)...].lowercased()
        if groups[key] == nil { order.append(key) }
        guard groups[key, default: [:]].updateValue(member.location, forKey: part) == nil else {
          throw .badSample(path: archive, key: key, expected: "each part once", found: "two of .\(part)")
        }
      }
      for key in order { samples.append(Sample(key: key, path: archive, parts: groups[key] ?? [:])) }
    }
    guard !samples.isEmpty else { throw .empty(path: path, expected: "sample") }
    return samples
  }

  /// The captions of a sample (and its id and category), from `KEY.json` or `KEY.txt`.
  ///
  /// JSON: `captions` (a list) or `caption` (a string), perhaps `image_id` and `category` or `label`. Text: each line that
  /// is not empty is a caption.
  ///
  /// - Throws: ``DataError`` when there is neither, or what there is cannot be read.
  public static func captions(
    of sample: Sample
  ) throws(DataError) -> (captions: [String], id: String?, category: String?) {
    let sidecar = try sidecar(of: sample)
    return (sidecar.captions, sidecar.id, sidecar.category)
  }

  private static func sidecar(of sample: Sample) throws(DataError) -> Sidecar {
    if let location = sample.parts["json"] {
      let data = try location.read(limit: longestText)
      do {
        return try JSONDecoder().decode(Sidecar.self, from: data)
      } catch {
        throw .badSample(
          path: sample.path, key: sample.key, expected: "JSON with 'captions' (a list) or 'caption'",
          found: DataFolder.reason(error))
      }
    }
    if let location = sample.parts["txt"] {
      let data = try location.read(limit: longestText)
      guard let text = String(validating: data, as: UTF8.self) else {
        throw .badSample(path: sample.path, key: sample.key, expected: "text in UTF-8", found: "other bytes")
      }
      return Sidecar(captions: text.split(whereSeparator: \.isNewline).map(String.init))
    }
    throw .badSample(path: sample.path, key: sample.key, expected: ".json or .txt", found: found(sample))
  }

  static func captionedImages(path: String, split: String?) throws(DataError) -> [CaptionedImage] {
    var items: [CaptionedImage] = []
    for sample in try samples(path: path, split: split) { items.append(try captionedImage(sample)) }
    return items
  }

  private static func captionedImage(_ sample: Sample) throws(DataError) -> CaptionedImage {
    func bad(_ expected: String, _ found: String) -> DataError {
      .badSample(path: sample.path, key: sample.key, expected: expected, found: found)
    }
    let pictures = sample.parts(endingIn: imageExtensions)
    let videos = sample.parts(endingIn: videoExtensions)
    guard !pictures.isEmpty || !videos.isEmpty else {
      func list(_ extensions: Set<String>) -> String { extensions.sorted().map { "." + $0 }.joined(separator: ", ") }
      throw bad("a picture (\(list(imageExtensions))) or a video (\(list(videoExtensions)))", found(sample))
    }
    guard videos.isEmpty || pictures.isEmpty && videos.count == 1 else {
      throw bad("pictures or one video", found(sample))
    }
    let sidecar = try sidecar(of: sample)
    if let wrong = CaptionsJSONL.objection(seconds: sidecar.seconds, frames: pictures.count) {
      throw bad(wrong.expected, wrong.found)
    }
    for question in sidecar.questions {
      if let wrong = question.objection { throw bad(wrong.expected, wrong.found) }
    }
    guard
      let item = CaptionedImage(
        id: sidecar.id ?? sample.key, captions: sidecar.captions, frames: pictures + videos, isVideo: !videos.isEmpty,
        seconds: sidecar.seconds, questions: sidecar.questions, category: sidecar.category)
    else { throw bad("a caption", "none that is not empty") }
    return item
  }

  private static func found(_ sample: Sample) -> String {
    "only " + sample.parts.keys.sorted().prefix(8).map { "." + $0 }.joined(separator: ", ")
  }
}
