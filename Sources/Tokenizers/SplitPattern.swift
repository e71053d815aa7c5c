/// What happens to the matches of a pattern.
enum SplitBehavior: String, CaseIterable, Sendable {
  case removed = "Removed"
  case isolated = "Isolated"
  case mergedWithPrevious = "MergedWithPrevious"
  case mergedWithNext = "MergedWithNext"
  case contiguous = "Contiguous"
}

/// The patterns that cut text. Regular expressions are a closed list, each written out as a scanner.
enum SplitPattern: Sendable {
  /// The expression inside the `ByteLevel` pre-tokenizer, from GPT-2.
  case gpt2
  /// The expression of cl100k and Llama 3 (numbers of up to three digits) and of Qwen 2 (single digits).
  case cl100k(longestNumber: Int)
  /// One scalar that the `Digits` pre-tokenizer takes for a number.
  case digit
  case literal([UInt8])

  private static let expressions: [(String, SplitPattern)] = {
    let contractions = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|"
    let rest = "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
    return [
      ("'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+", .gpt2),
      (contractions + "\\p{N}{1,3}" + rest, .cl100k(longestNumber: 3)),
      (contractions + "\\p{N}" + rest, .cl100k(longestNumber: 1)),
    ]
  }()

  /// Reads `{"Regex": …}` or `{"String": …}`.
  init(_ node: JSONNode) throws {
    guard let expression = try node.optional("Regex") else {
      self = .literal(try node.literal())
      return
    }
    let text = try expression.string().text
    guard let known = Self.expressions.first(where: { $0.0.utf8.elementsEqual(text.utf8) }) else {
      throw expression.failure(expected: "one of " + Self.expressions.map(\.0).joined(separator: "   "))
    }
    self = known.1
  }

  /// Cuts every text piece.
  func split(_ text: inout SplitText, _ behavior: SplitBehavior, isInverted: Bool) {
    let classes = UnicodeClasses.shared
    text.split { bytes, start, end, emit in
      let scanner = WordScanner(bytes: bytes, end: end, classes: classes)
      var joiner = PartJoiner(behavior: behavior)
      var index = start
      var between = start  // start of the text since the last match
      while index < end {
        let matchEnd = self.matchEnd(scanner, at: index)
        if matchEnd > index {
          if between < index { joiner.add(between, index, isMatch: isInverted, emit) }
          joiner.add(index, matchEnd, isMatch: !isInverted, emit)
          index = matchEnd
          between = matchEnd
        } else {
          index = bytes.scalar(at: index).next
        }
      }
      if between < end { joiner.add(between, end, isMatch: isInverted, emit) }
      joiner.finish(emit)
    }
  }

  /// Where a match that starts at `index` ends; `index` itself if there is none.
  @inline(__always)
  private func matchEnd(_ scanner: WordScanner, at index: Int) -> Int {
    switch self {
    case .gpt2: return scanner.gpt2(at: index)
    case .cl100k(let longestNumber): return scanner.cl100k(at: index, longestNumber: longestNumber)
    case .digit:
      let (scalar, next) = scanner.bytes.scalar(at: index)
      return scanner.classes.contains(scalar, .digit) ? next : index
    case .literal(let literal): return scanner.matches(literal, at: index) ? index + literal.count : index
    }
  }
}

/// Joins matches and the text between them as a behaviour asks. Parts come in order and without gaps.
private struct PartJoiner {
  let behavior: SplitBehavior
  private var pending: (start: Int, end: Int, isMatch: Bool)?

  init(behavior: SplitBehavior) {
    self.behavior = behavior
  }

  mutating func add(_ start: Int, _ end: Int, isMatch: Bool, _ emit: (Int, Int) -> Void) {
    switch behavior {
    case .isolated: emit(start, end)
    case .removed: if !isMatch { emit(start, end) }
    case .contiguous, .mergedWithPrevious, .mergedWithNext:
      guard let last = pending else {
        pending = (start, end, isMatch)
        return
      }
      let joins =
        switch behavior {
        case .contiguous: last.isMatch == isMatch
        case .mergedWithPrevious: isMatch && !last.isMatch
        default: last.isMatch && !isMatch
        }
      if joins {
        pending = (last.start, end, isMatch)
      } else {
        emit(last.start, last.end)
        pending = (start, end, isMatch)
      }
    }
  }

  mutating func finish(_ emit: (Int, Int) -> Void) {
    if let last = pending { emit(last.start, last.end) }
    pending = nil
  }
}

/// Regular expressions for words, as scanners that need one pass.
struct WordScanner {
  let bytes: UnsafeBufferPointer<UInt8>
  let end: Int
  let classes: UnicodeClasses

