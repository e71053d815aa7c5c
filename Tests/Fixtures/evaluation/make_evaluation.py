"""Writes tokens.json and scores.json with the COCO caption evaluation itself (needs Java).

    pip install pycocoevalcap==1.2
    python make_evaluation.py

The captions are generated below, or are the odd ones of odd_captions.txt, which were written for this purpose.
"""

import json
import pathlib
import random

from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

HERE = pathlib.Path(__file__).parent
SUBJECTS = ["a man", "two women", "the dog", "a brown-and-white dog", "three children", "the girl's brother",
            "an 8-year-old boy", "people", "a cyclist", "the dogs' owner", "a player (number 12)", "someone"]
VERBS = ["runs through", "is jumping over", "stands near", "can't see", "isn't in", "looks at", "plays with", "sits on"]
OBJECTS = ["a red ball", "the grass", "a T-shirt", "the water", "an old man/woman", "a fence", "the U.S. flag",
           "a half-pipe", "the snow", "St. Mary's church", "a sign that says \"STOP\"", "5.5-inch nails"]
ENDS = ["", ".", " .", "!", "...", ", smiling.", "; it's sunny.", " at 5:30 p.m.", " -- in summer", " - outdoors ."]


def caption(rng):
    text = f"{rng.choice(SUBJECTS)} {rng.choice(VERBS)} {rng.choice(OBJECTS)}"
    if rng.random() < 0.3:
        text += f" and {rng.choice(VERBS)} {rng.choice(OBJECTS)}"
    if rng.random() < 0.5:
        text = text[0].upper() + text[1:]
    return text + rng.choice(ENDS)


def tokenize(captions):
    # Each caption is followed by a neutral one, so that none is read together with its successor.
    pairs = {i: [{"caption": c}, {"caption": "zzz"}] for i, c in enumerate(captions)}
    return [v[0].split() for v in PTBTokenizer().tokenize(pairs).values()]


def scored(hypotheses, references):
    gts = PTBTokenizer().tokenize({i: [{"caption": c} for c in r] for i, r in enumerate(references)})
    res = PTBTokenizer().tokenize({i: [{"caption": h}] for i, h in enumerate(hypotheses)})
    bleu, _ = Bleu(4).compute_score(gts, res, verbose=0)
    cider, each = Cider().compute_score(gts, res)
    rouge, rouges = Rouge().compute_score(gts, res)
    return {"hypotheses": hypotheses, "references": references, "bleu": bleu, "cider": float(cider),
            "ciderEach": [float(x) for x in each], "rouge": float(rouge), "rougeEach": [float(x) for x in rouges]}


def main():
    rng = random.Random(7)
    odd = [line for line in (HERE / "odd_captions.txt").read_text().split("\n") if line.strip()]
    pieces = [w for line in odd for w in line.split()]
    captions = odd + [caption(rng) for _ in range(300)] + pieces
    captions += [" ".join(rng.sample(pieces, 3)) for _ in range(300)]
    words = tokenize(captions)
    lines = [json.dumps({"caption": c, "words": w}, ensure_ascii=False) for c, w in zip(captions, words)]
    (HERE / "tokens.json").write_text("[\n" + ",\n".join(lines) + "\n]\n")

    sets = {}
    references = [[caption(rng) for _ in range(5)] for _ in range(40)]
    hypotheses = []
    for i, r in enumerate(references):
        kind = i % 8
        if kind == 0:
            hypotheses.append(r[2])
        elif kind == 1:
            hypotheses.append(" ".join(r[0].split()[: len(r[0].split()) // 2]))
        elif kind == 2:
            hypotheses.append(caption(rng))
        elif kind == 3:
            hypotheses.append(r[1] + " " + r[3])
        elif kind == 4:
            hypotheses.append("dog")
        elif kind == 5:
            hypotheses.append("the the the the the the the")
        elif kind == 6:
            hypotheses.append("" if i % 16 == 6 else "unheard words altogether")
        else:
            w = r[4].split()
            rng.shuffle(w)
            hypotheses.append(" ".join(w))
    sets["forty"] = scored(hypotheses, references)
    uneven = [[caption(rng) for _ in range(1 + i % 5)] for i in range(12)]
    sets["uneven"] = scored([caption(rng) for _ in range(12)], uneven)
    sets["one"] = scored(["a man runs"], [["a man runs fast", "the man is running"]])
    sets["nothing"] = scored(["", ""], [["a man runs fast"], ["two dogs ."]])
    (HERE / "scores.json").write_text(json.dumps(sets, indent=1) + "\n")


main()
