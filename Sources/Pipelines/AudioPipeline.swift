public import Backbones
public import Checkpoints
public import Foundation
import Media
public import QFormer
import Torch
import TorchNN

/// Sound in, text out: an adapter for sound alone, between an audio encoder and a language model.
///
/// ```swift
/// let model = try AudioPipeline("my-audio-adapter")
/// let sound = try model.features(of: URL(fileURLWithPath: "sound.wav"))
/// print(try model.describe([sound])[0].text)
/// ```
public final class AudioPipeline: Sendable {
  /// What the folder says.
  public let configuration: AdapterConfiguration
  /// Encoder and adapter.
  public let sound: AudioBranch
  /// The language model; nil where it was not asked for.
  public let language: LanguageModel?
  /// How a question becomes a prompt.
  public let questions: QuestionTemplate
  /// What became of the keys of the adapter's own file.
  public let report: LoadReport
  private let folder: URL

  /// Loads the folder of an adapter for sound, with the frozen models that its configuration names.
  ///
  /// - Parameters: As those of ``VideoPipeline``.
  /// - Throws: ``PipelineError`` when something is not there or is of another kind, `CheckpointError` when weights do
  ///   not fit.
  public init(
    _ model: String, store: ModelStore = ModelStore(), allowMissing: [String] = [], loadsLanguageModel: Bool = true
  ) throws {
    folder = try store.adapter(model)
    let contents = try ModelFolder(folder)
    guard case .adapter(let configuration) = contents, configuration.kind == .audioLanguage else {
      throw PipelineError.wrongModel(folder: folder.path, expected: "an adapter for sound", found: contents.words)
    }
    let folder = folder
    func bad(_ reason: String) -> PipelineError { .badConfiguration(file: folder.path, reason: reason) }
    guard let audio = configuration.audio else { throw bad("lacks the sizes of its Q-Former") }
    (self.configuration, questions) = (configuration, configuration.questions)
    let loaded = try loadModel(from: Checkpoint(contentsOf: folder), allowMissing: allowMissing) {
      try AudioQFormer(audio.sizes, $0["audio"])
    }
    report = loaded.report
    sound = try AudioBranch(audio, loaded.model, folder: folder, store: store)
    guard loadsLanguageModel else {
      language = nil
      return
    }
    guard let named = configuration.language else { throw bad("has a projection, but names no language model") }
    let language = try LanguageModel(named, folder: store.frozenModel(named.model))
    guard language.model.hiddenSize == audio.sizes.languageSize else {
      throw bad(
        "the adapter writes width \(audio.sizes.languageSize), but the language model takes \(language.model.hiddenSize)"
      )
    }
    self.language = language
  }

  /// Features `[1, S, Da]` of the sound of a file, a video's track for instance.
  ///
  /// - Throws: `MediaError`, also for a file without a sound track; `TorchError`.
  public func features(of file: URL) throws -> TimedFeatures {
    try sound.encoder.features([AudioClip(contentsOf: file)])
  }

  /// The language model.
  ///
  /// - Throws: ``PipelineError/wrongModel(folder:expected:found:)`` where it was not loaded.
  public func requireLanguage() throws -> LanguageModel {
    guard let language else {
      throw PipelineError.wrongModel(
        folder: folder.path, expected: "the adapter with its language model", found: "the adapter alone")
    }
    return language
  }

  /// Describes sounds, or continues prompts about them.
  ///
  /// - Parameters:
  ///   - sounds: `[1, S, Da]` each.
  ///   - prompts: One for each sound, nil for a caption. All captions when left out.
  ///   - options: How text is generated; the language model's end tokens are added.
  ///   - stops: Strings that end a text.
  ///   - onText: Row and text of all tokens so far, after each token.
  /// - Throws: ``PipelineError`` without a language model; `QFormerError`, `GenerationError`, `TorchError`.
  public func describe(
    _ sounds: [TimedFeatures], prompts: [String?]? = nil, options: GenerationOptions = GenerationOptions(),
    stops: [String] = [], onText: ((_ row: Int, _ text: String) -> Void)? = nil
  ) throws -> [LanguageModel.Answer] {
    let language = try requireLanguage()
    guard !sounds.isEmpty else { return [] }
    let tokens = try sounds.map { sound in
      let rows = try self.sound.languageTokens(of: sound)
      return withNoGrad { rows.select(0, 0) }
    }
    return try language.describe(
      rows: tokens, prompts: prompts ?? Array(repeating: nil, count: sounds.count), options: options, stops: stops,
      onText: onText)
  }
}
