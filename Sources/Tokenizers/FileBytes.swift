import Foundation

/// Reads whole files, not larger than a limit.
enum FileBytes {
  /// Larger files are refused before they are read.
  private static let sizeLimit = 1 << 30

  static func read(_ url: URL) throws -> [UInt8] {
    let file = url.path
    func failure(_ expected: String, _ found: String) -> TokenizerError {
      TokenizerError(file: file, keyPath: "", expected: expected, found: found)
    }
    do {
      let attributes = try FileManager.default.attributesOfItem(atPath: url.resolvingSymlinksInPath().path)
      guard attributes[.type] as? FileAttributeType == .typeRegular else {
        throw failure("a regular file", "something else")
      }
      let size = (attributes[.size] as? NSNumber)?.intValue ?? 0
      guard size <= sizeLimit else { throw failure("at most \(sizeLimit) bytes", "\(size) bytes") }
      return [UInt8](try Data(contentsOf: url))
    } catch let error as TokenizerError {
      throw error
    } catch {
      throw failure("a readable file", (error as NSError).localizedDescription)
    }
  }

  /// The lines of a text file, without their ends; an empty last line is none.
  static func lines(_ url: URL) throws -> [[UInt8]] {
    let bytes = try read(url)
    guard String(validating: bytes, as: UTF8.self) != nil else {
      throw TokenizerError(file: url.path, keyPath: "", expected: "UTF-8 text", found: "other bytes")
    }
    var lines = bytes.split(separator: 0x0A, omittingEmptySubsequences: false).map { line in
      Array(line.last == 0x0D ? line.dropLast() : line)
    }
    if lines.last?.isEmpty == true { lines.removeLast() }
    return lines
  }
}
