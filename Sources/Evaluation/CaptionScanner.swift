/// Reads one caption from left to right; see ``CaptionTokenizer``.
struct CaptionScanner {
  typealias Scalar = Unicode.Scalar

  /// What a rule found: where the token ends, how far the rule looked, and how the token is written if not as it stands.
  struct Match {
    var end: Int
    var reach: Int
    var written: [String]?

    init(end: Int, reach: Int? = nil, written: [String]? = nil) {
      self.end = end
      self.reach = reach ?? end
      self.written = written
    }
  }

  let text: [Scalar]
  var output: [String] = []

  init(_ caption: String) {
    text = Array(caption.unicodeScalars)
  }

  mutating func scan() -> [String] {
    var position = 0
    while position < text.count {
      if let end = plainWordEnd(position) {
        output.append(string(position, end).lowercased())
        position = end
      } else if Characters.isSpace(text[position]) {
        position += 1
      } else if let match = longestMatch(at: position) {
        if let written = match.written {
          output.append(contentsOf: written)
        } else {
          let token = string(position, match.end).lowercased()
          // A token may hold a space (markup); every scorer splits there.
          if !token.isEmpty { output.append(token) }
        }
        position = match.end
      } else {
        position += 1  // emoji, control characters: dropped, but they separate words
      }
    }
    return output
  }

  /// The usual case: ASCII letters up to a space, which no other rule can extend.
  private func plainWordEnd(_ start: Int) -> Int? {
    var end = start
    while end < text.count, Characters.isASCIILetter(text[end]) { end += 1 }
    guard end > start, end == text.count || text[end] == " " else { return nil }
    return (5...6).contains(end - start) && Vocabulary.assimilated[string(start, end).lowercased()] != nil ? nil : end
  }

  private func longestMatch(at i: Int) -> Match? {
    var best: Match?
    for rule in Self.rules {
      guard let match = rule(self)(i) else { continue }
      if match.reach > (best?.reach ?? i) { best = match }
    }
    return best
  }

  /// Every rule, the earlier one winning when two read equally far.
  private static let rules: [@Sendable (CaptionScanner) -> (Int) -> Match?] = [
    { s in { s.programmingLanguage($0) } }, { s in { s.assimilation($0) } }, { s in { s.markup($0) } },
    { s in { s.word($0) } }, { s in { s.negatedWord($0) } }, { s in { s.apostropheWord($0) } },
    { s in { s.webAddress($0) } }, { s in { s.mailAddress($0) } }, { s in { s.handle($0) } },
    { s in { s.contraction($0) } }, { s in { s.date($0) } }, { s in { s.number($0) } }, { s in { s.fraction($0) } },
    { s in { s.fixedSpelling($0) } }, { s in { s.slashed($0) } }, { s in { s.currency($0) } },
    { s in { s.singleLetterEnd($0) } }, { s in { s.abbreviation($0) } }, { s in { s.shortYear($0) } },
    { s in { s.wordBeforeSeparator($0) } }, { s in { s.run($0) } }, { s in { s.hyphenated($0) } },
    { s in { s.capitalsJoined($0) } }, { s in { s.hyphenatedLoosely($0) } }, { s in { s.face($0) } },
    { s in { s.symbol($0) } },
  ]

  // MARK: Reading helpers

  func at(_ i: Int) -> Scalar { i >= 0 && i < text.count ? text[i] : "\n" }

  func string(_ start: Int, _ end: Int) -> String {
    var result = String.UnicodeScalarView()
    for scalar in text[start..<end] where scalar != Characters.softHyphen { result.append(scalar) }
    return String(result)
  }

  /// Whether the text at `i` is `literal`, ASCII case ignored; the end if so.
  func literal(_ literal: String, _ i: Int) -> Int? {
    var position = i
    for expected in literal.unicodeScalars {
      guard Characters.lower(at(position)) == expected else { return nil }
      position += 1
    }
    return position
  }

  func skip(_ i: Int, _ isIncluded: (Scalar) -> Bool) -> Int {
    var end = i
    while end < text.count, isIncluded(text[end]) { end += 1 }
    return end
  }

  // MARK: Words

  /// Letters, then letters and digits; a stop, `!` or `?` between letters does not end it ("dog.cat").
  private func wordEnd(_ i: Int) -> Int? {
    guard Characters.isLetter(at(i)) else { return nil }
    var end = skip(i + 1, Characters.isLetterOrDigit)
    while [".", "!", "?"].contains(at(end)), Characters.isLetter(at(end + 1)) {
      end = skip(end + 2, Characters.isLetterOrDigit)
    }
    return end
  }

