"""A random BLIP-2 as wide as the published one, through transformers and through qformer: parity, time, memory.

    scripts/verify-published --full-width [--layers 10] [--program .build/release/qformer] [--scratch FOLDER]

Needs torch, transformers and safetensors in this Python, 5 GB of disk twice and 10 GB of memory for ten layers. The vision
tower (39 blocks of 1408) and the Q-Former (12 layers of 768) are whole; of OPT-2.7B's 32 layers of 2560 there are as many as
fit. Weights lie in the files in float16, as in the published ones, and both sides compute in float32.
"""

import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
TOKENS = 8
IMAGE_TOKEN = 50265


def measured(command):
    """Runs a program; its output, seconds and largest resident memory in GB."""
    start = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        print(output, end="")
        sys.exit(f"error: {' '.join(map(str, command[:4]))} … ended with {os.waitstatus_to_exitcode(status)}")
    return output, time.monotonic() - start, usage.ru_maxrss / 1e6


def blank(layers):
    """The model without weights."""
    import torch
    from transformers import Blip2Config, Blip2ForConditionalGeneration

    text = dict(model_type="opt", hidden_size=2560, word_embed_proj_dim=2560, ffn_dim=10240, num_hidden_layers=layers,
                num_attention_heads=32, vocab_size=50304, bos_token_id=2, eos_token_id=50118, pad_token_id=1)
    with torch.device("meta"):
        return Blip2ForConditionalGeneration(Blip2Config(text_config=text, image_token_index=IMAGE_TOKEN)).eval()


def make(folder, layers):
    import numpy as np
    import torch
    from PIL import Image

    model = blank(layers).half().to_empty(device="cpu")
    model.tie_weights()
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            values = torch.randn(parameter.shape, generator=generator)
            is_norm = "norm" in name.lower() and parameter.dim() == 1
            # Small enough to stay within float16, large enough that every part matters.
            parameter.copy_(1 + 0.1 * values if is_norm and name.endswith("weight") else 0.03 * values)
    model.save_pretrained(folder, max_shard_size="1GB")
    shutil.copy(ROOT / "Tests/Fixtures/tokenizers/byte-bpe/tokenizer.json", folder)
    y, x = np.mgrid[0:224, 0:224]
    planes = [127 + 120 * np.sin(x / (9 + 4 * c) + y / (15 + c)) for c in range(3)]
    Image.fromarray(np.stack(planes, -1).astype(np.uint8)).save(folder / "picture.png")
    print(f"parameters {sum(p.numel() for p in model.parameters()) / 1e9:.3f} G", flush=True)


def reference(folder, layers):
    """What transformers computes; a shard at a time, so that it does not need the file and the model at once."""
    import numpy as np
    import torch
    from PIL import Image
    from safetensors.torch import load_file, save_file

    start = time.monotonic()
    model = blank(layers)
    for shard in sorted(folder.glob("*.safetensors")):
        tensors = {k: v.float() for k, v in load_file(shard).items()}
        unknown = model.load_state_dict(tensors, strict=False, assign=True).unexpected_keys
        if unknown:
            sys.exit(f"error: {shard.name}: {unknown[:3]}")
    model.tie_weights()
    left = [name for name, value in model.named_parameters() if value.is_meta]
    if left:
        sys.exit(f"error: no weights for {left[:3]}")
    loaded = time.monotonic() - start
    mean, deviation = np.float32([0.48145466, 0.4578275, 0.40821073]), np.float32([0.26862954, 0.26130258, 0.27577711])
    pixels = (np.asarray(Image.open(folder / "picture.png"), np.float32) / 255 - mean) / deviation
    pixels = torch.from_numpy(pixels).permute(2, 0, 1)[None].contiguous()
    ids = torch.tensor([[IMAGE_TOKEN] * 32 + [2]])
    with torch.no_grad():
        embeds = model.vision_model(pixels).last_hidden_state
        queries = model.qformer(query_embeds=model.query_tokens, encoder_hidden_states=embeds).last_hidden_state
        tokens = model.language_projection(queries)
        start = time.monotonic()
        out = model.generate(pixel_values=pixels, input_ids=ids, attention_mask=torch.ones_like(ids),
                             max_new_tokens=TOKENS, do_sample=False)
        seconds = time.monotonic() - start
    save_file(dict(image_embeds=embeds, query_output=queries, language_tokens=tokens), folder / "reference.safetensors.out")
    print(json.dumps(dict(ids=out[0, ids.shape[1]:].tolist(), load=loaded, generate=seconds)))


def compare(folder, ours):
    from safetensors.torch import load_file

    found, expected = load_file(ours), load_file(folder / "reference.safetensors.out")
    wrong = False
    for name, value in expected.items():
        error = ((found[name] - value).abs().max() / value.abs().max()).item()
        wrong |= not error <= 1e-4
        print(f"{name:16} {list(value.shape)}  relative error {error:.1e}")
    return wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full-width", action="store_true")
    parser.add_argument("--layers", type=int, default=10)
    parser.add_argument("--program", default=str(ROOT / ".build/release/qformer"))
    parser.add_argument("--scratch", default=None)
    parser.add_argument("--part", choices=["make", "reference", "compare"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        folder = pathlib.Path(options.scratch)
        if options.part == "compare":
            sys.exit(compare(folder, folder.parent / "ours.safetensors"))
        (make if options.part == "make" else reference)(folder, options.layers)
        return
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        folder = pathlib.Path(scratch) / "model"
        folder.mkdir()

        def part(name):
            # A process each: what one has had in memory does not count for the next.
            return measured([sys.executable, "-W", "ignore", __file__, "--part", name, "--scratch", str(folder),
                             "--layers", str(options.layers)])

        print(f"EVA ViT-g 39 x 1408, Q-Former 12 x 768, OPT {options.layers} x 2560; files in float16, arithmetic in float32")
        print(part("make")[0], end="")
        output, _, memory = part("reference")
        truth = json.loads(output)
        print(f"transformers     load {truth['load']:.1f} s, caption {truth['generate']:.1f} s, peak {memory:.2f} GB")
        picture = str(folder / "picture.png")
        program = [options.program]
        tokens = str(folder.parent / "ours.safetensors")
        _, seconds, memory = measured(program + ["encode", picture, "--model", str(folder), "--output", tokens])
        print(f"qformer encode   load and run {seconds:.1f} s, peak {memory:.2f} GB")
        output, seconds, memory = measured(
            program + ["caption", picture, "--model", str(folder), "--json", "--max-tokens", str(TOKENS)])
        found = json.loads(output)
        print(f"qformer caption  load {seconds - found['seconds']:.1f} s, caption {found['seconds']:.1f} s, "
              f"peak {memory:.2f} GB")
        size = sum(file.stat().st_size for file in folder.glob("*.safetensors")) / 1e9
        _, seconds, memory = measured(program + ["convert", str(folder), scratch + "/own", "--to", "qformer"])
        print(f"qformer convert  {size:.2f} GB in {seconds:.1f} s, peak {memory:.2f} GB")
        wrong = measured([sys.executable, __file__, "--part", "compare", "--scratch", str(folder)])
        print(wrong[0], end="")
        same = found["token_ids"] == truth["ids"]
        print(f"token ids        {'equal' if same else 'differ'}: {found['token_ids']}"
              + ("" if same else f", expected {truth['ids']}"))
        print("pass" if same else "differs")
        sys.exit(0 if same else 1)


if __name__ == "__main__":
    main()
