"""Writes small random models of every published architecture, as transformers saves them, and what they compute.

    python Tests/Fixtures/published/make_published.py

Written with transformers 5.23 and torch 2.13. One folder for each model:

    config.json, model.safetensors, preprocessor_config.json, tokenizer.json (linked to the tokenizer fixtures)
    expected.safetensors   pixels and outputs, whole tensors
    expected.json          prompts and generated ids

Sizes are odd on purpose: widths that are no powers of two, three layers, five queries, several vocabularies. Weights are
large enough that every part matters to every output. Weights are stored in float16 and read back before anything is
computed, so that both sides compute with the same numbers.
"""

import json
import pathlib
import shutil

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2ForImageTextRetrieval,
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
    InstructBlipVideoConfig,
    InstructBlipVideoForConditionalGeneration,
)

HERE = pathlib.Path(__file__).resolve().parent
TOKENIZERS = HERE.parent / "tokenizers"
MEAN = [0.48145466, 0.4578275, 0.40821073]
DEVIATION = [0.26862954, 0.26130258, 0.27577711]
PROMPTS = ["Question: what is the dog doing? Answer:", "a photo of"]
TEXTS = ["a dog runs on the beach", "two red buses in New York City, seen from above"]

VISION = dict(hidden_size=20, intermediate_size=36, num_hidden_layers=3, num_attention_heads=4, image_size=28,
              patch_size=7, layer_norm_eps=1e-6)
QFORMER = dict(hidden_size=24, num_hidden_layers=3, num_attention_heads=3, intermediate_size=44,
               cross_attention_frequency=2, encoder_hidden_size=20, max_position_embeddings=40)


def size(name):
    return Tokenizer.from_file(str(TOKENIZERS / name / "tokenizer.json")).get_vocab_size()


def opt():
    words = size("byte-bpe") + 3
    return dict(model_type="opt", vocab_size=words, hidden_size=24, word_embed_proj_dim=24, ffn_dim=40,
                num_hidden_layers=3, num_attention_heads=3, max_position_embeddings=96, bos_token_id=2, eos_token_id=3,
                pad_token_id=1, do_layer_norm_before=True)


def t5():
    words = size("byte-bpe") + 5
    return dict(model_type="t5", vocab_size=words, d_model=24, d_kv=7, d_ff=40, num_layers=3, num_decoder_layers=2,
                num_heads=3, relative_attention_num_buckets=8, relative_attention_max_distance=20,
                feed_forward_proj="gated-gelu", dense_act_fn="gelu", tie_word_embeddings=False, bos_token_id=2,
                eos_token_id=1, pad_token_id=0, decoder_start_token_id=0)


def llama():
    words = size("byte-bpe") + 2
    return dict(model_type="llama", vocab_size=words, hidden_size=24, intermediate_size=40, num_hidden_layers=3,
                num_attention_heads=6, num_key_value_heads=2, max_position_embeddings=128, bos_token_id=1, eos_token_id=2,
                pad_token_id=0, tie_word_embeddings=False, rms_norm_eps=1e-6)


def pictures():
    rng = np.random.default_rng(3)
    ramps = []
    for index in range(3):
        y, x = np.mgrid[0:40, 0:50]
        planes = [127 + 127 * np.sin(x / (3 + index + c) + y / (5 + 2 * c) + index) for c in range(3)]
        ramps.append((np.stack(planes, -1) + rng.normal(0, 12, (40, 50, 3))).clip(0, 255).astype(np.uint8))
    return ramps


def pixels(images, side):
    """What the published processor makes: squashed to a square by Pillow's bicubic, scaled, normalised."""
    planes = []
    for image in images:
        resized = Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC)
        planes.append((np.asarray(resized, np.float32) / 255 - np.float32(MEAN)) / np.float32(DEVIATION))
    return torch.from_numpy(np.stack(planes)).permute(0, 3, 1, 2).contiguous()