  /// The end of `'s 'm 'd 're 've 'll` at `i`.
  private func contractionEnd(_ i: Int) -> Int? {
    guard Characters.isApostrophe(at(i)) else { return nil }
    for ending in ["re", "ve", "ll", "s", "m", "d"] {
      if let end = literal(ending, i + 1) { return end }
    }
    return nil
  }

  /// The end of `n't` at `i`.
  private func negationEnd(_ i: Int) -> Int? {
    guard Characters.lower(at(i)) == "n", Characters.isApostropheLike(at(i + 1)), Characters.lower(at(i + 2)) == "t"
    else { return nil }
    return i + 3
  }

  private func word(_ i: Int) -> Match? {
    guard let end = wordEnd(i) else { return nil }
    // A shorter word before a contraction can look further than the whole word: "a.b's".
    return Match(end: end, reach: contractionEnd(end))
  }

  private func negatedWord(_ i: Int) -> Match? {
    let end = skip(i, Characters.isASCIILetter)
    var stem = end - 1  // "didn't": the n belongs to the ending
    if stem > i, Characters.lower(at(stem)) == "n", let reach = negationEnd(stem), Characters.lower(at(stem - 1)) != "n"
    {
      return Match(end: stem, reach: reach)
    }
    stem = end
    guard stem > i, Characters.lower(at(stem - 1)) != "n", let reach = negationEnd(stem) else { return nil }
    return Match(end: stem, reach: reach)
  }

  private func contraction(_ i: Int) -> Match? {
    guard let end = contractionEnd(i) ?? negationEnd(i), !Characters.isASCIILetter(at(end)) else { return nil }
    let token = string(i, end).lowercased()
    return Match(
      end: end, reach: end + 1,
      written: [String(token.map { $0.unicodeScalars.allSatisfy(Characters.isApostropheLike) ? "'" : $0 })])
  }

  /// `cannot`, `gonna`, `'tis` and the like become two tokens.
  private func assimilation(_ i: Int) -> Match? {
    let start = at(i) == "'" ? i + 1 : i
    let end = skip(start, Characters.isASCIILetter)
    let whole = string(i, end).lowercased()
    if let parts = Vocabulary.assimilated[whole] { return Match(end: end, reach: end + 1, written: parts) }
    guard at(i) == "'" else { return nil }
    if let after = literal("'tis", i) { return Match(end: after, written: ["'t", "is"]) }
    if let after = literal("'twas", i) { return Match(end: after, written: ["'t", "was"]) }
    return nil
  }

  /// Words with an apostrophe that are kept whole: `o'clock` is a ``hyphenated(_:)`` word, `ma'am` and `c'mon` are these.
  private func apostropheWord(_ i: Int) -> Match? {
    var best: Int?
    func offer(_ end: Int?) {
      if let end, end > (best ?? i) { best = end }
    }
    let first = at(i)
    if Characters.isApostrophe(first) {
      if Characters.lower(at(i + 1)) == "n" {
        if Characters.isApostrophe(at(i + 2)) { offer(i + 3) } else if !Characters.isLetter(at(i + 2)) { offer(i + 2) }
      }
      offer(literal("em", i + 1))
      offer(literal("till", i + 1))
      offer(literal("til", i + 1))
      offer(literal("cause", i + 1))
      if ("2"..."9").contains(at(i + 1)), at(i + 2) == "0", Characters.lower(at(i + 3)) == "s" { offer(i + 4) }
    }
    if "lLdDjJ".unicodeScalars.contains(first), Characters.isApostrophe(at(i + 1)) { offer(i + 2) }
    for spelling in Vocabulary.apostropheWords { offer(literal(spelling, i)) }
    // One capital, apostrophe, two letters or more: B'Gosh.
    if first == "n" || (("A"..."Z").contains(first) && !"IY".unicodeScalars.contains(first)),
      Characters.isApostropheLike(at(i + 1))
    {
      let end = skip(i + 2, Characters.isPlainLetter)
      if end >= i + 4 { offer(end) }
    }
    // A vowel on both sides: ma'am, Hawai'i.
    let apostrophe = skip(i, Characters.isPlainLetter)
    if apostrophe >= i + 2, "aeiouyAEIOUY".unicodeScalars.contains(at(apostrophe - 1)),
      Characters.isApostropheLike(at(apostrophe)),
      "aeiou".unicodeScalars.contains(at(apostrophe + 1)) || ("A"..."Z").contains(at(apostrophe + 1))
    {
      offer(skip(apostrophe + 2, Characters.isPlainLetter))
    }
    if let best { return Match(end: best) }
    // y'all: the y keeps the apostrophe.
    if Characters.lower(first) == "y", Characters.isApostrophe(at(i + 1)), Characters.isPlainLetter(at(i + 2)) {
      return Match(end: i + 2, reach: i + 3)
    }
    return nil
  }

