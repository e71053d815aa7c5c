import Checkpoints
import Foundation
import TestSupport
import Testing
import Torch
import TorchNN

/// Names of other projects. The files were named by a Python script that does not know these tables.
@Suite struct KeyMapTests {
  let folder = fixtures.appendingPathComponent("checkpoints")

  func open(_ name: String) throws -> Checkpoint { try Checkpoint(contentsOf: folder.appendingPathComponent(name)) }

  /// All tensors of one checkpoint against another's, name by name.
  func expectEqual(_ found: Checkpoint, _ expected: Checkpoint, _ names: [String]? = nil) throws {
    let names = names ?? expected.names
    #expect(Set(found.names) == Set(names), "\(Set(found.names).symmetricDifference(names).sorted())")
    for name in names {
      let (tensor, truth) = (try found.tensor(name), try expected.tensor(name))
      #expect(tensor.shape == truth.shape && tensor.bytes() == truth.bytes(), "\(name)")
      #expect(found.shape(name) == truth.shape && found.dtype(name) == truth.dtype, "\(name)")
      #expect(try found.tensor(name, as: .float32).bytes() == truth.to(.float32).bytes(), "\(name)")
    }
  }

  @Test func lavisOfStage1() throws {
    let (lavis, expected) = (try open("lavis_stage1.pth"), try open("stage1.safetensors"))
    #expect(lavis.shape("Qformer.cls.predictions.decoder.weight") == [31, 12])
    try expectEqual(lavis.renamed(by: LAVIS.model), expected)
  }

  @Test func lavisOfStage2AndItsTowers() throws {
    let (stage2, tower, expected) = (
      try open("lavis_stage2.pth"), try open("eva_vit_g.pth"), try open("stage2.safetensors")
    )
    let adapter = expected.names.filter {
      !$0.hasPrefix("language_model.") && !$0.hasPrefix("vision_model.e")
    }
    try expectEqual(stage2.renamed(by: LAVIS.model), expected, adapter)

    // The tower's file alone has a block more and a head.
    let vision = try open("vision.safetensors")
    let bare = try tower.renamed(by: LAVIS.vision)
    #expect(Set(bare.names).isSuperset(of: vision.names) && bare.names.contains("head.weight"))
    let part = try Checkpoint(merging: [
      BaseCheckpoint(
        tower, keyMap: LAVIS.vision, providing: ["vision_model.embeddings.*", "*.layers.0.*", "*.layers.1.*"])
    ])
    try expectEqual(part, vision)

    // All three as one model: the language model in a folder of its own, under its own names.
    try withTemporaryFolder { temporary in
      let language = expected.names.filter { $0.hasPrefix("language_model.") }
      try SafetensorsFile.write(
        language.map { (String($0.dropFirst("language_model.".count)), try expected.tensor($0)) },
        to: temporary.appendingPathComponent("model.safetensors"))
      let whole = try Checkpoint(merging: [
        BaseCheckpoint(stage2, keyMap: LAVIS.model),
        BaseCheckpoint(
          tower, keyMap: LAVIS.vision, providing: ["vision_model.embeddings.*", "*.layers.0.*", "*.layers.1.*"]),
        BaseCheckpoint(Checkpoint(contentsOf: temporary), keyMap: LAVIS.language),
      ])
      #expect(Set(whole.names) == Set(expected.names))
      #expect(whole.dtype("vision_model.encoder.layers.1.self_attn.qkv.bias") == .float16)
      let qkv = try whole.tensor("vision_model.encoder.layers.1.self_attn.qkv.bias", as: .float32)
      expectClose(qkv, try expected.tensor("vision_model.encoder.layers.1.self_attn.qkv.bias"), relative: 1e-3)
    }
  }

