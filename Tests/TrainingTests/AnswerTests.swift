import Backbones
import Foundation
import Pipelines
import QFormer
import TestSupport
import Testing
import Torch

@testable import Training

@Suite("Questions answered by likelihood")
struct AnswerTests {
  /// As many questions as fill more than one row, of answers of unequal length.
  private let questions = [
    [
      Question(
        question: "what comes first?", answer: "red", choices: ["red", "green", "a white dog on blue"], task: "order")
    ],
    (0..<6).map { index in
      Question(
        question: "how many \(index)?", answer: "two", choices: ["one", "two", "a number \(index)"], task: "count")
    },
  ]

  @Test("The score of a choice is the mean log-likelihood of its tokens and the end token", arguments: [false, true])
  func likelihood(hasTemplate: Bool) throws {
    try withTemporaryFolder { folder in
      let models = try TinyModels(in: folder)
      let template = hasTemplate ? try PromptTemplate("a dog => red\n{image} => {text}\n") : nil
      let language = try LanguageModel(folder: models.frozen("smollm2-135m-instruct"), template: template)
      let causal = try #require(language.model.causal)
      let tokens = Tensor.randn([2, 4, TinyModels.languageWidth], generator: Generator(seed: 1))
      let found = try AnswerEvaluation.scores(language, tokens: SeenTokens(tokens), questions: questions)
      #expect(found.map { $0.map(\.count) } == questions.map { $0.map(\.choices.count) })

      // One choice at a time, in a row of its own, as `ask` would read it.
      let before = template.map { language.ids($0.before) } ?? []
      for (row, list) in questions.enumerated() {
        for (index, question) in list.enumerated() {
          for (choice, text) in question.choices.enumerated() {
            let prompt = language.promptIDs("Question: \(question.question) Answer:")
            let answer = language.ids(" " + text) + [language.endIDs[0]]
            let value = withNoGrad {
              var parts = before.isEmpty ? [] : [causal.embed(Tensor(before)).unsqueezed(0)]
              parts.append(tokens.narrow(0, row, 1))
              parts.append(causal.embed(Tensor(prompt + answer.dropLast())).unsqueezed(0))
              let hidden = causal.forward(inputsEmbeds: .cat(parts, 1), attentionMask: nil)
              let start = before.count + 4 + prompt.count - 1
              let logs = causal.head(hidden.select(0, 0).slice(0, start)).logSoftmax()
              return answer.indices.reduce(0.0) { $0 + logs.select(0, $1).select(0, answer[$1]).item }
            }
            let expected = value / Double(answer.count)
            #expect(abs(found[row][index][choice] - expected) < 1e-4 * abs(expected), "\(row) \(index) \(text)")
          }
        }
      }
      let best = try AnswerEvaluation.choices(language, tokens: SeenTokens(tokens), questions: questions)
      for (row, list) in found.enumerated() {
        for (index, scores) in list.enumerated() { #expect(scores[best[row][index]] == scores.max()) }
      }
    }
  }

  @Test("Numbers by kind, in percent, under names for the metrics")
  func numbers() {
    let evaluation = AnswerEvaluation(tasks: [
      .init(task: "all", questions: 6, accuracy: 0.5, blind: 0.25, chance: 0.375),
      .init(task: "order", questions: 4, accuracy: 0.75, blind: nil, chance: 0.5),
    ])
    let metrics = evaluation.metrics as NSDictionary
    #expect(
      metrics == [
        "qa.all": 50.0, "qa.all.blind": 25.0, "qa.all.chance": 37.5, "qa.all.questions": 6, "qa.order": 75.0,
        "qa.order.chance": 50.0, "qa.order.questions": 4,
      ])
    #expect(
      evaluation.lines == ["all 50.0 blind 25.0 chance 37.5 (6 questions)", "order 75.0 chance 50.0 (4 questions)"])
  }
}
