public import Backbones
import Checkpoints
public import Foundation
import Tokenizers
public import Torch

/// A frozen language model with its tokenizer and the numbers of its special tokens.
public struct LanguageModel: Sendable {
  /// How a prompt becomes tokens.
  public enum Prompting: Sendable {
    /// The begin token, then the prompt's own tokens: how this package trains its adapters.
    case beginThenText
    /// The template's words around picture and text.
    case filled(PromptTemplate)
    /// Video-LLaMA's words around clip and question.
    case conversation(VideoLLaMAConversation)
    /// The prompt with the special tokens of the model's tokenizer, or the begin token alone when there is no prompt: what
    /// the processors of published models do.
    case published
  }

  /// A generated text.
  public struct Answer: Sendable, Equatable, Codable {
    /// The text without prompt and special tokens.
    public let text: String
    /// The generated token numbers, the end token included where it was reached.
    public let tokenIDs: [Int]
  }

  /// The model.
  public let model: LanguageTower
  /// What stands before the picture in every row, read once; nil when nothing does.
  public let prefix: TextPrefix?
  /// The number of the token that begins a text; nil for a model that needs none.
  public let beginID: Int?
  /// The numbers of tokens that end a text.
  public let endIDs: [Int]
  /// How a prompt becomes tokens.
  public let prompting: Prompting
  /// The tokens between the picture and any text.
  public let openingIDs: [Int]
  /// With how many beams a text is looked for where options do not say; nil: 1. From the adapter's `language.beams`.
  public private(set) var beams: Int?
  /// What stands for each picture token where repeated tokens are counted; nil when they are not counted.
  private let imageTokenID: Int?
  private let tokenizer: Tokenizer
  /// The folder that the tokenizer was read from.
  private let source: String

  /// Loads a model folder, to be used as this package trains adapters for it.
  ///
  /// - Parameters:
  ///   - folder: A model in Hugging Face layout.
  ///   - template: What the model reads around picture and text; for decoder-only models.
  /// - Throws: What loading the model or the tokenizer throws; ``PipelineError/badInput(_:)`` for a template that does not
  ///   fit the model.
  public init(folder: URL, template: PromptTemplate? = nil) throws {
    struct Special: Decodable {
      let beginID: Int?
      enum CodingKeys: String, CodingKey { case beginID = "bos_token_id" }
    }
    let model = try LanguageTower.load(folder: folder)
    var beginID: Int?
    if model.causal != nil {
      beginID = try readConfiguration(Special.self, folder: folder).beginID
      guard let beginID, (0..<model.vocabularySize).contains(beginID) else {
        throw PipelineError.badConfiguration(
          file: folder.appendingPathComponent("config.json").path, reason: "expected bos_token_id within the vocabulary"
        )
      }
    }
    let tokenizer = try Tokenizer(contentsOf: folder)
    var endIDs = model.configuration.endIDs
    var prefix: TextPrefix?
    if let template {
      guard let causal = model.causal else {
        throw PipelineError.badInput("template: \(folder.lastPathComponent) is no decoder-only model")
      }
      let before = tokenizer.encode(template.before, addSpecialTokens: false)
      prefix = before.isEmpty ? nil : try TextPrefix(before, model: causal)
      let end = tokenizer.encode(template.end, addSpecialTokens: false)
      guard end.count < 2 else {
        throw PipelineError.badInput("template: expected one token after {text}, found \(end.count): \(template.end)")
      }
      endIDs = end + endIDs
    }
    self.init(
      model, tokenizer: tokenizer, beginID: beginID, endIDs: endIDs,
      prompting: template.map { .filled($0) } ?? .beginThenText, source: folder.path, prefix: prefix)
  }

