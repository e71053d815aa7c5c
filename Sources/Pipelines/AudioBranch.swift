// The branch of an adapter for sound (Video-LLaMA, arXiv 2306.02858, section 2.1.2): its tokens stand before those of
// the frames.
//
// S pieces of a sound · Da width of the audio encoder · M queries · d_llm width of the language model

public import Foundation
public import Media
public import QFormer
public import Torch

/// Sound in, language tokens out: a frozen audio encoder and an audio Q-Former.
public struct AudioBranch: Sendable {
  /// Which encoder, and the sizes of the Q-Former.
  public let configuration: AdapterConfiguration.Audio
  /// The audio encoder with its preprocessing.
  public let encoder: AudioEncoder
  /// The adapter.
  public let qformer: AudioQFormer

  /// Loads the encoder that a configuration names.
  ///
  /// - Parameters:
  ///   - configuration: Of the adapter's folder.
  ///   - qformer: With the folder's weights.
  ///   - folder: What errors call the adapter.
  ///   - store: Where models lie.
  /// - Throws: ``PipelineError`` when the encoder is not there or does not fit the Q-Former, what loading it throws.
  init(_ configuration: AdapterConfiguration.Audio, _ qformer: AudioQFormer, folder: URL, store: ModelStore) throws {
    let encoder = try AudioEncoder(configuration.encoder, store: store)
    func bad(_ reason: String) -> PipelineError { .badConfiguration(file: folder.path, reason: reason) }
    let (sizes, pieces) = (configuration.sizes, configuration.encoder.pieces)
    guard encoder.width == sizes.qformer.encoderHiddenSize else {
      throw bad(
        "the audio Q-Former reads width \(sizes.qformer.encoderHiddenSize), but the audio encoder gives \(encoder.width)"
      )
    }
    guard sizes.time.encoding != .learned || sizes.time.interpolation != nil || sizes.time.maxFrames >= pieces else {
      throw bad("a sound has \(pieces) pieces, but the audio Q-Former tells the time of \(sizes.time.maxFrames)")
    }
    (self.configuration, self.encoder, self.qformer) = (configuration, encoder, qformer)
  }

  /// M, the tokens that are written for a sound.
  public var tokens: Int { configuration.sizes.qformer.queries }

  /// Features `[1, S, Da]` of a file's sound, from its beginning; nil for a file without a sound track.
  ///
  /// - Throws: `MediaError`, `TorchError`.
  public func features(of file: URL) throws -> TimedFeatures? {
    try AudioClip.track(of: file).map { try encoder.features([$0]) }
  }

  /// What the queries say of sounds, `[B, M, D]`.
  ///
  /// - Parameter sounds: `[B, S, Da]`.
  /// - Throws: `QFormerError`, `TorchError`.
  public func queries(of sounds: TimedFeatures) throws -> Tensor {
    try withError { try withNoGrad { try qformer.readSound(sounds).hidden } }
  }

  /// What the language model reads of sounds, `[B, M, d_llm]`.
  ///
  /// - Parameter sounds: `[B, S, Da]`.
  /// - Throws: `QFormerError`, `TorchError`.
  public func languageTokens(of sounds: TimedFeatures) throws -> Tensor {
    let hidden = try queries(of: sounds)
    return try withError { withNoGrad { qformer.languageTokens(hidden) } }
  }
}

extension AudioClip {
  /// The sound of a file; nil for what has no sound track: a picture, an animation, a silent video.
  ///
  /// - Throws: `MediaError` for a track that cannot be read, and for files of no known kind.
  public static func track(of file: URL) throws -> AudioClip? {
    if VisualFile.isPictureOrAnimation(file) { return nil }
    do { return try AudioClip(contentsOf: file) } catch MediaError.noTrack { return nil }
  }

  /// The sound between two moments of a file, its time counted from the first; nil where there is none then.
  ///
  /// - Parameters:
  ///   - file: A video or a sound.
  ///   - span: Seconds from the file's start.
  /// - Throws: `MediaError` for a track that cannot be read.
  public static func track(of file: URL, during span: ClosedRange<Double>) throws -> AudioClip? {
    guard span.lowerBound < span.upperBound, !VisualFile.isPictureOrAnimation(file) else { return nil }
    do {
      let clip = try AudioClip(contentsOf: file, from: max(0, span.lowerBound), to: span.upperBound)
      return AudioClip(samples: clip.samples, start: max(0, clip.start - span.lowerBound))
    } catch MediaError.noTrack { return nil } catch MediaError.outOfRange { return nil }
  }
}