  /// Letters and digits joined by single hyphens or underscores, each part perhaps with `d'`, `l'` or `o'` before it.
  private func hyphenated(_ i: Int) -> Match? {
    func part(_ i: Int) -> Int? {
      if "dDoOlL".unicodeScalars.contains(at(i)), Characters.isApostropheLike(at(i + 1)) {
        let end = skip(i + 2, Characters.isPlainLetterOrDigit)
        if end >= i + 4 { return end }
      }
      let end = skip(i, Characters.isPlainLetterOrDigit)
      return end > i ? end : nil
    }
    guard var end = part(i) else { return nil }
    while Characters.isHyphen(at(end)), let next = part(end + 1) { end = next }
    return Match(end: end)
  }

  /// ASCII words whose first part may hold stops and commas, if a hyphen follows: `5.5-inch`, `U.S.-made`.
  private func hyphenatedLoosely(_ i: Int) -> Match? {
    guard Characters.isASCIILetterOrDigit(at(i)) else { return nil }
    var end = skip(i) { Characters.isASCIILetterOrDigit($0) || $0 == "." || $0 == "," || $0 == Characters.softHyphen }
    var found: Int?
    while at(end) == "-" {
      let next = skip(end + 1, Characters.isASCIILetterOrDigit)
      guard next > end + 1 else { break }
      end = max(next, initialsEnd(end + 1) ?? next)
      found = end
    }
    return found.map { Match(end: $0) }
  }

  /// `man/woman`, `a/b/c`.
  private func slashed(_ i: Int) -> Match? {
    func part(_ i: Int) -> Int? {
      var end = skip(i, Characters.isASCIILetterOrDigit)
      guard end > i else { return nil }
      for _ in 0..<2 where at(end) == "-" {
        let next = skip(end + 1, Characters.isASCIILetter)
        guard next > end + 1 else { break }
        end = next
      }
      return end
    }
    guard var end = part(i) else { return nil }
    var slashes = 0
    while slashes < 2, at(end) == "/", let next = part(end + 1) {
      end = next
      slashes += 1
    }
    return slashes > 0 ? Match(end: end) : nil
  }

  /// `B&W`, `A+B`: capitals only.
  private func capitalsJoined(_ i: Int) -> Match? {
    func isCapital(_ scalar: Scalar) -> Bool { ("A"..."Z").contains(scalar) }
    var end = skip(i, isCapital)
    var written = string(i, end)
    guard end > i else { return nil }
    var joined = false
    while true {
      let sign = literal("&amp;", end) ?? (at(end) == "&" || at(end) == "+" ? end + 1 : end)
      let next = skip(sign, isCapital)
      guard sign > end, next > sign else { break }
      written += (at(end) == "+" ? "+" : "&") + string(sign, next)
      end = next
      joined = true
    }
    return joined ? Match(end: end, written: [written.lowercased()]) : nil
  }

  private func programmingLanguage(_ i: Int) -> Match? {
    (literal("c++", i) ?? literal("c#", i) ?? literal("f#", i)).map { Match(end: $0) }
  }

  private func fixedSpelling(_ i: Int) -> Match? {
    Vocabulary.fixedSpellings.lazy.compactMap { literal($0, i) }.max().map { Match(end: $0) }
  }

  // MARK: Full stops

  /// The end of initials such as `U.S.` or `p.m.` at `i`, the last stop included.
  private func initialsEnd(_ i: Int) -> Int? {
    guard Characters.isASCIILetter(at(i)), at(i + 1) == ".", Characters.isASCIILetter(at(i + 2)) else { return nil }
    var end = i + 1
    while at(end) == ".", Characters.isASCIILetter(at(end + 1)) { end += 2 }
    return at(end) == "." ? end + 1 : nil
  }