  /// Loads a model folder, to be used as an adapter's configuration says.
  ///
  /// - Throws: What loading the model or the tokenizer throws; ``PipelineError/badInput(_:)`` for a template that does not
  ///   fit the model, or beside a published model's prompts.
  init(_ configuration: AdapterConfiguration.Language, folder: URL) throws {
    if let beams = configuration.beams, !(1...64).contains(beams) {
      throw PipelineError.badInput(
        "language.beams: expected 1 … 64, found \(beams) in an adapter for \(configuration.model)")
    }
    guard configuration.template == nil || configuration.usesPublishedPrompts != true else {
      throw PipelineError.badInput(
        "language.template and language.published_prompts: expected one of them, found both in an adapter for "
          + configuration.model)
    }
    if let conversation = configuration.conversation {
      guard configuration.template == nil, configuration.usesPublishedPrompts != true else {
        throw PipelineError.badInput(
          "language.conversation: expected neither template nor published_prompts beside it, in an adapter for "
            + configuration.model)
      }
      try self.init(conversation, folder: folder)
    } else if configuration.usesPublishedPrompts == true {
      try self.init(
        published: LanguageTower.load(folder: folder), folder: folder,
        beginID: try readConfiguration(PublishedText.self, folder: folder).usualBeginID,
        imageTokenID: configuration.imageTokenID)
    } else {
      try self.init(folder: folder, template: configuration.template)
    }
    beams = configuration.beams
  }

  /// The language model of a published model, prompted as its processor does it.
  ///
  /// - Parameters:
  ///   - tower: The model.
  ///   - folder: Where the tokenizer lies.
  ///   - beginID: What the folder's `config.json` says.
  ///   - imageTokenID: As the stored property.
  init(
    published tower: LanguageTower, folder: URL, beginID: Int?, imageTokenID: Int?
  ) throws {
    let tokenizer = try Tokenizer(contentsOf: folder)
    var (beginID, endIDs) = (beginID, tower.configuration.endIDs)
    if case .llama = tower {
      // Vicuna's published configuration says 0 and 1; its tokenizer knows better.
      beginID = tokenizer.id(of: .beginning) ?? beginID
      if let end = tokenizer.id(of: .end), !endIDs.contains(end) { endIDs.append(end) }
    }
    if let id = beginID, !(0..<tower.vocabularySize).contains(id) {
      throw PipelineError.badConfiguration(
        file: folder.appendingPathComponent("config.json").path,
        reason: "bos_token_id is \(id), expected 0 ..< \(tower.vocabularySize)")
    }
    self.init(
      tower, tokenizer: tokenizer, beginID: beginID, endIDs: endIDs, prompting: .published, source: folder.path,
      imageTokenID: imageTokenID)
  }

  /// A language model as Video-LLaMA talks to it.
  private init(_ conversation: VideoLLaMAConversation, folder: URL) throws {
    let published = try LanguageModel(
      published: LanguageTower.load(folder: folder), folder: folder,
      beginID: readConfiguration(PublishedText.self, folder: folder).usualBeginID, imageTokenID: nil)
    guard let causal = published.model.causal, let begin = published.beginID else {
      throw PipelineError.badInput("language.conversation: \(folder.path) is no decoder-only model with a begin token")
    }
    let before = [begin] + published.ids(conversation.before)
    try published.tokenizer.requireWords([before], count: causal.vocabularySize, of: folder.path)
    self.init(
      published.model, tokenizer: published.tokenizer, beginID: begin, endIDs: published.endIDs,
      prompting: .conversation(conversation), source: folder.path, prefix: try TextPrefix(before, model: causal))
  }

  /// Puts a tokenizer before a model.
  init(
    _ model: LanguageTower, tokenizer: Tokenizer, beginID: Int?, endIDs: [Int], prompting: Prompting,
    source: String, imageTokenID: Int? = nil, prefix: TextPrefix? = nil
  ) {
    self.source = source
    (self.model, self.tokenizer, self.beginID, self.endIDs) = (model, tokenizer, beginID, endIDs)
    (self.prompting, self.imageTokenID, self.prefix) = (prompting, imageTokenID, prefix)
    if case .filled(let template) = prompting {
      openingIDs = tokenizer.encode(template.between, addSpecialTokens: false)
    } else {
      openingIDs = beginID.map { [$0] } ?? []
    }
  }

  /// Token numbers of a text, without special tokens around it.
  public func ids(_ text: String) -> [Int] { tokenizer.encode(text, addSpecialTokens: false) }

