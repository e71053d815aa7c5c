import Foundation
import Pipelines
import QFormer
import Torch

/// Everything that training reads: captions and questions in memory, features on disk.
struct TrainingData {
  /// Several sources as one list of images or clips.
  struct Part {
    let name: String
    let captions: [[String]]
    let questions: [[Question]]
    let features: FeatureStack
    /// The clips' sound; nil where nobody listens.
    var sounds: SoundStack?

    /// Frames and sound of clips, in the order of the rows.
    ///
    /// - Throws: `QFormerError`.
    func clips(_ rows: [Int], mirrored: [Bool] = []) throws -> Clips {
      Clips(frames: try features.clips(rows, mirrored: mirrored), sounds: try sounds?.sounds(rows))
    }
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
    var audioEncoder: AudioEncoder?
    let frames = recipe.objective.readsVideo ? recipe.video.frameChoice : nil
    let baseline = recipe.objective.readsVideo ? recipe.video.baseline : .none
    func open(_ sources: [DataSource], mirrored: Bool) throws -> [Part] {
      try sources.map { source in
        var source = try recipe.resolved(source, store: store)
        source.repeats = 1
        let images = try CaptionedImages.load(source)
        let cache = try FeatureCache.open(
          images, views: mirrored ? 2 : 1, frames: frames, configuration: recipe.encoder,
          folder: store.cache.appendingPathComponent("features"), showsProgress: showsProgress
        ) {
          if let encoder { return encoder }
          let made = try ImageEncoder(recipe.encoder, store: store)
          encoder = made
          return made
        }
        let sounds = try recipe.audio.map { audio in
          try SoundCache.open(
            images, configuration: audio.encoder, folder: store.cache.appendingPathComponent("features"),
            showsProgress: showsProgress
          ) {
            if let audioEncoder { return audioEncoder }
            let made = try AudioEncoder(audio.encoder, store: store)
            audioEncoder = made
            return made
          }
        }
        return Part(
          name: source.name, captions: images.map(\.captions), questions: images.map(\.questions),
          features: FeatureStack([cache], baseline: baseline), sounds: sounds.map { SoundStack(caches: [$0]) })
      }
    }
    let parts = try open(recipe.train, mirrored: recipe.mirrored && !recipe.objective.readsVideo)
    // A source of weight k is seen k times in an epoch.
    let weighted = zip(recipe.train, parts).flatMap { source, part in
      Array(repeating: part, count: max(source.repeats, 1))
    }
    train = Part(
      name: "train", captions: weighted.flatMap(\.captions), questions: weighted.flatMap(\.questions),
      features: FeatureStack(weighted.flatMap(\.features.caches), baseline: baseline),
      sounds: recipe.audio.map { _ in SoundStack(caches: weighted.flatMap { $0.sounds?.caches ?? [] }) })
    validation = try open(recipe.validation, mirrored: false)
  }
}

/// Several feature caches behind each other, addressed by one row number.
struct FeatureStack {
  let caches: [FeatureCache]
  /// What is shown of clips.
  let baseline: Recipe.Video.Baseline
  private let starts: [Int]

  init(_ caches: [FeatureCache], baseline: Recipe.Video.Baseline = .none) {
    self.caches = caches
    self.baseline = baseline
    starts = caches.reduce(into: [0]) { $0.append($0.last! + $1.count) }
  }

  /// The number of images or clips.
  var count: Int { starts.last ?? 0 }
  /// Dv.
  var width: Int { caches.first?.width ?? 0 }

  /// Features `[rows, N, Dv]` in `float32` of pictures, in the order of the rows.
  func batch(_ rows: [Int], mirrored: [Bool] = []) -> Tensor {
    let (parts, back) = parts(rows, mirrored) { $0.batch($1, mirrored: $2) }
    return back.map { Tensor.cat(parts, 0).indexSelect(0, $0) } ?? parts[0]
  }

