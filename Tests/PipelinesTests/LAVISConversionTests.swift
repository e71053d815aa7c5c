import Checkpoints
import Foundation
import Pipelines
import QFormer
import TestSupport
import Testing
import Torch

/// LAVIS' files with their bases. The tiny ones are beside Hugging Face twins of the same weights.
@Suite("Converting LAVIS' files")
struct LAVISConversionTests {
  private let folder = fixtures.appendingPathComponent("checkpoints")

  private func file(_ name: String) -> URL { folder.appendingPathComponent(name) }

  /// Sizes that shapes do not tell, as the config.json of a published model would.
  private func sizes(_ type: String, text: String?, in parent: URL) throws -> URL {
    let folder = parent.appendingPathComponent("sizes-\(type)")
    try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    let prefix = type == "blip-2" ? "blip_2" : type
    let json = """
      {"model_type": "\(type)", "num_query_tokens": 4, "image_token_index": 19,
       "vision_config": {"model_type": "\(prefix)_vision_model", "hidden_size": 16, "intermediate_size": 24,
                         "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28, "patch_size": 14},
       "qformer_config": {"model_type": "\(prefix)_qformer", "hidden_size": 12, "num_attention_heads": 2,
                          "num_hidden_layers": 2, "intermediate_size": 20, "encoder_hidden_size": 16}
       \(text.map { ", \"text_config\": \($0)" } ?? "")}
      """
    try Data(json.utf8).write(to: folder.appendingPathComponent("config.json"))
    return folder
  }

  private let opt = """
    {"model_type": "opt", "hidden_size": 8, "ffn_dim": 12, "num_hidden_layers": 1, "num_attention_heads": 2,
     "vocab_size": 20, "word_embed_proj_dim": 8, "max_position_embeddings": 16, "bos_token_id": 2, "eos_token_id": 2}
    """

  private func tokenizer(_ name: String) -> URL { fixtures.appendingPathComponent("tokenizers/\(name)") }

  /// The language model of stage 2 in a folder of its own.
  private func languageFolder(in parent: URL) throws -> URL {
    let folder = parent.appendingPathComponent("opt")
    try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    try Data(opt.utf8).write(to: folder.appendingPathComponent("config.json"))
    let whole = try Checkpoint(contentsOf: file("stage2.safetensors"))
    let prefix = "language_model."
    try SafetensorsFile.write(
      whole.names.filter { $0.hasPrefix(prefix) }.map { (String($0.dropFirst(prefix.count)), try whole.tensor($0)) },
      to: folder.appendingPathComponent("model.safetensors"))
    return folder
  }

  private func expectEqual(
    _ found: Checkpoint, _ expected: Checkpoint, besides extra: Set<String> = []
  ) throws {
    #expect(Set(found.names).symmetricDifference(expected.names).subtracting(extra).sorted() == [])
    for name in expected.names where !extra.contains(name) {
      let (tensor, truth) = (try found.tensor(name), try expected.tensor(name))
      // The tower's own file is stored in half precision.
      let same = tensor.dtype == truth.dtype ? truth : try withError { truth.to(tensor.dtype) }
      #expect(tensor.shape == truth.shape && tensor.bytes() == same.bytes(), "\(name)")
    }
  }

