import Backbones
import Foundation
import TestSupport
import Testing
import Torch
import TorchNN

@testable import Training

/// Several captions behind one image must cost less and change nothing.
@Suite struct SharedPrefixTests {
  private func tinyLlama() throws -> Llama {
    let json = """
      {"model_type": "llama", "vocab_size": 37, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 3,
       "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
       "tie_word_embeddings": true, "hidden_act": "silu", "max_position_embeddings": 128, "eos_token_id": 2}
      """
    let configuration = try JSONDecoder().decode(LlamaConfiguration.self, from: Data(json.utf8))
    return Llama(configuration, ParameterScope(FreshParameters(seed: 3)))
  }

  /// Texts that are scored from their first token on.
  private func captions(_ texts: [[[Int]]]) -> [[SharedPrefix.Text]] {
    texts.map { $0.map { SharedPrefix.Text(target: $0) } }
  }

  @Test func aPromptIsReadAndNotScored() throws {
    let whole = SharedPrefix(texts: captions([[[5, 6, 7, 2], [9, 2]], [[8, 4, 2]]]), prefix: 5, begin: 1)
    let split = SharedPrefix(
      texts: [
        [.init(prompt: [5, 6], target: [7, 2]), .init(target: [9, 2])], [.init(prompt: [8], target: [4, 2])],
      ],
      prefix: 5, begin: 1)
    #expect(split.ids.values(as: Int.self) == whole.ids.values())
    #expect(split.plan.mask?.values(as: Float.self) == whole.plan.mask?.values())
    #expect(split.scored.values(as: Int.self) == [2, 3, 4, 5, 7, 8])
    #expect(split.targets.values(as: Int.self) == [7, 2, 9, 2, 4, 2])
    #expect(split.counts == [2, 2, 2] && whole.counts == [4, 2, 3])
  }

  @Test func lossAndGradientEqualThoseOfSeparateRows() throws {
    let model = try tinyLlama()
    let texts = [[[5, 6, 7, 2], [9, 2], [11, 12, 13, 14, 15, 2]], [[21, 22, 2]]]
    let values = Tensor.randn([2, 5, 24], generator: Generator(seed: 4))
    func run(_ loss: (Tensor) -> Tensor) throws -> (loss: Double, gradient: Tensor) {
      try withError {
        let prefix = values.cloned()
        prefix.requiresGrad = true
        let value = loss(prefix)
        value.backward()
        return (value.item, try #require(prefix.grad))
      }
    }
    let shared = try run { prefix in
      let batch = SharedPrefix(texts: captions(texts), prefix: 5, begin: 1)
      let hidden = model.forward(
        inputsEmbeds: .cat([prefix, model.embed(batch.ids)], 1), plan: batch.plan
      ).slice(1, 5)
      return model.head(hidden.reshaped(-1, 24).indexSelect(0, batch.scored)).crossEntropy(batch.targets)
    }
    // One row for each text, alone, causal.
    let separate = try run { prefix in
      var logits: [Tensor] = []
      var targets: [Int] = []
      for (row, list) in texts.enumerated() {
        for text in list {
          let words = model.embed(Tensor([1] + text.dropLast(), [1, text.count]))
          let hidden = model.forward(inputsEmbeds: .cat([prefix.narrow(0, row, 1), words], 1), attentionMask: nil)
          logits.append(model.head(hidden.slice(1, 5).reshaped(-1, 24)))
          targets += text
        }
      }
      return Tensor.cat(logits, 0).crossEntropy(Tensor(targets))
    }
    #expect(abs(shared.loss - separate.loss) < 1e-6 * separate.loss)
    expectClose(shared.gradient, separate.gradient, relative: 1e-5, "gradient of the prefix")
  }

  @Test func aTextBeforeThePrefixIsSeenByAll() throws {
    let model = try tinyLlama()
    let before = [17, 4, 30]
    let past = try TextPrefix(before, model: model)
    let prefix = Tensor.randn([2, 5, 24], generator: Generator(seed: 4))
    let texts = [[[5, 6, 7, 2], [9, 2]], [[21, 22, 2]]]
    func loss(_ batch: SharedPrefix, _ embeds: Tensor, _ start: Int, _ past: TextPrefix?) -> Tensor {
      let hidden = model.forward(
        inputsEmbeds: .cat([embeds, model.embed(batch.ids)], 1), plan: batch.plan, prefix: past
      ).slice(1, start)
      return model.head(hidden.reshaped(-1, 24).indexSelect(0, batch.scored)).crossEntropy(batch.targets)
    }
    let (split, whole) = try withError {
      withNoGrad {
        let text = model.embed(Tensor(before)).unsqueezed(0).expanded(2, 3, 24)
        return (
          loss(SharedPrefix(texts: captions(texts), prefix: 5, begin: 1, past: 3), prefix, 5, past),
          loss(SharedPrefix(texts: captions(texts), prefix: 8, begin: 1), .cat([text, prefix], 1), 8, nil)
        )
      }
    }
    #expect(abs(split.item - whole.item) < 1e-5 * whole.item)
  }

  /// A row whose first tokens do not exist reads what it would read without them.
  @Test func absentTokensAreNotThere() throws {
    let model = try tinyLlama()
    let past = try TextPrefix([17, 4, 30], model: model)
    let prefix = Tensor.randn([2, 5, 24], generator: Generator(seed: 4))
    let texts = [[[5, 6, 7, 2], [9, 2]], [[21, 22, 2]]]
    func hidden(_ batch: SharedPrefix, _ embeds: Tensor) -> Tensor {
      model.forward(inputsEmbeds: .cat([embeds, model.embed(batch.ids)], 1), plan: batch.plan, prefix: past)
        .slice(1, embeds.size(1)).reshaped(-1, 24).indexSelect(0, batch.scored)
    }
    try withError {
      withNoGrad {
        let whole = hidden(
          SharedPrefix(texts: captions(texts), prefix: 5, begin: 1, past: 3, absent: [0, 2]), prefix)
        let first = hidden(
          SharedPrefix(texts: captions([texts[0]]), prefix: 5, begin: 1, past: 3), prefix.narrow(0, 0, 1))
        let second = hidden(
          SharedPrefix(texts: captions([texts[1]]), prefix: 3, begin: 1, past: 3),
          prefix.narrow(0, 1, 1).slice(1, 2))
        expectClose(whole, .cat([first, second], 0), "rows alone, without what does not exist")
      }
    }
  }

  @Test func textsOfOneRowDoNotSeeEachOther() throws {
    let model = try tinyLlama()
    let prefix = Tensor.randn([1, 5, 24], generator: Generator(seed: 5))
    func hidden(_ first: [Int]) throws -> Tensor {
      try withError {
        withNoGrad {
          let batch = SharedPrefix(texts: captions([[first, [9, 10, 2]]]), prefix: 5, begin: 1)
          return model.forward(inputsEmbeds: .cat([prefix, model.embed(batch.ids)], 1), plan: batch.plan)
            .slice(1, 5 + first.count)
        }
      }
    }
    expectClose(try hidden([5, 6, 7, 2]), try hidden([15, 16, 17, 2]), relative: 1e-6)
  }
}
