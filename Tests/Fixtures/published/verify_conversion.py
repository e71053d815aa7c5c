"""Loads what `qformer convert --to huggingface` writes with transformers, strictly, and compares the outputs.

    python Tests/Fixtures/published/verify_conversion.py [QFORMER]        (default: .build/debug/qformer)

Run with transformers 5.23 and torch 2.13. Every model beside this script goes to an adapter folder and back; its outputs are
those of `expected.safetensors`. LAVIS' files in ../checkpoints are converted with their bases; their outputs are those of
their twins in Hugging Face's names.
"""

import json
import pathlib
import subprocess
import sys
import tempfile

import torch
import transformers
from safetensors.torch import load_file, save_file

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[2]
CHECKPOINTS = HERE.parent / "checkpoints"
TOKENIZERS = HERE.parent / "tokenizers"
PROGRAM = sys.argv[1] if len(sys.argv) > 1 else str(ROOT / ".build/debug/qformer")


def convert(source, destination, *options):
    done = subprocess.run([PROGRAM, "convert", source, destination, *map(str, options), "--json"], capture_output=True,
                          text=True, check=False)
    if done.returncode:
        sys.exit(f"{source}: {done.stderr}")
    return json.loads(done.stdout)


def load(folder):
    """The model, when every key was there, wanted and of its shape."""
    name = json.loads((folder / "config.json").read_text())["architectures"][0]
    model, info = getattr(transformers, name).from_pretrained(folder, output_loading_info=True, dtype=torch.float32)
    for kind, keys in info.items():
        if keys:
            sys.exit(f"{folder.name}: {kind}: {sorted(keys)[:5]}")
    return model.eval()


def compare(what, found, expected, limit):
    error = ((found - expected).abs().max() / expected.abs().max()).item()
    print(f"{what}: {error:.1e}")
    if not error <= limit:
        sys.exit(f"{what}: relative error {error}, expected at most {limit}")


@torch.no_grad()
def published(folder, scratch):
    truth = load_file(folder / "expected.safetensors")
    words = json.loads((folder / "expected.json").read_text())
    convert(folder, scratch / "adapter", "--to", "qformer")
    convert(scratch / "adapter", scratch / "back", "--to", "huggingface")
    model, original = load(scratch / "back"), load(folder)
    state = original.state_dict()
    for key, tensor in model.state_dict().items():
        if not torch.equal(tensor, state[key]):
            sys.exit(f"{folder.name}: {key} differs")
    tokenizer = transformers.AutoTokenizer.from_pretrained(scratch / "back")
    pixels = truth["pixels"]
    if pixels.dim() == 4:  # transformers' processor of clips needs torchvision
        processor = transformers.AutoProcessor.from_pretrained(scratch / "back")
        pictures = list(truth["pictures"].permute(0, 3, 1, 2))
        seen = processor.image_processor(pictures, return_tensors="pt").pixel_values
        compare(f"{folder.name} pixels", seen, pixels, 0)
    resize = pixels.shape[-1] != model.config.vision_config.image_size
    if "texts" in words:
        for column, text in enumerate(words["texts"]):
            ids = tokenizer([text] * 3, return_tensors="pt")
            inputs = dict(pixel_values=pixels, input_ids=ids.input_ids, attention_mask=ids.attention_mask)
            itm = model(**inputs, use_image_text_matching_head=True).logits_per_image.softmax(1)[:, 1]
            itc = model(**inputs, use_image_text_matching_head=False).logits_per_image[:, 0]
            compare(f"{folder.name} itm {column}", itm, truth["itm"][:, column], 1e-5)
            compare(f"{folder.name} itc {column}", itc, truth["itc"][:, column], 1e-5)
        return
    queries, frames = model.config.num_query_tokens, pixels.shape[1] if pixels.dim() == 5 else 1
    token = getattr(model.config, "video_token_index" if frames > 1 else "image_token_index")
    for index, prompt in enumerate(words["prompts"]):
        ids = [token] * queries * frames + tokenizer(prompt).input_ids
        ids = torch.tensor([ids] * pixels.shape[0])
        inputs = dict(pixel_values=pixels, input_ids=ids, attention_mask=torch.ones_like(ids),
                      interpolate_pos_encoding=resize)
        if (scratch / "back/qformer_tokenizer").exists():
            reader = transformers.AutoTokenizer.from_pretrained(scratch / "back/qformer_tokenizer")
            read = reader([prompt] * pixels.shape[0], return_tensors="pt")
            inputs |= dict(qformer_input_ids=read.input_ids, qformer_attention_mask=read.attention_mask)
        if model.config.text_config.model_type == "t5":
            inputs["decoder_input_ids"] = torch.zeros(pixels.shape[0], 1, dtype=torch.long)
        logits = model(**inputs).logits
        compare(f"{folder.name} logits {index}, to the source", logits, original(**inputs).logits, 0)
        compare(f"{folder.name} logits {index}, as recorded", logits[:, -1], truth[f"logits.{index}"], 2e-5)


