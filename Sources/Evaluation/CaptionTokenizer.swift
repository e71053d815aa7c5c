/// Splits captions into words as the COCO caption evaluation does before it scores them.
///
/// That evaluation runs Stanford's Penn Treebank tokenizer (CoreNLP 3.4.1, lower-casing) and then drops a fixed list of
/// punctuation tokens. This is our own scanner for the rules that captions meet: contractions, possessives, hyphenated
/// and slashed words, numbers, abbreviations and initials, brackets, quotes, dashes, ellipses, faces, addresses. At every
/// position the rule that reads furthest (what it looks ahead at included) wins, the earlier rule on a tie.
///
/// Differences that remain: a caption is read alone, whereas the original reads all captions as one stream, so that a
/// single letter with a full stop at the end of a caption keeps it ("b.") whatever the next caption begins with;
/// telephone numbers and HTML attributes are not joined (their parts were separated by spaces anyway).
public enum CaptionTokenizer {
  /// The words of a caption, lower case, without punctuation. Empty for a caption without words.
  public static func words(_ caption: String) -> [String] {
    tokens(caption).filter { !punctuation.contains($0) }
  }

  /// All tokens of a caption, lower case, punctuation included.
  public static func tokens(_ caption: String) -> [String] {
    var scanner = CaptionScanner(caption)
    return scanner.scan()
  }

  /// The tokens that the COCO evaluation removes. Its list names `-LRB-` and its kin in capitals, while the tokens
  /// arrive in lower case: brackets therefore stay, here too, so that scores agree.
  static let punctuation: Set<String> = [
    "''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", ".", "?", "!", ",", ":", "-", "--", "...", ";",
  ]
}
