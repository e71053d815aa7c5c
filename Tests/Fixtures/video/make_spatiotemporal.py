"""Writes the fixtures of the spatio-temporal Q-Former.

    python make_spatiotemporal.py          (torch 2.13, safetensors)

The reference is plain PyTorch in float64, written from the formulas: pooling with keys and values of every token, heads
one after the other, every clip alone and without padding, one explicit allowed matrix for generation, losses from
their definitions. The batch holds two pairs, so that the other pair is the only negative.

Eps is large, and no bias, LayerNorm weight, pooling query or λ is trivial, so that a part left out shows.
"""

import math
import pathlib

import torch
from safetensors.torch import save_file
from torch.nn import functional as F

here = pathlib.Path(__file__).parent
B, N, L, V, POSITIONS = 2, 7, 9, 29, 12
DV, D, H, FFN, LAYERS, POOL_HEADS, E, WORDS, ROWS = 15, 18, 3, 22, 3, 5, 10, 11, 8
GROUPS = {"spatial": 4, "temporal": 3, "summary": 1}
M = sum(GROUPS.values())
EPS, VISION_EPS = 3e-3, 5e-3
CLS, SEP, DEC = 1, 2, V

VARIANTS = {
    "full": dict(
        lengths=[6, 4], pooling="attentive", time="learned", site="after", experts=3, mask=True, sends=list(GROUPS),
        aggregate="max", match="meanLogits"),
    "open": dict(
        lengths=[6, 4], pooling="attentive", time="sinusoid", site="before", experts=2, mask=False,
        sends=["spatial", "summary"], aggregate="mean", match="catTextCLS"),
    "mean": dict(
        lengths=[11, 7], pooling="mean", time="none", site="after", experts=0, mask=True, sends=["summary"],
        aggregate="summary", match="summary"),
    "long": dict(
        lengths=[11, 7], pooling="attentive", time="learned", site="before", experts=1, mask=True, sends=list(GROUPS),
        aggregate="max", match="meanLogits"),
    "image": dict(
        lengths=[1, 1], pooling="attentive", time="learned", site="after", experts=3, mask=True, sends=list(GROUPS),
        aggregate="max", match="meanLogits"),
}
WITH_GRADIENTS = ("full", "open", "mean", "long")


def gelu(x):
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


