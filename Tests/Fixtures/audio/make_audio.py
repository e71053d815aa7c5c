"""Writes the fixtures of the audio encoders with transformers 5.23 and torch 2.13 on the CPU.

    python make_audio.py [whisper|imagebind|pipeline|published]...      # all by default
    python make_audio.py real MODEL.BIN'S FOLDER                        # needs ctranslate2 4.8

`whisper`: a small random Whisper, and windows as long as its table and shorter; a shorter window's reference is a Whisper
that has so many positions. `imagebind`: a reference written here from the published facts on torch's MultiheadAttention, in
the original names. `pipeline`: sound to pooled states. `published`: names and shapes of the whole models, nothing allocated.
`real`: CTranslate2, which reads Whisper tiny.en in its own format, on speech.flac of the media fixtures.
"""
import json, subprocess, sys
from pathlib import Path

import numpy as np
import torch
from torch import nn
from safetensors.torch import save_file

HERE = Path(__file__).parent
SPEECH = HERE.parent / "media/video/speech.flac"


def write(name, tensors):
    path = HERE / name
    save_file({k: v.detach().contiguous().clone() for k, v in tensors.items()}, path)
    print(path.name, path.stat().st_size)


def shake(model, seed, scale):
    """Replaces the tiny initial weights, so that every term counts."""
    g = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        noise = torch.randn(p.shape, generator=g) * scale
        p.data = 1 + noise if p.dim() == 1 and "norm" in name and "weight" in name else noise
    return model.eval()


def speech():
    raw = subprocess.run(["ffmpeg", "-v", "error", "-i", SPEECH, "-f", "f32le", "-c:a", "pcm_f32le", "-"],
                         capture_output=True, check=True).stdout
    return np.frombuffer(raw, np.float32)


def tiny_whisper(seed, scale=0.2, **settings):
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    config = WhisperConfig(vocab_size=12, decoder_layers=1, decoder_attention_heads=1, decoder_ffn_dim=4, max_target_positions=4,
                           pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1, suppress_tokens=None,
                           begin_suppress_tokens=None, **settings)
    return config, shake(WhisperForConditionalGeneration(config), seed, scale)


def shorter(config, encoder, positions):
    """The same encoder with the first rows of its table."""
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    other = WhisperEncoder(WhisperConfig(**dict(config.to_dict(), max_source_positions=positions))).eval()
    weights = dict(encoder.state_dict())
    weights["embed_positions.weight"] = weights["embed_positions.weight"][:positions]
    other.load_state_dict(weights)
    return other


@torch.no_grad()
def whisper():
    config, model = tiny_whisper(31, d_model=18, encoder_layers=3, encoder_attention_heads=3, encoder_ffn_dim=29, num_mel_bins=11,
                                 max_source_positions=13)
    out = {k: v for k, v in model.state_dict().items() if k != "proj_out.weight"}
    g = torch.Generator().manual_seed(32)
    for batch, positions in ((3, 13), (2, 5), (2, 1)):
        mel = torch.randn(batch, 11, 2 * positions, generator=g)
        out[f"{positions}.mel"] = mel
        out[f"{positions}.states"] = shorter(config, model.model.encoder, positions)(mel).last_hidden_state
    assert torch.equal(out["13.states"], model.model.encoder(out["13.mel"]).last_hidden_state)
    write("whisper.safetensors", out)
    (HERE / "whisper.json").write_text(config.to_json_string())


class Part(nn.Module):
    """A module that holds others under names that may be numbers."""

    def __init__(self, **parts):
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)


