// Sliding windows of frames through a cascaded video Q-Former (TimeChat, Ren et al., arXiv 2312.02051, section 3.1): a
// window starts every `stride` frames, the last ones are shorter, and each gives M′ tokens. For whole clips, and frame
// by frame for streams.
//
// B batch · T frames · N patch tokens · Dv encoder width · M queries of a frame · M′ queries of a window · D hidden

public import Torch

/// How the frames of a window are counted.
public enum WindowPositions: String, Codable, Sendable, CaseIterable {
  /// From the start of the video (TimeChat).
  case global
  /// From the start of each window, as in training on clips of that length; seconds, too.
  case withinWindow
}

/// Length and step of a sliding window.
public struct SlidingWindow: Codable, Sendable, Equatable {
  /// Frames in a window.
  public var length: Int
  /// Frames from the start of a window to the start of the next.
  public var stride: Int
  /// How the frames of a window are counted.
  public var positions: WindowPositions

  /// Makes a window; TimeChat's is 32 frames long and moves by 32.
  public init(length: Int = 32, stride: Int = 32, positions: WindowPositions = .global) {
    self.length = length
    self.stride = stride
    self.positions = positions
  }

  func validate(for model: CascadedVideoQFormer) throws {
    guard length >= 1, (1...length).contains(stride) else {
      throw QFormerError.invalidConfiguration(
        "a window of \(length) frames that moves by \(stride), expected 1 ≤ stride ≤ length")
    }
    guard positions == .global || model.configuration.site == .afterFrameQFormer else {
      throw QFormerError.invalidConfiguration(
        "frames are told their time before the frame Q-Former, whose output is kept: "
          + "they cannot be counted anew in each window")
    }
  }
}

extension CascadedVideoQFormer {
  /// Reads whole clips window by window.
  ///
  /// - Parameters:
  ///   - frames: `[B, T, M, D]`, from ``readFrames(_:text:firstFrame:isTraining:)``.
  ///   - window: Length, step and counting of windows.
  ///   - isTraining: Whether dropout is on.
  /// - Returns: Hidden states `[B, ⌈T / stride⌉ · M′, D]`, and their mask `[B, ⌈T / stride⌉ · M′]`: 0, and zeros in the
  ///   hidden states, for windows that hold padding only.
  /// - Throws: ``QFormerError``.
  public func readWindows(
    frames: TimedFeatures, window: SlidingWindow = SlidingWindow(), isTraining: Bool = false
  ) throws -> (hidden: Tensor, mask: Tensor) {
    try window.validate(for: self)
    let timed = window.positions == .global ? try embedTime(frames) : frames
    var (hidden, masks): ([Tensor], [Tensor]) = ([], [])
    for start in stride(from: 0, to: frames.frames, by: window.stride) {
      let length = min(window.length, frames.frames - start)
      let weights = frames.weights.narrow(1, start, length)
      let isSeen = weights.amax(1)  // [B]
      // Rows of padding only are read as if they counted, and taken out again.
      let counted = weights.maskedFill(isSeen.equal(0).unsqueezed(1), 1)
      var seconds = frames.seconds?.narrow(1, start, length)
      if window.positions == .withinWindow { seconds = seconds.map { $0 - $0.narrow(1, 0, 1) } }
      var part = try TimedFeatures(timed.cleaned.narrow(1, start, length), mask: counted, seconds: seconds)
      if window.positions == .withinWindow { part = try embedTime(part) }
      let read = textQFormer.readImage(try frameKeyValues(part), isTraining: isTraining).hidden
      hidden.append(read * isSeen.reshaped(-1, 1, 1))  // [B] → [B, 1, 1]
      masks.append(isSeen.unsqueezed(1).repeatInterleaved(read.size(1), 1))
    }
    return (.cat(hidden, 1), .cat(masks, 1))
  }
}

/// A stream of frames through a cascaded video Q-Former, window by window. Each frame goes through the image Q-Former
/// once and is kept for as long as a window needs it: a window that moves by one frame pays for one frame.
///
/// ```swift
/// var stream = try WindowStream(model, window: SlidingWindow(length: 8, stride: 1), history: 1)
/// for (frame, time) in camera {
///   if let window = try stream.append(frame, seconds: time) { … window.hidden … }   // [1, M′, D]
/// }
/// ```
///
/// A value: a copy goes its own way, and two streams over one model never mix.
public struct WindowStream: Sendable {
  /// What the model says of the frames of one window.
  public struct Window: Sendable {
    /// The numbers of its frames, counted from the start of the stream.
    public let frames: Range<Int>
    /// When its first and its last frame are shown, in seconds.
    public let seconds: ClosedRange<Double>
    /// Hidden states `[1, M′, D]`.
    public let hidden: Tensor
  }

  private struct Frame {
    let queries: Tensor  // [1, 1, M, D]
    let seconds: Double
  }

