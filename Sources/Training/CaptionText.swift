import Foundation

/// How captions are written before a language model learns them.
enum CaptionText {
  /// Without double spaces, spaces before punctuation, and a final full stop, which tells nothing.
  static func cleaned(_ caption: String) -> String {
    var text = caption.split(whereSeparator: \.isWhitespace).joined(separator: " ")
    for mark in [".", ",", "!", "?", ";", ":", "'"] { text = text.replacingOccurrences(of: " \(mark)", with: mark) }
    while text.hasSuffix(".") || text.hasSuffix(" ") { text.removeLast() }
    return text.isEmpty ? caption : text
  }
}