  /// The text of token numbers, without special tokens and white space around it.
  public func text(_ ids: [Int]) -> String { tokenizer.decode(ids).trimmingCharacters(in: .whitespacesAndNewlines) }

  /// What the model should write for a text: the text's tokens, cut to a number, and the end token.
  public func targetIDs(_ text: String, maximum: Int) -> [Int] {
    var lead = ""
    if case .filled(let template) = prompting { lead = template.lead }
    return Array(ids(lead + text).prefix(maximum - 1)) + endIDs.prefix(1)
  }

  /// The tokens that come after those of the picture and before the answer.
  public func promptIDs(_ prompt: String?) -> [Int] {
    if case .conversation(let words) = prompting {
      return ids(words.between + (prompt ?? VideoLLaMAConversation.request) + words.closing)
    }
    guard let prompt else { return openingIDs }
    switch prompting {
    case .filled(let template): return openingIDs + ids(template.lead + prompt)
    case .published: return tokenizer.encode(prompt)
    case .beginThenText, .conversation:
      return openingIDs + ids(prompt) + (model.causal == nil ? Array(endIDs.prefix(1)) : [])
    }
  }

  /// Generates from image tokens and prompts, one for each row.
  ///
  /// - Parameters:
  ///   - tokens: `[B, M, d_llm]`.
  ///   - prompts: B texts that answers continue, nil for none; of any lengths: a row gets what it would get alone.
  ///   - options: How text is generated; the language model's end tokens are added, and ``beams`` where nothing is said of
  ///     them and a text is neither sampled nor watched.
  ///   - stops: Strings that end a text; what begins with one is cut off.
  ///   - onText: Row and text of all tokens so far, after each token.
  /// - Throws: `GenerationError`, `TorchError`; ``PipelineError/badInput(_:)`` for a tokenizer of another model.
  public func describe(
    tokens: Tensor, prompts: [String?], options: GenerationOptions = GenerationOptions(), stops: [String] = [],
    onText: ((_ row: Int, _ text: String) -> Void)? = nil
  ) throws -> [Answer] {
    let rows = try withError { withNoGrad { (0..<tokens.size(0)).map { tokens.select(0, $0) } } }
    return try describe(rows: rows, prompts: prompts, options: options, stops: stops, onText: onText)
  }

  /// As ``describe(tokens:prompts:options:stops:onText:)``, from rows of any numbers of tokens.
  ///
  /// - Parameters:
  ///   - tokens: B times `[M, d_llm]`, M of each row its own.
  ///   - prompts: B texts, nil for none.
  ///   - options: How text is generated.
  ///   - stops: Strings that end a text.
  ///   - onText: Row and text of all tokens so far, after each token.
  /// - Throws: `GenerationError`, `TorchError`; ``PipelineError/badInput(_:)`` for a tokenizer of another model.
  public func describe(
    rows tokens: [Tensor], prompts: [String?], options: GenerationOptions = GenerationOptions(), stops: [String] = [],
    onText: ((_ row: Int, _ text: String) -> Void)? = nil
  ) throws -> [Answer] {
    let starts = prompts.map(promptIDs)
    var stops = stops
    if case .conversation(let words) = prompting { stops += words.stops }
    guard starts.count == tokens.count else {
      throw GenerationError.option(
        name: "prompts", found: "\(starts.count)", expected: "one for each of \(tokens.count) pictures")
    }
    try tokenizer.requireWords(starts, count: model.vocabularySize, of: source)
    let (embeds, mask) = try withError { withNoGrad { embedded(tokens, starts) } }
    var options = options
    // Beams do not sample, and a text that grows while it is looked at has none.
    if options.temperature == 0, onText == nil { options.beams = options.beams ?? beams }
    options.endIDs += endIDs.filter { !options.endIDs.contains($0) }
    let history = zip(tokens, starts).map { picture, start in
      (imageTokenID.map { Array(repeating: $0, count: picture.size(0)) } ?? []) + start
    }
    var soFar = Array(repeating: [Int](), count: starts.count)
    let ends = stops
    let rows = try reader.generate(
      inputsEmbeds: embeds, attentionMask: mask, options: options, history: history,
      stop: ends.isEmpty ? nil : TextStop(ends) { tokenizer.decode($0) }
    ) { row, id in
      guard let onText else { return }
      soFar[row].append(id)
      onText(row, cut(soFar[row], ends))
    }
    return rows.map { Answer(text: cut($0, ends), tokenIDs: $0) }
  }