  private let model: CascadedVideoQFormer
  private let window: SlidingWindow
  private let history: Int
  /// Frames that the next windows need; the first of them is number `start`.
  private var frames: [Frame] = []
  private var start = 0
  private var lastSeconds = -Double.infinity
  /// How many frames have been taken up.
  public var frameCount: Int { start + frames.count }
  /// How many frames are kept for the next windows, fewer than a window.
  public var cachedFrames: Int { frames.count }
  /// The last whole windows, at most `history` of them.
  public private(set) var windows: [Window] = []

  /// A stream that has seen nothing.
  ///
  /// - Parameters:
  ///   - model: The model; its weights are shared, nothing in it changes.
  ///   - window: Length, step and counting of windows.
  ///   - history: How many whole windows are kept. All of them unless set; a stream without end needs a limit.
  /// - Throws: ``QFormerError/invalidConfiguration(_:)``.
  public init(
    _ model: CascadedVideoQFormer, window: SlidingWindow = SlidingWindow(), history: Int = .max
  ) throws {
    try window.validate(for: model)
    guard history >= 0 else {
      throw QFormerError.invalidConfiguration("a history of \(history) windows, expected at least 0")
    }
    self.model = model
    self.window = window
    self.history = history
  }

  /// Takes up one frame.
  ///
  /// - Parameters:
  ///   - features: Encoder features `[N, Dv]`.
  ///   - seconds: When it is shown; not before the frame before it.
  ///   - text: What a frame Q-Former with text reads beside it: `int64 [L]` and a mask.
  /// - Returns: The window that this frame makes whole, if it does.
  /// - Throws: ``QFormerError``; the stream is then as it was before.
  @discardableResult
  public mutating func append(
    _ features: Tensor, seconds: Double, text: (ids: Tensor, mask: Tensor)? = nil
  ) throws -> Window? {
    guard seconds.isFinite, seconds >= lastSeconds else {
      throw QFormerError.invalidInput("a frame at \(seconds) s behind one at \(lastSeconds) s")
    }
    return try withNoGrad {
      let clip = try TimedFeatures(
        features.unsqueezed(0).unsqueezed(0), seconds: Tensor([seconds], [1, 1]))  // [1, 1, N, Dv]
      let text = text.map { ($0.ids.reshaped(1, 1, -1), $0.mask.reshaped(1, 1, -1)) }  // [L] → [1, 1, L]
      var frame = try model.readFrames(clip, text: text, firstFrame: frameCount)
      if window.positions == .global { frame = try model.embedTime(frame, firstFrame: frameCount) }
      let all = frames + [Frame(queries: frame.features, seconds: seconds)]
      let whole = all.count == window.length ? try read(all[...], first: start) : nil
      (frames, lastSeconds) = (all, seconds)
      guard let whole else { return nil }
      windows.append(whole)
      if windows.count > history { windows.removeFirst(windows.count - history) }
      frames.removeFirst(window.stride)
      start += window.stride
      return whole
    }
  }

  /// Hidden states of all kept windows and of those that are not whole yet, `[1, windows · M′, D]`; nil before the
  /// first frame.
  ///
  /// - Throws: ``QFormerError``.
  public var hidden: Tensor? {
    get throws {
      try withNoGrad {
        var parts = windows.map(\.hidden)
        for first in stride(from: 0, to: frames.count, by: window.stride) {
          parts.append(try read(frames[first...], first: start + first).hidden)
        }
        return parts.isEmpty ? nil : .cat(parts, 1)
      }
    }
  }

  /// The frames from where the next whole window begins, when some of them have been in no window: what is left when a
  /// stream ends. Nil otherwise.
  ///
  /// - Throws: ``QFormerError``.
  public var rest: Window? {
    get throws {
      let seen = start == 0 ? 0 : start - window.stride + window.length
      guard frameCount > seen else { return nil }
      return try withNoGrad { try read(frames[...], first: start) }
    }
  }

  /// What the language model reads, `[1, windows · M′, languageSize]`; nil before the first frame.
  ///
  /// - Throws: ``QFormerError``.
  public var tokens: Tensor? {
    get throws { try hidden.map { hidden in try withNoGrad { try model.languageTokens(hidden) } } }
  }

  /// Forgets everything, as if new.
  public mutating func reset() { (frames, start, lastSeconds, windows) = ([], 0, -.infinity, []) }

  private func read(_ part: ArraySlice<Frame>, first: Int) throws -> Window {
    let times = part.map(\.seconds)
    let begin = window.positions == .withinWindow ? times.first ?? 0 : 0
    var clip = try TimedFeatures(
      .cat(part.map(\.queries), 1), seconds: Tensor(times.map { $0 - begin }, [1, part.count]))  // [1, T, M, D]
    if window.positions == .withinWindow { clip = try model.embedTime(clip) }
    let hidden = model.textQFormer.readImage(try model.frameKeyValues(clip)).hidden
    return Window(
      frames: first..<first + part.count, seconds: (times.first ?? 0)...(times.last ?? 0), hidden: hidden)
  }
}