class Reference(nn.Module):
    """ImageBind's way from a log-mel picture to a vector, one step a line, under ImageBind's names."""

    def __init__(self, width, blocks, heads, bands, frames, patch, stride, out, stem_eps=1e-5, eps=1e-6, scale=20.0):
        super().__init__()
        self.blocks = blocks
        rows, columns = (bands - patch) // stride + 1, (frames - patch) // stride + 1
        position = nn.Module()
        position.pos_embed = nn.Parameter(torch.zeros(1, 1 + rows * columns, width))
        before = Part(rgbt_stem=Part(proj=nn.Conv2d(1, width, patch, stride, bias=False), norm_layer=nn.LayerNorm(width, eps=stem_eps)),
                      pos_embedding_helper=position)
        before.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        trunk = Part(blocks=Part(**{
            str(i): Part(attn=nn.MultiheadAttention(width, heads, bias=True, add_bias_kv=True), norm_1=nn.LayerNorm(width, eps=eps),
                         mlp=Part(fc1=nn.Linear(width, 4 * width), fc2=nn.Linear(4 * width, width)),
                         norm_2=nn.LayerNorm(width, eps=eps)) for i in range(blocks)}))
        head = Part(**{"0": nn.LayerNorm(width, eps=eps), "2": nn.Linear(width, out, bias=False)})
        after = nn.Module()
        after.register_buffer("log_logit_scale", torch.ones([]) * np.log(scale))
        for name, part in (("preprocessors", before), ("trunks", trunk), ("heads", head), ("postprocessors", Part(**{"1": after}))):
            self.add_module(f"modality_{name}", Part(audio=part))

    def forward(self, mel):  # [B, bands, frames]
        before = self.modality_preprocessors.audio
        x = before.rgbt_stem.proj(mel[:, None]).flatten(2).transpose(1, 2)
        x = before.rgbt_stem.norm_layer(x)
        x = torch.cat([before.cls_token.expand(len(x), -1, -1), x], 1) + before.pos_embedding_helper.pos_embed
        x = x.transpose(0, 1)
        for i in range(self.blocks):
            block = getattr(self.modality_trunks.audio.blocks, str(i))
            y = block.norm_1(x)
            x = x + block.attn(y, y, y, need_weights=False)[0]
            x = x + block.mlp.fc2(nn.functional.gelu(block.mlp.fc1(block.norm_2(x))))
        head = self.modality_heads.audio
        x = getattr(head, "2")(getattr(head, "0")(x.transpose(0, 1))[:, 0])
        scale = getattr(self.modality_postprocessors.audio, "1").log_logit_scale.exp().clip(max=100)
        return nn.functional.normalize(x, dim=-1) * scale


@torch.no_grad()
def imagebind():
    g = torch.Generator().manual_seed(42)
    # Epsilons that are seen, a scale below and one above ImageBind's limit.
    model = shake(Reference(18, 3, 3, bands=29, frames=41, patch=6, stride=5, out=10, stem_eps=0.3, eps=0.1, scale=20), 41, 0.25)
    mel = torch.randn(3, 29, 41, generator=g)
    out = {k: v.clone() for k, v in model.state_dict().items()} | {"mel": mel, "vectors": model(mel)}
    out["modality_trunks.vision.blocks.0.norm_1.weight"] = torch.ones(3)
    getattr(model.modality_postprocessors.audio, "1").log_logit_scale.fill_(np.log(150))
    out["vectors.clipped"] = model(mel)
    # The published picture and grid, little else; as the file that is published. The picture is a formula that the tests repeat.
    model = shake(Reference(12, 2, 2, bands=128, frames=204, patch=16, stride=10, out=8, scale=20), 43, 0.2)
    torch.save(model.state_dict(), HERE / "imagebind.pth")
    n, band, frame = (torch.arange(s, dtype=torch.float64) for s in (2, 128, 204))
    n = n.view(-1, 1, 1)
    out["grid.vectors"] = model((torch.sin(0.05 * (n + 1) * band.view(1, -1, 1)) + torch.cos(0.08 * frame - 0.7 * n)).float())
    write("imagebind.safetensors", out)


