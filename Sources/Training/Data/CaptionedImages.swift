public import Foundation

/// A picture (or the frames of a clip, or a video) with its captions.
public struct CaptionedImage: Codable, Sendable, Equatable {
  /// What names the picture; equal ids are the same picture.
  public let id: String
  /// The captions, trimmed, none of them empty, at least one.
  public let captions: [String]
  /// The picture, or the frames in time order, or the one file of a video; at least one.
  public let frames: [DataLocation]
  /// Whether ``frames`` is a video, whose own frames are chosen when it is read.
  public let isVideo: Bool
  /// When each of the frames is shown, in seconds, if the data set tells it.
  public let seconds: [Double]?
  /// Its sound, in a file of its own; nil for pictures without any, and where a video's own track is meant.
  public let sound: DataLocation?
  /// Questions about it.
  public let questions: [Question]
  /// What is told of a clip that is played backwards, if the data set tells it.
  public let reversed: Reversed?
  /// Whether the clip is played backwards: its frames are read in the opposite order.
  public let isReversed: Bool
  /// The category or label, if the data set tells one.
  public let category: String?

  /// The picture, or the first frame, or the video.
  public var location: DataLocation { frames[0] }

  /// Trims the captions and drops empty ones; nil if no caption or no frame is left.
  public init?(
    id: String, captions: [String], frames: [DataLocation], isVideo: Bool = false, seconds: [Double]? = nil,
    questions: [Question] = [], category: String? = nil, sound: DataLocation? = nil, reversed: Reversed? = nil,
    isReversed: Bool = false
  ) {
    let trimmed = Self.trimmed(captions)
    guard !trimmed.isEmpty, !frames.isEmpty else { return nil }
    self.id = id
    self.captions = trimmed
    self.frames = frames
    self.isVideo = isVideo
    self.seconds = seconds
    self.questions = questions
    self.category = category
    self.sound = sound
    self.reversed = reversed
    self.isReversed = isReversed
  }

  private static func trimmed(_ captions: [String]) -> [String] {
    captions.map { $0.trimmingCharacters(in: .whitespacesAndNewlines) }.filter { !$0.isEmpty }
  }

  /// What is told of a clip that is played backwards.
  public struct Reversed: Codable, Sendable, Equatable {
    /// The captions, trimmed, none of them empty, at least one.
    public let captions: [String]
    /// Questions about it.
    public let questions: [Question]

    /// Trims the captions and drops empty ones; nil if none is left.
    public init?(captions: [String], questions: [Question] = []) {
      self.captions = CaptionedImage.trimmed(captions)
      self.questions = questions
      if self.captions.isEmpty { return nil }
    }
  }

  /// The clip played backwards; nil where nothing is told of that. Its sound stays as it is.
  public var playedBackwards: CaptionedImage? {
    guard let reversed, !isReversed else { return nil }
    return CaptionedImage(
      id: id + "-reversed", captions: reversed.captions, frames: frames, isVideo: isVideo, seconds: seconds,
      questions: reversed.questions, category: category, sound: sound, isReversed: true)
  }
}

/// A data set of pictures with captions. Pictures stay on disk until their ``DataLocation`` is read.
public struct CaptionedImages: Sendable, Equatable, RandomAccessCollection {
  /// The pictures; at least one.
  public let items: [CaptionedImage]

  /// A data set of these pictures.
  ///
  /// - Throws: ``DataError/empty(path:expected:)`` without a picture.
  public init(_ items: [CaptionedImage], from path: String = "data set") throws(DataError) {
    guard !items.isEmpty else { throw .empty(path: path, expected: "captioned picture") }
    self.items = items
  }

