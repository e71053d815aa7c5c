"""Writes the fixtures of the towers of BLIP-2 and InstructBLIP with transformers 5.23 and torch 2.13 on the CPU.

    python make_towers.py [vision|clip|opt|t5|published]...      # all by default

The models are small, with random weights under `model.`. Pictures are the formula `picture`, which the tests repeat. Text is
generated row by row, so that a padded batch has to give each row what it gets alone.
"""
import json, re, sys, tempfile
from collections import Counter

import torch
import torch.nn.functional as F

from make_backbones import HERE, PROMPTS, padded, picture, shake, write


def state(model, drop=()):
    return {f"model.{k}": v for k, v in model.state_dict().items() if k not in drop and not k.endswith("position_ids")}


def save_config(name, config):
    (HERE / name).write_text(config.to_json_string())


@torch.no_grad()
def vision(_):
    from transformers import Blip2VisionConfig, Blip2VisionModel
    from transformers import InstructBlipVisionConfig, InstructBlipVisionModel

    # The second has the published grids: 16 x 16 patches at 224 pixels, 26 x 26 at 364.
    for name, sizes, settings in (
        ("blip2_vision", [(3, 28, 28), (1, 42, 42), (2, 35, 21)],
         dict(hidden_size=18, intermediate_size=30, num_hidden_layers=3, num_attention_heads=3, image_size=28, patch_size=7,
              layer_norm_eps=1e-5)),
        ("blip2_vision_large", [(1, 224, 224), (1, 364, 364)],
         dict(hidden_size=6, intermediate_size=10, num_hidden_layers=1, num_attention_heads=2, image_size=224, patch_size=14)),
    ):
        config = Blip2VisionConfig(**settings)
        model = shake(Blip2VisionModel(config), 11)
        out = state(model)
        twin = InstructBlipVisionModel(InstructBlipVisionConfig(**settings)).eval()
        twin.load_state_dict(model.state_dict())
        for batch, height, width in sizes:
            pixels = picture(height, width, batch)
            result = model(pixels, interpolate_pos_encoding=True, output_hidden_states=True)
            assert torch.equal(result.last_hidden_state, twin(pixels, interpolate_pos_encoding=True).last_hidden_state)
            key = f"{height}x{width}"
            step = 1 if height < 100 else 3
            out[f"{key}.last"] = result.last_hidden_state[:, ::step]
            for block in {0, config.num_hidden_layers - 1}:
                out[f"{key}.block{block}"] = result.hidden_states[block + 1][:, ::step]
        write(f"{name}.safetensors", out)
        save_config(f"{name}.json", config)


@torch.no_grad()
def clip(_):
    from transformers import CLIPVisionConfig, CLIPVisionModel

    settings = dict(hidden_size=18, intermediate_size=30, num_hidden_layers=3, num_attention_heads=3, image_size=28, patch_size=7,
                    layer_norm_eps=1e-4)
    config = CLIPVisionConfig(**settings)
    model = shake(CLIPVisionModel(config), 12)
    out = state(model)
    inner = getattr(model, "vision_model", model)
    for batch, side in ((3, 28), (1, 42), (2, 21)):
        # LAVIS resizes the table once, corners aligned, and then has a model of the new size.
        table = inner.embeddings.position_embedding.weight
        image = table[1:].view(1, 4, 4, -1).permute(0, 3, 1, 2)
        grid = side // 7
        resized = F.interpolate(image, size=grid, mode="bicubic", align_corners=True).permute(0, 2, 3, 1).reshape(grid * grid, -1)
        other = CLIPVisionModel(CLIPVisionConfig(**dict(settings, image_size=side))).eval()
        weights = dict(model.state_dict())
        key = next(k for k in weights if k.endswith("position_embedding.weight"))
        weights[key] = torch.cat([table[:1], resized])
        other.load_state_dict(weights)
        hidden = other(picture(side, side, batch), output_hidden_states=True).hidden_states
        out[f"{side}x{side}.block0"], out[f"{side}x{side}.block1"] = hidden[1], hidden[2]
    # transformers' own way: corners not aligned.
    out["35x21.block1"] = model(picture(35, 21, 1), interpolate_pos_encoding=True, output_hidden_states=True).hidden_states[2]
    write("clip_vision.safetensors", out)
    save_config("clip_vision.json", config)


def rows_of(embeds, mask):
    return [row[keep.bool()][None] for row, keep in zip(embeds, mask)]


def fill(rows, value=-1):
    longest = max(map(len, rows))
    return torch.tensor([row + [value] * (longest - len(row)) for row in rows])


