"""Writes the tokenizer fixtures: strings, small trained tokenizers, and what the Python library makes of them.

    python make_tokenizers.py [folder with minilm-l6/tokenizer.json and smollm2-135m-instruct/tokenizer.json]

Written with tokenizers 0.23. The default folder is ~/.cache/swift-qformer/models. Files written:

    strings.json            the texts, once for all tokenizers
    <name>/tokenizer.json   three small trained tokenizers
    expected-<name>.json    ids and decoded texts: whole for the first texts, hashes for the rest, and variants of the
                            tokenizer as text replacements in tokenizer.json
"""

import json
import random
import sys
import unicodedata
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

HERE = Path(__file__).resolve().parent
FULL = 300  # texts whose ids are written out
CHUNK = 512  # scalars in one text of the sweep


# MARK: Texts


def sentences(rng, count):
    people = ["A man", "two women", "The little girl", "An old farmer", "a dog", "Three cats", "Nobody", "the crowd"]
    verbs = ["is riding", "looks at", "carries", "doesn't see", "hasn't eaten", "we've painted", "they're near", "'ll buy"]
    things = ["a red bus", "the brown horse", "surfboards", "a wedding-cake", "pizza (with cheese)", "its own shadow",
              "an umbrella", "12 bananas", "the 3rd window", "a $4.50 coffee", "some skyscrapers"]
    places = ["on the beach", "in New York City", "under a bridge", "at 7:30 p.m.", "next to the café", "near Zürich",
              "inside", "behind the refrigerator", "by the river's edge", "on a snowy mountain-top"]
    ends = [".", "!", "?", "...", " .", "", "\n", " and waits , quietly ."]
    return [f"{rng.choice(people)} {rng.choice(verbs)} {rng.choice(things)} {rng.choice(places)}{rng.choice(ends)}"
            for _ in range(count)]


