import Backbones
import Checkpoints
import Foundation
import Pipelines
import QFormer
import Torch
import TorchNN

/// How a Q-Former starts from a BERT (BLIP-2, section 3.1): attention and both feed-forward parts are copied, cross-
/// attention and queries are new.
enum QFormerStart {
  /// Names of the Q-Former in terms of BertModel's.
  static let bert = KeyMap([
    KeyMap.Rule("embeddings.word_embeddings", "embeddings.word_embeddings"),
    KeyMap.Rule("qformer.layernorm", "embeddings.LayerNorm"),
    KeyMap.Rule("qformer.encoder.layer.*.attention.attention", "encoder.layer.*.attention.self"),
    KeyMap.Rule("qformer.encoder.layer.*.attention.output", "encoder.layer.*.attention.output"),
    KeyMap.Rule("qformer.encoder.layer.*.intermediate_query", "encoder.layer.*.intermediate"),
    KeyMap.Rule("qformer.encoder.layer.*.output_query", "encoder.layer.*.output"),
    KeyMap.Rule("qformer.encoder.layer.*.intermediate", "encoder.layer.*.intermediate"),
    KeyMap.Rule("qformer.encoder.layer.*.output", "encoder.layer.*.output"),
  ])

  /// The sizes of a new Q-Former: those that it shares with the BERT in a folder, and the recipe's.
  ///
  /// - Throws: `BackboneError` for the folder's `config.json`; ``TrainingError/badRecipe(file:reason:)`` for more positions
  ///   than BERT has.
  static func configuration(_ recipe: Recipe, bert folder: URL, encoderWidth: Int) throws -> QFormerConfiguration {
    let bert = try readConfiguration(BERTConfiguration.self, folder: folder)
    guard recipe.adapter.positions <= bert.maxPositions else {
      throw TrainingError.badRecipe(
        file: "recipe",
        reason: "adapter.positions is \(recipe.adapter.positions), but \(recipe.text.model) has \(bert.maxPositions)")
    }
    var configuration = QFormerConfiguration.small
    configuration.hiddenSize = bert.hiddenSize
    configuration.layers = try layers(recipe, of: bert.layers, file: folder.path)
    configuration.heads = bert.heads
    configuration.intermediateSize = bert.intermediateSize
    configuration.layerNormEps = bert.layerNormEps
    configuration.vocabularySize = bert.vocabularySize
    configuration.maxPositions = recipe.adapter.positions
    configuration.encoderHiddenSize = encoderWidth
    configuration.queries = recipe.adapter.queries
    configuration.hiddenDropout = recipe.adapter.hiddenDropout
    configuration.attentionDropout = recipe.adapter.attentionDropout
    return configuration
  }

  /// How many layers a Q-Former has that starts from another with `all`.
  ///
  /// - Parameter file: What has them.
  /// - Throws: ``TrainingError/badRecipe(file:reason:)`` for a number out of range.
  static func layers(_ recipe: Recipe, of all: Int, file: String) throws(TrainingError) -> Int {
    guard let layers = recipe.adapter.layers else { return all }
    guard (1...all).contains(layers) else {
      throw .badRecipe(file: file, reason: "adapter.layers is \(layers), expected 1 … \(all)")
    }
    return layers
  }

  /// Patterns for the names of the layers that ``layers(_:of:file:)`` leaves out.
  static func namesLeftOut(from layers: Int, of all: Int) -> [String] {
    (layers..<all).map { "qformer.encoder.layer.\($0).*" }
  }

  /// The names of parameters that BERT has, in the same shape.
  ///
  /// - Parameter path: What stands before the names of the Q-Former within a larger model, such as `temporal.`.
  static func inherited(_ bert: Checkpoint, _ parameters: Parameters, below path: String = "") -> Set<String> {
    let names = parameters.all.compactMap { name, tensor -> String? in
      guard name.hasPrefix(path) else { return nil }
      let own = String(name.dropFirst(path.count))
      if own == positionTable { return name }
      let key = Self.bert(own)
      return (key != own || own.hasPrefix("embeddings.word")) && bert.shape(key) == tensor.shape ? name : nil
    }
    return Set(names)
  }

