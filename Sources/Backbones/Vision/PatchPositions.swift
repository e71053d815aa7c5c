import Synchronization
import Torch

/// The learned positions of a picture's class token and patches, resized for pictures of other sizes.
final class PatchPositions: Sendable {
  /// `[1, 1 + side², Dv]` or without the first dimension: class token first, then the patches row by row.
  private let parameter: Tensor
  private let side: Int
  private let alignsCorners: Bool
  private let resized = Mutex<[Grid: Tensor]>([:])

  private struct Grid: Hashable { let rows: Int, columns: Int }

  /// - Parameters:
  ///   - parameter: `[1, 1 + side², Dv]` or `[1 + side², Dv]`.
  ///   - side: Of the grid that the table was trained for, in patches.
  ///   - alignsCorners: Whether the outer patches keep their positions when the table is resized.
  init(_ parameter: Tensor, side: Int, alignsCorners: Bool = false) {
    self.parameter = parameter
    self.side = side
    self.alignsCorners = alignsCorners
  }

  /// The table for a grid of patches, `[1, 1 + rows · columns, Dv]`: resized bicubic (a = −0.75, no antialias) unless the
  /// grid is the one it was trained for. Kept for the next pictures of this size.
  func callAsFunction(rows: Int, columns: Int) -> Tensor {
    // Now and not in `init`: whether it is trained may change later.
    let table = parameter.rank == 2 ? parameter.unsqueezed(0) : parameter
    if rows == side, columns == side { return table }
    let grid = Grid(rows: rows, columns: columns)
    if !table.requiresGrad, let known = resized.withLock({ $0[grid] }) { return known }
    let width = table.size(-1)
    let image = table.slice(1, 1).reshaped(1, side, side, width).permuted(0, 3, 1, 2)  // [1, Dv, side, side]
    let patches = image.bicubic(height: rows, width: columns, alignCorners: alignsCorners)
      .permuted(0, 2, 3, 1).reshaped(1, rows * columns, width)  // [1, N, Dv]
    let result = Tensor.cat([table.narrow(1, 0, 1), patches], 1)
    if result.isValid, !result.requiresGrad {
      resized.withLock { known in
        // Pictures of many sizes must not fill the memory.
        if known.count >= 64 { known.removeAll() }
        known[grid] = result
      }
    }
    return result
  }
}
