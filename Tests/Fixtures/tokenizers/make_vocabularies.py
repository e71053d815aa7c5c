"""Writes the fixtures of SentencePiece models, of vocabularies without tokenizer.json, and of what is made of them.

    python make_vocabularies.py

Written with sentencepiece 0.2.3, tokenizers 0.23 and transformers 5.23; `strings.json` must be there. Files written:

    t5/spiece.model                  unigram, nmt_nfkc rules; with <extra_id_…>
    llama/tokenizer.model            BPE with byte fallback, no rules, white space kept
    unigram-bytes/tokenizer.model    unigram with byte fallback and user-defined symbols, no dummy prefix
    bpe-rules/tokenizer.model        BPE without byte fallback, few rules, spaces at the end of words
    t5-fast, llama-fast              tokenizer.json that transformers makes of the first two; "CHARSMAP" stands for the
                                     rules of the model file in Base64
    unigram-fast                     the pieces of unigram-bytes in a tokenizer.json
    opt                              vocab.json, merges.txt and settings as OPT has them
    bert                             vocab.txt and settings, with [DEC]
    compact-<name>.json              what the libraries answer: hashes of ids and of decoded texts
    clusters.json                    texts, and how many bars `cluster_normalizer` makes of each
"""

import base64
import io
import json
import random
import re
import tempfile
from pathlib import Path

import sentencepiece as spm
from sentencepiece import sentencepiece_model_pb2 as pb
from tokenizers import Tokenizer
from transformers import BertTokenizer, GPT2Tokenizer, LlamaTokenizer, T5Tokenizer

import make_tokenizers as base
from make_tokenizers import fnv, hash_ids, replacements, sampled, sampled_sweep, section, sweep_texts
from make_unicode_tables import cluster_normalizer

HERE = Path(__file__).resolve().parent
FULL = 40  # texts whose ids are written out

EXTRA = [
    "</s>", "a</s>", "</s> a", "a </s> b", "<s>a", " <s> a b", "<unk>", "a <unk>  b", "<pad><pad>", "<s><s> </s>x", "<S>",
    "<extra_id_0>", "The <extra_id_0> dog <extra_id_99> sat", "<extra_id_1><extra_id_2>", "<extra_id_100>", "<extra_id_",
    "▁", "▁▁", "a▁b", " ▁a", "▁ a", "a ▁", "▁the", "<0x0A>", "<0x41><0x42>", "<0xE4>", "\t\ta\t", "a \u00a0 b", "\u3000a\u3000",
    "\ufb01sh \uff34\uff35", "\u2460\u00bd", "a\u0301\u0301", "\u00bd\u0301", "\uff21\u0301", "\u00a0\u0301x", "\u00a0\u0301",
    "\u2126\u0301", "\ud55c\u0301", "\u11a8\u0301", "\u1100\u1161\u0301", "\u0600a", "\u06001", "\u00a9\u200d\u00a9\u0301",
    "\u2764\u200d\u00a9\u0301", "\u0915\u094d\u0915\u0301", "\r\n", "a\r\nb", "\u200b\u0301", "\u00ad\u0301", "\x01a", " \x01 a",
    "<sep>", "a<sep>b", "a <sep> b<sep>", "riding", " riding a horse", "striding", "ridin", "<sep><sep>", "the riding<sep>the",
    "~~", "a ~~ b", "ﬀﬀ", "xﬀ y", "ss ß", "日本", "日本 a 日本", "a日b", "日 日", "ﷺ", "ﷺ ﷺ a", "[DEC]", "a [DEC] b", "[dec]",
    "a[DEC]", "[CLS] [DEC]", "</s></s>a", "<pad>a <pad>", "<|endoftext|>",
]


# MARK: Models


def lines():
    return [line.replace("\n", " ").replace("\t", " ") for line in base.corpus()]


