/// The names in Video-LLaMA's files, as tables. The model's side has this library's names.
///
/// A `.pth` holds what was trained, under `model`: the video branch's 58 tensors, or the audio branch's. The image
/// Q-Former and the LayerNorm on image features come from BLIP-2's own file (``LAVIS/model``), given as a base.
public enum VideoLLaMA {
  /// The video branch: the temporal Q-Former, the table of frame positions and the projection.
  ///
  /// What the frames go through has LAVIS' names, should a file hold it.
  public static let video = KeyMap(
    branch("video", model: "temporal.") + [
      KeyMap.Rule("frame_position_embedding", "video_frame_position_embedding"),
      KeyMap.Rule("language_projection", "llama_proj"),
    ] + LAVIS.model.rules.filter { $0.model != "language_projection" },
    ignorable: LAVIS.strayBuffers)

  /// The audio branch, for a model that takes its parameters from the scope `audio`.
  public static let audio = KeyMap(
    branch("audio", model: "audio.") + [
      KeyMap.Rule("audio.position_embedding", "audio_position_embedding"),
      KeyMap.Rule("audio.language_projection", "audio_llama_proj"),
    ], ignorable: LAVIS.strayBuffers)

  private static func branch(_ name: String, model: String) -> [KeyMap.Rule] {
    [
      KeyMap.Rule("\(model)query_tokens", "\(name)_query_tokens"),
      KeyMap.Rule("\(model)qformer.layernorm", "\(name)_Qformer.bert.embeddings.LayerNorm"),
      KeyMap.Rule(
        "\(model)qformer.encoder.layer.*.attention.attention", "\(name)_Qformer.bert.encoder.layer.*.attention.self"),
      KeyMap.Rule(
        "\(model)qformer.encoder.layer.*.crossattention.attention",
        "\(name)_Qformer.bert.encoder.layer.*.crossattention.self"),
      KeyMap.Rule("\(model)qformer.encoder", "\(name)_Qformer.bert.encoder"),
    ]
  }
}
