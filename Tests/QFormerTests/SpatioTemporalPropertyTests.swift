import Foundation
import QFormer
import TestSupport
import Testing
import Torch
import TorchNN

/// What must hold of a spatio-temporal Q-Former whatever its weights are: the nine properties it is specified by.
@Suite struct SpatioTemporalPropertyTests {
  let stored: Fixture

  init() throws { stored = try Fixture("video/spatiotemporal.safetensors") }

  /// A fresh model with large weights where a test wants something to be seen.
  func fresh(
    _ configuration: SpatioTemporalConfiguration, seed: UInt64 = 1
  ) throws -> (model: SpatioTemporalQFormer, parameters: Parameters) {
    let scope = ParameterScope(FreshParameters(seed: seed))
    return (try SpatioTemporalQFormer(configuration, scope), scope.parameters)
  }

  func difference(_ a: Tensor, _ b: Tensor) -> Double { (a - b).abs().max().item }

  /// The image adapter of `Fixtures/qformer` and a configuration that fits it.
  func imageAdapter() throws -> (
    model: ImageTextQFormer, parameters: Parameters, configuration: SpatioTemporalConfiguration
  ) {
    let (model, parameters) = try Adapters.imageText()
    var configuration = SpatioTemporalConfiguration()
    configuration.qformer = model.configuration.qformer
    configuration.spatialQueries = 5
    configuration.temporalQueries = 4
    configuration.poolingHeads = 4
    configuration.visionNormEps = model.configuration.visionNormEps
    configuration.languageSize = 28
    configuration.objectives?.contrastiveSize = model.configuration.objectives.contrastiveSize
    return (model, parameters, configuration)
  }

  // MARK: 1. One frame and spatial queries alone: the image Q-Former

