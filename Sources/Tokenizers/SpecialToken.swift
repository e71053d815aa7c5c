/// Tokens with a role that a tokenizer's files name.
public enum SpecialToken: String, CaseIterable, Sendable {
  /// What starts a text.
  case beginning = "bos_token"
  /// What ends a text.
  case end = "eos_token"
  /// What stands for characters without a token.
  case unknown = "unk_token"
  /// What parts two texts.
  case separator = "sep_token"
  /// What fills short texts up in a batch.
  case padding = "pad_token"
  /// What stands in front of a text to be classified.
  case classification = "cls_token"
  /// What hides a word.
  case mask = "mask_token"
}
