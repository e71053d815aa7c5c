"""Writes the fixtures of BackbonesTests with transformers 5.23 and torch 2.13 on the CPU.

    python make_backbones.py [dinov2|llama|bert|real]...      # all by default

The small files hold a model with random weights under `model.`, its inputs and its outputs. The `real_*` files hold
outputs of the fetched models ($QFORMER_CACHE/models); the inputs are formulas or text that the tests repeat.
"""
import math, os, sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

HERE = Path(__file__).parent
CACHE = Path(os.environ.get("QFORMER_CACHE", Path.home() / ".cache/swift-qformer")) / "models"


def weights(model, scratch):
    """The tensors as save_pretrained writes them, under the published names."""
    model.save_pretrained(scratch)
    return {f"model.{k}": v for k, v in load_file(Path(scratch) / "model.safetensors").items()}


def shake(model, seed, scale=0.2):
    """Replaces the tiny initial weights, so that every term counts."""
    g = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        noise = torch.randn(p.shape, generator=g) * scale
        p.data = 1 + noise if p.dim() == 1 and ("norm" in name.lower() and "weight" in name or "lambda" in name) else noise
    return model.eval()


def write(name, tensors):
    path = HERE / name
    save_file({k: v.detach().contiguous().clone() for k, v in tensors.items()}, path)
    print(path.name, path.stat().st_size)


def picture(height, width, batch=1):
    """[batch, 3, height, width]: waves and a disc, in the range of normalised pixels."""
    y = torch.arange(height, dtype=torch.float64).view(1, 1, -1, 1)
    x = torch.arange(width, dtype=torch.float64).view(1, 1, 1, -1)
    c = torch.arange(3, dtype=torch.float64).view(1, -1, 1, 1)
    b = torch.arange(batch, dtype=torch.float64).view(-1, 1, 1, 1)
    waves = torch.sin(0.05 * (c + 1) * x + 0.3 * b) + torch.cos(0.08 * y - 0.7 * c)
    disc = ((x - width / 2) ** 2 + (y - height / 3) ** 2 < (height / 4) ** 2) * (1.5 - c)
    return (waves + disc).float()


@torch.no_grad()
def dinov2(scratch):
    from transformers import Dinov2Config, Dinov2Model
    from transformers.models.dinov2 import modeling_dinov2  # noqa: F401

    for name, gated in (("dinov2", False), ("dinov2_swiglu", True)):
        config = Dinov2Config(hidden_size=24, num_hidden_layers=4 if not gated else 2, num_attention_heads=3, mlp_ratio=2,
                              image_size=28, patch_size=7, use_swiglu_ffn=gated, qkv_bias=not gated, layer_norm_eps=1e-5)
        model = shake(Dinov2Model(config), 1)
        out = weights(model, scratch)
        g = torch.Generator().manual_seed(2)
        for size in ((28, 28), (56, 35), (14, 21)):
            pixels = torch.randn(2, 3, *size, generator=g)
            result = model(pixels, output_hidden_states=True)
            key = f"{size[0]}x{size[1]}"
            out[f"{key}.pixels"] = pixels
            out[f"{key}.last"] = result.last_hidden_state
            for block, hidden in enumerate(result.hidden_states[1:]):
                out[f"{key}.block{block}"] = hidden
        write(f"{name}.safetensors", out)
        if not gated:
            (HERE / "dinov2.json").write_text(config.to_json_string())


@torch.no_grad()
def real(scratch):
    from transformers import Dinov2Model

    model = Dinov2Model.from_pretrained(CACHE / "dinov2-small-focus").eval()
    out = {}
    for size in ((224, 224), (112, 140)):
        result = model(picture(*size), output_hidden_states=True)
        key = f"{size[0]}x{size[1]}"
        # The class token, then every fourth patch.
        out[f"{key}.block9"] = result.hidden_states[10][:, ::4]
        out[f"{key}.last"] = result.last_hidden_state[:, ::16]
    write("real_dinov2.safetensors", out)


if __name__ == "__main__":
    import tempfile

    for topic in sys.argv[1:] or ["dinov2", "llama", "bert", "real"]:
        with tempfile.TemporaryDirectory() as scratch:
            globals()[topic](scratch)
