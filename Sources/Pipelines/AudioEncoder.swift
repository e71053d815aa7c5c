// Sound in, features out: clips of a sound, their log-mel pictures, a frozen encoder, and what an audio Q-Former reads.
//
// B sounds · C clips of a sound · K tokens of a clip · S = C · K pieces · N states of a clip · Da encoder width

public import Backbones
import Checkpoints
import Foundation
public import Media
public import QFormer
import Torch

/// Which audio encoder an adapter reads, and how a sound is cut for it.
///
/// A sound becomes clips of ``clipSeconds``. One begins every ``strideSeconds`` until the sound ends; what is then missing of
/// ``clips`` does not exist and is masked. A sound too long for that, and every sound when there is no stride, has its clips
/// at even distances from its beginning to its end, overlapping or with gaps: ImageBind's way.
public struct AudioEncoderConfiguration: Codable, Sendable, Equatable {
  /// Name or folder of the model, or ImageBind's own file.
  public var model = "whisper-tiny-en"
  /// C, the most clips of a sound.
  public var clips = 8
  /// The length of a clip in seconds. For Whisper a multiple of 0.02 up to the model's window, 30; for ImageBind 2.
  public var clipSeconds = 2.0
  /// Seconds from one clip's beginning to the next one's; even distances when left out.
  public var strideSeconds: Double? = 2.0
  /// K, the tokens of a clip. Whisper's 50 states a second are averaged over K equal spans of the clip, so that K divides
  /// their number; ImageBind gives one vector.
  public var tokensPerClip = 1
  /// Whisper alone: the seconds of its window, the clip followed by silence; the clip alone when left out. 30 is what
  /// Whisper was trained on and takes 25 times as long as 2. States of spoken words have a cosine of about 0.93 between the
  /// two ways, means over a clip 0.86: an adapter is read with the window that it was trained with.
  public var windowSeconds: Double?

  /// Eight clips of two seconds, one behind the other, one token each, from Whisper tiny.en.
  public init() {}

  /// What Video-LLaMA's published audio branch reads: eight clips of two seconds at even distances.
  ///
  /// - Parameter model: Folder or file of ImageBind.
  public static func imageBind(_ model: String) -> Self {
    var configuration = Self()
    configuration.model = model
    configuration.strideSeconds = nil
    return configuration
  }

  /// S, the pieces of a sound that an audio Q-Former reads; its table of positions has as many rows.
  public var pieces: Int { clips * tokensPerClip }

  enum CodingKeys: String, CodingKey {
    case model, clips
    case clipSeconds = "clip_seconds"
    case strideSeconds = "stride_seconds"
    case tokensPerClip = "tokens_per_clip"
    case windowSeconds = "window_seconds"
  }

  /// The model must be there; other fields that are absent take the defaults, a stride of null stands for even distances.
  public init(from decoder: any Decoder) throws {
    let fields = try decoder.container(keyedBy: CodingKeys.self)
    model = try fields.decode(String.self, forKey: .model)
    clips = try fields.decodeIfPresent(Int.self, forKey: .clips) ?? clips
    clipSeconds = try fields.decodeIfPresent(Double.self, forKey: .clipSeconds) ?? clipSeconds
    if fields.contains(.strideSeconds) {
      strideSeconds = try fields.decodeIfPresent(Double.self, forKey: .strideSeconds)
    }
    tokensPerClip = try fields.decodeIfPresent(Int.self, forKey: .tokensPerClip) ?? tokensPerClip
    windowSeconds = try fields.decodeIfPresent(Double.self, forKey: .windowSeconds)
  }

  /// Writes every field; even distances as a stride of null.
  public func encode(to encoder: any Encoder) throws {
    var fields = encoder.container(keyedBy: CodingKeys.self)
    try fields.encode(model, forKey: .model)
    try fields.encode(clips, forKey: .clips)
    try fields.encode(clipSeconds, forKey: .clipSeconds)
    try fields.encode(strideSeconds, forKey: .strideSeconds)
    try fields.encode(tokensPerClip, forKey: .tokensPerClip)
    try fields.encodeIfPresent(windowSeconds, forKey: .windowSeconds)
  }

