import Foundation
import Media

/// Pieces of the pages that are written.
enum Markup {
  /// Text as it stands in a page, and in an attribute between double quotes.
  static func escaped(_ text: String) -> String {
    text.replacingOccurrences(of: "&", with: "&amp;").replacingOccurrences(of: "<", with: "&lt;")
      .replacingOccurrences(of: ">", with: "&gt;").replacingOccurrences(of: "\"", with: "&quot;")
  }

  /// A picture inside the page.
  ///
  /// - Throws: `MediaError` when it cannot be encoded.
  static func image(_ image: Image, _ words: String) throws -> String {
    let data = try image.jpegData(quality: 85).base64EncodedString()
    return "<img src=\"data:image/jpeg;base64,\(data)\" alt=\"\(escaped(words))\">"
  }

  /// A number with so many digits behind the point.
  static func number(_ value: Double, _ digits: Int) -> String { String(format: "%.\(digits)f", value) }
}