  /// As ``describe(tokens:prompts:options:stops:onText:)``, with one prompt for all rows.
  ///
  /// - Throws: `GenerationError`, `TorchError`.
  public func describe(
    tokens: Tensor, prompt: String? = nil, options: GenerationOptions = GenerationOptions(), stops: [String] = [],
    onText: ((_ row: Int, _ text: String) -> Void)? = nil
  ) throws -> [Answer] {
    try describe(
      tokens: tokens, prompts: Array(repeating: prompt, count: tokens.size(0)), options: options, stops: stops,
      onText: onText)
  }

  /// Draws several texts for each row from what the model holds likely; the tokens before them are read once.
  ///
  /// - Parameters:
  ///   - tokens: B times `[M, d_llm]`, M of each row its own.
  ///   - count: How many texts of each row.
  ///   - options: How they are drawn; the temperature is above 0, and the seed is not used. The language model's end tokens are
  ///     added.
  ///   - generator: What all of them are drawn with.
  /// - Throws: `GenerationError`, `TorchError`; ``PipelineError/badInput(_:)`` for a tokenizer of another model.
  public func samples(
    rows tokens: [Tensor], count: Int, options: GenerationOptions, generator: Generator
  ) throws -> [[Answer]] {
    let starts = tokens.map { _ in promptIDs(nil) }
    try tokenizer.requireWords(starts, count: model.vocabularySize, of: source)
    let (embeds, mask) = try withError { withNoGrad { embedded(tokens, starts) } }
    var options = options
    options.endIDs += endIDs.filter { !options.endIDs.contains($0) }
    return try reader.samples(
      inputsEmbeds: embeds, attentionMask: mask, count: count, options: options, generator: generator
    ).map { row in row.map { Answer(text: cut($0.ids, []), tokenIDs: $0.ids) } }
  }

  /// The model behind what it has read already.
  private var reader: any GenerativeModel {
    guard let prefix, let causal = model.causal else { return model }
    return PrefixedLanguageModel(causal, prefix: prefix)
  }

  /// The text before the first of the stop strings.
  private func cut(_ ids: [Int], _ stops: [String]) -> String {
    let whole = tokenizer.decode(ids)
    let ends = stops.compactMap { whole.range(of: $0)?.lowerBound }
    return String(whole[..<(ends.min() ?? whole.endIndex)]).trimmingCharacters(in: .whitespacesAndNewlines)
  }

  /// Picture tokens `[M, d_llm]` of each row, then words, in rows of one length: shorter rows are padded in front.
  private func embedded(_ tokens: [Tensor], _ starts: [[Int]]) -> (embeds: Tensor, mask: Tensor?) {
    let (most, longest) = (tokens.map { $0.size(0) }.max() ?? 0, starts.map(\.count).max() ?? 0)
    if tokens.allSatisfy({ $0.size(0) == most }), starts.allSatisfy({ $0.count == longest }) {
      let pictures = Tensor.stack(tokens)  // [B, M, d_llm]
      guard longest > 0 else { return (pictures, nil) }
      return (.cat([pictures, model.embed(Tensor(starts.flatMap { $0 }, [starts.count, longest]))], 1), nil)
    }
    let lengths = zip(tokens, starts).map { $0.size(0) + $1.count }
    let length = lengths.max() ?? 0
    var mask: [Float] = []
    let rows = zip(zip(tokens, starts), lengths).map { row, own in
      let (picture, start) = row
      mask += Array(repeating: 0, count: length - own) + Array(repeating: 1, count: own)
      let padding = own == length ? [] : [Tensor.zeros([length - own, picture.size(1)])]
      return Tensor.cat(padding + [picture] + (start.isEmpty ? [] : [model.embed(Tensor(start))]), 0)
    }
    return (.stack(rows), Tensor(mask, [starts.count, length]))
  }
}
