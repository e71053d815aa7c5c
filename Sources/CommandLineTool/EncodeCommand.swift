import ArgumentParser
import Checkpoints
import Foundation
import Media
import Pipelines
import QFormer
import Torch

/// `qformer encode INPUT… --output F.safetensors`
struct EncodeCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "encode", abstract: "Write features and tokens of pictures to a safetensors file.",
    discussion: """
      Tensors: image_embeds [B, N, Dv] (what the Q-Former reads), query_output [B, M, D], and, as far as the model has
      them, language_tokens [B, M, d_llm] and image_features [B, M, E] of length 1.

      EXAMPLES:
        qformer encode photo.jpg --output tokens.safetensors
        qformer encode --features embeds.safetensors --output tokens.safetensors
      """)

  @Argument(help: "Pictures; - reads a list of paths from standard input.")
  var inputs: [String] = []

  @Option(help: "The file to write.")
  var output: String

  @Option(help: "A safetensors file with image_embeds [B, N, Dv] in place of pictures.")
  var features: String?

  @Option(help: "Text that the Q-Former reads beside the picture.")
  var instruction: String?

  @Option(help: "Name or folder of the model.")
  var model = "image-caption"

  @OptionGroup var missing: MissingOptions
  @OptionGroup var common: CommonOptions

  func validate() throws {
    if features != nil && !inputs.isEmpty { throw ValidationError("give pictures or --features, not both") }
    if features == nil && inputs.isEmpty { throw ValidationError("expected at least one input, or --features") }
  }

  func run() throws {
    try common.apply()
    let folder = try ModelStore().adapter(model)
    let adapter = try Adapter(folder, allowMissing: missing.allowMissing)
    missing.warn(adapter.report, common)
    if instruction != nil, !adapter.readsInstructions {
      throw QFormerError.missingPart("instruction input: its Q-Former reads no text beside it")
    }
    var parts: [[(name: String, tensor: Tensor)]] = []
    var inputs: Inputs?
    if let features {
      let given = try Checkpoint(contentsOf: URL(fileURLWithPath: features)).tensor("image_embeds")
      do {
        parts = [try adapter.encode(embeds: given, instruction: instruction)]
      } catch let error as QFormerError {
        throw PipelineError.badInput("\(features): \(error)")
      }
    } else {
      var list = try Inputs(self.inputs)
      try list.forEach(batch: 8) { parts.append(try adapter.encode($0.map(\.image), instruction: instruction)) }
      inputs = list
    }
    if let first = parts.first {
      let tensors = try withError {
        first.indices.map { index in
          (name: first[index].name, tensor: Tensor.cat(parts.map { $0[index].tensor }, 0))
        }
      }
      try SafetensorsFile.write(tensors, to: URL(fileURLWithPath: output))
      for (name, tensor) in tensors {
        if common.json {
          Output.json(["name": name, "shape": tensor.shape])
        } else {
          Output.line("\(name)\t\(tensor.shape)")
        }
      }
    }
    try inputs?.finish()
  }

  /// Either kind of adapter.
  private enum Adapter {
    case text(ImageTextPipeline)
    case language(ImageLanguagePipeline)

    init(_ folder: URL, allowMissing: [String]) throws {
      self =
        try ModelFolder(folder).comparesTexts
        ? .text(try ImageTextPipeline(folder.path, allowMissing: allowMissing))
        : .language(try ImageLanguagePipeline(folder.path, allowMissing: allowMissing))
    }

    /// What became of the keys of the model's file.
    var report: LoadReport {
      switch self {
      case .text(let pipeline): pipeline.report
      case .language(let pipeline): pipeline.report
      }
    }

    /// Whether the Q-Former reads text beside the picture.
    var readsInstructions: Bool {
      switch self {
      case .text: false
      case .language(let pipeline): pipeline.instructions != nil
      }
    }

    func encode(_ images: [Image], instruction: String?) throws -> [(name: String, tensor: Tensor)] {
      switch self {
      case .text(let pipeline):
        let features = try pipeline.encoder.features(images)
        return try encode(
          embeds: withError { withNoGrad { pipeline.adapter.imageEmbeds(features) } }, instruction: instruction)
      case .language(let pipeline):
        let features = try pipeline.encoder.features(images)
        return try encode(
          embeds: withError { withNoGrad { pipeline.adapter.imageEmbeds(features) } }, instruction: instruction)
      }
    }

    func encode(embeds: Tensor, instruction: String?) throws -> [(name: String, tensor: Tensor)] {
      try withError {
        try withNoGrad {
          let embeds = embeds.to(.float32)
          switch self {
          case .text(let pipeline):
            let qformer = pipeline.adapter.qformer
            let hidden = try qformer.readImage(qformer.imageKeyValues(embeds)).hidden
            return [
              ("image_embeds", embeds), ("query_output", hidden),
              ("image_features", pipeline.adapter.imageFeatures(hidden)),
            ]
          case .language(let pipeline):
            let rows = embeds.rank == 3 ? embeds.size(0) : 0
            try pipeline.requireWords([instruction])
            let text = pipeline.instruction(Array(repeating: instruction, count: rows), count: rows)
            let hidden = try pipeline.adapter.readEmbeds(embeds, text: text).hidden
            return [
              ("image_embeds", embeds), ("query_output", hidden),
              ("language_tokens", pipeline.adapter.languageTokens(hidden)),
            ]
          }
        }
      }
    }
  }
}
