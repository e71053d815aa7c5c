"""Writes the fixtures of QFormerTests: small random adapters and what they must compute.

    python make_qformer.py          (torch 2.13, transformers 5.23, safetensors)

Two sources of truth. `transformers` in float32 for everything it implements. For the objectives of the first stage,
which it lacks, the plain reference below in float64, written from the papers: one pass over [queries, text] with an
explicit [B, M + L, M + L] mask for generation, all 3 B pairs for matching, every loss from its formula. The script first
checks that the reference agrees with transformers where both have an answer.

Weights are large, eps is large and no bias or LayerNorm weight is trivial, so that a part left out shows.
"""

import json
import math
import pathlib

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2ForImageTextRetrieval,
    Blip2QFormerConfig,
    Blip2QFormerModel,
    Blip2VisionConfig,
    InstructBlipQFormerConfig,
    InstructBlipQFormerModel,
    OPTConfig,
)
from transformers.models.bert.configuration_bert import BertConfig
from transformers.models.bert.modeling_bert import BertLMPredictionHead

here = pathlib.Path(__file__).parent
B, N, L = 3, 11, 10
M, D, H, FFN, DV, E, V = 5, 24, 4, 40, 20, 12, 61
LAYERS, FREQUENCY, POSITIONS, WORDS = 3, 2, 16, 28
EPS, VISION_EPS = 3e-3, 5e-3
CLS, SEP, PAD = 1, 2, 0

SIZES = dict(
    vocab_size=V, hidden_size=D, num_hidden_layers=LAYERS, num_attention_heads=H, intermediate_size=FFN,
    hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, max_position_embeddings=POSITIONS, layer_norm_eps=EPS,
    cross_attention_frequency=FREQUENCY, encoder_hidden_size=DV,
)


class Tower(nn.Module):
    """Stands for the vision model: features go in, and only the LayerNorm at its end is computed."""

    def __init__(self):
        super().__init__()
        self.post_layernorm = nn.LayerNorm(DV, eps=VISION_EPS)

    def forward(self, pixel_values, **kwargs):
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        hidden = self.post_layernorm(pixel_values)
        return BaseModelOutputWithPooling(last_hidden_state=hidden, pooler_output=hidden[:, 0])


@torch.no_grad()
def randomize(parameters, generator):
    for name, value in parameters:
        noise = torch.randn(value.shape, generator=generator)
        leaf = name.rsplit(".", 1)[-1]
        if "LayerNorm.weight" in name or "layernorm.weight" in name:
            value.copy_(1 + 0.3 * noise)
        elif leaf == "bias":
            value.copy_(0.3 * noise)
        elif "embeddings" in name or name == "query_tokens":
            value.copy_(noise)
        else:
            value.copy_(1.4 / math.sqrt(value.shape[-1]) * noise)


def texts(lengths, generator):
    ids = torch.full((len(lengths), L), PAD)
    for row, length in enumerate(lengths):
        ids[row, 0] = CLS
        ids[row, 1 : length - 1] = torch.randint(3, V - 1, (length - 2,), generator=generator)
        ids[row, length - 1] = SEP
    return ids, (ids != PAD).long()


# MARK: The plain reference


