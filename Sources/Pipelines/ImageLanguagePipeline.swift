public import Backbones
import Checkpoints
public import Foundation
public import Media
public import QFormer
import Tokenizers
public import Torch

/// A frozen language model with its tokenizer and the numbers of its special tokens.
public struct LanguageModel: Sendable {
  /// The model.
  public let model: Llama
  /// The number of the token that begins a text.
  public let beginID: Int
  /// The numbers of tokens that end a text.
  public let endIDs: [Int]
  private let tokenizer: Tokenizer

  /// Loads a model folder.
  ///
  /// - Throws: What loading the model or the tokenizer throws.
  public init(folder: URL) throws {
    model = try Llama.load(folder: folder)
    tokenizer = try Tokenizer(contentsOf: folder)
    endIDs = model.configuration.endIDs
    struct Special: Decodable {
      let beginID: Int?
      enum CodingKeys: String, CodingKey { case beginID = "bos_token_id" }
    }
    let special = try readConfiguration(Special.self, folder: folder)
    guard let begin = special.beginID, (0..<model.vocabularySize).contains(begin) else {
      throw PipelineError.badConfiguration(
        file: folder.appendingPathComponent("config.json").path, reason: "expected bos_token_id within the vocabulary")
    }
    beginID = begin
  }

  /// Token numbers of a text as the model's own tokenizer gives them.
  public func ids(_ text: String) -> [Int] { tokenizer.encode(text) }

  /// The text of token numbers, without special tokens and white space around it.
  public func text(_ ids: [Int]) -> String { tokenizer.decode(ids).trimmingCharacters(in: .whitespacesAndNewlines) }
}

/// Image and prompt in, text out: encoder, Q-Former, projection, language model.
///
/// The language model reads the image tokens first, then its begin token, then the prompt.
public final class ImageLanguagePipeline: Sendable {
  /// A generated text.
  public struct Answer: Sendable, Equatable, Codable {
    /// The text without prompt and special tokens.
    public let text: String
    /// The generated token numbers, the end token included where it was reached.
    public let tokenIDs: [Int]
  }

  /// The adapter and the models it stands between.
  public let configuration: AdapterConfiguration
  /// The adapter.
  public let adapter: ImageLanguageQFormer
  /// The image encoder.
  public let encoder: ImageEncoder
  /// The language model.
  public let language: LanguageModel

  /// Loads an adapter folder and the frozen models that its configuration names.
  ///
  /// - Parameters:
  ///   - model: A name such as `image-caption`, or a folder.
  ///   - store: Where models lie.
  /// - Throws: ``PipelineError`` when something is not there or is of another kind, `CheckpointError` when weights do
  ///   not fit.
  public init(_ model: String = "image-caption", store: ModelStore = ModelStore()) throws {
    let folder = try store.adapter(model)
    let configuration = try AdapterConfiguration(folder: folder)
    guard let sizes = configuration.imageLanguage, let language = configuration.language else {
      throw PipelineError.wrongModel(
        folder: folder.path, expected: "model_type \(AdapterConfiguration.Kind.imageLanguage.rawValue)",
        found: configuration.kind.rawValue)
    }
    self.configuration = configuration
    encoder = try ImageEncoder(configuration.encoder, store: store)
    self.language = try LanguageModel(folder: store.frozenModel(language.model))
    adapter = try loadModel(from: Checkpoint(contentsOf: folder)) { try ImageLanguageQFormer(sizes, $0) }.model
    guard self.language.model.hiddenSize == sizes.languageSize, encoder.width == sizes.qformer.encoderHiddenSize else {
      throw PipelineError.badConfiguration(
        file: folder.path,
        reason: "the adapter goes from width \(sizes.qformer.encoderHiddenSize) to \(sizes.languageSize), but the "
          + "encoder gives \(encoder.width) and the language model takes \(self.language.model.hiddenSize)")
    }
  }

  /// Language tokens `[B, M, d_llm]` of encoder features `[B, N, Dv]`.
  ///
  /// - Throws: `QFormerError`, `TorchError`.
  public func languageTokens(features: Tensor) throws -> Tensor {
    try withError {
      try withNoGrad { adapter.languageTokens(try adapter.readImage(features).hidden) }
    }
  }

  /// Describes images, or continues a prompt about them.
  ///
  /// - Parameters:
  ///   - images: Any number; a batch gives each what it gets alone.
  ///   - prompt: Text that the answer continues; none for a caption.
  ///   - options: How text is generated; the language model's end tokens are added.
  ///   - onText: Row and text of all tokens so far, after each token.
  /// - Throws: `MediaError`, `GenerationError`, `TorchError`.
  public func describe(
    _ images: [Image], prompt: String? = nil, options: GenerationOptions = GenerationOptions(),
    onText: ((_ row: Int, _ text: String) -> Void)? = nil
  ) throws -> [Answer] {
    guard !images.isEmpty else { return [] }
    return try describe(
      tokens: languageTokens(features: encoder.features(images)), prompt: prompt, options: options, onText: onText)
  }

  /// Describes what language tokens `[B, M, d_llm]` hold; otherwise as ``describe(_:prompt:options:onText:)``.
  ///
  /// - Throws: `GenerationError`, `TorchError`.
  public func describe(
    tokens: Tensor, prompt: String? = nil, options: GenerationOptions = GenerationOptions(),
    onText: ((_ row: Int, _ text: String) -> Void)? = nil
  ) throws -> [Answer] {
    try language.describe(tokens: tokens, prompt: prompt, options: options, onText: onText)
  }
}

extension LanguageModel {
  /// Generates from image tokens `[B, M, d_llm]`, the begin token and a prompt.
  ///
  /// - Throws: `GenerationError`, `TorchError`.
  public func describe(
    tokens: Tensor, prompt: String? = nil, options: GenerationOptions = GenerationOptions(),
    onText: ((_ row: Int, _ text: String) -> Void)? = nil
  ) throws -> [ImageLanguagePipeline.Answer] {
    let batch = tokens.size(0)
    let start = [beginID] + (prompt.map(ids) ?? [])
    let embeds = try withError {
      withNoGrad {
        let words = model.embed(Tensor(start)).unsqueezed(0).expanded(batch, -1, -1)  // [B, L, d_llm]
        return Tensor.cat([tokens, words], 1)
      }
    }
    var options = options
    options.endIDs += endIDs
    var soFar = Array(repeating: [Int](), count: batch)
    let rows = try model.generate(
      inputsEmbeds: embeds, options: options, history: Array(repeating: start, count: batch)
    ) { row, id in
      guard let onText else { return }
      soFar[row].append(id)
      onText(row, self.text(soFar[row]))
    }
    return rows.map { ImageLanguagePipeline.Answer(text: text($0), tokenIDs: $0) }
  }
}
