"""Writes the fixtures of CheckpointsTests that need PyTorch.

    python make_checkpoints.py            (torch 2.13, transformers 5.23, safetensors)

types.pth, types_legacy.pth, types_protocol4.pth   one dictionary in PyTorch's formats: every element type, views that are
                    strided, shifted, shared and spread, values that are no tensors, under "model"
types.safetensors   the same tensors, each in order, as the reference library writes them
wide.pth            the archive of types.pth in zip's 64-bit form
old_views.pth       the older format with views into one storage, as PyTorch 0.3 wrote them, and Python 2's strings
bin/                a folder with two .bin shards and their index
lavis_stage1.pth, lavis_stage2.pth, lavis_instruct.pth, eva_vit_g.pth
                    tiny models in LAVIS' names, with the buffers and copies that LAVIS saves
stage1.safetensors, stage2.safetensors, instruct.safetensors, vision.safetensors
                    the same weights in Hugging Face's names, as transformers names them
"""

import collections
import json
import pathlib
import pickle
import re
import struct
import tempfile
import zipfile
import zlib

import torch
import transformers
from safetensors.torch import load_file, save_file

here = pathlib.Path(__file__).parent
torch.manual_seed(11)


def save(name, tensors):
    save_file({k: v.detach().contiguous().clone() for k, v in tensors.items()}, here / name)
    (here / name).chmod(0o644)


# --- formats ---------------------------------------------------------------------------------------------------------


def types():
    base = torch.arange(24.0)
    whole = torch.arange(12, dtype=torch.int64).reshape(3, 4)
    state = collections.OrderedDict()
    state["f32"] = torch.tensor([[1.5, -2.0, 0.25], [3.0, -0.0, 1e-30]])
    for name, dtype in [("f16", torch.float16), ("bf16", torch.bfloat16), ("f64", torch.float64)]:
        state[name] = torch.tensor([-1.5, -1.0, 0.0, 0.5, 65504.0]).to(dtype)
    for name, dtype in [("i64", torch.int64), ("i32", torch.int32), ("i16", torch.int16), ("i8", torch.int8)]:
        state[name] = torch.tensor([-3, 0, 100], dtype=dtype)
    state["u8"] = torch.tensor([0, 200, 255], dtype=torch.uint8)
    state["bool"] = torch.tensor([True, False, True])
    state["scalar"] = torch.tensor(2.5)
    state["empty"] = torch.zeros(0, 3)
    state["parameter"] = torch.nn.Parameter(torch.ones(2, 2))
    # One storage, several tensors.
    state["base"] = base
    state["shifted"] = base[5:11]
    state["strided"] = base.reshape(4, 6).t()
    state["stepped"] = base[1::3]
    state["same"] = base
    state["block"] = whole[1:, 1:3]
    state["whole"] = whole
    state["spread"] = torch.tensor([1.0, 2.0]).unsqueeze(1).expand(2, 3)
    state["channels_last"] = torch.arange(24.0).reshape(1, 2, 3, 4).contiguous(memory_format=torch.channels_last)
    state._metadata = {"": {"version": 1}}
    return state


def write_types():
    state = types()
    content = {
        "model": state, "epoch": 3, "lr": 1e-4, "name": "größe", "dtype": torch.float16, "size": torch.Size([2, 3]),
        "device": torch.device("cpu"), "tuple": (1, None, True), "set": {1, 2}, "bytes": b"\x00\xff",
        "large": 1 << 80, "negative": -(1 << 40), "nested": {"a": [{}, [()]]}, "counter": collections.Counter("aab"),
    }
    torch.save(content, here / "types.pth")
    torch.save(content, here / "types_legacy.pth", _use_new_zipfile_serialization=False)
    torch.save(content, here / "types_protocol4.pth", pickle_protocol=4)
    save("types.safetensors", state)
    with zipfile.ZipFile(here / "types.pth") as archive:
        entries = [(name, archive.read(name)) for name in archive.namelist()]
    (here / "wide.pth").write_bytes(wide_zip(entries))
    assert torch.equal(torch.load(here / "wide.pth")["model"]["strided"], state["strided"])


def wide_zip(entries):
    """A zip archive whose directory has the 64-bit fields throughout, as PyTorch writes it for files beyond 4 GB."""
    out, directory = bytearray(), bytearray()
    for name, data in entries:
        raw, offset = name.encode(), len(out)
        out += struct.pack(
            "<IHHHHHIIIHH", 0x04034B50, 45, 0, 0, 0, 0, zlib.crc32(data), len(data), len(data), len(raw), 0)
        out += raw + data
        extra = struct.pack("<HHQQQ", 1, 24, len(data), len(data), offset)
        directory += struct.pack(
            "<IHHHHHHIIIHHHHHII", 0x02014B50, 45, 45, 0, 0, 0, 0, zlib.crc32(data), 0xFFFFFFFF, 0xFFFFFFFF, len(raw),
            len(extra), 0, 0, 0, 0, 0xFFFFFFFF)
        directory += raw + extra
    start = len(out)
    out += directory
    record = len(out)
    out += struct.pack(
        "<IQHHIIQQQQ", 0x06064B50, 44, 45, 45, 0, 0, len(entries), len(entries), len(directory), start)
    out += struct.pack("<IIQI", 0x07064B50, 0, record, 1)
    out += struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    return bytes(out)


