import Foundation
import QFormer
import TestSupport
import Testing
import Torch
import TorchNN

/// The losses of the first stage, their gradients and ten optimiser steps, against the plain float64 reference that
/// `make_qformer.py` holds.
@Suite struct ObjectiveParityTests {
  static let variants = ["shared", "separate"]
  let expected: Fixture

  init() throws { expected = try Fixture("qformer/objectives.safetensors") }

  func adapter(_ variant: String) throws -> (model: ImageTextQFormer, parameters: Parameters) {
    try Adapters.imageText(separateStart: variant == "separate")
  }

  func losses(
    _ model: ImageTextQFormer, _ batch: Batch, imageIDs: Tensor? = nil, seed: UInt64 = 0
  ) throws -> ImageTextLosses {
    try model.losses(
      features: batch.features, ids: batch.ids, mask: batch.mask, imageIDs: imageIDs,
      generator: Generator(seed: seed), isTraining: true)
  }

  /// max |actual − expected| over max |expected|, for every parameter. A gradient that is zero by symmetry (that of a
  /// key's bias, which softmax cancels) is rounding noise on both sides: the divisor is at least a hundredth of the
  /// largest gradient of the model.
  func expectGradients(_ parameters: Parameters, _ prefix: String) throws {
    let all = parameters.all.map { (name: $0.name, wanted: expected["\(prefix).\($0.name)"], got: $0.tensor.grad) }
    let largest = all.map { $0.wanted.abs().max().item }.max() ?? 0
    try #require(largest > 0)
    var worst = (error: 0.0, name: "")
    for (name, wanted, gradient) in all {
      let got = try #require(gradient, "\(name) has no gradient")
      try #require(got.shape == wanted.shape)
      let error = (got - wanted).abs().max().item / max(wanted.abs().max().item, largest / 100)
      #expect(error <= 1e-4, "\(name): \(error)")
      if error > worst.error { worst = (error, name) }
    }
    print("\(prefix): worst relative error \(worst.error) in \(worst.name), \(all.count) parameters")
  }

  @Test(arguments: variants) func lossesOfTwo(variant: String) throws {
    // In a batch of two the other item is the only negative there is.
    let model = try adapter(variant).model
    let losses = try losses(model, Batch(rows: 2))
    let matching = try #require(losses.matching)
    let generation = try #require(losses.generation)
    let actual = Tensor.stack([losses.contrastive, matching, generation])
    for index in 0..<3 {
      expectClose(actual.select(0, index), expected["\(variant).two.losses"].select(0, index), "loss \(index)")
    }
    expectClose(losses.total, expected["\(variant).two.losses"].sum())
  }

  @Test(arguments: variants) func gradientsOfTwo(variant: String) throws {
    let (model, parameters) = try adapter(variant)
    parameters.setRequiresGrad(true)
    try losses(model, Batch(rows: 2)).total.backward()
    try expectGradients(parameters, "\(variant).two.gradient")
  }

  @Test(arguments: variants) func hiddenStatesOfGeneration(variant: String) throws {
    // Cached keys and values here, one pass over queries and text with a full mask there.
    let (model, _) = try adapter(variant)
    let batch = try Batch(rows: 2)
    let image = try model.qformer.imageKeyValues(model.imageEmbeds(batch.features))
    let seen = model.qformer.readImage(image, keepsKeyValues: true)
    let start = Tensor.full([2, 1], Double(model.qformer.decoderTokenID), dtype: .int64)
    let hidden = try model.qformer.causalText(
      .cat([start, batch.ids.slice(1, 1)], 1), mask: batch.mask, queries: seen.selfKeyValues)
    // Positions of padding see different things and count nowhere.
    let kept = batch.mask.to(.float32).unsqueezed(2)
    expectClose(hidden * kept, expected["\(variant).two.itg_hidden"] * kept)
    expectClose(try model.generationLogits(hidden) * kept, expected["\(variant).two.itg_logits"] * kept)
  }