def sizes(scratch, kind, prefix, text):
    folder = scratch / f"sizes-{kind}"
    folder.mkdir()
    config = {"model_type": kind, "num_query_tokens": 4, "image_token_index": 19,
              "vision_config": {"model_type": f"{prefix}_vision_model", "hidden_size": 16, "intermediate_size": 24,
                                "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28, "patch_size": 14},
              "qformer_config": {"model_type": f"{prefix}_qformer", "hidden_size": 12, "num_attention_heads": 2,
                                 "num_hidden_layers": 2, "intermediate_size": 20, "encoder_hidden_size": 16}}
    (folder / "config.json").write_text(json.dumps(config | ({"text_config": text} if text else {})))
    return folder


@torch.no_grad()
def lavis(name, twin, bases, scratch):
    report = convert(CHECKPOINTS / name, scratch / "published", *[x for base in bases for x in ("--base", base)])
    model = load(scratch / "published")
    truth = type(model)(model.config).eval()
    tensors = {k: v for k, v in load_file(CHECKPOINTS / twin).items() if k not in report["left_out"]}
    for key in tensors:
        if name == "lavis_stage2.pth" and key.startswith(("vision_model.embeddings.", "vision_model.encoder.")):
            tensors[key] = tensors[key].half().float()  # the tower's own file is stored so
    missing, unexpected = truth.load_state_dict(tensors, strict=False)
    tied = set(truth.all_tied_weights_keys)
    if set(missing) - tied or unexpected:
        sys.exit(f"{twin}: missing {missing}, unexpected {unexpected}")
    truth.tie_weights()
    pixels = torch.randn(2, 3, 28, 28, generator=torch.Generator().manual_seed(1))
    if "language_model.model.norm.weight" in tensors or any(k.startswith("language_model.") for k in tensors):
        ids = torch.tensor([[19] * 4 + [2, 5, 6]] * 2)
        inputs = dict(pixel_values=pixels, input_ids=ids, attention_mask=torch.ones_like(ids))
        if "qformer.embeddings.word_embeddings.weight" in tensors:
            inputs |= dict(qformer_input_ids=ids[:, 4:], qformer_attention_mask=torch.ones(2, 3, dtype=torch.long))
        outputs = [m(**inputs).logits for m in (model, truth)]
    else:
        ids = torch.tensor([[3, 5, 6]] * 2)
        inputs = dict(pixel_values=pixels, input_ids=ids, attention_mask=torch.ones_like(ids))
        outputs = [m(**inputs, use_image_text_matching_head=True).logits_per_image for m in (model, truth)]
    compare(name, *outputs, 0)


def main():
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    opt = dict(model_type="opt", hidden_size=8, ffn_dim=12, num_hidden_layers=1, num_attention_heads=2, vocab_size=20,
               word_embed_proj_dim=8, max_position_embeddings=16)
    llama = dict(model_type="llama", hidden_size=8, intermediate_size=12, num_hidden_layers=1, num_attention_heads=2,
                 vocab_size=20, tie_word_embeddings=False)
    for folder in sorted(HERE.glob("*/expected.safetensors")):
        with tempfile.TemporaryDirectory() as scratch:
            published(folder.parent, pathlib.Path(scratch))
    with tempfile.TemporaryDirectory() as scratch:
        base = sizes(pathlib.Path(scratch), "blip-2", "blip_2", None)
        lavis("lavis_stage1.pth", "stage1.safetensors", [base, CHECKPOINTS / "eva_vit_g.pth", TOKENIZERS / "word-piece"],
              pathlib.Path(scratch))
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch)
        (folder / "opt").mkdir()
        (folder / "opt/config.json").write_text(json.dumps(opt))
        prefix = "language_model."
        save_file({k.removeprefix(prefix): v for k, v in load_file(CHECKPOINTS / "stage2.safetensors").items()
                   if k.startswith(prefix)}, folder / "opt/model.safetensors")
        base = sizes(folder, "blip-2", "blip_2", opt)
        lavis("lavis_stage2.pth", "stage2.safetensors",
              [base, CHECKPOINTS / "eva_vit_g.pth", folder / "opt", TOKENIZERS / "byte-bpe"], folder)
    with tempfile.TemporaryDirectory() as scratch:
        base = sizes(pathlib.Path(scratch), "instructblip", "instructblip", llama)
        lavis("lavis_instruct.pth", "instruct.safetensors",
              [base, TOKENIZERS / "byte-bpe", TOKENIZERS / "word-piece"], pathlib.Path(scratch))
    print("pass")


main()
