import Checkpoints
import Foundation
import Pipelines
import QFormer
import TestSupport
import Testing
import Torch
import TorchNN

@Suite("Folders of adapters")
struct AdapterTests {
  private func configuration(_ json: String) throws -> AdapterConfiguration {
    try withTemporaryFolder { folder in
      try Data(json.utf8).write(to: folder.appendingPathComponent("config.json"))
      return try AdapterConfiguration(folder: folder)
    }
  }

  /// The description of what reading a `config.json` throws.
  private func failure(_ json: String) -> String {
    do {
      _ = try configuration(json)
      return "nothing thrown"
    } catch { return "\(error)" }
  }

  @Test("A configuration comes back as it was written")
  func roundTrip() throws {
    var encoder = AdapterConfiguration.Encoder()
    (encoder.model, encoder.block, encoder.imageSize) = ("some-vit", nil, 518)
    for written in [
      AdapterConfiguration(imageText: TinyModels.imageText, encoder: TinyModels.encoder, text: TinyModels.text),
      AdapterConfiguration(imageLanguage: TinyModels.imageLanguage, encoder: encoder),
    ] {
      try withTemporaryFolder { folder in
        try written.write(to: folder)
        #expect(try AdapterConfiguration(folder: folder) == written)
      }
    }
  }

  @Test("Names of keys are part of the format")
  func names() throws {
    try withTemporaryFolder { folder in
      try AdapterConfiguration(imageText: TinyModels.imageText, encoder: TinyModels.encoder).write(to: folder)
      let data = try Data(contentsOf: folder.appendingPathComponent("config.json"))
      let json = try #require(try JSONSerialization.jsonObject(with: data) as? [String: Any])
      #expect(Set(json.keys) == ["model_type", "encoder", "text", "image_text_config"])
      #expect(json["model_type"] as? String == "qformer_image_text")
      #expect(Set((json["encoder"] as? [String: Any] ?? [:]).keys) == ["model", "block", "image_size"])
      #expect(Set((json["text"] as? [String: Any] ?? [:]).keys) == ["model", "max_length"])
    }
  }

  @Test("What is wrong is named, with the file")
  func broken() {
    #expect(failure("{").contains("config.json: expected a JSON object"))
    #expect(failure("[1]").contains("expected a JSON object"))
    #expect(failure(#"{"model_type": "blip-2"}"#).contains("expected model_type qformer_image_text or"))
    #expect(failure(#"{"model_type": "blip-2"}"#).contains("found model_type blip-2"))
    #expect(failure("{}").contains("found none"))
    #expect(failure(#"{"model_type": "qformer_image_text"}"#).contains("encoder is missing"))
    let text = #"{"model_type": "qformer_image_text", "encoder": {"model": 3}}"#
    #expect(failure(text).contains("encoder.model: expected String"))
    #expect(throws: PipelineError.self) { try AdapterConfiguration(folder: URL(fileURLWithPath: "/nowhere")) }
  }

  @Test("Weights are written in float16, beside the configuration, and load again")
  func weights() throws {
    try withTemporaryFolder { folder in
      let parameters = Parameters()
      _ = try ImageLanguageQFormer(
        TinyModels.imageLanguage, ParameterScope(FreshParameters(seed: 9), parameters: parameters))
      parameters.setRequiresGrad(true)
      let adapter = folder.appendingPathComponent("new/adapter")
      let configuration = AdapterConfiguration(imageLanguage: TinyModels.imageLanguage)
      try AdapterFolder.write(configuration, parameters.all, to: adapter)
      #expect(try AdapterConfiguration(folder: adapter) == configuration)
      let checkpoint = try Checkpoint(contentsOf: adapter)
      #expect(Set(checkpoint.names) == Set(parameters.names))
      for (name, tensor) in parameters.all {
        let stored = try checkpoint.tensor(name)
        #expect(stored.dtype == .float16)
        #expect(stored.to(.float32).values(as: Float.self) == tensor.detached().to(.float16).to(.float32).values())
      }
      let names = try FileManager.default.contentsOfDirectory(atPath: adapter.path)
      #expect(names.sorted() == ["config.json", "model.safetensors"])
    }
  }

  @Test("A folder that cannot be made is an error that names it")
  func unwritable() throws {
    try withTemporaryFolder { folder in
      let file = folder.appendingPathComponent("file")
      try Data().write(to: file)
      let configuration = AdapterConfiguration(imageLanguage: TinyModels.imageLanguage)
      #expect {
        try AdapterFolder.write(configuration, [], to: file.appendingPathComponent("adapter"))
      } throws: { error in
        guard case .cannotWrite(let name, _) = error as? CheckpointError else { return false }
        return name.hasPrefix(file.path)
      }
    }
  }
}
