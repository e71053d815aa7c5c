import Backbones
import Foundation
import TestSupport
import Testing
import Torch
import TorchNN

/// A text read once must be to the rows after it what the same text in every row is.
@Suite struct TextPrefixTests {
  private static let before = [12, 7, 29, 33, 8]
  private static let kinds = ["llama", "opt"]

  private func model(_ kind: String) throws -> any CausalLanguageModel {
    guard kind == "opt" else { return try SmallLlama().model }
    let json = """
      {"model_type": "opt", "vocab_size": 61, "hidden_size": 24, "ffn_dim": 40, "num_hidden_layers": 3,
       "num_attention_heads": 4, "max_position_embeddings": 64, "word_embed_proj_dim": 24, "eos_token_id": 2}
      """
    let configuration = try JSONDecoder().decode(OPTConfiguration.self, from: Data(json.utf8))
    return OPT(configuration, ParameterScope(FreshParameters(seed: 3)))
  }

  /// Random embeddings `[2, 4, D]`, as a picture's tokens would be.
  private func picture(_ model: any CausalLanguageModel) -> Tensor {
    .randn([2, 4, model.hiddenSize], generator: Generator(seed: 4)) * 0.1
  }

  @Test(arguments: kinds) func statesAndGradientEqualThoseOfWholeRows(kind: String) throws {
    let model = try model(kind)
    let prefix = try TextPrefix(Self.before, model: model)
    #expect(prefix.length == 5)
    func run(_ states: (Tensor) -> Tensor) throws -> (states: Tensor, gradient: Tensor) {
      try withError {
        let x = picture(model)
        x.requiresGrad = true
        let out = states(x)
        (out * .randn(out.shape, generator: Generator(seed: 6))).sum().backward()
        return (out.detached(), try #require(x.grad))
      }
    }
    let whole = try run { x in
      let text = model.embed(Tensor(Self.before)).unsqueezed(0).expanded(2, 5, model.hiddenSize)
      return model.forward(inputsEmbeds: .cat([text, x], 1), attentionMask: nil, cache: nil).slice(1, 5)
    }
    let split = try run { x in
      let seen = Tensor.causal(9).slice(0, 5).unsqueezed(0).expanded(2, 4, 9)
      let positions = Tensor(Array(5..<9) + Array(5..<9), [2, 4])
      return model.forward(
        inputsEmbeds: x, plan: AttentionPlan(seen: seen, positions: positions), prefix: prefix)
    }
    expectClose(split.states, whole.states, relative: 1e-5)
    expectClose(split.gradient, whole.gradient, relative: 1e-5)
  }

  @Test(arguments: kinds, [1, 3]) func generationEqualsThatOfWholeRows(kind: String, beams: Int) throws {
    let model = try model(kind)
    let prefixed = PrefixedLanguageModel(model, prefix: try TextPrefix(Self.before, model: model))
    var options = GenerationOptions()
    (options.maxTokens, options.beams) = (12, beams)
    let x = picture(model)
    let text = model.embed(Tensor(Self.before)).unsqueezed(0).expanded(2, 5, model.hiddenSize)
    let whole = try model.texts(inputsEmbeds: .cat([text, x], 1), options: options)
    // Twice: a generation leaves the prefix as it was.
    for _ in 0..<2 { #expect(try prefixed.texts(inputsEmbeds: x, options: options).map(\.ids) == whole.map(\.ids)) }
    #expect(try model.texts(inputsEmbeds: x, options: options).map(\.ids) != whole.map(\.ids))
  }

  @Test(arguments: kinds) func rowsOfUnequalLengthsGetWhatTheyGetAlone(kind: String) throws {
    let model = try model(kind)
    let prefixed = PrefixedLanguageModel(model, prefix: try TextPrefix(Self.before, model: model))
    var options = GenerationOptions()
    options.maxTokens = 10
    let x = picture(model)
    let padded = Tensor.cat([.zeros([1, 2, model.hiddenSize]), x.narrow(0, 1, 1).slice(1, 2)], 1)
    let both = try prefixed.generate(
      inputsEmbeds: .cat([x.narrow(0, 0, 1), padded], 0),
      attentionMask: Tensor([1, 1, 1, 1, 0, 0, 1, 1] as [Float], [2, 4]),
      options: options)
    #expect(try prefixed.generate(inputsEmbeds: x.narrow(0, 0, 1), options: options)[0] == both[0])
    #expect(try prefixed.generate(inputsEmbeds: x.narrow(0, 1, 1).slice(1, 2), options: options)[0] == both[1])
  }

  @Test func scoredTargetsEqualThoseOfWholeRows() throws {
    let model = try model("llama")
    let prefixed = PrefixedLanguageModel(model, prefix: try TextPrefix(Self.before, model: model))
    let (x, targets) = (picture(model), Tensor([5, 6, 7, 9, 2, 2], [2, 3]))
    let text = model.embed(Tensor(Self.before)).unsqueezed(0).expanded(2, 5, model.hiddenSize)
    expectClose(
      prefixed.targetLogits(inputsEmbeds: x, attentionMask: nil, targets: targets),
      model.targetLogits(inputsEmbeds: .cat([text, x], 1), attentionMask: nil, targets: targets), relative: 1e-5)
  }
}
