"""Writes the fixtures of the connectors that video Q-Formers are compared with.

    python make_connectors.py          (torch 2.13, safetensors)

The reference is plain PyTorch in float64: the Perceiver resampler from Flamingo's pseudo-code (arXiv 2204.14198, figure
5), heads one after the other; mean pooling from its definition; grids by PyTorch's own adaptive pooling. Every clip is
alone there and without padding. Eps is large, and no bias or LayerNorm weight is trivial, so that a part left out shows.
"""

import math
import pathlib

import torch
from safetensors.torch import save_file
from torch.nn import functional as F

here = pathlib.Path(__file__).parent
B, T, SIDE, DV, D, H, FFN, LAYERS, M, WORDS, ROWS = 2, 7, 3, 10, 12, 3, 20, 3, 5, 8, 9
N = SIDE * SIDE + 1
LENGTHS = (7, 4)
EPS, VISION_EPS = 3e-3, 5e-3
STEPS, GRID = 3, (2, 2)


def gelu(x):
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


class Reference:
    def __init__(self, weights):
        self.w = {n: v.double().clone().requires_grad_() for n, v in weights.items()}

    def linear(self, x, name):
        y = x @ self.w[f"{name}.weight"].T
        return y + self.w[f"{name}.bias"] if f"{name}.bias" in self.w else y

    def norm(self, x, name, eps=EPS):
        centred = x - x.mean(-1, keepdim=True)
        return (
            centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt() * self.w[f"{name}.weight"]
            + self.w[f"{name}.bias"])

    def features(self, x):
        return self.norm(x, "vision_model.post_layernorm", VISION_EPS)

    def perceiver(self, x, seconds, time):
        """[T, N, Dv] to [M, words]."""
        x_f = self.linear(self.features(x), "input_projection")
        if time == "learned":
            x_f = x_f + self.w["time_embedding.weight"][: len(x)][:, None]
        if time == "sinusoid":
            rows = [[math.sin(t / 10000 ** (p / D)) if p % 2 == 0 else math.cos(t / 10000 ** ((p - 1) / D))
                     for p in range(D)] for t in seconds.tolist()[: len(x)]]
            x_f = x_f + torch.tensor(rows, dtype=torch.float64)[:, None]
        x_f = x_f.flatten(0, 1)
        state = self.w["latents"][0]
        for i in range(LAYERS):
            name = f"layers.{i}"
            own = self.norm(state, f"{name}.latent_norm")
            both = torch.cat([self.norm(x_f, f"{name}.media_norm"), own])
            q = self.linear(own, f"{name}.attention.query")
            k, v = self.linear(both, f"{name}.attention.key"), self.linear(both, f"{name}.attention.value")
            heads = []
            for h in range(H):
                part = slice(h * D // H, (h + 1) * D // H)
                heads.append(torch.softmax(q[:, part] @ k[:, part].T / math.sqrt(D / H), -1) @ v[:, part])
            state = state + self.linear(torch.cat(heads, -1), f"{name}.attention.output")
            y = self.norm(state, f"{name}.feed_forward.norm")
            state = state + self.linear(gelu(self.linear(y, f"{name}.feed_forward.up")), f"{name}.feed_forward.down")
        return self.linear(self.norm(state, "norm"), "language_projection")

    def project(self, pooled):
        return self.linear(gelu(self.linear(pooled, "hidden_projection")), "language_projection")

    def mean(self, x, places):
        """Means over frames, then over patches of frames; the clip is stretched over so many places."""
        x = self.features(x)
        frames = torch.stack([x[t * len(x) // places].mean(0) for t in range(places)])
        return self.project(torch.cat([x.mean(0), frames]))

    def grid(self, x):
        """PyTorch's adaptive pooling of [Dv, T, S, S]; the class token stays out."""
        x = self.features(x)[:, 1:].reshape(len(x), SIDE, SIDE, DV).permute(3, 0, 1, 2)
        return self.project(F.adaptive_avg_pool3d(x, (STEPS, *GRID)).permute(1, 2, 3, 0).reshape(-1, DV))


def shapes():
    shape = {"latents": (1, M, D), "time_embedding.weight": (ROWS, D)}

    def linear(name, inputs, outputs, bias=True):
        shape[f"{name}.weight"] = (outputs, inputs)
        if bias:
            shape[f"{name}.bias"] = (outputs,)

    def norm(name, width):
        shape[f"{name}.weight"] = shape[f"{name}.bias"] = (width,)

    norm("vision_model.post_layernorm", DV)
    linear("input_projection", DV, D)
    for i in range(LAYERS):
        name = f"layers.{i}"
        for part in ("media_norm", "latent_norm", "feed_forward.norm"):
            norm(f"{name}.{part}", D)
        for part in ("query", "key", "value", "output"):
            linear(f"{name}.attention.{part}", D, D, bias=False)
        linear(f"{name}.feed_forward.up", D, FFN, bias=False)
        linear(f"{name}.feed_forward.down", FFN, D, bias=False)
    norm("norm", D)
    linear("hidden_projection", DV, D)
    linear("language_projection", D, WORDS)
    return shape


def main():
    g = torch.Generator().manual_seed(20220429)
    weights = {}
    for name, size in shapes().items():
        noise = torch.randn(size, generator=g)
        if "norm.weight" in name.lower():
            noise = 1 + 0.3 * noise
        elif name.endswith("bias"):
            noise = 0.3 * noise
        elif name.endswith("weight") and "embedding" not in name:
            noise = noise / math.sqrt(size[-1])
        weights[name] = noise
    features = torch.randn(B, T, N, DV, generator=g) * 1.5 + 0.2
    seconds = torch.cumsum(torch.rand(B, T, generator=g, dtype=torch.float64) + 0.1, 1)
    out = {"in.features": features, "in.seconds": seconds}
    for name in ("learned", "sinusoid", "none", "mean", "grid"):
        model = Reference(weights)
        clips = [features[b, :n].double() for b, n in enumerate(LENGTHS)]
        if name == "mean":
            tokens = [model.mean(x, T) for x in clips]
        elif name == "grid":
            tokens = [model.grid(x) for x in clips]
        else:
            tokens = [model.perceiver(x, seconds[b], name) for b, x in enumerate(clips)]
        tokens = torch.stack(tokens)
        probe = torch.randn(tokens.shape, generator=g)
        (tokens * probe.double()).sum().backward()
        out[f"{name}.tokens"], out[f"{name}.probe"] = tokens.float(), probe
        for key, value in model.w.items():
            if value.grad is not None:
                out[f"{name}.gradient.{key}"] = value.grad.float()
    for file, tensors in (("connector_weights", weights), ("connectors", out)):
        path = here / f"{file}.safetensors"
        save_file({n: v.detach().contiguous().clone() for n, v in tensors.items()}, path)
        path.chmod(0o644)


main()
