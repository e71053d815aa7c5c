/// The unigram language model: of all ways to cut a word into pieces, the one with the highest sum of scores.
///
/// Kudo, "Subword Regularization: Improving Neural Network Translation Models with Multiple Subword Candidates",
/// ACL 2018. Time is proportional to the length of the word and to that of the longest piece.
struct UnigramModel: Sendable {
  /// What an unknown character costs more than the worst piece.
  private static let unknownPenalty = 10.0

  let vocabulary: Vocabulary
  private let trie: PieceTrie
  private let scores: [Double]  // of each id
  private let unknown: Int
  private let unknownScore: Double
  private let byteIDs: [Int]  // of `<0x00>` to `<0xFF>`, -1 when missing; empty without byte fallback
  /// SentencePiece keeps sums in single precision, and spells every unknown character of a run by itself.
  private let isSentencePiece: Bool

  /// Reads `model` of a `tokenizer.json`.
  init(_ node: JSONNode) throws {
    let elements = try node.required("vocab").elements()
    var tokens: [[UInt8]] = []
    var scores: [Double] = []
    tokens.reserveCapacity(elements.count)
    scores.reserveCapacity(elements.count)
    for element in elements {
      let pair = try element.elements()
      guard pair.count == 2 else { throw element.failure(expected: "[piece, score]") }
      tokens.append(try pair[0].string())
      scores.append(try pair[1].number())
    }
    vocabulary = try Vocabulary(tokens) { index, first in
      elements[index].failure(expected: "another piece than that of [\(first)]", found: tokens[index].quoted)
    }
    let unknownNode = try node.required("unk_id")
    unknown = try unknownNode.count()
    guard unknown < tokens.count else {
      throw unknownNode.failure(expected: "an id below the \(tokens.count) of the vocabulary")
    }
    byteIDs = try node.bool("byte_fallback", default: false) ? Self.byteIDs(vocabulary) : []
    trie = PieceTrie(tokens.enumerated().filter { !$0.element.isEmpty }.map { ($0.element, UInt32($0.offset)) })
    self.scores = scores
    unknownScore = (scores.min() ?? 0) - Self.unknownPenalty
    isSentencePiece = false
  }

  /// Takes the pieces of a SentencePiece file.
  init(_ file: SentencePieceFile) throws {
    vocabulary = try Vocabulary(file)
    unknown = file.unknownID
    byteIDs = file.usesByteFallback ? Self.byteIDs(vocabulary) : []
    let normal = file.pieces.filter { $0.kind == .normal }.map(\.score)
    let highest = normal.max() ?? 0
    scores = file.pieces.map { piece in
      guard piece.kind == .userDefined else { return Double(piece.score) }
      // A user-defined symbol wins over all pieces that it could be cut into.
      return Double(Float(piece.text.count) * highest) - 0.1
    }
    unknownScore = Double((normal.min() ?? 0) - Float(Self.unknownPenalty))
    let usable = file.pieces.enumerated().filter { $0.element.kind == .normal || $0.element.kind == .userDefined }
    trie = PieceTrie(usable.map { ($0.element.text, UInt32($0.offset)) })
    isSentencePiece = true
  }

  private static func byteIDs(_ vocabulary: Vocabulary) -> [Int] {
    (0..<256).map { vocabulary.id(of: ByteTokens.token(of: UInt8($0))) ?? -1 }
  }

  /// Working memory for words, kept from one to the next.
  struct Scratch {
    fileprivate var sums: [Double] = []  // of the best way to each place
    fileprivate var starts: [Int32] = []  // of its last piece, -1 for none
    fileprivate var ids: [UInt32] = []  // of its last piece
  }

  /// Appends the ids of one word (valid UTF-8, less than 2³¹ bytes).
  func append(_ word: UnsafeBufferPointer<UInt8>, to ids: inout [Int], _ scratch: inout Scratch) {
    findBestPath(word, &scratch)
    let first = ids.count
    var end = word.count
    while end > 0 {
      var start = Int(scratch.starts[end])
      let id = Int(scratch.ids[end])
      guard id == unknown else {
        ids.append(id)
        end = start
        continue
      }
      while start > 0, Int(scratch.ids[start]) == unknown { start = Int(scratch.starts[start]) }
      appendUnknown(UnsafeBufferPointer(rebasing: word[start..<end]), to: &ids)
      end = start
    }
    ids[first...].reverse()
  }

  private func findBestPath(_ word: UnsafeBufferPointer<UInt8>, _ scratch: inout Scratch) {
    let count = word.count + 1
    scratch.sums.removeAll(keepingCapacity: true)
    scratch.starts.removeAll(keepingCapacity: true)
    scratch.sums.append(contentsOf: repeatElement(0, count: count))
    scratch.starts.append(contentsOf: repeatElement(-1, count: count))
    if scratch.ids.count < count { scratch.ids.append(contentsOf: repeatElement(0, count: count - scratch.ids.count)) }
    var start = 0
    while start < word.count {
      let sum = scratch.sums[start]
      let next = word.scalar(at: start).next
      var hasCharacter = false
      trie.forEachPrefix(of: word, at: start) { length, id in
        let end = start + length
        if end == next { hasCharacter = true }
        let candidate = rounded(scores[Int(id)] + sum)
        guard scratch.starts[end] < 0 || candidate > scratch.sums[end] else { return }
        scratch.sums[end] = candidate
        scratch.starts[end] = Int32(start)
        scratch.ids[end] = id
      }
      if !hasCharacter {
        let candidate = rounded(unknownScore + sum)
        if scratch.starts[next] < 0 || candidate > scratch.sums[next] {
          scratch.sums[next] = candidate
          scratch.starts[next] = Int32(start)
          scratch.ids[next] = UInt32(unknown)
        }
      }
      start = next
    }
  }

  @inline(__always)
  private func rounded(_ sum: Double) -> Double { isSentencePiece ? Double(Float(sum)) : sum }

  /// Appends, in reverse, what stands for a run of unknown characters.
  private func appendUnknown(_ run: UnsafeBufferPointer<UInt8>, to ids: inout [Int]) {
    if !isSentencePiece, let id = vocabulary.ids.find(run) {
      ids.append(id)
    } else if !byteIDs.isEmpty, run.allSatisfy({ byteIDs[Int($0)] >= 0 }) {
      for byte in run.reversed() { ids.append(byteIDs[Int(byte)]) }
    } else {
      ids.append(unknown)
    }
  }
}
