"""Writes Sources/Tokenizers/UnicodeData.swift, UnicodeDecompositions.swift and GraphemeData.swift.

The Python `tokenizers` library mixes tables of several Unicode versions (its regular-expression engine, the Rust
standard library, and two older crates). This script asks the library itself about every scalar, so that the Swift
code gives the same answers whatever Unicode version the system at hand has.

    python make_unicode_tables.py ../../../Sources/Tokenizers
"""

import sys
import unicodedata
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, __version__, models, normalizers, pre_tokenizers

HEAD = (
    "// Written by Tests/Fixtures/tokenizers/make_unicode_tables.py from what tokenizers " + __version__ +
    " answers;\n// do not edit by hand.\n\n")
SCALARS = [c for c in range(0x110000) if not 0xD800 <= c <= 0xDFFF]


def chosen(test):
    return [c for c in SCALARS if test(chr(c))]


def removed_by(pattern):
    split = pre_tokenizers.Split(Regex(pattern), "removed")
    return chosen(lambda c: split.pre_tokenize_str(c) == [])


def isolated_by(pre_tokenizer):
    return chosen(lambda c: len(pre_tokenizer.pre_tokenize_str("a" + c + "a")) == 3)


def word_scalars():
    """Scalars that count as part of a word next to an added token with `single_word`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.add_tokens([AddedToken("x", single_word=True, normalized=False)])
    return chosen(lambda c: c != "x" and not tokenizer.encode(c + "x").ids) + [ord("x")]


def changed_by(normalizer):
    return {c: out for c in SCALARS if (out := normalizer.normalize_str(chr(c))) != chr(c)}


def combining_classes(nfd):
    """Canonical combining classes as the library orders marks; the class numbers are Unicode's."""
    # Of each class one mark that the library knows: newer ones have class 0 in its older table.
    top = chr(0x345)
    representatives = {unicodedata.combining(top): top}
    for c in SCALARS:
        k, s = unicodedata.combining(chr(c)), chr(c)
        if k and k not in representatives and nfd.normalize_str(top + s) == s + top:
            representatives[k] = s
    order = sorted(representatives)
    classes = {}
    for c in SCALARS:
        s = chr(c)
        if nfd.normalize_str(s) != s:
            continue
        if s in representatives.values():
            classes[c] = unicodedata.combining(s)
            continue
        if nfd.normalize_str(top + s) == top + s:
            assert nfd.normalize_str(s + representatives[1]) == s + representatives[1], hex(c)
            continue
        above = [k for k in order if nfd.normalize_str(s + representatives[k]) == s + representatives[k]]
        classes[c] = above[0]
        r = representatives[classes[c]]
        assert nfd.normalize_str(r + s) == r + s, hex(c)
    return classes


def cluster_normalizer():
    """A `Precompiled` normalizer that turns every scalar but U+0001 into "|".

    The library replaces a whole cluster of fewer than six bytes at once, and longer ones scalar by scalar: how many
    bars come back tells how a text falls into clusters. The double-array trie has one key for each first byte.
    """
    units = [0] * 1024
    units[0] = 256 << 10  # the root: children at 256 ^ byte
    for byte in [*range(2, 128), *range(0xC2, 0xF5)]:
        units[256 + byte] = 512 << 10 | 1 << 8 | byte  # a key ends here; its value at 512 ^ (256 + byte)
        units[768 + byte] = 1 << 31
    trie = b"".join(unit.to_bytes(4, "little") for unit in units)
    return normalizers.Precompiled(len(trie).to_bytes(4, "little") + trie + b"|\0")


