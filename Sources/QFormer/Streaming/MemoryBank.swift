// The memory bank of MA-LMM (He et al., arXiv 2404.05726, section 3.2): frames of the past, as many as fit; when one
// more comes, the two neighbours in time that are most alike become one.
//
// B batch · M frames in the bank · N tokens of a frame · C width

public import Torch

/// What is remembered of past frames, in a fixed number of places. A value: a copy goes its own way.
public struct MemoryBank: Sendable {
  /// The number of frames that fit.
  public let capacity: Int
  /// What is remembered, `[B, M, N, C]` with M ≤ capacity; nil while there is nothing.
  public private(set) var values: Tensor?
  /// Of how many frames each remembered token is the mean, `[B, M, N]`.
  public private(set) var sizes: Tensor?

  /// An empty bank.
  ///
  /// - Parameter capacity: At least 1.
  /// - Throws: ``QFormerError/invalidConfiguration(_:)``.
  public init(capacity: Int) throws {
    guard capacity >= 1 else {
      throw QFormerError.invalidConfiguration("a memory bank of \(capacity) frames, expected at least 1")
    }
    self.capacity = capacity
  }

  /// Takes up a frame `[B, N, C]`. Neighbours are merged when there are then more frames than fit.
  ///
  /// For each token on its own: of all pairs of neighbours in time the one with the largest cosine is replaced by its
  /// mean, weighted by the number of frames that either stands for.
  public mutating func append(_ frame: Tensor) {
    let frame = frame.unsqueezed(1)  // [B, 1, N, C]
    let one = Tensor.ones([frame.size(0), 1, frame.size(2)])
    guard let values, let sizes else {
      (self.values, self.sizes) = (frame, one)
      return
    }
    (self.values, self.sizes) = (.cat([values, frame], 1), .cat([sizes, one], 1))
    if values.size(1) == capacity { merge() }
  }

  /// All that is remembered and a frame `[B, N, C]` behind it, in time: `[B, (M + 1) · N, C]`.
  public func tokens(with frame: Tensor) -> Tensor {
    guard let values else { return frame }
    let past = values.reshaped(frame.size(0), -1, frame.size(2))  // [B, M, N, C] → [B, M · N, C]
    return .cat([past, frame], 1)
  }

  /// Forgets everything.
  public mutating func reset() { (values, sizes) = (nil, nil) }

  private mutating func merge() {
    guard let values, let sizes else { return }
    let count = values.size(1)
    let (earlier, later) = (values.slice(1, 0, -1), values.slice(1, 1))  // [B, M − 1, N, C]
    let cosine = (earlier.normalized() * later.normalized()).sum(3)  // [B, M − 1, N]
    let pair = cosine.max(1).indices.unsqueezed(1)  // [B, 1, N]
    let places = Tensor.arange(count - 1).reshaped(1, -1, 1)  // [M − 1] → [1, M − 1, 1]
    // Up to the pair a place keeps its frame, behind it takes the next one; at the pair both are added.
    let keeps = places.lessOrEqual(pair)
    let adds = places.equal(pair).to(.float32)
    let (keptSizes, addedSizes) = (sizes.slice(1, 0, -1), sizes.slice(1, 1))
    let kept = earlier.chosen(where: keeps.unsqueezed(3), else: later)
    let keptSize = keptSizes.chosen(where: keeps, else: addedSizes)
    let size = keptSize.addingProduct(adds, addedSizes)
    let sum = (kept * keptSize.unsqueezed(3)).addingProduct(later, (adds * addedSizes).unsqueezed(3))
    (self.values, self.sizes) = (sum / size.unsqueezed(3), size)
  }
}

/// A stream of frames through an image Q-Former with memory: one bank of patch features, and one of queries for each
/// layer (MA-LMM, without training). Its memory does not grow with the length of the stream.
///
/// ```swift
/// var stream = try MemoryStream(adapter, capacity: 20)
/// for frame in frames { try stream.append(frame) }      // [N, Dv] each
/// let tokens = stream.tokens                            // [1, M, d_llm]
/// ```
///
/// A value: a copy goes its own way, and two streams over one adapter never mix.
public struct MemoryStream: Sendable {
  private let model: ImageLanguageQFormer
  private var visual: MemoryBank
  private var queries: [MemoryBank]
  /// How many frames have been taken up.
  public private(set) var frameCount = 0
  /// Hidden states of the queries after the last frame, `[1, M, D]`; nil before the first.
  public private(set) var hidden: Tensor?

  /// A stream that has seen nothing.
  ///
  /// - Parameters:
  ///   - model: An adapter whose Q-Former reads images without text beside them.
  ///   - capacity: How many frames each bank holds.
  /// - Throws: ``QFormerError/invalidConfiguration(_:)``.
  public init(_ model: ImageLanguageQFormer, capacity: Int) throws {
    self.model = model
    visual = try MemoryBank(capacity: capacity)
    queries = Array(repeating: visual, count: model.configuration.qformer.layers)
  }

  /// Takes up one frame: queries read it together with what is remembered of earlier frames.
  ///
  /// - Parameter features: Encoder features `[N, Dv]`, of as many tokens as every frame of the stream.
  /// - Throws: ``QFormerError/wrongShape(what:expected:found:)``; the stream is then as it was before.
  public mutating func append(_ features: Tensor) throws {
    let tokens = visual.values.map { "\($0.size(2))" } ?? "N"
    let width = model.configuration.qformer.encoderHiddenSize
    guard features.rank == 2, features.count > 0, features.size(1) == width,
      tokens == "N" || tokens == "\(features.size(0))"
    else {
      throw QFormerError.wrongShape(
        what: "a frame of the stream", expected: "[\(tokens), \(width)]", found: features.shape)
    }
    try withNoGrad {
      let frame = model.imageEmbeds(features.unsqueezed(0))  // [1, N, Dv]
      let image = try model.qformer.imageKeyValues(visual.tokens(with: frame))
      hidden = model.qformer.readImage(image, memory: &queries)
      visual.append(frame)
    }
    frameCount += 1
  }

  /// What the language model reads, `[1, M, languageSize]`; nil before the first frame.
  public var tokens: Tensor? { hidden.map { hidden in withNoGrad { model.languageTokens(hidden) } } }

  /// Of how many frames each remembered patch is the mean, `[1, at most capacity, N]`; nil before the first frame.
  public var sizes: Tensor? { visual.sizes }

  /// Forgets everything, as if new.
  public mutating func reset() {
    visual.reset()
    for layer in queries.indices { queries[layer].reset() }
    (frameCount, hidden) = (0, nil)
  }
}
