// What the video and audio Q-Formers take: features in time, with what is padding and when each piece was.
//
// B batch · T frames or pieces of sound · N tokens of a frame

public import Torch

/// Features of a batch of clips, in time: frames `[B, T, N, Dv]`, query outputs of frames `[B, T, M, D]`, or pieces of
/// sound `[B, T, Da]`. Clips shorter than T are padded; an image is a clip of one frame.
public struct TimedFeatures: Sendable {
  /// `[B, T, …]`.
  public let features: Tensor
  /// `[B, T]`, 1 for frames and 0 for padding; nil when every frame counts.
  public let mask: Tensor?
  /// `[B, T]`, when each frame is shown, in seconds; nil where nothing asks for it.
  public let seconds: Tensor?
  /// Whether the LayerNorm that an adapter has on encoder features has gone over them already.
  public let areEmbeds: Bool
  /// For each clip the number of frames up to its last one that is no padding.
  public let lengths: [Int]
  /// Whether each of the B · T frames counts, clip after clip; nil when all do.
  private let counts: [Bool]?

  /// Checks the shapes.
  ///
  /// - Parameters:
  ///   - features: `[B, T, …]`, of at least three dimensions.
  ///   - mask: `[B, T]`, 1 for frames and 0 for padding; every clip needs a frame.
  ///   - seconds: `[B, T]`; those of padding do not matter.
  ///   - areEmbeds: Whether they come from ``VideoQFormer/imageEmbeds(_:)`` instead of an encoder.
  /// - Throws: ``QFormerError``.
  public init(_ features: Tensor, mask: Tensor? = nil, seconds: Tensor? = nil, areEmbeds: Bool = false) throws {
    guard features.rank >= 3, features.count > 0 else {
      throw QFormerError.wrongShape(what: "features in time", expected: "[B, T, …] without a 0", found: features.shape)
    }
    let (batch, frames) = (features.size(0), features.size(1))
    for (name, tensor) in [("frame mask", mask), ("seconds", seconds)] {
      if let tensor, tensor.shape != [batch, frames] {
        throw QFormerError.wrongShape(what: name, expected: "[B, T] = [\(batch), \(frames)]", found: tensor.shape)
      }
    }
    self.features = features
    self.areEmbeds = areEmbeds
    self.mask = mask
    self.seconds = mask.flatMap { mask in seconds?.maskedFill(mask.equal(0), 0) } ?? seconds
    counts = mask.map { $0.notEqual(0).values(as: Int64.self).map { $0 != 0 } }
    guard let counts else {
      lengths = Array(repeating: frames, count: batch)
      return
    }
    var lengths: [Int] = []
    for clip in 0..<batch {
      guard let last = counts[clip * frames..<(clip + 1) * frames].lastIndex(of: true) else {
        throw QFormerError.invalidInput("clip \(clip) of the batch has no frame: its whole mask is 0")
      }
      lengths.append(last + 1 - clip * frames)
    }
    self.lengths = lengths
  }

  private init(_ features: Tensor, of other: TimedFeatures) {
    self.features = features
    (mask, seconds, lengths, counts) = (other.mask, other.seconds, other.lengths, other.counts)
    areEmbeds = other.areEmbeds
  }

  /// B.
  public var batch: Int { features.size(0) }

  /// T.
  public var frames: Int { features.size(1) }

  /// Other features `[B, T, …]` of the same frames.
  func replacing(_ features: Tensor) -> TimedFeatures { TimedFeatures(features, of: self) }

  /// The mask of N tokens for each frame, `[B, T · N]`, frame after frame.
  func tokenMask(_ tokens: Int) -> Tensor? { mask?.repeatInterleaved(tokens, 1) }

  /// The mask as `float32 [B, T]`; ones when every frame counts.
  var weights: Tensor { mask.map { $0.notEqual(0).to(.float32) } ?? .ones([batch, frames]) }

  /// The features with zeros for padding, whatever was there.
  var cleaned: Tensor {
    guard let mask else { return features }
    let shape = [batch, frames] + Array(repeating: 1, count: features.rank - 2)
    return features.maskedFill(mask.equal(0).reshaped(shape), 0)  // [B, T] → [B, T, 1, …]
  }

  /// Checks that these are frames of encoder features, `[B, T, N, width]`.
  ///
  /// - Throws: ``QFormerError/wrongShape(what:expected:found:)``.
  func requireFrames(width: Int) throws {
    guard features.rank == 4, features.size(3) == width else {
      throw QFormerError.wrongShape(what: "frame features", expected: "[B, T, N, \(width)]", found: features.shape)
    }
  }

  /// For each clip the numbers of its frames that count.
  var countedFrames: [[Int]] {
    (0..<batch).map { clip in (0..<frames).filter { counts?[clip * frames + $0] ?? true } }
  }

  /// Every clip stretched over all T places: at place t of a clip with n frames that count stands ⌊t · n / T⌋ of them.
  /// What gives tokens for each frame gives every clip of a batch equally many in this way, and none for padding.
  ///
  /// - Throws: Nothing that the features have not been checked for.
  func stretched() throws -> TimedFeatures {
    guard mask != nil else { return self }
    let places = countedFrames.enumerated().flatMap { clip, counted in
      (0..<frames).map { clip * frames + counted[$0 * counted.count / frames] }
    }
    func chosen(_ tensor: Tensor) -> Tensor {
      let flat = tensor.reshaped([batch * frames] + tensor.shape.dropFirst(2))  // [B, T, …] → [B · T, …]
      return flat.indexSelect(0, Tensor(places)).reshaped(tensor.shape)
    }
    return try TimedFeatures(chosen(features), seconds: seconds.map(chosen), areEmbeds: areEmbeds)
  }

  /// Calls `body` with the frames that count, `[K, …]`, and puts its results `[K, …]` back in their places, `[B, T,
  /// …]`, zeros for padding. Padding costs nothing.
  func mapFrames(_ body: (Tensor, _ rows: Tensor?) throws -> Tensor) rethrows -> TimedFeatures {
    let flat = features.reshaped([batch * frames] + features.shape.dropFirst(2))  // [B, T, …] → [B · T, …]
    var results: Tensor
    if let counts, counts.contains(false) {
      let rows = Tensor(counts.indices.filter { counts[$0] })
      let found = try body(flat.indexSelect(0, rows), rows)
      // Row 0 is zero and stands for padding.
      var next = 0
      let places = counts.map { counts -> Int in
        if counts { next += 1 }
        return counts ? next : 0
      }
      results = Tensor.cat([.zeros([1] + found.shape.dropFirst()), found], 0).indexSelect(0, Tensor(places))
    } else {
      results = try body(flat, nil)
    }
    results = results.reshaped([batch, frames] + results.shape.dropFirst())  // [B · T, …] → [B, T, …]
    return replacing(results)
  }
}
