import Foundation
import Pipelines
import Torch

/// Everything that training reads: captions in memory, features on disk.
struct TrainingData {
  /// Several sources as one list of images.
  struct Part {
    let name: String
    let captions: [[String]]
    let features: FeatureStack
  }

  /// All training sources together.
  let train: Part
  /// Each validation source by itself.
  let validation: [Part]

  /// Opens all sources and encodes what has not been encoded yet.
  init(_ recipe: Recipe, store: ModelStore, showsProgress: Bool) throws {
    guard !recipe.train.isEmpty else {
      throw TrainingError.badRecipe(file: "recipe", reason: "train: expected at least one source")
    }
    var encoder: ImageEncoder?
    func open(_ sources: [DataSource], mirrored: Bool) throws -> [Part] {
      try sources.map { source in
        var source = try recipe.resolved(source, store: store)
        source.repeats = 1
        let images = try CaptionedImages.load(source)
        let cache = try FeatureCache.open(
          images, views: mirrored ? 2 : 1, configuration: recipe.encoder,
          folder: store.cache.appendingPathComponent("features"), showsProgress: showsProgress
        ) {
          if let encoder { return encoder }
          let made = try ImageEncoder(recipe.encoder, store: store)
          encoder = made
          return made
        }
        return Part(name: source.name, captions: images.map(\.captions), features: FeatureStack([cache]))
      }
    }
    let parts = try open(recipe.train, mirrored: recipe.mirrored)
    // A source of weight k is seen k times in an epoch.
    let weighted = zip(recipe.train, parts).flatMap { source, part in
      Array(repeating: part, count: max(source.repeats, 1))
    }
    train = Part(
      name: "train", captions: weighted.flatMap(\.captions),
      features: FeatureStack(weighted.flatMap(\.features.caches)))
    validation = try open(recipe.validation, mirrored: false)
  }
}

/// Several feature caches behind each other, addressed by one row number.
struct FeatureStack {
  let caches: [FeatureCache]
  private let starts: [Int]

  init(_ caches: [FeatureCache]) {
    self.caches = caches
    starts = caches.reduce(into: [0]) { $0.append($0.last! + $1.count) }
  }

  /// The number of images.
  var count: Int { starts.last ?? 0 }
  /// Dv.
  var width: Int { caches.first?.width ?? 0 }

  /// Features `[rows, N, Dv]` in `float32`, in the order of the rows.
  func batch(_ rows: [Int], mirrored: [Bool] = []) -> Tensor {
    if caches.count == 1 { return caches[0].batch(rows, mirrored: mirrored) }
    var order: [Int] = []
    var parts: [Tensor] = []
    for (number, cache) in caches.enumerated() {
      let range = starts[number]..<starts[number + 1]
      let own = rows.indices.filter { range.contains(rows[$0]) }
      if own.isEmpty { continue }
      order += own
      parts.append(
        cache.batch(
          own.map { rows[$0] - range.lowerBound }, mirrored: mirrored.isEmpty ? [] : own.map { mirrored[$0] }))
    }
    var back = Array(repeating: 0, count: rows.count)
    for (position, row) in order.enumerated() { back[row] = position }
    return Tensor.cat(parts, 0).indexSelect(0, Tensor(back))
  }
}

/// Random patches left out in a training step, as augmentation that also saves time.
enum PatchDropout {
  /// Keeps the class token and the given part of the patches, the same ones for the whole batch.
  static func apply(_ features: Tensor, part: Double, generator: Generator) -> Tensor {
    let patches = features.size(1) - 1
    let kept = Int((Double(patches) * part).rounded())
    guard kept < patches else { return features }
    let chosen = Tensor.ones([1, patches]).multinomial(max(kept, 1), generator: generator).reshaped(-1) + 1
    return features.indexSelect(1, .cat([.zeros([1], dtype: .int64), chosen.sorted().values.to(.int64)], 0))
  }
}
