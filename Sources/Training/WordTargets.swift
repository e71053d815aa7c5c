import Foundation
import Torch

/// The words of captions as a language model's tokens, weighted by how much they tell.
///
/// A token counts by how few images have it in a caption, or all count alike (`Recipe.ImageWords.Weighting`). Tokens of too few
/// images are left out, and those of so many that they tell nothing.
struct WordTargets {
  /// The tokens' numbers in the language model's vocabulary, ascending.
  let ids: [Int]
  /// What each token counts.
  private let weights: [Float]
  /// In how many images each token stands.
  private let counts: [Int]
  private let indices: [Int: Int]

  /// - Parameters:
  ///   - captions: For each image the tokens of all its captions.
  ///   - minimumCount: Tokens of fewer images are left out.
  ///   - weighting: What a token counts.
  init(_ captions: [[Int]], minimumCount: Int, weighting: Recipe.ImageWords.Weighting = .rarity) {
    func weight(_ count: Int) -> Double {
      let rarity = Double(captions.count) / Double(count)
      return switch weighting {
      case .rarity: log(rarity) - 1
      case .even: rarity < 2 ? 0 : 1
      }
    }
    var images: [Int: Int] = [:]
    for tokens in captions { for token in Set(tokens) { images[token, default: 0] += 1 } }
    let weighted = images.filter { $0.value >= minimumCount }
      .map { (id: $0.key, count: $0.value, weight: weight($0.value)) }
      .filter { $0.weight > 0 }.sorted { $0.id < $1.id }
    ids = weighted.map(\.id)
    weights = weighted.map { Float($0.weight) }
    counts = weighted.map(\.count)
    indices = Dictionary(uniqueKeysWithValues: ids.enumerated().map { ($1, $0) })
  }

  /// Places in ``ids`` of the tokens of an image that count, ascending.
  func words(_ tokens: [Int]) -> [Int] { Set(tokens).compactMap { indices[$0] }.sorted() }

  /// Distributions `[B, W]` over the words of images, each word as often as it stands there; all words alike where an image
  /// has none.
  func distributions(_ captions: [[Int]]) -> Tensor {
    var values = [Float](repeating: 0, count: captions.count * ids.count)
    for (row, tokens) in captions.enumerated() {
      let start = row * ids.count
      var total: Float = 0
      for token in tokens {
        guard let index = indices[token] else { continue }
        values[start + index] += weights[index]
        total += weights[index]
      }
      for index in start..<start + ids.count {
        values[index] = total > 0 ? values[index] / total : 1 / Float(ids.count)
      }
    }
    return Tensor(values, [captions.count, ids.count])
  }

  /// `[W]`, the logarithm of the number of images that a word stands in: what is known of an image unseen.
  var logCounts: Tensor { Tensor(counts.map { Float(log(Double($0))) }) }

  /// `[W]`, the logarithm of the part that words have in ``distributions(_:)``, up to a constant.
  var logShares: Tensor { Tensor(zip(counts, weights).map { Float(log(Double($0) * Double($1))) }) }

  /// The words that stand in most images and still count, best first.
  var mostFrequent: [Int] { counts.indices.sorted { (-counts[$0], $0) < (-counts[$1], $1) } }
}
