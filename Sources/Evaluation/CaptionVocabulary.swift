extension CaptionScanner {
  /// The spellings and signs that the rules know, as observed in CoreNLP 3.4.1.
  enum Vocabulary {
    static let assimilated: [String: [String]] = [
      "cannot": ["can", "not"], "gonna": ["gon", "na"], "gotta": ["got", "ta"], "wanna": ["wan", "na"],
      "lemme": ["lem", "me"], "gimme": ["gim", "me"],
    ]

    static let apostropheWords = [
      "dunkin'", "somethin'", "ol'", "cont'd", "nor'easter", "c'mon", "e'er", "s'mores", "ev'ry", "li'l", "nat'l",
      "o'o",
    ]

    static let fixedSpellings = ["pro-", "anti-", "cap'n", "c'est", "s&p-500", "s&ls"]

    /// Keep their stop in any case and before anything.
    static let abbreviations: Set<String> = [
      "adj", "adm", "adv", "al", "ala", "alex", "apr", "ariz", "assn", "assoc", "asst", "atty", "attys", "aug", "ave",
      "bancorp", "bhd", "bldg", "blvd", "brig", "bros", "calif", "capt", "cf", "cie", "cmdr", "co", "col", "colo",
      "comdr", "conn", "corp", "cos", "cpl", "ct", "dak", "dec", "dept", "det", "dr", "drs", "elec", "ens", "esq",
      "est", "etc", "ext", "feb", "fla", "fri", "ft", "ga", "gen", "gov", "govs", "hon", "inc", "ind", "insp", "intl",
      "invt", "jan", "jos", "jr", "jul", "jun", "kan", "kans", "ky", "lieut", "lt", "ltd", "maj", "mar", "md",
      "messrs", "mfg", "mich", "minn", "mlle", "mme", "mo", "mon", "mont", "mr", "mrs", "ms", "msgr", "mt", "mtg",
      "natl", "neb", "nev", "nov", "oct", "okla", "penn", "pfc", "ph", "plc", "ppty", "pres", "prof", "profs", "pte",
      "pty", "ptys", "pvt", "rd", "rep", "reps", "rev", "rt", "sen", "sens", "sep", "sept", "seq", "sfc", "sgt",
      "spc", "sq", "sr", "st", "ste", "supt", "supts", "sys", "tel", "tenn", "thu", "thurs", "treas", "tue", "tues",
      "univ", "va", "vs", "vt", "wed", "wis", "wisc", "wm", "wyo",
    ]

    /// Keep their stop if they begin with a capital.
    static let capitalAbbreviations: Set<String> = [
      "ark", "az", "del", "ill", "la", "mass", "miss", "ore", "pa", "tex", "wash",
    ]

    /// Keep their stop before a number.
    static let numberAbbreviations: Set<String> = ["art", "ca", "fig", "figs", "no", "nos", "op", "pp", "prop"]

    /// Words that tell the stop of a single letter before them to be the end of a sentence.
    static let sentenceStarts: Set<String> = [
      "A", "About", "According", "Additionally", "After", "An", "As", "At", "But", "Earlier", "He", "Her", "Here",
      "However", "If", "In", "It", "Last", "Many", "More", "Mr.", "Ms.", "Now", "Once", "One", "Other", "Our", "She",
      "Since", "So", "Some", "Such", "That", "The", "Their", "Then", "There", "These", "They", "This", "We", "What",
      "When",
      "While", "Yet", "You",
    ]

    static let fractions: [Scalar: String] = [
      "\u{BC}": "1/4", "\u{BD}": "1/2", "\u{BE}": "3/4", "\u{2153}": "1/3", "\u{2154}": "2/3",
    ]

    static let currencies: [Scalar: String] = [
      "\u{A2}": "cents", "\u{A3}": "#", "\u{A4}": "$", "\u{20A0}": "$", "\u{20AC}": "$", "\u{A5}": "\u{A5}",
      "\u{20A4}": "\u{20A4}", "\u{E3F}": "\u{E3F}",
    ]

    static let roundBrackets: [Scalar: String] = ["(": "-lrb-", ")": "-rrb-"]

    static let entities = [
      ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">"), ("&quot;", "''"), ("&apos;", "'"), ("&mdash;", "--"),
      ("&ndash;", "--"), ("&nbsp;", ""),
    ]

    static let signs: [Scalar: String] = [
      "(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-", "\"": "''",
      "\u{2013}": "--", "\u{2014}": "--", "\u{2015}": "--", "\u{96}": "--", "\u{97}": "--", "\u{2010}": "-",
      "\u{2026}": "...", "\u{85}": "...",
      "\u{2018}": "`", "\u{201B}": "`", "\u{2039}": "`", "\u{91}": "`",
      "\u{2019}": "'", "\u{203A}": "'", "\u{92}": "'",
      "\u{201C}": "``", "\u{AB}": "``", "\u{93}": "``", "\u{201D}": "''", "\u{BB}": "''", "\u{94}": "''",
    ]
  }

  /// Kinds of characters.
  enum Characters {
    static let softHyphen: Scalar = "\u{AD}"

    static func lower(_ s: Scalar) -> Scalar {
      ("A"..."Z").contains(s) ? Scalar(UInt8(s.value) + 32) : isApostrophe(s) ? "'" : s
    }

    static func isASCIILetter(_ s: Scalar) -> Bool { ("a"..."z").contains(s) || ("A"..."Z").contains(s) }

    static func isASCIILetterOrDigit(_ s: Scalar) -> Bool { isASCIILetter(s) || ("0"..."9").contains(s) }

    /// A letter of any script in the basic plane.
    static func isPlainLetter(_ s: Scalar) -> Bool {
      if s.isASCII { return isASCIILetter(s) }
      guard s.value <= 0xFFFF else { return false }
      switch s.properties.generalCategory {
      case .uppercaseLetter, .lowercaseLetter, .titlecaseLetter, .modifierLetter, .otherLetter:
        return s != "\u{AA}" && s != "\u{BA}"
      default: return false
      }
    }

    static func isPlainLetterOrDigit(_ s: Scalar) -> Bool { isPlainLetter(s) || isDigit(s) }

    /// A letter, a mark written on one, or a soft hyphen.
    static func isLetter(_ s: Scalar) -> Bool {
      if s.isASCII { return isASCIILetter(s) }
      if isPlainLetter(s) || s == softHyphen { return true }
      guard s.value <= 0xFFFF, !("\u{FE00}"..."\u{FE0F}").contains(s) else { return false }
      switch s.properties.generalCategory {
      case .nonspacingMark, .spacingMark: return true
      default: return false
      }
    }

    static func isLetterOrDigit(_ s: Scalar) -> Bool { isLetter(s) || isDigit(s) }

    static func isDigit(_ s: Scalar) -> Bool {
      s.isASCII
        ? ("0"..."9").contains(s) : s.value <= 0xFFFF && s.properties.generalCategory == .decimalNumber
    }

    static func isApostrophe(_ s: Scalar) -> Bool { s == "'" || s == "\u{2019}" || s == "\u{92}" }

    static func isApostropheLike(_ s: Scalar) -> Bool {
      isApostrophe(s) || s == "\u{2018}" || s == "\u{201B}" || s == "\u{91}"
    }

    static func isHyphen(_ s: Scalar) -> Bool {
      s == "-" || s == "_" || s == "\u{58A}" || s == "\u{2010}" || s == "\u{2011}"
    }

    /// A space that does not end the line.
    static func isBlank(_ s: Scalar) -> Bool {
      s == " " || s == "\t" || s == "\u{A0}" || ("\u{2000}"..."\u{200A}").contains(s) || s == "\u{3000}"
    }

    static func isSpace(_ s: Scalar) -> Bool {
      isBlank(s) || ("\n"..."\r").contains(s) || s == "\u{2028}" || s == "\u{2029}"
    }

    /// Signs that stand alone as tokens. What is neither here nor in any other rule (emoji, controls) is dropped.
    static func isSymbol(_ s: Scalar) -> Bool {
      if s.isASCII { return "+%&~^|\\/=<>,;:.?!*#@_$'`".unicodeScalars.contains(s) }
      return symbolRanges.contains { $0.contains(s) }
    }

    private static let symbolRanges: [ClosedRange<Scalar>] = [
      "\u{A1}"..."\u{A1}", "\u{A6}"..."\u{AA}", "\u{AC}"..."\u{AC}", "\u{AE}"..."\u{BA}", "\u{BF}"..."\u{BF}",
      "\u{D7}"..."\u{D7}", "\u{F7}"..."\u{F7}", "\u{2016}"..."\u{2017}", "\u{201A}"..."\u{201A}",
      "\u{201E}"..."\u{201F}",
      "\u{2020}"..."\u{2023}", "\u{2030}"..."\u{2038}", "\u{203B}"..."\u{203B}", "\u{203E}"..."\u{2042}",
      "\u{2044}"..."\u{2044}", "\u{2070}"..."\u{2071}", "\u{2074}"..."\u{208E}", "\u{2100}"..."\u{214F}",
      "\u{2150}"..."\u{215E}", "\u{2190}"..."\u{2BFF}", "\u{3001}"..."\u{3002}", "\u{3012}"..."\u{3012}",
      "\u{30FB}"..."\u{30FB}", "\u{FF01}"..."\u{FF0F}", "\u{FF1A}"..."\u{FF20}", "\u{FF3B}"..."\u{FF40}",
      "\u{FF5B}"..."\u{FF65}",
    ]
  }
}
