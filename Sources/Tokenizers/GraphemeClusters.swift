/// Extended grapheme clusters (Unicode Standard Annex 29), with the tables of the reference implementation.
struct GraphemeClusters: Sendable {
  static let shared = GraphemeClusters()

  /// What the rules need to know of a scalar.
  private struct Class: OptionSet {
    let rawValue: UInt8

    /// `Control`; carriage return and line feed among them.
    static let control = Class(rawValue: 1)
    /// `Extend`, `SpacingMark` or the zero-width joiner.
    static let joins = Class(rawValue: 2)
    /// `Prepend`.
    static let prepends = Class(rawValue: 4)
    /// `Extended_Pictographic`.
    static let pictograph = Class(rawValue: 8)
    /// `Extend`.
    static let extends = Class(rawValue: 16)
    /// `InCB=Consonant`.
    static let consonant = Class(rawValue: 32)
    /// `InCB=Linker`.
    static let linker = Class(rawValue: 64)
    /// `InCB=Extend`.
    static let filler = Class(rawValue: 128)
  }

  private let classes: PagedTable

  private init() {
    var classes = [UInt8](repeating: 0, count: 0x110000)
    let sets: [(String, Class)] = [
      (GraphemeData.controls, .control), (GraphemeData.joins, .joins), (GraphemeData.prepends, .prepends),
      (GraphemeData.pictographs, .pictograph), (GraphemeData.extends, .extends),
      (GraphemeData.consonants, .consonant), (GraphemeData.linkers, .linker), (GraphemeData.fillers, .filler),
    ]
    for (text, bit) in sets {
      for scalar in HexadecimalTable(text).runs().joined() { classes[Int(scalar)] |= bit.rawValue }
    }
    self.classes = PagedTable(classes)
  }

  /// Parts of a Hangul syllable: the values of `Hangul_Syllable_Type`.
  private enum Syllable {
    case none, lead, vowel, trail, leadVowel, leadVowelTrail

    init(_ scalar: UInt32) {
      switch scalar {
      case 0x1100...0x115F, 0xA960...0xA97C: self = .lead
      case 0x1160...0x11A7, 0xD7B0...0xD7C6: self = .vowel
      case 0x11A8...0x11FF, 0xD7CB...0xD7FB: self = .trail
      case 0xAC00...0xD7A3: self = (scalar - 0xAC00) % 28 == 0 ? .leadVowel : .leadVowelTrail
      default: self = .none
      }
    }

    /// Whether `next` goes on with the syllable (rules GB6 to GB8).
    func joins(_ next: Syllable) -> Bool {
      switch (self, next) {
      case (.lead, .lead), (.lead, .vowel), (.lead, .leadVowel), (.lead, .leadVowelTrail): true
      case (.leadVowel, .vowel), (.leadVowel, .trail), (.vowel, .vowel), (.vowel, .trail): true
      case (.leadVowelTrail, .trail), (.trail, .trail): true
      default: false
      }
    }
  }

  private enum Emoji { case none, pictograph, joined }
  private enum Conjunct { case none, consonant, linked }

  /// Where the cluster that starts at `start` ends; `start` is less than the length of `text`.
  func end(in text: UnsafeBufferPointer<UInt8>, at start: Int) -> Int {
    var (scalar, end) = text.scalar(at: start)
    var cls = Class(rawValue: classes[scalar])
    if scalar == 0x0D { return end < text.count && text[end] == 0x0A ? end + 1 : end }
    if cls.contains(.control) { return end }
    var emoji: Emoji = cls.contains(.pictograph) ? .pictograph : .none
    var conjunct: Conjunct = cls.contains(.consonant) ? .consonant : .none
    var flags = Self.isFlag(scalar) ? 1 : 0
    while end < text.count {
      let (next, after) = text.scalar(at: end)
      let nextClass = Class(rawValue: classes[next])
      if nextClass.contains(.control) { break }
      let joins =
        nextClass.contains(.joins) || cls.contains(.prepends) || Syllable(scalar).joins(Syllable(next))
        || (conjunct == .linked && nextClass.contains(.consonant))
        || (emoji == .joined && nextClass.contains(.pictograph)) || (Self.isFlag(next) && flags % 2 == 1)
      guard joins else { break }
      if nextClass.contains(.pictograph) {
        emoji = .pictograph
      } else if emoji != .pictograph || !nextClass.contains(.extends) {
        emoji = emoji == .pictograph && next == 0x200D ? .joined : .none
      }
      if nextClass.contains(.consonant) {
        conjunct = .consonant
      } else if conjunct != .none, nextClass.contains(.linker) {
        conjunct = .linked
      } else if !nextClass.contains(.filler) {
        conjunct = .none
      }
      flags = Self.isFlag(next) ? flags + 1 : 0
      (scalar, end, cls) = (next, after, nextClass)
    }
    return end
  }

  /// Regional indicators.
  private static func isFlag(_ scalar: UInt32) -> Bool { scalar >= 0x1F1E6 && scalar <= 0x1F1FF }
}