  /// Reads a source.
  ///
  /// - Parameters:
  ///   - source: what to read.
  ///   - folder: what a relative path starts from; the current folder unless told otherwise.
  /// - Throws: ``DataError`` that names the file, the sample, what was expected and what was found.
  public static func load(_ source: DataSource, relativeTo folder: URL? = nil) throws(DataError) -> CaptionedImages {
    let path = source.resolvedPath(relativeTo: folder)
    var items: [CaptionedImage]
    switch source.format {
    case .webDataset: items = try WebDataset.captionedImages(path: path, split: source.split)
    case .flickr8kFolder: items = try Flickr8kFolder.captionedImages(path: path, split: source.split)
    case .captionsJSONL: items = try CaptionsJSONL.captionedImages(path: path, split: source.split)
    }
    if let categories = source.categories {
      let found = Set(items.compactMap(\.category))
      if let unknown = categories.first(where: { !found.contains($0) }) {
        let known = found.isEmpty ? "a data set with categories" : "one of \(found.sorted().joined(separator: ", "))"
        throw .badSetting("categories of \(path)", expected: known, found: unknown)
      }
      items = items.filter { $0.category.map(categories.contains) ?? false }
    }
    var set = try CaptionedImages(items, from: path)
    if let limit = source.limit { set = try set.subset(limit: limit, seed: source.seed) }
    if source.reversed {
      let backwards = set.items.compactMap(\.playedBackwards)
      guard !backwards.isEmpty else {
        throw .badSetting("reversed of \(path)", expected: "clips that tell what is 'reversed'", found: "none")
      }
      set = try CaptionedImages(set.items + backwards)
    }
    guard source.repeats > 1 else { return set }
    return try CaptionedImages((0..<source.repeats).flatMap { _ in set.items })
  }

  /// Reads several sources and joins them in their order.
  public static func load(_ sources: [DataSource], relativeTo folder: URL? = nil) throws(DataError) -> CaptionedImages {
    var sets: [CaptionedImages] = []
    for source in sources { sets.append(try load(source, relativeTo: folder)) }
    return try concatenated(sets)
  }

  /// Joins data sets in their order.
  public static func concatenated(_ sets: [CaptionedImages]) throws(DataError) -> CaptionedImages {
    try CaptionedImages(sets.flatMap(\.items))
  }

  /// A random part of at most `limit` pictures, in their old order; the same for the same seed.
  ///
  /// - Throws: ``DataError/badSetting(_:expected:found:)`` unless `limit` is positive.
  public func subset(limit: Int, seed: UInt64 = 0) throws(DataError) -> CaptionedImages {
    guard limit > 0 else { throw .badSetting("limit", expected: "at least 1", found: "\(limit)") }
    guard limit < items.count else { return self }
    var generator = SeededGenerator(seed: seed)
    var order = Array(items.indices)
    generator.shuffle(&order)
    return try CaptionedImages(order.prefix(limit).sorted().map { items[$0] })
  }

  /// The pictures and clips whose files are read, and for each item its place among them: one that is played backwards is
  /// read once with the one that it reverses.
  var files: (items: CaptionedImages, rows: [Int]) {
    var kept: [CaptionedImage] = []
    var places: [[DataLocation?]: Int] = [:]
    let rows = items.map { item in
      let files = item.frames + [item.sound]
      if item.isReversed, let place = places[files] { return place }
      kept.append(item)
      places[files] = kept.count - 1
      return kept.count - 1
    }
    return (kept.count == items.count ? self : CaptionedImages(unchecked: kept), rows)
  }

  private init(unchecked items: [CaptionedImage]) { self.items = items }

  /// All captions in the order of the pictures, and for each the index of its picture.
  public var captionList: (captions: [String], imageOfCaption: [Int]) {
    var captions: [String] = []
    var owners: [Int] = []
    for (index, item) in items.enumerated() {
      captions += item.captions
      owners += Array(repeating: index, count: item.captions.count)
    }
    return (captions, owners)
  }

  /// The first index, 0.
  public var startIndex: Int { items.startIndex }
  /// One past the last index.
  public var endIndex: Int { items.endIndex }
  /// The picture at an index.
  public subscript(position: Int) -> CaptionedImage { items[position] }
}