  @Test("Stage 1: with the tower to both layouts; ours keeps temperature and head, transformers' has no place for them")
  func stage1() throws {
    try withTemporaryFolder { folder in
      let bases = [try sizes("blip-2", text: nil, in: folder), file("eva_vit_g.pth"), tokenizer("word-piece")]
      // The stage-1 file holds its own tower.
      let model = try ModelConversion(file("lavis_stage1.pth"), bases: bases)
      #expect(model.configuration.architecture == .blip2Matching && model.configuration.contrastiveSize == 6)
      let own = folder.appendingPathComponent("own")
      let kept = try model.write(.qformer, to: own)
      #expect(kept.leftOut.isEmpty)
      let names = Set(try Checkpoint(contentsOf: own).names)
      #expect(names.isSuperset(of: ["temp", "cls.predictions.bias", "cls.predictions.transform.dense.weight"]))
      let configuration = try AdapterConfiguration(folder: own)
      #expect(
        configuration.imageText?.objectives.hasGenerationHead == true && configuration.imageText?.visionNormEps == 1e-5)
      #expect(configuration.encoder.model == own.appendingPathComponent("encoder").path)
      _ = try ImageTextPipeline(own.path)

      let published = folder.appendingPathComponent("published")
      let report = try model.write(.huggingFace, to: published)
      #expect(report.leftOut.contains("temp") && report.leftOut.count == 6)
      let dropped = Set(report.leftOut)
      let truth = try Checkpoint(contentsOf: file("stage1.safetensors"))
      try expectEqual(Checkpoint(contentsOf: published), truth, besides: dropped)
      // And from our layout to transformers': the same bits.
      let again = folder.appendingPathComponent("again")
      try ModelConversion(own).write(.huggingFace, to: again)
      try expectEqual(Checkpoint(contentsOf: again), truth, besides: dropped)
    }
  }

  @Test("Stage 2: tower, language model and tokenizer come from the bases")
  func stage2() throws {
    try withTemporaryFolder { folder in
      let bases = [
        try sizes("blip-2", text: nil, in: folder), file("eva_vit_g.pth"), try languageFolder(in: folder),
        tokenizer("byte-bpe"),
      ]
      // A base without text_config has no language model: transformers' default is not taken for it.
      let error = #expect(throws: CheckpointError.self) {
        try ModelConversion(file("lavis_stage2.pth"), bases: Array(bases.prefix(1)))
      }
      guard case .mismatch(let missing) = error else {
        Issue.record("\(String(describing: error))")
        return
      }
      #expect(missing.missing.contains("visual_encoder.cls_token"))
      let model = try ModelConversion(
        file("lavis_stage2.pth"), bases: [try sizes("blip-2", text: opt, in: folder)] + bases.dropFirst())
      let out = folder.appendingPathComponent("out")
      let report = try model.write(.huggingFace, to: out)
      #expect(report.parts.map(\.name) == ["vision tower", "adapter", "language model"])
      #expect(report.parts[0].sources == [file("eva_vit_g.pth").path] && report.parts[0].types == ["float16"])
      try expectEqual(Checkpoint(contentsOf: out), Checkpoint(contentsOf: file("stage2.safetensors")))
      let back = folder.appendingPathComponent("own")
      try model.write(.qformer, to: back)
      let tower = try Checkpoint(contentsOf: back.appendingPathComponent("encoder"))
      #expect(tower.dtype("encoder.layers.1.self_attn.qkv.bias") == .float16)
      #expect(!tower.names.contains { $0.hasPrefix("encoder.layers.2.") }, "the block that BLIP-2 drops")
      _ = try ImageLanguagePipeline(back.path)
    }
  }

  @Test("InstructBLIP in one file")
  func instruct() throws {
    let llama = """
      {"model_type": "llama", "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1,
       "num_attention_heads": 2, "vocab_size": 20, "tie_word_embeddings": false}
      """
    try withTemporaryFolder { folder in
      let bases = [
        try sizes("instructblip", text: llama, in: folder), tokenizer("byte-bpe"), tokenizer("word-piece"),
      ]
      let out = folder.appendingPathComponent("out")
      try ModelConversion(file("lavis_instruct.pth"), bases: bases).write(.huggingFace, to: out)
      try expectEqual(Checkpoint(contentsOf: out), Checkpoint(contentsOf: file("instruct.safetensors")))
      #expect(FileManager.default.fileExists(atPath: out.appendingPathComponent("qformer_tokenizer").path))
    }
  }

  @Test("What may be missing is left out and reported; what may not is named")
  func allowedToBeMissing() throws {
    try withTemporaryFolder { folder in
      let bases = [try sizes("blip-2", text: nil, in: folder), file("eva_vit_g.pth")]
      func words(_ allowed: [String]) -> String {
        let error = #expect(throws: CheckpointError.self) {
          try ModelConversion(file("lavis_stage2.pth"), bases: bases, allowMissing: allowed)
        }
        return error?.description ?? ""
      }
      #expect(words([]).contains("missing: language_model"))
      #expect(words(["language_modell.*"]).contains("missing: language_model"))
      let model = try ModelConversion(
        file("lavis_stage2.pth"), bases: bases, allowMissing: ["language_model.*", "tokenizer"])
      let own = folder.appendingPathComponent("own")
      let report = try model.write(.qformer, to: own)
      #expect(report.load.initialised.contains { $0.hasPrefix("language_model.") })
      #expect(!FileManager.default.fileExists(atPath: own.appendingPathComponent("language").path))
      #expect(throws: PipelineError.self) { try model.write(.huggingFace, to: folder.appendingPathComponent("hf")) }
      #expect(!FileManager.default.fileExists(atPath: folder.appendingPathComponent("hf").path))
    }
  }

  @Test("Files of another kind, bases of another kind, a full destination: each is named, nothing is left behind")
  func refusals() throws {
    try withTemporaryFolder { folder in
      func words(_ body: () throws -> Void) -> String {
        do {
          try body()
          return "nothing thrown"
        } catch { return "\(error)" }
      }
      let projection = folder.appendingPathComponent("minigpt.safetensors")
      try SafetensorsFile.write([("llama_proj.weight", .zeros([2, 2]))], to: projection)
      #expect(words { _ = try ModelConversion(projection) }.contains("found MiniGPT-4's trained projection"))
      // BLIP-2's parts beside those of a video model: half of the file is no whole one.
      let mixed = folder.appendingPathComponent("bases/mixed.safetensors")
      try FileManager.default.createDirectory(
        at: folder.appendingPathComponent("bases"), withIntermediateDirectories: true)
      let blip = ["query_tokens", "Qformer.bert.encoder.layer.0.output.dense.bias", "opt_proj.weight"]
      for (more, found) in [
        ("video_Qformer.bert.encoder.x", "found a video Q-Former in Video-LLaMA's names"),
        ("audio_Qformer.bert.encoder.x", "found Video-LLaMA's audio branch"),
        ("llama_proj.weight", "found LAVIS' BLIP-2 with OPT (opt_proj), besides llama_proj.weight of another model"),
      ] {
        try SafetensorsFile.write((blip + [more]).map { ($0, .zeros([1, 2, 2])) }, to: mixed)
        #expect(words { _ = try ModelConversion(mixed) }.contains(found), "\(words { _ = try ModelConversion(mixed) })")
      }
      let tower = file("eva_vit_g.pth")
      #expect(words { _ = try ModelConversion(tower) }.contains("found a bare EVA vision tower"))
      let stage1 = file("lavis_stage1.pth")
      #expect(words { _ = try ModelConversion(stage1, bases: [projection]) }.contains("expected a base: EVA's"))
      #expect(words { _ = try ModelConversion(stage1, bases: [tower]) }.contains("number of heads of a Q-Former"))
      let none = folder.appendingPathComponent("none")
      #expect(words { _ = try ModelConversion(stage1, bases: [none]) }.contains("none: not found"))
      #expect(words { _ = try ModelConversion(none) }.contains("none: not found"))
      let t5 = fixtures.appendingPathComponent("published/blip2-t5")
      let own = try sizes("blip-2", text: nil, in: folder.appendingPathComponent("bases"))
      let named = words { _ = try ModelConversion(file("lavis_stage2.pth"), bases: [own, t5]) }
      #expect(named.contains("expected a language model of model_type opt"), "\(named)")

      // A base lends frozen towers, never what was trained.
      let whole = try Checkpoint(contentsOf: fixtures.appendingPathComponent("published/blip2-opt"))
      let partial = folder.appendingPathComponent("bases/partial")
      try FileManager.default.createDirectory(at: partial, withIntermediateDirectories: true)
      for name in ["config.json", "tokenizer.json"] {
        let file = whole.url.appendingPathComponent(name).resolvingSymlinksInPath()
        try FileManager.default.copyItem(at: file, to: partial.appendingPathComponent(name))
      }
      let kept = whole.names.filter { !$0.hasPrefix("language_projection.") && !$0.hasPrefix("vision_model.encoder.") }
      try whole.writeModel(kept.map { ($0, $0) }, to: partial)
      let lacking = words { _ = try ModelConversion(partial, bases: [whole.url]) }
      #expect(lacking.contains("2 missing") && lacking.contains("missing: language_projection.bias"), "\(lacking)")

      let full = folder.appendingPathComponent("full")
      try FileManager.default.createDirectory(at: full, withIntermediateDirectories: true)
      let model = try ModelConversion(fixtures.appendingPathComponent("published/blip2-opt"))
      try model.write(.huggingFace, to: full)  // An empty folder is as good as none.
      #expect(words { _ = try model.write(.qformer, to: full) }.contains("exists and is not empty"))
      #expect(words { _ = try model.write(.qformer, to: projection) }.contains("it is a file"))
      let left = try FileManager.default.contentsOfDirectory(atPath: folder.path).sorted()
      #expect(left == ["bases", "full", "minigpt.safetensors"])
    }
  }
}
