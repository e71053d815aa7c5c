public import Torch

/// A text that comes before everything else in every row, read once: its keys and values in every layer of a causal model.
///
/// What stands before the picture in a prompt is the same for all pictures, so that neither training nor generation needs to
/// compute it again. Holds no gradients; an immutable value.
public struct TextPrefix: Sendable {
  /// P, the number of tokens.
  public let length: Int
  private let layers: [(key: Tensor, value: Tensor)]  // [1, H_kv, P, d] each

  /// Reads a text.
  ///
  /// - Parameters:
  ///   - ids: P tokens, at least one.
  ///   - model: The model whose keys and values are kept.
  /// - Throws: `TorchError`.
  public init(_ ids: [Int], model: any CausalLanguageModel) throws {
    let cache = KVCache(layers: model.layerCount)
    length = ids.count
    layers = try withError {
      withNoGrad {
        _ = model.forward(inputsEmbeds: model.embed(Tensor(ids, [1, ids.count])), attentionMask: nil, cache: cache)
        return cache.contents
      }
    }
  }

  /// 0 ..< layers.
  var layerNumbers: Range<Int> { layers.indices }

  /// Keys and values of one layer for a number of rows, `[B, H_kv, P, d]`, without copies.
  func rows(_ count: Int, layer: Int) -> (key: Tensor, value: Tensor) {
    func expanded(_ x: Tensor) -> Tensor { x.expanded(count, x.size(1), x.size(2), x.size(3)) }
    return (expanded(layers[layer].key), expanded(layers[layer].value))
  }

  /// Keys and values `[B, H_kv, P + L, d]`: those of this text, then new ones, to which gradients flow.
  func joined(layer: Int, key: Tensor, value: Tensor) -> (key: Tensor, value: Tensor) {
    guard key.isValid, value.isValid else { return (key, value) }
    let past = rows(key.size(0), layer: layer)
    return (.cat([past.key, key], 2), .cat([past.value, value], 2))
  }
}

/// A causal language model that has read a text already: every row goes on from there.
public struct PrefixedLanguageModel: GenerativeModel {
  /// The model.
  public let model: any CausalLanguageModel
  /// What it has read.
  public let prefix: TextPrefix

  /// Puts a text before all rows of a model.
  public init(_ model: any CausalLanguageModel, prefix: TextPrefix) { (self.model, self.prefix) = (model, prefix) }

  /// D, the width of the embeddings that go in.
  public var hiddenSize: Int { model.hiddenSize }
  /// V.
  public var vocabularySize: Int { model.vocabularySize }
  /// Word embeddings: `int64` of any shape to `[…, D]`.
  public func embed(_ ids: Tensor) -> Tensor { model.embed(ids) }
  /// The ids that the repetition penalty counts before the first new token comes: those of the row alone.
  public func penalizedIDs(prompt: [Int]) -> [Int] { model.penalizedIDs(prompt: prompt) }

  /// Reads prompts `[B, L, D]` after the prefix.
  public func read(inputsEmbeds: Tensor, attentionMask: Tensor?) -> (logits: Tensor, state: any TextState) {
    model.read(
      inputsEmbeds: inputsEmbeds, attentionMask: attentionMask, cache: KVCache(prefix, rows: inputsEmbeds.size(0)))
  }

  /// Logits `[B, L, V]` that predict each token of targets `[B, L]`.
  public func targetLogits(inputsEmbeds: Tensor, attentionMask: Tensor?, targets: Tensor) -> Tensor {
    model.targetLogits(inputsEmbeds: inputsEmbeds, attentionMask: attentionMask, targets: targets, prefix: prefix)
  }
}
