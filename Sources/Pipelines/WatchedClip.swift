public import Media
import Torch

/// A clip with small copies of the frames that were encoded, to draw on.
public struct WatchedClip: Sendable {
  /// What the encoder says of the frames.
  public let features: VideoFeatures
  /// The frames.
  public let frames: [Image]
}

extension ImageEncoder {
  /// Encodes frames of a file and keeps small copies of them. A picture is a clip of one frame.
  ///
  /// - Parameters:
  ///   - file: A file that was opened before.
  ///   - choice: Which frames of a video.
  ///   - name: What the file is called in errors.
  ///   - pictureSize: The longer side of the copies, in pixels, at most.
  /// - Throws: ``PipelineError/badInput(_:)`` for no frames, or more than ``Explainer/maximumFrames``; `MediaError`,
  ///   `TorchError`.
  public func watch(
    _ file: VisualFile, frames choice: FrameChoice, name: String, pictureSize: Int = ExplanationPage.pictureSize
  ) throws -> WatchedClip {
    var copies: [Image] = []
    let clip = try features(of: file, frames: choice, name: name, limit: Explainer.maximumFrames) { frame in
      copies.append(try AttentionOverlay.scaled(frame, limit: pictureSize))
    }
    return WatchedClip(features: clip, frames: copies)
  }
}
