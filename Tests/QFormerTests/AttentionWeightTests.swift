import Foundation
import QFormer
import TestSupport
import Testing
import Torch
import TorchNN

/// Attention weights, which are computed on request only.
@Suite struct AttentionWeightTests {
  /// softmax of q · k / √d and a mask, head by head, from named parameters.
  private func weights(
    _ x: Tensor, _ keys: Tensor, _ name: String, _ parameters: Parameters, heads: Int, mask: Tensor? = nil
  ) throws -> Tensor {
    func project(_ x: Tensor, _ part: String) throws -> Tensor {
      let weight = try #require(parameters["\(name).attention.\(part).weight"]).to(.float64)
      let bias = try #require(parameters["\(name).attention.\(part).bias"]).to(.float64)
      return x.to(.float64).matmul(weight.transposed(0, 1)) + bias
    }
    let (q, k) = (try project(x, "query"), try project(keys, "key"))
    let d = q.size(2) / heads
    let byHead = (0..<heads).map { head in
      let scores = q.narrow(2, head * d, d).matmul(k.narrow(2, head * d, d).transposed(1, 2)) / Double(d).squareRoot()
      let masked = mask.map { scores + ($0.to(.float64) - 1).unsqueezed(1) * 10_000 } ?? scores
      return masked.softmax()
    }
    return .stack(byHead, 1)
  }

