"""Writes the fixtures of the cascaded video Q-Former and of the audio Q-Former.

    python make_cascade.py          (torch 2.13, transformers 5.23, safetensors)

The reference is put together from transformers' Blip2QFormerModel in float64: one for frames, one over frames, one
for sound. Every clip is computed alone and without padding; what the library makes of a padded batch must equal that.
The script checks that transformers' own mask gives the same. MA-LMM's memory, which transformers lacks, is written in
plain formulas. Names in the files are the library's; the `.pth` files hold the same weights under the names of
Video-LLaMA and LAVIS, with the buffers that lie about in theirs; the `.json` has the published names and shapes.
"""

import json
import math
import pathlib

import torch
from safetensors.torch import save_file
from torch.nn import functional as F
from transformers import Blip2QFormerConfig, Blip2QFormerModel

here = pathlib.Path(__file__).parent
B, N, DV, D, H, FFN, M, MV, WORDS, ROWS = 2, 7, 13, 18, 3, 22, 5, 4, 11, 12
DA, MA, SOUND_ROWS = 15, 3, 6
EPS, VISION_EPS = 3e-3, 5e-3


def qformer(layers, frequency, width):
    config = Blip2QFormerConfig(
        vocab_size=8, hidden_size=D, num_hidden_layers=layers, num_attention_heads=H, intermediate_size=FFN,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, layer_norm_eps=EPS,
        cross_attention_frequency=frequency, encoder_hidden_size=width, attn_implementation="eager")
    return Blip2QFormerModel(config).eval().double()


@torch.no_grad()
def randomized(name, value, generator):
    noise = torch.randn(value.shape, generator=generator)
    if "norm.weight" in name.lower():
        return 1 + 0.3 * noise
    if name.endswith("bias"):
        return 0.3 * noise
    if "query_tokens" in name or "position" in name:
        return noise
    return 1.0 / math.sqrt(value.shape[-1]) * noise


