/// A question about a picture or a clip, with the answers to choose from.
public struct Question: Codable, Sendable, Equatable {
  /// The question.
  public let question: String
  /// The right answer, one of the choices.
  public let answer: String
  /// What can be answered; at least two, no two alike.
  public let choices: [String]
  /// The kind of question; accuracy is reported for each kind.
  public let task: String

  /// Makes a question.
  public init(question: String, answer: String, choices: [String], task: String) {
    self.question = question
    self.answer = answer
    self.choices = choices
    self.task = task
  }

  /// What is wrong with it, as (expected, found).
  var objection: (expected: String, found: String)? {
    func quoted(_ texts: [String]) -> String { texts.map { "'\($0)'" }.joined(separator: ", ") }
    for (name, text) in [("question", question), ("answer", answer), ("task", task)]
    where text.allSatisfy(\.isWhitespace) { return ("'\(name)' with words", "an empty one") }
    guard choices.count >= 2 else { return ("at least two choices for '\(question)'", "\(choices.count)") }
    guard Set(choices).count == choices.count else {
      return ("different choices for '\(question)'", quoted(choices))
    }
    guard choices.contains(answer) else {
      return ("'\(answer)', the answer to '\(question)', among the choices", quoted(choices))
    }
    return nil
  }
}
