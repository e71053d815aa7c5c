import Backbones
import Checkpoints
import Foundation
import TestSupport
import Testing
import Torch
import TorchNN

@Suite struct BERTTests {
  func configuration() throws -> BERTConfiguration {
    try JSONDecoder().decode(
      BERTConfiguration.self, from: Data(contentsOf: fixtures.appendingPathComponent("backbones/bert.json")))
  }

  func model(_ fixture: Fixture) throws -> BERT {
    let configuration = try configuration()
    let loaded = try loadModel(
      from: fixture.checkpoint, keyMap: KeyMap([KeyMap.Rule("", "model.")]),
      ignoring: ["ids", "mask", "hidden", "pooled", "unmasked", "model.pooler.*"]
    ) { BERT(configuration, $0) }
    #expect(loaded.report.isStrict)
    return loaded.model
  }

  @Test func statesEqualTransformers() throws {
    let fixture = try Fixture("backbones/bert.safetensors")
    let model = try model(fixture)
    let (ids, mask) = (fixture["ids"], fixture["mask"])
    let valid = mask.to(.float32).unsqueezed(-1)
    expectClose(model.hiddenStates(ids, mask: mask) * valid, fixture["hidden"])
    expectClose(model.hiddenStates(ids), fixture["unmasked"])
    expectClose(model.meanPooled(ids, mask: mask), fixture["pooled"])
    // Without padding the mask changes nothing.
    let row = ids.narrow(0, 0, 1)
    expectClose(model.meanPooled(row), model.meanPooled(row, mask: .ones(row.shape)))
  }

  @Test func paddingAloneIsNotANumberProblem() throws {
    let model = try model(Fixture("backbones/bert.safetensors"))
    let pooled = model.meanPooled(.zeros([1, 4], dtype: .int64), mask: .zeros([1, 4]))
    #expect(pooled.isFinite().all().intItem == 1)
  }

  @Test func wrongArgumentsAreNamed() throws {
    let model = try model(Fixture("backbones/bert.safetensors"))
    for shape in [[1, 21], [4], [1, 0]] {
      let error = #expect(throws: TorchError.self) {
        try withError { model.hiddenStates(.zeros(shape, dtype: .int64)) }
      }
      #expect(error?.message.contains("from 1 to 20; found \(shape)") == true)
    }
    let error = #expect(throws: TorchError.self) {
      try withError { model.hiddenStates(.zeros([1, 4], dtype: .int64), mask: .ones([1, 3])) }
    }
    #expect(error?.message.contains("[1, 4], found [1, 3]") == true)
    let word = #expect(throws: TorchError.self) { try withError { model.meanPooled(Tensor([3, 61], [1, 2])) } }
    #expect(word?.message.contains("out of range") == true)
  }

  @Test func sparseConfigurationTakesTheDefaults() throws {
    let sparse = try JSONDecoder().decode(BERTConfiguration.self, from: Data("{}".utf8))
    #expect(sparse == BERTConfiguration() && sparse.layerNormEps == 1e-12 && sparse.vocabularySize == 30_522)
    let relative = #"{"position_embedding_type": "relative_key"}"#
    #expect(throws: DecodingError.self) {
      try JSONDecoder().decode(BERTConfiguration.self, from: Data(relative.utf8))
    }
  }

  @Test func fetchedModelEqualsTransformers() throws {
    guard let folder = fetchedModel("minilm-l6") else { return }
    let fixture = try Fixture("backbones/real_minilm.safetensors")
    let model = try BERT.load(folder: folder)
    let mask = fixture["mask"]
    let valid = mask.to(.float32).unsqueezed(-1)
    expectClose(model.hiddenStates(fixture["ids"], mask: mask) * valid, fixture["hidden"], relative: 1e-4)
    expectClose(model.meanPooled(fixture["ids"], mask: mask), fixture["pooled"], relative: 1e-4)
  }
}
