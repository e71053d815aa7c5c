public import Backbones
import Foundation
public import Media
import QFormer
import Torch

/// A window of a stream and what was written about it.
public struct DescribedWindow: Sendable, Equatable {
  /// When each of its frames is shown, in seconds.
  public let seconds: [Double]
  /// The text.
  public let answer: LanguageModel.Answer
  /// How many tokens of sound the language model has read; 0 for a silent window and where nobody listens.
  public let soundTokens: Int

  /// When its first and its last frame are shown, in seconds.
  public var span: ClosedRange<Double> { (seconds.first ?? 0)...(seconds.last ?? 0) }
}

/// Frames in, a text for each window out: a cascaded model on a stream. Memory does not depend on the length.
///
/// A value: a copy goes its own way.
public struct WindowDescriber {
  private let pipeline: VideoPipeline
  private let cascade: CascadedVideoQFormer
  private let language: LanguageModel
  private let prompt: String?
  private let options: GenerationOptions
  private let stops: [String]
  private let listen: (@Sendable (ClosedRange<Double>) throws -> AudioClip?)?
  private var stream: WindowStream
  private var seconds: [Double] = []
  private let length: Int

  /// A describer that has seen nothing.
  ///
  /// - Parameters:
  ///   - pipeline: A cascaded adapter with a projection.
  ///   - length: Frames of a window; as many as the adapter was trained on when left out.
  ///   - stride: Frames from the start of a window to the start of the next; a whole window when left out.
  ///   - prompt: Text that every answer continues; nil for captions.
  ///   - options: How text is generated.
  ///   - stops: Strings that end a text.
  ///   - listen: Where the adapter hears: gives the sound between two moments, in seconds from the stream's start, or nil
  ///     where there is none. A stream is silent when left out.
  /// - Throws: ``PipelineError/wrongModel(folder:expected:found:)`` for an adapter of another kind;
  ///   `QFormerError.invalidConfiguration` for a window that cannot be.
  public init(
    _ pipeline: VideoPipeline, length: Int? = nil, stride: Int? = nil, prompt: String? = nil,
    options: GenerationOptions = GenerationOptions(), stops: [String] = [],
    listen: (@Sendable (ClosedRange<Double>) throws -> AudioClip?)? = nil
  ) throws {
    guard let cascade = pipeline.adapter as? CascadedVideoQFormer else { throw pipeline.isNoCascade }
    let length = length ?? (pipeline.configuration.frames ?? AdapterConfiguration.Frames()).count
    // As in training, frames are counted from the start of a window, unless the frame Q-Former is told their time: what
    // it says is kept for the next windows.
    let positions: WindowPositions = cascade.configuration.site == .afterFrameQFormer ? .withinWindow : .global
    stream = try WindowStream(
      cascade, window: SlidingWindow(length: length, stride: stride ?? length, positions: positions), history: 0)
    (self.pipeline, self.cascade, self.length) = (pipeline, cascade, length)
    (self.prompt, self.options, self.stops, self.listen) = (prompt, options, stops, listen)
    language = try pipeline.requireLanguage()
  }

  /// Takes up a frame.
  ///
  /// - Returns: The text about the window that this frame makes whole, if it does.
  /// - Throws: `MediaError`, `QFormerError`, `GenerationError`, `TorchError`.
  public mutating func append(_ frame: VideoFrame) throws -> DescribedWindow? {
    let features = try pipeline.encoder.features([frame.image])
    let window = try withError { try stream.append(features.select(0, 0), seconds: frame.seconds) }
    seconds = seconds.suffix(length - 1) + [frame.seconds]
    return try window.map(describe)
  }

  /// The text about the frames that have been in no whole window, once the stream is over; nil when there are none.
  ///
  /// - Throws: `QFormerError`, `GenerationError`, `TorchError`.
  public func finish() throws -> DescribedWindow? {
    try withError { try stream.rest }.map(describe)
  }

  private func describe(_ window: WindowStream.Window) throws -> DescribedWindow {
    let seconds = Array(seconds.suffix(window.frames.count))
    let frames = try withError { try withNoGrad { try cascade.languageTokens(window.hidden).select(0, 0) } }
    let heard = try sound(seconds)
    let tokens = try withError { withNoGrad { heard.map { Tensor.cat([$0, frames], 0) } ?? frames } }
    let answers = try language.describe(
      rows: [tokens], prompts: [pipeline.prompt(prompt, at: seconds)], options: options, stops: stops)
    return DescribedWindow(seconds: seconds, answer: answers[0], soundTokens: heard?.size(0) ?? 0)
  }

  /// The tokens `[M, d_llm]` of what is heard while frames are shown, the last one as long as the others in the mean.
  private func sound(_ seconds: [Double]) throws -> Tensor? {
    guard let branch = pipeline.sound, let listen, let first = seconds.first, let last = seconds.last else {
      return nil
    }
    let distance = seconds.count > 1 ? (last - first) / Double(seconds.count - 1) : 1
    guard let clip = try listen(first...last + max(distance, 0)) else { return nil }
    let tokens = try branch.languageTokens(of: branch.encoder.features([clip]))
    return withNoGrad { tokens.select(0, 0) }
  }
}

extension VideoPipeline {
  /// The error for reading windows with another kind of adapter.
  var isNoCascade: PipelineError {
    .wrongModel(
      folder: folder.path,
      expected: "\(AdapterConfiguration.Kind.cascadedVideo.rawValue), which reads streams in windows",
      found: configuration.kind.rawValue)
  }
}
