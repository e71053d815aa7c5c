import Foundation
import QFormer
import TestSupport
import Testing
import Torch
import TorchNN

/// What each position may and may not see.
@Suite struct InformationFlowTests {
  let model: ImageTextQFormer
  let batch: Batch

  init() throws {
    model = try Adapters.imageText().model
    batch = try Batch()
  }

  func image(_ features: Tensor) throws -> ImageKeyValues {
    try model.qformer.imageKeyValues(model.imageEmbeds(features))
  }

  /// A copy of the texts with another token in one column.
  func changed(column: Int, to token: Int = 33) -> Tensor {
    let ids = batch.ids.cloned()
    ids.select(1, column).copy(from: Tensor.full([3], Double(token), dtype: .int64))
    return ids
  }

  @Test func textSeesNoLaterText() throws {
    let queries = model.qformer.readImage(try image(batch.features), keepsKeyValues: true).selfKeyValues
    let everything = Tensor.ones([3, 10])
    let before = try model.qformer.causalText(batch.ids, mask: everything, queries: queries)
    for column in 1..<10 {
      let after = try model.qformer.causalText(changed(column: column), mask: everything, queries: queries)
      let difference = (after - before).abs().sum(2).sum(0).values(as: Double.self)
      #expect(difference[..<column].allSatisfy { $0 == 0 }, "column \(column): \(difference)")
      #expect(difference[column...].allSatisfy { $0 > 1e-3 }, "column \(column): \(difference)")
    }
  }

  @Test func generationReadsTheImage() throws {
    let qformer = model.qformer
    func hidden(_ features: Tensor) throws -> Tensor {
      let queries = qformer.readImage(try image(features), keepsKeyValues: true).selfKeyValues
      return try qformer.causalText(batch.ids, mask: batch.mask, queries: queries)
    }
    let difference = (try hidden(batch.features) - (try hidden(batch.features.flipped(0)))).abs().sum(2)
    // Row 1 stays where it is; every position of the others sees another image.
    let values = difference.values(as: Double.self)
    #expect(values[10..<20].allSatisfy { $0 == 0 })
    #expect((values[..<10] + values[20...]).allSatisfy { $0 > 1e-2 })
  }

  @Test func paddingDoesNotMatter() throws {
    // Rows of 10, 6 and 4 tokens: other ids behind their ends must change nothing in front of them.
    let kept = batch.mask.to(.float32).unsqueezed(2)
    let garbage = Tensor.full([3, 10], 42, dtype: .int64)
    let other = batch.ids.chosen(where: batch.mask.equal(1), else: garbage)
    #expect((other - batch.ids).abs().sum().item > 0)
    let keys = try image(batch.features)
    let queries = model.qformer.readImage(keys, keepsKeyValues: true).selfKeyValues
    let passes: [(String, (Tensor) throws -> Tensor)] = [
      ("text", { try model.qformer.readText($0, mask: batch.mask) * kept }),
      ("causal", { try model.qformer.causalText($0, mask: batch.mask, queries: queries) * kept }),
      (
        "both",
        {
          let hidden = try model.qformer.readImageAndText(keys, $0, mask: batch.mask).hidden
          return Tensor.cat([hidden.narrow(1, 0, 5), hidden.slice(1, 5) * kept], 1)
        }
      ),
    ]
    for (name, pass) in passes {
      let difference = (try pass(other) - (try pass(batch.ids))).abs().max().item
      #expect(difference == 0, "\(name): \(difference)")
    }
    func losses(_ ids: Tensor) throws -> ImageTextLosses {
      try model.losses(features: batch.features, ids: ids, mask: batch.mask, generator: Generator(seed: 3))
    }
    #expect(try losses(other).total.item == losses(batch.ids).total.item)
  }

  @Test func matchingSeesEverything() throws {
    let keys = try image(batch.features)
    let before = try model.qformer.readImageAndText(keys, batch.ids, mask: .ones([3, 10])).hidden
    let after = try model.qformer.readImageAndText(keys, changed(column: 9), mask: .ones([3, 10])).hidden
    let difference = (after - before).abs().sum(2).values(as: Double.self)
    #expect(difference.allSatisfy { $0 > 1e-3 }, "queries and earlier text see the last token: \(difference)")
  }

  @Test func gradientFlowsFromGenerationIntoTheImage() throws {
    let (model, parameters) = try Adapters.imageText()
    parameters.setRequiresGrad(true)
    let losses = try model.losses(
      features: batch.features, ids: batch.ids, mask: batch.mask, generator: Generator(seed: 0))
    try #require(losses.generation).backward()
    for name in [
      "query_tokens", "qformer.encoder.layer.0.crossattention.attention.value.weight",
      "qformer.encoder.layer.0.intermediate_query.dense.weight", "vision_model.post_layernorm.weight",
    ] {
      let gradient = try #require(parameters[name]?.grad, "\(name)")
      #expect(gradient.abs().max().item > 1e-3, "\(name)")
    }
    // What the queries compute in the last layer after its keys and values goes to no text.
    #expect(parameters["qformer.encoder.layer.2.intermediate_query.dense.weight"]?.grad == nil)
  }

  @Test func aMaskOfZerosGivesNumbers() throws {
    let nothing = Tensor.zeros([3, 10])
    let keys = try image(batch.features)
    let queries = model.qformer.readImage(keys, keepsKeyValues: true).selfKeyValues
    let hidden = [
      try model.qformer.readText(batch.ids, mask: nothing),
      try model.qformer.readImageAndText(keys, batch.ids, mask: nothing).hidden,
      try model.qformer.causalText(batch.ids, mask: nothing, queries: queries),
    ]
    for tensor in hidden { #expect(tensor.isFinite().all().item == 1) }
  }

  @Test func generationLossOfNothingIsNotCounted() throws {
    // One row without any text beside one with text: the loss is that of the second.
    let mask = Tensor.cat([batch.mask.narrow(0, 0, 1), Tensor.zeros([1, 10], dtype: .int64)], 0)
    let both = try model.losses(
      features: batch.features.narrow(0, 0, 2), ids: batch.ids.narrow(0, 0, 2), mask: mask,
      generator: Generator(seed: 0))
    let alone = try model.losses(
      features: batch.features.narrow(0, 0, 1), ids: batch.ids.narrow(0, 0, 1), mask: batch.mask.narrow(0, 0, 1),
      generator: Generator(seed: 0))
    expectClose(try #require(both.generation), try #require(alone.generation))
  }

  @Test func dropoutIsOnInTrainingAlone() throws {
    var configuration = try Adapters.configuration()
    configuration.qformer.hiddenDropout = 0.3
    let model = try ImageTextQFormer(configuration, ParameterScope(FreshParameters(seed: 4)))
    let keys = try model.qformer.imageKeyValues(model.imageEmbeds(batch.features))
    func hidden(_ isTraining: Bool) -> Tensor { model.qformer.readImage(keys, isTraining: isTraining).hidden }
    #expect(relativeError(hidden(false), hidden(false)) == 0)
    #expect(relativeError(hidden(true), hidden(true)) > 1e-2)
  }
}