class Reference:
    def __init__(self, weights, options):
        self.w = {n: v.double().clone().requires_grad_() for n, v in weights.items()}
        self.o = options

    def linear(self, x, name):
        return x @ self.w[f"{name}.weight"].T + self.w[f"{name}.bias"]

    def norm(self, x, name, eps=EPS):
        centred = x - x.mean(-1, keepdim=True)
        return (
            centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt() * self.w[f"{name}.weight"]
            + self.w[f"{name}.bias"])

    # Pooling of one clip [T, N, Dv].

    def attend_pool(self, x, name):
        """Attention of the learned query over the last but one dimension of [..., S, Dv]; weights [heads, ..., S]."""
        q = self.w[f"{name}.query_token"][0] @ self.w[f"{name}.query.weight"].T
        k, v = x @ self.w[f"{name}.key.weight"].T, x @ self.w[f"{name}.value.weight"].T
        d = DV // POOL_HEADS
        parts, weights = [], []
        for h in range(POOL_HEADS):
            part = slice(h * d, (h + 1) * d)
            a = torch.softmax((k[..., part] * q[part]).sum(-1) / math.sqrt(d), -1)
            parts.append((a[..., None] * v[..., part]).sum(-2))
            weights.append(a)
        return torch.cat(parts, -1) @ self.w[f"{name}.output.weight"].T, torch.stack(weights)

    def times(self, seconds):
        count = len(seconds)
        if self.o["time"] == "none":
            return torch.zeros(count, DV, dtype=torch.float64)
        if self.o["time"] == "sinusoid":
            rows = [[math.sin(t / 10000 ** (p / DV)) if p % 2 == 0 else math.cos(t / 10000 ** ((p - 1) / DV))
                     for p in range(DV)] for t in seconds.tolist()]
            return torch.tensor(rows, dtype=torch.float64)
        table = self.w["time_embedding.weight"]
        if count <= ROWS:
            return table[:count]
        return F.interpolate(table.T[None], size=count, mode="linear", align_corners=False)[0].T

    def pool(self, features, seconds):
        x = self.norm(features, "vision_model.post_layernorm", VISION_EPS)
        if self.o["site"] == "before":
            x = x + self.times(seconds)[:, None]
        if self.o["pooling"] == "attentive":
            frames, _ = self.attend_pool(x, "pooling.over_patches")
            places, a = self.attend_pool(x.transpose(0, 1), "pooling.over_frames")  # a [heads, N, T]
            importance = a.mean((0, 1))
        else:
            frames, places = x.mean(1), x.mean(0)
            importance = torch.full((len(x),), 1 / len(x), dtype=torch.float64)
        if self.o["site"] == "after":
            frames = frames + self.times(seconds)
        return places, frames, importance

    # Encoder, one sequence at a time.

    def attend(self, x, y, bias, name):
        q, k, v = (self.linear(s, f"{name}.attention.{p}") for s, p in ((x, "query"), (y, "key"), (y, "value")))
        out = []
        for h in range(H):
            part = slice(h * D // H, (h + 1) * D // H)
            scores = q[:, part] @ k[:, part].T / math.sqrt(D / H)
            out.append(torch.softmax(scores if bias is None else scores + bias, -1) @ v[:, part])
        return self.norm(self.linear(torch.cat(out, -1), f"{name}.output.dense") + x, f"{name}.output.LayerNorm")

    def feed(self, x, up, down):
        return self.norm(self.linear(gelu(self.linear(x, f"{up}.dense")), f"{down}.dense") + x, f"{down}.LayerNorm")

    def words(self, ids):
        table = torch.cat([self.w["embeddings.word_embeddings.weight"], self.w["embeddings.decoder_token"]])
        return table[ids] + self.w["embeddings.position_embeddings.weight"][: len(ids)]

    def run(self, text, pooled=None, allowed=None):
        """Queries (when there is a clip), then text [L, D]; allowed [M + L, M + L]."""
        count = 0 if pooled is None else M
        x = text if pooled is None else torch.cat([self.w["query_tokens"][0], text])
        x = self.norm(x, "qformer.layernorm")
        inner = None if allowed is None else torch.where(allowed, 0.0, -math.inf)
        if pooled is not None:
            places, frames, importance = pooled
            keys = torch.cat([places, frames])
            drawn = torch.zeros(len(keys), dtype=torch.float64)
            if self.o["pooling"] == "attentive":
                drawn = torch.cat([
                    torch.zeros(len(places), dtype=torch.float64),
                    self.w["importance_scale"] * torch.log((len(frames) * importance).clamp(min=1e-6))])
            sees = torch.ones(M, len(keys), dtype=torch.bool)
            if self.o["mask"]:
                sees[: GROUPS["spatial"], len(places) :] = False
                sees[GROUPS["spatial"] : GROUPS["spatial"] + GROUPS["temporal"], : len(places)] = False
            outer = torch.where(sees, drawn.expand(M, -1), -math.inf)
        for i in range(LAYERS):
            name = f"qformer.encoder.layer.{i}"
            x = self.attend(x, x, inner, f"{name}.attention")
            q, t = x[:count], x[count:]
            if count:
                if i % 2 == 0:
                    q = self.attend(q, keys, outer, f"{name}.crossattention")
                if i >= LAYERS - self.o["experts"]:
                    parts, first = [], 0
                    for group, size in GROUPS.items():
                        parts.append(self.feed(
                            q[first : first + size], f"{name}.intermediate_{group}", f"{name}.output_{group}"))
                        first += size
                    q = torch.cat(parts)
                else:
                    q = self.feed(q, f"{name}.intermediate_query", f"{name}.output_query")
            if len(t):
                t = self.feed(t, f"{name}.intermediate", f"{name}.output")
            x = torch.cat([q, t])
        return x

    def queries(self, pooled):
        return self.run(torch.zeros(0, D, dtype=torch.float64), pooled)

    def tokens(self, hidden):
        first, sent = 0, []
        for group, size in GROUPS.items():
            if group in self.o["sends"]:
                sent.append(hidden[first : first + size])
            first += size
        return self.linear(torch.cat(sent), "language_projection")

    # Losses of two pairs.

    def losses(self, pooled, texts):
        hidden = [self.queries(p) for p in pooled]
        seen = [F.normalize(self.linear(h, "vision_projection"), dim=-1) for h in hidden]
        said = [F.normalize(self.linear(self.run(self.words(t))[0], "text_projection"), dim=-1) for t in texts]
        rule = {"max": lambda s: s.max(), "mean": lambda s: s.mean(), "summary": lambda s: s[-1]}[self.o["aggregate"]]
        scores = torch.stack([torch.stack([rule(v @ t) for t in said]) for v in seen]) / self.w["temp"]
        target = 0.9 * torch.eye(2, dtype=torch.float64) + 0.05
        contrast = sum(-(target * s.log_softmax(1)).sum(1).mean() for s in (scores, scores.T)) / 2

        logits, head = [], "wide.itm_head" if self.o["match"] == "catTextCLS" else "itm_head"
        pairs = [(0, 0), (1, 1), (1, 0), (0, 1), (0, 1), (1, 0)]  # (video, text): own, other video, other text
        for video, text in pairs:
            both = self.run(self.words(texts[text]), pooled[video])
            if self.o["match"] == "meanLogits":
                logits.append(self.linear(both[:M], head).mean(0))
            elif self.o["match"] == "summary":
                logits.append(self.linear(both[M - 1], head))
            else:
                logits.append(self.linear(torch.cat([both[:M].mean(0), both[M]]), head))
        logits = torch.stack(logits).log_softmax(1)
        match = -(logits[:2, 1].sum() + logits[2:, 0].sum()) / 6

        total, count = 0, 0
        for p, text in zip(pooled, texts):
            given = text.clone()
            given[0] = DEC
            size = M + len(text)
            allowed = torch.zeros(size, size, dtype=torch.bool)
            allowed[:, :M] = True
            allowed[M:, M:] = torch.ones(len(text), len(text), dtype=torch.bool).tril()
            y = self.norm(
                gelu(self.linear(self.run(self.words(given), p, allowed)[M:], "cls.predictions.transform.dense")),
                "cls.predictions.transform.LayerNorm")
            logs = (y @ self.w["embeddings.word_embeddings.weight"].T + self.w["cls.predictions.bias"]).log_softmax(-1)
            for i in range(len(text) - 1):
                total = total - 0.9 * logs[i, text[i + 1]] - 0.1 * logs[i].mean()
                count += 1
        return torch.stack([contrast, match, total / count])


def shapes():
    shape = {
        "query_tokens": (1, M, D), "embeddings.word_embeddings.weight": (V, D),
        "embeddings.position_embeddings.weight": (POSITIONS, D), "embeddings.decoder_token": (1, D),
        "time_embedding.weight": (ROWS, DV), "importance_scale": (), "temp": ()}

    def linear(name, inputs, outputs, bias=True):
        shape[f"{name}.weight"] = (outputs, inputs)
        if bias:
            shape[f"{name}.bias"] = (outputs,)

    def norm(name, width):
        shape[f"{name}.weight"] = shape[f"{name}.bias"] = (width,)

    norm("qformer.layernorm", D)
    norm("vision_model.post_layernorm", DV)
    for i in range(LAYERS):
        name = f"qformer.encoder.layer.{i}"
        for kind, width in (("attention", D),) + ((("crossattention", DV),) if i % 2 == 0 else ()):
            for part, inputs in (("query", D), ("key", width), ("value", width)):
                linear(f"{name}.{kind}.attention.{part}", inputs, D)
            linear(f"{name}.{kind}.output.dense", D, D)
            norm(f"{name}.{kind}.output.LayerNorm", D)
        for kind in ("", "_query", "_spatial", "_temporal", "_summary"):
            linear(f"{name}.intermediate{kind}.dense", D, FFN)
            linear(f"{name}.output{kind}.dense", FFN, D)
            norm(f"{name}.output{kind}.LayerNorm", D)
    for name in ("pooling.over_patches", "pooling.over_frames"):
        shape[f"{name}.query_token"] = (1, DV)
        for part in ("query", "key", "value", "output"):
            linear(f"{name}.{part}", DV, DV, bias=False)
    linear("language_projection", D, WORDS)
    linear("vision_projection", D, E)
    linear("text_projection", D, E)
    linear("itm_head", D, 2)
    linear("wide.itm_head", 2 * D, 2)
    linear("cls.predictions.transform.dense", D, D)
    norm("cls.predictions.transform.LayerNorm", D)
    shape["cls.predictions.bias"] = (V,)
    return shape


def main():
    g = torch.Generator().manual_seed(20250122)
    weights = {}
    for name, size in shapes().items():
        noise = torch.randn(size, generator=g)
        if "norm.weight" in name.lower():
            noise = 1 + 0.3 * noise
        elif name.endswith("bias"):
            noise = 0.3 * noise
        elif name.endswith("weight") and "embedding" not in name:
            noise = 1.0 / math.sqrt(size[-1]) * noise
        weights[name] = noise
    weights["importance_scale"], weights["temp"] = torch.tensor(0.7), torch.tensor(0.3)

    features = torch.randn(B, 11, N, DV, generator=g) * 1.5 + 0.2
    seconds = torch.cumsum(torch.rand(B, 11, generator=g, dtype=torch.float64) + 0.1, 1)
    ids = torch.zeros(B, L, dtype=torch.long)
    texts = []
    for b, length in enumerate((9, 5)):
        text = torch.cat([
            torch.tensor([CLS]), torch.randint(3, V, (length - 2,), generator=g), torch.tensor([SEP])])
        ids[b, :length] = text
        texts.append(text)
    out = {
        "in.features": features, "in.seconds": seconds, "in.ids": ids, "in.mask": (ids != 0).long(),
        "in.probe": torch.randn(B, M, WORDS, generator=g)}

    for name, options in VARIANTS.items():
        model = Reference(weights, options)
        lengths = options["lengths"]
        pooled = [model.pool(features[b, :n].double(), seconds[b, :n]) for b, n in enumerate(lengths)]
        hidden = torch.stack([model.queries(p) for p in pooled])
        tokens = torch.stack([model.tokens(h) for h in hidden])
        losses = model.losses(pooled, texts)
        frames, importance = torch.zeros(B, max(lengths), DV), torch.zeros(B, max(lengths))
        for b, n in enumerate(lengths):
            frames[b, :n], importance[b, :n] = pooled[b][1].float(), pooled[b][2].float()
        out |= {
            f"{name}.places": torch.stack([p[0] for p in pooled]).float(), f"{name}.frames": frames,
            f"{name}.importance": importance, f"{name}.hidden": hidden.float(), f"{name}.tokens": tokens.float(),
            f"{name}.losses": losses.float()}
        print(name, losses.tolist())
        if name in WITH_GRADIENTS:
            (losses.sum() + (tokens * out["in.probe"][:, : tokens.shape[1]].double()).sum()).backward()
            for key, value in model.w.items():
                if value.grad is not None:
                    out[f"{name}.gradient.{key}"] = value.grad.float()

    for file, tensors in (("spatiotemporal_weights", weights), ("spatiotemporal", out)):
        path = here / f"{file}.safetensors"
        save_file({n: v.detach().contiguous().clone() for n, v in tensors.items()}, path)
        path.chmod(0o644)


main()