def train(corpus, **options):
    model = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus), model_writer=model, hard_vocab_limit=False, character_coverage=0.98,
        num_threads=1, minloglevel=2, **options)
    proto = pb.ModelProto.FromString(model.getvalue())
    proto.trainer_spec.ClearField("input")
    proto.normalizer_spec.ClearField("normalization_rule_tsv")
    proto.denormalizer_spec.ClearField("normalization_rule_tsv")
    return proto


def rules():
    """Few rules, as code points: a ligature, an expansion, one that removes, one whose source starts another's."""
    table = [("ﬀ", "ff"), ("ß", "ss"), ("~", ""), ("~~", "tilde"), ("\t", " "), ("\u3000", " "), ("Ａ", "A"), ("…", "...")]
    code = lambda text: " ".join(f"{ord(c):X}" for c in text)
    file = tempfile.NamedTemporaryFile("w", suffix=".tsv", delete=False)
    file.write("".join(f"{code(a)}\t{code(b)}\n" for a, b in table))
    file.close()
    return file.name


def models():
    corpus = lines()
    return {
        "t5": ("spiece.model", train(
            corpus, model_type="unigram", vocab_size=1000, pad_id=0, eos_id=1, unk_id=2, bos_id=-1)),
        "llama": ("tokenizer.model", train(
            corpus, model_type="bpe", vocab_size=1200, byte_fallback=True, normalization_rule_name="identity",
            remove_extra_whitespaces=False, split_digits=True)),
        "unigram-bytes": ("tokenizer.model", train(
            corpus, model_type="unigram", vocab_size=1000, byte_fallback=True, normalization_rule_name="identity",
            add_dummy_prefix=False, user_defined_symbols=["<sep>", "riding", "日本", "ab"])),
        "bpe-rules": ("tokenizer.model", train(
            corpus, model_type="bpe", vocab_size=700, normalization_rule_tsv=rules(), treat_whitespace_as_suffix=True,
            user_defined_symbols=["<sep>", "riding", "日本", "ab"])),
    }


# MARK: Reference for model files


class Reference:
    """`sentencepiece`, with special tokens found in the text first and written out when decoding."""

    def __init__(self, proto, extra=0, start=(), end=(), legacy=True):
        self.sp = spm.SentencePieceProcessor(model_proto=proto.SerializeToString())
        plain = pb.ModelProto.FromString(proto.SerializeToString())
        plain.normalizer_spec.add_dummy_prefix = False
        self.rest = self.sp if legacy else spm.SentencePieceProcessor(model_proto=plain.SerializeToString())
        assert legacy or not proto.normalizer_spec.remove_extra_whitespaces
        kind = pb.ModelProto.SentencePiece
        self.special = {p.piece: i for i, p in enumerate(proto.pieces) if p.type in (kind.CONTROL, kind.UNKNOWN)}
        for i in range(extra):
            self.special[f"<extra_id_{i}>"] = len(proto.pieces) + extra - 1 - i
        self.unknown = self.sp.unk_id()
        self.literal = {i: t for t, i in self.special.items() if i != self.unknown}
        self.size = len(proto.pieces) + extra
        self.pattern = re.compile("(" + "|".join(map(re.escape, sorted(self.special, key=len, reverse=True))) + ")")
        self.start, self.end = list(start), list(end)
        self.anchor = next(
            i for i, p in enumerate(proto.pieces) if p.type == kind.NORMAL and p.piece == "e")

    def ids(self, text):
        out, at = [], 0
        for part in self.pattern.split(text):
            if part in self.special:
                out.append(self.special[part])
            elif part:
                out += (self.sp if at == 0 else self.rest).encode(part)
            at += len(part)
        return out

    def encode(self, text, pair=None, special=True):
        start, end = (self.start, self.end) if special else ([], [])
        out = start + self.ids(text) + end
        return out if pair is None else out + start + self.ids(pair) + end

    def decode(self, ids, skip):
        out, run = "", []

        def flush():
            nonlocal out, run
            if run:
                out += self.sp.decode([self.anchor] + run)[1:] if out else self.sp.decode(run)
            run = []

        for i in ids:
            if not 0 <= i < self.size or skip and i in self.special.values():
                continue
            if i in self.literal:
                flush()
                out += self.literal[i]
            else:
                run.append(i)
        flush()
        return out


