import Foundation

/// What a language model reads around the picture and the text: `… {image} … {text} …`.
///
/// A frozen language model continues what it is shown. Words before the picture, examples for instance, tell it what the
/// picture's tokens are for; they are the same for all pictures and are read once. A space before `{text}` belongs to the
/// text's first token, as the byte-level tokenizers have it.
public struct PromptTemplate: Codable, Sendable, Equatable {
  /// The whole template.
  public let pattern: String
  /// What stands before the picture; may be empty.
  public let before: String
  /// What stands between picture and text, without a last space; not empty.
  public let between: String
  /// What the text begins with: a space or nothing.
  public let lead: String
  /// What ends a text: a single token of the language model, or empty for its own end token.
  public let end: String

  /// Takes a template apart.
  ///
  /// - Throws: ``PipelineError/badInput(_:)`` when `{image}` and `{text}` do not stand in it once each, in this order, with
  ///   something between them.
  public init(_ pattern: String) throws {
    func bad(_ found: String) -> PipelineError {
      .badInput("template: expected … {image} … {text} …, each once and words between them; found \(found)")
    }
    let aroundImage = pattern.components(separatedBy: "{image}")
    guard aroundImage.count == 2 else { throw bad("{image} \(aroundImage.count - 1) times") }
    let aroundText = aroundImage[1].components(separatedBy: "{text}")
    guard aroundText.count == 2, !aroundImage[0].contains("{text}") else {
      throw bad("{text} \(pattern.components(separatedBy: "{text}").count - 1) times, or before {image}")
    }
    self.pattern = pattern
    before = aroundImage[0]
    lead = aroundText[0].hasSuffix(" ") ? " " : ""
    between = String(aroundText[0].dropLast(lead.count))
    end = aroundText[1]
    guard !between.isEmpty else { throw bad("nothing between them") }
  }

  /// Decodes the template as one string; throws a `DecodingError` that says what is wrong with it.
  public init(from decoder: any Decoder) throws {
    let container = try decoder.singleValueContainer()
    do {
      try self.init(container.decode(String.self))
    } catch let error as PipelineError {
      throw DecodingError.dataCorruptedError(in: container, debugDescription: "\(error)")
    }
  }

  /// Encodes the template as one string.
  public func encode(to encoder: any Encoder) throws {
    var container = encoder.singleValueContainer()
    try container.encode(pattern)
  }
}
