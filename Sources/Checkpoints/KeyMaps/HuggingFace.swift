/// The names in Hugging Face's files, where they are not the names of this library's models.
public enum HuggingFace {
  /// InstructBLIP: all of the Q-Former's embeddings lie under `qformer.embeddings`.
  public static let instructBLIP = KeyMap(
    [
      KeyMap.Rule("qformer.layernorm", "qformer.embeddings.layernorm"),
      KeyMap.Rule("embeddings", "qformer.embeddings"),
    ], ignorable: LAVIS.strayBuffers)
}