def write_old_views():
    # BINPERSID with a view; PROTO 2; strings as Python 2 pickled them.
    def text(value):
        return b"U" + bytes([len(value)]) + value.encode()

    def tensor(view, offset, shape, stride):
        sizes = b"".join(b"K" + bytes([n]) for n in shape)
        strides = b"".join(b"K" + bytes([n]) for n in stride)
        return (
            b"ctorch._utils\n_rebuild_tensor\n(" + b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("7")
            + text("cpu") + b"K\x0c(" + text(view[0]) + b"K" + bytes([view[1]]) + b"K" + bytes([view[2]]) + b"ttQ"
            + b"K" + bytes([offset]) + b"(" + sizes + b"t(" + strides + b"ttR")

    values = struct.pack("<12f", *range(12))
    body = (
        b"\x80\x02}(" + text("a") + tensor(("v1", 2, 4), 0, [2, 2], [2, 1]) + text("b")
        + tensor(("v2", 6, 6), 1, [2, 2], [1, 2]) + b"u.")
    stream = b"".join(pickle.dumps(x, 2) for x in (
        0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}))
    stream += body + pickle.dumps(["7"], 2) + struct.pack("<q", 12) + values
    (here / "old_views.pth").write_bytes(stream)
    loaded = torch.load(here / "old_views.pth", weights_only=False)
    assert loaded["a"].tolist() == [[2, 3], [4, 5]] and loaded["b"].tolist() == [[7, 9], [8, 10]]


def write_bin():
    (here / "bin").mkdir(exist_ok=True)
    shards = {"pytorch_model-00001-of-00002.bin": ["a.weight"], "pytorch_model-00002-of-00002.bin": ["a.bias", "b"]}
    for number, (name, keys) in enumerate(shards.items()):
        torch.save({k: torch.full((2, 2), float(number)) for k in keys}, here / "bin" / name)
    index = {"metadata": {"total_size": 48}, "weight_map": {k: f for f, keys in shards.items() for k in keys}}
    (here / "bin/pytorch_model.bin.index.json").write_text(json.dumps(index, indent=1) + "\n")


# --- LAVIS -----------------------------------------------------------------------------------------------------------

vision = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28,
    "patch_size": 14,
}
qformer = {
    "hidden_size": 12, "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 2,
    "encoder_hidden_size": 16, "vocab_size": 31, "max_position_embeddings": 10,
}
opt = transformers.OPTConfig(
    hidden_size=8, ffn_dim=12, num_hidden_layers=1, num_attention_heads=2, vocab_size=20, word_embed_proj_dim=8,
    max_position_embeddings=16)
llama = transformers.LlamaConfig(
    hidden_size=8, intermediate_size=12, num_hidden_layers=1, num_attention_heads=2, vocab_size=20)


