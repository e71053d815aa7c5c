/// The names in LAVIS' files, as tables. The model's side has Hugging Face's names.
///
/// A `.pth` of LAVIS holds what was trained, under `model`: `query_tokens`, the Q-Former, `ln_vision`, projections and
/// heads. The vision tower (`eva_vit_g.pth`) and the language model come apart; ``vision`` and ``language`` are for those.
public enum LAVIS {
  /// The language model that a file was trained with, which is in the names of its projection.
  public enum Language: String, Sendable, CaseIterable {
    /// BLIP-2 with OPT: `opt_proj`, `opt_model`.
    case opt
    /// BLIP-2 or InstructBLIP with Flan-T5: `t5_proj`, `t5_model`.
    case t5
    /// InstructBLIP with Vicuna: `llm_proj`, `llm_model`.
    case llm
  }

  /// BLIP-2 and InstructBLIP, stage 1 and stage 2, with or without the frozen towers.
  ///
  /// The names that this library's models and Hugging Face's BLIP-2 have; Hugging Face's InstructBLIP keeps the
  /// Q-Former's embeddings elsewhere: see ``HuggingFace/instructBLIP``.
  public static let model = table(writing: .opt)

  /// The same table for writing a file in LAVIS' names: ``KeyMap/inverted`` writes the projection under the first name.
  public static func table(writing language: Language) -> KeyMap {
    let languages = [language] + Language.allCases.filter { $0 != language }
    return KeyMap(
      visionRules(under: "visual_encoder.") + [
        KeyMap.Rule("vision_model.post_layernorm", "ln_vision"),
        KeyMap.Rule("qformer.layernorm", "Qformer.bert.embeddings.LayerNorm"),
        KeyMap.Rule("embeddings", "Qformer.bert.embeddings"),
        KeyMap.Rule("qformer.encoder.layer.*.attention.attention", "Qformer.bert.encoder.layer.*.attention.self"),
        KeyMap.Rule(
          "qformer.encoder.layer.*.crossattention.attention", "Qformer.bert.encoder.layer.*.crossattention.self"),
        KeyMap.Rule("qformer.encoder", "Qformer.bert.encoder"),
        KeyMap.Rule("cls", "Qformer.cls"),
        KeyMap.Rule("vision_projection", "vision_proj"),
        KeyMap.Rule("text_projection", "text_proj"),
        KeyMap.Rule("language_projection", anyOf: languages.map { "\($0.rawValue)_proj" }),
        KeyMap.Rule("language_model", anyOf: languages.map { "\($0.rawValue)_model" }),
        // As they are: query_tokens, itm_head, temp.
      ],
      fusions: visionFusions(under: "visual_encoder."),
      copies: [
        // BERT's head reads the word table and its own bias under second names.
        KeyMap.Copy("Qformer.cls.predictions.decoder.weight", of: "Qformer.bert.embeddings.word_embeddings.weight"),
        KeyMap.Copy("Qformer.cls.predictions.decoder.bias", of: "Qformer.cls.predictions.bias"),
      ],
      ignorable: strayBuffers)
  }

  /// A file that holds the EVA vision tower alone: `eva_vit_g.pth`. It has one block more than the models use, and a head.
  public static let vision = KeyMap(
    visionRules(under: ""), fusions: visionFusions(under: ""), ignorable: strayBuffers)

  /// A folder or file that holds the language model alone, in its own names.
  public static let language = KeyMap([KeyMap.Rule("language_model", "")], ignorable: strayBuffers)

  /// Tables that PyTorch saved with the weights and that follow from the configuration.
  public static let strayBuffers = [
    "position_ids", "*.position_ids", "*.relative_position_index", "*.rotary_emb.inv_freq", "*.masked_bias",
  ]

  private static func visionRules(under prefix: String) -> [KeyMap.Rule] {
    [
      KeyMap.Rule("vision_model.embeddings.class_embedding", "\(prefix)cls_token"),
      KeyMap.Rule("vision_model.embeddings.position_embedding", "\(prefix)pos_embed"),
      KeyMap.Rule("vision_model.embeddings.patch_embedding", "\(prefix)patch_embed.proj"),
      KeyMap.Rule("vision_model.encoder.layers.*.layer_norm1", "\(prefix)blocks.*.norm1"),
      KeyMap.Rule("vision_model.encoder.layers.*.layer_norm2", "\(prefix)blocks.*.norm2"),
      KeyMap.Rule("vision_model.encoder.layers.*.self_attn.qkv", "\(prefix)blocks.*.attn.qkv"),
      KeyMap.Rule("vision_model.encoder.layers.*.self_attn.projection", "\(prefix)blocks.*.attn.proj"),
      KeyMap.Rule("vision_model.encoder.layers.*.mlp", "\(prefix)blocks.*.mlp"),
    ]
  }

  /// EVA has no bias for keys; the models' `qkv` is one matrix with one bias.
  private static func visionFusions(under prefix: String) -> [KeyMap.Fusion] {
    [
      KeyMap.Fusion(
        model: ["vision_model.encoder.layers.*.self_attn.qkv.bias"],
        file: [.tensor("\(prefix)blocks.*.attn.q_bias"), .zeros, .tensor("\(prefix)blocks.*.attn.v_bias")])
    ]
  }
}