  @Test func anImageIsReadAsTheImageQFormerReadsIt() throws {
    var (image, parameters, configuration) = try imageAdapter()
    configuration.temporalQueries = 0
    configuration.summaryQueries = 0
    configuration.languageGroups = [.spatial]
    let batch = try Batch()
    let expanded = try SpatioTemporalQFormer.fromImageQFormer(parameters, configuration, seed: 3)
    #expect(expanded.fresh == ["language_projection.weight", "language_projection.bias"])
    let model = expanded.model
    let clip = try TimedFeatures(batch.features.unsqueezed(1))
    let keys = try image.qformer.imageKeyValues(image.imageEmbeds(batch.features))
    let read = try model.readVideo(clip)
    expectClose(read.queries.hidden, image.qformer.readImage(keys).hidden, relative: 2e-6)
    let (both, ofImage) = (
      try model.textQFormer.readImageAndText(model.keyValues(clip), batch.ids, mask: batch.mask).hidden,
      try image.qformer.readImageAndText(keys, batch.ids, mask: batch.mask).hidden
    )
    expectClose(both, ofImage, relative: 2e-6)
    let heads = try model.requireHeads()
    expectClose(try heads.matchingLogits(both), try image.matchingLogits(ofImage), relative: 2e-6)
    // And all three losses, with the same draws.
    let losses = try model.losses(
      clip: clip, ids: batch.ids, mask: batch.mask, generator: Generator(seed: 5), isTraining: false)
    let ofImages = try image.losses(
      features: batch.features, ids: batch.ids, mask: batch.mask, generator: Generator(seed: 5), isTraining: false)
    expectClose(losses.contrastive, ofImages.contrastive, relative: 2e-6)
    expectClose(try #require(losses.matching), try #require(ofImages.matching), relative: 2e-6)
    expectClose(try #require(losses.generation), try #require(ofImages.generation), relative: 2e-6)
  }

  @Test func beforeAnyTrainingItReadsTheMeanOfTheFrames() throws {
    let (image, parameters, configuration) = try imageAdapter()
    let expanded = try SpatioTemporalQFormer.fromImageQFormer(parameters, configuration, seed: 3)
    let features = Tensor.randn([2, 6, 11, 20], generator: Generator(seed: 8))
    let mask = Tensor([Int64(1), 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0], [2, 6])
    let clip = try TimedFeatures(features, mask: mask)
    let read = try expanded.model.readVideo(clip)
    // The whole model with attentive pooling equals the one with plain means.
    var plain = configuration
    plain.pooling = .mean
    let ofMeans = try SpatioTemporalQFormer.fromImageQFormer(parameters, plain, seed: 3).model.readVideo(clip)
    expectClose(read.queries.hidden, ofMeans.queries.hidden, relative: 2e-6)
    expectClose(read.pooled.importance, ofMeans.pooled.importance, relative: 1e-6)
    // Spatial queries alone are the image Q-Former on the mean of the frames.
    var spatial = configuration
    (spatial.temporalQueries, spatial.summaryQueries, spatial.languageGroups) = (0, 0, [.spatial])
    let model = try SpatioTemporalQFormer.fromImageQFormer(parameters, spatial, seed: 3).model
    let counts = mask.to(.float32).reshaped(2, 6, 1, 1)
    let mean = (image.imageEmbeds(features) * counts).sum(1) / counts.sum(1)
    expectClose(
      try model.readVideo(clip).queries.hidden,
      try image.qformer.readImage(image.qformer.imageKeyValues(mean)).hidden, relative: 2e-6)

    // The recipe, tensor by tensor; nothing shares storage with the source.
    let tokens = try #require(expanded.parameters["query_tokens"])
    let source = try #require(parameters["query_tokens"])
    #expect(difference(tokens.narrow(1, 0, 5), source) == 0)
    let noise = tokens.narrow(1, 5, 4) - source.narrow(1, 0, 4)
    #expect(noise.std().item > 0.01 && noise.std().item < 0.03)
    expectClose(tokens.narrow(1, 9, 1), source.mean(1, keepDimension: true), relative: 1e-6)
    for group in QueryGroup.allCases {
      let name = "qformer.encoder.layer.1.output_\(group.rawValue).dense.weight"
      #expect(
        difference(
          try #require(expanded.parameters[name]), parameters["qformer.encoder.layer.1.output_query.dense.weight"]!)
          == 0)
    }
    for name in ["time_embedding.weight", "importance_scale", "pooling.over_patches.query_token"] {
      #expect(try #require(expanded.parameters[name]).abs().max().item == 0)
    }
    // Fewer queries are the first ones.
    var fewer = configuration
    (fewer.spatialQueries, fewer.temporalQueries) = (3, 0)
    fewer.languageGroups = [.spatial, .summary]
    let few = try SpatioTemporalQFormer.fromImageQFormer(parameters, fewer, seed: 3).parameters
    #expect(difference(try #require(few["query_tokens"]).narrow(1, 0, 3), source.narrow(1, 0, 3)) == 0)
    let before = source.values(as: Float.self)
    for (_, tensor) in expanded.parameters.all { tensor.zero() }
    #expect(source.values(as: Float.self) == before)
  }

  @Test func whatDoesNotFitIsNamed() throws {
    let (_, parameters, configuration) = try imageAdapter()
    func words(_ change: (inout SpatioTemporalConfiguration) -> Void) -> String {
      var changed = configuration
      change(&changed)
      return #expect(throws: QFormerError.self) {
        try SpatioTemporalQFormer.fromImageQFormer(parameters, changed, seed: 0)
      }?.description ?? ""
    }
    #expect(words { $0.spatialQueries = 6 }.contains("query_tokens: expected the shape [1, at least 6, 24]"))
    #expect(words { $0.temporalQueries = 6 }.contains("6 temporal queries"))
    #expect(words { $0.qformer.layers = 4 }.contains("it has no qformer.encoder.layer.3.attention"))
    #expect(words { $0.qformer.intermediateSize = 41 }.contains("expected the shape [41, 24], found [40, 24]"))
  }

  // MARK: 2. Fresh pooling is the mean

  @Test func atTheStartPoolingIsTheMean() throws {
    var configuration = SpatioTemporals.configuration()
    for mask in [nil, Tensor([Int64(1), 1, 1, 1, 1, 1, 1, 1, 0, 0], [2, 5])] {
      let clip = try TimedFeatures(stored["in.features"].narrow(1, 0, 5), mask: mask)
      configuration.pooling = .attentive
      let pooled = try fresh(configuration).model.pool(clip)
      let counts = mask?.to(.float32) ?? .ones([2, 5])
      let x = clip.features.layerNorm(.ones([15]), .zeros([15]), eps: 5e-3)
      let weights = counts / counts.sum(1, keepDimension: true)
      expectClose(pooled.places, (x * weights.reshaped(2, 5, 1, 1)).sum(1), relative: 2e-6)
      let kept = counts.unsqueezed(2)
      expectClose(pooled.frames * kept, x.mean(2) * kept, relative: 2e-6)
      expectClose(pooled.importance, weights, relative: 1e-6)
    }
  }

  // MARK: 3. Absorbed = naive

  @Test(arguments: [1, 3, 5, 15]) func absorbedPoolingEqualsTheNaiveForm(_ heads: Int) throws {
    var configuration = SpatioTemporals.configuration()
    configuration.poolingHeads = heads
    configuration.time.encoding = .none
    let (model, parameters) = try SpatioTemporals.model(configuration)
    let clip = try SpatioTemporals.clip()
    let pooled = try model.pool(clip)
    let x = stored["in.features"].narrow(1, 0, 6)
      .layerNorm(
        parameters["vision_model.post_layernorm.weight"], parameters["vision_model.post_layernorm.bias"], eps: 5e-3)
    /// Keys and values of every token, `[…, S, Dv]` to `[…, Dv]`, and the weights `[…, H, S]`.
    func naive(_ x: Tensor, _ name: String, mask: Tensor?) -> (Tensor, Tensor) {
      func weight(_ part: String) -> Tensor { parameters["pooling.\(name).\(part).weight"]! }
      let shape = Array(x.shape.dropLast()) + [heads, 15 / heads]
      let keys = x.linear(weight("key")).reshaped(shape).transposed(-3, -2)  // […, H, S, d]
      let values = x.linear(weight("value")).reshaped(shape).transposed(-3, -2)
      let query = parameters["pooling.\(name).query_token"]!.linear(weight("query")).reshaped(heads, 15 / heads, 1)
      var scores = keys.matmul(query).squeezed(-1) * (1 / Double(15 / heads).squareRoot())  // […, H, S]
      if let mask { scores = scores.maskedFill(mask, -1e9) }
      let weights = scores.softmax()
      let pooled = weights.unsqueezed(-2).matmul(values).squeezed(-2)  // […, H, d]
      return (pooled.reshaped(Array(x.shape.dropLast(2)) + [15]).linear(weight("output")), weights)
    }
    let (frames, _) = naive(x, "over_patches", mask: nil)
    let padding = try #require(clip.mask).equal(0).reshaped(2, 1, 1, 6)
    let (places, weights) = naive(x.transposed(1, 2), "over_frames", mask: padding)
    let counts = try #require(clip.mask).to(.float32).unsqueezed(2)
    expectClose(pooled.frames * counts, frames * counts, relative: 5e-6)
    expectClose(pooled.places, places, relative: 5e-6)
    expectClose(pooled.importance, weights.mean(2).mean(1), relative: 5e-6)
  }

  // MARK: 4. Who sees what

  /// A model whose groups cannot tell each other anything: self-attention adds nothing.
  func isolated(_ configuration: SpatioTemporalConfiguration) throws -> SpatioTemporalQFormer {
    let (model, parameters) = try SpatioTemporals.model(configuration)
    withNoGrad {
      for layer in 0..<3 {
        for part in ["weight", "bias"] {
          parameters["qformer.encoder.layer.\(layer).attention.output.dense.\(part)"]!.zero()
        }
      }
      // How much temporal queries are drawn to a frame depends on the frames alone; leave it at nothing.
      parameters["importance_scale"]!.zero()
    }
    return model
  }

  @Test func eachGroupSeesWhatIsIts() throws {
    for hasMask in [true, false] {
      var configuration = SpatioTemporals.configuration()
      configuration.hasCrossMask = hasMask
      let model = try isolated(configuration)
      let pooled = try model.pool(SpatioTemporals.clip())
      let read = { (pooled: PooledVideo) in model.textQFormer.readImage(try model.keyValues(pooled)).hidden }
      let (base, noise) = (try read(pooled), Generator(seed: 2))
      let other = [
        pooled.replacing(frames: pooled.frames + Tensor.randn(pooled.frames.shape, generator: noise)),
        pooled.replacing(places: pooled.places + Tensor.randn(pooled.places.shape, generator: noise)),
      ]
      let changes = try other.map { pooled in
        let hidden = try read(pooled)
        return QueryGroup.allCases.map { difference(model.queries($0, of: hidden), model.queries($0, of: base)) }
      }
      // [of frames, of places][spatial, temporal, summary]
      if hasMask {
        #expect(changes[0][0] == 0 && changes[1][1] == 0, "\(changes)")
      } else {
        #expect(changes[0][0] > 1e-2 && changes[1][1] > 1e-2, "\(changes)")
      }
      #expect(
        changes[0][1] > 1e-2 && changes[0][2] > 1e-2 && changes[1][0] > 1e-2 && changes[1][2] > 1e-2, "\(changes)")
    }
  }

