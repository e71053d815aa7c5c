/// Finds frames by ascending time in a file that can be read anywhere: decodes on where the next frame is near, seeks to
/// a key frame before it where that saves work.
struct FrameReader {
  let movie: Movie
  /// All frames, when they were listed: the targets are then the exact times of frames.
  let index: FrameIndex?

  private var current: Movie.Frame?
  private var earlier: Movie.Frame?
  /// Whether the next frame to come is one to go on from: right after opening, or after seeking.
  private var isPlaced: Bool
  /// All frames have come.
  private(set) var isAtEnd = false

  init(_ movie: Movie, index: FrameIndex?) {
    (self.movie, self.index) = (movie, index)
    isPlaced = index == nil  // listing leaves the movie at its end
  }

  /// A container whose index is read late (MKV) or that has none is believed to have a key frame within so many seconds.
  private static let likelyDistance = 5.0

  /// The last frame that is not after `target`; the first frame for targets before all others. `isEarlier` says which
  /// picture the movie holds it as. Targets ascend.
  mutating func frame(at target: Int64) throws -> (frame: Movie.Frame, isEarlier: Bool)? {
    if isAtEnd, let current, target >= current.presentation { return (current, false) }
    if !isPlaced || current.map({ target > $0.presentation }) ?? true {
      try approach(target)
    }
    while true {
      if let current {
        if current.presentation == target { return (current, false) }
        if current.presentation > target {
          if let earlier { return (earlier, true) }
          return (current, false)
        }
      }
      guard let next = try movie.next(wanted: index == nil ? .min : target) else {
        isAtEnd = true
        return current.map { ($0, false) }
      }
      (earlier, current) = (current, next)
    }
  }

  /// Seeks when there is a place between here and the target from which decoding can begin.
  private mutating func approach(_ target: Int64) throws {
    let here = current?.presentation
    var place: Int64?
    if let index {
      if let key = index.key(before: target), here.map({ key.presentation > $0 }) ?? true { place = key.decoding }
      if !isPlaced, place == nil, here == nil { return try begin() }
    } else if movie.knowsAllKeys {
      if let key = movie.keyBefore(target), key > (here ?? movie.ticks(0)) { place = key }
    } else {
      let distance = target.subtractingReportingOverflow(here ?? movie.ticks(0)).partialValue
      if distance > movie.length(FrameReader.likelyDistance) { place = target }
    }
    guard var place else { return }

    var back = movie.length(FrameReader.likelyDistance)
    for _ in 0..<4 {
      guard try movie.seek(place) else { break }
      (isPlaced, isAtEnd, earlier) = (true, false, nil)
      current = try movie.next(wanted: index == nil ? .min : target)
      // Some containers find a place only nearly, and a decoder may leave out what it cannot show yet.
      if let current, current.presentation <= target { return }
      place = movie.keyBefore(place - 1).flatMap { $0 < place ? $0 : nil } ?? (place &- back)
      back = back.multipliedReportingOverflow(by: 4).partialValue
    }
    try begin()
  }

  /// From the first frame on: always right, if slow.
  private mutating func begin() throws {
    try movie.restart()
    (isPlaced, isAtEnd, current, earlier) = (true, false, nil, nil)
  }
}