def cut(ids, ends):
    for i, x in enumerate(ids):
        if x in ends:
            return ids[: i + 1]
    return ids


def texts(model, rows, skip, ends, **settings):
    """New ids of each row, the end token included; and the beams' scores."""
    found, scores = [], []
    for row in rows:
        out = model.generate(inputs_embeds=row, attention_mask=torch.ones(row.shape[:2], dtype=torch.long), pad_token_id=0,
                             eos_token_id=ends or None, do_sample=False, return_dict_in_generate=True, output_scores=True, **settings)
        found.append(cut(out.sequences[0, skip:].tolist(), ends))
        if settings.get("num_beams", 1) > 1:
            scores.append(out.sequences_scores[0])
    return found, torch.stack(scores) if scores else None


SAMPLING = [
    dict(temperature=0.7, top_k=7, top_p=0.8, repetition_penalty=1.4, min_new_tokens=3),
    dict(temperature=1.5, top_p=0.6),
    dict(temperature=1.0, top_k=4, repetition_penalty=0.8),
    dict(temperature=0.5, top_p=0.05, top_k=0, min_new_tokens=2),
]


def generation(model, embeds, mask, skip, out):
    """Greedy, beams and sampling from embeddings; `skip` ids stand before the first new one."""
    rows = rows_of(embeds, mask)
    free, _ = texts(model, rows, skip, [], max_new_tokens=24)
    out["greedy"] = fill(free)
    # Tokens that come late for the first time.
    late = [[x for i, x in enumerate(row) if i >= start and x not in row[:i]] for row, start in zip(free, (5, 9))]
    ends = {x[0] for x in late if x}
    ends = sorted(ends if len(ends) > 1 else ends | {free[1][12]})
    print("ends", ends, free)
    out["ends"] = torch.tensor(ends)
    for name, settings in (
        ("greedy_ends", {}), ("greedy_min", dict(min_new_tokens=9)), ("greedy_penalty", dict(repetition_penalty=1.5)),
        ("beam", dict(num_beams=5)), ("beam_early", dict(num_beams=5, early_stopping=True)),
        ("beam_three", dict(num_beams=3, early_stopping=True, length_penalty=0.3)),
        ("beam_short", dict(num_beams=5, length_penalty=-1.0)),
        ("beam_long", dict(num_beams=5, length_penalty=2.0, repetition_penalty=1.5, min_new_tokens=6)),
    ):
        found, scores = texts(model, rows, skip, ends, max_new_tokens=20, **settings)
        print(name, found)
        out[name] = fill(found)
        if scores is not None:
            out[f"{name}.scores"] = scores
    for number, settings in enumerate(SAMPLING):
        torch.manual_seed(number)
        row = rows[number % len(rows)]
        drawn = model.generate(inputs_embeds=row, attention_mask=torch.ones(row.shape[:2], dtype=torch.long), pad_token_id=0,
                               eos_token_id=ends, do_sample=True, max_new_tokens=4, return_dict_in_generate=True, output_scores=True,
                               **{"top_k": 0, **settings})
        out[f"sample{number}.ids"] = drawn.sequences[0, skip:]
        # -inf does not compare: a number that no score has.
        out[f"sample{number}.scores"] = torch.cat(drawn.scores).clamp(min=-1e6)
        print(number, drawn.sequences[0, skip:].tolist(), [int((s > -1e6).sum()) for s in drawn.scores])


TARGETS = [[9, 4, 31, 2, 50], [13, 8], [22, 40, 6, 17]]


def pictures_and_words(embed, width):
    """[pad | 3 picture vectors | prompt], what BLIP-2 puts before a text."""
    ids, mask = padded([row[:4 + i] for i, row in enumerate(PROMPTS)], "left")
    words = embed(ids)
    longest = mask.sum(1).max() + 3
    vectors = torch.randn(3, 3, width, generator=torch.Generator().manual_seed(21)) * 0.7
    rows = [torch.cat([v, w[m.bool()]]) for v, w, m in zip(vectors, words, mask)]
    embeds = torch.stack([F.pad(r, (0, 0, int(longest) - len(r), 0)) for r in rows])
    left = torch.stack([F.pad(torch.ones(len(r)), (int(longest) - len(r), 0)) for r in rows]).long()
    return embeds.detach(), left


def loss_of(logits, targets, mask):
    return F.cross_entropy(logits[mask.bool()], targets[mask.bool()])