def grapheme_sets():
    """What extended grapheme clusters depend on, as far as clusters of fewer than six bytes show it."""
    normalizer = cluster_normalizer()
    scalars = [c for c in SCALARS if c > 1]
    ka, virama, acute, joiner, sign = "\u0915", "\u094d", "\u0301", "\u200d", "\u00a9"

    def where(before, after, bars, scalars=scalars):
        """The scalars for which `before + scalar + after` gives so many bars."""
        out = []
        for i in range(0, len(scalars), 20000):
            part = scalars[i : i + 20000]
            lines = normalizer.normalize_str("\x01".join(before + chr(c) + after for c in part)).split("\x01")
            assert len(lines) == len(part)
            out += [c for c, line in zip(part, lines) if len(line) == bars]
        return out

    joins = where("a", "", 1)
    controls = [0, 1] + where("", acute + acute, 2)
    linkers = where(ka, ka + acute, 4, joins)
    apart = set(joins) | set(controls)
    letters = [c for c in scalars if 0x800 <= c < 0x10000 and c not in apart]
    return [
        ("controls", "What nothing joins.", controls),
        ("joins", "What joins the cluster before it.", joins),
        ("prepends", "What the next scalar joins.", where("", "a", 1)),
        ("pictographs", "What joins a pictograph and a zero-width joiner.", 
         [c for c in where(sign + joiner, "", 3) if c not in apart]),
        ("extends", "What may stand between a pictograph and a joiner.",
         where(sign, joiner + sign + acute, 5, joins)),
        ("consonants", "Consonants of conjuncts.", where(ka + virama, acute, 4, letters)),
        ("linkers", "What links two consonants.", linkers),
        ("fillers", "What may stand beside a linker.",
         sorted(set(where(ka + virama, ka + acute, 5, joins)) - set(linkers))),
    ]


def runs(scalars):
    """`gap length gap length …`, the gap counted from the end of the run before."""
    out, end = [], 0
    scalars = sorted(scalars)
    i = 0
    while i < len(scalars):
        j = i
        while j + 1 < len(scalars) and scalars[j + 1] == scalars[j] + 1:
            j += 1
        out += [scalars[i] - end, scalars[j] - scalars[i] + 1]
        end = scalars[j] + 1
        i = j + 1
    return " ".join(f"{v:x}" for v in out)


def class_runs(classes):
    """`gap.length.class …`, the gap counted from the end of the run before."""
    out, end = [], 0
    items = sorted(classes.items())
    i = 0
    while i < len(items):
        j = i
        while j + 1 < len(items) and items[j + 1] == (items[j][0] + 1, items[i][1]):
            j += 1
        out.append(f"{items[i][0] - end:x}.{j - i + 1:x}.{items[i][1]:x}")
        end = items[j][0] + 1
        i = j + 1
    return " ".join(out)


def mapping_runs(mapping):
    """`start.count.step.offset` for scalars that map to one scalar at a fixed distance."""
    items = sorted((c, ord(t)) for c, t in mapping.items() if len(t) == 1)
    out, i = [], 0
    while i < len(items):
        start, offset = items[i][0], items[i][1] - items[i][0]
        step = 0
        j = i
        while j + 1 < len(items) and items[j + 1][1] - items[j + 1][0] == offset:
            gap = items[j + 1][0] - items[j][0]
            if gap > 2 or (step and gap != step):
                break
            step = gap
            j += 1
        sign = "-" if offset < 0 else ""
        out.append(f"{start:x}.{j - i + 1:x}.{step or 1:x}.{sign}{abs(offset):x}")
        i = j + 1
    return " ".join(out)


def mappings(mapping):
    """`gap:scalar.scalar…`, the gap counted from the source before."""
    out, before = [], 0
    for c, t in sorted(mapping.items()):
        out.append(f"{c - before:x}:" + ".".join(f"{ord(x):x}" for x in t))
        before = c
    return " ".join(out)


def literal(name, doc, text):
    lines, line = [], ""
    for word in text.split(" "):
        if len(line) + 1 + len(word) > 114:
            lines.append(line)
            line = word
        else:
            line = f"{line} {word}" if line else word
    lines.append(line)
    body = "\n".join("    " + line for line in lines)
    return f'  /// {doc}\n  static let {name} = """\n{body}\n    """\n'


