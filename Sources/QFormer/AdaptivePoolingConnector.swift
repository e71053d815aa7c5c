// Two-dimensional adaptive average pooling of frames in the place of a Q-Former, after DeCo (Yao et al., arXiv 2405.20985),
// with frames pooled into so many steps as PLLaVA does it (Xu et al., arXiv 2404.16994, section 3.3).
//
// B batch · T frames · N = S² + 1 or S² tokens of a frame, the class token first · Dv encoder width
// F steps in time · R rows · C columns

public import Torch
public import TorchNN

/// Sizes of an ``AdaptivePoolingConnector``.
public struct AdaptivePoolingConfiguration: Codable, Sendable, Equatable {
  /// Widths.
  public var projection = PooledProjectionConfiguration()
  /// F, the steps that the frames of a clip are pooled to.
  public var steps = 8
  /// R, the rows that patches are pooled to.
  public var rows = 2
  /// C, the columns.
  public var columns = 2

  /// 8 · 2 · 2 = 32 tokens at the small scale of this package.
  public init() {}

  /// So many tokens: of eight and more, four cells a step where that comes out even, or two; otherwise one.
  ///
  /// - Parameter tokens: Their number, at least 1.
  public init(tokens: Int) {
    (rows, columns) = [(2, 2), (1, 2)].first { tokens >= 8 && tokens % ($0.0 * $0.1) == 0 } ?? (1, 1)
    steps = max(1, tokens / (rows * columns))
  }

  /// F · R · C.
  public var tokens: Int { steps * rows * columns }

  /// Checks that the numbers make a model.
  ///
  /// - Throws: ``QFormerError/invalidConfiguration(_:)``.
  public func validate() throws {
    try projection.validate()
    for (name, size) in [("steps", steps), ("rows", rows), ("columns", columns)] where !(1...100_000).contains(size) {
      throw QFormerError.invalidConfiguration("\(name) of adaptive pooling is \(size), expected 1 … 10⁵")
    }
  }
}

/// Means over the cells of a grid in time and space, projected to a language model: F · R · C tokens however many frames
/// there are.
public struct AdaptivePoolingConnector: CountedConnector {
  /// Its sizes.
  public let configuration: AdaptivePoolingConfiguration
  private let project: PooledProjection

  /// Takes `vision_model.post_layernorm`, `hidden_projection` and `language_projection` from the scope.
  ///
  /// - Throws: ``QFormerError/invalidConfiguration(_:)``.
  public init(_ configuration: AdaptivePoolingConfiguration, _ scope: ParameterScope) throws {
    try configuration.validate()
    self.configuration = configuration
    project = try PooledProjection(configuration.projection, scope)
  }

  /// Dv.
  public var encoderWidth: Int { configuration.projection.encoderHiddenSize }
  /// The width of the projection's output.
  public var languageSize: Int? { configuration.projection.languageSize }

  /// The mean of each cell; the class token is left out.
  ///
  /// Cell i of the K along a side of length L spans ⌊i · L / K⌋ up to ⌈(i + 1) · L / K⌉, as PyTorch's adaptive average
  /// pooling has it; in time, L counts the clip's own frames.
  ///
  /// - Parameter clip: Encoder features `[B, T, N, Dv]`, N being a square, or one more with a class token first.
  /// - Returns: `[B, F · R · C, Dv]`, step after step, each row by row.
  /// - Throws: ``QFormerError``.
  public func pool(_ clip: TimedFeatures) throws -> Tensor {
    try clip.requireFrames(width: encoderWidth)
    let tokens = clip.features.size(2)
    let side = Int(Double(tokens).squareRoot())
    guard tokens - side * side <= 1 else {
      throw QFormerError.wrongShape(
        what: "frame features of a grid", expected: "[B, T, S² or S² + 1, \(encoderWidth)]", found: clip.features.shape)
    }
    let patches = project.embeds(clip).slice(2, tokens - side * side)  // [B, T, S², Dv]
    let cells = configuration.rows * configuration.columns
    let inSpace = spaceWeights(side: side).matmul(patches)  // [R · C, S²] · [B, T, S², Dv] → [B, T, R · C, Dv]
    // [B, T, R · C, Dv] → [B, T, R · C · Dv]
    let flat = inSpace.reshaped(clip.batch, clip.frames, cells * encoderWidth)
    // [B, F, T] · [B, T, R · C · Dv] → [B, F · R · C, Dv]
    return timeWeights(clip).matmul(flat).reshaped(clip.batch, configuration.tokens, encoderWidth)
  }

  /// Token embeddings, one for each cell, `[B, F · R · C, languageSize]`.
  ///
  /// - Throws: ``QFormerError``.
  public func languageTokens(of clip: TimedFeatures, isTraining: Bool = false) throws -> Tensor {
    project(try pool(clip))
  }

  /// What each patch counts in each cell, `[R · C, S²]`.
  private func spaceWeights(side: Int) -> Tensor {
    let rows = Self.cells(configuration.rows, of: side)
    let columns = Self.cells(configuration.columns, of: side)
    let weights = rows.flatMap { row in
      columns.flatMap { column in
        (0..<side * side).map { patch -> Float in
          row.contains(patch / side) && column.contains(patch % side) ? 1 / Float(row.count * column.count) : 0
        }
      }
    }
    return Tensor(weights, [configuration.rows * configuration.columns, side * side])
  }

  /// What each frame counts in each step, `[B, F, T]`.
  private func timeWeights(_ clip: TimedFeatures) -> Tensor {
    let weights = clip.countedFrames.flatMap { counted in
      Self.cells(configuration.steps, of: counted.count).flatMap { cell in
        let frames = Set(counted[cell])
        return (0..<clip.frames).map { frames.contains($0) ? 1 / Float(cell.count) : 0 }
      }
    }
    return Tensor(weights, [clip.batch, configuration.steps, clip.frames])
  }

  private static func cells(_ count: Int, of length: Int) -> [Range<Int>] {
    (0..<count).map { $0 * length / count..<(($0 + 1) * length + count - 1) / count }
  }

  /// F · R · C.
  public func tokens(frames: Int, imageTokens: Int) -> Int { configuration.tokens }

  /// Pooling as two matrix products, and two layers on each cell.
  public func multiplyAccumulates(frames: Int, imageTokens: Int) -> Int {
    let side = Int(Double(imageTokens).squareRoot())
    let cells = configuration.rows * configuration.columns
    return frames * cells * side * side * encoderWidth + configuration.steps * frames * cells * encoderWidth
      + configuration.projection.multiplyAccumulates(vectors: configuration.tokens)
  }
}
