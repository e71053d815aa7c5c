public import Torch

/// Two linear maps under which pairs of vectors agree best: canonical correlation analysis (Hotelling, Biometrika 28, 1936)
/// with a ridge.
///
/// Contrastive heads that start here know before the first step what a linear map of their inputs can know.
public struct CanonicalAlignment {
  /// `[E, Dx]` and `[E]`: a vector x becomes `x · weightᵀ + bias`.
  public let first: (weight: Tensor, bias: Tensor)
  /// `[E, Dy]` and `[E]`.
  public let second: (weight: Tensor, bias: Tensor)
  /// The canonical correlations, `[E]`, descending.
  public let correlations: Tensor

  /// Fits both maps to K pairs.
  ///
  /// With Σ the covariances, each diagonal raised by `ridge` times its mean, and U S Vᵀ the singular value decomposition
  /// of Σxx^−½ Σxy Σyy^−½, the maps are S Uᵀ Σxx^−½ and S Vᵀ Σyy^−½: directions count by how much the sides agree on
  /// them. They are centred, and scaled so that the mean length of a mapped vector is 1.
  ///
  /// - Parameters:
  ///   - x: `[K, Dx]`.
  ///   - y: `[K, Dy]`; row i belongs to row i of `x`.
  ///   - size: E, at most the smaller of Dx and Dy.
  ///   - weights: How much each pair counts, `[K]`, above 0; nil: all alike. Pairs of an image with many texts outweigh those
  ///     of an image with one unless they share its weight.
  ///   - ridge: What is added to variances, as a part of their mean; above 0.
  /// - Throws: ``QFormerError/wrongShape(what:expected:found:)`` and ``QFormerError/invalidInput(_:)``.
  public init(_ x: Tensor, _ y: Tensor, size: Int, weights: [Double]? = nil, ridge: Double = 0.05) throws {
    guard x.rank == 2, y.rank == 2, x.size(0) == y.size(0), x.size(0) > 1 else {
      throw QFormerError.wrongShape(
        what: "pairs to align", expected: "[K, Dx] and [K, Dy] of K > 1 pairs, the first \(x.shape)", found: y.shape)
    }
    guard (1...min(x.size(1), y.size(1))).contains(size), ridge > 0 else {
      throw QFormerError.invalidInput(
        "alignment to \(size) dimensions with a ridge of \(ridge): expected 1 … \(min(x.size(1), y.size(1))), above 0")
    }
    let weights = weights ?? Array(repeating: 1, count: x.size(0))
    guard weights.count == x.size(0), weights.allSatisfy({ $0 > 0 && $0.isFinite }) else {
      throw QFormerError.invalidInput("\(weights.count) weights of \(x.size(0)) pairs: expected one a pair, above 0")
    }
    let parts = (Tensor(weights) / weights.reduce(0, +)).unsqueezed(1)  // [K, 1]
    let (left, right) = (Side(x, parts, ridge), Side(y, parts, ridge))
    let between = (left.centered * parts).transposed(0, 1).matmul(right.centered)  // [Dx, Dy]
    let (u, s, vt) = left.whitening.matmul(between).matmul(right.whitening).singularValues()
    let strength = s.narrow(0, 0, size)
    first = left.map(u.narrow(1, 0, size).transposed(0, 1) * strength.unsqueezed(1))
    second = right.map(vt.narrow(0, 0, size) * strength.unsqueezed(1))
    correlations = strength.to(.float32)
  }

  private struct Side {
    let mean: Tensor
    let centered: Tensor
    /// Σ^−½.
    let whitening: Tensor
    private let parts: Tensor

    /// - Parameter parts: Each row's part of the whole, `[K, 1]`.
    init(_ x: Tensor, _ parts: Tensor, _ ridge: Double) {
      self.parts = parts
      let wide = x.to(.float64)
      mean = (wide * parts).sum(0)
      centered = wide - mean
      let covariance = (centered * parts).transposed(0, 1).matmul(centered)
      let unit = Tensor.identity(x.size(1))
      let variance = (covariance * unit).sum(1).mean(0)
      let (values, vectors) = (covariance + unit * (variance * ridge)).symmetricEigen()
      // Rounding may leave a value of 0 where a direction is constant.
      let roots = 1 / values.clamped(min: 1e-12).sqrt()
      whitening = (vectors * roots.unsqueezed(0)).matmul(vectors.transposed(0, 1))
    }

    /// Directions `[E, D]` in whitened space as a map of vectors as they are.
    func map(_ directions: Tensor) -> (weight: Tensor, bias: Tensor) {
      var weight = directions.matmul(whitening)
      weight = weight / (centered.linear(weight).norm(-1).unsqueezed(1) * parts).sum()
      return (weight.to(.float32), (mean.unsqueezed(0).linear(weight).reshaped(-1) * -1).to(.float32))
    }
  }
}