def grapheme_data():
    out = HEAD + "/// Classes of scalars for grapheme clusters: `gap length …` in hexadecimal, each gap counted from the end\n"
    out += "/// of the run before. Hangul and flags are computed.\n"
    out += "enum GraphemeData {\n"
    out += "\n".join(literal(name, doc, runs(scalars)) for name, doc, scalars in grapheme_sets())
    return out + "}\n"


def main():
    target = Path(sys.argv[1])
    nfd, nfkd, nfc = normalizers.NFD(), normalizers.NFKD(), normalizers.NFC()
    clean = normalizers.BertNormalizer(handle_chinese_chars=False, strip_accents=False, lowercase=False)
    strip = normalizers.BertNormalizer(
        clean_text=False, handle_chinese_chars=False, strip_accents=True, lowercase=False)
    hangul = range(0xAC00, 0xAC00 + 11172)

    lowercase = changed_by(normalizers.Lowercase())
    canonical = {c: t for c, t in changed_by(nfd).items() if c not in hangul}
    compatible = {c: t for c, t in changed_by(nfkd).items() if c not in hangul and canonical.get(c) != t}
    composed = sorted(c for c, t in canonical.items() if nfc.normalize_str(chr(c)) == chr(c))
    classes = combining_classes(nfd)

    sets = [
        ("letters", "`\\p{L}` of the regular-expression engine.", removed_by(r"\p{L}")),
        ("numbers", "`\\p{N}` of the regular-expression engine.", removed_by(r"\p{N}")),
        ("whitespace", "White space: `\\s`, and what splits words for BERT.", removed_by(r"\s")),
        ("digits", "What the `Digits` pre-tokenizer takes for a number.",
         isolated_by(pre_tokenizers.Digits(individual_digits=True))),
        ("punctuation", "What the `BertPreTokenizer` isolates.", isolated_by(pre_tokenizers.BertPreTokenizer())),
        ("marks", "Non-spacing marks, which accent stripping removes.", chosen(lambda c: strip.normalize_str(c) == "")),
        ("controls", "What `clean_text` removes.", chosen(lambda c: clean.normalize_str(c) == "")),
        ("words", "`\\w` around added tokens that match single words only.", word_scalars()),
    ]
    assert removed_by(r"\s") == chosen(lambda c: pre_tokenizers.BertPreTokenizer().pre_tokenize_str(c) == [])
    out = HEAD + "/// Sets of scalars: `gap length …` in hexadecimal, each gap counted from the end of the run before.\n"
    out += "enum UnicodeData {\n"
    out += "\n".join(literal(name, doc, runs(scalars)) for name, doc, scalars in sets)
    out += "\n" + literal(
        "lowercase", "Lower case of one scalar: `start.count.step.offset`.", mapping_runs(lowercase))
    out += "\n" + literal(
        "lowercaseLong", "Lower case that is longer than one scalar: `gap:scalar.scalar…`.",
        mappings({c: t for c, t in lowercase.items() if len(t) != 1}))
    out += "\n" + literal(
        "combiningClasses", "Canonical combining classes: `gap.length.class …`.", class_runs(classes))
    out += "}\n"
    (target / "UnicodeData.swift").write_text(out)

    out = HEAD + "/// Full decompositions `gap:scalar.scalar…` in hexadecimal, each gap counted from the source before.\n"
    out += "/// Hangul syllables are computed.\n"
    out += "enum UnicodeDecompositions {\n"
    out += literal("canonical", "Canonical decompositions (NFD).", mappings(canonical))
    out += "\n" + literal(
        "compatible", "Compatibility decompositions (NFKD) where they differ from the canonical ones.",
        mappings(compatible))
    out += "\n" + literal(
        "composed", "Scalars with a canonical decomposition that composition (NFC) gives back: `gap length …`.",
        runs(composed))
    out += "}\n"
    (target / "UnicodeDecompositions.swift").write_text(out)
    (target / "GraphemeData.swift").write_text(grapheme_data())
    print(len(canonical), len(compatible), len(composed), len(classes), {n: len(s) for n, _, s in sets})


if __name__ == "__main__":
    main()