def randomize(model, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            values = torch.randn(parameter.shape, generator=generator)
            is_norm = "norm" in name.lower() and parameter.dim() == 1
            if is_norm and name.endswith("weight"):
                values = 1 + 0.2 * values
            elif parameter.dim() == 1:
                values = 0.2 * values
            elif "language_model" in name and ("embed" in name or "shared" in name):
                values = 0.2 * values  # larger ones drown the blocks: every token would then be followed by itself
            elif "embed" in name or "shared" in name or "query_tokens" in name:
                values = 0.7 * values
            else:
                values = values * 1.3 / parameter[0].numel() ** 0.5
            parameter.copy_(values.half().float())


def write(name, model, config, side, tokenizer, expected, words, qformer_tokenizer=None):
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    model.half().save_pretrained(folder)
    model.float()
    for extra in ["generation_config.json"]:
        (folder / extra).unlink(missing_ok=True)
    saved = json.loads((folder / "config.json").read_text())
    saved.pop("transformers_version", None)
    saved.pop("dtype", None)
    (folder / "config.json").write_text(json.dumps(saved, indent=1))
    (folder / "preprocessor_config.json").write_text(json.dumps(
        dict(do_resize=True, size=dict(height=side, width=side), resample=3, do_rescale=True, do_normalize=True,
             image_mean=MEAN, image_std=DEVIATION), indent=1))
    (folder / "tokenizer.json").symlink_to(f"../../tokenizers/{tokenizer}/tokenizer.json")
    if qformer_tokenizer:
        (folder / "qformer_tokenizer").mkdir()
        (folder / "qformer_tokenizer/tokenizer.json").symlink_to(
            f"../../../tokenizers/{qformer_tokenizer}/tokenizer.json")
    save_file({key: value.contiguous() for key, value in expected.items()}, folder / "expected.safetensors")
    (folder / "expected.json").write_text(json.dumps(words))


def encode(tokenizer, text):
    return Tokenizer.from_file(str(TOKENIZERS / tokenizer / "tokenizer.json")).encode(text).ids


def generate(model, config, inputs, pieces, **options):
    """Generated ids for every picture alone and for all together."""
    out = model.generate(**inputs, max_new_tokens=8, do_sample=False, **options)
    eos = config["text_config"]["eos_token_id"]
    start = 0 if config["text_config"]["model_type"] != "t5" else 1
    rows = []
    for row in out.tolist():
        row = row[inputs["input_ids"].shape[1]:] if pieces else row[start:]
        rows.append(row[:row.index(eos) + 1] if eos in row else row)
    return rows


def writing(name, make, config_class, text, side, instructs=False, frames=1):
    tokens = 5
    image_token = text["vocab_size"] - 1
    key = "video_token_index" if frames > 1 else "image_token_index"
    config = dict(vision_config=VISION, qformer_config=QFORMER | dict(vocab_size=size("word-piece")), text_config=text,
                  num_query_tokens=tokens, **{key: image_token})
    model = make(config_class(**config)).eval()
    randomize(model, seed=len(name))
    images = pictures()
    values = pixels(images, side)
    if frames > 1:
        values = torch.stack([values, values.flip(0)])[:, :frames]  # two clips
    resize = side != VISION["image_size"]
    decoder_only = text["model_type"] != "t5"
    expected = {"pictures": torch.from_numpy(np.stack(images)), "pixels": values}
    words = {"prompts": PROMPTS, "cases": []}
    with torch.no_grad():
        for prompt in [None] + PROMPTS:
            if prompt is None and frames > 1:
                continue  # transformers then wants four frames
            ids = [text["bos_token_id"]] if prompt is None else encode("byte-bpe", prompt)
            batch = values.shape[0]
            input_ids = torch.tensor([[image_token] * tokens * frames + ids] * batch)
            inputs = dict(pixel_values=values, input_ids=input_ids, attention_mask=torch.ones_like(input_ids),
                          interpolate_pos_encoding=resize)
            if instructs:
                read = torch.tensor([encode("word-piece", prompt or "")] * batch)
                inputs |= dict(qformer_input_ids=read, qformer_attention_mask=torch.ones_like(read))
            tag = "none" if prompt is None else str(PROMPTS.index(prompt))
            forward = dict(inputs)
            if not decoder_only:
                forward["decoder_input_ids"] = torch.full([batch, 1], text["decoder_start_token_id"])
            out = model(**forward)
            expected[f"logits.{tag}"] = out.logits[:, -1]
            seen = out.qformer_outputs.last_hidden_state[:, :tokens]
            expected[f"query_output.{tag}"] = seen.contiguous()
            expected[f"language_tokens.{tag}"] = model.language_projection(seen).reshape(batch, tokens * frames, -1)
            expected["image_embeds"] = out.vision_outputs.last_hidden_state
            pieces = decoder_only
            words["cases"].append(dict(
                prompt=prompt,
                greedy=generate(model, config, inputs, pieces),
                beams=generate(model, config, inputs, pieces, num_beams=5, length_penalty=0.7),
                repetition=generate(model, config, inputs, pieces, repetition_penalty=1.5, num_beams=3)))
    write(name, model, config, side, "byte-bpe", expected, words, "word-piece" if instructs else None)


def matching(name, side):
    words = size("word-piece")
    config = dict(vision_config=VISION, qformer_config=QFORMER | dict(vocab_size=words, use_qformer_text_input=True),
                  text_config=opt(), num_query_tokens=5, image_text_hidden_size=12)
    model = Blip2ForImageTextRetrieval(Blip2Config(**config)).eval()
    randomize(model, seed=5)
    images = pictures()
    values = pixels(images, side)
    expected = {"pictures": torch.from_numpy(np.stack(images)), "pixels": values}
    itc, itm = [], []
    with torch.no_grad():
        for text in TEXTS:
            ids = torch.tensor([encode("word-piece", text)] * 3)
            mask = torch.ones_like(ids)
            both = dict(pixel_values=values, input_ids=ids, attention_mask=mask)
            out = model(**both, use_image_text_matching_head=False)
            itc.append(out.logits_per_image[:, 0])
            itm.append(model(**both, use_image_text_matching_head=True).logits_per_image.softmax(1)[:, 1])
            expected["image_features"] = out.image_embeds
            expected["image_embeds"] = out.vision_model_output.last_hidden_state
    expected["itc"] = torch.stack(itc, 1)
    expected["itm"] = torch.stack(itm, 1)
    write(name, model, config, side, "word-piece", expected, {"texts": TEXTS})


def main():
    writing("blip2-opt", Blip2ForConditionalGeneration, Blip2Config, opt(), side=28)
    writing("blip2-t5", Blip2ForConditionalGeneration, Blip2Config, t5(), side=42)
    writing("instructblip-t5", InstructBlipForConditionalGeneration, InstructBlipConfig, t5(), side=28, instructs=True)
    writing("instructblip-llama", InstructBlipForConditionalGeneration, InstructBlipConfig, llama(), side=42,
            instructs=True)
    writing("instructblip-video", InstructBlipVideoForConditionalGeneration, InstructBlipVideoConfig, llama(), side=28,
            instructs=True, frames=3)
    matching("blip2-itm", side=28)


main()
