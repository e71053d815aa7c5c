public import Foundation

/// Where a data set lies and which part of it is meant; one entry of a recipe's `data` list.
///
/// ```yaml
/// data:
///   - {format: webdataset, path: ~/data/flickr8k, split: train}
///   - {format: flickr8k-folder, path: Flickr8k, split: val, limit: 500}
///   - {format: captions-jsonl, path: stamps/captions.jsonl, repeat: 2}
/// ```
public struct DataSource: Codable, Sendable, Equatable {
  /// The layouts that are read.
  public enum Format: String, Codable, Sendable, CaseIterable {
    /// Tar files with `KEY.jpg` and `KEY.json` or `KEY.txt`; see ``WebDataset``.
    case webDataset = "webdataset"
    /// Flickr8k as it is passed around: a folder of pictures and a caption file; see ``Flickr8kFolder``.
    case flickr8kFolder = "flickr8k-folder"
    /// One JSON object a line, with paths of pictures; see ``CaptionsJSONL``.
    case captionsJSONL = "captions-jsonl"
  }

  /// The layout.
  public var format: Format
  /// The folder or file; `~` is the home folder, a relative path starts at the recipe's folder.
  public var path: String
  /// `train`, `val`, `test`, or what the data set calls its parts; nil for all of it.
  public var split: String?
  /// How often the pictures are listed, to weigh this source against others; 1 unless told otherwise. Key: `repeat`.
  public var repeats: Int
  /// At most so many pictures, drawn at random; nil for all.
  public var limit: Int?
  /// What the draw follows from; 0 unless told otherwise.
  public var seed: UInt64
  /// Only pictures of these categories; nil for all.
  public var categories: [String]?
  /// Whether clips are listed a second time, played backwards, where they tell what they show then.
  public var reversed: Bool

  /// Describes a source.
  public init(
    format: Format, path: String, split: String? = nil, repeats: Int = 1, limit: Int? = nil, seed: UInt64 = 0,
    categories: [String]? = nil, reversed: Bool = false
  ) {
    self.format = format
    self.path = path
    self.split = split
    self.repeats = repeats
    self.limit = limit
    self.seed = seed
    self.categories = categories
    self.reversed = reversed
  }

  private enum CodingKeys: String, CodingKey, CaseIterable {
    case format, path, split
    case repeats = "repeat"
    case limit, seed, categories, reversed
  }

  private struct AnyKey: CodingKey {
    var stringValue: String
    var intValue: Int? { nil }
    init(stringValue: String) { self.stringValue = stringValue }
    init?(intValue: Int) { nil }
  }

  /// Reads a source; an unknown format or key names the known ones.
  public init(from decoder: any Decoder) throws {
    let known = CodingKeys.allCases.map(\.rawValue)
    for key in try decoder.container(keyedBy: AnyKey.self).allKeys where !known.contains(key.stringValue) {
      throw Self.corrupted(
        decoder, "expected one of \(known.joined(separator: ", ")), found the key '\(key.stringValue)'")
    }
    let values = try decoder.container(keyedBy: CodingKeys.self)
    let name = try values.decode(String.self, forKey: .format)
    guard let format = Format(rawValue: name) else {
      let formats = Format.allCases.map(\.rawValue).joined(separator: ", ")
      throw DecodingError.dataCorruptedError(
        forKey: .format, in: values, debugDescription: "expected one of \(formats), found '\(name)'")
    }
    self.format = format
    path = try values.decode(String.self, forKey: .path)
    split = try values.decodeIfPresent(String.self, forKey: .split)
    repeats = try values.decodeIfPresent(Int.self, forKey: .repeats) ?? 1
    limit = try values.decodeIfPresent(Int.self, forKey: .limit)
    seed = try values.decodeIfPresent(UInt64.self, forKey: .seed) ?? 0
    categories = try values.decodeIfPresent([String].self, forKey: .categories)
    reversed = try values.decodeIfPresent(Bool.self, forKey: .reversed) ?? false
    guard !path.isEmpty else { throw Self.corrupted(decoder, "path: expected a folder or file, found nothing") }
    guard (1...1000).contains(repeats) else {
      throw Self.corrupted(decoder, "repeat: expected 1 to 1000, found \(repeats)")
    }
    if let limit, limit < 1 { throw Self.corrupted(decoder, "limit: expected at least 1, found \(limit)") }
    if let categories, categories.isEmpty {
      throw Self.corrupted(decoder, "categories: expected at least one, found none")
    }
  }

  private static func corrupted(_ decoder: any Decoder, _ words: String) -> DecodingError {
    .dataCorrupted(DecodingError.Context(codingPath: decoder.codingPath, debugDescription: words))
  }

  /// The path with `~` and the folder put in.
  public func resolvedPath(relativeTo folder: URL? = nil) -> String {
    let expanded = path.hasPrefix("~") ? NSString(string: path).expandingTildeInPath : path
    guard let folder, !expanded.hasPrefix("/") else { return expanded }
    return folder.appending(path: expanded).path(percentEncoded: false)
  }
}
