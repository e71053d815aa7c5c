import Backbones
import Foundation
import Pipelines
import QFormer
import Torch

/// Captions and questions as texts that a frozen language model is scored on behind the tokens of a picture or a clip.
enum LanguageTexts {
  /// What is scored of a caption: its tokens, cut to a number, and the end token.
  static func caption(_ caption: String, _ language: LanguageModel, maximum: Int) -> SharedPrefix.Text {
    SharedPrefix.Text(target: language.targetIDs(CaptionText.cleaned(caption), maximum: maximum))
  }

  /// A question and an answer to it, as `ask` puts the question: the answer's tokens and the end token are scored.
  static func answer(_ answer: String, to question: Question, _ language: LanguageModel) -> SharedPrefix.Text {
    let prompt = language.promptIDs(QuestionTemplate.questionAnswer.prompt(question.question))
    return SharedPrefix.Text(
      prompt: Array(prompt.dropFirst(language.openingIDs.count)),
      target: language.ids(" " + answer) + language.endIDs.prefix(1))
  }

  /// Questions need a model that reads them behind the picture.
  ///
  /// - Throws: ``TrainingError/badRecipe(file:reason:)``.
  static func requireQuestions(_ language: LanguageModel, _ name: String) throws {
    guard language.model.causal != nil else {
      throw TrainingError.badRecipe(
        file: "recipe", reason: "\(name) is no decoder-only model: questions are learnt and scored with those alone")
    }
  }

  /// Logits where texts are scored.
  ///
  /// The model reads [tokens][opening][text], each text behind the same tokens, which are computed once for all of them.
  ///
  /// - Parameters:
  ///   - tokens: `[B, M, d_llm]`, of which the first may not exist.
  ///   - texts: For each row its texts; without prompts for a model with an encoder.
  /// - Returns: `[K, vocabulary]`, the `int64 [K]` that they should predict, and how many there are of each text.
  static func logits(
    _ language: LanguageModel, tokens seen: SeenTokens, texts: [[SharedPrefix.Text]]
  ) -> (logits: Tensor, targets: Tensor, counts: [Int]) {
    let tokens = seen.tokens
    let opening = language.openingIDs
    guard let causal = language.model.causal, let begin = opening.last else {
      return encoderDecoderLogits(language.model, tokens: seen, texts: texts)
    }
    let (batch, shared) = (tokens.size(0), opening.dropLast())
    let prefix =
      shared.isEmpty
      ? tokens
      : .cat(
        [tokens, causal.embed(Tensor(Array(shared))).unsqueezed(0).expanded(batch, shared.count, tokens.size(2))], 1)
    let rows = SharedPrefix(
      texts: texts, prefix: prefix.size(1), begin: begin, past: language.prefix?.length ?? 0,
      absent: seen.absent)
    let embeds = Tensor.cat([prefix, causal.embed(rows.ids)], 1)
    let hidden = causal.forward(inputsEmbeds: embeds, plan: rows.plan, prefix: language.prefix)
      .slice(1, prefix.size(1))
    // Logits only where a token is scored: the head is a fifth of the model's work.
    let logits = causal.head(hidden.reshaped(-1, hidden.size(2)).indexSelect(0, rows.scored))
    return (logits, rows.targets, rows.counts)
  }

  /// The same for a model that reads the tokens in its encoder: one row for each text.
  private static func encoderDecoderLogits(
    _ model: LanguageTower, tokens seen: SeenTokens, texts: [[SharedPrefix.Text]]
  ) -> (logits: Tensor, targets: Tensor, counts: [Int]) {
    let owners = texts.indices.flatMap { Array(repeating: $0, count: texts[$0].count) }
    let flat = texts.flatMap { $0.map(\.target) }
    let padded = TextEncoder.pad(flat)
    let count = seen.tokens.size(1)
    let exists = seen.absent.flatMap { absent in (0..<count).map { Float($0 < absent ? 0 : 1) } }
    let mask = exists.contains(0) ? Tensor(exists, [seen.absent.count, count]) : nil
    let logits = model.targetLogits(
      inputsEmbeds: seen.tokens.indexSelect(0, Tensor(owners)), attentionMask: mask?.indexSelect(0, Tensor(owners)),
      targets: padded.ids)  // [K, L, V]
    let length = padded.ids.size(1)
    let scored = Tensor(flat.enumerated().flatMap { row, text in text.indices.map { row * length + $0 } })
    return (
      logits.reshaped(-1, logits.size(2)).indexSelect(0, scored), padded.ids.reshaped(-1).indexSelect(0, scored),
      flat.map(\.count)
    )
  }

  /// The mean log-likelihood of the scored tokens of each text, in order.
  ///
  /// - Parameters: As in ``logits(_:tokens:texts:)``.
  static func meanLogLikelihoods(
    _ language: LanguageModel, tokens: SeenTokens, texts: [[SharedPrefix.Text]]
  ) -> [Double] {
    let (logits, targets, counts) = logits(language, tokens: tokens, texts: texts)
    let values = logits.logSoftmax().gather(1, targets.unsqueezed(1)).flattened().values(as: Float.self)
    var start = 0
    return counts.map { count in
      defer { start += count }
      return values.dropFirst(start).prefix(count).reduce(0) { $0 + Double($1) } / Double(count)
    }
  }
}
