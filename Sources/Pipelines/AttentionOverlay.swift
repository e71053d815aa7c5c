public import Media
import QFormer
public import Torch

/// Pictures that show where queries look.
public enum AttentionOverlay {
  /// A picture darkened where little attention goes and tinted where much goes.
  ///
  /// - Parameters:
  ///   - image: Any picture; it is scaled so that its longer side is at most `limit` pixels.
  ///   - weights: `side × side` non-negative numbers, row by row, over the whole picture.
  ///   - limit: The longer side of the result, in pixels.
  /// - Throws: `MediaError` when the picture cannot be resized, ``PipelineError/badInput(_:)`` for a count that is no
  ///   square, and for weights that are no numbers.
  public static func draw(_ image: Image, weights: [Float], limit: Int = 320) throws -> Image {
    let side = Int(Double(weights.count).squareRoot().rounded())
    guard side > 0, side * side == weights.count else {
      throw PipelineError.badInput("attention weights: expected a square number, found \(weights.count)")
    }
    guard weights.allSatisfy(\.isFinite) else {
      throw PipelineError.badInput("attention weights: expected finite numbers, found others")
    }
    let picture = try scaled(image, limit: limit)
    // Ranks between the 5th and the 99th hundredth, so that one bright patch does not hide the rest.
    let sorted = weights.sorted()
    let low = sorted[weights.count * 5 / 100]
    let range = sorted[min(weights.count * 99 / 100, weights.count - 1)] - low
    // Even attention is no heat at all.
    let heat = weights.map { range > 0 ? min(max(($0 - low) / range, 0), 1) : 0 }
    var pixels = picture.pixels
    for y in 0..<picture.height {
      let v = (Float(y) + 0.5) / Float(picture.height) * Float(side) - 0.5
      for x in 0..<picture.width {
        let u = (Float(x) + 0.5) / Float(picture.width) * Float(side) - 0.5
        let h = bilinear(heat, side, u, v)
        let tint: (Float, Float, Float) = (255, 150, 20)
        let start = (y * picture.width + x) * 3
        for (channel, colour) in [tint.0, tint.1, tint.2].enumerated() {
          let value = Float(pixels[start + channel]) * (0.3 + 0.7 * h)
          pixels[start + channel] = UInt8(min(max(value + (colour - value) * 0.35 * h, 0), 255))
        }
      }
    }
    return try Image(width: picture.width, height: picture.height, pixels: pixels)
  }

  /// A picture whose longer side is at most `limit` pixels, aspect kept.
  ///
  /// - Throws: `MediaError`.
  public static func scaled(_ image: Image, limit: Int) throws -> Image {
    let factor = Double(limit) / Double(max(image.width, image.height))
    guard factor < 1 else { return image }
    return try image.resized(
      width: max(1, Int((Double(image.width) * factor).rounded())),
      height: max(1, Int((Double(image.height) * factor).rounded())))
  }

  private static func bilinear(_ grid: [Float], _ side: Int, _ u: Float, _ v: Float) -> Float {
    func at(_ row: Int, _ column: Int) -> Float {
      grid[min(max(row, 0), side - 1) * side + min(max(column, 0), side - 1)]
    }
    let (column, row) = (u.rounded(.down), v.rounded(.down))
    let (fu, fv) = (u - column, v - row)
    let (c, r) = (Int(column), Int(row))
    let top = at(r, c) * (1 - fu) + at(r, c + 1) * fu
    let bottom = at(r + 1, c) * (1 - fu) + at(r + 1, c + 1) * fu
    return top * (1 - fv) + bottom * fv
  }
}

extension ImageLanguagePipeline {
  /// How much the queries look at each patch, averaged over layers, heads and queries: for each image `side × side`
  /// numbers row by row.
  ///
  /// - Parameter features: Encoder features `[B, 1 + side², Dv]`.
  /// - Throws: `QFormerError`, `TorchError`.
  public func attention(features: Tensor) throws -> [[Float]] {
    try withError {
      try withNoGrad {
        let layers = try adapter.readImage(features, keepsAttention: true).crossAttention
        let mean = Tensor.stack(layers).mean(0).mean(1).mean(1).slice(1, 1)  // [layers, B, H, M, N] → [B, side²]
        return (0..<mean.size(0)).map { mean.select(0, $0).values() }
      }
    }
  }
}