  /// A single letter before a word that often begins a sentence gives its stop back: "letter B. The …".
  private func singleLetterEnd(_ i: Int) -> Match? {
    guard Characters.isASCIILetter(at(i)), at(i + 1) == "." else { return nil }
    let start = skip(i + 2, Characters.isBlank)
    guard start > i + 2 else { return nil }
    var end = skip(start, Characters.isASCIILetter)
    if at(end) == "." { end += 1 }
    guard Characters.isBlank(at(end)), Vocabulary.sentenceStarts.contains(string(start, end)) else { return nil }
    return Match(end: i + 1, reach: end + 1)
  }

  private func abbreviation(_ i: Int) -> Match? {
    var ends: [Int] = []
    if let end = initialsEnd(i) { ends.append(end) }
    let stop = skip(i, Characters.isASCIILetter)
    if stop > i, at(stop) == "." {
      let name = string(i, stop)
      let lower = name.lowercased()
      let isAbbreviation =
        stop == i + 1 || Vocabulary.abbreviations.contains(lower)
        || (Vocabulary.capitalAbbreviations.contains(lower) && ("A"..."Z").contains(at(i)))
        || (Vocabulary.numberAbbreviations.contains(lower)
          && Characters.isDigit(at(Characters.isBlank(at(stop + 1)) ? stop + 2 : stop + 1)))
      if isAbbreviation { ends.append(stop + 1) }
    }
    for name in ["ed.d.", "ph.d."] {
      if let end = literal(name, i) { ends.append(end) }
    }
    return ends.max().map { Match(end: $0) }
  }

  /// `tv.,` keeps its stop before a comma, colon or semicolon.
  private func wordBeforeSeparator(_ i: Int) -> Match? {
    let end = skip(i, Characters.isLetterOrDigit)
    guard end > i, at(end) == ".", [",", ";", ":", "\u{3001}"].contains(at(end + 1)) else { return nil }
    return Match(end: end + 1, reach: end + 2)
  }

  // MARK: Numbers

  private func digits(_ i: Int, upTo limit: Int = .max) -> Int {
    var end = i
    while end < text.count, end - i < limit, Characters.isDigit(text[end]) { end += 1 }
    return end
  }

  /// `12`, `1,000`, `.5`, `12:30`, with a sign perhaps.
  private func number(_ i: Int) -> Match? {
    let start = at(i) == "-" || at(i) == "+" ? i + 1 : i
    var end = digits(start)
    while [".", ",", ":", Characters.softHyphen, "\u{66B}", "\u{66C}"].contains(at(end)) {
      let next = digits(end + 1)
      guard next > end + 1 else { break }
      end = next
    }
    return end > start ? Match(end: end) : nil
  }

  /// `1/2`, `3-1/2`, and the ready-made characters.
  private func fraction(_ i: Int) -> Match? {
    if let written = Vocabulary.fractions[at(i)] { return Match(end: i + 1, written: [written]) }
    func simple(_ i: Int) -> Int? {
      let slash = digits(i, upTo: 4)
      guard slash > i, at(slash) == "/" || at(slash) == "\u{2044}" else { return nil }
      let end = digits(slash + 1, upTo: 4)
      return end > slash + 1 ? end : nil
    }
    let whole = digits(i, upTo: 4)
    if whole > i, at(whole) == "-", let end = simple(whole + 1) { return Match(end: end) }
    return simple(i).map { Match(end: $0) }
  }

  /// `10/12/2013`, `10-12-13`.
  private func date(_ i: Int) -> Match? {
    var end = i
    for _ in 0..<2 {
      let next = digits(end, upTo: 2)
      guard next > end, at(next) == "-" || at(next) == "/" else { return nil }
      end = next + 1
    }
    let year = digits(end, upTo: 4)
    return year >= end + 2 ? Match(end: year) : nil
  }

  /// `'90` before a space.
  private func shortYear(_ i: Int) -> Match? {
    guard Characters.isApostrophe(at(i)), digits(i + 1, upTo: 3) == i + 3, Characters.isSpace(at(i + 3))
    else { return nil }
    return Match(end: i + 3, reach: i + 4)
  }

  private func currency(_ i: Int) -> Match? {
    if let written = Vocabulary.currencies[at(i)] { return Match(end: i + 1, written: [written]) }
    let end = skip(i) { ("A"..."Z").contains($0) }
    return at(end) == "$" ? Match(end: end + 1) : nil
  }

  // MARK: Addresses and markup