  @Test func groupsTellEachOtherInSelfAttention() throws {
    let model = try SpatioTemporals.model().model
    let pooled = try model.pool(SpatioTemporals.clip())
    let base = try model.textQFormer.readImage(model.keyValues(pooled)).hidden
    let changed = try model.textQFormer.readImage(
      model.keyValues(pooled.replacing(frames: pooled.frames.flipped(2)))
    ).hidden
    #expect(difference(model.queries(.spatial, of: changed), model.queries(.spatial, of: base)) > 1e-3)
  }

  // MARK: 5. Order of frames

  @Test func orderIsToldByTheTimeEncodingAlone() throws {
    let order = Tensor([Int64(3), 0, 5, 1, 4, 2])
    let features = stored["in.features"].narrow(1, 0, 6)
    for encoding in TimeEncoding.allCases {
      var configuration = SpatioTemporals.configuration()
      configuration.time.encoding = encoding
      let model = try SpatioTemporals.model(configuration).model
      let seconds = stored["in.seconds"].narrow(1, 0, 6)
      // Frames change places; the times stay.
      let one = try model.readVideo(TimedFeatures(features, seconds: seconds))
      let other = try model.readVideo(TimedFeatures(features.indexSelect(1, order), seconds: seconds))
      expectClose(other.pooled.places, one.pooled.places, relative: 2e-6)
      expectClose(other.pooled.importance, one.pooled.importance.indexSelect(1, order), relative: 2e-6)
      let change = relativeError(other.queries.hidden, one.queries.hidden)
      if encoding == .none {
        #expect(change < 5e-6, "\(change)")
      } else {
        #expect(change > 1e-2, "\(encoding): \(change)")
      }
      // Frames and times together: a sinusoid of seconds does not care about the order.
      if encoding == .sinusoid {
        let both = try model.readVideo(
          TimedFeatures(features.indexSelect(1, order), seconds: seconds.indexSelect(1, order)))
        expectClose(both.queries.hidden, one.queries.hidden, relative: 5e-6)
      }
    }
  }

