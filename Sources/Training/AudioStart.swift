import Checkpoints
import Foundation
import Pipelines
import QFormer
import Torch
import TorchNN

/// The branch for sound at the start of training: from an adapter that hears, or from the text model.
struct AudioStart {
  /// The model.
  let model: AudioQFormer
  /// Its parameters, all below `audio`.
  let parameters: Parameters
  /// Names of what a trained model has given, which learns more slowly.
  let inherited: Set<String>
  /// Whether its projection has been trained.
  let isProjecting: Bool
  /// What the trained adapter's `config.json` says of it.
  let configuration: AdapterConfiguration.Audio

  /// Makes the branch that the recipe trains.
  ///
  /// - Parameters:
  ///   - options: The recipe's.
  ///   - encoderWidth: Da.
  ///   - languageSize: The width of the language model's embeddings.
  /// - Throws: ``TrainingError/badRecipe(file:reason:)`` for an adapter that does not fit; what loading one throws.
  static func make(
    _ recipe: Recipe, _ options: Recipe.Audio, store: ModelStore, encoderWidth: Int, languageSize: Int
  ) throws -> AudioStart {
    if let name = recipe.adapter.start {
      let folder = try store.adapter(name)
      if let audio = try AdapterConfiguration(folder: folder).audio {
        return try continuation(of: audio, folder, recipe, options, languageSize: languageSize)
      }
    }
    let folder = try store.frozenModel(recipe.text.model)
    var sizes = AudioQFormerConfiguration.small
    let bert = try QFormerStart.configuration(recipe, bert: folder, encoderWidth: encoderWidth)
    sizes.qformer = bert
    sizes.qformer.layers = options.layers
    sizes.qformer.crossAttentionFrequency = 1
    sizes.qformer.queries = options.queries
    (sizes.qformer.readsText, sizes.qformer.separateDecoderToken) = (false, false)
    sizes.time.maxFrames = options.encoder.pieces
    sizes.languageSize = languageSize
    let parameters = Parameters()
    let model = try withError {
      try AudioQFormer(
        sizes, ParameterScope(FreshParameters(seed: recipe.seed), parameters: parameters)["audio"])
    }
    let inherited = try QFormerStart.copy(
      Checkpoint(contentsOf: folder), into: parameters, recipe, below: "audio.")
    return AudioStart(
      model: model, parameters: parameters, inherited: inherited, isProjecting: false,
      configuration: AdapterConfiguration.Audio(encoder: options.encoder, sizes: sizes))
  }

  /// The branch of an adapter goes on; its sizes stay.
  private static func continuation(
    of audio: AdapterConfiguration.Audio, _ folder: URL, _ recipe: Recipe, _ options: Recipe.Audio, languageSize: Int
  ) throws -> AudioStart {
    guard audio.encoder == options.encoder else {
      throw TrainingError.badRecipe(
        file: folder.path, reason: "adapter.start reads another sound than audio.encoder says: \(audio.encoder)")
    }
    guard audio.sizes.languageSize == languageSize else {
      throw TrainingError.badRecipe(
        file: folder.path,
        reason:
          "adapter.start writes sound of width \(audio.sizes.languageSize), the language model takes \(languageSize)")
    }
    var audio = audio
    audio.sizes.qformer.hiddenDropout = recipe.adapter.hiddenDropout
    audio.sizes.qformer.attentionDropout = recipe.adapter.attentionDropout
    let checkpoint = try Checkpoint(contentsOf: folder)
    let parameters = Parameters()
    let model = try loadModel(from: checkpoint, ignoring: checkpoint.names.filter { !$0.hasPrefix("audio.") }) {
      scope in
      defer { for (name, tensor) in scope.parameters.all { parameters.insert(name, tensor) } }
      return try AudioQFormer(audio.sizes, scope["audio"])
    }.model
    return AudioStart(
      model: model, parameters: parameters, inherited: Set(parameters.names), isProjecting: true, configuration: audio)
  }
}