  private func handle(_ i: Int) -> Match? {
    if at(i) == "@", Characters.isASCIILetter(at(i + 1)) || at(i + 1) == "_" {
      return Match(end: skip(i + 1) { Characters.isASCIILetterOrDigit($0) || $0 == "_" })
    }
    if at(i) == "#" {
      let end = skip(i + 1, Characters.isLetter)
      if end > i + 1 { return Match(end: end) }
    }
    return nil
  }

  private func webAddress(_ i: Int) -> Match? {
    guard let start = literal("http://", i) ?? literal("https://", i) else { return nil }
    var end = skip(start) { !Characters.isSpace($0) && !"\"<>|()".unicodeScalars.contains($0) }
    while end > start, ".!?,{}-".unicodeScalars.contains(at(end - 1)) { end -= 1 }
    return end > start ? Match(end: end) : nil
  }

  private func mailAddress(_ i: Int) -> Match? {
    func isPart(_ scalar: Scalar) -> Bool {
      Characters.isASCIILetterOrDigit(scalar) || "._%+-".unicodeScalars.contains(scalar)
    }
    guard Characters.isASCIILetterOrDigit(at(i)) else { return nil }
    let sign = skip(i, isPart)
    guard at(sign) == "@" else { return nil }
    var end = skip(sign + 1, isPart)
    while end > sign + 1, !Characters.isASCIILetterOrDigit(at(end - 1)) { end -= 1 }
    return end > sign + 1 ? Match(end: end) : nil
  }

  /// `<b>`, `</b>`, `<br/>`: a tag is one token.
  private func markup(_ i: Int) -> Match? {
    guard at(i) == "<" else { return nil }
    let name = at(i + 1) == "/" ? i + 2 : i + 1
    guard Characters.isASCIILetter(at(name)) else { return nil }
    var end = skip(name) { Characters.isASCIILetterOrDigit($0) || "_:.-".unicodeScalars.contains($0) }
    if at(end) == "/" { end += 1 }
    return at(end) == ">" ? Match(end: end + 1) : nil
  }

  // MARK: Signs

  /// Runs of one sign, quotes and dashes.
  private func run(_ i: Int) -> Match? {
    let first = at(i)
    switch first {
    case "-":
      let end = skip(i) { $0 == "-" }
      return (3...4).contains(end - i) ? Match(end: end, written: ["--"]) : Match(end: end)
    case ".":
      let end = min(skip(i) { $0 == "." }, i + 5)
      return end - i >= 3 ? Match(end: end, written: ["..."]) : Match(end: i + 1)
    case "*", "@", "#", "_":
      return Match(end: skip(i) { $0 == first })
    case "?", "!":
      return Match(end: skip(i) { $0 == "?" || $0 == "!" })
    case "<", ">":
      return Match(end: at(i + 1) == first ? i + 2 : i + 1)
    case "`":
      return Match(end: at(i + 1) == "`" ? i + 2 : i + 1)
    case "'":
      return Match(end: at(i + 1) == "'" ? i + 2 : i + 1)
    case "&":
      for (entity, written) in Vocabulary.entities {
        if let end = literal(entity, i) { return Match(end: end, written: written.isEmpty ? [] : [written]) }
      }
      return Match(end: i + 1)
    default:
      return nil
    }
  }

  /// `:-)`, `;D`, `=p`, if no letter or digit follows.
  private func face(_ i: Int) -> Match? {
    if at(i + 1) == "_", "-^".unicodeScalars.contains(at(i)), at(i + 2) == at(i) { return Match(end: i + 3) }
    let eyes = at(i) == "<" || at(i) == ">" ? i + 1 : i
    guard ":;=".unicodeScalars.contains(at(eyes)) else { return nil }
    var mouths: [Int] = []
    if "-o*'".unicodeScalars.contains(at(eyes + 1)) { mouths.append(eyes + 2) }
    mouths.append(eyes + 1)
    for mouth in mouths where "()DPdpO\\{@|[]".unicodeScalars.contains(at(mouth)) {
      guard !Characters.isASCIILetterOrDigit(at(mouth + 1)) else { continue }
      let shape = Vocabulary.roundBrackets[at(mouth)] ?? string(mouth, mouth + 1).lowercased()
      let written = string(i, mouth).lowercased() + shape
      return Match(end: mouth + 1, reach: mouth + 2, written: [written])
    }
    return nil
  }

  private func symbol(_ i: Int) -> Match? {
    let scalar = at(i)
    if let written = Vocabulary.signs[scalar] { return Match(end: i + 1, written: [written]) }
    return Characters.isSymbol(scalar) ? Match(end: i + 1) : nil
  }
}