  // MARK: 6. Padding

  @Test(arguments: SpatioTemporals.variants.filter { $0 != "image" }) func paddingChangesNothing(_ variant: String)
    throws
  {
    let model = try SpatioTemporals.model(SpatioTemporals.configuration(variant), variant: variant).model
    let (features, seconds) = (stored["in.features"].narrow(1, 0, 8), stored["in.seconds"].narrow(1, 0, 8))
    let short = try model.readVideo(TimedFeatures(features, seconds: seconds))
    let mask = Tensor.cat([.ones([2, 8]), .zeros([2, 8])], 1)
    let padded = try TimedFeatures(
      .cat([features, .full([2, 8, 7, 15], .nan)], 1), mask: mask,
      seconds: .cat([seconds, .full([2, 8], .nan).to(.float64)], 1))
    let long = try model.readVideo(padded)
    expectClose(long.queries.hidden, short.queries.hidden, relative: 2e-6)
    expectClose(long.pooled.places, short.pooled.places, relative: 2e-6)
    expectClose(long.pooled.importance.narrow(1, 0, 8), short.pooled.importance, relative: 2e-6)
    #expect(long.pooled.importance.slice(1, 8).abs().max().item == 0)
    expectClose(try long.pooled.segmentImportance(3), try short.pooled.segmentImportance(3), relative: 2e-6)
    expectClose(
      try model.requireHeads().imageFeatures(long.queries.hidden),
      try model.requireHeads().imageFeatures(short.queries.hidden))
  }

  // MARK: 7. Experts

