"""Writes the fixture of a whole Video-LLaMA: its six files with tiny random weights, and what a reference makes of a clip.

    python make_video_llama.py      (torch 2.13, transformers 5.23, tokenizers, safetensors)

The reference is put together from transformers' Blip2VisionModel, Blip2QFormerModel and LlamaForCausalLM, and the
ImageBind of ../audio/make_audio.py, all in float64; Kaldi's log-mel picture is written in plain formulas. Eight frames
and 3.1 seconds of sound go in; tokens for the language model, the numbers of the prompt's words and the logits come out.
Everything is written into the folder video_llama_whole: the parts under their published names, with the buffers that
lie about in the published files.
"""

import json
import math
import pathlib
import sys

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch.nn import functional as F
from transformers import (
    Blip2QFormerConfig, Blip2QFormerModel, Blip2VisionConfig, Blip2VisionModel, LlamaConfig, LlamaForCausalLM)

here = pathlib.Path(__file__).parent
sys.path.insert(0, str(here.parent / "audio"))
from make_audio import Reference as ImageBind  # noqa: E402

folder = here / "video_llama_whole"
SIDE, PATCH, DV, BLOCKS = 28, 14, 16, 2
D, HEADS, FFN = 12, 2, 20
QUERIES, VIDEO_QUERIES, AUDIO_QUERIES, FRAMES, CLIPS = 4, 3, 2, 8, 8
DA, LLM = 8, 16
WORDS = Tokenizer.from_file(str(here.parent / "tokenizers/llama-fast/tokenizer.json"))
SECONDS = [0.0, 0.24, 0.52, 0.75, 1.26, 1.5, 2.0, 2.44]


def qformer(layers, frequency, width):
    config = Blip2QFormerConfig(
        vocab_size=8, hidden_size=D, num_hidden_layers=layers, num_attention_heads=HEADS, intermediate_size=FFN,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, cross_attention_frequency=frequency,
        encoder_hidden_size=width, attn_implementation="eager")
    return Blip2QFormerModel(config).eval()


@torch.no_grad()
def shake(model, generator, scale=0.3):
    for name, value in model.named_parameters():
        noise = scale * torch.randn(value.shape, generator=generator)
        value.copy_(1 + noise if "norm" in name.lower() and name.endswith("weight") else noise)


def theirs(name, capital):
    name = name.replace("layernorm.", "embeddings.LayerNorm.") if name.startswith("layernorm.") else name
    name = name.replace(".attention.attention.", ".attention.self.")
    return f"{capital}.bert.{name.replace('.crossattention.attention.', '.crossattention.self.')}"


def eva(model):
    """The tower under EVA's names, with the block and the head that BLIP-2 drops."""
    out = {}
    names = {
        "embeddings.class_embedding": "cls_token", "embeddings.position_embedding": "pos_embed",
        "embeddings.patch_embedding.weight": "patch_embed.proj.weight",
        "embeddings.patch_embedding.bias": "patch_embed.proj.bias"}
    for name, value in model.state_dict().items():
        if name.startswith("post_layernorm"):
            continue
        if name in names:
            out[names[name]] = value
            continue
        name = name.replace("encoder.layers.", "blocks.").replace("layer_norm", "norm")
        if name.endswith("self_attn.qkv.bias"):
            stem = name.removesuffix("self_attn.qkv.bias")
            out[f"{stem}attn.q_bias"], out[f"{stem}attn.v_bias"] = value[:DV], value[2 * DV:]
        else:
            out[name.replace("self_attn.projection", "attn.proj").replace("self_attn", "attn")] = value
    for name in [n for n in out if n.startswith("blocks.0.")]:
        out[name.replace("blocks.0.", f"blocks.{BLOCKS}.")] = torch.zeros_like(out[name])
    return out | {"norm.weight": torch.ones(DV), "norm.bias": torch.zeros(DV), "head.weight": torch.zeros(3, DV)}


def fbank(samples):
    """Kaldi's log-mel energies [128, frames] of 16 kHz, windows of 25 ms every 10 ms."""
    frames = samples.unfold(0, 400, 160)
    frames = frames - frames.mean(1, keepdim=True)
    before = torch.cat([frames[:, :1], frames[:, :-1]], 1)
    n = torch.arange(400, dtype=torch.float64)
    window = 0.5 - 0.5 * torch.cos(2 * math.pi * n / 399)
    power = torch.fft.rfft((frames - 0.97 * before) * window, 512).abs() ** 2
    mel = lambda f: 1127 * torch.log(1 + f / 700)
    low, high = mel(torch.tensor([20.0, 8000.0], dtype=torch.float64))
    width = (high - low) / 129
    lines = mel(torch.arange(256, dtype=torch.float64) * 16000 / 512)
    left = low + width * torch.arange(128, dtype=torch.float64)[:, None]
    bank = torch.clamp(torch.minimum((lines - left) / width, (left + 2 * width - lines) / width), min=0)
    return torch.log(torch.clamp(bank @ power[:, :256].T, min=torch.finfo(torch.float32).eps))


