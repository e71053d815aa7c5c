import Foundation
import QFormer
import TestSupport
import Testing
import Torch
import TorchNN

/// Configurations from JSON, published and counted sizes, cost, and what is said about input that cannot be read.
@Suite struct VideoConfigurationTests {
  func decode<Value: Decodable>(_ type: Value.Type, _ json: String) throws -> Value {
    try JSONDecoder().decode(type, from: Data(json.utf8))
  }

  func again<Value: Codable & Equatable>(_ value: Value) throws -> Bool {
    try JSONDecoder().decode(Value.self, from: JSONEncoder().encode(value)) == value
  }

  // MARK: JSON

  @Test func presetsSurviveJSON() throws {
    for configuration in [CascadedVideoConfiguration.small, .videoLLaMA] { #expect(try again(configuration)) }
    for configuration in [AudioQFormerConfiguration.small, .videoLLaMA] { #expect(try again(configuration)) }
    for configuration in [SpatioTemporalConfiguration.small, .blip2, SpatioTemporals.configuration("open")] {
      #expect(try again(configuration))
    }
  }

  @Test func sparseFiles() throws {
    let cascade = try decode(
      CascadedVideoConfiguration.self,
      #"""
      {"qformer_config": {}, "language_hidden_size": 4096, "video_qformer_config":
      {"num_hidden_layers": 2, "cross_attention_frequency": 1, "encoder_hidden_size": 768}}
      """#)
    var published = CascadedVideoConfiguration.videoLLaMA
    published.visionNormEps = 1e-6
    #expect(cascade == published)
    #expect(cascade.site == .afterFrameQFormer && cascade.time.maxFrames == 32 && cascade.time.interpolation == nil)

    let model = try decode(SpatioTemporalConfiguration.self, #"{"qformer_config": {}, "language_hidden_size": 2560}"#)
    #expect(model.qformer.queries == 65 && model.languageTokens == 65 && model.objectives == nil)
    #expect(model.pooling == .attentive && model.poolingHeads == 16 && model.hasCrossMask && model.expertLayers == nil)
    #expect(model.time.encoding == .learned && model.time.maxFrames == 32 && model.timeSite == .afterPooling)
    let chosen = try decode(
      SpatioTemporalConfiguration.self,
      #"""
      {"qformer_config": {"num_query_tokens": 33}, "num_spatial_queries": 16, "num_temporal_queries": 16,
      "pooling": "mean", "time_encoding": {"encoding": "sinusoid", "interpolation": "nearest"},
      "time_site": "beforePooling", "num_expert_layers": 4, "cross_mask": false, "language_groups": ["summary"],
      "objectives": {"query_aggregation": "mean", "matching_head": "catTextCLS",
      "temperature_range": {"minimum": 0.001, "maximum": 0.5}}}
      """#)
    #expect(chosen.qformer.queries == 33 && chosen.languageTokens == 1 && chosen.languageSize == nil)
    #expect(chosen.pooling == .mean && chosen.timeSite == .beforePooling && chosen.expertLayers == 4)
    #expect(!chosen.hasCrossMask && chosen.time.encoding == .sinusoid && chosen.time.interpolation == .nearest)
    #expect(chosen.objectives?.aggregation == .mean && chosen.objectives?.matchingHead == .catTextCLS)
    #expect(chosen.objectives?.temperatureRange == .videoChat2 && chosen.objectives?.temperature == 0.07)
    // The sum of the groups and num_query_tokens may not contradict each other.
    let error = #expect(throws: QFormerError.self) {
      try decode(SpatioTemporalConfiguration.self, #"{"qformer_config": {"num_query_tokens": 64}}"#)
    }
    #expect(error?.description.contains("num_query_tokens is 64, but the groups have 65") == true)
    // Setting a group's number sets the sum.
    var changed = SpatioTemporalConfiguration.small
    changed.spatialQueries = 8
    #expect(changed.qformer.queries == 41)
    changed.qformer = .blip2
    #expect(changed.qformer.queries == 41)
  }

  @Test func nonsenseIsNamed() throws {
    func model(_ expected: String, _ change: (inout SpatioTemporalConfiguration) -> Void) {
      var configuration = SpatioTemporals.configuration()
      change(&configuration)
      let error = #expect(throws: QFormerError.self) {
        try SpatioTemporalQFormer(configuration, ParameterScope(Shapes()))
      }
      #expect(error?.description.contains(expected) == true, "\(expected): \(error?.description ?? "")")
    }
    model("no multiple of 4 pooling heads") { $0.poolingHeads = 4 }
    model("num_expert_layers is 4") { $0.expertLayers = 4 }
    model("num_temporal_queries is -1") { $0.temporalQueries = -1 }
    model("language_groups is empty") { $0.languageGroups = [] }
    model("twice") { $0.languageGroups = [.summary, .summary] }
    model("names summary, which has no queries") { $0.summaryQueries = 0 }
    model("language_hidden_size is 0") { $0.languageSize = 0 }
    model("max_frames is 0") { $0.time.maxFrames = 0 }
    model("use_qformer_text_input") { $0.qformer.readsText = false }
    model("image_text_hidden_size is 0") { $0.objectives?.contrastiveSize = 0 }
    model("temperature_range") { $0.objectives?.temperatureRange = TemperatureRange(minimum: 0.5, maximum: 0.1) }
    model("num_summary_queries is 2") {
      ($0.summaryQueries, $0.languageGroups) = (2, [.spatial])
      $0.objectives?.aggregation = .summary
    }

    func cascade(_ expected: String, _ change: (inout CascadedVideoConfiguration) -> Void) {
      var configuration = Cascades.configuration()
      change(&configuration)
      let error = #expect(throws: QFormerError.self) {
        try CascadedVideoQFormer(configuration, ParameterScope(Shapes()))
      }
      #expect(error?.description.contains(expected) == true, "\(expected): \(error?.description ?? "")")
    }
    cascade("frequency of the temporal Q-Former is 2") { $0.temporal.crossAttentionFrequency = 2 }
    cascade("expected the frame Q-Former's hidden_size 18") { $0.temporal.encoderHiddenSize = 13 }
    cascade("no multiple of 4 heads") { $0.frame.heads = 4 }
    cascade("use_qformer_text_input") { $0.objectives = ObjectiveConfiguration() }
    var audio = Cascades.audio()
    audio.qformer.crossAttentionFrequency = 2
    #expect(throws: QFormerError.self) { try AudioQFormer(audio, ParameterScope(Shapes())) }
  }

  // MARK: Input

  @Test func clipsThatCannotBeReadAreNamed() throws {
    func says(_ expected: String, _ body: () throws -> Void) {
      let error = #expect(throws: QFormerError.self, performing: body)
      #expect(error?.description.contains(expected) == true, "\(expected): \(error?.description ?? "")")
    }
    let features = Tensor.zeros([2, 3, 7, 13])
    says("[B, T, …]") { _ = try TimedFeatures(.zeros([2, 3])) }
    says("without a 0") { _ = try TimedFeatures(.zeros([2, 0, 7, 13])) }
    says("frame mask: expected the shape [B, T] = [2, 3]") { _ = try TimedFeatures(features, mask: .ones([2, 4])) }
    says("seconds") { _ = try TimedFeatures(features, seconds: .ones([3])) }
    let empty = Tensor([Int64(1), 0, 0, 0, 0, 0], [2, 3])
    says("clip 1 of the batch has no frame") { _ = try TimedFeatures(features, mask: empty) }
    // Frames may be left out in between.
    let gaps = try TimedFeatures(features, mask: Tensor([Int64(0), 1, 0, 1, 1, 1], [2, 3]))
    #expect(gaps.lengths == [2, 3])

    let cascade = try Cascades.model().model
    says("[B, T, N, 13]") { _ = try cascade.readVideo(TimedFeatures(.zeros([1, 2, 7, 12]))) }
    says("[B, T, N, 13]") { _ = try cascade.readVideo(TimedFeatures(.zeros([1, 2, 13]))) }
    says("[B, T, M, 18]") { _ = try cascade.readVideo(frames: TimedFeatures(.zeros([1, 2, 5, 13]))) }
    says("frame 13 is behind the 12 rows of the table of frame positions; set an interpolation") {
      _ = try cascade.readVideo(TimedFeatures(.zeros([1, 13, 7, 13])))
    }
    says("no heads") {
      _ = try cascade.losses(clip: gaps, ids: .ones([2, 3]), mask: .ones([2, 3]), generator: Generator(seed: 0))
    }
    let sinusoid = try Cascades.model(Cascades.configuration(encoding: .sinusoid)).model
    says("the clip has no seconds") { _ = try sinusoid.readVideo(gaps) }
    let model = try SpatioTemporals.model().model
    says("[B, T, N, 15]") { _ = try model.pool(gaps) }
    says("frame 9 is behind the 8 rows") { _ = try model.pool(TimedFeatures(.zeros([1, 9, 7, 15]))) }
    says("[2, 5]") { _ = try model.textQFormer.imageKeyValues(.zeros([2, 5, 15]), mask: .ones([2, 4])) }
    var bare = SpatioTemporals.configuration()
    bare.languageSize = nil
    let projectionless = try SpatioTemporals.model(bare).model
    says("no projection") { _ = try projectionless.languageTokens(.zeros([1, 8, 18])) }
  }

  @Test func framesLeftOutInBetween() throws {
    // A clip with a gap is the clip without that frame, but for the numbers of the later ones.
    let model = try Cascades.model(Cascades.configuration(encoding: .none)).model
    let features = try Fixture("video/cascade.safetensors")["in.features"].narrow(1, 0, 4)
    let gap = try TimedFeatures(features, mask: Tensor([Int64(1), 1, 0, 1, 1, 0, 1, 1], [2, 4]))
    let read = try model.readVideo(gap).hidden
    for (row, kept) in [[Int64(0), 1, 3], [0, 2, 3]].enumerated() {
      let alone = try model.readVideo(TimedFeatures(features.narrow(0, row, 1).indexSelect(1, Tensor(kept)))).hidden
      expectClose(read.narrow(0, row, 1), alone, relative: 2e-6)
    }
  }

  @Test func timeInWordsBesideEachFrame() throws {
    // TimeChat: the frame Q-Former reads a sentence with each frame.
    var configuration = Cascades.configuration()
    configuration.frame.readsText = true
    configuration.frame.vocabularySize = 20
    let model = try CascadedVideoQFormer(configuration, ParameterScope(FreshParameters(seed: 3)))
    let features = try Fixture("video/cascade.safetensors")["in.features"].narrow(1, 0, 3)
    let clip = try TimedFeatures(features, mask: Tensor([Int64(1), 1, 1, 1, 1, 0], [2, 3]))
    let ids = (Tensor.rand([2, 3, 6], generator: Generator(seed: 1)) * 20).to(.int64)
    let mask = Tensor.cat([.ones([2, 3, 4]), .zeros([2, 3, 2])], 2)
    let read = try model.readFrames(clip, text: (ids, mask)).features
    for (row, frame) in [(0, 0), (0, 2), (1, 1)] {
      let one = try TimedFeatures(features.narrow(0, row, 1).narrow(1, frame, 1))
      let words = ids.narrow(0, row, 1).narrow(1, frame, 1).narrow(2, 0, 4)
      let alone = try model.readFrames(one, text: (words, .ones([1, 1, 4]))).features
      expectClose(read.select(0, row).select(0, frame), alone.select(0, 0).select(0, 0), relative: 2e-6)
    }
    #expect(relativeError(try model.readFrames(clip).features, read) > 1e-3)
    #expect(throws: QFormerError.self) { try model.readFrames(clip, text: (ids.narrow(1, 0, 2), mask)) }
    #expect(throws: QFormerError.self) { try Cascades.model().model.readFrames(clip, text: (ids, mask)) }
    // And in a stream.
    var stream = try WindowStream(model, window: SlidingWindow(length: 3, stride: 3))
    for frame in 0..<3 {
      try stream.append(
        features.select(0, 0).select(0, frame), seconds: Double(frame),
        text: (ids.select(0, 0).select(0, frame), mask.select(0, 0).select(0, frame)))
    }
    let whole = try model.readVideo(
      TimedFeatures(features.narrow(0, 0, 1)), text: (ids.narrow(0, 0, 1), mask.narrow(0, 0, 1)))
    expectClose(try #require(try stream.hidden), whole.hidden, relative: 2e-6)
  }

  // MARK: Counts

  @Test func parametersAtBLIP2Scale() throws {
    var configuration = SpatioTemporalConfiguration.blip2
    configuration.qformer.readsText = false
    configuration.objectives = nil
    configuration.languageSize = nil
    let (all, shared) = (Shapes(), Shapes())
    _ = try SpatioTemporalQFormer(configuration, ParameterScope(all))
    configuration.expertLayers = 0
    _ = try SpatioTemporalQFormer(configuration, ParameterScope(shared))
    // About 234 M without text, 113 M of them the two extra experts.
    #expect(all.count - shared.count == 2 * 12 * 4_723_968)
    // BLIP-2's Q-Former with its LayerNorm on image features; experts; two poolings; 33 queries more; time; λ.
    let base = 107_133_696 - (768 * 2560 + 2560)
    let pooling = 2 * (4 * 1408 * 1408 + 1408)
    #expect(all.count == base + 2 * 12 * 4_723_968 + pooling + 33 * 768 + 32 * 1408 + 1)
    #expect(abs(Double(all.count) / 1e6 - 234.5) < 0.5, "\(all.count)")
  }

  @Test func costAtBLIP2Scale() {
    // The specification's hand counts for 16 frames of 257 tokens, in 10⁹ multiply–accumulates.
    func giga(_ count: Int) -> Double { (Double(count) / 1e8).rounded() / 10 }
    let model = SpatioTemporalConfiguration.blip2
    #expect(giga(model.multiplyAccumulates(frames: 16, imageTokens: 257)) == 11.2)
    #expect(abs(Double(model.poolingMultiplyAccumulates(frames: 16, imageTokens: 257)) / 1e9 - 1.45) < 0.005)
    #expect(giga(CascadedVideoConfiguration.videoLLaMA.multiplyAccumulates(frames: 16, imageTokens: 257)) == 103.8)
    #expect(giga(QFormerConfiguration.blip2.multiplyAccumulates(imageTokens: 16 * 257)) == 57.5)
    var plain = model
    plain.pooling = .mean
    #expect(giga(plain.multiplyAccumulates(frames: 16, imageTokens: 257)) == 9.8)
  }

  @Test func theFamiliesAtBLIP2Scale() {
    // The specification's table for 16 frames, from either model.
    let tables = [
      CascadedVideoConfiguration.videoLLaMA.families(frames: 16, imageTokens: 257),
      SpatioTemporalConfiguration.blip2.families(frames: 16, imageTokens: 257),
    ]
    for (table, own) in zip(tables, [VideoFamily.Kind.cascaded, .spatioTemporal]) {
      #expect(table.map(\.kind) == VideoFamily.Kind.allCases)
      #expect(table.map(\.tokens) == [32 * 16, 32, 65])
      #expect(table.map { (Double($0.multiplyAccumulates) / 1e8).rounded() / 10 } == [102.0, 103.8, 11.2])
      #expect(table.filter(\.isOwn).map(\.kind) == [own])
      #expect(table.filter(\.growsWithFrames).map(\.kind) == [.image])
    }
  }

  // MARK: Objectives

  @Test func theTemperatureIsKeptInItsRange() throws {
    var configuration = SpatioTemporals.configuration()
    configuration.objectives?.temperatureRange = TemperatureRange(minimum: 0.05, maximum: 0.2)
    let (model, parameters) = try SpatioTemporals.model(configuration)
    let stored = try Fixture("video/spatiotemporal.safetensors")
    let temperature = try #require(parameters["temp"])
    func loss(isTraining: Bool) throws -> Double {
      try model.losses(
        clip: SpatioTemporals.clip(), ids: stored["in.ids"], mask: stored["in.mask"], generator: Generator(seed: 0),
        matchingPart: 0, generationPart: 0, isTraining: isTraining
      ).contrastive.item
    }
    // Looking on changes nothing; training brings it into the range.
    let before = try loss(isTraining: false)
    #expect(abs(temperature.item - 0.3) < 1e-6)
    let after = try loss(isTraining: true)
    #expect(abs(temperature.item - 0.2) < 1e-6 && after != before)
    withNoGrad { temperature.copy(from: Tensor(Float(-3))) }
    _ = try loss(isTraining: true)
    #expect(abs(temperature.item - 0.05) < 1e-6)
    temperature.requiresGrad = true
    try model.losses(
      clip: SpatioTemporals.clip(), ids: stored["in.ids"], mask: stored["in.mask"], generator: Generator(seed: 0)
    ).total.backward()
    #expect(try #require(temperature.grad).item != 0)
  }

  @Test func aggregations() {
    let cosines = Tensor([Float(0.1), 0.9, -0.4], [1, 3, 1])
    let text = Tensor([Float(1)], [1, 1])
    let expected: [QueryAggregation: Double] = [.max: 0.9, .mean: 0.2, .summary: -0.4]
    for aggregation in QueryAggregation.allCases {
      let found = Contrastive.similarity(imageFeatures: cosines, textFeatures: text, aggregation: aggregation)
      #expect(found.shape == [1, 1] && abs(found.item - expected[aggregation]!) < 1e-6)
    }
  }

  @Test func theCascadeLearnsFromItsObjectives() throws {
    // Three videos told apart by their second frame; VTC, VTM and VTG go down together and reach every parameter.
    var configuration = Cascades.configuration()
    configuration.temporal.readsText = true
    configuration.temporal.vocabularySize = 20
    configuration.temporal.separateDecoderToken = true
    configuration.temporal.hiddenDropout = 0
    configuration.temporal.attentionDropout = 0
    configuration.frame.hiddenDropout = 0
    configuration.frame.attentionDropout = 0
    configuration.objectives = ObjectiveConfiguration()
    configuration.objectives?.contrastiveSize = 8
    configuration.objectives?.aggregation = .mean
    configuration.objectives?.matchingHead = .catTextCLS
    let scope = ParameterScope(FreshParameters(seed: 5))
    let model = try CascadedVideoQFormer(configuration, scope)
    scope.parameters.setRequiresGrad(true)
    let features = Tensor.zeros([3, 3, 2, 13])
    features.select(1, 1).copy(from: Tensor.randn([3, 1, 13], generator: Generator(seed: 1)))
    // Four texts: the first two tell of one video.
    let ids = Tensor([Int64(1), 7, 2, 0, 1, 8, 7, 2, 1, 9, 9, 2, 1, 11, 12, 2], [4, 4])
    let mask = ids.notEqual(0).to(.int64)
    let optimizer = AdamW(AdamW.groups(scope.parameters.trainable, weightDecay: 0))
    let generator = Generator(seed: 2)
    var totals: [Double] = []
    for _ in 0..<40 {
      optimizer.clearGradients()
      let losses = try model.losses(
        clip: TimedFeatures(features), ids: ids, mask: mask, videoOfText: [0, 0, 1, 2], generator: generator)
      losses.total.backward()
      if totals.isEmpty {
        let without = scope.parameters.all.filter { $0.tensor.grad == nil }.map(\.name)
        #expect(without == ["language_projection.weight", "language_projection.bias"])
      }
      optimizer.step(learningRate: 3e-3)
      totals.append(losses.total.item)
    }
    #expect(totals[39] < totals[0] * 0.6, "\(totals[0]) → \(totals[39])")
    #expect(throws: QFormerError.self) {
      try model.losses(clip: TimedFeatures(features), ids: ids, mask: mask, generator: generator)
    }
  }
}