  @Test func expertsAreRoutedByGroup() throws {
    let (_, parameters, configuration) = try imageAdapter()
    let expanded = try SpatioTemporalQFormer.fromImageQFormer(parameters, configuration, seed: 1)
    let clip = try TimedFeatures(Tensor.randn([2, 5, 11, 20], generator: Generator(seed: 4)))
    let base = try expanded.model.readVideo(clip).queries.hidden
    func expert(_ layer: Int, _ group: String) -> [Tensor] {
      ["intermediate_\(group).dense.weight", "output_\(group).dense.weight", "output_\(group).LayerNorm.weight"].map {
        expanded.parameters["qformer.encoder.layer.\(layer).\($0)"]!
      }
    }
    // Equal at the start: exchanging them changes nothing.
    withNoGrad {
      for (one, other) in zip(expert(1, "spatial"), expert(1, "temporal")) {
        let kept = one.cloned()
        one.copy(from: other)
        other.copy(from: kept)
      }
    }
    #expect(difference(try expanded.model.readVideo(clip).queries.hidden, base) == 0)
    // In the last layer an expert's change is seen in its own rows only.
    for group in QueryGroup.allCases {
      let weight = expert(2, group.rawValue)[0]
      let kept = weight.cloned()
      withNoGrad { weight.multiply(inPlace: Tensor(Float(1.5))) }
      let changed = try expanded.model.readVideo(clip).queries.hidden
      for other in QueryGroup.allCases {
        let change = difference(expanded.model.queries(other, of: changed), expanded.model.queries(other, of: base))
        #expect(other == group ? change > 1e-3 : change == 0, "\(group) → \(other): \(change)")
      }
      withNoGrad { weight.copy(from: kept) }
    }
  }

  @Test func layersWithAndWithoutExperts() throws {
    #expect(!SpatioTemporalQFormer.isInheritedAttention("pooling.over_frames.query.weight"))
    for (layers, expected) in [(nil, [true, true, true]), (2, [false, true, true]), (0, [false, false, false])] {
      var configuration = SpatioTemporals.configuration()
      configuration.expertLayers = layers
      let names = Set(try fresh(configuration).parameters.names)
      for (layer, hasExperts) in expected.enumerated() {
        let path = "qformer.encoder.layer.\(layer)"
        #expect(names.contains("\(path).intermediate_query.dense.weight") == !hasExperts)
        // What the first step of training leaves as it is: ten tensors of each self- and cross-attention.
        let inherited = names.filter { $0.hasPrefix(path) && SpatioTemporalQFormer.isInheritedAttention($0) }
        #expect(inherited.count == (layer % 2 == 0 ? 20 : 10))
        for group in QueryGroup.allCases {
          #expect(names.contains("\(path).intermediate_\(group.rawValue).dense.weight") == hasExperts)
          #expect(names.contains("\(path).output_\(group.rawValue).LayerNorm.bias") == hasExperts)
        }
      }
    }
  }

  // MARK: 8. Generation and contrast

  @Test func generationSeesNoLaterTextAndContrastSeesNoText() throws {
    let model = try SpatioTemporals.model().model
    let clip = try SpatioTemporals.clip()
    let queries = try model.textQFormer.readImage(model.keyValues(clip), keepsKeyValues: true)
    let (ids, mask) = (stored["in.ids"].narrow(0, 0, 2), Tensor.ones([2, 9]))
    let base = try model.textQFormer.causalText(ids, mask: mask, queries: queries.selfKeyValues)
    for column in 1..<9 {
      let other = ids.cloned()
      other.select(1, column).copy(from: Tensor([Int64(20), 20]))
      let hidden = try model.textQFormer.causalText(other, mask: mask, queries: queries.selfKeyValues)
      let change = (hidden - base).abs().sum(2).sum(0).values(as: Double.self)
      #expect(change[..<column].allSatisfy { $0 == 0 } && change[column...].allSatisfy { $0 > 1e-4 }, "\(change)")
    }
    // The video's side of the contrast is the same whatever the texts are; that of a text whatever the videos are.
    func contrast(_ clip: TimedFeatures, _ ids: Tensor) throws -> [Tensor] {
      let heads = try model.requireHeads()
      return [
        heads.imageFeatures(model.textQFormer.readImage(try model.keyValues(clip)).hidden),
        heads.textFeature(try model.textQFormer.readText(ids, mask: mask)),
      ]
    }
    let one = try contrast(clip, ids)
    let otherText = try contrast(clip, ids.flipped(0))
    let otherClip = try contrast(SpatioTemporals.clip([6, 2]), ids)
    #expect(difference(one[0], otherText[0]) == 0 && difference(one[1], otherClip[1]) == 0)
    #expect(difference(one[1], otherText[1]) > 1e-3 && difference(one[0], otherClip[0]) > 1e-3)
  }