def opt(_):
    from transformers import OPTConfig, OPTForCausalLM

    common = dict(vocab_size=61, max_position_embeddings=48, bos_token_id=None, eos_token_id=None, pad_token_id=1, dropout=0.0)
    for name, settings in (
        ("opt", dict(hidden_size=28, num_hidden_layers=3, num_attention_heads=4, ffn_dim=40)),
        ("opt_post", dict(hidden_size=18, num_hidden_layers=2, num_attention_heads=3, ffn_dim=28, word_embed_proj_dim=11,
                          do_layer_norm_before=False)),
        ("opt_bare", dict(hidden_size=12, num_hidden_layers=2, num_attention_heads=2, ffn_dim=20, enable_bias=False,
                          layer_norm_elementwise_affine=False, _remove_final_layer_norm=True, activation_function="gelu",
                          tie_word_embeddings=False)),
    ):
        config = OPTConfig(**common, **settings)
        model = shake(OPTForCausalLM(config), 13, 0.3)
        # Otherwise the tied head repeats the token that went in.
        model.model.decoder.embed_tokens.weight.data *= 0.4
        out = state(model, drop=["lm_head.weight"] if config.tie_word_embeddings else [])
        save_config(f"{name}.json", config)
        decoder = model.model.decoder
        for side in ("right", "left"):
            ids, mask = padded(PROMPTS, side)
            embeds = decoder.embed_tokens(ids).detach().requires_grad_()
            hidden = decoder(inputs_embeds=embeds, attention_mask=mask).last_hidden_state
            logits = model.lm_head(hidden)
            cotangent = torch.randn(logits.shape, generator=torch.Generator().manual_seed(14))
            (logits * cotangent * mask[..., None]).sum().backward()
            out |= {f"{side}.ids": ids, f"{side}.mask": mask, f"{side}.hidden": hidden * mask[..., None],
                    f"{side}.gradient": embeds.grad, "cotangent": cotangent}
            if side == "left":
                out["left.logits"] = logits * mask[..., None]
        if name == "opt":
            embeds, mask = pictures_and_words(decoder.embed_tokens, 28)
            out |= {"embeds": embeds, "embeds.mask": mask}
            targets, real = padded(TARGETS, "right")
            leaf = embeds.clone().requires_grad_()
            row = torch.cat([leaf, decoder.embed_tokens(targets[:, :-1])], 1)
            both = torch.cat([mask, torch.ones_like(targets[:, :-1])], 1)
            logits = model(inputs_embeds=row, attention_mask=both).logits[:, embeds.shape[1] - 1:]
            loss = loss_of(logits, targets, real)
            loss.backward()
            out |= {"targets": targets, "targets.mask": real, "targets.logits": logits, "targets.loss": loss[None],
                    "targets.gradient": leaf.grad}
            with torch.no_grad():
                generation(model, embeds, mask, 0, out)
        write(f"{name}.safetensors", out)


