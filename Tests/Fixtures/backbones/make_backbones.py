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


def padded(rows, side, pad=0):
    """ids and mask, padded on one side."""
    longest = max(map(len, rows))
    gap = lambda row, x: [x] * (longest - len(row))
    join = (lambda row, x, y: gap(row, y) + x) if side == "left" else (lambda row, x, y: x + gap(row, y))
    return (torch.tensor([join(r, r, pad) for r in rows]), torch.tensor([join(r, [1] * len(r), 0) for r in rows]))


PROMPTS = [[5, 17, 3, 44, 20, 9, 31, 8, 50], [12, 7, 29, 33], [40, 41, 2, 11, 58, 6]]


def generated(model, rows, **settings):
    """New ids, the end token included, then -1."""
    ids, mask = padded(rows, "left")
    out = model.generate(ids, attention_mask=mask, do_sample=False, pad_token_id=0, **settings)[:, ids.shape[1]:]
    ends = settings.get("eos_token_id") or []
    for row in out:
        hits = [i for i, x in enumerate(row.tolist()) if x in ends]
        if hits:
            row[hits[0] + 1:] = -1
    return out


def llama(scratch):
    from transformers import LlamaConfig, LlamaForCausalLM

    plain = dict(vocab_size=61, hidden_size=36, num_hidden_layers=3, num_attention_heads=6, num_key_value_heads=2, head_dim=8,
                 intermediate_size=52, rms_norm_eps=1e-5, tie_word_embeddings=True, max_position_embeddings=256,
                 rope_parameters={"rope_type": "default", "rope_theta": 5000.0}, bos_token_id=None, eos_token_id=None)
    stretched = dict(plain, num_key_value_heads=6, num_hidden_layers=2, tie_word_embeddings=False, attention_bias=True, mlp_bias=True,
                     rope_parameters={"rope_type": "llama3", "rope_theta": 500.0, "factor": 4.0, "low_freq_factor": 1.0,
                                      "high_freq_factor": 4.0, "original_max_position_embeddings": 32})
    for name, settings in (("llama", plain), ("llama_stretched", stretched)):
        config = LlamaConfig(**settings)
        model = shake(LlamaForCausalLM(config), 3, 0.3)
        out = weights(model, scratch)
        (HERE / f"{name}.json").write_text(config.to_json_string())
        for side in ("right", "left"):
            ids, mask = padded(PROMPTS, side)
            positions = (mask.cumsum(1) - 1).clamp(min=0)
            embeds = model.model.embed_tokens(ids).detach().requires_grad_()
            hidden = model.model(inputs_embeds=embeds, attention_mask=mask, position_ids=positions).last_hidden_state
            logits = model.lm_head(hidden)
            cotangent = torch.randn(logits.shape, generator=torch.Generator().manual_seed(4)) * mask[..., None]
            (logits * cotangent).sum().backward()
            out |= {f"{side}.ids": ids, f"{side}.mask": mask, f"{side}.hidden": hidden * mask[..., None],
                    f"{side}.logits": logits * mask[..., None], f"{side}.cotangent": cotangent,
                    f"{side}.gradient": embeds.grad}
        if name == "llama":
            long = generated(model, PROMPTS, max_new_tokens=64)
            out["greedy"] = long
            # End tokens that do come, some early and some late.
            ends = [int(long[0, 5]), int(long[1, 20])]
            print("ends", ends, [[int(x) for x in row] for row in long[:, :24]])
            out["ends"] = torch.tensor(ends)
            out["greedy_ends"] = generated(model, PROMPTS, max_new_tokens=40, eos_token_id=ends)
            out["greedy_min"] = generated(model, PROMPTS, max_new_tokens=40, eos_token_id=ends, min_new_tokens=12)
            out["greedy_penalty"] = generated(model, PROMPTS, max_new_tokens=40, eos_token_id=ends, repetition_penalty=1.5)
            beams = dict(num_beams=5, early_stopping=False, max_new_tokens=24)
            out["beam"] = generated(model, PROMPTS, eos_token_id=ends, **beams)
            out["beam_none"] = generated(model, PROMPTS, **beams)
            out["beam_short"] = generated(model, PROMPTS, eos_token_id=ends, length_penalty=-1.0, **beams)
            out["beam_long"] = generated(model, PROMPTS, eos_token_id=ends, length_penalty=2.0, repetition_penalty=1.5,
                                         min_new_tokens=6, **beams)
            for key in ("greedy_ends", "greedy_min", "greedy_penalty", "beam", "beam_none", "beam_short", "beam_long"):
                print(key, [[x for x in row if x >= 0] for row in out[key].tolist()])
        write(f"{name}.safetensors", out)


@torch.no_grad()
def bert(scratch):
    from transformers import BertConfig, BertModel

    config = BertConfig(vocab_size=61, hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=40,
                        max_position_embeddings=20)
    model = shake(BertModel(config), 5)
    out = weights(model, scratch)
    (HERE / "bert.json").write_text(config.to_json_string())
    ids, mask = padded(PROMPTS, "right")
    hidden = model(ids, attention_mask=mask).last_hidden_state
    mean = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    out |= {"ids": ids, "mask": mask, "hidden": hidden * mask[..., None], "pooled": torch.nn.functional.normalize(mean),
            "unmasked": model(ids).last_hidden_state}
    write("bert.safetensors", out)


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

    from transformers import AutoTokenizer, BertModel, LlamaForCausalLM

    folder = CACHE / "smollm2-135m-instruct"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = LlamaForCausalLM.from_pretrained(folder).eval()
    out = {}
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "What is the capital of France?"}], tokenize=False,
                                         add_generation_prompt=True)
    prompts = [tokenizer(t).input_ids for t in (chat, "A photo of a dog that", "The three primary colours are")]
    for number, prompt in enumerate(prompts):
        ids = torch.tensor([prompt])
        out[f"{number}.ids"] = ids
        logits = model(ids).logits[0]
        # The last position of the first prompt whole, of the others every 64th logit.
        if number == 0:
            out["0.last"] = logits[-1]
        out[f"{number}.logits"] = logits[:, ::64]
        out[f"{number}.greedy"] = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=64,
                                                 eos_token_id=None, pad_token_id=2)[0, len(prompt):]
        print(tokenizer.decode(out[f"{number}.greedy"]))
    write("real_smollm2.safetensors", out)

    folder = CACHE / "minilm-l6"
    model = BertModel.from_pretrained(folder).eval()
    batch = AutoTokenizer.from_pretrained(folder)(["A bee on a flower.", "Two dogs run over a wide, sunny field of grass"],
                                                  padding=True, return_tensors="pt")
    ids, mask = batch.input_ids, batch.attention_mask
    hidden = model(ids, attention_mask=mask).last_hidden_state * mask[..., None]
    pooled = torch.nn.functional.normalize(hidden.sum(1) / mask.sum(1, keepdim=True))
    write("real_minilm.safetensors", {"ids": ids, "mask": mask, "hidden": hidden, "pooled": pooled})


torch.set_num_threads(1)  # other programs may be running

if __name__ == "__main__":
    import tempfile

    for topic in sys.argv[1:] or ["dinov2", "llama", "bert", "real"]:
        with tempfile.TemporaryDirectory() as scratch:
            globals()[topic](scratch)