  @Test(arguments: variants) func lossesOfThree(variant: String) throws {
    let model = try adapter(variant).model
    let (batch, stored) = (try Batch(), expected["\(variant).three.losses"])
    let plain = try losses(model, batch)
    expectClose(plain.contrastive, stored.select(0, 0), "contrastive without image ids")
    let shared = try losses(model, batch, imageIDs: expected["three.image_ids"])
    expectClose(shared.contrastive, stored.select(0, 1), "contrastive with image ids")
    expectClose(try #require(shared.generation), stored.select(0, 2), "generation")
    #expect(relativeError(plain.contrastive, shared.contrastive) > 1e-3)
  }

  @Test func gradientsOfThreeWithImageIDs() throws {
    let (model, parameters) = try adapter("separate")
    parameters.setRequiresGrad(true)
    let losses = try losses(model, Batch(), imageIDs: expected["three.image_ids"])
    (losses.contrastive + (try #require(losses.generation))).backward()
    // The reference did not compute matching either, so that its head has no gradient.
    let reached = Parameters()
    for (name, tensor) in parameters.all where !name.hasPrefix("itm_head") { reached.insert(name, tensor) }
    #expect(parameters["itm_head.weight"]?.grad == nil)
    try expectGradients(reached, "separate.three.gradient")
  }

  @Test(arguments: variants) func matchingOfThree(variant: String) throws {
    // Rows 0 and 1 show one image: their negative is row 2. Row 2 draws one of two images and one of two texts.
    let model = try adapter(variant).model
    let (batch, stored) = (try Batch(), expected["\(variant).three.matching"].values(as: Double.self))
    for (i, value) in stored.enumerated() {
      for other in stored[(i + 1)...] { #expect(abs(value - other) > 1e-4 * value, "the draws must differ: \(stored)") }
    }
    var seen: Set<Int> = []
    for seed in 0..<40 where seen.count < 4 {
      let losses = try losses(model, batch, imageIDs: expected["three.image_ids"], seed: UInt64(seed))
      let value = try #require(losses.matching).item
      let index = try #require(stored.firstIndex { abs($0 - value) <= 1e-5 * $0 }, "\(value) is none of \(stored)")
      seen.insert(index)
    }
    #expect(seen.count == 4)
  }

  @Test func negativesFollowTheirOwnDirection() throws {
    // Rows 1 and 2 show one image, so that only row 0 has a choice: an image for its text by column 0 of the
    // similarities, a text for its image by row 0. The stored losses tell what it drew.
    let model = try adapter("shared").model
    let (batch, stored) = (try Batch(), expected["three.first_draws"].values(as: Double.self))
    let seen = try model.qformer.readImage(model.qformer.imageKeyValues(model.imageEmbeds(batch.features)))
    let text = model.textFeature(try model.qformer.readText(batch.ids, mask: batch.mask))
    let similarity = Contrastive.similarity(imageFeatures: model.imageFeatures(seen.hidden), textFeatures: text)
    let scores = (similarity / model.temperature).values(as: Double.self)
    let secondImage = 1 / (1 + exp(scores[3] - scores[6]))
    let secondText = 1 / (1 + exp(scores[1] - scores[2]))
    try #require(abs(secondImage - secondText) > 0.2, "\(secondImage) and \(secondText) must differ")
    var counts = (image: 0, text: 0)
    let draws = 300
    for seed in 0..<draws {
      let losses = try withNoGrad {
        try model.losses(
          features: batch.features, ids: batch.ids, mask: batch.mask, imageIDs: Tensor([Int64(7), 4, 4]),
          generator: Generator(seed: UInt64(seed)), generationPart: 0)
      }
      let value = try #require(losses.matching).item
      let index = try #require(stored.firstIndex { abs($0 - value) <= 1e-5 * $0 })
      counts.image += index / 2
      counts.text += index % 2
    }
    // Four standard deviations of a binomial.
    for (count, probability) in [(counts.image, secondImage), (counts.text, secondText)] {
      let deviation = (probability * (1 - probability) / Double(draws)).squareRoot()
      #expect(abs(Double(count) / Double(draws) - probability) < 4 * deviation + 1e-3, "\(count) at \(probability)")
    }
  }

  @Test(arguments: variants) func aBatchOfOne(variant: String) throws {
    let (model, parameters) = try adapter(variant)
    parameters.setRequiresGrad(true)
    let losses = try losses(model, Batch(rows: 1))
    let stored = expected["\(variant).one.losses"]
    #expect(losses.matching == nil)
    #expect(abs(losses.contrastive.item) < 1e-6 && stored.select(0, 0).item == 0)
    expectClose(try #require(losses.generation), stored.select(0, 1))
    losses.total.backward()
    for (name, tensor) in parameters.all {
      guard let gradient = tensor.grad else { continue }
      #expect(gradient.isFinite().all().item == 1, "\(name)")
    }
  }

  @Test func matchingOnAPartOfThePairs() throws {
    let model = try adapter("shared").model
    let batch = try Batch(rows: 2)
    func matching(_ part: Double, _ seed: UInt64) throws -> Double? {
      try withNoGrad {
        try model.losses(
          features: batch.features, ids: batch.ids, mask: batch.mask, generator: Generator(seed: seed),
          matchingPart: part, generationPart: 0
        ).matching?.item
      }
    }
    #expect(try matching(0, 0) == nil)
    // Half of two is either row with its two negatives; their mean is the whole.
    let halves = Set(try (0..<20).map { try #require(try matching(0.5, UInt64($0))) }).sorted()
    try #require(halves.count == 2)
    let whole = expected["shared.two.losses"].select(0, 1).item
    #expect(abs((halves[0] + halves[1]) / 2 - whole) < 1e-5 * whole)
  }

  @Test func textsThatShareAnImageReadItOnce() throws {
    // Two images and three texts against the first image given twice: the same losses and gradients.
    let batch = try Batch()
    let twice = Batch(batch.features.indexSelect(0, Tensor([Int64(0), 0, 2])), batch.ids, batch.mask)
    let once = batch.features.indexSelect(0, Tensor([Int64(0), 2]))
    let (first, ofFirst) = try adapter("separate")
    let (second, ofSecond) = try adapter("separate")
    for parameters in [ofFirst, ofSecond] { parameters.setRequiresGrad(true) }
    let repeated = try losses(first, twice, imageIDs: Tensor([Int64(0), 0, 1]), seed: 3)
    let shared = try second.losses(
      features: once, ids: batch.ids, mask: batch.mask, imageOfText: [0, 0, 1], generator: Generator(seed: 3))
    expectClose(shared.contrastive, repeated.contrastive, relative: 1e-6)
    expectClose(try #require(shared.matching), try #require(repeated.matching), relative: 1e-6)
    expectClose(try #require(shared.generation), try #require(repeated.generation), relative: 1e-6)
    repeated.total.backward()
    shared.total.backward()
    let largest = ofFirst.all.compactMap { $0.tensor.grad?.abs().max().item }.max() ?? 0
    for (one, other) in zip(ofFirst.all, ofSecond.all) {
      let (expected, actual) = (try #require(one.tensor.grad), try #require(other.tensor.grad))
      let error = (actual - expected).abs().max().item / max(expected.abs().max().item, largest / 100)
      #expect(error <= 1e-4, "\(one.name): \(error)")
    }
  }

  @Test func generationOnAPartOfThePairs() throws {
    let model = try adapter("shared").model
    let batch = try Batch(rows: 2)
    func generation(_ part: Double, _ seed: UInt64) throws -> Double? {
      try withNoGrad {
        try model.losses(
          features: batch.features, ids: batch.ids, mask: batch.mask, generator: Generator(seed: seed), matchingPart: 0,
          generationPart: part
        ).generation?.item
      }
    }
    #expect(try generation(0, 0) == nil)
    // Rows of 10 and 6 tokens have 9 and 5 targets.
    let halves = Set(try (0..<20).map { try #require(try generation(0.5, UInt64($0))) })
    try #require(halves.count == 2)
    let values = Array(halves)
    let whole = expected["shared.two.losses"].select(0, 2).item
    let candidates = [(values[0] * 9 + values[1] * 5) / 14, (values[1] * 9 + values[0] * 5) / 14]
    #expect(candidates.contains { abs($0 - whole) < 1e-5 * whole }, "\(values), \(whole)")
  }

  @Test func textsWithoutAnImageAreAnError() throws {
    let (model, batch) = (try adapter("shared").model, try Batch())
    #expect(throws: QFormerError.self) {
      try model.losses(
        features: batch.features.narrow(0, 0, 2), ids: batch.ids, mask: batch.mask, generator: Generator(seed: 0))
    }
    #expect(throws: QFormerError.self) {
      try model.losses(
        features: batch.features, ids: batch.ids, mask: batch.mask, imageOfText: [0, 1], generator: Generator(seed: 0))
    }
  }

  @Test func oneImageOnlyHasNoNegatives() throws {
    let losses = try losses(
      adapter("shared").model, Batch(rows: 2), imageIDs: Tensor([Int64(5), Int64(5)]))
    #expect(losses.matching == nil)
    #expect(losses.total.isFinite().item == 1)
  }

  @Test(arguments: variants) func tenSteps(variant: String) throws {
    let (model, parameters) = try adapter(variant)
    parameters.setRequiresGrad(true)
    let optimizer = AdamW(AdamW.groups(parameters.trainable, weightDecay: 0.05), betas: (0.9, 0.98), eps: 1e-8)
    let batch = try Batch(rows: 2)
    let stored = expected["\(variant).steps"]
    var worst = 0.0
    for step in 0..<10 {
      optimizer.clearGradients()
      let losses = try losses(model, batch)
      losses.total.backward()
      optimizer.step(learningRate: 1e-3)
      let actual = Tensor.stack([losses.contrastive, try #require(losses.matching), try #require(losses.generation)])
      for index in 0..<3 {
        let (mine, reference) = (actual.select(0, index), stored.select(0, step).select(0, index))
        expectClose(mine, reference, relative: 1e-4, "step \(step), loss \(index)")
        worst = max(worst, relativeError(mine, reference))
      }
    }
    print("\(variant): ten steps, worst relative error \(worst)")
    // The file that the weights were mapped from is as it was.
    expectClose(
      try adapter(variant).parameters["temp"]!, Tensor(Float(0.11)), relative: 1e-7)
  }

  @Test func softTargetsShareTheWeight() {
    let targets = Contrastive.softTargets(ids: Tensor([Int64(7), 7, 4]))
    #expect(targets.values(as: Double.self) == [0.5, 0.5, 0, 0.5, 0.5, 0, 0, 0, 1])
  }
}
