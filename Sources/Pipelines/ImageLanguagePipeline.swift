public import Backbones
public import Checkpoints
import Foundation
public import Media
public import QFormer
import Tokenizers
public import Torch

/// Image and prompt in, text out: encoder, Q-Former, projection, language model.
///
/// The language model reads the image tokens first, then its begin token, then the prompt, unless the adapter's
/// configuration has a ``PromptTemplate``. A Q-Former that reads
/// instructions (InstructBLIP) reads the prompt, too.
public final class ImageLanguagePipeline: Sendable {
  /// A generated text.
  public typealias Answer = LanguageModel.Answer

  /// The adapter.
  public let adapter: ImageLanguageQFormer
  /// The image encoder.
  public let encoder: ImageEncoder
  /// The language model.
  public let language: LanguageModel
  /// How prompts become what the Q-Former reads; nil when it reads none.
  public let instructions: TextEncoder?
  /// How a question becomes a prompt.
  public let questions: QuestionTemplate
  /// What became of the keys of the model's own file.
  public let report: LoadReport

  /// Loads an adapter folder with the frozen models that its configuration names, or a published model.
  ///
  /// - Parameters:
  ///   - model: A name such as `image-caption`, or a folder.
  ///   - store: Where models lie.
  ///   - allowMissing: Patterns (`*` stands for anything) of keys that the model's own file may lack; they are initialised
  ///     afresh, and ``report`` names them.
  /// - Throws: ``PipelineError`` when something is not there or is of another kind, `CheckpointError` when weights do
  ///   not fit.
  public init(
    _ model: String = "image-caption", store: ModelStore = ModelStore(), allowMissing: [String] = []
  ) throws {
    let folder = try store.adapter(model)
    let contents = try ModelFolder(folder)
    guard !contents.comparesTexts, !contents.isVideoAdapter, !contents.isAudioAdapter else {
      throw PipelineError.wrongModel(
        folder: folder.path, expected: "a model that writes text about pictures", found: contents.words)
    }
    switch contents {
    case .blip(let configuration):
      let published = try BLIPModel(folder: folder, allowMissing: allowMissing)
      guard let (adapter, language) = published.language else {
        throw PipelineError.badConfiguration(file: folder.path, reason: "names no language model")
      }
      (encoder, instructions) = (published.encoder, published.texts)
      (self.adapter, self.language) = (adapter, language)
      (questions, report) = (QuestionTemplate(configuration.architecture), published.report)
    case .adapter(let configuration):
      guard let sizes = configuration.imageLanguage, let language = configuration.language else {
        throw PipelineError.badConfiguration(file: folder.path, reason: "lacks the sizes of its Q-Former")
      }
      encoder = try ImageEncoder(configuration.encoder, store: store)
      self.language = try LanguageModel(language, folder: store.frozenModel(language.model))
      (adapter, report) = try loadModel(from: Checkpoint(contentsOf: folder), allowMissing: allowMissing) {
        try ImageLanguageQFormer(sizes, $0)
      }
      questions = configuration.published.map(QuestionTemplate.init) ?? .questionAnswer
      instructions = try configuration.instructions(store)
    }
    let sizes = adapter.configuration
    guard language.model.hiddenSize == sizes.languageSize, encoder.width == sizes.qformer.encoderHiddenSize else {
      throw PipelineError.badConfiguration(
        file: folder.path,
        reason: "the adapter goes from width \(sizes.qformer.encoderHiddenSize) to \(sizes.languageSize), but the "
          + "encoder gives \(encoder.width) and the language model takes \(language.model.hiddenSize)")
    }
  }

  /// Language tokens `[B, M, d_llm]` of encoder features `[B, N, Dv]`.
  ///
  /// - Parameters:
  ///   - features: What the encoder gives; `[B, T, N, Dv]` for clips of T frames, whose tokens follow each other:
  ///     `[B, T · M, d_llm]` (InstructBLIP-Video).
  ///   - prompts: B instructions for a Q-Former that reads them; others pass them over.
  /// - Throws: ``PipelineError/badInput(_:)`` for a tokenizer of another model; `QFormerError`, `TorchError`.
  public func languageTokens(features: Tensor, prompts: [String?] = []) throws -> Tensor {
    try requireWords(prompts)
    let isClip = features.rank == 4
    let frames = isClip ? features.size(1) : 1
    return try withError {
      try withNoGrad {
        let pictures = isClip ? features.reshaped(-1, features.size(2), features.size(3)) : features
        let instruction = instruction(
          prompts.flatMap { Array(repeating: $0, count: frames) }, count: pictures.rank == 3 ? pictures.size(0) : 0)
        let tokens = adapter.languageTokens(try adapter.readImage(pictures, text: instruction).hidden)
        return isClip ? tokens.reshaped(features.size(0), -1, tokens.size(2)) : tokens  // [B, T · M, d_llm]
      }
    }
  }

