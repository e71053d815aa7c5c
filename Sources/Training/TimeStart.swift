import Torch
import TorchNN

/// How a new table of times starts: as its model has it, or as large as the recipe says.
///
/// Of a table that starts much smaller than what it is added to hardly anything is seen, and it takes long until the order of
/// frames is learnt.
enum TimeStart {
  /// The tables of all connectors.
  static let names = ["frame_position_embedding.weight", "time_embedding.weight"]

  /// Draws new tables anew, N(0, `video.timeDeviation`²); nothing is done where the recipe does not say it.
  static func apply(_ recipe: Recipe, to parameters: Parameters) throws {
    guard let deviation = recipe.video.timeDeviation else { return }
    for name in names {
      guard let table = parameters[name] else { continue }
      let noise = Tensor.randn(table.shape, generator: Generator(seed: recipe.seed &+ 4)) * deviation
      try withError { withNoGrad { table.copy(from: noise) } }
    }
  }
}