def t5(_):
    from transformers import T5Config, T5ForConditionalGeneration

    common = dict(vocab_size=61, d_model=20, d_kv=7, d_ff=28, num_heads=3, decoder_start_token_id=0, pad_token_id=0, eos_token_id=None,
                  dropout_rate=0.0)
    for name, settings in (
        # Version 1.1 as in BLIP-2: gated by the exact GELU, a head of its own.
        ("t5", dict(num_layers=3, num_decoder_layers=2, relative_attention_num_buckets=8, relative_attention_max_distance=12,
                    feed_forward_proj="gated-gelu", dense_act_fn="gelu", tie_word_embeddings=False, layer_norm_epsilon=1e-5)),
        # Version 1.0: ReLU, tied and scaled head, the published buckets; and gated-gelu as it is meant elsewhere.
        ("t5_tied", dict(num_layers=2, num_decoder_layers=2)),
        ("t5_tanh", dict(num_layers=1, feed_forward_proj="gated-gelu", tie_word_embeddings=False)),
    ):
        config = T5Config(**common, **settings)
        print(name, config.dense_act_fn, config.is_gated_act, config.scale_decoder_outputs, config.tie_word_embeddings)
        model = T5ForConditionalGeneration(config)
        untied = not config.scale_decoder_outputs
        if untied:
            model.lm_head.weight = torch.nn.Parameter(torch.empty_like(model.lm_head.weight))
        # Scores have no scale in this model: weights are small enough that float32 rounds to less than the tests' limits.
        model = shake(model, 17, 0.2 if name == "t5" else 0.3)
        drop = ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight"] + ([] if untied else ["lm_head.weight"])
        out = state(model, drop)
        # As published files have it, which transformers 5 does not write.
        text = json.loads(config.to_json_string())
        text["tie_word_embeddings"] = not untied
        text.pop("scale_decoder_outputs", None)
        (HERE / f"{name}.json").write_text(json.dumps(text, indent=2) + "\n")
        targets, real = padded(TARGETS, "right")
        model.double()  # so that the tests measure one rounding and not two
        for side in ("right", "left"):
            ids, mask = padded(PROMPTS, side)
            embeds = model.shared(ids).detach().requires_grad_()
            result = model(inputs_embeds=embeds, attention_mask=mask, labels=targets)
            loss = loss_of(result.logits, targets, real)
            loss.backward()
            out |= {f"{side}.ids": ids, f"{side}.mask": mask, f"{side}.encoded": result.encoder_last_hidden_state * mask[..., None],
                    f"{side}.logits": result.logits, f"{side}.loss": loss[None], f"{side}.gradient": embeds.grad}
        out |= {"targets": targets, "targets.mask": real}
        model.float()
        out = {key: value.float() if value.is_floating_point() else value for key, value in out.items()}
        if name == "t5_tied":
            # Long enough for every bucket of both stacks.
            ids = (torch.arange(300) * 7 + torch.arange(300) // 11)[None] % 61
            with torch.no_grad():
                encoded = model.encoder(ids).last_hidden_state
                logits = model(ids, decoder_input_ids=ids).logits
            out |= {"long.encoded": encoded[:, ::13], "long.logits": logits[:, ::13]}
        if name == "t5":
            embeds, mask = pictures_and_words(model.shared, 20)
            out |= {"embeds": embeds, "embeds.mask": mask}
            with torch.no_grad():
                generation(model, embeds, mask, 1, out)
        write(f"{name}.safetensors", out)


def collapsed(model, drop=()):
    """One line each: name with `*` for the numbers of layers, shape, how often there is one."""
    found = Counter()
    for name, tensor in model.state_dict().items():
        if name not in drop and not name.endswith("position_ids"):
            found[re.sub(r"\.\d+\.(?!layer_norm|SelfAttention|EncDec|Dense)", ".*.", name), tuple(tensor.shape)] += 1
    return sorted(f"{name} {list(shape)} ×{count}" for (name, shape), count in found.items())


def published(_):
    """What transformers makes of the sparse configurations in published/: numbers, and names and shapes of weights."""
    from transformers import (Blip2Config, Blip2VisionModel, InstructBlipConfig, InstructBlipVisionModel, LlamaForCausalLM,
                              OPTForCausalLM, T5ForConditionalGeneration)

    keys = {
        "vision": "hidden_size intermediate_size num_hidden_layers num_attention_heads image_size patch_size layer_norm_eps qkv_bias "
                  "hidden_act",
        "opt": "vocab_size hidden_size word_embed_proj_dim ffn_dim num_hidden_layers num_attention_heads max_position_embeddings "
               "do_layer_norm_before activation_function enable_bias layer_norm_elementwise_affine tie_word_embeddings eos_token_id",
        "t5": "vocab_size d_model d_kv d_ff num_layers num_decoder_layers num_heads relative_attention_num_buckets "
              "relative_attention_max_distance layer_norm_epsilon dense_act_fn is_gated_act scale_decoder_outputs "
              "decoder_start_token_id eos_token_id",
        "llama": "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads head_dim "
                 "rms_norm_eps max_position_embeddings attention_bias mlp_bias tie_word_embeddings eos_token_id",
    }
    out = {}
    for name, whole, seeing, speaking, kind in (
        ("blip2-opt-2.7b", Blip2Config, Blip2VisionModel, OPTForCausalLM, "opt"),
        ("blip2-flan-t5-xl", Blip2Config, Blip2VisionModel, T5ForConditionalGeneration, "t5"),
        ("instructblip-vicuna-7b", InstructBlipConfig, InstructBlipVisionModel, LlamaForCausalLM, "llama"),
    ):
        config = whole(**json.loads((HERE / "published" / f"{name}.json").read_text()))
        with torch.device("meta"):
            eyes, voice = seeing(config.vision_config), speaking(config.text_config)
        drop = {"opt": ["lm_head.weight"], "t5": ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight"]}.get(kind, [])
        out[name] = {
            "vision": {k: getattr(config.vision_config, k) for k in keys["vision"].split()},
            "text": {k: getattr(config.text_config, k, None) for k in keys[kind].split()},
            "vision_weights": collapsed(eyes), "text_weights": collapsed(voice, drop),
        }
    (HERE / "published" / "golden.json").write_text(json.dumps(out, indent=1, ensure_ascii=False) + "\n")


torch.set_num_threads(1)  # other programs may be running

if __name__ == "__main__":
    for topic in sys.argv[1:] or ["vision", "clip", "opt", "t5", "published"]:
        with tempfile.TemporaryDirectory() as scratch:
            globals()[topic](scratch)
