import Foundation
import QFormer
import TestSupport
import Testing
import Torch
import TorchNN

/// Six patches in a row, six in a column; every query has a region of 3 × 3.
private let side = 6

@Suite struct PoolingStartTests {
  private func configuration(_ change: (inout QFormerConfiguration) -> Void = { _ in }) -> QFormerConfiguration {
    var configuration = QFormerConfiguration()
    configuration.hiddenSize = 48
    configuration.layers = 3
    configuration.heads = 6
    configuration.intermediateSize = 64
    configuration.encoderHiddenSize = 40
    configuration.queries = 4
    change(&configuration)
    return configuration
  }

  /// Pictures whose patches tell where they lie by eight of their 40 numbers, under noise; the class token, where there is
  /// one, lies apart from all of them.
  private func pictures(_ count: Int, hasClass: Bool, seed: UInt64 = 5) throws -> Tensor {
    try withError {
      let generator = Generator(seed: seed)
      let code = Tensor.randn([4, 8], generator: Generator(seed: 1))
      var places: [Float] = []
      for patch in 0..<side * side {
        let (down, across) = (Float(patch / side) / 5 - 0.5, Float(patch % side) / 5 - 0.5)
        places += [down, across, down * down, across * across]
      }
      let own = Tensor(places).reshaped(side * side, 4).matmul(code) * 2  // [P, 8]
      let noise = Tensor.randn([count, side * side, 40], generator: generator) * 0.5
      let patches = noise + Tensor.cat([own, .zeros([side * side, 32])], 1)
      guard hasClass else { return patches }
      let apart = Tensor.randn([40], generator: Generator(seed: 2)) * 2
      return .cat([Tensor.randn([count, 1, 40], generator: generator) + apart, patches], 1)
    }
  }

  private func started(_ configuration: QFormerConfiguration, on pictures: Tensor) throws -> (QFormer, Parameters) {
    let parameters = Parameters()
    let model = try withError {
      try QFormer(configuration, ParameterScope(FreshParameters(seed: 3), parameters: parameters))
    }
    try withError { try model.startPooling(pictures) }
    return (model, parameters)
  }

  /// The part of a query's attention that falls on its own region, and on the class token, by cross-attention layer and
  /// head.
  private func shares(_ model: QFormer, _ pictures: Tensor, hasClass: Bool) throws -> [[(own: Float, onClass: Float)]] {
    try withError {
      try withNoGrad {
        let output = model.readImage(try model.imageKeyValues(pictures), keepsAttention: true)
        return output.crossAttention.map { weights in
          (0..<weights.size(1)).map { head in
            let mean = weights.select(1, head).mean(0)  // [M, N]
            let patches = mean.slice(1, hasClass ? 1 : 0).reshaped(4, side, side)
            var own: Float = 0
            for query in 0..<4 {
              own += Float(
                patches.select(0, query).narrow(0, query / 2 * 3, 3).narrow(1, query % 2 * 3, 3).sum().item)
            }
            return (own / 4, hasClass ? Float(mean.select(1, 0).mean().item) : 0)
          }
        }
      }
    }
  }

  @Test func queriesReadTheirOwnRegionsAndTheClassToken() throws {
    let (model, _) = try started(configuration(), on: pictures(200, hasClass: true))
    // Other pictures than those it started from.
    for layer in try shares(model, pictures(50, hasClass: true, seed: 9), hasClass: true) {
      for (own, onClass) in layer.prefix(2) {
        #expect(onClass > 0.9)
        #expect(own < 0.1)
      }
      for (own, onClass) in layer.dropFirst(2) {
        // A query that looked everywhere would give its region a quarter.
        #expect(own > 0.5)
        #expect(onClass < 0.05)
      }
    }
  }

  @Test func withoutAClassTokenEveryHeadReadsARegion() throws {
    let (model, _) = try started(configuration(), on: pictures(200, hasClass: false))
    for layer in try shares(model, pictures(50, hasClass: false, seed: 9), hasClass: false) {
      #expect(layer.count == 6)
      for (own, _) in layer { #expect(own > 0.5) }
    }
  }

  @Test func queriesGiveWhatTheirRegionsHold() throws {
    let (model, parameters) = try started(configuration(), on: pictures(200, hasClass: true))
    try withError {
      try withNoGrad {
        func read(_ embeds: Tensor) throws -> Tensor { model.readImage(try model.imageKeyValues(embeds)).hidden }
        let embeds = try pictures(20, hasClass: true, seed: 9)
        // What all patches of the first region hold changes, in directions that say nothing of places.
        let grid = Tensor.zeros([side, side])
        grid.narrow(0, 0, 3).narrow(1, 0, 3).copy(from: .ones([3, 3]))
        let shift = Tensor.cat([.zeros([8]), Tensor.randn([32], generator: Generator(seed: 4))], 0)
        let change = Tensor.cat([.zeros([1]), grid.reshaped(-1)], 0).unsqueezed(1) * shift
        let moved = (try read(embeds + change) - read(embeds)).norm(-1).mean(0).values(as: Float.self)
        for other in moved.dropFirst() { #expect(moved[0] > 1.5 * other) }
        // All queries read the class token.
        let ofClass = Tensor.cat([.ones([1]), .zeros([side * side])], 0).unsqueezed(1) * shift
        let movedByClass = (try read(embeds + ofClass) - read(embeds)).norm(-1).mean(0).values(as: Float.self)
        for moved in movedByClass { #expect(moved > 1) }
        for (name, tensor) in parameters.all where name.contains("output_query.dense") {
          #expect(tensor.abs().max().item == 0)
        }
      }
    }
  }

  @Test func otherSizesWork() throws {
    // More queries than a head is wide, an encoder narrower than the heads together, an odd number of queries.
    for (queries, heads, width) in [(32, 12, 40), (5, 1, 40), (1, 2, 40)] {
      let sizes = configuration {
        $0.queries = queries
        $0.heads = heads
        $0.encoderHiddenSize = width
      }
      let (model, _) = try started(sizes, on: pictures(30, hasClass: true))
      try withError {
        let hidden = model.readImage(try model.imageKeyValues(pictures(2, hasClass: true))).hidden
        #expect(hidden.shape == [2, queries, 48])
        #expect(hidden.isFinite().all().item == 1)
      }
    }
  }

  @Test func patchesThatMakeNoSquareAreRefused() throws {
    let model = try withError { try QFormer(configuration(), ParameterScope(FreshParameters(seed: 3))) }
    for shape in [[4, 38, 40], [4, 36, 41], [0, 36, 40], [36, 40]] {
      #expect(throws: QFormerError.self) { try withError { try model.startPooling(.zeros(shape)) } }
    }
  }
}
