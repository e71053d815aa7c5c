import Backbones
import Checkpoints
import Foundation
import Pipelines
import TestSupport
import Testing
import Torch

/// LAVIS' files in their published sizes, as holes in files: names and shapes of 4 GB without a byte on the disk.
@Suite("Sizes of LAVIS' published files")
struct LAVISSizesTests {
  /// A safetensors file of zeros that takes no room.
  private func write(_ tensors: [(name: String, shape: [Int])], to url: URL) throws {
    var (header, offset) = ([String: Any](), 0)
    for (name, shape) in tensors {
      let end = offset + 4 * shape.reduce(1, *)
      header[name] = ["dtype": "F32", "shape": shape, "data_offsets": [offset, end]]
      offset = end
    }
    let json = try JSONSerialization.data(withJSONObject: header)
    let start = withUnsafeBytes(of: UInt64(json.count).littleEndian) { Data($0) } + json
    try start.write(to: url)
    let file = try FileHandle(forUpdating: url)
    try file.truncate(atOffset: UInt64(start.count + offset))
    try file.close()
  }

  /// Names and shapes of a published model, with Hugging Face's names.
  private func shapes(_ name: String) throws -> [(name: String, shape: [Int])] {
    let file = fixtures.appendingPathComponent("published/golden/\(name).config.json")
    return try JSONDecoder().decode(BLIPConfiguration.self, from: Data(contentsOf: file)).parameterShapes()
  }

  /// The same in LAVIS' names: biases of queries and values apart, none for keys.
  private func lavis(
    _ shapes: [(name: String, shape: [Int])], _ language: LAVIS.Language
  ) -> [(name: String, shape: [Int])] {
    let table = LAVIS.table(writing: language)
    return shapes.flatMap { name, shape -> [(name: String, shape: [Int])] in
      let key = table(name)
      guard key.hasSuffix("attn.qkv.bias") else { return [(key, shape)] }
      let stem = key.dropLast("qkv.bias".count)
      return ["q_bias", "v_bias"].map { (stem + $0, [shape[0] / 3]) }
    }
  }

  @Test("Stage 2 and EVA's tower of forty blocks give the configuration of blip2-opt-2.7b but for LAVIS' own epsilon")
  func stage2() throws {
    try withTemporaryFolder { folder in
      let all = lavis(try shapes("blip2-opt-2.7b"), .opt)
      let frozen = all.filter { $0.name.hasPrefix("visual_encoder.") }
      let stage2 = folder.appendingPathComponent("blip2_pretrained_opt2.7b.safetensors")
      try write(all.filter { !$0.name.hasPrefix("visual_encoder.") && !$0.name.hasPrefix("opt_model.") }, to: stage2)
      let eva = folder.appendingPathComponent("eva_vit_g.safetensors")
      let bare = frozen.map { (name: String($0.name.dropFirst("visual_encoder.".count)), shape: $0.shape) }
      let last = bare.filter { $0.name.hasPrefix("blocks.38.") }.map {
        (name: $0.name.replacing("blocks.38.", with: "blocks.39."), shape: $0.shape)
      }
      try write(bare + last + [("head.weight", [1000, 1408])], to: eva)
      let opt = folder.appendingPathComponent("opt")
      try FileManager.default.createDirectory(at: opt, withIntermediateDirectories: true)
      let prefix = "opt_model."
      try write(
        all.filter { $0.name.hasPrefix(prefix) }.map { (String($0.name.dropFirst(prefix.count)), $0.shape) },
        to: opt.appendingPathComponent("model.safetensors"))
      let golden = fixtures.appendingPathComponent("published/golden/blip2-opt-2.7b.config.json")
      let config = try #require(
        try JSONSerialization.jsonObject(with: Data(contentsOf: golden)) as? [String: Any])
      try JSONSerialization.data(withJSONObject: config["text_config"] ?? [:])
        .write(to: opt.appendingPathComponent("config.json"))

      let model = try ModelConversion(stage2, bases: [eva, opt], allowMissing: ["tokenizer"])
      #expect(model.loadReport.isStrict && model.loadReport.initialised == ["tokenizer"])
      var expected = try JSONDecoder().decode(BLIPConfiguration.self, from: Data(contentsOf: golden))
      expected.vision.outputNormEps = 1e-5
      #expect(model.configuration == expected)
      // Without the tower, its keys are named: 39 blocks and no more.
      let error = #expect(throws: CheckpointError.self) {
        try ModelConversion(stage2, bases: [opt], allowMissing: ["tokenizer"])
      }
      guard case .mismatch(let report) = error else {
        Issue.record("\(String(describing: error))")
        return
      }
      #expect(report.missing.count == frozen.count)
      #expect(report.missing.contains("visual_encoder.blocks.38.attn.q_bias"))
    }
  }

  @Test("Stage 1 in one file gives the configuration of blip2-itm-vit-g")
  func stage1() throws {
    try withTemporaryFolder { folder in
      let file = folder.appendingPathComponent("blip2_pretrained.safetensors")
      let head: [(name: String, shape: [Int])] = [
        ("temp", []), ("Qformer.cls.predictions.bias", [30523]),
        ("Qformer.cls.predictions.transform.dense.weight", [768, 768]),
        ("Qformer.cls.predictions.transform.dense.bias", [768]),
        ("Qformer.cls.predictions.transform.LayerNorm.weight", [768]),
        ("Qformer.cls.predictions.transform.LayerNorm.bias", [768]),
      ]
      try write(lavis(try shapes("blip2-itm-vit-g"), .opt) + head, to: file)
      let model = try ModelConversion(file, bases: [fixtures.appendingPathComponent("tokenizers/bert")])
      let golden = fixtures.appendingPathComponent("published/golden/blip2-itm-vit-g.config.json")
      var expected = try JSONDecoder().decode(BLIPConfiguration.self, from: Data(contentsOf: golden))
      expected.vision.outputNormEps = 1e-5
      #expect(model.configuration == expected && model.loadReport.initialised.isEmpty)
    }
  }
}
