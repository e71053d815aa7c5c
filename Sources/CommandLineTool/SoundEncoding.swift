import Checkpoints
import Foundation
import Pipelines
import QFormer
import Torch

/// What `encode` writes of one sound.
struct SoundRow {
  /// `[1, S, Da]`.
  let pieces: TimedFeatures
  /// `[1, M, D]`.
  let hidden: Tensor
  /// `[1, M, d_llm]`.
  let tokens: Tensor

  init(_ pieces: TimedFeatures, _ branch: AudioBranch) throws {
    self.pieces = pieces
    hidden = try branch.queries(of: pieces)
    tokens = try branch.languageTokens(of: pieces)
  }

  /// All sounds in one batch, zeros for clips without any.
  static func joined(_ rows: [SoundRow?], _ branch: AudioBranch) throws -> [(name: String, tensor: Tensor)] {
    let (pieces, width) = (branch.encoder.configuration.pieces, branch.encoder.width)
    let sizes = branch.configuration.sizes
    return try withError {
      withNoGrad {
        func all(_ shape: [Int], _ part: (SoundRow) -> Tensor) -> Tensor {
          .cat(rows.map { $0.map(part) ?? .zeros([1] + shape) }, 0)
        }
        return [
          ("audio_embeds", all([pieces, width]) { $0.pieces.features }),
          ("audio_query_output", all([branch.tokens, sizes.qformer.hiddenSize]) { $0.hidden }),
          ("audio_language_tokens", all([branch.tokens, sizes.languageSize]) { $0.tokens }),
          ("audio_mask", all([pieces]) { ($0.pieces.mask ?? .ones([1, pieces])).to(.int64).to(.float32) }.to(.int64)),
          ("audio_seconds", all([pieces]) { $0.pieces.seconds ?? .zeros([1, pieces]) }),
        ]
      }
    }
  }

  /// Sounds from a file: `audio_embeds [B, S, Da]`, and where they are there `audio_mask` and `audio_seconds` `[B, S]`.
  ///
  /// - Returns: For each clip its sound; nil where its whole mask is 0.
  static func read(_ checkpoint: Checkpoint, clips: Int, _ branch: AudioBranch) throws -> [SoundRow?] {
    let file = checkpoint.url.path
    let embeds = try checkpoint.tensor("audio_embeds")
    guard embeds.rank == 3, embeds.size(0) == clips, embeds.count > 0 else {
      throw PipelineError.badInput("\(file): expected audio_embeds [\(clips), S, Da], found \(embeds.shape)")
    }
    let shape = [clips, embeds.size(1)]
    func optional(_ name: String) throws -> Tensor? {
      guard let found = checkpoint.shape(name) else { return nil }
      guard found == shape else {
        throw PipelineError.badInput("\(file): expected \(name) [B, S] = \(shape), found \(found)")
      }
      return try checkpoint.tensor(name)
    }
    let (mask, seconds) = (try optional("audio_mask"), try optional("audio_seconds"))
    return try (0..<clips).map { clip in
      let own = try withError { mask?.narrow(0, clip, 1) }
      if let own, try withError({ own.values(as: Double.self).allSatisfy { $0 == 0 } }) { return nil }
      let pieces = try withError {
        try TimedFeatures(
          embeds.narrow(0, clip, 1).to(.float32), mask: own, seconds: seconds?.narrow(0, clip, 1))
      }
      return try SoundRow(pieces, branch)
    }
  }
}