class Library:
    """`tokenizers`, in the same form."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self.size = tokenizer.get_vocab_size()

    def encode(self, text, pair=None, special=True):
        return self.tokenizer.encode(text, pair, add_special_tokens=special).ids

    def decode(self, ids, skip):
        return self.tokenizer.decode(ids, skip_special_tokens=skip)


# MARK: Expected results


def row(reference, texts):
    """Hashes, eight digits a text: ids without and with special tokens; decoded with and without them."""
    ids, decoded, full = "", "", []
    for text in texts:
        plain, special = reference.encode(text, special=False), reference.encode(text)
        kept, skipped = reference.decode(special, False), reference.decode(special, True)
        ids += fnv((",".join(map(str, plain)) + "\n" + ",".join(map(str, special))).encode())
        decoded += fnv((kept + "\n" + skipped).encode())
        full.append([plain, special, kept, skipped])
    return ids, decoded, full


def expected(reference, texts, variants=()):
    ids, decoded, full = row(reference, texts)
    rng = random.Random(17)
    lists = []
    for _ in range(120):
        picked = [rng.randrange(reference.size + 9) if rng.random() < 0.6 else rng.randrange(270)
                  for _ in range(rng.randint(0, 16))]
        lists.append([picked, reference.decode(picked, False), reference.decode(picked, True)])
    out = {
        "size": reference.size, "ids": ids, "decoded": decoded, "full": full[:FULL], "lists": lists,
        "extra": [[t, *f] for t, f in zip(EXTRA, row(reference, EXTRA)[2])],
        "pairs": "".join(hash_ids(reference.encode(texts[i], texts[i + 1])) for i in range(0, 200, 4)),
        "sweep": "".join(hash_ids(reference.encode(t)) for t in sweep_texts()), "variants": {},
    }
    for name, (changes, variant) in dict(variants).items():
        ids, decoded, _ = row(variant, sampled(texts) + EXTRA)
        sweep = "".join(hash_ids(variant.encode(t)) for t in sampled_sweep())
        out["variants"][name] = {"replacements": changes, "ids": ids, "decoded": decoded, "sweep": sweep}
    return out


def json_variants(text, charsmap, changes):
    """Tokenizers from texts of tokenizer.json that have sections replaced."""
    out = {}
    for name, sections in changes.items():
        changed, swaps = replacements(text, sections)
        out[name] = (swaps, Library(Tokenizer.from_str(changed.replace("CHARSMAP", charsmap))))
    return out


def metaspace(**options):
    return {"type": "Metaspace", "replacement": "▁", **options}


def t5_variants():
    precompiled = {"type": "Precompiled", "precompiled_charsmap": "CHARSMAP"}
    spaces = lambda content: {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": content}
    strip = lambda left, right: {"type": "Strip", "strip_left": left, "strip_right": right}
    sequence = lambda *parts: section("normalizer", {"type": "Sequence", "normalizers": list(parts)})
    splits = lambda part: section("pre_tokenizer", {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, part]})
    old = metaspace(add_prefix_space=True)
    return {
        "2020": [sequence(precompiled, spaces(" ")), splits(old), section("decoder", old)],
        "2021": [section("pre_tokenizer", old), section("decoder", old)],
        "2023": [sequence(precompiled, strip(False, True), spaces("▁")),
                 section("pre_tokenizer", metaspace(add_prefix_space=True, prepend_scheme="always")),
                 section("decoder", metaspace(add_prefix_space=True, prepend_scheme="always"))],
        "first": [sequence(strip(True, False), precompiled), splits(metaspace(prepend_scheme="first", split=True)),
                  section("decoder", metaspace(prepend_scheme="first", split=True))],
        "first-whole": [section("pre_tokenizer", metaspace(prepend_scheme="first", split=False))],
        "first-stripped": [sequence(strip(True, True)), section("pre_tokenizer", metaspace(prepend_scheme="first"))],
        "never": [section("pre_tokenizer", metaspace(add_prefix_space=False, prepend_scheme="never")),
                  section("decoder", metaspace(add_prefix_space=False, prepend_scheme="never"))],
        "bare": [section("normalizer", None), section("pre_tokenizer", None), section("decoder", None)],
        "mixed": [sequence({"type": "NFD"}, precompiled, {"type": "Lowercase"}, {"type": "Prepend", "prepend": "x é"})],
    }


def llama_variants():
    prepend = {"type": "Prepend", "prepend": "▁"}
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    none = section("pre_tokenizer", None)
    decoder = lambda *parts: section("decoder", {"type": "Sequence", "decoders": list(parts)})
    spaces = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
    return {
        "legacy": [section("normalizer", {"type": "Sequence", "normalizers": [prepend, replace]}), none],
        "always": [section("pre_tokenizer", metaspace(prepend_scheme="always", split=False))],
        "never": [section("pre_tokenizer", metaspace(prepend_scheme="never", split=False)),
                  decoder(spaces, {"type": "ByteFallback"}, {"type": "Fuse"})],
        "strip": [decoder(spaces, {"type": "ByteFallback"}, {"type": "Fuse"},
                          {"type": "Strip", "content": "e", "start": 3, "stop": 0})],
        "split": [section("pre_tokenizer", metaspace(prepend_scheme="first", split=True))],
    }


def unigram_json(proto):
    """The pieces of a model in a tokenizer.json of their own, with byte fallback."""
    data = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
        "pre_tokenizer": metaspace(prepend_scheme="always"), "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, metaspace(prepend_scheme="always")]},
        "model": {"type": "Unigram", "unk_id": 0, "vocab": [[p.piece, p.score] for p in proto.pieces], "byte_fallback": True},
    }
    return json.dumps(data, ensure_ascii=False, separators=(",", ":"))


# MARK: Vocabularies without models


def write(path, value):
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n")


def write_opt(folder):
    folder.mkdir(exist_ok=True)
    tokenizer = Tokenizer(base.models.BPE())
    tokenizer.pre_tokenizer = base.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.train_from_iterator(base.corpus(), base.trainers.BpeTrainer(
        vocab_size=1000, special_tokens=["<s>", "<pad>", "</s>", "<unk>"], show_progress=False,
        initial_alphabet=sorted(base.pre_tokenizers.ByteLevel.alphabet())))
    data = json.loads(tokenizer.to_str())["model"]
    write(folder / "vocab.json", data["vocab"])
    merges = [" ".join(m) if isinstance(m, list) else m for m in data["merges"]]
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    token = lambda content: {"__type": "AddedToken", "content": content, "lstrip": False, "normalized": True,
                             "rstrip": False, "single_word": False}
    write(folder / "tokenizer_config.json", {
        "errors": "replace", "unk_token": token("</s>"), "bos_token": token("</s>"), "eos_token": token("</s>"),
        "pad_token": token("<pad>"), "add_prefix_space": False, "add_bos_token": True, "special_tokens_map_file": None,
        "tokenizer_class": "GPT2Tokenizer"})
    return GPT2Tokenizer.from_pretrained(folder)


def write_bert(folder):
    folder.mkdir(exist_ok=True)
    tokens = sorted(base.word_piece().get_vocab(with_added_tokens=False).items(), key=lambda item: item[1])
    tokens = [token for token, _ in tokens][:1200]
    (folder / "vocab.txt").write_text("\n".join(tokens) + "\n")
    write(folder / "tokenizer_config.json", {
        "do_lower_case": True, "model_max_length": 512, "tokenizer_class": "BertTokenizer",
        "added_tokens_decoder": {str(len(tokens)): {
            "content": "[DEC]", "lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}},
        "bos_token": "[DEC]"})
    write(folder / "added_tokens.json", {"[DEC]": len(tokens)})
    write(folder / "special_tokens_map.json", {
        "bos_token": "[DEC]", "cls_token": "[CLS]", "mask_token": "[MASK]", "pad_token": "[PAD]", "sep_token": "[SEP]",
        "unk_token": "[UNK]"})
    tokenizer = BertTokenizer.from_pretrained(folder)
    assert tokenizer.convert_tokens_to_ids("[DEC]") == len(tokens)
    return tokenizer


def clusters():
    """Texts of scalars that join each other in all the ways there are."""
    pool = [*"aé½©❤👍🏽कतকส가각각🇫🇷", *"\r\n\t\u0301\u0308\u0323\u200d\ufe0f\u200b\u00ad\u0600\u06dd\u070f\u0d4e\u094d\u09cd"
            "\u0903\u093c\u0e33\u1160\U000e0001\U000e0020\U0001d165\U00011d46"]
    rng = random.Random(29)
    texts = ["".join(rng.choices(pool, k=rng.randint(2, 9))) for _ in range(1200)]
    normalizer = cluster_normalizer()
    return [[text, len(normalizer.normalize_str(text))] for text in texts]


def main():
    write(HERE / "clusters.json", clusters())
    texts = json.loads((HERE / "strings.json").read_text())
    made = models()
    for name, (file, proto) in made.items():
        (HERE / name).mkdir(exist_ok=True)
        (HERE / name / file).write_bytes(proto.SerializeToString())
        print(name, len(proto.pieces), len(proto.SerializeToString()))

    protos = {name: proto for name, (_, proto) in made.items()}
    write(HERE / "compact-t5.json", expected(Reference(protos["t5"], extra=100, end=[1]), texts))
    write(HERE / "compact-llama.json", expected(
        Reference(protos["llama"], start=[1]), texts,
        {"current": ([], Reference(protos["llama"], start=[1], end=[2], legacy=False))}))
    for name in ["unigram-bytes", "bpe-rules"]:
        write(HERE / f"compact-{name}.json", expected(Reference(protos[name], start=[1]), texts))

    charsmap = base64.b64encode(protos["t5"].normalizer_spec.precompiled_charsmap).decode()
    for name, cls, variants in [("t5", T5Tokenizer, t5_variants), ("llama", LlamaTokenizer, llama_variants)]:
        tokenizer = cls.from_pretrained(HERE / name)
        text = json.dumps(json.loads(tokenizer._tokenizer.to_str()), ensure_ascii=False, separators=(",", ":"))
        short = text.replace(charsmap, "CHARSMAP")
        (HERE / f"{name}-fast").mkdir(exist_ok=True)
        (HERE / f"{name}-fast" / "tokenizer.json").write_text(short + "\n")
        out = expected(Library(Tokenizer.from_str(text)), texts, json_variants(short, charsmap, variants()))
        rules = protos[name].normalizer_spec.precompiled_charsmap
        out["charsmap"] = [protos[name].SerializeToString().find(rules), len(rules)]
        write(HERE / f"compact-{name}-fast.json", out)
    text = unigram_json(protos["unigram-bytes"])
    (HERE / "unigram-fast").mkdir(exist_ok=True)
    (HERE / "unigram-fast" / "tokenizer.json").write_text(text + "\n")
    write(HERE / "compact-unigram-fast.json", expected(Library(Tokenizer.from_str(text)), texts))

    for name, make in [("opt", write_opt), ("bert", write_bert)]:
        write(HERE / f"compact-{name}.json", expected(Library(make(HERE / name)._tokenizer), texts))


if __name__ == "__main__":
    main()
