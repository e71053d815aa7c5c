"""Writes the names and shapes of all weights of the published models, as transformers makes them of their config.json.

    python Tests/Fixtures/published/golden/make_golden.py

Written with transformers 5.23 and torch 2.13, on the meta device: no weight is allocated. For each NAME there is

    NAME.config.json   the published configuration, as sparse as it is
    NAME.json          {"count": numbers in all tensors, "weights": {pattern: shape}}

A pattern's `{0-38}` or `{0,2,4}` stands for the numbers of layers. Names that stand for one tensor are listed once, under
the name that save_pretrained writes.
"""

import json
import pathlib
import re

import torch
import transformers

HERE = pathlib.Path(__file__).resolve().parent
SEEING = {"model_type": "blip_2_vision_model"}
OPT = {"architectures": ["OPTForCausalLM"], "bos_token_id": 2, "eos_token_id": 50118, "ffn_dim": 10240,
       "hidden_size": 2560, "model_type": "opt", "num_attention_heads": 32, "num_hidden_layers": 32, "pad_token_id": 1,
       "vocab_size": 50304, "word_embed_proj_dim": 2560}
T5 = {"architectures": ["T5ForConditionalGeneration"], "d_ff": 5120, "d_model": 2048, "decoder_start_token_id": 0,
      "dense_act_fn": "gelu", "feed_forward_proj": "gated-gelu", "model_type": "t5", "num_decoder_layers": 24,
      "num_heads": 32, "num_layers": 24, "tie_word_embeddings": False}
VICUNA = {"architectures": ["LlamaForCausalLM"], "bos_token_id": 0, "eos_token_id": 1, "hidden_act": "silu",
          "hidden_size": 4096, "intermediate_size": 11008, "model_type": "llama", "num_attention_heads": 32,
          "num_hidden_layers": 32, "pad_token_id": 32000, "rms_norm_eps": 1e-6, "tie_word_embeddings": False,
          "vocab_size": 32001}


def blip2(text, architecture="Blip2ForConditionalGeneration", **more):
    return {"architectures": [architecture], "model_type": "blip-2", "num_query_tokens": 32,
            "qformer_config": {"model_type": "blip_2_qformer"} | more, "vision_config": SEEING} | (
                {"text_config": text} if text else {"image_text_hidden_size": 256})


def instruct(text):
    return {"architectures": ["InstructBlipForConditionalGeneration"], "model_type": "instructblip",
            "num_query_tokens": 32, "qformer_config": {"model_type": "instructblip_qformer", "vocab_size": 30523},
            "text_config": text, "vision_config": {"model_type": "instructblip_vision_model"}}


MODELS = {
    "blip2-opt-2.7b": blip2(OPT),
    "blip2-flan-t5-xl": blip2(T5),
    "blip2-itm-vit-g": blip2(None, "Blip2ForImageTextRetrieval", use_qformer_text_input=True, vocab_size=30523),
    "instructblip-flan-t5-xl": instruct(T5),
    "instructblip-vicuna-7b": instruct(VICUNA),
}


def numbers(found):
    found = sorted(found)
    if found == list(range(found[0], found[-1] + 1)) and len(found) > 1:
        return f"{{{found[0]}-{found[-1]}}}"
    return f"{{{','.join(map(str, found))}}}" if len(found) > 1 else str(found[0])


def main():
    for name, config in MODELS.items():
        kind = getattr(transformers, config["architectures"][0])
        with torch.device("meta"):
            model = kind(kind.config_class(**config))
        tied = set(model.all_tied_weights_keys)
        if not config.get("text_config", {}).get("tie_word_embeddings", True):
            tied.discard("language_model.lm_head.weight")  # transformers 5 lists T5's untied head, too
        weights = {k: list(v.shape) for k, v in model.named_parameters(remove_duplicate=False) if k not in tied}
        groups = {}
        for key, shape in weights.items():
            found = re.search(r"\.(?:layers|layer|block)\.(\d+)\.", key)
            path = key if not found else key[:found.start(1)] + "#" + key[found.end(1):]
            groups.setdefault((path, tuple(shape)), []).append(int(found[1]) if found else 0)
        golden = {path.replace("#", numbers(found)): list(shape) for (path, shape), found in groups.items()}
        count = sum(torch.Size(shape).numel() for shape in weights.values())
        (HERE / f"{name}.config.json").write_text(json.dumps(config, indent=1) + "\n")
        lines = ",\n".join(f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in golden.items())
        (HERE / f"{name}.json").write_text(f'{{"count": {count}, "weights": {{\n{lines}\n}}}}\n')
        print(name, len(weights), count, sorted(tied))


main()
