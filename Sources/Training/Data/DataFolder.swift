import Foundation

/// What the readers of data sets share.
enum DataFolder {
  /// Whether a path is a folder; nil if there is nothing.
  static func isFolder(_ path: String) -> Bool? {
    var isFolder: ObjCBool = false
    return FileManager.default.fileExists(atPath: path, isDirectory: &isFolder) ? isFolder.boolValue : nil
  }

  /// The names in a folder, sorted, so that no file system's order shows.
  static func names(_ path: String) throws(DataError) -> [String] {
    do {
      return try FileManager.default.contentsOfDirectory(atPath: path).sorted()
    } catch {
      throw .unreadable(path: path, reason: "the folder cannot be listed")
    }
  }

  /// The lines of a text file, without what ends them.
  static func lines(_ path: String, limit: Int = 512 << 20) throws(DataError) -> [Substring] {
    let data = try DataLocation(path: path).read(limit: limit)
    guard let text = String(validating: data, as: UTF8.self) else {
      throw .malformed(path: path, place: "text", expected: "UTF-8", found: "other bytes")
    }
    var lines = text.split(omittingEmptySubsequences: false, whereSeparator: \.isNewline)
    if let first = lines.first, first.unicodeScalars.first == "\u{FEFF}" {
      lines[0] = Substring(String(String.UnicodeScalarView(first.unicodeScalars.dropFirst())))
    }
    if lines.last?.isEmpty == true { lines.removeLast() }
    return lines
  }

  /// What a decoder found wrong, in a few words.
  static func reason(_ error: any Error) -> String {
    guard let error = error as? DecodingError else { return "something else" }
    func place(_ path: [any CodingKey]) -> String { path.map(\.stringValue).joined(separator: ".") }
    switch error {
    case .typeMismatch(let type, let context): return "'\(place(context.codingPath))' that is no \(type)"
    case .valueNotFound(_, let context): return "'\(place(context.codingPath))' without a value"
    case .keyNotFound(let key, _): return "no '\(key.stringValue)'"
    case .dataCorrupted: return "no valid JSON"
    @unknown default: return "something else"
    }
  }
}