  @Test func lavisOfInstructBLIP() throws {
    // Hugging Face keeps the embeddings of InstructBLIP elsewhere than those of BLIP-2.
    let (lavis, expected) = (try open("lavis_instruct.pth"), try open("instruct.safetensors"))
    let ours = try expected.renamed(by: HuggingFace.instructBLIP)
    #expect(
      ours.shape("embeddings.word_embeddings.weight") == [31, 12] && ours.shape("qformer.layernorm.weight") == [12])
    try expectEqual(lavis.renamed(by: LAVIS.model), ours)
    try expectEqual(ours.renamed(by: HuggingFace.instructBLIP.inverted), expected)
  }

  @Test func backToLAVIS() throws {
    for (file, language) in [
      ("lavis_stage1.pth", LAVIS.Language.t5), ("lavis_stage2.pth", .opt), ("lavis_instruct.pth", .llm),
    ] {
      let lavis = try open(file)
      let table = LAVIS.table(writing: language)
      let back = try lavis.renamed(by: table).renamed(by: table.inverted)
      let expected = lavis.names.filter {
        !$0.hasSuffix("position_ids") && !$0.hasSuffix("inv_freq") && !$0.hasPrefix("Qformer.cls.predictions.decoder")
      }
      try expectEqual(back, lavis, expected)
    }
  }

  @Test func whatTheTableCannotSayIsAnError() throws {
    try withTemporaryFolder { temporary in
      func checkpoint(_ tensors: [(String, Tensor)]) throws -> Checkpoint {
        let url = temporary.appendingPathComponent("x.safetensors")
        try SafetensorsFile.write(tensors, to: url)
        return try Checkpoint(contentsOf: url)
      }
      func words(_ body: () throws -> Void) -> String {
        #expect(throws: CheckpointError.self, performing: body)?.description ?? ""
      }
      // A bias for keys, which EVA has not.
      let biased = try checkpoint([("vision_model.encoder.layers.3.self_attn.qkv.bias", .ones([6]))])
      let table = LAVIS.model.inverted
      #expect(words { _ = try biased.renamed(by: table) }.contains("zeros in part 2 of 3"))
      // Half of a pair.
      let half = try checkpoint([("visual_encoder.blocks.3.attn.q_bias", .ones([2]))])
      #expect(words { _ = try half.renamed(by: LAVIS.model) }.contains("visual_encoder.blocks.3.attn.v_bias beside"))
      // Pieces of two sizes.
      let uneven = try checkpoint([
        ("visual_encoder.blocks.3.attn.q_bias", .ones([2])), ("visual_encoder.blocks.3.attn.v_bias", .ones([3])),
      ])
      let view = try uneven.renamed(by: LAVIS.model)
      #expect(words { _ = try view.tensor(view.names[0]) }.contains("pieces of one shape"))
      // Two names that become one.
      let twice = try checkpoint([("opt_proj.weight", .ones([2])), ("t5_proj.weight", .ones([2]))])
      #expect(words { _ = try twice.renamed(by: LAVIS.model) }.contains("one tensor for language_projection.weight"))
      // A copy that is none is a tensor that nothing asks for.
      let untied = try checkpoint([
        ("Qformer.bert.embeddings.word_embeddings.weight", .ones([2])),
        ("Qformer.cls.predictions.decoder.weight", .zeros([2])),
      ])
      #expect(try untied.renamed(by: LAVIS.model).names.contains("cls.predictions.decoder.weight"))
    }
  }

  @Test func oneMatrixTakenApart() throws {
    // CLIP's own files keep queries, keys and values in one matrix; Hugging Face's keep three.
    let parts = ["q_proj", "k_proj", "v_proj"]
    let table = KeyMap(
      [],
      fusions: [KeyMap.Fusion(model: parts.map { .tensor("layers.*.\($0).weight") }, file: ["blocks.*.in_proj_weight"])]
    )
    try withTemporaryFolder { temporary in
      let url = temporary.appendingPathComponent("x.safetensors")
      let whole = Tensor.randn([6, 2], generator: Generator(seed: 3))
      try SafetensorsFile.write([("blocks.4.in_proj_weight", whole)], to: url)
      let view = try Checkpoint(contentsOf: url).renamed(by: table)
      #expect(view.names == parts.map { "layers.4.\($0).weight" } && view.shape("layers.4.k_proj.weight") == [2, 2])
      for (number, part) in parts.enumerated() {
        #expect(
          try view.tensor("layers.4.\(part).weight").bytes() == whole.narrow(0, 2 * number, 2).contiguous().bytes())
      }
      let back = try view.renamed(by: table.inverted)
      #expect(back.names == ["blocks.4.in_proj_weight"])
      #expect(try back.tensor("blocks.4.in_proj_weight").bytes() == whole.bytes())
    }
  }

  // MARK: Loading with a table

  struct Attention {
    let qkv: Linear
    let projection: Linear
    init(_ scope: ParameterScope) {
      let layer = scope["vision_model.encoder.layers.1.self_attn"]
      qkv = Linear(16, 48, layer["qkv"])
      projection = Linear(12, 8, scope["language_projection"])
    }
  }

  @Test func aModelOfFileAndTower() throws {
    let (stage2, tower, expected) = (
      try open("lavis_stage2.pth"), try open("eva_vit_g.pth"), try open("stage2.safetensors")
    )
    let (model, report) = try loadModel(
      from: stage2, keyMap: LAVIS.model, bases: [BaseCheckpoint(tower, keyMap: LAVIS.vision)],
      ignoring: ["Qformer.*", "query_tokens", "ln_vision.*"], build: Attention.init)
    #expect(report.isStrict && report.ignored.contains("query_tokens") && report.apparentKind == nil)
    #expect(
      Set(report.loaded) == [
        "blocks.1.attn.qkv.weight", "blocks.1.attn.q_bias", "blocks.1.attn.v_bias", "opt_proj.weight", "opt_proj.bias",
      ])
    #expect(Set(report.converted) == ["blocks.1.attn.qkv.weight", "blocks.1.attn.q_bias", "blocks.1.attn.v_bias"])
    expectClose(
      model.qkv.weight, try expected.tensor("vision_model.encoder.layers.1.self_attn.qkv.weight"), relative: 1e-3)
    #expect(model.qkv.bias?.narrow(0, 16, 16).abs().sum().item == 0)
    #expect(try model.projection.weight.bytes() == expected.tensor("language_projection.weight").bytes())
    // The stray buffer of stage 1 and the repeated tensors are named by the table.
    let stage1 = try loadModel(
      from: open("lavis_stage1.pth"), keyMap: LAVIS.model,
      ignoring: ["visual_encoder.*", "ln_vision.*", "*encoder.layer.*"]
    ) { scope in
      for name in [
        "temp", "query_tokens", "embeddings.word_embeddings.weight", "embeddings.position_embeddings.weight",
        "qformer.layernorm.weight", "qformer.layernorm.bias", "cls.predictions.bias",
        "cls.predictions.transform.dense.weight", "cls.predictions.transform.dense.bias",
        "cls.predictions.transform.LayerNorm.weight", "cls.predictions.transform.LayerNorm.bias",
        "vision_projection.weight", "vision_projection.bias", "text_projection.weight", "text_projection.bias",
        "itm_head.weight", "itm_head.bias",
      ] {
        _ = scope.parameter(name, try #require(open("stage1.safetensors").shape(name)), .zeros)
      }
    }.report
    #expect(
      Set(stage1.ignored).isSuperset(of: [
        "Qformer.bert.embeddings.position_ids", "Qformer.cls.predictions.decoder.weight",
        "Qformer.cls.predictions.decoder.bias",
      ]))
    #expect(stage1.unused.isEmpty && stage1.missing.isEmpty)
  }

  @Test func missingPiecesAreNamedAsTheFileNamesThem() throws {
    let stage2 = try open("lavis_stage2.pth")
    let error = #expect(throws: CheckpointError.self) {
      try loadModel(from: stage2, keyMap: LAVIS.model, build: Attention.init)
    }
    let words = error?.description ?? ""
    for part in [
      "missing: visual_encoder.blocks.1.attn.qkv.weight", "missing: visual_encoder.blocks.1.attn.q_bias",
      "missing: visual_encoder.blocks.1.attn.v_bias", "unused: query_tokens", "looks like LAVIS' BLIP-2 with OPT",
    ] { #expect(words.contains(part), "\(words)") }
  }

  @Test(arguments: [
    (["llama_proj.weight", "llama_proj.bias"], "MiniGPT-4"),
    (["video_query_tokens", "video_Qformer.bert.x", "llama_proj.weight"], "Video-LLaMA (video"),
    (["audio_query_tokens", "audio_Qformer.bert.x"], "audio branch"),
    (["blocks.0.attn.q_bias", "patch_embed.proj.weight", "cls_token"], "bare EVA"),
    (["blocks.0.attn.qkv.weight", "patch_embed.proj.weight"], "bare vision transformer"),
    (["model.layers.0.self_attn.q_proj.weight", "model.layers.0.mlp.gate_proj.weight"], "Llama's names"),
    (["model.decoder.layers.0.self_attn.q_proj.weight", "model.decoder.layers.0.fc1.weight"], "OPT's names"),
    (["encoder.block.0.layer.0.SelfAttention.q.weight"], "T5's names"),
    (["bert.embeddings.word_embeddings.weight", "bert.encoder.layer.0.attention.self.query.weight"], "bare BERT"),
    (["base_model.model.layers.0.q_proj.lora_A.weight", "base_model.model.layers.0.q_proj.lora_B.weight"], "LoRA"),
  ]) func wrongFilesAreRecognised(names: [String], words: String) throws {
    try withTemporaryFolder { temporary in
      let url = temporary.appendingPathComponent("x.safetensors")
      try SafetensorsFile.write(names.map { ($0, .ones([1])) }, to: url)
      let checkpoint = try Checkpoint(contentsOf: url)
      #expect(checkpoint.apparentKind?.contains(words) == true, "\(String(describing: checkpoint.apparentKind))")
      let error = #expect(throws: CheckpointError.self) {
        try loadModel(from: checkpoint) { $0.parameter("query_tokens", [1], .zeros) }
      }
      #expect(error?.description.contains("the file looks like ") == true)
    }
  }

  @Test func filesOfOtherKinds() throws {
    for (file, words) in [
      ("lavis_stage1.pth", "stage 1"), ("lavis_stage2.pth", "with OPT"), ("lavis_instruct.pth", "InstructBLIP"),
      ("eva_vit_g.pth", "bare EVA"), ("stage2.safetensors", "Hugging Face's BLIP-2 (lang"),
      ("stage1.safetensors", "for matching"), ("instruct.safetensors", "Hugging Face's InstructBLIP"),
    ] { #expect(try open(file).apparentKind?.contains(words) == true, "\(file)") }
    #expect(try open("types.pth").apparentKind == nil)
  }

  @Test func alternativesAndReversal() {
    let table = LAVIS.model
    #expect(table("language_projection.weight") == "opt_proj.weight")
    #expect(LAVIS.table(writing: .llm)("language_model.lm_head.weight") == "llm_model.lm_head.weight")
    #expect(
      table("qformer.encoder.layer.10.crossattention.attention.key.bias")
        == "Qformer.bert.encoder.layer.10.crossattention.self.key.bias")
    #expect(table.inverted("Qformer.bert.embeddings.LayerNorm.bias") == "qformer.layernorm.bias")
    #expect(LAVIS.language("language_model.model.norm.weight") == "model.norm.weight")
    #expect(KeyMap([KeyMap.Rule("", "dinov2.")])("a.b") == "dinov2.a.b")
  }
}