  /// What is left over at a sound's end and is shorter than this begins no clip.
  static let shortestRest = 0.1

  /// Where the clips of a sound begin, in seconds from its first sample: 1 to C places, in order.
  ///
  /// - Parameter duration: of the sound, in seconds.
  public func clipStarts(duration: Double) -> [Double] {
    guard let stride = strideSeconds, Double(clips - 1) * stride + clipSeconds + Self.shortestRest > duration else {
      return LogMel.clipStarts(clips, length: clipSeconds, duration: duration)
    }
    return (0..<clips).map { Double($0) * stride }.filter { $0 == 0 || $0 <= duration - Self.shortestRest }
  }

  /// Why the fields cannot be used, or nil.
  fileprivate var refusal: String? {
    if !(1...4096).contains(clips) { return "clips is \(clips), expected 1 … 4096" }
    if !(1...4096).contains(tokensPerClip) { return "tokens_per_clip is \(tokensPerClip), expected 1 … 4096" }
    for (name, seconds) in [
      ("clip_seconds", clipSeconds), ("stride_seconds", strideSeconds), ("window_seconds", windowSeconds),
    ] as [(String, Double?)] {
      if let seconds, !(seconds >= 0.02 && seconds <= 3600) {
        return "\(name) is \(seconds), expected 0.02 … 3600"
      }
    }
    return nil
  }
}

/// A frozen audio encoder with its preprocessing: sounds in, features out.
///
/// ```swift
/// let encoder = try AudioEncoder(AudioEncoderConfiguration())
/// let pieces = try encoder.features([AudioClip(contentsOf: file)])  // [1, 8, 384], mask, seconds
/// let hidden = try audioQFormer.readSound(pieces).hidden
/// ```
public struct AudioEncoder: Sendable {
  /// Which model, and how sounds are cut.
  public let configuration: AudioEncoderConfiguration
  private let tower: Tower

  /// A model with the sizes of what goes through it, all checked.
  private enum Tower: Sendable {
    /// Points in time of a window, and of a clip; two of them make a state.
    case whisper(WhisperEncoder, window: Int, clip: Int)
    case imageBind(ImageBindAudio)
  }

  /// Loads the encoder that a configuration names. The model's kind follows from `model_type` of its `config.json`; a file
  /// that is no folder is taken for ImageBind's own.
  ///
  /// - Throws: ``PipelineError`` when the model has not been fetched, is of a kind that is not known, or does not go with
  ///   the configuration; or what loading it throws.
  public init(_ configuration: AudioEncoderConfiguration, store: ModelStore = ModelStore()) throws {
    var isFolder: ObjCBool = false
    if FileManager.default.fileExists(atPath: configuration.model, isDirectory: &isFolder), !isFolder.boolValue {
      let model = try ImageBindAudio.load(contentsOf: URL(fileURLWithPath: configuration.model))
      try self.init(model, configuration: configuration)
      return
    }
    let folder = try store.frozenModel(configuration.model)
    switch try AudioKind(folder: folder) {
    case .whisper: try self.init(WhisperEncoder.load(folder: folder), configuration: configuration)
    case .imageBind, .imageBindWhole: try self.init(ImageBindAudio.load(folder: folder), configuration: configuration)
    }
  }

