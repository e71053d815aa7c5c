/// What a checkpoint seems to be, by its names, so that an error can say which file was given.
enum FileKind {
  /// A file is of a kind when each pattern of `has` fits some name and no pattern of `lacks` fits any; with `only`, every
  /// name must fit one of those.
  private struct Signature {
    let words: String
    var has: [String] = []
    var lacks: [String] = []
    var only: [String] = []
  }

  /// The most telling first.
  private static let signatures = [
    Signature(
      words: "MiniGPT-4's trained projection (llama_proj alone: its Q-Former lies in BLIP-2's file)",
      has: ["llama_proj.weight"], only: ["llama_proj.*"]),
    Signature(
      words: "Video-LLaMA's audio branch (audio_query_tokens, audio_Qformer)", has: ["audio_Qformer.*"],
      lacks: ["video_Qformer.*"]),
    Signature(
      words: "Video-LLaMA (video_query_tokens, video_Qformer)", has: ["video_query_tokens", "video_Qformer.*"]),
    Signature(words: "a video Q-Former in Video-LLaMA's names (video_Qformer)", has: ["video_Qformer.*"]),
    Signature(
      words: "LAVIS' BLIP-2 of stage 1 (vision_proj, text_proj)",
      has: ["Qformer.bert.*", "vision_proj.*", "text_proj.*"]),
    Signature(
      words: "LAVIS' InstructBLIP (Q-Former with text, llm_proj or t5_proj)",
      has: ["Qformer.bert.embeddings.word_embeddings.*", "*_proj.weight"]),
    Signature(words: "LAVIS' BLIP-2 with OPT (opt_proj)", has: ["Qformer.bert.*", "opt_proj.*"]),
    Signature(words: "LAVIS' BLIP-2 with Flan-T5 (t5_proj)", has: ["Qformer.bert.*", "t5_proj.*"]),
    Signature(words: "a Q-Former in LAVIS' names (Qformer.bert)", has: ["Qformer.bert.*"]),
    Signature(
      words: "Hugging Face's InstructBLIP (qformer.embeddings)", has: ["query_tokens", "qformer.embeddings.*"]),
    Signature(
      words: "Hugging Face's BLIP-2 for matching (itm_head)",
      has: ["query_tokens", "qformer.layernorm.*", "itm_head.*"]),
    Signature(
      words: "Hugging Face's BLIP-2 (language_projection)",
      has: ["query_tokens", "qformer.layernorm.*", "language_projection.*"]),
    Signature(words: "the state of an optimizer", has: ["*.exp_avg", "*.exp_avg_sq"]),
    Signature(words: "LoRA adapters (lora_A, lora_B)", has: ["*.lora_A.*", "*.lora_B.*"]),
    Signature(words: "LLaVA's projection (mm_projector)", has: ["*mm_projector.*"]),
    Signature(words: "a bare EVA vision tower", has: ["blocks.*.attn.q_bias", "patch_embed.proj.weight"]),
    Signature(words: "a bare vision transformer", has: ["blocks.*.attn.qkv.weight", "patch_embed.proj.weight"]),
    Signature(words: "a bare CLIP vision tower", has: ["conv1.weight", "transformer.resblocks.*"]),
    Signature(words: "a CLIP model of images and texts", has: ["*text_model.*", "*vision_model.*", "logit_scale"]),
    Signature(words: "ImageBind, all senses (modality_trunks)", has: ["modality_trunks.*"]),
    Signature(
      words: "Whisper, which reads sound (encoder.conv1)",
      has: ["*encoder.conv1.weight", "*encoder.embed_positions.weight"]),
    Signature(words: "a DINOv2 vision tower", has: ["*embeddings.cls_token", "*.layer_scale1.*"]),
    Signature(
      words: "a bare language model (Llama's names)",
      has: ["*layers.*.self_attn.q_proj.weight", "*mlp.gate_proj.weight"],
      lacks: ["query_tokens"]),
    Signature(
      words: "a bare language model (OPT's names)", has: ["*decoder.layers.*.self_attn.q_proj.weight", "*.fc1.weight"],
      lacks: ["query_tokens"]),
    Signature(
      words: "a bare language model (T5's names)", has: ["*encoder.block.*.SelfAttention.q.weight"],
      lacks: ["query_tokens"]),
    Signature(
      words: "a bare BERT",
      has: ["*embeddings.word_embeddings.weight", "*encoder.layer.*.attention.self.query.weight"],
      lacks: ["query_tokens"]),
  ]

  /// The kind, or nil.
  static func recognise(_ names: [String]) -> String? {
    func fits(_ pattern: String) -> Bool { names.contains { matches($0, pattern: pattern) } }
    return signatures.first { signature in
      signature.has.allSatisfy(fits) && !signature.lacks.contains(where: fits)
        && (signature.only.isEmpty
          || names.allSatisfy { name in signature.only.contains { matches(name, pattern: $0) } })
    }?.words
  }
}

extension Checkpoint {
  /// What the names suggest that this is, in a few words for people: `LAVIS' BLIP-2 with OPT (opt_proj)`. Nil when they
  /// suggest nothing.
  public var apparentKind: String? { FileKind.recognise(names) }
}