  /// Refuses instructions that the Q-Former has no words for.
  ///
  /// - Throws: ``PipelineError/badInput(_:)``: the tokenizer of its text belongs to another model.
  public func requireWords(_ prompts: [String?]) throws {
    try instructions?.requireWords(
      prompts.compactMap { $0 }, count: adapter.configuration.qformer.vocabularySize, of: report.file)
  }

  /// Instructions as the Q-Former reads them, or nil when it reads none. No instruction is an empty one.
  public func instruction(_ prompts: [String?], count: Int) -> (ids: Tensor, mask: Tensor)? {
    instructions.map { texts in
      let batch = texts.batch((0..<count).map { $0 < prompts.count ? prompts[$0] ?? "" : "" })
      return (batch.ids, batch.mask)
    }
  }

  /// Describes images, or continues a prompt about them.
  ///
  /// - Parameters:
  ///   - images: Any number; a batch gives each what it gets alone.
  ///   - prompt: Text that the answer continues; none for a caption.
  ///   - options: How text is generated; the language model's end tokens are added.
  ///   - stops: Strings that end a text.
  ///   - onText: Row and text of all tokens so far, after each token.
  /// - Throws: `MediaError`, `GenerationError`, `TorchError`.
  public func describe(
    _ images: [Image], prompt: String? = nil, options: GenerationOptions = GenerationOptions(), stops: [String] = [],
    onText: ((_ row: Int, _ text: String) -> Void)? = nil
  ) throws -> [Answer] {
    try describe(
      images, prompts: Array(repeating: prompt, count: images.count), options: options, stops: stops, onText: onText)
  }

  /// As ``describe(_:prompt:options:stops:onText:)``, with a prompt for each image.
  ///
  /// - Throws: `MediaError`, `GenerationError`, `TorchError`.
  public func describe(
    _ images: [Image], prompts: [String?], options: GenerationOptions = GenerationOptions(), stops: [String] = [],
    onText: ((_ row: Int, _ text: String) -> Void)? = nil
  ) throws -> [Answer] {
    guard !images.isEmpty else { return [] }
    let tokens = try languageTokens(features: encoder.features(images), prompts: prompts)
    return try language.describe(tokens: tokens, prompts: prompts, options: options, stops: stops, onText: onText)
  }

  /// Describes clips, each given as its frames in order; a clip's tokens are those of its frames behind each other.
  ///
  /// - Parameters:
  ///   - clips: Any number, each of any number of frames, at least one.
  ///   - prompt: Text that the answer continues; none for a caption.
  ///   - options: How text is generated.
  ///   - stops: Strings that end a text.
  /// - Throws: ``PipelineError/badInput(_:)`` for a clip without frames; `MediaError`, `GenerationError`, `TorchError`.
  public func describe(
    clips: [[Image]], prompt: String? = nil, options: GenerationOptions = GenerationOptions(), stops: [String] = []
  ) throws -> [Answer] {
    try clips.flatMap { frames in
      guard !frames.isEmpty else { throw PipelineError.badInput("a clip without frames") }
      let features = try encoder.features(frames)
      let clip = try withError { features.unsqueezed(0) }  // [1, T, N, Dv]
      let tokens = try languageTokens(features: clip, prompts: [prompt])
      return try language.describe(tokens: tokens, prompt: prompt, options: options, stops: stops)
    }
  }
}

/// How a question about a picture becomes a prompt.
public enum QuestionTemplate: Sendable, Equatable {
  /// `Question: … Answer:`, which BLIP-2 was evaluated with (arXiv 2301.12597, section 4.1).
  case questionAnswer
  /// The question as it is, as in the published cards of InstructBLIP: it has learnt to follow instructions.
  case asItIs

  init(_ architecture: BLIPConfiguration.Architecture) {
    self =
      switch architecture {
      case .blip2, .blip2Matching: .questionAnswer
      case .instructBLIP, .instructBLIPVideo: .asItIs
      }
  }

  /// The prompt for a question.
  public func prompt(_ question: String) -> String {
    switch self {
    case .questionAnswer: "Question: \(question) Answer:"
    case .asItIs: question
    }
  }
}

extension AdapterConfiguration {
  /// The text side of a Q-Former that reads instructions before a language model; nil for one that reads none.
  fileprivate func instructions(_ store: ModelStore) throws -> TextEncoder? {
    guard let sizes = imageLanguage?.qformer, sizes.readsText else { return nil }
    guard let text else {
      throw PipelineError.badInput("an adapter that reads instructions needs the field text in its config.json")
    }
    return TextEncoder(
      try Tokenizer(contentsOf: store.frozenModel(text.model)),
      maximumLength: min(text.maximumLength, sizes.maxPositions))
  }
}