def fixed_texts():
    family = "\U0001F468\u200D\U0001F469\u200D\U0001F467\u200D\U0001F466"
    texts = [
        "", " ", "  ", "\t", "\n", "\r\n", "\r", "\u00a0", "\u3000", "\u2028", "\u2029", "\u0085", "\x0b\x0c", "\u1680",
        "a", "A", "é", "e\u0301", "E\u0301\u0327", "e\u0327\u0301", "\u0301", "\u0301\u0301a", "ı", "İ", "I\u0307", "ß",
        "ẞ", "ΑΣ", "ΑΣ ΑΣ.", "ὈΔΥΣΣΕΎΣ", "ǅ", "ﬃ", "Ⅷ", "①②③", "½", "²³", "٣٤٥", "१२३", "〇一二三", "𝟘𝟙𝟚", "𝐀𝐁",
        "Å", "Å", "Ω", "K", "가", "\u1100\u1161", "\u1100\u1161\u11a8", "각", "한국어 문장입니다.", "ㅎㅏㄴ",
        unicodedata.normalize("NFD", "대한민국의 수도는 서울이다"), "你好，世界！", "漢字とかな交じり文。", "ｶﾞｷﾞｸﾞ", "ガギグ", "カ\u3099",
        "ประเทศไทย กรุงเทพมหานคร", "น้ำ", "العربية السَّلَامُ عَلَيْكُمْ", "עִבְרִית שָׁלוֹם", "हिन्दी में लिखा", "বাংলা", "தமிழ்", "ភាសាខ្មែរ",
        "ქართული", "ᲥᲐᲠᲗᲣᲚᲘ", "Հայերեն", "Ελληνικά", "Русский текст, ё й", "Tiếng Việt: ậ ữ ỗ", "Ünïcödé", "naïve façade",
        "\x00", "a\x00b", "\x01\x02\x1f", "\x7f", "\x80\x9f", "a\u00adb", "\ufeffa", "\ufffd", "a\ufffdb", "\ufffe\uffff",
        "\u200b", "a\u200bb", "\u200c\u200d", "\u2060", "\u202e\u202cabc", "\ue000", "\uf8ff x", "\U000f0000", "\U0010fffd",
        "\U0010ffff", "\ud7ff\ue000", "\uffef\U00010000", "\u0378", "\U0001ffff", "\U000e0001\U000e0061", "\u180e",
        "😀", "👍🏽", family, "🏳️‍🌈", "🇫🇷🇯🇵", "1️⃣", "❤️", "☺", "☺️", "👩🏾‍🚀 in space", "😀😀😀😀", "a😀b", " 😀", "😀 ",
        "don't I'm we've they're he'll she'd it's 's 't 'S 'LL 'Re 'VE 'x", "DON'T I'M WE'VE THEY'RE HE'LL", "'ſ 'K", "''s '' ' '",
        "123456789", "3.14159", "1,000,000", "1 2 3", "0x1F 1e-9 50%", "v1.2.3-rc4", "12:34:56", "1234567890123456789012345",
        "http://example.com/a?b=c&d=%20#e", "mail@example.org", "C:\\Users\\x", "/usr/local/bin", "snake_case camelCase",
        "for (int i = 0; i < n; ++i) {\n    a[i] += b[i] * 2;\n}\n", "def f(x):\n\treturn x ** 2  # square\n",
        "<html><body>&amp;</body></html>", "{\"key\": [1, 2.5, null]}", "SELECT * FROM t WHERE a='b';", "x=y;;z", "a--b", "!!!???",
        "~`!@#$%^&*()_-+={[}]|\\:;\"'<,>.?/", "¡¿«»“”‘’…–—", "€£¥₹₿", "±×÷≠≤≥∞∑√", "→←↑↓⇒", "♥♦♣♠", "™©®", "αβγ", "\u0301a\u0302",
        " leading", "trailing ", "  two  spaces  ", "a\tb", "a\n\nb", "a \n b", "a\r\n\r\nb", " \n", "\n ", "a   ", "   a", " \t \n x",
        "a\u00a0b", "\u00a0a", "a\u2003\u2003b", "[CLS]", "[SEP] [MASK]", "a[CLS]b", "[cls]", "[CLS", "[UNK][PAD]", "[MASK].",
        "<|im_start|>user\nHi<|im_end|>\n", "<|endoftext|>", "<|im_start|", "<|im_start|><|im_start|>", "<|im_start|>[CLS]",
        "a <mask> b", "a<mask>b", "  <mask>  ", "\u00a0\n<mask>\t<mask> x", "x <right>  y", "<right> <right>", "a  <both>  b",
        "<both> <both>", "<both><both>", "solo", "a solo b", "solos", "asolo", "solo-solo", "solo solo", "ésolo", "solo\u0301",
        "_solo", "(solo)", "solo1", "Münze", "münze", "MÜNZE", "Mu\u0308nze", "xMünzey", "<|im", "<|im<|im_start|>", "<|im_",
        "##ing", "a ##b", "Ġthe", "Ċ", "ĠĠ", "ÃĬ", "<0x41>", "<unk>", "</w>", "a" * 99, "a" * 100, "a" * 101, "é" * 100,
        "e\u0301" * 60, "中" * 120, "x" * 1000, " " * 1000, "\n" * 300, "ab " * 400, "!" * 500, "9" * 500, "'s" * 200,
        "\u0301" * 400, "a" + "\u0327\u0301\u0323" * 100, "😀" * 200, "가" * 200, "aA" * 300, "0a" * 300, "\x00" * 100,
    ]
    return texts


def block_texts():
    """32 scalars of every 128, over the planes that have letters or signs."""
    texts = []
    for start in list(range(0, 0x20000, 0x80)) + list(range(0x2F800, 0x2FA80, 0x80)) + [0xE0000, 0xE0100]:
        scalars = [chr(c) for c in range(start, start + 0x80) if not 0xD800 <= c <= 0xDFFF]
        rng = random.Random(start)
        chosen = [c for c in scalars if unicodedata.category(c) != "Cn"]
        if not chosen:
            continue
        rng.shuffle(chosen)
        texts.append("".join(c + rng.choice(["", "", " ", "a"]) for c in chosen[:32]))
    return texts


