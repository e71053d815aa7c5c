import Foundation
public import Pipelines
import QFormer
import Torch
import TorchNN

/// What a connector costs for one clip, whatever its weights say.
public struct ConnectorCost: Codable, Sendable, Equatable {
  /// T.
  public let frames: Int
  /// N, the number of tokens of a frame.
  public let imageTokens: Int
  /// The number of tokens that the language model gets.
  public let tokens: Int
  /// The number of its parameters, the projection to the language model included.
  public let parameters: Int
  /// Multiply–accumulates by formula, with the projection.
  public let multiplyAccumulates: Int
  /// The median time of reading one clip, in milliseconds.
  public let milliseconds: Double
  /// How much the resident memory grew over weights and features while one clip was read, at most, in bytes; nil where the
  /// system does not tell.
  public let peakBytes: Int?

  /// Measures a connector on random features of one clip.
  ///
  /// Memory that a process has used and freed before is not seen again: measure in a process of its own.
  ///
  /// - Parameters:
  ///   - connector: Which one.
  ///   - sizes: Its sizes.
  ///   - runs: How often the clip is read; the median counts.
  /// - Throws: `QFormerError`, `TorchError`.
  public static func measure(
    _ connector: ComparedConnector, _ sizes: ConnectorSizes, runs: Int = 5
  ) throws -> ConnectorCost {
    let parameters = Parameters()
    let model = try withError {
      try connector.fresh(sizes, ParameterScope(FreshParameters(seed: 1), parameters: parameters))
    }
    return try measure(model, parameters: parameters.elementCount(), sizes, runs: runs)
  }

  /// Measures a connector of a recipe's sizes, with new weights: loading others would leave memory behind that is used again
  /// unseen.
  ///
  /// - Parameters:
  ///   - connector: Which one.
  ///   - recipe: What says the sizes and the number of frames.
  ///   - store: Where models lie.
  ///   - runs: As above.
  /// - Throws: ``TrainingError``, `QFormerError`, what reading configurations throws.
  public static func measure(
    _ connector: ComparedConnector, _ recipe: Recipe, store: ModelStore = ModelStore(), runs: Int = 5
  ) throws -> ConnectorCost {
    try measure(connector, ConnectorSizes(recipe, store: store), runs: runs)
  }

  private static func measure(
    _ model: any CountedConnector, parameters: Int, _ sizes: ConnectorSizes, runs: Int
  ) throws -> ConnectorCost {
    func clip(frames: Int) throws -> TimedFeatures {
      try TimedFeatures(
        .randn([1, frames, sizes.imageTokens, model.encoderWidth], generator: Generator(seed: 2)),
        seconds: Tensor((0..<frames).map { Float($0) / 2 }, [1, frames]))
    }
    func read(_ clip: TimedFeatures) throws -> Double {
      let start = Date()
      try withError { try withNoGrad { _ = try model.languageTokens(of: clip, isTraining: false).sum().item } }
      return Date().timeIntervalSince(start) * 1000
    }
    // The library makes itself ready at the first call: on one frame.
    _ = try read(clip(frames: 1))
    let clip = try clip(frames: sizes.frames)
    let memory = PeakMemory()
    var times = [try read(clip)]
    let peak = memory?.grown
    for _ in 1..<max(runs, 2) { times.append(try read(clip)) }
    let later = times.dropFirst().sorted()
    return ConnectorCost(
      frames: sizes.frames, imageTokens: sizes.imageTokens,
      tokens: model.tokens(frames: sizes.frames, imageTokens: sizes.imageTokens), parameters: parameters,
      multiplyAccumulates: model.multiplyAccumulates(frames: sizes.frames, imageTokens: sizes.imageTokens),
      milliseconds: later[later.count / 2], peakBytes: peak)
  }
}

/// The largest resident memory from a moment on (Linux).
private struct PeakMemory {
  private let before: Int

  /// Begins anew; nil where the system does not allow that.
  init?() {
    guard let reset = FileHandle(forWritingAtPath: "/proc/self/clear_refs"),
      (try? reset.write(contentsOf: Data("5".utf8))) != nil, let now = Self.field("VmRSS")
    else { return nil }
    before = now
  }

  /// How far it has grown at most, in bytes.
  var grown: Int? { Self.field("VmHWM").map { max(0, $0 - before) } }

  private static func field(_ name: String) -> Int? {
    guard let status = try? String(contentsOfFile: "/proc/self/status", encoding: .utf8) else { return nil }
    let line = status.split(separator: "\n").first { $0.hasPrefix("\(name):") }
    return line?.split(whereSeparator: \.isWhitespace).dropFirst().first.flatMap { Int($0) }.map { $0 * 1024 }
  }
}
