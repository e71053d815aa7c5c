public import Foundation

/// How text is generated.
public struct GenerationOptions: Sendable, Equatable, Codable {
  /// The largest number of new tokens.
  public var maxTokens = 30
  /// No end before this many new tokens.
  public var minTokens = 1
  /// Beams; 1 for none. Exclusive with a temperature. Nil leaves it to what the model is used by, where that has a number;
  /// else it is 1.
  public var beams: Int?
  /// 0 takes the likeliest token, more samples.
  public var temperature = 0.0
  /// Samples among this many likeliest tokens; 0 for all.
  public var topK = 0
  /// Samples among the likeliest tokens that hold this much probability.
  public var topP = 1.0
  /// Divides the positive logits, and multiplies the negative ones, of tokens that are there already (Keskar et al.,
  /// arXiv 1909.05858).
  public var repetitionPenalty = 1.0
  /// Beams are ranked by log-probability over length to this power.
  public var lengthPenalty = 1.0
  /// Ends the beams of a text as soon as as many are finished, and not when no better one can come.
  public var earlyStopping = false
  /// Tokens that end a text.
  public var endIDs: [Int] = []
  /// Row i of a batch draws from the seed plus i, so that a row does not depend on its neighbours.
  public var seed: UInt64 = 0

  /// Greedy, at most 30 tokens, no end.
  public init() {}

  /// Decodes what is there; fields left out take the values above.
  public init(from decoder: any Decoder) throws {
    let fields = try decoder.container(keyedBy: CodingKeys.self)
    maxTokens = try fields.value(.maxTokens, default: maxTokens)
    minTokens = try fields.value(.minTokens, default: minTokens)
    beams = try fields.decodeIfPresent(Int.self, forKey: .beams)
    temperature = try fields.value(.temperature, default: temperature)
    topK = try fields.value(.topK, default: topK)
    topP = try fields.value(.topP, default: topP)
    repetitionPenalty = try fields.value(.repetitionPenalty, default: repetitionPenalty)
    lengthPenalty = try fields.value(.lengthPenalty, default: lengthPenalty)
    earlyStopping = try fields.value(.earlyStopping, default: earlyStopping)
    endIDs = try fields.value(.endIDs, default: endIDs)
    seed = try fields.value(.seed, default: seed)
  }

  /// Throws what makes no sense.
  func validate(vocabulary: Int) throws {
    func require(_ holds: Bool, _ name: String, _ found: any CustomStringConvertible, _ expected: String) throws {
      if !holds { throw GenerationError.option(name: name, found: "\(found)", expected: expected) }
    }
    try require((1...1_000_000).contains(maxTokens), "maxTokens", maxTokens, "1 … 1000000")
    try require((0...maxTokens).contains(minTokens), "minTokens", minTokens, "0 … maxTokens")
    let beams = beams ?? 1
    try require((1...64).contains(beams), "beams", beams, "1 … 64")
    try require(endIDs.count <= 1_024, "endIDs", "\(endIDs.count) numbers", "1024 at most")
    let kept = beams * max(2, endIDs.count + 1)
    try require(beams == 1 || kept <= vocabulary, "beams", beams, "fewer for a vocabulary of \(vocabulary)")
    try require(temperature >= 0 && temperature.isFinite, "temperature", temperature, "0 or more")
    try require(beams == 1 || temperature == 0, "temperature", temperature, "0 with beams")
    try require(topK >= 0, "topK", topK, "0 or more")
    try require(topP > 0 && topP <= 1, "topP", topP, "above 0, at most 1")
    try require(
      repetitionPenalty > 0 && repetitionPenalty.isFinite, "repetitionPenalty", repetitionPenalty, "more than 0")
    try require(lengthPenalty.isFinite, "lengthPenalty", lengthPenalty, "a number")
    for id in endIDs { try require((0..<vocabulary).contains(id), "endIDs", id, "0 ..< \(vocabulary)") }
  }
}

/// Ends a text by its words: the tokens are decoded as they come.
public struct TextStop: Sendable {
  /// A text ends with the token that completes one of these.
  public let strings: [String]
  /// The text of new tokens.
  public let decode: @Sendable (_ ids: [Int]) -> String

  /// Makes a rule.
  ///
  /// - Parameters:
  ///   - strings: Texts that end a text; empty ones are left out.
  ///   - decode: The text of new tokens.
  public init(_ strings: [String], decode: @escaping @Sendable (_ ids: [Int]) -> String) {
    self.strings = strings.filter { !$0.isEmpty }
    self.decode = decode
  }

  /// Whether the text of these tokens holds one of the strings.
  func ends(_ ids: [Int]) -> Bool {
    guard !strings.isEmpty else { return false }
    let text = decode(ids)
    return strings.contains { text.contains($0) }
  }
}

/// One generated text.
public struct GeneratedText: Sendable, Equatable {
  /// Why a text ended.
  public enum Ending: String, Sendable, Equatable, Codable {
    /// One of ``GenerationOptions/endIDs`` came.
    case endToken
    /// A string of ``TextStop`` was completed.
    case stopString
    /// As many tokens as were allowed.
    case length
  }

  /// The new tokens, the end token included when it was reached.
  public let ids: [Int]
  /// Why it ended.
  public let ending: Ending
  /// With beams: the sum of log-probabilities over length to the power of the length penalty.
  public let score: Double?
}

/// What generation cannot do.
public enum GenerationError: Error, Sendable, Equatable, CustomStringConvertible, LocalizedError {
  /// An option has a value that makes no sense.
  case option(name: String, found: String, expected: String)
  /// A prompt holds no tokens, or one that the model does not know.
  case prompt(row: Int, reason: String)

  /// One line.
  public var description: String {
    switch self {
    case .option(let name, let found, let expected): "\(name): expected \(expected), found \(found)"
    case .prompt(let row, let reason): "prompt \(row): \(reason)"
    }
  }

  /// The same words as ``description``.
  public var errorDescription: String? { description }
}
