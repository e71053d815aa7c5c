/// The names in ImageBind's file, `imagebind_huge.pth`, as tables. The model's side has the names of Hugging Face's port.
public enum ImageBind {
  /// The audio trunk with its head. The file holds five more senses, of which nothing is asked.
  public static let audio: KeyMap = {
    let (stem, pictures) = ("modality_preprocessors.audio", "audio_model.embeddings")
    let (blocks, layers) = ("modality_trunks.audio.blocks.*", "audio_model.encoder.layers.*")
    return KeyMap([
      KeyMap.Rule("\(pictures).cls_token", "\(stem).cls_token"),
      KeyMap.Rule("\(pictures).position_embeddings", "\(stem).pos_embedding_helper.pos_embed"),
      KeyMap.Rule("\(pictures).patch_embedding.projection", "\(stem).rgbt_stem.proj"),
      KeyMap.Rule("\(pictures).patch_embedding.layernorm", "\(stem).rgbt_stem.norm_layer"),
      KeyMap.Rule("\(layers).layernorm_before", "\(blocks).norm_1"),
      KeyMap.Rule("\(layers).layernorm_after", "\(blocks).norm_2"),
      KeyMap.Rule("\(layers).self_attn.qkv_proj.weight", "\(blocks).attn.in_proj_weight"),
      KeyMap.Rule("\(layers).self_attn.qkv_proj.bias", "\(blocks).attn.in_proj_bias"),
      KeyMap.Rule("\(layers).self_attn.k_bias", "\(blocks).attn.bias_k"),
      KeyMap.Rule("\(layers).self_attn.v_bias", "\(blocks).attn.bias_v"),
      KeyMap.Rule("\(layers).self_attn.out_proj", "\(blocks).attn.out_proj"),
      KeyMap.Rule("\(layers).mlp", "\(blocks).mlp"),
      KeyMap.Rule("audio_model.layernorm", "modality_heads.audio.0"),
      KeyMap.Rule("audio_projection", "modality_heads.audio.2"),
      KeyMap.Rule("audio_postprocessor", "modality_postprocessors.audio.1"),
    ])
  }()
}
