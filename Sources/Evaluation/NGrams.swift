/// Up to four words in a row, as word numbers; unused places hold -1.
struct NGram: Hashable {
  var a: Int32
  var b: Int32 = -1
  var c: Int32 = -1
  var d: Int32 = -1

  static let longest = 4
}

/// Numbers words, so that n-grams compare integers.
struct WordNumbers {
  private var numbers: [String: Int32] = [:]

  mutating func encode(_ words: [String]) -> [Int32] {
    words.map { word in
      if let number = numbers[word] { return number }
      let number = Int32(numbers.count)
      numbers[word] = number
      return number
    }
  }
}

/// How often each n-gram occurs in one caption: `counts[n - 1]` holds the n-grams of n words.
struct NGramCounts {
  var length: Int
  var counts: [[NGram: Int]]

  init(_ words: [Int32]) {
    length = words.count
    counts = (1...NGram.longest).map { n in
      var table: [NGram: Int] = [:]
      guard words.count >= n else { return table }
      for start in 0...(words.count - n) {
        var gram = NGram(a: words[start])
        if n > 1 { gram.b = words[start + 1] }
        if n > 2 { gram.c = words[start + 2] }
        if n > 3 { gram.d = words[start + 3] }
        table[gram, default: 0] += 1
      }
      return table
    }
  }
}

/// Checks that hypotheses and references belong together.
func checkCaptions(hypotheses: Int, references: [[String]]) throws(EvaluationError) {
  guard !references.isEmpty else { throw .empty(what: "item") }
  guard hypotheses == references.count else {
    throw .countMismatch(what: "hypotheses", expected: references.count, found: hypotheses)
  }
  if let item = references.firstIndex(where: \.isEmpty) { throw .noReferences(item: item) }
}