@torch.no_grad()
def pipeline():
    from transformers import WhisperFeatureExtractor

    config, model = tiny_whisper(51, d_model=12, encoder_layers=2, encoder_attention_heads=2, encoder_ffn_dim=20, num_mel_bins=80,
                                 max_source_positions=1500)
    out = {k: v for k, v in model.state_dict().items() if k != "proj_out.weight"}
    # Twelve columns compress; the whole table would be the largest part of the file.
    out["model.encoder.embed_positions.weight"] = model.model.encoder.embed_positions.weight.data = (
        model.model.encoder.embed_positions.weight[:25].repeat(60, 1))
    samples = speech()

    def pooled(pieces, window, tokens):
        """[clips, tokens, 12]: each piece alone in its window, states of its 0.5 seconds averaged in equal spans."""
        extractor = WhisperFeatureExtractor(chunk_length=window)
        mel = torch.tensor(np.stack([extractor(p, sampling_rate=16000, return_tensors="np").input_features[0] for p in pieces]))
        states = shorter(config, model.model.encoder, 50 * window)(mel).last_hidden_state
        return states[:, :100].reshape(len(pieces), tokens, 100 // tokens, 12).mean(2)

    def clip(start):
        return samples[round(start * 16000):round((start + 2) * 16000)]

    out["two.features"] = pooled([clip(0), clip(2)], 2, 4)  # one behind the other; the second is filled up
    end = len(samples) / 16000 - 2
    out["even.features"] = pooled([clip(0), clip(end / 2), clip(end)], 2, 1)
    out["silence.features"] = pooled([clip(0), clip(2)], 30, 2)
    out["mel"] = torch.tensor(WhisperFeatureExtractor(chunk_length=2)(samples, sampling_rate=16000, return_tensors="np")
                              .input_features[0])
    write("pipeline.safetensors", out)
    (HERE / "pipeline.json").write_text(config.to_json_string())


def published():
    from transformers import WhisperConfig, WhisperModel

    def named(tensors):
        return {name: list(tensor.shape) for name, tensor in tensors.items()}

    whispers = {}
    for name, width, layers, bands in (("tiny", 384, 4, 80), ("base", 512, 6, 80), ("small", 768, 12, 80), ("medium", 1024, 24, 80),
                                       ("large", 1280, 32, 80), ("large-v3", 1280, 32, 128)):
        with torch.device("meta"):
            model = WhisperModel(WhisperConfig(d_model=width, encoder_layers=layers, encoder_attention_heads=width // 64,
                                               encoder_ffn_dim=4 * width, num_mel_bins=bands, decoder_layers=1,
                                               decoder_attention_heads=1, decoder_ffn_dim=1))
        weights = named(model.encoder.state_dict())
        whispers[name] = {"count": sum(p.numel() for p in model.encoder.parameters())}
        if name == "tiny":
            whispers[name]["weights"] = weights
    with torch.device("meta"):
        bind = Reference(768, 12, 12, bands=128, frames=204, patch=16, stride=10, out=1024)
    golden = {"whisper": whispers,
              "imagebind": {"count": sum(p.numel() for p in bind.parameters()), "weights": named(bind.state_dict())}}
    (HERE / "published.json").write_text(json.dumps(golden, indent=0) + "\n")
    print({name: value["count"] for name, value in whispers.items()}, golden["imagebind"]["count"])


def real(folder):
    import ctranslate2
    from transformers import WhisperFeatureExtractor

    model = ctranslate2.models.Whisper(folder, device="cpu", compute_type="float32", intra_threads=1)
    out = {}
    for seconds, step in ((30, 25), (2, 4)):
        mel = WhisperFeatureExtractor(chunk_length=seconds)(speech(), sampling_rate=16000, return_tensors="np").input_features
        states = np.array(model.encode(ctranslate2.StorageView.from_array(np.ascontiguousarray(mel))))
        out[f"{seconds}.states"] = torch.tensor(states[:, ::step])
    write("real_whisper.safetensors", out)


torch.set_num_threads(1)  # other programs may be running

if __name__ == "__main__":
    if sys.argv[1:2] == ["real"]:
        real(sys.argv[2])
    else:
        for topic in sys.argv[1:] or ["whisper", "imagebind", "pipeline", "published"]:
            globals()[topic]()
