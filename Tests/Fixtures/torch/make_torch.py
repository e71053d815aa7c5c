"""Writes the fixtures of TorchTests, TorchNNTests and CheckpointsTests.

    python make_torch.py            (torch 2.13, numpy, safetensors)

operators.safetensors   inputs and what PyTorch computes of them
optimizers.safetensors  ten AdamW steps, clipped gradients
formats.safetensors     every element type, written by the reference library
odd.safetensors         written by hand: a header of odd length, empty tensors between others, no padding
ours.safetensors        written by this package; CheckpointsTests compares its bytes, this script reads it back
"""

import json
import pathlib
import struct

import numpy
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file

here = pathlib.Path(__file__).parent
g = torch.Generator().manual_seed(7)


def save(name, tensors, **more):
    save_file({k: torch.as_tensor(v).detach().contiguous().clone() for k, v in tensors.items()}, here / name, **more)
    (here / name).chmod(0o644)


def operators():
    x, y = torch.randn(3, 4, generator=g), torch.randn(3, 4, generator=g)
    row = torch.randn(4, generator=g)
    q, k, v = (torch.randn(2, 4, n, 6, generator=g) for n in (5, 7, 7))
    bias = torch.randn(2, 1, 5, 7, generator=g)
    image = torch.randn(2, 3, 9, 11, generator=g)
    kernel, offset = torch.randn(4, 3, 2, 2, generator=g), torch.randn(4, generator=g)
    square = torch.randn(4, 4, generator=g)
    classes = torch.tensor([2, 0, -100])
    soft = torch.softmax(torch.randn(3, 4, generator=g), 1)
    index = torch.tensor([2, 0, 2])
    out = dict(x=x, y=y, row=row, q=q, k=k, v=v, bias=bias, image=image, kernel=kernel, offset=offset, square=square,
               classes=classes, soft=soft, index=index)
    a = x.numpy().astype(numpy.float64)
    out |= {
        "add": x + row, "sub": 1.5 - x, "mul": x * y, "div": x / y, "rdiv": 2 / x, "pow": x.abs() ** 1.7,
        "exp": numpy.exp(a).astype(numpy.float32), "log": x.abs().log(), "sqrt": x.abs().sqrt(),
        "rsqrt": x.abs().rsqrt(), "cos": numpy.cos(a).astype(numpy.float32),
        "sin": numpy.sin(a).astype(numpy.float32), "round": (x * 3).round(), "clamp": x.clamp(-0.5, 0.7),
        "clampmin": x.clamp(min=0.1), "addcmul": x + y * row, "le": (x <= y).float(), "where": torch.where(x < 0, x, y),
        "sum": x.sum(), "sum1": x.sum(1, keepdim=True), "mean0": x.mean(0), "std": x.std(), "max1": x.max(1).values,
        "argmax1": x.argmax(1), "topk": x.topk(2, 1).values, "topk_at": x.topk(2, 1).indices,
        "sorted": x.sort(0, descending=True).values, "cumsum": x.cumsum(1), "norm": x.norm(),
        "norm1": x.norm(dim=1, keepdim=True), "normalized": F.normalize(x, dim=-1),
        "matmul": (a @ y.numpy().astype(numpy.float64).T).astype(numpy.float32),
        "solve": torch.linalg.solve(square, torch.eye(4)), "linear": F.linear(x, square, row),
        "embedding": x[index], "layernorm": F.layer_norm(x, (4,), row, row, 0.01), "gelu": F.gelu(x),
        "silu": F.silu(x), "softmax": x.softmax(0), "logsoftmax": x.log_softmax(-1),
        "rmsnorm": F.rms_norm(x, (4,), row, 0.01), "ce": F.cross_entropy(x, classes, label_smoothing=0.1),
        "ce_soft": F.cross_entropy(x, soft, label_smoothing=0.2),
        "attention": F.scaled_dot_product_attention(q, k, v, bias),
        "attention_causal": F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.3),
        "attention_grouped": F.scaled_dot_product_attention(q, k[:, :2], v[:, :2], enable_gqa=True),
        "conv": F.conv2d(image, kernel, offset, stride=2),
        "bicubic": F.interpolate(image, (13, 7), mode="bicubic"),
        "bicubic_corners": F.interpolate(image, (13, 7), mode="bicubic", align_corners=True),
        "bicubic_antialias": F.interpolate(image, (5, 6), mode="bicubic", antialias=True),
        "permute": image.permute(0, 2, 3, 1), "cat": torch.cat([x, y], 1), "stack": torch.stack([x, y], 1),
        "slice": image[:, :, 1:8:3], "flip": x.flip(1), "repeat_interleave": x.repeat_interleave(2, 1),
        "repeat": x.repeat(2, 3), "gather": x.gather(0, index[None].expand(2, 3)), "tril": torch.ones(5, 5).tril(),
    }
    z = x.clone().requires_grad_()
    w = square.clone().requires_grad_()
    F.gelu(F.linear(F.layer_norm(z, (4,), eps=1e-3), w)).pow(2).sum().backward()
    out["gradient.x"], out["gradient.square"] = z.grad, w.grad
    save("operators.safetensors", out)


