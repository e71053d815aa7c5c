public import Backbones
public import Checkpoints
public import Foundation
public import Media
public import QFormer
public import Torch

/// Video in, text, scores or tokens out: image encoder on frames, video Q-Former, and what the adapter has beside it, a
/// language model, heads for comparing videos with texts, or both. A picture is a clip of one frame. What an adapter that
/// hears says of a clip's sound stands before what it says of the frames; a clip without a sound track has none of it.
///
/// ```swift
/// let model = try VideoPipeline("runs/stamps-video/adapter")
/// let clip = try model.features(of: URL(fileURLWithPath: "clip.mp4"))
/// print(try model.describe([clip])[0].text)
/// ```
public final class VideoPipeline: Sendable {
  /// What the folder says.
  public let configuration: AdapterConfiguration
  /// The adapter.
  public let adapter: any VideoQFormer
  /// The image encoder, which reads every frame.
  public let encoder: ImageEncoder
  /// The text side; nil for an adapter without heads for comparing videos with texts.
  public let texts: TextEncoder?
  /// The language model; nil for an adapter without a projection to one, and where it was not asked for.
  public let language: LanguageModel?
  /// The branch for sound; nil for an adapter that does not hear, and where it was not asked for.
  public let sound: AudioBranch?
  /// How a question becomes a prompt.
  public let questions: QuestionTemplate
  /// What became of the keys of the adapter's own file.
  public let report: LoadReport
  let folder: URL

  /// Loads the folder of a video adapter of either family, with the frozen models that its configuration names.
  ///
  /// - Parameters:
  ///   - model: A name, or a folder.
  ///   - store: Where models lie.
  ///   - allowMissing: Patterns (`*` stands for anything) of keys that the adapter's file may lack; they are initialised
  ///     afresh, and ``report`` names them.
  ///   - loadsLanguageModel: Off to leave the language model where it is: for scores and tokens.
  ///   - listens: Off to leave the audio encoder where it is: sound is not read then.
  /// - Throws: ``PipelineError`` when something is not there or is of another kind, `CheckpointError` when weights do
  ///   not fit.
  public init(
    _ model: String, store: ModelStore = ModelStore(), allowMissing: [String] = [], loadsLanguageModel: Bool = true,
    listens: Bool = true
  ) throws {
    folder = try store.adapter(model)
    let contents = try ModelFolder(folder)
    guard case .adapter(let configuration) = contents, configuration.kind.readsVideo else {
      throw PipelineError.wrongModel(folder: folder.path, expected: "a video adapter", found: contents.words)
    }
    let folder = folder
    self.configuration = configuration
    encoder = try ImageEncoder(configuration.encoder, store: store)
    let loaded = try loadModel(
      from: Checkpoint(contentsOf: folder), bases: configuration.text.map { [try $0.wordTable(in: store)] } ?? [],
      allowMissing: allowMissing
    ) { (video: try configuration.videoQFormer($0, folder: folder), audio: try configuration.audioQFormer($0)) }
    (adapter, report) = (loaded.model.video, loaded.report)
    let adapter = adapter
    if listens, let audio = configuration.audio, let qformer = loaded.model.audio {
      sound = try AudioBranch(audio, qformer, folder: folder, store: store)
    } else {
      sound = nil
    }
    texts = try adapter.heads.map { _ in
      guard let text = configuration.text else {
        throw PipelineError.badConfiguration(file: folder.path, reason: "compares texts, but names no text model")
      }
      return try TextEncoder(
        text, positions: adapter.textQFormer.configuration.maxPositions, folder: folder, store: store)
    }
    func bad(_ reason: String) -> PipelineError { .badConfiguration(file: folder.path, reason: reason) }
    if loadsLanguageModel, let size = adapter.languageSize {
      guard let named = configuration.language else { throw bad("has a projection, but names no language model") }
      let model = try LanguageModel(named, folder: store.frozenModel(named.model))
      guard model.model.hiddenSize == size else {
        throw bad("the adapter writes width \(size), but the language model takes \(model.model.hiddenSize)")
      }
      language = model
    } else {
      language = nil
    }
    questions = configuration.questions
    if let size = configuration.audio?.sizes.languageSize, size != adapter.languageSize {
      throw bad(
        "the audio Q-Former writes width \(size), that of videos \(adapter.languageSize.map(String.init) ?? "none")")
    }
    guard encoder.width == adapter.encoderWidth else {
      throw bad("the adapter reads width \(adapter.encoderWidth), but the encoder gives \(encoder.width)")
    }
  }

