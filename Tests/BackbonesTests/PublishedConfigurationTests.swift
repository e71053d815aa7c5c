import Backbones
import Foundation
import TestSupport
import Testing
import Torch
import TorchNN

/// What transformers makes of the sparse configurations that were published with the models.
@Suite struct PublishedConfigurationTests {
  private struct Whole: Decodable {
    let vision: BLIP2VisionConfiguration
    let text: LanguageTowerConfiguration
    enum CodingKeys: String, CodingKey {
      case vision = "vision_config"
      case text = "text_config"
    }
  }

  private func file(_ name: String) throws -> Data {
    try Data(contentsOf: fixtures.appendingPathComponent("backbones/published/\(name).json"))
  }

  private func dictionary(_ data: Data) throws -> [String: Any] {
    try #require(JSONSerialization.jsonObject(with: data) as? [String: Any])
  }

  /// Name with `*` for numbers, shape, how many there are: one line each.
  private func lines(_ build: (ParameterScope) -> Void) -> [String] {
    let asked = ParameterShapes()
    build(ParameterScope(asked))
    var counts: [String: Int] = [:]
    for (name, shape) in asked.all {
      let path = name.replacing(/\.\d+\.(?!layer_norm|SelfAttention|EncDec|Dense)/, with: ".*.")
      counts["\(path) \(shape)", default: 0] += 1
    }
    return counts.map { "\($0) ×\($1)" }.sorted()
  }

  private func sorted(_ golden: Any?) -> [String] { (golden as? [String] ?? []).sorted() }

  /// The fields of a configuration as our encoder writes them, compared with transformers' under the same names.
  private func compare(_ configuration: some Encodable, _ golden: Any?, besides: Set<String> = []) throws {
    let found = try dictionary(JSONEncoder().encode(configuration))
    let expected = try #require(golden as? [String: Any])
    #expect(expected.count > besides.count)
    for (key, value) in expected where !besides.contains(key) {
      #expect(
        found[key] as? NSObject == value as? NSObject, "\(key): transformers has \(value), found \(found[key] ?? "-")")
    }
  }

  @Test(arguments: ["blip2-opt-2.7b", "blip2-flan-t5-xl", "instructblip-vicuna-7b"])
  func numbersAndWeightsEqualTransformers(name: String) throws {
    let golden = try #require(dictionary(file("golden"))[name] as? [String: Any])
    let whole = try JSONDecoder().decode(Whole.self, from: file(name))
    #expect(whole.vision == .giant)
    try compare(whole.vision, golden["vision"])
    #expect(lines { _ = BLIP2Vision(whole.vision, $0) } == sorted(golden["vision_weights"]))
    let weights = sorted(golden["text_weights"])
    switch whole.text {
    case .opt(let sizes):
      try compare(sizes, golden["text"], besides: ["eos_token_id"])
      #expect(sizes == .blip2 && sizes.endIDs == [50_118])
      #expect(lines { _ = OPT(sizes, $0) } == weights)
    case .t5(let sizes):
      try compare(sizes, golden["text"], besides: ["eos_token_id", "is_gated_act"])
      #expect(sizes == .blip2 && sizes.isGated && sizes.endIDs == [1])
      #expect(lines { _ = T5(sizes, $0) } == weights)
    case .llama(let sizes):
      try compare(sizes, golden["text"], besides: ["eos_token_id"])
      // The file's own word, which is wrong: the tokenizer's 2 ends Vicuna's texts.
      #expect(sizes.endIDs == [1])
      #expect(weights.contains("lm_head.weight [\(sizes.vocabularySize), 4096] ×1"))
    }
  }

  @Test func unknownKindsAreNamed() throws {
    let error = #expect(throws: DecodingError.self) {
      try JSONDecoder().decode(LanguageTowerConfiguration.self, from: Data(#"{"model_type": "gpt2"}"#.utf8))
    }
    #expect("\(String(describing: error))".contains("expected llama, opt or t5; found gpt2"))
    for kind in ["opt", "t5", "llama"] {
      let json = Data(#"{"model_type": "\#(kind)"}"#.utf8)
      let configuration = try JSONDecoder().decode(LanguageTowerConfiguration.self, from: json)
      let again = try JSONDecoder().decode(
        LanguageTowerConfiguration.self, from: JSONEncoder().encode(configuration))
      #expect(again == configuration)
    }
  }
}
