import Foundation

/// The `Precompiled` normalizer of `tokenizer.json`: SentencePiece's rules, applied cluster by cluster.
///
/// A grapheme cluster of fewer than six bytes is replaced as a whole by what replaces the shortest key that it starts
/// with; what stands behind that key in the cluster is lost. Longer clusters are replaced scalar by scalar. This is not
/// what SentencePiece itself does, which takes the longest key at each place (`SentencePieceNormalizer`).
struct PrecompiledNormalizer: Sendable {
  /// Clusters of this many bytes or more fall into their scalars.
  private static let longCluster = 6

  private let map: CharacterMap

  init(_ node: JSONNode) throws {
    let node = try node.required("precompiled_charsmap")
    guard let data = Data(base64Encoded: Data(try node.string())) else {
      throw node.failure(expected: "Base64", found: try node.string().quoted)
    }
    do throws(CharacterMap.Failure) {
      map = try CharacterMap([UInt8](data)[...])
    } catch {
      throw node.failure(expected: error.expected, found: error.found)
    }
  }

  /// The normalised form of valid UTF-8.
  func normalized(_ text: UnsafeBufferPointer<UInt8>) -> [UInt8] {
    let clusters = GraphemeClusters.shared
    var result: [UInt8] = []
    result.reserveCapacity(text.count + 16)
    var index = 0
    while index < text.count {
      let byte = text[index]
      // Two ASCII characters in a row are clusters of their own, except for the end of a line.
      if byte < 0x80, byte != 0x0D, index + 1 == text.count || text[index + 1] < 0x80 {
        if !map.hasKeys(startingWith: byte) {
          result.append(byte)
        } else {
          append(text, from: index, to: index + 1, to: &result)
        }
        index += 1
        continue
      }
      let end = clusters.end(in: text, at: index)
      if end - index < Self.longCluster, let match = map.shortestMatch(in: text, from: index, to: end) {
        result.append(contentsOf: match.replacement)
        index = end
      }
      while index < end {
        let next = text.scalar(at: index).next
        append(text, from: index, to: next, to: &result)
        index = next
      }
    }
    return result
  }

  /// How many bytes of the normalised form stand for the first character of the text, which is not empty.
  ///
  /// Characters that are removed at the start leave their place to the next one.
  func startLength(of text: UnsafeBufferPointer<UInt8>) -> Int {
    var index = 0
    while index < text.count {
      let next = text.scalar(at: index).next
      let end = GraphemeClusters.shared.end(in: text, at: index)
      let isShort = end - index < Self.longCluster
      let cluster = isShort ? map.shortestMatch(in: text, from: index, to: end) : nil
      guard let match = cluster ?? map.shortestMatch(in: text, from: index, to: next) else { return 1 }
      if !match.replacement.isEmpty { return cluster == nil || end == next ? match.replacement.count : 1 }
      index = cluster == nil ? next : end
    }
    return 1
  }

  private func append(_ text: UnsafeBufferPointer<UInt8>, from start: Int, to end: Int, to result: inout [UInt8]) {
    if let match = map.shortestMatch(in: text, from: start, to: end) {
      result.append(contentsOf: match.replacement)
    } else {
      result.append(contentsOf: text[start..<end])
    }
  }
}