  /// The frames that the adapter was trained on.
  public var usualFrames: FrameChoice { (configuration.frames ?? AdapterConfiguration.Frames()).choice }

  // MARK: Clips

  /// Features of the frames of a file, a video, or a picture as a clip of one frame; and of its sound, where the adapter
  /// hears and the file has a sound track.
  ///
  /// - Parameters:
  ///   - file: Any file that `VisualFile` reads.
  ///   - frames: Which frames; those that the adapter was trained on when left out. Times must ascend.
  /// - Throws: `MediaError`, ``PipelineError/badInput(_:)``, `TorchError`.
  public func features(of file: URL, frames: FrameChoice? = nil) throws -> VideoFeatures {
    var clip = try encoder.features(
      of: VisualFile(contentsOf: file), frames: frames ?? usualFrames, name: file.path)
    clip.sound = try sound?.features(of: file)
    return clip
  }

  /// What the video's queries say of clips.
  ///
  /// - Parameter clip: Encoder features `[B, T, N, Dv]`, from ``VideoFeatures/batch(_:areEmbeds:_:)``.
  /// - Returns: `[B, M, D]`.
  /// - Throws: `QFormerError`, `TorchError`.
  public func queries(of clip: TimedFeatures) throws -> Tensor {
    try withError {
      try withNoGrad { try adapter.textQFormer.readImage(adapter.keyValues(clip, isTraining: false)).hidden }
    }
  }

  /// What the language model reads of frames, `[B, M, d_llm]`. Tokens of sound stand before these: see
  /// ``languageTokens(ofClips:)``.
  ///
  /// - Parameter clip: As in ``queries(of:)``.
  /// - Throws: `QFormerError`, `TorchError`.
  public func languageTokens(of clip: TimedFeatures) throws -> Tensor {
    let hidden = try queries(of: clip)
    return try withError { try withNoGrad { try adapter.languageTokens(hidden) } }
  }

  /// What the language model reads of clips, for each `[tokens, d_llm]`: the tokens of its sound, then those of its frames.
  /// A clip without sound has the latter alone.
  ///
  /// - Parameter clips: Of any numbers of frames.
  /// - Throws: ``PipelineError/badInput(_:)`` for sound that no branch reads; `QFormerError`, `TorchError`.
  public func languageTokens(ofClips clips: [VideoFeatures]) throws -> [Tensor] {
    guard !clips.isEmpty else { return [] }
    let frames = try languageTokens(of: VideoFeatures.batch(clips))  // [B, M, d_llm]
    return try clips.enumerated().map { row, clip in
      guard let heard = clip.sound else { return withNoGrad { frames.select(0, row) } }
      guard let sound else { throw PipelineError.badInput("\(folder.path): a clip with sound, but no branch for it") }
      let tokens = try sound.languageTokens(of: heard)
      return try withError { withNoGrad { .cat([tokens.select(0, 0), frames.select(0, row)], 0) } }
    }
  }

  // MARK: Text

  /// The language model.
  ///
  /// - Throws: ``PipelineError/wrongModel(folder:expected:found:)`` without one.
  public func requireLanguage() throws -> LanguageModel {
    guard let language else {
      throw PipelineError.wrongModel(
        folder: folder.path, expected: "a model that writes text", found: "one without a projection to a language model"
      )
    }
    return language
  }

