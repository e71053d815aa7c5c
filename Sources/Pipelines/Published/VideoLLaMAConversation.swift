/// What Video-LLaMA's language models read around the tokens of a clip (arXiv 2306.02858; `DAMO-NLP-SG/Video-LLaMA`).
///
/// The begin token and ``before`` stand first, then the tokens of the sound, those of the frames, ``between``, when the
/// frames were taken, the question, and ``closing``.
public enum VideoLLaMAConversation: String, Codable, Sendable, CaseIterable {
  /// `###Human: <Video>…</Video> … ###Assistant:`.
  case vicuna
  /// `[INST] <Video>…</Video> … [/INST]`.
  case llama2 = "llama-2"

  /// What stands before the clip.
  public var before: String {
    switch self {
    case .vicuna: "###Human: <Video>"
    case .llama2: "[INST] <Video>"
    }
  }

  /// What stands between the clip and the words about it.
  public var between: String { "</Video> " }

  /// What stands between the question and the answer.
  public var closing: String {
    switch self {
    case .vicuna: "###Assistant:"
    case .llama2: " [/INST]"
    }
  }

  /// Strings that end an answer, beside the model's end token.
  public var stops: [String] {
    switch self {
    case .vicuna: ["###"]
    case .llama2: []
    }
  }

  /// What is asked where nothing else is.
  static let request = "Describe this video."

  /// When the frames were taken.
  ///
  /// - Parameter seconds: Of each frame, from the start of the video.
  static func times(_ seconds: [Double]) -> String {
    let list = seconds.map { oneDecimal($0) }.joined(separator: ", ")
    return "The video contains \(seconds.count) frames sampled at \(list) seconds. "
  }

  /// A number with one digit after the point.
  private static func oneDecimal(_ value: Double) -> String {
    let tenths = Int((max(0, value) * 10).rounded(.toNearestOrEven))
    return "\(tenths / 10).\(tenths % 10)"
  }
}
