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
    let clip: VideoFeatures
    switch file {
    case .picture(let image):
      copies = [try AttentionOverlay.scaled(image, limit: pictureSize)]
      clip = try VideoFeatures(features([image]), seconds: [0])
    case .video(let video):
      var (fitted, seconds): ([Image], [Double]) = ([], [])
      let lost = try video.forEachFrame(choice) { frame in
        guard copies.count < Explainer.maximumFrames else {
          throw PipelineError.badInput(
            "\(name): expected at most \(Explainer.maximumFrames) frames to draw on, found more")
        }
        copies.append(try AttentionOverlay.scaled(frame.image, limit: pictureSize))
        fitted.append(try self.fitted(frame.image))
        seconds.append(frame.seconds)
      }
      guard !fitted.isEmpty else { throw PipelineError.badInput("\(name): expected at least one frame, found none") }
      let groups = stride(from: 0, to: fitted.count, by: 8).map { Array(fitted[$0..<min($0 + 8, fitted.count)]) }
      let parts = try groups.map { try features($0) }
      clip = try VideoFeatures(withError { .cat(parts, 0) }, seconds: seconds, lostPackets: lost)
    }
    return WatchedClip(features: clip, frames: copies)
  }
}