  /// What the language model is told about a clip: the prompt as it is, or, of Video-LLaMA, when its frames were taken and
  /// the question.
  ///
  /// - Parameters:
  ///   - prompt: Text that the answer continues; nil for a caption.
  ///   - seconds: When each frame was taken.
  public func prompt(_ prompt: String?, at seconds: [Double]) -> String? {
    guard configuration.language?.conversation != nil else { return prompt }
    return VideoLLaMAConversation.times(seconds) + (prompt ?? VideoLLaMAConversation.request)
  }

  /// Describes clips, or continues prompts about them.
  ///
  /// - Parameters:
  ///   - clips: Any number, of any numbers of frames; a batch gives each what it gets alone.
  ///   - prompts: One for each clip, text that the answer continues; nil for a caption. All captions when left out.
  ///   - options: How text is generated; the language model's end tokens are added.
  ///   - stops: Strings that end a text.
  ///   - onText: Row and text of all tokens so far, after each token.
  /// - Throws: ``PipelineError`` without a language model; `QFormerError`, `GenerationError`, `TorchError`.
  public func describe(
    _ clips: [VideoFeatures], prompts: [String?]? = nil, options: GenerationOptions = GenerationOptions(),
    stops: [String] = [], onText: ((_ row: Int, _ text: String) -> Void)? = nil
  ) throws -> [LanguageModel.Answer] {
    let language = try requireLanguage()
    guard !clips.isEmpty else { return [] }
    return try language.describe(
      rows: languageTokens(ofClips: clips),
      prompts: (prompts ?? Array(repeating: nil, count: clips.count)).enumerated().map { row, text in
        clips.indices.contains(row) ? prompt(text, at: clips[row].seconds) : text
      },
      options: options, stops: stops, onText: onText)
  }

  // MARK: Scores

  /// Scores every clip with every text: VTC as the heads are configured, VTM as the probability that they match.
  ///
  /// - Returns: For each clip a list of scores in the order of the texts.
  /// - Throws: ``PipelineError`` without heads, and for a tokenizer of another model; `QFormerError`, `TorchError`.
  public func scores(
    _ clips: [VideoFeatures], texts: [String], head: ImageTextPipeline.Head = .both
  ) throws -> [[ImageTextPipeline.Score]] {
    guard let heads = adapter.heads, let encoder = self.texts else {
      throw PipelineError.wrongModel(
        folder: folder.path, expected: "a model that compares videos with texts", found: "one without heads for that")
    }
    guard !clips.isEmpty, !texts.isEmpty else { return clips.map { _ in [] } }
    try encoder.requireWords(texts, count: adapter.textQFormer.configuration.vocabularySize, of: report.file)
    let clip = try VideoFeatures.batch(clips)
    return try withError {
      try withNoGrad {
        try heads.scores(
          adapter.textQFormer, adapter.keyValues(clip, isTraining: false), batch: clip.batch, encoder.batch(texts),
          head: head)
      }
    }
  }
}

extension AdapterConfiguration.Text {
  /// The text model's word table, which an adapter's file need not repeat, under the names of all families.
  package func wordTable(in store: ModelStore) throws -> BaseCheckpoint {
    BaseCheckpoint(
      try Checkpoint(contentsOf: store.frozenModel(model)),
      keyMap: KeyMap([KeyMap.Rule("temporal.embeddings", "embeddings")]), providing: ["*.word_embeddings.*"])
  }
}

extension AdapterConfiguration.Frames {
  /// The choice of frames that the fields describe.
  public var choice: FrameChoice {
    switch place {
    case .uniform: .uniform(count)
    case .uniformMiddle: .uniformMiddle(count)
    }
  }
}

extension AdapterConfiguration {
  /// How a question becomes a prompt.
  var questions: QuestionTemplate {
    language?.conversation != nil ? .asItIs : published.map(QuestionTemplate.init) ?? .questionAnswer
  }
}
