import QFormer
import TestSupport
import Testing
import Torch

/// The forward passes against Hugging Face transformers 5.23 in float32, whole tensors.
@Suite struct TransformersParityTests {
  let expected: Fixture
  let batch: Batch

  init() throws {
    expected = try Fixture("qformer/transformers.safetensors")
    batch = try Batch()
  }

  @Test func visionNorm() throws {
    expectClose(try Adapters.imageText().model.imageEmbeds(batch.features), expected["image"])
  }

  @Test func queriesAlone() throws {
    let model = try Adapters.imageText().model
    let image = try model.qformer.imageKeyValues(model.imageEmbeds(batch.features))
    let seen = model.qformer.readImage(image, keepsAttention: true)
    expectClose(seen.hidden, expected["queries.hidden"])
    // Layers 0 and 2 have cross-attention, layer 1 has none.
    #expect(image.layers.map { $0 != nil } == [true, false, true])
    try #require(seen.crossAttention.count == 2)
    for (index, weights) in seen.crossAttention.enumerated() {
      expectClose(weights, expected["queries.cross.\(index)"])
      expectClose(weights.sum(-1), .ones([3, 4, 5]))
    }
  }

  @Test func textAlone() throws {
    let model = try Adapters.imageText().model
    let hidden = try model.qformer.readText(batch.ids, mask: batch.mask)
    expectClose(hidden, expected["text.hidden"])
    expectClose(model.textFeature(hidden), expected["itc.text"])
  }

  @Test func queriesAndText() throws {
    let model = try Adapters.imageText().model
    let image = try model.qformer.imageKeyValues(model.imageEmbeds(batch.features))
    let both = try model.qformer.readImageAndText(image, batch.ids, mask: batch.mask, keepsAttention: true)
    expectClose(both.hidden, expected["itm.hidden"])
    expectClose(try model.matchingLogits(both.hidden), expected["itm.logits"])
    try #require(both.crossAttention.count == 2)
    for (index, weights) in both.crossAttention.enumerated() {
      expectClose(weights, expected["itm.cross.\(index)"])
    }
  }

  @Test func contrastiveFeatures() throws {
    let model = try Adapters.imageText().model
    let image = try model.qformer.imageKeyValues(model.imageEmbeds(batch.features))
    let features = model.imageFeatures(model.qformer.readImage(image).hidden)
    expectClose(features, expected["itc.image"])
    let similarity = Contrastive.similarity(imageFeatures: features, textFeatures: expected["itc.text"])
    expectClose(similarity, expected["itc.similarity"])
  }

  @Test func languageTokens() throws {
    let model = try Adapters.imageLanguage()
    let seen = try model.readImage(batch.features)
    expectClose(seen.hidden, expected["stage2.hidden"])
    expectClose(model.languageTokens(seen.hidden), expected["stage2.tokens"])
  }

  @Test func instructionReadAlong() throws {
    // InstructBLIP's own class, on the weights of the first stage.
    let model = try Adapters.imageText().model
    let image = try model.qformer.imageKeyValues(model.imageEmbeds(batch.features))
    let both = try model.qformer.readImageAndText(image, batch.ids, mask: batch.mask)
    expectClose(both.hidden.narrow(1, 0, 5), expected["instruct.hidden"])
  }

  @Test func aBatchEqualsItsItems() throws {
    let model = try Adapters.imageText().model
    let together = try model.qformer.readImageAndText(
      model.qformer.imageKeyValues(model.imageEmbeds(batch.features)), batch.ids, mask: batch.mask
    ).hidden
    for (row, length) in [10, 6, 4].enumerated() {
      // Alone and without any padding.
      let image = try model.qformer.imageKeyValues(model.imageEmbeds(batch.features.narrow(0, row, 1)))
      let alone = try model.qformer.readImageAndText(
        image, batch.ids.narrow(0, row, 1).narrow(1, 0, length), mask: .ones([1, length]))
      expectClose(alone.hidden, together.narrow(0, row, 1).narrow(1, 0, 5 + length))
    }
  }
}
