import Foundation
import QFormer
import TestSupport
import Testing
import Torch
import TorchNN

@Suite struct QFormerConfigurationTests {
  @Test func sparseFilesOfBothStagesTakeTheDefaults() throws {
    let first = try JSONDecoder().decode(ImageTextConfiguration.self, from: Data("{}".utf8))
    #expect(first == ImageTextConfiguration() && first.objectives.temperature == 0.07 && first.visionNormEps == 1e-6)
    let second = try JSONDecoder().decode(
      ImageLanguageConfiguration.self, from: Data(#"{"language_hidden_size": 77}"#.utf8))
    #expect(second.languageSize == 77 && second.qformer == ImageLanguageConfiguration().qformer)
  }

  @Test func sparseFilesTakeThePublishedValues() throws {
    let configuration = try JSONDecoder().decode(QFormerConfiguration.self, from: Data("{}".utf8))
    #expect(configuration == .blip2)
    #expect(configuration.hiddenSize == 768 && configuration.layers == 12 && configuration.heads == 12)
    #expect(configuration.intermediateSize == 3072 && configuration.layerNormEps == 1e-12)
    #expect(configuration.crossAttentionFrequency == 2 && configuration.encoderHiddenSize == 1408)
    #expect(configuration.queries == 32 && configuration.vocabularySize == 30522)
    #expect(configuration.hiddenDropout == 0.1 && configuration.attentionDropout == 0.1)
    let again = try JSONDecoder().decode(QFormerConfiguration.self, from: JSONEncoder().encode(configuration))
    #expect(again == configuration)
  }

  @Test(arguments: [
    ("hidden_size", "0"), ("hidden_size", "25"), ("num_hidden_layers", "513"), ("num_attention_heads", "-4"),
    ("intermediate_size", "9223372036854775807"), ("cross_attention_frequency", "0"), ("num_query_tokens", "0"),
    ("vocab_size", "2000000"), ("layer_norm_eps", "0"), ("layer_norm_eps", "-1e-5"), ("hidden_dropout_prob", "1"),
    ("attention_probs_dropout_prob", "-0.1"), ("max_position_embeddings", "0"), ("encoder_hidden_size", "0"),
  ]) func nonsenseIsNamed(key: String, value: String) throws {
    let json = #"{"hidden_size": 24, "num_attention_heads": 4, "\#(key)": \#(value)}"#
    let unique = key == "hidden_size" || key == "num_attention_heads" ? #"{"\#(key)": \#(value)}"# : json
    let configuration = try JSONDecoder().decode(QFormerConfiguration.self, from: Data(unique.utf8))
    let error = #expect(throws: QFormerError.self) {
      try QFormer(configuration, ParameterScope(FreshParameters(seed: 0)))
    }
    #expect(error?.description.contains(key) == true, "\(String(describing: error))")
  }

  @Test func wrongShapesAreNamed() throws {
    let (model, _) = try Adapters.imageText()
    for shape in [[3, 11, 19], [11, 20], [3, 1, 11, 20]] {
      let error = #expect(throws: QFormerError.self) { try model.qformer.imageKeyValues(.zeros(shape)) }
      #expect(error == .wrongShape(what: "image features", expected: "[B, N, 20]", found: shape))
    }
    for shape in [[3, 17], [3, 0], [3]] {
      let ids = Tensor.zeros(shape, dtype: .int64)
      #expect(throws: QFormerError.self) { try model.qformer.readText(ids, mask: .ones(shape)) }
    }
  }

  @Test func missingPartsAreNamed() throws {
    let language = try Adapters.imageLanguage()
    let ids = Tensor.ones([1, 3], dtype: .int64)
    #expect(throws: QFormerError.self) { try language.qformer.readText(ids, mask: .ones([1, 3])) }
    var configuration = try Adapters.configuration()
    configuration.objectives.hasGenerationHead = false
    let retrieval = try ImageTextQFormer(configuration, ParameterScope(FreshParameters(seed: 0)))
    #expect(throws: QFormerError.missingPart("language-model head")) {
      try retrieval.generationLogits(.zeros([1, 2, 24]))
    }
    configuration.qformer.readsText = false
    #expect(throws: QFormerError.self) { try ImageTextQFormer(configuration, ParameterScope(FreshParameters(seed: 0))) }
  }

  @Test func aTokenOutsideTheTableIsAnErrorInsideTheScope() throws {
    let (model, _) = try Adapters.imageText()
    let ids = Tensor.full([1, 3], 61, dtype: .int64)
    #expect(throws: TorchError.self) { try withError { try model.qformer.readText(ids, mask: .ones([1, 3])) } }
  }

  @Test func startTokenIsOutsideTheTableOrItsLastRow() throws {
    let shared = try Adapters.imageText(separateStart: false)
    let separate = try Adapters.imageText(separateStart: true)
    #expect(shared.model.qformer.decoderTokenID == 60 && separate.model.qformer.decoderTokenID == 61)
    #expect(shared.parameters["embeddings.decoder_token"] == nil)
    #expect(separate.parameters["embeddings.decoder_token"]?.shape == [1, 24])
    #expect(separate.parameters["embeddings.word_embeddings.weight"]?.shape == [61, 24])
  }

  @Test func parameterCountsOfThePaper() throws {
    // Li et al.: the Q-Former with its 32 queries has 188 M parameters in the first stage and 107 M with the projection
    // to OPT-2.7B in the second. Published code: 186.7 M and 107.13 M. Nothing is allocated for the count.
    let language = Shapes()
    var second = ImageLanguageConfiguration()
    (second.qformer, second.languageSize) = (.blip2, 2560)
    _ = try ImageLanguageQFormer(second, ParameterScope(language))
    #expect(abs(Double(language.count) / 1e6 - 107.13) < 0.01, "\(language.count)")
    let retrieval = Shapes()
    var first = ImageTextConfiguration()
    first.qformer = .blip2
    first.qformer.readsText = true
    first.qformer.vocabularySize = 30523
    _ = try ImageTextQFormer(first, ParameterScope(retrieval))
    #expect(abs(Double(retrieval.count) / 1e6 - 186.7) < 0.1, "\(retrieval.count)")
  }
}