  func matches(_ literal: [UInt8], at index: Int) -> Bool {
    guard index + literal.count <= end else { return false }
    for offset in 0..<literal.count where bytes[index + offset] != literal[offset] { return false }
    return true
  }

  /// `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`; always matches.
  func gpt2(at index: Int) -> Int {
    let contraction = contractionEnd(at: index, ignoringCase: false)
    if contraction > index { return contraction }
    if let word = spacedRun(at: index) { return word }
    return spaceEnd(at: index)
  }

  /// `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,n}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`;
  /// always matches.
  func cl100k(at index: Int, longestNumber: Int) -> Int {
    let contraction = contractionEnd(at: index, ignoringCase: true)
    if contraction > index { return contraction }
    let (scalar, next) = bytes.scalar(at: index)
    let first = classes[scalar]
    if first.contains(.letter) { return run(of: .letter, from: next) }
    if first.contains(.number) {
      var position = next
      var count = 1
      while count < longestNumber, position < end {
        let (scalar, after) = bytes.scalar(at: position)
        guard classes.contains(scalar, .number) else { break }
        position = after
        count += 1
      }
      return position
    }
    if scalar != 0x0A, scalar != 0x0D, next < end, classes.contains(bytes.scalar(at: next).scalar, .letter) {
      return run(of: .letter, from: next)
    }
    let symbols = symbolRun(from: scalar == 0x20 ? next : index)
    if symbols > (scalar == 0x20 ? next : index) {
      var position = symbols
      while position < end, bytes[position] == 0x0A || bytes[position] == 0x0D { position += 1 }
      return position
    }
    var position = index
    var lineEnd = index
    while position < end {
      let (scalar, after) = bytes.scalar(at: position)
      guard classes.contains(scalar, .whitespace) else { break }
      position = after
      if scalar == 0x0A || scalar == 0x0D { lineEnd = after }
    }
    return lineEnd > index ? lineEnd : spaceEnd(at: index)
  }

  /// ` ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+`
  @inline(__always)
  private func spacedRun(at index: Int) -> Int? {
    let start = bytes[index] == 0x20 ? index + 1 : index
    guard start < end else { return nil }
    let (scalar, next) = bytes.scalar(at: start)
    let cls = classes[scalar]
    if cls.contains(.letter) { return run(of: .letter, from: next) }
    if cls.contains(.number) { return run(of: .number, from: next) }
    return cls.contains(.whitespace) ? nil : symbolRun(from: next)
  }

  private func run(of cls: ScalarClass, from start: Int) -> Int {
    var index = start
    while index < end {
      let (scalar, next) = bytes.scalar(at: index)
      guard classes.contains(scalar, cls) else { break }
      index = next
    }
    return index
  }

  /// `[^\s\p{L}\p{N}]*`
  private func symbolRun(from start: Int) -> Int {
    var index = start
    while index < end {
      let (scalar, next) = bytes.scalar(at: index)
      guard !classes.contains(scalar, [.letter, .number, .whitespace]) else { break }
      index = next
    }
    return index
  }

  /// `\s+(?!\S)|\s+`: white space, without its last scalar if there are more and a word follows.
  private func spaceEnd(at start: Int) -> Int {
    var index = start
    var last = start
    while index < end {
      let (scalar, next) = bytes.scalar(at: index)
      guard classes.contains(scalar, .whitespace) else { break }
      last = index
      index = next
    }
    return index < end && last > start ? last : index
  }

  /// `'s|'t|'re|'ve|'m|'ll|'d`; `index` itself if there is none. U+017F is an "s" when case is ignored.
  @inline(__always)
  private func contractionEnd(at index: Int, ignoringCase: Bool) -> Int {
    guard bytes[index] == UInt8(ascii: "'"), index + 1 < end else { return index }
    let fold: UInt8 = ignoringCase ? 0x20 : 0
    let first = bytes[index + 1] | fold
    switch first {
    case UInt8(ascii: "s"), UInt8(ascii: "t"), UInt8(ascii: "m"), UInt8(ascii: "d"): return index + 2
    case UInt8(ascii: "r"), UInt8(ascii: "v"), UInt8(ascii: "l"):
      guard index + 2 < end else { return index }
      let second = first == UInt8(ascii: "l") ? UInt8(ascii: "l") : UInt8(ascii: "e")
      return bytes[index + 2] | fold == second ? index + 3 : index
    case 0xC5 | fold where ignoringCase && bytes[index + 1] == 0xC5:
      return index + 2 < end && bytes[index + 2] == 0xBF ? index + 3 : index
    default: return index
    }
  }
}