def optimizers():
    shapes = {"matrix": (5, 4), "vector": (4,), "scalar": (), "slow": (3, 2)}
    parameters = {n: torch.randn(s, generator=g).double().requires_grad_() for n, s in shapes.items()}
    out = {f"start.{n}": p.detach().float() for n, p in parameters.items()}
    for n, p in parameters.items():
        p.data = out[f"start.{n}"].double()
    rates = dict(matrix=1.0, vector=1.0, scalar=1.0, slow=0.25)
    optimizer = torch.optim.AdamW(
        [dict(params=[p], weight_decay=0.05 if p.ndim > 1 else 0.0) for p in parameters.values()], betas=(0.9, 0.98),
        eps=1e-8)
    for step in range(10):
        for n, p in parameters.items():
            if n == "slow" and step == 3:
                p.grad = None  # left alone in this step: its counter does not move either
                continue
            out[f"gradient.{step}.{n}"] = torch.randn(shapes[n], generator=g) * (3.0 if step % 2 else 0.1)
            p.grad = out[f"gradient.{step}.{n}"].double()
        for group, n in zip(optimizer.param_groups, parameters):
            group["lr"] = 0.01 * (step + 1) * rates[n]
        optimizer.step()
        for n, p in parameters.items():
            out[f"after.{step}.{n}"] = p.detach().float()
    for limit in (1.0, 100.0):
        values = [torch.zeros(s, requires_grad=True) for s in shapes.values()]
        for n, v in zip(shapes, values):
            v.grad = out[f"gradient.1.{n}"].clone()
        out[f"clip.{limit:.0f}.norm"] = torch.nn.utils.clip_grad_norm_(values, limit)
        for n, v in zip(shapes, values):
            out[f"clip.{limit:.0f}.{n}"] = v.grad
    save("optimizers.safetensors", out)


def formats():
    count = torch.arange(6).reshape(2, 3)
    out = {f"F{bits}": ((count - 3) * 0.5).to(getattr(torch, f"float{bits}")) for bits in (16, 32, 64)}
    out["BF16"] = ((count - 3) * 0.5).to(torch.bfloat16)
    out |= {f"I{bits}": (count - 3).to(getattr(torch, f"int{bits}")) for bits in (8, 16, 32, 64)}
    out["U8"] = (count * 40).to(torch.uint8)
    out["BOOL"] = count % 2 == 0
    out["scalar"] = torch.tensor(2.5)
    out["empty"] = torch.zeros(0, 3)
    out["größe/λ"] = torch.tensor([1.0])
    save("formats.safetensors", out, metadata={"format": "pt", "note": "ünïcode \"quoted\""})


def odd():
    """Data in an order of its own: empty tensors share the offset of what follows or precedes them."""
    header = {
        "b": {"dtype": "U8", "shape": [3], "data_offsets": [0, 3]},
        "a": {"dtype": "F32", "shape": [2], "data_offsets": [3, 11]},
        "z": {"dtype": "F32", "shape": [0], "data_offsets": [3, 3]},
        "c": {"dtype": "I64", "shape": [1], "data_offsets": [11, 19]},
        "y": {"dtype": "F64", "shape": [0, 5], "data_offsets": [19, 19]},
    }
    text = json.dumps(header).encode()
    text += b" " * (1 - len(text) % 2)  # of odd length
    data = bytes([7, 8, 9]) + struct.pack("<2f", 0.25, -4.0) + struct.pack("<q", -(2**40))
    (here / "odd.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)


def ours():
    path = here / "ours.safetensors"
    if not path.exists():
        return print("ours.safetensors is not there yet: CheckpointsTests writes it")
    tensors = load_file(path)
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"by": "swift-qformer", "note": "ünïcode \"quoted\""}, file.metadata()
    reference = load_file(here / "formats.safetensors")
    assert tensors.keys() == reference.keys()
    for name, value in reference.items():
        assert tensors[name].dtype == value.dtype and torch.equal(tensors[name], value), name
    print("ours.safetensors: read back,", len(tensors), "tensors")


operators()
optimizers()
formats()
odd()
ours()
