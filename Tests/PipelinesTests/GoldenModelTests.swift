import Foundation
import Pipelines
import TestSupport
import Testing

/// Names and shapes of the whole published models, as transformers makes them; nothing is allocated.
@Suite("Published models, by name and shape")
struct GoldenModelTests {
  private struct Golden: Decodable {
    let count: Int
    let weights: [String: [Int]]

    /// One entry for each tensor: `{0-3}` and `{0,2}` stand for numbers.
    var expanded: [String: [Int]] {
      var all: [String: [Int]] = [:]
      for (pattern, shape) in weights {
        guard let match = pattern.firstMatch(of: /\{([0-9,-]+)\}/) else {
          all[pattern] = shape
          continue
        }
        let numbers = match.1.split(separator: ",").flatMap { part -> [Int] in
          let ends = part.split(separator: "-").compactMap { Int($0) }
          return ends.count == 2 ? Array(ends[0]...ends[1]) : ends
        }
        for number in numbers { all[pattern.replacingCharacters(in: match.range, with: "\(number)")] = shape }
      }
      return all
    }
  }

  private func shapes(_ name: String) throws -> [String: [Int]] {
    let file = fixtures.appendingPathComponent("published/golden/\(name).config.json")
    let configuration = try JSONDecoder().decode(BLIPConfiguration.self, from: Data(contentsOf: file))
    return try Dictionary(uniqueKeysWithValues: configuration.parameterShapes().map { ($0.name, $0.shape) })
  }

  private func count(_ shapes: [String: [Int]], where isCounted: (String) -> Bool = { _ in true }) -> Int {
    shapes.filter { isCounted($0.key) }.reduce(0) { $0 + $1.value.reduce(1, *) }
  }

  @Test(
    "Every name and shape equals transformers'",
    arguments: [
      "blip2-opt-2.7b", "blip2-flan-t5-xl", "blip2-itm-vit-g", "instructblip-flan-t5-xl", "instructblip-vicuna-7b",
    ])
  func names(name: String) throws {
    let file = fixtures.appendingPathComponent("published/golden/\(name).json")
    let golden = try JSONDecoder().decode(Golden.self, from: Data(contentsOf: file))
    let (found, expected) = (try shapes(name), golden.expanded)
    #expect(expected.count > 800)
    #expect(Set(found.keys).symmetricDifference(expected.keys).sorted() == [])
    for (key, shape) in expected where found[key] != shape {
      Issue.record("\(key): transformers has \(shape), found \(found[key] ?? [])")
    }
    #expect(count(found) == golden.count)
  }

  @Test("What is trained: 186.7 M in stage 1; 107.13 M before OPT-2.7B, 106.74 M before Flan-T5-XL in stage 2")
  func trainable() throws {
    func isTrained(_ name: String) -> Bool {
      !name.hasPrefix("language_model.")
        && (!name.hasPrefix("vision_model.") || name.hasPrefix("vision_model.post_layernorm."))
    }
    #expect(count(try shapes("blip2-opt-2.7b"), where: isTrained) == 107_133_696)
    #expect(count(try shapes("blip2-flan-t5-xl"), where: isTrained) == 106_739_968)
    // Stage 1 has BERT's language-model head besides (its matrix is the word table) and the temperature.
    let matching = try shapes("blip2-itm-vit-g")
    let (words, width) = (30_523, 768)
    let head = width * width + width + 2 * width + words
    let stage1 = count(matching, where: isTrained) + head + 1
    #expect(matching["embeddings.word_embeddings.weight"] == [words, width])
    #expect((186_650_000..<186_750_000).contains(stage1), "\(stage1)")
  }
}