class Reference:
    """A dictionary of weights under Hugging Face's names, and formulas."""

    def __init__(self, weights, separate):
        self.w = weights
        self.separate = separate
        self.dec = V if separate else V - 1

    def linear(self, x, name):
        return x @ self.w[f"{name}.weight"].T + self.w[f"{name}.bias"]

    def norm(self, x, name, eps=EPS):
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt()
        return scaled * self.w[f"{name}.weight"] + self.w[f"{name}.bias"]

    def attend(self, x, y, allowed, name):
        q, k, v = (self.linear(s, f"{name}.attention.{p}") for s, p in ((x, "query"), (y, "key"), (y, "value")))
        heads = []
        for h in range(H):
            part = slice(h * D // H, (h + 1) * D // H)
            scores = torch.einsum("bid,bjd->bij", q[..., part], k[..., part]) / math.sqrt(D / H)
            if allowed is not None:
                scores = scores.masked_fill(~allowed, -math.inf)
            heads.append(scores.softmax(-1) @ v[..., part])
        return self.norm(self.linear(torch.cat(heads, -1), f"{name}.output.dense") + x, f"{name}.output.LayerNorm")

    def feed(self, x, up, down):
        y = self.linear(x, f"{up}.dense")
        y = y * 0.5 * (1 + torch.erf(y / math.sqrt(2)))
        return self.norm(self.linear(y, f"{down}.dense") + x, f"{down}.LayerNorm")

    def words(self, ids):
        table = self.w["embeddings.word_embeddings.weight"]
        if self.separate:
            table = torch.cat([table, self.w["embeddings.decoder_token"]])
        return table[ids] + self.w["embeddings.position_embeddings.weight"][: ids.shape[1]]

    def run(self, queries, text, allowed, image=None):
        """[B, M, D] queries and [B, L, D] text (either may be empty), one allowed [B, M + L, M + L] for all layers."""
        count = queries.shape[1]
        x = self.norm(torch.cat([queries, text], 1), "qformer.layernorm")
        for i in range(LAYERS):
            name = f"qformer.encoder.layer.{i}"
            x = self.attend(x, x, allowed, f"{name}.attention")
            q, t = x[:, :count], x[:, count:]
            if count and i % FREQUENCY == 0:
                q = self.attend(q, image, None, f"{name}.crossattention")
            q = self.feed(q, f"{name}.intermediate_query", f"{name}.output_query")
            t = self.feed(t, f"{name}.intermediate", f"{name}.output")
            x = torch.cat([q, t], 1)
        return x[:, :count], x[:, count:]

    def queries(self, batch):
        return self.w["query_tokens"].expand(batch, -1, -1)

    def image(self, features):
        return self.norm(features, "vision_model.post_layernorm", VISION_EPS)

    def both(self, image, ids, mask):
        batch = len(ids)
        seen = torch.cat([torch.ones(batch, M, dtype=torch.bool), mask.bool()], 1)
        allowed = seen[:, None, :].expand(-1, M + ids.shape[1], -1)
        return self.run(self.queries(batch), self.words(ids), allowed, image)

    def features(self, features, ids, mask):
        batch = len(ids)
        nothing = torch.zeros(batch, 0, D, dtype=features.dtype)
        q, _ = self.run(self.queries(batch), nothing, None, self.image(features))
        _, t = self.run(nothing, self.words(ids), mask.bool()[:, None, :].expand(-1, ids.shape[1], -1))
        image = self.linear(q, "vision_projection")
        text = self.linear(t[:, 0], "text_projection")
        image = image / image.norm(dim=-1, keepdim=True)
        return image, text / text.norm(dim=-1, keepdim=True)

    def itm_logits(self, image, ids, mask):
        q, _ = self.both(image, ids, mask)
        return self.linear(q, "itm_head").mean(1)

    def contrastive(self, features, ids, mask, image_ids=None):
        image, text = self.features(features, ids, mask)
        batch = len(ids)
        cosine = torch.einsum("iqe,je->iqj", image, text).max(1).values
        scores = cosine / self.w["temp"]
        if image_ids is None:
            target = torch.eye(batch, dtype=scores.dtype)
        else:
            target = (image_ids[:, None] == image_ids[None, :]).to(scores.dtype)
            target = target / target.sum(1, keepdim=True)
        target = 0.9 * target + 0.1 / batch
        rows = -(target * torch.log_softmax(scores, 1)).sum(1).mean()
        columns = -(target * torch.log_softmax(scores.T, 1)).sum(1).mean()
        return (rows + columns) / 2, cosine

    def matching(self, features, ids, mask, negative_images, negative_texts):
        own = list(range(len(ids)))
        text_rows = own + own + list(negative_texts)
        image_rows = own + list(negative_images) + own
        logits = self.itm_logits(self.image(features)[image_rows], ids[text_rows], mask[text_rows])
        labels = torch.tensor([1] * len(own) + [0] * (2 * len(own)))
        return -torch.log_softmax(logits, 1)[torch.arange(len(labels)), labels].mean()

    def generation(self, features, ids, mask):
        """One pass over queries and text: queries see queries, text sees queries and earlier text."""
        batch, length = ids.shape
        given = ids.clone()
        given[:, 0] = self.dec
        allowed = torch.zeros(batch, M + length, M + length, dtype=torch.bool)
        allowed[:, :, :M] = True
        for i in range(length):
            allowed[:, M + i, M : M + i + 1] = mask[:, : i + 1].bool()
        _, hidden = self.run(self.queries(batch), self.words(given), allowed, self.image(features))
        y = self.linear(hidden, "cls.predictions.transform.dense")
        y = self.norm(y * 0.5 * (1 + torch.erf(y / math.sqrt(2))), "cls.predictions.transform.LayerNorm")
        logits = y @ self.w["embeddings.word_embeddings.weight"].T + self.w["cls.predictions.bias"]
        logs = torch.log_softmax(logits, -1)
        total, count = 0, 0
        for b in range(batch):
            for i in range(length - 1):
                if mask[b, i + 1]:
                    total = total - 0.9 * logs[b, i, ids[b, i + 1]] - 0.1 * logs[b, i].mean()
                    count += 1
        return total / count, hidden, logits


def leaves(weights):
    return {name: value.double().clone().requires_grad_() for name, value in weights.items()}


def gradients(reference, prefix, out):
    for name, value in reference.w.items():
        if value.grad is not None:
            out[f"{prefix}.{name}"] = value.grad.float()


def close(a, b, limit=1e-9):
    error = (a.double() - b.double()).abs().max() / b.double().abs().max()
    assert error < limit, error


# MARK: Fixtures


def main():
    torch.manual_seed(0)
    g = torch.Generator().manual_seed(20230130)
    vision = Blip2VisionConfig(
        hidden_size=DV, num_hidden_layers=1, num_attention_heads=4, intermediate_size=8, image_size=14, patch_size=14)
    qformer = Blip2QFormerConfig(**SIZES, use_qformer_text_input=True)
    config = Blip2Config(
        vision_config=vision.to_dict(), qformer_config=qformer.to_dict(), num_query_tokens=M, image_text_hidden_size=E,
        attn_implementation="eager")
    model = Blip2ForImageTextRetrieval(config).eval()
    model.vision_model = Tower()
    randomize(model.named_parameters(), g)
    weights = {name: value.detach().clone() for name, value in model.named_parameters()}

    # Ours alone: temperature, language-model head, a start token outside the word table.
    extra = {
        "cls.predictions.bias": torch.zeros(V), "embeddings.decoder_token": torch.zeros(1, D),
        "cls.predictions.transform.dense.weight": torch.zeros(D, D),
        "cls.predictions.transform.dense.bias": torch.zeros(D),
        "cls.predictions.transform.LayerNorm.weight": torch.zeros(D),
        "cls.predictions.transform.LayerNorm.bias": torch.zeros(D),
    }
    randomize(extra.items(), g)
    extra["temp"] = torch.tensor(0.11)
    weights |= extra

    features = torch.randn(B, N, DV, generator=g) * 1.5 + 0.2
    ids, mask = texts([10, 6, 4], g)
    out = {"in.features": features, "in.ids": ids, "in.mask": mask}

    with torch.no_grad():
        image = model.vision_model(features).last_hidden_state
        out["image"] = image
        alone = model.qformer(
            query_embeds=model.query_tokens.expand(B, -1, -1), encoder_hidden_states=image, output_attentions=True,
            output_hidden_states=True)
        out["queries.hidden"] = alone.last_hidden_state
        assert len(alone.cross_attentions) == 2
        for index, attention in enumerate(alone.cross_attentions):
            assert attention.shape == (B, H, M, N)
            out[f"queries.cross.{index}"] = attention
        itm = model(features, ids, mask, use_image_text_matching_head=True, output_attentions=True)
        out["itm.hidden"] = itm.text_model_output.last_hidden_state
        out["itm.logits"] = itm.logits_per_image
        pair = model.qformer(
            query_embeds=model.embeddings(ids, query_embeds=model.query_tokens.expand(B, -1, -1)), query_length=M,
            attention_mask=torch.cat([torch.ones(B, M, dtype=torch.long), mask], 1), encoder_hidden_states=image,
            output_attentions=True)
        close(pair.last_hidden_state, out["itm.hidden"], 1e-6)
        for index, attention in enumerate(pair.cross_attentions):
            out[f"itm.cross.{index}"] = attention
        itc = model(features, ids, mask, use_image_text_matching_head=False)
        out["itc.image"], out["itc.text"] = itc.image_embeds, itc.text_embeds
        out["itc.similarity"] = itc.logits_per_image
        out["text.hidden"] = itc.text_model_output.last_hidden_state

    # Stage 2: its own weights, without text; transformers goes from features to the language model's width.
    blip2 = Blip2ForConditionalGeneration(
        Blip2Config(
            vision_config=vision.to_dict(), qformer_config=Blip2QFormerConfig(**SIZES).to_dict(), num_query_tokens=M,
            text_config=OPTConfig(
                vocab_size=16, hidden_size=WORDS, num_hidden_layers=1, ffn_dim=8, num_attention_heads=4,
                word_embed_proj_dim=WORDS, max_position_embeddings=8).to_dict())).eval()
    blip2.vision_model = Tower()
    stage2 = {n: p for n, p in blip2.named_parameters() if not n.startswith("language_model.")}
    randomize(stage2.items(), g)
    stage2 = {name: value.detach().clone() for name, value in stage2.items()}
    with torch.no_grad():
        tokens = blip2.get_image_features(features)
        out["stage2.hidden"] = tokens.qformer_outputs.last_hidden_state
        out["stage2.tokens"] = tokens.pooler_output

    # InstructBLIP's Q-Former on the first adapter's weights: the instruction is read along.
    instruct = InstructBlipQFormerModel(InstructBlipQFormerConfig(**SIZES)).eval()
    renamed = {}
    for name, value in weights.items():
        if name.startswith("qformer.layernorm."):
            renamed["embeddings" + name.removeprefix("qformer")] = value
        elif name.startswith("qformer."):
            renamed[name.removeprefix("qformer.")] = value
        elif name.startswith("embeddings.") and name != "embeddings.decoder_token":
            renamed[name] = value
    missing = instruct.load_state_dict(renamed, strict=False)
    assert not missing.unexpected_keys and all("position_ids" in k for k in missing.missing_keys), missing
    with torch.no_grad():
        out["instruct.hidden"] = instruct(
            ids, attention_mask=torch.cat([torch.ones(B, M, dtype=torch.long), mask], 1),
            query_embeds=model.query_tokens.expand(B, -1, -1), encoder_hidden_states=image).last_hidden_state[:, :M]

    # The reference agrees with transformers in float64.
    model.double()
    plain = Reference(leaves(weights), separate=False)
    with torch.no_grad():
        exact = features.double()
        theirs = model(exact, ids, mask, use_image_text_matching_head=True)
        close(plain.itm_logits(plain.image(exact), ids, mask), theirs.logits_per_image)
        theirs = model(exact, ids, mask, use_image_text_matching_head=False)
        mine = plain.features(exact, ids, mask)
        close(mine[0], theirs.image_embeds)
        close(mine[1], theirs.text_embeds)
        close(plain.contrastive(exact, ids, mask)[1], theirs.logits_per_image)
        head = BertLMPredictionHead(BertConfig(vocab_size=V, hidden_size=D, layer_norm_eps=EPS)).double()
        head.load_state_dict(
            {n.removeprefix("cls.predictions."): v for n, v in weights.items() if n.startswith("cls.")}
            | {"decoder.weight": weights["embeddings.word_embeddings.weight"],
               "decoder.bias": weights["cls.predictions.bias"]})
        _, hidden, logits = plain.generation(exact, ids, mask)
        close(head(hidden), logits)

    # Objectives. "two": a batch of two, where the other item is the only negative. "three": rows 0 and 1 show one image,
    # so that their negative must be row 2; the losses of all four draws of row 2 are stored. "one": a batch of one.
    objectives = {}
    image_ids = torch.tensor([7, 7, 4])
    objectives["three.image_ids"] = image_ids
    for variant, separate in (("shared", False), ("separate", True)):
        kept = {n: v for n, v in weights.items() if separate or n != "embeddings.decoder_token"}
        two = Reference(leaves(kept), separate)
        itc, _ = two.contrastive(exact[:2], ids[:2], mask[:2])
        itm = two.matching(exact[:2], ids[:2], mask[:2], [1, 0], [1, 0])
        itg, hidden, logits = two.generation(exact[:2], ids[:2], mask[:2])
        (itc + itm + itg).backward()
        objectives[f"{variant}.two.losses"] = torch.stack([itc, itm, itg]).detach().float()
        objectives[f"{variant}.two.itg_hidden"] = hidden.detach().float()
        objectives[f"{variant}.two.itg_logits"] = logits.detach().float()
        gradients(two, f"{variant}.two.gradient", objectives)

        three = Reference(leaves(kept), separate)
        plain_itc, _ = three.contrastive(exact, ids, mask)
        itc, _ = three.contrastive(exact, ids, mask, image_ids)
        itg, _, _ = three.generation(exact, ids, mask)
        objectives[f"{variant}.three.losses"] = torch.stack([plain_itc, itc, itg]).detach().float()
        if separate:
            (itc + itg).backward()
            gradients(three, f"{variant}.three.gradient", objectives)
        with torch.no_grad():
            objectives[f"{variant}.three.matching"] = torch.tensor([
                [three.matching(exact, ids, mask, [2, 2, i], [2, 2, t]) for t in (0, 1)] for i in (0, 1)
            ]).float()  # [image, text] drawn by row 2

            if not separate:  # the same where rows 1 and 2 show one image and row 0 draws
                objectives["three.first_draws"] = torch.tensor([
                    [three.matching(exact, ids, mask, [i, 0, 0], [t, 0, 0]) for t in (1, 2)] for i in (1, 2)
                ]).float()

        one = Reference(leaves(kept), separate)
        itc, _ = one.contrastive(exact[:1], ids[:1], mask[:1])
        itg, _, _ = one.generation(exact[:1], ids[:1], mask[:1])
        objectives[f"{variant}.one.losses"] = torch.stack([itc, itg]).detach().float()

        # Ten steps of AdamW on the batch of two.
        trained = Reference(leaves(kept), separate)
        matrices = [v for v in trained.w.values() if v.ndim > 1]
        vectors = [v for v in trained.w.values() if v.ndim <= 1]
        optimizer = torch.optim.AdamW(
            [dict(params=matrices, weight_decay=0.05), dict(params=vectors, weight_decay=0.0)], lr=1e-3,
            betas=(0.9, 0.98), eps=1e-8)
        losses = []
        for _ in range(10):
            optimizer.zero_grad()
            batch = (exact[:2], ids[:2], mask[:2])
            parts = [trained.contrastive(*batch)[0], trained.matching(*batch, [1, 0], [1, 0]),
                     trained.generation(*batch)[0]]
            sum(parts).backward()
            optimizer.step()
            losses.append(torch.stack(parts).detach().float())
        objectives[f"{variant}.steps"] = torch.stack(losses)  # [10, 3]
        print(variant, [round(x.sum().item(), 4) for x in losses])

    sizes = {k: v for k, v in SIZES.items()} | {"num_query_tokens": M}
    retrieval = {
        "qformer_config": sizes | {"use_qformer_text_input": True, "separate_decoder_token": False},
        "image_text_hidden_size": E, "vision_norm_eps": VISION_EPS, "has_generation_head": True}
    language = {
        "qformer_config": sizes | {"use_qformer_text_input": False}, "language_hidden_size": WORDS,
        "vision_norm_eps": VISION_EPS}
    (here / "config.json").write_text(json.dumps({"retrieval": retrieval, "language": language}, indent=1) + "\n")
    for name, tensors in (
        ("weights", weights), ("stage2", stage2), ("transformers", out), ("objectives", objectives)):
        save_file({n: v.detach().contiguous().clone() for n, v in tensors.items()}, here / f"{name}.safetensors")


main()