  /// Clips `[rows, T, N, Dv]` in `float32`, in the order of the rows, T being the frames of the longest of them; pictures
  /// are clips of one frame.
  ///
  /// - Throws: `QFormerError` for rows without features.
  func clips(_ rows: [Int], mirrored: [Bool] = []) throws -> TimedFeatures {
    let (parts, back) = parts(rows, mirrored) { $0.clips($1, mirrored: $2) }
    let longest = parts.map { $0.features.size(1) }.max() ?? 1
    // [R, T', …] → [rows, T, …], zeros for padding.
    func joined(_ tensors: [Tensor]) -> Tensor {
      let padded = tensors.map { tensor in
        let shape = [tensor.size(0), longest - tensor.size(1)] + tensor.shape.dropFirst(2)
        return shape[1] == 0 ? tensor : Tensor.cat([tensor, .zeros(shape)], 1)
      }
      return back.map { Tensor.cat(padded, 0).indexSelect(0, $0) } ?? padded[0]
    }
    let (features, mask, seconds) = (
      joined(parts.map(\.features)), joined(parts.map(\.mask)), joined(parts.map(\.seconds))
    )
    let frames = Int(mask.sum(1).max().item)
    let isFull = rows.count * frames == Int(mask.sum().item)
    let clips = try TimedFeatures(
      features.narrow(1, 0, frames), mask: isFull ? nil : mask.narrow(1, 0, frames),
      seconds: seconds.narrow(1, 0, frames))
    return try baseline.seen(of: clips)
  }

  /// What each cache gives for its own of the rows, and, where there are several caches, what brings the rows of all back
  /// into order.
  private func parts<Part>(
    _ rows: [Int], _ mirrored: [Bool], _ read: (FeatureCache, [Int], [Bool]) -> Part
  ) -> (parts: [Part], back: Tensor?) {
    if caches.count == 1 { return ([read(caches[0], rows, mirrored)], nil) }
    var order: [Int] = []
    var parts: [Part] = []
    for (number, cache) in caches.enumerated() {
      let range = starts[number]..<starts[number + 1]
      let own = rows.indices.filter { range.contains(rows[$0]) }
      if own.isEmpty { continue }
      order += own
      parts.append(
        read(cache, own.map { rows[$0] - range.lowerBound }, mirrored.isEmpty ? [] : own.map { mirrored[$0] }))
    }
    var back = Array(repeating: 0, count: rows.count)
    for (position, row) in order.enumerated() { back[row] = position }
    return (parts, Tensor(back))
  }
}

extension Recipe.Video.Baseline {
  /// What a model that is held back in this way sees of clips.
  ///
  /// - Throws: `QFormerError`.
  func seen(of clips: TimedFeatures) throws -> TimedFeatures {
    switch self {
    case .none: return clips
    case .singleFrame:
      // Frame ⌊n / 2⌋ of the n of each clip.
      let middle = clips.lengths.enumerated().map { $0 * clips.frames + $1 / 2 }
      func chosen(_ tensor: Tensor) -> Tensor {
        let flat = tensor.reshaped([clips.batch * clips.frames] + tensor.shape.dropFirst(2))  // [B, T, …] → [B · T, …]
        return flat.indexSelect(0, Tensor(middle)).unsqueezed(1)
      }
      return try TimedFeatures(chosen(clips.features), seconds: clips.seconds.map(chosen))
    case .meanPooled:
      let mean = clips.meanFrame.unsqueezed(1).expanded(
        clips.batch, clips.frames, clips.features.size(2), clips.features.size(3))  // [B, N, Dv] → [B, T, N, Dv]
      return try TimedFeatures(mean, mask: clips.mask, seconds: clips.seconds)
    }
  }
}

extension TimedFeatures {
  /// The mean `[B, N, Dv]` of the frames that count, of clips whose padding is zero.
  var meanFrame: Tensor {
    guard let mask else { return features.mean(1) }
    return features.sum(1) / mask.sum(1).reshaped(batch, 1, 1)
  }

  /// The same frames with other features `[B, T, …]`.
  ///
  /// - Throws: `QFormerError`.
  func with(features: Tensor) throws -> TimedFeatures { try TimedFeatures(features, mask: mask, seconds: seconds) }
}

/// Random patches left out in a training step, as augmentation that also saves time.
enum PatchDropout {
  /// Keeps the class token and the given part of the patches, the same ones for the whole batch.
  ///
  /// - Parameter features: `[…, N, Dv]`.
  static func apply(_ features: Tensor, part: Double, generator: Generator) -> Tensor {
    let dimension = features.rank - 2
    let patches = features.size(dimension) - 1
    let kept = Int((Double(patches) * part).rounded())
    guard kept < patches else { return features }
    let chosen = Tensor.ones([1, patches]).multinomial(max(kept, 1), generator: generator).reshaped(-1) + 1
    return features.indexSelect(
      dimension, .cat([.zeros([1], dtype: .int64), chosen.sorted().values.to(.int64)], 0))
  }

  /// The same for the patches of clips.
  ///
  /// - Throws: `QFormerError`.
  static func apply(_ clips: TimedFeatures, part: Double, generator: Generator) throws -> TimedFeatures {
    try clips.with(features: apply(clips.features, part: part, generator: generator))
  }
}
