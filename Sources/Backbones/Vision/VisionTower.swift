public import Torch

/// What an adapter needs of a picture encoder.
public protocol VisionTower: Sendable {
  /// Dv, the width of its tokens.
  var width: Int { get }
  /// The number of its blocks.
  var blockCount: Int { get }
  /// P, the side of a patch in pixels.
  var patchSize: Int { get }
  /// Tokens of pictures: the class token, then the patches row by row.
  ///
  /// - Parameters:
  ///   - pixels: `[B, channels, H, W]` `float32`, normalised by mean and deviation; H and W multiples of P.
  ///   - block: The block (from 0) after which to stop, without the final normalisation; none for the tower's own end.
  /// - Returns: `[B, 1 + H · W / P², Dv]`. A wrong shape or block is a failure for `withError`.
  func tokens(_ pixels: Tensor, block: Int?) -> Tensor
}

extension VisionTower {
  /// The failure for pixels of another shape or a block that is not there, or nil when both are right.
  func refusal(_ pixels: Tensor, channels: Int, block: Int?) -> Tensor? {
    let shape = pixels.shape
    guard shape.count == 4, shape[1] == channels, shape[2] >= patchSize, shape[3] >= patchSize,
      shape[2].isMultiple(of: patchSize), shape[3].isMultiple(of: patchSize)
    else {
      return .failed(
        "\(Self.self) takes pixels [B, \(channels), H, W], H and W multiples of \(patchSize); found \(shape)")
    }
    if let block, !(0..<blockCount).contains(block) {
      return .failed("\(Self.self) has the blocks 0 … \(blockCount - 1); asked for \(block)")
    }
    return nil
  }
}