  /// Puts preprocessing before a Whisper encoder.
  ///
  /// - Throws: ``PipelineError/badConfiguration(file:reason:)`` for lengths that the model does not have.
  public init(_ model: WhisperEncoder, configuration: AudioEncoderConfiguration) throws {
    func refuse(_ reason: String) -> PipelineError { .badConfiguration(file: configuration.model, reason: reason) }
    if let reason = configuration.refusal { throw refuse(reason) }
    let most = 2 * model.configuration.positions
    func frames(_ seconds: Double, _ name: String) throws -> Int {
      let frames = 2 * Int((seconds * 50).rounded())
      guard abs(Double(frames) - seconds * 100) < 1e-6, (2...most).contains(frames) else {
        throw refuse("\(name) is \(seconds), expected a multiple of 0.02 up to \(Double(most) / 100)")
      }
      return frames
    }
    let clip = try frames(configuration.clipSeconds, "clip_seconds")
    let window = try configuration.windowSeconds.map { try frames($0, "window_seconds") } ?? clip
    guard window >= clip else { throw refuse("window_seconds is less than clip_seconds") }
    guard (clip / 2).isMultiple(of: configuration.tokensPerClip) else {
      throw refuse("tokens_per_clip \(configuration.tokensPerClip) does not divide the \(clip / 2) states of a clip")
    }
    (self.configuration, tower) = (configuration, .whisper(model, window: window, clip: clip))
  }

  /// Puts preprocessing before ImageBind's audio trunk.
  ///
  /// - Throws: ``PipelineError/badConfiguration(file:reason:)`` for lengths that the model does not have.
  public init(_ model: ImageBindAudio, configuration: AudioEncoderConfiguration) throws {
    func refuse(_ reason: String) -> PipelineError { .badConfiguration(file: configuration.model, reason: reason) }
    if let reason = configuration.refusal { throw refuse(reason) }
    let sizes = model.configuration
    guard (sizes.melBands, sizes.frames) == (128, 204) else {
      throw refuse("the model reads \(sizes.melBands) × \(sizes.frames) log-mel, expected 128 × 204")
    }
    guard configuration.clipSeconds == 2, configuration.windowSeconds == nil, configuration.tokensPerClip == 1 else {
      throw refuse("ImageBind reads clips of 2 seconds as one token each, without window_seconds")
    }
    (self.configuration, tower) = (configuration, .imageBind(model))
  }

  /// Da, the width of the features.
  public var width: Int {
    switch tower {
    case .whisper(let model, _, _): model.width
    case .imageBind(let model): model.width
    }
  }

  /// Features of sounds, piece after piece: the K tokens of the first clip, then those of the second.
  ///
  /// Clips that do not exist cost nothing; they are zeros and masked, as is a token whose span lies wholly behind the sound's
  /// end. The last clip of a sound is filled up with silence.
  ///
  /// - Parameter sounds: of any lengths, each at least one sample. Silence stands for a video without sound in a batch.
  /// - Returns: features `[B, S, Da]`, the mask `[B, S]` where a piece is missing, and the seconds `[B, S]` at which pieces
  ///   begin, counted from the start of the file (`AudioClip.start`).
  /// - Throws: ``PipelineError/badInput(_:)`` for no sounds or one without samples, `TorchError`.
  public func features(_ sounds: [AudioClip]) throws -> TimedFeatures {
    guard !sounds.isEmpty else { throw PipelineError.badInput("no sound to encode") }
    if let empty = sounds.firstIndex(where: { $0.samples.isEmpty }) {
      throw PipelineError.badInput("sound \(empty) of the batch has no samples")
    }
    let starts = sounds.map { configuration.clipStarts(duration: $0.duration) }
    let clips = zip(sounds, starts).flatMap { sound, starts in starts.map { cut(sound, at: $0) } }
    let (found, tokens) = (try encode(clips), configuration.tokensPerClip)
    return try withError {
      // Row 0 is zero and stands for clips that do not exist.
      let rows = Tensor.cat([.zeros([1, tokens, width]), found], 0)
      var next = 0
      var places: [Int64] = []
      for starts in starts {
        places += (0..<configuration.clips).map { $0 < starts.count ? Int64(next + $0 + 1) : 0 }
        next += starts.count
      }
      // [B · C, K, Da] → [B, S, Da]
      let features = rows.indexSelect(0, Tensor(places)).reshaped(sounds.count, configuration.pieces, width)
      let pieces = zip(sounds, starts).flatMap { piecesInTime($0, $1) }
      let shape = [sounds.count, configuration.pieces]
      let mask = pieces.contains { !$0.exists } ? Tensor(pieces.map { Float($0.exists ? 1 : 0) }, shape) : nil
      let seconds = Tensor(pieces.map { Float($0.seconds) }, shape)
      let masked = mask.map { features * $0.unsqueezed(2) } ?? features
      return try TimedFeatures(masked, mask: mask, seconds: seconds)
    }
  }