def random_texts(rng, pool, count):
    alphabet = [
        "a", "b", "e", "s", "t", "X", "Z", "É", "é", "e\u0301", "\u0327", "\u0301", "ß", "İ", "ſ", "1", "2", "٣", "½", " ", " ",
        "  ", "\n", "\r", "\t", "\u00a0", "\u3000", "'", "'s", "'ll", "'RE", ".", ",", "-", "_", "!", "#", "…", "中", "文", "か\u3099",
        "한", "\u1112\u1161\u11ab", "ส", "ำ", "ع", "\u0651", "ש", "\u05b8", "😀", "\u200d", "\ufe0f", "🏽", "\x00", "\x07", "\u00ad",
        "\ue001", "\U0010fffd", "\u0378", "[CLS]", "[SEP]", "[MASK]", "<|im_start|>", "<|im_end|>", "<|im", "<mask>", "<right>",
        "<both>", "solo", "Münze", "##", "Ġ", "the", "ing", "horse", "<0x0A>",
    ]
    texts = ["".join(rng.choice(alphabet) for _ in range(rng.randint(1, 24))) for _ in range(count)]
    for _ in range(count // 4):  # cuts and joins of other texts
        a, b = rng.choice(pool), rng.choice(pool)
        texts.append(a[: rng.randint(0, min(len(a), 80))] + b[rng.randint(0, len(b)) :][:80])
    for _ in range(count // 4):  # any scalars
        scalars = []
        while len(scalars) < 12:
            c = rng.choice([rng.randrange(0x250), rng.randrange(0x3000), rng.randrange(0x20000), rng.randrange(0x110000)])
            if not 0xD800 <= c <= 0xDFFF:
                scalars.append(chr(c))
        texts.append("".join(scalars))
    return texts


def make_texts():
    rng = random.Random(20240)
    texts = fixed_texts() + sentences(rng, 150)
    texts += block_texts()
    texts += random_texts(rng, list(texts), 700)
    long = random.Random(7)
    words = " ".join(sentences(long, 400))
    texts += [words[:20000], "".join(chr(long.randrange(97, 123)) for _ in range(20000)), "ab" * 10000]
    texts += ["".join(long.choice("aé中😀 .\n'1") for _ in range(8000))]
    return texts


def sweep_texts():
    """Every scalar of two planes and some of a third, each before an "a". The test builds the same texts."""
    texts = []
    for start in list(range(0, 0x20000, CHUNK)) + [0x2F800, 0xE0000]:
        texts.append("".join(chr(c) + "a" for c in range(start, start + CHUNK) if not 0xD800 <= c <= 0xDFFF))
    return texts


def sampled(texts):
    """The texts that variants are tried with: the first, and every fourth of the others."""
    return [t for i, t in enumerate(texts) if i < 260 or i % 4 == 0]


def sampled_sweep():
    """Without the long blocks of ideographs, syllables and ancient scripts, which are all alike."""
    starts = list(range(0, 0x20000, CHUNK)) + [0x2F800, 0xE0000]
    alike = [range(0x3400, 0xA000), range(0xAC00, 0xD600), range(0xE000, 0xF800), range(0x12000, 0x1D000)]
    return [t for t, start in zip(sweep_texts(), starts) if not any(start in r for r in alike)]


# MARK: Small tokenizers


def corpus():
    rng = random.Random(5)
    lines = sentences(rng, 4000)
    for c in range(0x20, 0x3000):
        name = unicodedata.name(chr(c), "")
        lines.append(f"{chr(c)} {name.capitalize()} {name.lower()}")
    lines += ["def f(x):\n\treturn x ** 2\n", "for (int i = 0; i < n; ++i) {\n    a[i] += 1;\n}", "你好世界 漢字 한국어 문장 😀 👍🏽"] * 30
    return lines


def added():
    return [
        AddedToken("<|im_start|>", special=True, normalized=False), AddedToken("<|im_end|>", special=True, normalized=False),
        AddedToken("<mask>", special=True, normalized=False, lstrip=True), AddedToken("<right>", normalized=False, rstrip=True),
        AddedToken("<both>", special=True, normalized=True, lstrip=True, rstrip=True),
        AddedToken("solo", normalized=False, single_word=True), AddedToken("Münze", special=True, normalized=True),
        AddedToken("<|im", normalized=False),
    ]


def byte_bpe():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1500, special_tokens=["<|endoftext|>"], initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False)
    tokenizer.train_from_iterator(corpus(), trainer)
    tokenizer.add_tokens(added())
    return tokenizer


def word_piece():
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=2000, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], limit_alphabet=500,
        show_progress=False)
    tokenizer.train_from_iterator(corpus(), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    tokenizer.add_tokens(added())
    return tokenizer


def char_bpe():
    """Characters with an end-of-word suffix, an unknown token, and byte tokens that a variant uses."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=["<unk>"], limit_alphabet=80, end_of_word_suffix="</w>", show_progress=False)
    tokenizer.train_from_iterator(sentences(random.Random(9), 4000), trainer)
    data = json.loads(tokenizer.to_str())
    vocab = data["model"]["vocab"]
    for byte in range(256):
        vocab.setdefault(f"<0x{byte:02X}>", len(vocab))
    return Tokenizer.from_str(json.dumps(data))


def compact(tokenizer):
    return json.dumps(json.loads(tokenizer.to_str()), ensure_ascii=False, separators=(",", ":"))


# MARK: Variants: replacements in the text of tokenizer.json


def section(name, value):
    return name, value


def template(single, pair):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.post_processor = processors.TemplateProcessing(
        single=single, pair=pair, special_tokens=[("[X]", 0), ("[Y]", 1)])
    return json.loads(tokenizer.to_str())["post_processor"]


CL100K = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
          r"|\s+(?!\S)|\s+")
QWEN2 = CL100K.replace(r"\p{N}{1,3}", r"\p{N}")
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
PLAIN = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}


def split(pattern, behavior, invert=False):
    kind = "String" if len(pattern) < 4 else "Regex"
    first = {"type": "Split", "pattern": {kind: pattern}, "behavior": behavior, "invert": invert}
    return section("pre_tokenizer", {"type": "Sequence", "pretokenizers": [first, PLAIN]})


# Variants that every scalar of the sampled sweep is tried with: those that look at single scalars.
SWEPT = {"nfc", "nfd", "nfkc", "nfkd-lower", "numbers", "cl100k", "cased", "cased-stripped", "accents", "unclean", "chinese"}


def bpe_variants():
    nf = lambda *names: section(
        "normalizer", {"type": "Sequence", "normalizers": [{"type": n} for n in names]} if len(names) > 1 else {"type": names[0]})
    replace = {"type": "Replace", "pattern": {"String": "e "}, "content": "é\n"}
    digits = lambda individual: section("pre_tokenizer", {"type": "Sequence", "pretokenizers": [
        {"type": "Digits", "individual_digits": individual}, {**PLAIN, "use_regex": True}]})
    return {
        "nfc": [nf("NFC")], "nfd": [nf("NFD")], "nfkc": [nf("NFKC")], "nfkd-lower": [nf("NFKD", "Lowercase")],
        "lower-nfc": [nf("Lowercase", "NFC")],
        "replace": [section("normalizer", {"type": "Sequence", "normalizers": [replace, {"type": "NFC"}]})],
        "prefix-space": [section("pre_tokenizer", {**PLAIN, "add_prefix_space": True, "use_regex": True})],
        "whole": [section("pre_tokenizer", PLAIN)], "digits": [digits(True)], "numbers": [digits(False)],
        "cl100k": [split(CL100K, "Isolated")], "qwen2": [split(QWEN2, "Isolated")],
        "gpt2-removed": [split(GPT2, "Removed", True)],
        "comma-removed": [split("e", "Removed")], "previous": [split(" ", "MergedWithPrevious")],
        "next": [split(" ", "MergedWithNext")], "contiguous": [split("aa", "Contiguous", True)],
        "ignore-merges": [section("model.ignore_merges", True), section("pre_tokenizer", PLAIN)],
        "template": [section("post_processor", template("[X] $A [Y] $A", "$B [X] $A"))],
        "bert": [section("post_processor", {"type": "BertProcessing", "sep": ["b", 5], "cls": ["a", 4]})],
        "roberta": [section("post_processor", {
            "type": "RobertaProcessing", "sep": ["b", 5], "cls": ["a", 4], "trim_offsets": True, "add_prefix_space": True})],
        "processors": [section("post_processor", {"type": "Sequence", "processors": [
            {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True},
            template("$A [Y]", "$A $B")]})],
        "no-decoder": [section("decoder", None)],
        "fused": [section("decoder", {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "Ġ"}, "content": "__"}, {"type": "Fuse"}]})],
    }


def bert_variants():
    bert = lambda **flags: section("normalizer", {
        "type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": True,
        **flags})
    return {
        "cased": [bert(lowercase=False)], "accents": [bert(strip_accents=False)],
        "cased-stripped": [bert(lowercase=False, strip_accents=True)], "unclean": [bert(clean_text=False)],
        "chinese": [bert(handle_chinese_chars=False)], "bare": [section("normalizer", None)],
        "no-cleanup": [section("decoder", {"type": "WordPiece", "prefix": "##", "cleanup": False})],
        "short-words": [section("model.max_input_chars_per_word", 3)],
    }


def char_variants():
    return {
        "fuse": [section("model.fuse_unk", True)], "fallback": [section("model.byte_fallback", True)],
        "no-unknown": [section("model.unk_token", None)], "no-suffix": [section("model.end_of_word_suffix", None)],
    }


def replacements(text, changes):
    """The changes as pairs of texts, each of which stands once in tokenizer.json."""
    data = json.loads(text)
    dump = lambda value: json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    pairs = []
    for name, value in changes:
        holder, key = (data["model"], name.split(".")[1]) if "." in name else (data, name)
        before, after = f'"{key}":{dump(holder[key])},', f'"{key}":{dump(value)},'
        assert text.count(before) == 1, (name, text.count(before))
        pairs.append([before, after])
        text = text.replace(before, after)
    return text, pairs


# MARK: Expected results


def fnv(data):
    value = 0xCBF29CE484222325
    for byte in data:
        value = ((value ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return f"{(value >> 32) ^ (value & 0xFFFFFFFF):08x}"


def hash_ids(ids):
    return fnv(",".join(map(str, ids)).encode())


def results(tokenizer, texts):
    """Hashes, eight digits a text: ids with and without special tokens, decoded with and without skipping."""
    plain, special, kept, skipped = [], [], [], []
    for text in texts:
        plain.append(tokenizer.encode(text, add_special_tokens=False).ids)
        special.append(tokenizer.encode(text, add_special_tokens=True).ids)
        kept.append(tokenizer.decode(special[-1], skip_special_tokens=False))
        skipped.append(tokenizer.decode(special[-1], skip_special_tokens=True))
    hashes = {
        "plain": "".join(map(hash_ids, plain)), "special": "".join(map(hash_ids, special)),
        "kept": "".join(fnv(t.encode()) for t in kept), "skipped": "".join(fnv(t.encode()) for t in skipped),
    }
    return hashes, plain, special, kept, skipped


def expected(tokenizer, texts, text, variants):
    tokenizer.no_truncation()
    tokenizer.no_padding()
    hashes, plain, special, kept, skipped = results(tokenizer, texts)
    rng = random.Random(11)
    size = tokenizer.get_vocab_size()
    decoded = []
    for _ in range(150):
        ids = [rng.randrange(size + 20) if rng.random() < 0.97 else 10**9 + rng.randrange(9) for _ in range(rng.randint(0, 14))]
        decoded.append([ids, tokenizer.decode(ids, skip_special_tokens=False), tokenizer.decode(ids)])
    pairs = [[i, i + 1, hash_ids(tokenizer.encode(texts[i], texts[i + 1]).ids),
              hash_ids(tokenizer.encode(texts[i], texts[i + 1], add_special_tokens=False).ids)] for i in range(0, 200, 4)]
    out = {
        "size": size, "hashes": hashes, "pairs": pairs, "decoded": decoded,
        "full": [[p, s, k, d] for p, s, k, d in zip(plain[:FULL], special[:FULL], kept[:FULL], skipped[:FULL])],
        "sweep": "".join(hash_ids(tokenizer.encode(t).ids) for t in sweep_texts()), "variants": {},
    }
    for name, changes in variants.items():
        changed, swaps = replacements(text, changes)
        variant = Tokenizer.from_str(changed)
        _, _, special, kept, _ = results(variant, sampled(texts))
        both = "".join(fnv((",".join(map(str, ids)) + "\n" + text).encode()) for ids, text in zip(special, kept))
        sweep = "".join(hash_ids(variant.encode(t).ids) for t in sampled_sweep()) if name in SWEPT else ""
        pair = "".join(hash_ids(variant.encode(texts[i], texts[i + 1]).ids) for i in range(0, 200, 4))
        out["variants"][name] = {
            "replacements": swaps, "texts": both, "sweep": sweep, "pairs": pair}
    return out


def write(path, value):
    path.write_text(json.dumps(value, ensure_ascii=True, separators=(",", ":")) + "\n")


def main():
    cache = Path(sys.argv[1]) if len(sys.argv) > 1 else Path.home() / ".cache/swift-qformer/models"
    texts = make_texts()
    write(HERE / "strings.json", texts)
    print(len(texts), "texts")
    small = {"byte-bpe": (byte_bpe, bpe_variants), "word-piece": (word_piece, bert_variants),
             "char-bpe": (char_bpe, char_variants)}
    for name, (make, variants) in small.items():
        text = compact(make())
        (HERE / name).mkdir(exist_ok=True)
        (HERE / name / "tokenizer.json").write_text(text + "\n")
        write(HERE / f"expected-{name}.json", expected(Tokenizer.from_str(text), texts, text, variants()))
    for name in ["minilm-l6", "smollm2-135m-instruct"]:
        path = cache / name / "tokenizer.json"
        write(HERE / f"expected-{name}.json", expected(Tokenizer.from_file(str(path)), texts, "", {}))


if __name__ == "__main__":
    main()
