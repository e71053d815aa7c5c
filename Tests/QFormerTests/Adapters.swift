import Checkpoints
import Foundation
import QFormer
import TestSupport
import Testing
import Torch
import TorchNN

/// The small adapters that `Fixtures/qformer/make_qformer.py` made.
enum Adapters {
  struct Sizes: Decodable {
    struct Part: Decodable {
      let qformer: QFormerConfiguration
      let visionNormEps: Double
      let contrastiveSize: Int?
      let languageSize: Int?

      enum CodingKeys: String, CodingKey {
        case qformer = "qformer_config"
        case visionNormEps = "vision_norm_eps"
        case contrastiveSize = "image_text_hidden_size"
        case languageSize = "language_hidden_size"
      }
    }
    let retrieval: Part
    let language: Part
  }

  static func sizes() throws -> Sizes {
    try JSONDecoder().decode(
      Sizes.self, from: Data(contentsOf: fixtures.appendingPathComponent("qformer/config.json")))
  }

  static func configuration(separateStart: Bool = false) throws -> ImageTextConfiguration {
    let sizes = try sizes().retrieval
    var configuration = ImageTextConfiguration()
    configuration.qformer = sizes.qformer
    configuration.qformer.separateDecoderToken = separateStart
    configuration.visionNormEps = sizes.visionNormEps
    configuration.objectives.contrastiveSize = try #require(sizes.contrastiveSize)
    return configuration
  }

  /// The first stage's adapter, with or without a start token outside the word table, and its parameters.
  static func imageText(
    separateStart: Bool = false
  ) throws -> (model: ImageTextQFormer, parameters: Parameters) {
    let parameters = Parameters()
    let configuration = try configuration(separateStart: separateStart)
    let model = try loadModel(
      from: Fixture("qformer/weights.safetensors").checkpoint,
      ignoring: separateStart ? [] : ["embeddings.decoder_token"]
    ) { scope -> ImageTextQFormer in
      let model = try ImageTextQFormer(configuration, scope)
      for (name, tensor) in scope.parameters.all { parameters.insert(name, tensor) }
      return model
    }.model
    return (model, parameters)
  }

  static func imageLanguage() throws -> ImageLanguageQFormer {
    let sizes = try sizes().language
    var configuration = ImageLanguageConfiguration()
    configuration.qformer = sizes.qformer
    configuration.visionNormEps = sizes.visionNormEps
    configuration.languageSize = try #require(sizes.languageSize)
    return try loadModel(from: Fixture("qformer/stage2.safetensors").checkpoint) {
      try ImageLanguageQFormer(configuration, $0)
    }.model
  }
}

/// Image features and texts of a fixture: `[B, N, Dv]`, `[B, L]`, `[B, L]`.
struct Batch {
  let features: Tensor
  let ids: Tensor
  let mask: Tensor

  init(_ features: Tensor, _ ids: Tensor, _ mask: Tensor) {
    (self.features, self.ids, self.mask) = (features, ids, mask)
  }

  /// The first rows of the stored batch of three.
  init(rows: Int = 3) throws {
    let fixture = try Fixture("qformer/transformers.safetensors")
    features = fixture["in.features"].narrow(0, 0, rows)
    ids = fixture["in.ids"].narrow(0, 0, rows)
    mask = fixture["in.mask"].narrow(0, 0, rows)
  }
}