  /// Whether each of the S pieces of a sound exists, and when it begins.
  private func piecesInTime(_ sound: AudioClip, _ starts: [Double]) -> [(exists: Bool, seconds: Double)] {
    let span = configuration.clipSeconds / Double(configuration.tokensPerClip)
    return (0..<configuration.pieces).map { piece in
      let (clip, token) = piece.quotientAndRemainder(dividingBy: configuration.tokensPerClip)
      guard clip < starts.count else { return (false, 0) }
      let begin = starts[clip] + Double(token) * span
      return (token == 0 || begin < sound.duration, sound.start + begin)
    }
  }

  /// The samples of the clip that begins so many seconds after a sound's first sample, as far as there are any.
  private func cut(_ sound: AudioClip, at start: Double) -> [Float] {
    let rate = Double(AudioClip.sampleRate)
    let first = min(Int((start * rate).rounded()), sound.samples.count)
    let length = Int((configuration.clipSeconds * rate).rounded())
    return Array(sound.samples[first..<min(first + length, sound.samples.count)])
  }

  /// `[clips, K, Da]`, so many clips at once that memory does not grow with their number.
  private func encode(_ clips: [[Float]]) throws -> Tensor {
    let atOnce: Int
    switch tower {
    case .whisper(_, let window, _): atOnce = max(1, 6000 / window)
    case .imageBind: atOnce = 8
    }
    var found: [Tensor] = []
    for first in stride(from: 0, to: clips.count, by: atOnce) {
      let group = clips[first..<min(first + atOnce, clips.count)]
      found.append(try withError { withNoGrad { encode(group) } })
    }
    return try withError { Tensor.cat(found, 0) }
  }

  private func encode(_ clips: ArraySlice<[Float]>) -> Tensor {
    func stack(_ pictures: [MelSpectrogram]) -> Tensor {
      Tensor(pictures.flatMap(\.values), [pictures.count, pictures[0].bands, pictures[0].frames])
    }
    switch tower {
    case .whisper(let model, let window, let clip):
      let bands = model.configuration.melBands
      let states = model.states(stack(clips.map { LogMel.whisper($0, bands: bands, frames: window) }))
      let tokens = configuration.tokensPerClip
      // [n, window / 2, Da] → [n, K, N / K, Da] → [n, K, Da]
      return states.narrow(1, 0, clip / 2).reshaped(clips.count, tokens, clip / 2 / tokens, model.width).mean(2)
    case .imageBind(let model):
      return model.vectors(stack(clips.map { LogMel.imageBind($0) })).unsqueezed(1)
    }
  }
}

/// The kinds of audio encoder that an adapter can read.
private enum AudioKind: String, CaseIterable {
  case whisper
  case imageBind = "imagebind_audio_model"
  case imageBindWhole = "imagebind"

  /// What the folder of a model says that it is.
  init(folder: URL) throws {
    let type = try ModelType(folder: folder).name
    guard let kind = type.flatMap(AudioKind.init(rawValue:)) else {
      throw PipelineError.wrongModel(
        folder: folder.path, expected: "model_type \(Self.allCases.map(\.rawValue).joined(separator: " or "))",
        found: type.map { "model_type \($0)" } ?? "none")
    }
    self = kind
  }
}