  @Test func firstLayerByHand() throws {
    let (model, parameters) = try Adapters.imageText()
    let batch = try Batch()
    let sizes = model.configuration.qformer
    let image = model.imageEmbeds(batch.features)
    let found = try model.qformer.readImageAndText(
      model.qformer.imageKeyValues(image), batch.ids, mask: batch.mask, keepsAttention: true, keepsSelfAttention: true)
    // Queries, then words with their places, after the common LayerNorm.
    func named(_ name: String) throws -> Tensor { try #require(parameters[name]) }
    let count = batch.ids.size(0)
    let words = try named("embeddings.word_embeddings.weight").embedding(batch.ids)
    let places = try named("embeddings.position_embeddings.weight").narrow(0, 0, batch.ids.size(1))
    let queries = try named("query_tokens").expanded(count, -1, -1)
    let x = Tensor.cat([queries, words + places], 1).layerNorm(
      try named("qformer.layernorm.weight"), try named("qformer.layernorm.bias"), eps: sizes.layerNormEps)
    let mask = Tensor.cat([.ones([count, sizes.queries]), batch.mask.to(.float32)], 1)
    let layer = "qformer.encoder.layer.0"
    let expected = try weights(x, x, "\(layer).attention", parameters, heads: sizes.heads, mask: mask)
    #expect(found.selfAttention.count == sizes.layers)
    try expectClose(#require(found.selfAttention.first), expected)
    for weights in found.selfAttention { expectClose(weights.sum(-1), .ones(Array(weights.shape.dropLast()))) }
    // Queries after self-attention look at the image.
    let value = "\(layer).attention"
    let seen = try attended(x, expected, value, parameters, heads: sizes.heads, eps: sizes.layerNormEps)
    let cross = try weights(
      seen.narrow(1, 0, sizes.queries), image, "\(layer).crossattention", parameters, heads: sizes.heads)
    try expectClose(#require(found.crossAttention.first), cross)
    #expect(model.qformer.crossAttentionLayers == [0, 2])
  }

  private func attended(
    _ x: Tensor, _ weights: Tensor, _ name: String, _ parameters: Parameters, heads: Int, eps: Double
  ) throws -> Tensor {
    func named(_ part: String) throws -> Tensor { try #require(parameters["\(name).\(part)"]).to(.float64) }
    let x = x.to(.float64)
    let v = try x.matmul(named("attention.value.weight").transposed(0, 1)) + named("attention.value.bias")
    let d = v.size(2) / heads
    let merged = Tensor.cat(
      (0..<heads).map { weights.select(1, $0).matmul(v.narrow(2, $0 * d, d)) }, 2)
    let out = try merged.matmul(named("output.dense.weight").transposed(0, 1)) + named("output.dense.bias") + x
    return out.layerNorm(try named("output.LayerNorm.weight"), try named("output.LayerNorm.bias"), eps: eps)
  }

  @Test func nothingIsKeptUnasked() throws {
    let model = try Adapters.imageText().model
    let batch = try Batch()
    let image = try model.qformer.imageKeyValues(model.imageEmbeds(batch.features))
    let plain = try model.qformer.readImageAndText(image, batch.ids, mask: batch.mask)
    #expect(plain.crossAttention.isEmpty && plain.selfAttention.isEmpty)
    let cross = try model.qformer.readImageAndText(image, batch.ids, mask: batch.mask, keepsAttention: true)
    #expect(cross.crossAttention.count == 2 && cross.selfAttention.isEmpty)
    let both = try model.qformer.readImageAndText(
      image, batch.ids, mask: batch.mask, keepsAttention: true, keepsSelfAttention: true)
    expectClose(both.hidden, plain.hidden, relative: 0)
    #expect(model.qformer.readImage(image).crossAttention.isEmpty)
  }

  #if os(Linux)
    /// Weights of 1024 × 40,000 in two heads take 328 MB: a pass that computes them cannot hide it.
    fileprivate static func growth(keepsAttention: Bool) throws -> Int {
      func peak() throws -> Int {
        let status = try String(contentsOfFile: "/proc/self/status", encoding: .utf8)
        let line = try #require(status.split(separator: "\n").first { $0.hasPrefix("VmHWM:") })
        return 1024 * (try #require(Int(line.filter(\.isNumber))))
      }
      var sizes = QFormerConfiguration()
      (sizes.hiddenSize, sizes.layers, sizes.heads, sizes.intermediateSize) = (16, 1, 2, 16)
      (sizes.encoderHiddenSize, sizes.queries) = (16, 1024)
      let parameters = Parameters()
      let model = try QFormer(sizes, ParameterScope(FreshParameters(seed: 1), parameters: parameters))
      return try withNoGrad {
        let image = try model.imageKeyValues(.randn([1, 40_000, 16]))
        let before = try peak()
        #expect(model.readImage(image, keepsAttention: keepsAttention).hidden.shape == [1, 1024, 16])
        return try peak() - before
      }
    }

    /// Each in a process of its own, whose peak of memory is its alone.
    @Test func passesThatKeepNothingComputeNoWeights() async {
      await #expect(processExitsWith: .success) {
        let growth = try AttentionWeightTests.growth(keepsAttention: false)
        #expect(growth < 100 << 20)
      }
      await #expect(processExitsWith: .success) {
        let growth = try AttentionWeightTests.growth(keepsAttention: true)
        #expect(growth > 300 << 20)
      }
    }
  #endif

  @Test func framesOfACascade() throws {
    for site in [FrameEmbeddingSite.afterFrameQFormer, .beforeFrameQFormer] {
      let model = try Cascades.model(Cascades.configuration(site: site)).model
      let found = try model.frameAttention(Cascades.clip([8, 5]))
      let sizes = model.configuration.frame
      let layers = model.frameQFormer.crossAttentionLayers.count
      #expect(found.shape == [2, 8, layers, sizes.heads, sizes.queries, found.size(5)])
      let sums = found.sum(-1)
      expectClose(sums.select(0, 0), .ones(Array(sums.shape.dropFirst())))
      expectClose(sums.select(0, 1).narrow(0, 0, 5), .ones([5] + sums.shape.dropFirst(2)))
      #expect(sums.select(0, 1).slice(0, 5).abs().max().item == 0)
      guard site == .afterFrameQFormer else { continue }
      // A frame alone.
      let frame = try Cascades.clip([8, 5]).features.select(0, 0).narrow(0, 3, 1)  // [1, N, Dv]
      let alone = model.frameQFormer.readImage(
        try model.frameQFormer.imageKeyValues(model.imageEmbeds(frame)), keepsAttention: true)
      expectClose(found.select(0, 0).select(0, 3), .stack(alone.crossAttention.map { $0.select(0, 0) }))
    }
  }

  @Test(arguments: ["full", "open", "mean"]) func poolingOfAClip(_ variant: String) throws {
    let (model, parameters) = try SpatioTemporals.model(SpatioTemporals.configuration(variant), variant: variant)
    let lengths = SpatioTemporals.lengths(variant)
    let clip = try SpatioTemporals.clip(lengths)
    let found = try model.poolingWeights(clip)
    expectClose(found.overPatches.sum(2), .ones([2, lengths[0]]))
    expectClose(found.overFrames.sum(1), .ones([2, clip.features.size(2)]))
    expectClose(found.overFrames.mean(2), try model.pool(clip).importance)
    guard variant == "full" else { return }
    // Naively, before projections change places with sums, on the longer clip.
    func named(_ name: String) throws -> Tensor { try #require(parameters["pooling.over_patches.\(name)"]) }
    let heads = model.configuration.poolingHeads
    let x = model.imageEmbeds(clip.features.select(0, 0))  // [T, N, Dv]
    let q = try named("query_token").linear(named("query.weight"))  // [1, Dv]
    let k = x.linear(try named("key.weight"))
    let d = k.size(2) / heads
    let byHead = (0..<heads).map { head in
      let scores = (k.narrow(2, head * d, d) * q.narrow(1, head * d, d)).sum(2) / Double(d).squareRoot()
      return scores.softmax(1)
    }
    expectClose(found.overPatches.select(0, 0), Tensor.stack(byHead).mean(0))
  }
}
