import Checkpoints
import Foundation
import Pipelines
import QFormer
import Torch
import TorchNN

/// Video adapters between the same frozen models.
///
/// One source, linked into every test target that needs it.
extension TinyModels {
  /// Sizes of the cascaded adapter: heads, a projection, a learned table of eight frames.
  static let cascaded: CascadedVideoConfiguration = {
    var configuration = CascadedVideoConfiguration()
    configuration.frame = imageLanguage.qformer
    configuration.temporal = imageText.qformer
    configuration.temporal.crossAttentionFrequency = 1
    configuration.temporal.encoderHiddenSize = width
    configuration.temporal.queries = 3
    configuration.time.maxFrames = 8
    configuration.languageSize = languageWidth
    configuration.objectives?.contrastiveSize = 8
    configuration.objectives?.aggregation = .mean
    return configuration
  }()

  /// Sizes of the spatio-temporal adapter: 3 + 2 + 1 queries, seconds by a sinusoid.
  static let spatioTemporal: SpatioTemporalConfiguration = {
    var configuration = SpatioTemporalConfiguration()
    configuration.qformer = imageText.qformer
    (configuration.spatialQueries, configuration.temporalQueries, configuration.summaryQueries) = (3, 2, 1)
    configuration.poolingHeads = 4
    configuration.time.encoding = .sinusoid
    configuration.languageSize = languageWidth
    configuration.objectives?.contrastiveSize = 8
    configuration.objectives?.aggregation = .summary
    configuration.objectives?.matchingHead = .catTextCLS
    return configuration
  }()

  /// Four frames, each from the middle of its part.
  static let frames: AdapterConfiguration.Frames = {
    var frames = AdapterConfiguration.Frames()
    frames.count = 4
    return frames
  }()

  /// Writes a cascaded adapter with random weights, without the word table.
  static func writeCascaded(
    to folder: URL, seed: UInt64 = 6, configuration: CascadedVideoConfiguration = cascaded
  ) throws {
    try writeVideo(
      AdapterConfiguration(
        cascaded: configuration, frames: frames, encoder: encoder, text: configuration.objectives.map { _ in text },
        language: configuration.languageSize.map { _ in .init() }), to: folder, seed: seed)
  }

  /// Writes a spatio-temporal adapter with random weights, without the word table.
  static func writeSpatioTemporal(
    to folder: URL, seed: UInt64 = 7, configuration: SpatioTemporalConfiguration = spatioTemporal
  ) throws {
    try writeVideo(
      AdapterConfiguration(
        spatioTemporal: configuration, frames: frames, encoder: encoder, text: text,
        language: configuration.languageSize.map { _ in .init() }), to: folder, seed: seed)
  }

  /// Matrices are made larger, so that what is read makes a difference to what is written.
  static func writeVideo(_ configuration: AdapterConfiguration, to folder: URL, seed: UInt64) throws {
    let parameters = Parameters()
    let scope = ParameterScope(FreshParameters(seed: seed), parameters: parameters)
    _ = try configuration.videoQFormer(scope, folder: folder)
    _ = try configuration.audioQFormer(scope)
    let own = parameters.all.filter { !$0.name.hasSuffix("embeddings.word_embeddings.weight") }
    try AdapterFolder.write(
      configuration, own.map { ($0.name, $0.tensor.rank == 2 ? $0.tensor * 5 : $0.tensor) }, to: folder)
  }
}