  /// Overwrites the parameters of a fresh Q-Former that BERT has, and lets its cross-attention start as told; returns the
  /// names of what BERT has.
  ///
  /// BERT adds a token-type vector to every token; the Q-Former has none, so it is added to the position table.
  ///
  /// - Parameters:
  ///   - recipe: How cross-attention starts.
  ///   - path: As above.
  static func copy(
    _ bert: Checkpoint, into parameters: Parameters, _ recipe: Recipe, below path: String = ""
  ) throws -> Set<String> {
    switch recipe.adapter.crossAttention {
    case .mean: try readMeans(parameters, below: path)
    case .xavier: try drawWide(parameters, below: path, seed: recipe.seed &+ 5)
    case .normal, .pooling: break
    }
    let inherited = inherited(bert, parameters, below: path)
    try withError {
      try withNoGrad {
        for (name, tensor) in parameters.all where inherited.contains(name) {
          let own = String(name.dropFirst(path.count))
          guard own == positionTable else {
            tensor.copy(from: try bert.tensor(Self.bert(own)))
            continue
          }
          let type = try bert.tensor("embeddings.token_type_embeddings.weight").narrow(0, 0, 1)
          tensor.copy(from: try bert.tensor(own).narrow(0, 0, tensor.size(0)) + type)
        }
      }
    }
    return inherited
  }

  /// Lets new cross-attention start as the mean of the patches: values and output are the identity, while keys and
  /// queries stay small, so that all patches get nearly the same weight.
  ///
  /// - Parameter path: As above.
  /// - Throws: ``TrainingError/badRecipe(file:reason:)`` for an encoder of another width.
  static func readMeans(_ parameters: Parameters, below path: String = "") throws {
    for (name, tensor) in parameters.all where name.hasPrefix(path + "qformer.") && name.contains(".crossattention.") {
      guard name.hasSuffix("attention.value.weight") || name.hasSuffix("output.dense.weight") else { continue }
      guard tensor.size(0) == tensor.size(1) else {
        throw TrainingError.badRecipe(
          file: "recipe",
          reason: "adapter.crossAttention is mean, which needs an encoder as wide as the Q-Former: \(name) is "
            + "\(tensor.shape)")
      }
      try withError { withNoGrad { tensor.copy(from: Tensor.identity(tensor.size(0)).to(.float32)) } }
    }
  }

  /// Draws the weights of new cross-attention as PyTorch's attention starts.
  ///
  /// - Parameter path: As above.
  private static func drawWide(_ parameters: Parameters, below path: String, seed: UInt64) throws {
    let generator = Generator(seed: seed)
    try withError {
      withNoGrad {
        for (name, tensor) in parameters.all
        where name.hasPrefix(path + "qformer.") && name.contains(".crossattention.") && tensor.rank == 2 {
          tensor.copy(from: Initializer.xavierUniform.tensor(tensor.shape, generator: generator))
        }
      }
    }
  }

  /// Lets a new Q-Former of images start by pooling, where the recipe says so.
  ///
  /// - Parameters:
  ///   - embeds: The model's LayerNorm on image features.
  ///   - features: Those of the training images.
  /// - Throws: `QFormerError` for patches that make no square.
  static func pool(
    _ qformer: QFormer, _ embeds: (Tensor) -> Tensor, features: FeatureStack, _ recipe: Recipe
  ) throws {
    guard recipe.adapter.crossAttention == .pooling else { return }
    let count = min(256, features.count)
    try withError {
      try withNoGrad {
        try qformer.startPooling(embeds(features.batch((0..<count).map { $0 * features.count / count })))
      }
    }
  }

  private static let positionTable = "embeddings.position_embeddings.weight"
}