def sinusoid(seconds, width):
    out = torch.zeros(len(seconds), width, dtype=torch.float64)
    for row, time in enumerate(seconds.tolist()):
        for place in range(width):
            angle = time / 10000 ** (2 * (place // 2) / width)
            out[row, place] = math.sin(angle) if place % 2 == 0 else math.cos(angle)
    return out


def stretched(table, length, mode):
    if length <= len(table):
        return table[:length]
    assert mode, "more frames than rows"
    options = {} if mode == "nearest" else {"align_corners": False}
    return F.interpolate(table.T[None], size=length, mode=mode, **options)[0].T


class Cascade:
    def __init__(self, weights):
        self.w = {n: v.double().clone().requires_grad_() for n, v in weights.items()}
        self.frame, self.temporal, self.sound = qformer(3, 2, DV), qformer(2, 1, D), qformer(2, 1, DA)

    def run(self, model, prefix, image, mask=None):
        """The model's own forward on our leaves, so that their gradients can be asked for."""
        weights = {
            n.removeprefix(prefix + "qformer."): v for n, v in self.w.items() if n.startswith(prefix + "qformer.")}
        queries = self.w[prefix + "query_tokens"].expand(len(image), -1, -1)
        return torch.func.functional_call(
            model, weights, kwargs=dict(
                query_embeds=queries, encoder_hidden_states=image, encoder_attention_mask=mask)).last_hidden_state

    def time(self, encoding, mode, table, seconds, width):
        if encoding == "sinusoid":
            return sinusoid(seconds, width)
        return stretched(self.w[table], len(seconds), mode) if encoding == "learned" else None

    def linear(self, x, name):
        return x @ self.w[f"{name}.weight"].T + self.w[f"{name}.bias"]

    def clip(self, features, seconds, site, encoding, mode):
        """One clip without padding, [T, N, Dv]."""
        x = F.layer_norm(
            features, (DV,), self.w["vision_model.post_layernorm.weight"], self.w["vision_model.post_layernorm.bias"],
            VISION_EPS)
        table, width = f"{site}.frame_position_embedding.weight", D if site == "after" else DV
        time = self.time(encoding, mode, table, seconds, width)
        if site == "before" and time is not None:
            x = x + time[:, None]
        frames = self.run(self.frame, "", x)  # [T, M, D]
        told = frames + time[:, None] if site == "after" and time is not None else frames
        hidden = self.run(self.temporal, "temporal.", told.reshape(1, -1, D))
        return frames, told, hidden[0], self.linear(hidden[0], "language_projection")

    def audio(self, features, mode):
        x = features + stretched(self.w["audio.position_embedding.weight"], len(features), mode)
        hidden = self.run(self.sound, "audio.", x[None])[0]
        return hidden, self.linear(hidden, "audio.language_projection")


class Memory:
    """MA-LMM's stream in plain formulas: what is remembered stands before the frame and the queries of now."""

    def __init__(self, cascade, capacity):
        self.w, self.linear, self.capacity = cascade.w, cascade.linear, capacity
        self.banks = {}

    def norm(self, x, name, eps=EPS):
        return F.layer_norm(x, x.shape[-1:], self.w[f"{name}.weight"], self.w[f"{name}.bias"], eps)

    def attend(self, x, y, name):
        q, k, v = (self.linear(s, f"{name}.attention.{p}") for s, p in ((x, "query"), (y, "key"), (y, "value")))
        heads = [slice(h * D // H, (h + 1) * D // H) for h in range(H)]
        out = [torch.softmax(q[:, h] @ k[:, h].T / math.sqrt(D / H), -1) @ v[:, h] for h in heads]
        return self.norm(self.linear(torch.cat(out, -1), f"{name}.output.dense") + x, f"{name}.output.LayerNorm")

    def remember(self, key, x):
        """All frames so far with this one; afterwards the most similar neighbours of each token are one."""
        bank = self.banks.setdefault(key, [])
        past = [torch.stack([column[t][0] for column in bank]) for t in range(len(bank[0]))] if bank else []
        if not bank:
            bank.extend([] for _ in x)
        for column, token in zip(bank, x):
            column.append((token, 1))
            if len(column) > self.capacity:
                alike = [F.cosine_similarity(a[0], b[0], dim=0) for a, b in zip(column, column[1:])]
                i = max(range(len(alike)), key=lambda j: alike[j])
                (a, m), (b, n) = column[i], column[i + 1]
                column[i : i + 2] = [((a * m + b * n) / (m + n), m + n)]
        return torch.cat(past + [x])

    def step(self, features):
        frame = self.norm(features, "vision_model.post_layernorm", VISION_EPS)
        seen = self.remember("visual", frame)
        x = self.norm(self.w["query_tokens"][0], "qformer.layernorm")
        for i in range(3):
            name = f"qformer.encoder.layer.{i}"
            x = self.attend(x, self.remember(i, x), f"{name}.attention")
            if i % 2 == 0:
                x = self.attend(x, seen, f"{name}.crossattention")
            y = F.gelu(self.linear(x, f"{name}.intermediate_query.dense"))
            x = self.norm(self.linear(y, f"{name}.output_query.dense") + x, f"{name}.output_query.LayerNorm")
        return x


CASES = {  # lengths, site, encoding, interpolation
    "one": ([1, 1], "after", "learned", None),
    "eight": ([8, 5], "after", "learned", None),
    "nearest": ([40, 9], "after", "learned", "nearest"),
    "linear": ([40, 23], "after", "learned", "linear"),
    "before": ([8, 5], "before", "learned", None),
    "before_linear": ([40, 23], "before", "learned", "linear"),
    "sinusoid": ([8, 5], "after", "sinusoid", None),
    "before_sinusoid": ([8, 5], "before", "sinusoid", None),
    "none": ([8, 5], "after", "none", None),
}
SOUND = {"one": ([1, 1], None), "six": ([6, 2], None), "linear": ([14, 9], "linear")}
WITH_GRADIENTS = {"eight", "before_linear"}


def gradients(model, prefix, out):
    for name, value in model.w.items():
        if value.grad is not None:
            out[f"{prefix}.{name}"] = value.grad.float()
            value.grad = None


def theirs(name, capital):
    name = name.replace("qformer.layernorm.", f"{capital}.bert.embeddings.LayerNorm.")
    name = name.replace("qformer.encoder.", f"{capital}.bert.encoder.")
    return name.replace(".attention.attention.", ".attention.self.").replace(
        ".crossattention.attention.", ".crossattention.self.")


def renamed(weights):
    """Under the names of Video-LLaMA's video branch, of its audio branch, and of LAVIS."""
    video, audio, image = {}, {}, {}
    for name, value in weights.items():
        if name.startswith("temporal."):
            name = name.removeprefix("temporal.")
            video["video_query_tokens" if name == "query_tokens" else theirs(name, "video_Qformer")] = value
        elif name.startswith("audio."):
            name = name.removeprefix("audio.")
            fixed = {
                "query_tokens": "audio_query_tokens", "position_embedding.weight": "audio_position_embedding.weight",
                "language_projection.weight": "audio_llama_proj.weight",
                "language_projection.bias": "audio_llama_proj.bias"}
            audio[fixed.get(name) or theirs(name, "audio_Qformer")] = value
        elif name == "after.frame_position_embedding.weight":
            video["video_frame_position_embedding.weight"] = value
        elif name.startswith("language_projection."):
            video[name.replace("language_projection", "llama_proj")] = value
        elif not name.startswith("before."):
            image[theirs(name.replace("vision_model.post_layernorm", "ln_vision"), "Qformer")] = value
    return video, audio, image


def published():
    """Names and shapes of the published files, from transformers at their sizes."""
    def named(prefix, queries, width):
        config = Blip2QFormerConfig(
            hidden_size=768, num_hidden_layers=2, cross_attention_frequency=1, encoder_hidden_size=width)
        with torch.device("meta"):
            model = Blip2QFormerModel(config)
        return {f"{prefix}qformer.{n}": v for n, v in model.named_parameters()} | {
            f"{prefix}query_tokens": torch.empty(1, queries, 768, device="meta")}

    video = named("temporal.", 32, 768) | {
        "after.frame_position_embedding.weight": torch.empty(32, 768, device="meta"),
        "language_projection.weight": torch.empty(4096, 768, device="meta"),
        "language_projection.bias": torch.empty(4096, device="meta")}
    audio = named("audio.", 8, 1024) | {
        "audio.position_embedding.weight": torch.empty(8, 1024, device="meta"),
        "audio.language_projection.weight": torch.empty(4096, 768, device="meta"),
        "audio.language_projection.bias": torch.empty(4096, device="meta")}
    return {
        kind: {n: list(v.shape) for n, v in sorted(tensors.items())}
        for kind, tensors in zip(("video", "audio"), renamed(video | audio))}


def main():
    g = torch.Generator().manual_seed(20230605)
    weights = {
        "query_tokens": torch.zeros(1, M, D), "temporal.query_tokens": torch.zeros(1, MV, D),
        "audio.query_tokens": torch.zeros(1, MA, D), "vision_model.post_layernorm.weight": torch.zeros(DV),
        "vision_model.post_layernorm.bias": torch.zeros(DV),
        "after.frame_position_embedding.weight": torch.zeros(ROWS, D),
        "before.frame_position_embedding.weight": torch.zeros(ROWS, DV),
        "audio.position_embedding.weight": torch.zeros(SOUND_ROWS, DA)}
    for prefix in ("", "audio."):
        weights[f"{prefix}language_projection.weight"] = torch.zeros(WORDS, D)
        weights[f"{prefix}language_projection.bias"] = torch.zeros(WORDS)
    for prefix, model in (("", qformer(3, 2, DV)), ("temporal.", qformer(2, 1, D)), ("audio.", qformer(2, 1, DA))):
        weights |= {f"{prefix}qformer.{n}": v.float() for n, v in model.named_parameters()}
    weights = {n: randomized(n, v, g).float() for n, v in weights.items()}

    features = torch.randn(B, 40, N, DV, generator=g) * 1.5 + 0.2
    seconds = torch.cumsum(torch.rand(B, 40, generator=g, dtype=torch.float64) + 0.1, 1)
    probe = torch.randn(B, MV, WORDS, generator=g)
    sound = torch.randn(B, 14, DA, generator=g)
    sound_probe = torch.randn(B, MA, WORDS, generator=g)
    out = {
        "in.features": features, "in.seconds": seconds, "in.probe": probe, "in.sound": sound,
        "in.sound_probe": sound_probe}

    model = Cascade(weights)
    for name, (lengths, site, encoding, mode) in CASES.items():
        results = [
            model.clip(features[b, :n].double(), seconds[b, :n], site, encoding, mode) for b, n in enumerate(lengths)]
        tokens = torch.stack([r[3] for r in results])
        out[f"{name}.hidden"] = torch.stack([r[2] for r in results]).float()
        out[f"{name}.tokens"] = tokens.float()
        if name == "eight":
            out[f"{name}.frames"] = torch.cat([r[0] for r in results]).float()  # [8 + 5, M, D]
        # The same as one padded batch through transformers' mask.
        told = torch.zeros(B, max(lengths), M, D, dtype=torch.float64)
        mask = torch.zeros(B, max(lengths), M)
        for b, n in enumerate(lengths):
            told[b, :n] = results[b][1].detach()
            mask[b, :n] = 1
        batch = model.run(model.temporal, "temporal.", told.flatten(1, 2), mask.flatten(1))
        error = (batch - torch.stack([r[2] for r in results])).abs().max()
        assert error < 1e-10, error
        if name in WITH_GRADIENTS:
            (tokens * probe.double()).sum().backward()
            gradients(model, f"{name}.gradient", out)
    for name, (lengths, mode) in SOUND.items():
        results = [model.audio(sound[b, :n].double(), mode) for b, n in enumerate(lengths)]
        tokens = torch.stack([r[1] for r in results])
        out[f"sound.{name}.hidden"] = torch.stack([r[0] for r in results]).float()
        out[f"sound.{name}.tokens"] = tokens.float()
        if name == "six":
            (tokens * sound_probe.double()).sum().backward()
            gradients(model, f"sound.{name}.gradient", out)

    with torch.no_grad():
        for capacity in (1, 3, 20):
            memory = Memory(model, capacity)
            hidden = torch.stack([memory.step(f.double()) for f in features[0, :10]])
            out[f"memory.{capacity}.hidden"] = hidden.float()  # [T, M, D]
            sizes = [[count for _, count in column] for column in memory.banks["visual"]]
            out[f"memory.{capacity}.sizes"] = torch.tensor(sizes).T  # [at most capacity, N]
        first = Memory(model, 1).step(features[0, 0].double())
        assert (first - model.run(model.frame, "", F.layer_norm(
            features[0, 0].double(), (DV,), model.w["vision_model.post_layernorm.weight"],
            model.w["vision_model.post_layernorm.bias"], VISION_EPS)[None])[0]).abs().max() < 1e-10

    for file, tensors in (("cascade_weights", weights), ("cascade", out)):
        path = here / f"{file}.safetensors"
        save_file({n: v.detach().contiguous().clone() for n, v in tensors.items()}, path)
        path.chmod(0o644)

    # Other projects' names.
    video, audio, image = renamed(weights)
    assert len(video) == 58, len(video)
    image |= {"t5_proj.weight": torch.zeros(3, D), "t5_proj.bias": torch.zeros(3)}
    ids = torch.arange(8)[None]
    video |= {"video_Qformer.bert.embeddings.position_ids": ids, "Qformer.bert.embeddings.position_ids": ids}
    video |= {f"llama_model.model.layers.{i}.self_attn.rotary_emb.inv_freq": torch.ones(4) for i in range(2)}
    audio |= {"audio_Qformer.bert.embeddings.position_ids": ids}
    branches = [
        f'"{kind}": {{\n' + ",\n".join(f"  {json.dumps(n)}: {shape}" for n, shape in names.items()) + "\n}"
        for kind, names in published().items()]
    (here / "video_llama_names.json").write_text("{" + ", ".join(branches) + "}\n")
    for file, tensors in (("video_llama", video), ("video_llama_audio", audio), ("blip2_t5", image)):
        torch.save({"model": {n: v.clone() for n, v in tensors.items()}}, here / f"{file}.pth")


main()
