import Foundation
public import Tokenizers
public import Torch

/// Texts as a padded batch.
public struct TextBatch: Sendable {
  /// `int64 [B, L]`.
  public let ids: Tensor
  /// `int64 [B, L]`, 1 for text and 0 for padding.
  public let mask: Tensor
}

/// How texts become a batch for a Q-Former: BERT's tokens, cut to a length, padded at the end.
public struct TextEncoder: Sendable {
  private let tokenizer: Tokenizer
  private let maximumLength: Int
  private let separator: Int

  /// An encoder on a BERT tokenizer.
  public init(_ tokenizer: Tokenizer, maximumLength: Int) {
    self.tokenizer = tokenizer
    self.maximumLength = max(maximumLength, 2)
    separator = tokenizer.id(of: "[SEP]") ?? 102
  }

  /// The text side of an adapter.
  ///
  /// - Parameters:
  ///   - text: The text model, whose tokenizer is read.
  ///   - positions: Rows of the Q-Former's table of positions.
  ///   - folder: The adapter's folder, for errors.
  ///   - store: Where models lie.
  /// - Throws: ``PipelineError``; what the tokenizer throws.
  init(_ text: AdapterConfiguration.Text, positions: Int, folder: URL, store: ModelStore) throws {
    guard (2...max(2, positions)).contains(text.maximumLength) else {
      throw PipelineError.badConfiguration(
        file: folder.appendingPathComponent("config.json").path,
        reason: "text.max_length is \(text.maximumLength), expected 2 … \(positions) (positions)")
    }
    self.init(try Tokenizer(contentsOf: store.frozenModel(text.model)), maximumLength: text.maximumLength)
  }

  /// Token numbers of one text, `[CLS]` … `[SEP]`, at most the maximum length.
  public func ids(_ text: String) -> [Int] {
    let ids = tokenizer.encode(text)
    return ids.count <= maximumLength ? ids : ids.prefix(maximumLength - 1) + [separator]
  }

  /// The text of token numbers, without special tokens.
  public func text(_ ids: [Int]) -> String { tokenizer.decode(ids) }

  /// A batch padded to its longest text.
  public func batch(_ texts: [String]) -> TextBatch { Self.pad(texts.map(ids)) }

  /// Refuses texts with tokens that a model has no words for: the tokenizer belongs to another one.
  ///
  /// - Parameters:
  ///   - texts: Any number.
  ///   - count: Rows of the model's word table.
  ///   - model: What is called so in errors, a path.
  /// - Throws: ``PipelineError/badInput(_:)``.
  func requireWords(_ texts: [String], count: Int, of model: String) throws {
    try tokenizer.requireWords(texts.map(ids), count: count, of: model)
  }

  /// Pads lists of token numbers with 0 to the longest.
  public static func pad(_ lists: [[Int]]) -> TextBatch {
    let length = lists.map(\.count).max() ?? 0
    let ids = lists.flatMap { $0 + Array(repeating: 0, count: length - $0.count) }
    let mask = lists.flatMap { Array(repeating: 1, count: $0.count) + Array(repeating: 0, count: length - $0.count) }
    return TextBatch(ids: Tensor(ids, [lists.count, length]), mask: Tensor(mask, [lists.count, length]))
  }
}

extension Tokenizer {
  /// Refuses tokens that a model has no words for: the tokenizer belongs to another one.
  ///
  /// - Throws: ``PipelineError/badInput(_:)``.
  func requireWords(_ lists: [[Int]], count: Int, of model: String) throws {
    guard let id = lists.joined().first(where: { !(0..<count).contains($0) }) else { return }
    throw PipelineError.badInput(
      "\(model): the tokenizer gives \(token(of: id) ?? "a token") the number \(id), but the model's word table has "
        + "\(count) rows: expected the tokenizer of this model")
  }
}