def weights(model):
    """As transformers writes them to disk, and random where initialisation gives zeros or ones."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape))
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        state = {}
        for file in pathlib.Path(folder).glob("*.safetensors"):
            state |= load_file(file)
    for name in state:
        if name.endswith("self_attn.qkv.bias"):  # EVA has no bias for keys.
            size = state[name].shape[0] // 3
            state[name][size : 2 * size] = 0
    return state


def to_lavis(name, language):
    """Written apart from the library's table, after the conversion that transformers' documentation describes."""
    rules = [
        (r"^vision_model\.embeddings\.class_embedding$", "visual_encoder.cls_token"),
        (r"^vision_model\.embeddings\.position_embedding$", "visual_encoder.pos_embed"),
        (r"^vision_model\.embeddings\.patch_embedding\.", "visual_encoder.patch_embed.proj."),
        (r"^vision_model\.post_layernorm\.", "ln_vision."),
        (r"^vision_model\.encoder\.layers\.(\d+)\.layer_norm(\d)\.", r"visual_encoder.blocks.\1.norm\2."),
        (r"^vision_model\.encoder\.layers\.(\d+)\.self_attn\.qkv\.", r"visual_encoder.blocks.\1.attn.qkv."),
        (r"^vision_model\.encoder\.layers\.(\d+)\.self_attn\.projection\.", r"visual_encoder.blocks.\1.attn.proj."),
        (r"^vision_model\.encoder\.layers\.(\d+)\.mlp\.", r"visual_encoder.blocks.\1.mlp."),
        (r"^qformer\.(embeddings\.)?layernorm\.", "Qformer.bert.embeddings.LayerNorm."),
        (r"^(qformer\.)?embeddings\.", "Qformer.bert.embeddings."),
        (r"^qformer\.encoder\.layer\.(\d+)\.(cross)?attention\.attention\.",
         lambda m: f"Qformer.bert.encoder.layer.{m[1]}.{m[2] or ''}attention.self."),
        (r"^qformer\.", "Qformer.bert."),
        (r"^vision_projection\.", "vision_proj."),
        (r"^text_projection\.", "text_proj."),
        (r"^language_projection\.", f"{language}_proj."),
        (r"^language_model\.", f"{language}_model."),
    ]
    for pattern, replacement in rules:
        renamed, count = re.subn(pattern, replacement, name)
        if count:
            return renamed
    return name


def lavis(state, language=""):
    out = collections.OrderedDict()
    for name, tensor in state.items():
        key = to_lavis(name, language)
        if key.endswith("attn.qkv.bias"):
            size = tensor.shape[0] // 3
            stem = key.removesuffix("qkv.bias")
            out[stem + "q_bias"], out[stem + "v_bias"] = tensor[:size].clone(), tensor[2 * size :].clone()
        else:
            out[key] = tensor
    return out


def write_lavis():
    config = transformers.Blip2Config(vision_config=vision, qformer_config=qformer, text_config=opt, num_query_tokens=4)
    other = {"optimizer": {"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 1e-4, "params": [0]}]},
             "config": {"model": {"arch": "tiny"}, "run": {"lr_sched": None}}, "scaler": None, "epoch": 9}
    positions = torch.arange(qformer["max_position_embeddings"]).expand((1, -1))

    # Stage 2: what was trained; the towers come apart.
    state = weights(transformers.Blip2ForConditionalGeneration(config))
    frozen = ("vision_model.embeddings.", "vision_model.encoder.", "language_model.")
    trained = {k: v for k, v in state.items() if not k.startswith(frozen)}
    save("stage2.safetensors", state)
    torch.save({"model": lavis(trained, "opt"), **other}, here / "lavis_stage2.pth")

    # The tower's own file has a block more, a head, and a buffer.
    tower = {k: v for k, v in state.items() if k.startswith(frozen[:2])}
    bare = {k.removeprefix("visual_encoder."): v for k, v in lavis(tower).items()}
    for key in [k for k in bare if k.startswith("blocks.1.")]:
        bare[key.replace("blocks.1.", "blocks.2.")] = torch.randn(bare[key].shape)
    bare |= {"head.weight": torch.randn(5, 16), "blocks.0.attn.relative_position_index": torch.arange(4)}
    torch.save({k: v.half() if v.is_floating_point() else v for k, v in bare.items()}, here / "eva_vit_g.pth")
    save("vision.safetensors", {k: v.half() for k, v in tower.items()})

    # Stage 1: text, heads and temperature; BERT's head repeats the word table and its bias.
    retrieval = transformers.Blip2Config(
        vision_config=vision, qformer_config=qformer | {"use_qformer_text_input": True}, text_config=opt,
        num_query_tokens=4, image_text_hidden_size=6)
    state = weights(transformers.Blip2ForImageTextRetrieval(retrieval))
    words = state["embeddings.word_embeddings.weight"]
    width = words.shape[1]
    state |= {
        "temp": torch.tensor(0.07), "cls.predictions.bias": torch.randn(words.shape[0]),
        "cls.predictions.transform.dense.weight": torch.randn(width, width),
        "cls.predictions.transform.dense.bias": torch.randn(width),
        "cls.predictions.transform.LayerNorm.weight": torch.randn(width),
        "cls.predictions.transform.LayerNorm.bias": torch.randn(width),
    }
    file = lavis({k: v for k, v in state.items() if not k.startswith("cls.")})
    file |= {"Qformer." + k: v for k, v in state.items() if k.startswith("cls.")}
    file["Qformer.bert.embeddings.position_ids"] = positions
    file["Qformer.cls.predictions.decoder.weight"] = file["Qformer.bert.embeddings.word_embeddings.weight"]
    file["Qformer.cls.predictions.decoder.bias"] = file["Qformer.cls.predictions.bias"]
    save("stage1.safetensors", state)
    torch.save({"model": file, **other}, here / "lavis_stage1.pth")

    # InstructBLIP, all in one file, the language model too.
    instruct = transformers.InstructBlipConfig(
        vision_config=vision, qformer_config=qformer, text_config=llama, num_query_tokens=4)
    state = weights(transformers.InstructBlipForConditionalGeneration(instruct))
    file = lavis(state, "llm")
    file["Qformer.bert.embeddings.position_ids"] = positions
    file["llm_model.model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(2)
    save("instruct.safetensors", state)
    torch.save({"model": file, **other}, here / "lavis_instruct.pth")


write_types()
write_old_views()
write_bin()
write_lavis()
for path in here.rglob("*"):
    if path.is_file() and path.suffix in (".pth", ".bin", ".json", ".safetensors"):
        path.chmod(0o644)
print({str(p.relative_to(here)): p.stat().st_size for p in sorted(here.rglob("*")) if p.is_file()})