  // MARK: 9. Importance

  @Test func importanceSumsToOne() throws {
    for variant in SpatioTemporals.variants {
      let model = try SpatioTemporals.model(SpatioTemporals.configuration(variant), variant: variant).model
      let lengths = SpatioTemporals.lengths(variant)
      let pooled = try model.pool(SpatioTemporals.clip(lengths))
      expectClose(pooled.importance.sum(1), .ones([2]), relative: 1e-6)
      for segments in [1, 2, 3, 20] {
        let sums = try pooled.segmentImportance(segments)
        #expect(sums.shape == [2, segments])
        expectClose(sums.sum(1), .ones([2]), relative: 1e-6)
      }
      #expect(throws: QFormerError.self) { try pooled.segmentImportance(0) }
      // Three frames each of the first six belong to two segments; of four frames, two.
      if variant == "full" {
        let halves = try pooled.segmentImportance(2)
        let first = pooled.importance.narrow(1, 0, 3)
        expectClose(halves.select(0, 0).select(0, 0), first.select(0, 0).sum(), relative: 1e-6)
        expectClose(halves.select(0, 1).select(0, 0), first.select(0, 1).narrow(0, 0, 2).sum(), relative: 1e-6)
      }
    }
  }

  @Test func aSalientFrameBecomesTheMostImportant() throws {
    // One frame of a clip shows one of six objects, in a few places; the others show nothing but noise. The model
    // learns to tell the object; nobody tells it where to look.
    var configuration = SpatioTemporals.configuration()
    configuration.qformer.encoderHiddenSize = 16
    configuration.qformer.layers = 1
    configuration.poolingHeads = 4
    configuration.languageSize = 6
    configuration.languageGroups = [.summary]
    configuration.objectives = nil
    let (model, parameters) = try fresh(configuration, seed: 7)
    parameters.setRequiresGrad(true)
    let generator = Generator(seed: 11)
    let objects = Tensor.randn([6, 16], generator: generator)
    let mark = Tensor.randn([16], generator: generator) * 2
    func clips(_ count: Int) throws -> (TimedFeatures, object: Tensor, frame: Tensor) {
      let object = Tensor.ones([count, 6]).multinomial(1, generator: generator).squeezed(1)
      let frame = Tensor.ones([count, 8]).multinomial(1, generator: generator)
      let isShown = frame.equal(Tensor.arange(8).unsqueezed(0)).to(.float32).reshaped(count, 8, 1, 1)
      let noise = Tensor.randn([count, 8, 5, 16], generator: generator)
      let shown = (objects.indexSelect(0, object) * 2 + mark).reshaped(count, 1, 1, 16)
      return (try TimedFeatures(noise + isShown * shown), object, frame.squeezed(1))
    }
    let optimizer = AdamW(AdamW.groups(parameters.trainable, weightDecay: 0))
    var losses: [Double] = []
    for _ in 0..<150 {
      optimizer.clearGradients()
      let (clip, object, _) = try clips(48)
      let logits = try model.languageTokens(model.readVideo(clip).queries.hidden).squeezed(1)
      let loss = logits.crossEntropy(object)
      loss.backward()
      optimizer.step(learningRate: 5e-3)
      losses.append(loss.item)
    }
    let (clip, object, frame) = try clips(500)
    let read = try withNoGrad { try model.readVideo(clip) }
    let found = read.pooled.importance.argmax(1).equal(frame).to(.float32).mean().item
    let named = try model.languageTokens(read.queries.hidden).squeezed(1).argmax(1).equal(object).to(.float32).mean()
      .item
    print(
      "salient frame found in \(found * 100) % of clips, object in \(named * 100) %, loss \(losses[0]) → \(losses[149])"
    )
    #expect(found >= 0.95)
  }
}
