// Where new cross-attention may start: queries that pool. Our own; what it gives is in the article on training.
//
// n pictures · P patches · N = P, or P + 1 with a class token first · M queries · D hidden · Dv image width · d head width
// K samples of a regression

import Foundation
public import Torch
import TorchNN

extension QFormer {
  /// Overwrites cross-attention and the queries' feed-forward parts, so that every query starts by reading a region of the
  /// picture, and the class token where there is one.
  ///
  /// Drawn at random, cross-attention lets hardly anything through at first, and all queries look at the same places. Here
  /// the queries share the picture out as a grid, as 2-D adaptive pooling does. Nobody has to tell where a patch lies: an
  /// encoder's patches say so themselves, and a ridge regression reads it. In every layer with cross-attention
  /// - a third of the heads looks at the class token, along the direction that tells it from patches (Fisher, Annals of
  ///   Eugenics 7, 1936), and gives its principal components;
  /// - the other heads score a patch by a regression of −‖place − centre of the query's region‖² / 2σ², σ half a region, and
  ///   give the principal components of patches;
  /// - the output is the identity.
  ///
  /// The queries' feed-forward parts start at 0 beside their residual: those of a text model would distort what was read.
  ///
  /// - Parameter embeds: `[n, N, Dv]`, pictures as cross-attention reads them, after the LayerNorm on encoder features. Some
  ///   hundred are enough.
  /// - Throws: ``QFormerError/wrongShape(what:expected:found:)`` unless N is a square, or one more with a class token first.
  public func startPooling(_ embeds: Tensor) throws {
    let pictures = try PooledPictures(embeds, width: configuration.encoderHiddenSize)
    let headWidth = configuration.hiddenSize / configuration.heads
    let places = pictures.places(queries: configuration.queries, rank: headWidth - 1)
    withNoGrad {
      for layer in layers { layer.silenceQueries() }
      var x = normalized(queryTokens.expanded(embeds.size(0), -1, -1), false)
      for layer in layers {
        let own = layer.selfAttention.keyValue(x)
        let seen = layer.selfAttention(x, own, mask: nil, isTraining: false)
        layer.crossAttention?.startPooling(seen, pictures, places)
        x = layer(
          x, own, queries: configuration.queries, mask: nil, image: layer.crossAttention?.keyValue(embeds),
          imageBias: nil, isTraining: false)
      }
    }
  }
}

extension QFormerAttention {
  /// - Parameter states: `[n, M, D]`, what the queries are when they come here.
  fileprivate func startPooling(_ states: Tensor, _ pictures: PooledPictures, _ places: PooledPictures.Places) {
    let width = dense.weight.size(0)
    let headWidth = width / heads
    let scale = Double(headWidth).squareRoot()  // scores are divided by it
    let classHeads = pictures.classTokens == nil ? 0 : heads / 3
    // Behind the first layer states differ from picture to picture: which query it is decides where it looks.
    let looks = Ridge(states.reshaped(-1, width), strength: 1e-3)
      .fit(places.queries.repeated(states.size(0), 1))  // D → rank
    for linear in [query, key] { linear.clear() }
    for head in 0..<heads {
      let first = head * headWidth
      guard head >= classHeads else {
        query.set(first, bias: .ones([1]))
        key.set(first, weight: pictures.classDirection * (scale * (log(Double(pictures.patches.size(1))) + 4)))
        continue
      }
      query.set(first, weight: looks.weight * scale, bias: looks.bias * scale)
      key.set(first, weight: places.keys)
      if classHeads > 0 {
        query.set(first + places.keys.size(0), bias: .ones([1]))
        key.set(first + places.keys.size(0), weight: pictures.classDirection * (-8 * scale))
      }
    }
    if let classTokens = pictures.classTokens { value.setComponents(0, classHeads * headWidth, of: classTokens) }
    value.setComponents(
      classHeads * headWidth, (heads - classHeads) * headWidth, of: pictures.patches.reshaped(-1, pictures.width))
    dense.clear()
    dense.set(0, weight: Tensor.identity(width).to(.float32))
  }
}

/// What a start by pooling has to know of pictures.
private struct PooledPictures {
  /// `[n, P, Dv]`.
  let patches: Tensor
  /// `[n, Dv]`, where there are any.
  let classTokens: Tensor?
  /// `[1, Dv]`: on the class token its product is 1 larger than on patches, in the mean.
  let classDirection: Tensor
  /// Patches in a row.
  let side: Int

  /// Dv.
  var width: Int { patches.size(2) }