def sound_pictures(samples):
    """ImageBind's: eight clips of two seconds at even distances."""
    pictures = []
    for k in range(CLIPS):
        start = round(k * (len(samples) / 16000 - 2) / (CLIPS - 1) * 16000)
        clip = samples[start : start + 32000]
        energies = fbank(clip - clip.mean())
        pictures.append((F.pad(energies, (0, 204 - energies.shape[1])) + 4.268) / 9.138)
    return torch.stack(pictures)


@torch.no_grad()
def main():
    g = torch.Generator().manual_seed(20230608)
    vision = Blip2VisionModel(Blip2VisionConfig(
        hidden_size=DV, intermediate_size=24, num_hidden_layers=BLOCKS, num_attention_heads=2, image_size=SIDE,
        patch_size=PATCH, layer_norm_eps=1e-6, attn_implementation="eager")).eval()
    image, video, audio = qformer(2, 2, DV), qformer(2, 1, D), qformer(2, 1, DA)
    trunk = ImageBind(12, 2, 2, bands=128, frames=204, patch=16, stride=10, out=DA)
    llama = LlamaForCausalLM(LlamaConfig(
        vocab_size=WORDS.get_vocab_size(), hidden_size=LLM, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=512, bos_token_id=1, eos_token_id=2,
        rms_norm_eps=1e-5, tie_word_embeddings=False, attn_implementation="eager")).eval()
    for model in (vision, image, video, audio, trunk, llama):
        shake(model, g)
    for layer in vision.encoder.layers:
        layer.self_attn.qkv.bias[DV : 2 * DV] = 0
    random = lambda *shape, scale=0.5: scale * torch.randn(*shape, generator=g)
    own = {
        "query_tokens": random(1, QUERIES, D), "ln_vision.weight": 1 + random(DV, scale=0.2),
        "ln_vision.bias": random(DV, scale=0.2), "video_query_tokens": random(1, VIDEO_QUERIES, D),
        "video_frame_position_embedding.weight": random(32, D), "llama_proj.weight": random(LLM, D),
        "llama_proj.bias": random(LLM), "audio_query_tokens": random(1, AUDIO_QUERIES, D),
        "audio_position_embedding.weight": random(CLIPS, DA), "audio_llama_proj.weight": random(LLM, D),
        "audio_llama_proj.bias": random(LLM)}

    frames = torch.randint(0, 256, (FRAMES, SIDE, SIDE, 3), generator=g, dtype=torch.uint8)
    # Something between a tone and noise, whose level changes.
    time = torch.arange(int(3.1 * 16000), dtype=torch.float64) / 16000
    sound = (0.2 * torch.sin(2 * math.pi * (300 + 200 * time) * time) + 0.1 * (1 + torch.sin(time)) * torch.randn(
        len(time), generator=g).double()).float()

    for model in (vision, image, video, audio, trunk, llama):
        model.double()
    w = {n: v.double() for n, v in own.items()}
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073], dtype=torch.float64)
    deviation = torch.tensor([0.26862954, 0.26130258, 0.27577711], dtype=torch.float64)
    pixels = ((frames.double() / 255 - mean) / deviation).permute(0, 3, 1, 2)
    states = []
    hook = vision.encoder.layers[-1].register_forward_hook(
        lambda module, inputs, output: states.append(output[0] if isinstance(output, tuple) else output))
    vision(pixels)
    hook.remove()
    embeds = F.layer_norm(states[0], (DV,), w["ln_vision.weight"], w["ln_vision.bias"], 1e-5)
    seen = image(w["query_tokens"].expand(FRAMES, -1, -1), encoder_hidden_states=embeds).last_hidden_state
    seen = seen + w["video_frame_position_embedding.weight"][:FRAMES, None]
    seen = video(w["video_query_tokens"], encoder_hidden_states=seen.reshape(1, -1, D)).last_hidden_state
    video_tokens = seen @ w["llama_proj.weight"].T + w["llama_proj.bias"]
    pieces = trunk(sound_pictures(sound.double()))[None] + w["audio_position_embedding.weight"]
    heard = audio(w["audio_query_tokens"], encoder_hidden_states=pieces).last_hidden_state
    audio_tokens = heard @ w["audio_llama_proj.weight"].T + w["audio_llama_proj.bias"]

    out = {"frames": frames, "sound": sound, "video_tokens": video_tokens, "audio_tokens": audio_tokens}
    times = ", ".join(str(round(s, 1)) for s in SECONDS)
    told = f"</Video> The video contains {FRAMES} frames sampled at {times} seconds. what is it?"
    for name, before, after in (("vicuna", "###Human: <Video>", f"{told}###Assistant:"),
                                ("llama-2", "[INST] <Video>", f"{told} [/INST]")):
        first = [1] + WORDS.encode(before, add_special_tokens=False).ids
        last = WORDS.encode(after, add_special_tokens=False).ids
        words = llama.model.embed_tokens
        embeds = torch.cat([words(torch.tensor([first])), audio_tokens, video_tokens, words(torch.tensor([last]))], 1)
        out[f"{name}.before"], out[f"{name}.after"] = torch.tensor(first), torch.tensor(last)
        out[f"{name}.logits"] = llama(inputs_embeds=embeds).logits[:, -1]
        silent = torch.cat([words(torch.tensor([first])), video_tokens, words(torch.tensor([last]))], 1)
        out[f"{name}.silent_logits"] = llama(inputs_embeds=silent).logits[:, -1]

    folder.mkdir(exist_ok=True)
    for model in (vision, image, video, audio, trunk, llama):
        model.float()
    ids = torch.arange(8)[None]
    named = {kind: {n: v for n, v in own.items() if n.startswith(prefixes)} for kind, prefixes in (
        ("video", ("video_", "llama_proj")), ("audio", ("audio_",)), ("blip2", ("query_tokens", "ln_vision")))}
    for kind, capital, model in (
            ("video", "video_Qformer", video), ("audio", "audio_Qformer", audio), ("blip2", "Qformer", image)):
        named[kind] |= {theirs(n, capital): v for n, v in model.state_dict().items()}
        named[kind][f"{capital}.bert.embeddings.position_ids"] = ids
    named["video"] |= {f"llama_model.model.layers.{i}.self_attn.rotary_emb.inv_freq": torch.ones(4) for i in range(2)}
    named["blip2"] |= {"t5_proj.weight": torch.zeros(3, D), "t5_proj.bias": torch.zeros(3)}
    for kind, tensors in named.items():
        torch.save({"model": {n: v.clone() for n, v in tensors.items()}}, folder / f"{kind}.pth")
    torch.save({n: v.clone() for n, v in eva(vision).items()}, folder / "eva_vit_g.pth")
    for name in ("imagebind", "llama", "sizes"):
        (folder / name).mkdir(exist_ok=True)
    senses = dict(trunk.state_dict()) | {"modality_trunks.vision.blocks.0.norm_1.weight": torch.ones(3)}
    torch.save(senses, folder / "imagebind/pytorch_model.bin")
    save_file({n: v.contiguous().clone() for n, v in llama.state_dict().items()}, folder / "llama/model.safetensors")
    configs = {
        "imagebind": {
            "model_type": "imagebind_audio_model", "hidden_size": 12, "num_hidden_layers": 2,
            "num_attention_heads": 2, "projection_dim": DA},
        "llama": {k: v for k, v in llama.config.to_dict().items() if k in (
            "model_type", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
            "num_key_value_heads", "max_position_embeddings", "bos_token_id", "eos_token_id", "rms_norm_eps",
            "tie_word_embeddings", "hidden_act")},
        # What shapes do not tell at widths that are not the published ones.
        "sizes": {
            "model_type": "blip-2", "num_query_tokens": QUERIES,
            "vision_config": {
                "model_type": "blip_2_vision_model", "hidden_size": DV, "intermediate_size": 24,
                "num_hidden_layers": BLOCKS, "num_attention_heads": 2, "image_size": SIDE, "patch_size": PATCH},
            "qformer_config": {
                "model_type": "blip_2_qformer", "hidden_size": D, "num_attention_heads": HEADS,
                "num_hidden_layers": 2, "intermediate_size": FFN, "encoder_hidden_size": DV}}}
    for name, config in configs.items():
        (folder / name / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    save_file(
        {n: (v.float() if v.is_floating_point() else v).contiguous() for n, v in out.items()},
        folder / "expected.safetensors")
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(0o644)


torch.set_num_threads(1)
main()
