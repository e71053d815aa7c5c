import Backbones
import Checkpoints
import QFormer
import Torch
import TorchNN

// How the weights of a published model are asked for: the same way for loading, for converting and for listing them.

extension BLIPConfiguration {
  /// Names and shapes of all weights that the model has, in Hugging Face's names. No weight is made.
  ///
  /// - Throws: `QFormerError` for sizes that make no Q-Former, `TorchError`.
  public func parameterShapes() throws -> [(name: String, shape: [Int])] {
    let shapes = ParameterShapes()
    try withError { _ = try build(ParameterScope(shapes)) }
    let map = architecture.keyMap
    // transformers has no parameter for the temperature.
    return shapes.all.filter { $0.name != "temp" }.map { (map($0.name), $0.shape) }
  }

  /// Builds the parts of the model on a source of weights: the tower without its last norm, which the adapter takes, and
  /// an adapter with matching heads or one before a language model.
  func build(
    _ scope: ParameterScope
  ) throws -> (BLIP2Vision, ImageTextQFormer?, (ImageLanguageQFormer, LanguageTower)?) {
    let tower = BLIP2Vision(vision, scope["vision_model"], hasOutputNorm: false)
    guard let language else { return (tower, try ImageTextQFormer(imageText, scope), nil) }
    let adapter = try ImageLanguageQFormer(imageLanguage(width: language.hiddenSize), scope)
    return (tower, nil, (adapter, LanguageTower(language, scope["language_model"])))
  }

  /// Buffers, copies of tied weights, and the text half of a Q-Former that is given none.
  ///
  /// - Parameter names: The file's keys.
  func ignoredKeys(_ names: [String]) -> [String] {
    let copies = language?.ignoredKeys(hasHead: names.contains("language_model.lm_head.weight")) ?? []
    let text = ["qformer.encoder.layer.*.intermediate.*", "qformer.encoder.layer.*.output.*"]
    return ["*.position_ids"] + copies.map { "language_model." + $0 } + (architecture.readsText ? [] : text)
  }

  /// Sizes of the adapter with contrastive and matching heads.
  var imageText: ImageTextConfiguration {
    var sizes = ImageTextConfiguration()
    sizes.qformer = qformer
    sizes.objectives.contrastiveSize = contrastiveSize
    sizes.visionNormEps = vision.outputNormEps
    sizes.objectives.hasGenerationHead = false
    return sizes
  }

  /// Sizes of the adapter before a language model whose embeddings have the given width.
  func imageLanguage(width: Int) -> ImageLanguageConfiguration {
    var sizes = ImageLanguageConfiguration()
    sizes.qformer = qformer
    sizes.languageSize = width
    sizes.visionNormEps = vision.outputNormEps
    return sizes
  }
}

extension BLIPConfiguration.Architecture {
  /// From this library's names to the file's: InstructBLIP keeps all embeddings below the Q-Former.
  var keyMap: KeyMap {
    switch self {
    case .blip2, .blip2Matching: .identity
    case .instructBLIP, .instructBLIPVideo: HuggingFace.instructBLIP
    }
  }
}