  init(_ embeds: Tensor, width: Int) throws {
    let tokens = embeds.rank == 3 ? embeds.size(1) : 0
    side = Int(Double(tokens).squareRoot())
    guard tokens > 0, embeds.size(0) > 0, embeds.size(2) == width, tokens - side * side <= 1 else {
      throw QFormerError.wrongShape(
        what: "features to start pooling from", expected: "[n, S² or S² + 1, \(width)]", found: embeds.shape)
    }
    let hasClass = tokens > side * side
    patches = embeds.slice(1, hasClass ? 1 : 0)
    classTokens = hasClass ? embeds.select(1, 0) : nil
    guard let classTokens else {
      classDirection = .zeros([1, width])
      return
    }
    let difference = classTokens.mean(0) - patches.reshaped(-1, width).mean(0)
    let within = Tensor.cat(
      [classTokens - classTokens.mean(0), (patches - patches.mean(0).mean(0)).select(1, patches.size(1) / 2)], 0)
    let direction = Ridge(within, strength: 1e-2).solve(difference.unsqueezed(1)).transposed(0, 1)  // [1, Dv]
    classDirection = direction / (direction * difference).sum()
  }

  /// Queries and keys `[M, r]` and `[r, Dv]`, whose product on a patch is the score of the patch for each query.
  struct Places {
    let queries: Tensor
    let keys: Tensor
  }

  /// - Parameters:
  ///   - queries: M.
  ///   - rank: r, at most.
  func places(queries count: Int, rank: Int) -> Places {
    let rows = (1...count).last { count % $0 == 0 && $0 * $0 <= count } ?? 1
    let columns = count / rows
    var scores: [Float] = []
    for query in 0..<count {
      for patch in 0..<side * side {
        // Distances in units of a region.
        let down = (Double(patch / side) + 0.5) / Double(side) * Double(rows) - Double(query / columns) - 0.5
        let across = (Double(patch % side) + 0.5) / Double(side) * Double(columns) - Double(query % columns) - 0.5
        scores.append(Float(max(-8, -2 * (down * down + across * across))))
      }
    }
    let wanted = Tensor(scores).reshaped(count, -1).transposed(0, 1)  // [P, M]
    let regression = Ridge(patches.reshaped(-1, width), strength: 1e-2)
    let map = regression.fit(wanted.repeated(patches.size(0), 1)).weight  // [M, Dv]
    let (u, s, vt) = map.singularValues()
    let size = min(rank, s.size(0))
    let root = s.narrow(0, 0, size).sqrt()
    return Places(
      queries: u.narrow(1, 0, size) * root.unsqueezed(0), keys: vt.narrow(0, 0, size) * root.unsqueezed(1))
  }
}

/// Linear regression on K samples, with what is added to every direction's variance as a part of the mean variance.
private struct Ridge {
  private let centered: Tensor
  private let mean: Tensor
  private let covariance: Tensor

  /// - Parameter x: `[K, Dx]`.
  init(_ x: Tensor, strength: Double) {
    mean = x.mean(0)
    centered = x - mean
    let products = (centered.transposed(0, 1).matmul(centered) / Double(x.size(0))).to(.float64)
    let unit = Tensor.identity(x.size(1))
    // A constant direction has no variance at all.
    covariance = products + unit * ((products * unit).sum(1).mean(0) * strength + 1e-9)
  }

  /// The inverse of the covariance times `[Dx, k]`.
  func solve(_ right: Tensor) -> Tensor { covariance.solve(right.to(.float64)).to(.float32) }

  /// The map to targets `[K, Dy]`: weight `[Dy, Dx]` and bias `[Dy]`.
  func fit(_ y: Tensor) -> (weight: Tensor, bias: Tensor) {
    let center = y.mean(0)
    let weight = solve(centered.transposed(0, 1).matmul(y - center) / Double(y.size(0))).transposed(0, 1)
    return (weight, center - mean.unsqueezed(0).linear(weight).reshaped(-1))
  }
}

extension Linear {
  fileprivate func clear() {
    weight.zero()
    bias?.zero()
  }

  /// Overwrites outputs from `first` on.
  ///
  /// - Parameters:
  ///   - weight: `[k, in]`.
  ///   - bias: `[k]`.
  fileprivate func set(_ first: Int, weight rows: Tensor? = nil, bias values: Tensor? = nil) {
    if let rows { weight.narrow(0, first, rows.size(0)).copy(from: rows) }
    if let values { bias?.narrow(0, first, values.size(0)).copy(from: values) }
  }

  /// Overwrites `count` outputs by principal components of samples `[K, in]`, of mean variance 1; where there are fewer
  /// components, the last outputs stay as they are.
  fileprivate func setComponents(_ first: Int, _ count: Int, of samples: Tensor) {
    let size = min(count, samples.size(1))
    guard size > 0 else { return }
    let center = samples.mean(0)
    let centered = samples - center
    let (values, vectors) = (centered.transposed(0, 1).matmul(centered) / Double(samples.size(0))).to(.float64)
      .symmetricEigen()  // ascending
    let largest = vectors.slice(1, samples.size(1) - size).flipped(1).transposed(0, 1)  // [size, in]
    let deviation = values.slice(0, samples.size(1) - size).mean(0).clamped(min: 1e-9).sqrt()
    let rows = (largest / deviation).to(.float32)
    set(first, weight: rows, bias: center.unsqueezed(0).linear(rows).reshaped(-1) * -1)
  }
}
