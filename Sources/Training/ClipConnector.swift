import QFormer
import Torch

/// Clips as a training step or an evaluation reads them.
struct Clips {
  /// Encoder features of frames, `[B, T, N, Dv]`.
  let frames: TimedFeatures
  /// The sound; nil where nobody listens.
  var sounds: Sounds?

  /// The same clips without any sound.
  var silent: Clips { Clips(frames: frames, sounds: sounds.map { Sounds(clips: $0.clips, rows: [], pieces: nil) }) }
}

/// What a language model reads of clips.
struct SeenTokens {
  /// `[B, tokens, d_llm]`: those of sound, then those of frames.
  let tokens: Tensor
  /// For each clip how many of its first tokens do not exist: all those of sound where it has none.
  let absent: [Int]

  init(tokens: Tensor, absent: [Int]) { (self.tokens, self.absent) = (tokens, absent) }

  /// Tokens that all exist.
  init(_ tokens: Tensor) { self.init(tokens: tokens, absent: Array(repeating: 0, count: tokens.size(0))) }

  /// The tokens `[tokens, d_llm]` of each clip that exist.
  var rows: [Tensor] { absent.enumerated().map { tokens.select(0, $0).slice(0, $1) } }
}

/// What stands between clips and a language model: what reads the frames and, of a model that hears, the audio Q-Former.
struct ClipConnector {
  let video: any VideoConnector
  var audio: AudioQFormer?
  /// Whether what reads the frames is used as it is: without dropout.
  var isVideoFrozen = false

  /// - Throws: `QFormerError`.
  func languageTokens(of clips: Clips, isTraining: Bool) throws -> SeenTokens {
    let seen = try video.languageTokens(of: clips.frames, isTraining: isTraining && !isVideoFrozen)  // [B, M, d_llm]
    let batch = seen.size(0)
    guard let audio, let sounds = clips.sounds, let pieces = sounds.pieces else {
      return SeenTokens(seen)
    }
    let heard = audio.languageTokens(try audio.readSound(pieces, isTraining: isTraining).hidden)  // [R, Ma, d_llm]
    let count = heard.size(1)
    guard sounds.rows.count < batch else {
      return SeenTokens(.cat([heard, seen], 1))
    }
    // Row 0 is zero and stands for clips without sound.
    var places = Array(repeating: 0, count: batch)
    for (place, row) in sounds.rows.enumerated() { places[row] = place + 1 }
    let spread = Tensor.cat([.zeros([1, count, heard.size(2)]), heard], 0).indexSelect(0, Tensor(places))
    return SeenTokens(tokens: .cat([spread, seen], 1), absent: places.map { $0 == 0 ? count : 0 })
  }
}
