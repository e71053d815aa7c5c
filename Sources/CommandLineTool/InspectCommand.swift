import ArgumentParser
import Backbones
import Checkpoints
import Foundation
import Pipelines
import QFormer

/// `qformer inspect MODEL`
struct InspectCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "inspect", abstract: "Show an adapter: configuration, tree, parameters, tokens and cost.",
    discussion: """
      Of a video adapter: its cost and tokens at the number of frames that it was trained on, beside those of the other
      families at the same sizes.

      EXAMPLES:
        qformer inspect image-caption
        qformer inspect runs/stamps-stage1/adapter --json
      """)

  @Argument(help: "Name or folder of the adapter.")
  var model = "image-caption"

  @OptionGroup var common: CommonOptions

  func run() throws {
    try common.apply()
    let folder = try ModelStore().adapter(model)
    let report = try Report(folder)
    if common.json {
      Output.json(try report.json())
      return
    }
    Output.line("\(folder.path)\n\(report.kind)\n")
    var (read, unit) =
      report.video.map { ("\($0.frames) frames of \(report.imageTokens) tokens", "a clip") }
      ?? ("\(report.imageTokens) image tokens", "an image")
    if let audio = report.audio, report.imageTokens == 0 {
      (read, unit) = ("\(audio.pieces) pieces of sound", "a sound")
    }
    Output.line("tokens         \(read) in, \(report.tokens) out")
    if let audio = report.audio, report.imageTokens > 0 {
      Output.line("               \(audio.pieces) pieces of sound in, \(audio.tokens) out, before the others")
    }
    Output.line("cost           \(String(format: "%.2f", Double(report.cost) / 1e9)) GMAC \(unit) (adapter alone)")
    Output.line("adapter        \(Self.millions(report.adapter)) parameters, trained")
    for item in report.frozen {
      Output.line("frozen         \(item.count.map(Self.millions) ?? "not fetched"): \(item.name)")
    }
    Output.line("")
    if let audio = report.audio { Output.line((audio.lines + [""]).joined(separator: "\n")) }
    if let video = report.video { Output.line((video.lines + [""]).joined(separator: "\n")) }
    for (path, shapes) in Self.tree(report.checkpoint) { Output.line("\(path)  \(shapes)") }
  }

  /// What there is to say about a model folder.
  private struct Report {
    let kind: String
    /// N, of an image or a frame.
    let imageTokens: Int
    /// Tokens that are written for an image or a clip.
    let tokens: Int
    /// Multiply–accumulates of the adapter for an image or a clip.
    let cost: Int
    /// Of a video adapter.
    var video: VideoInspection?
    /// Of an adapter that hears.
    var audio: AudioInspection?
    let checkpoint: Checkpoint
    let adapter: Int
    let frozen: [(name: String, count: Int?)]
    private let configuration: Data

    init(_ folder: URL) throws {
      let contents = try ModelFolder(folder)
      let checkpoint = try Checkpoint(contentsOf: folder)
      self.checkpoint = checkpoint
      kind = contents.name
      configuration = try Data(contentsOf: folder.appendingPathComponent("config.json"))
      let qformer: QFormerConfiguration?
      let languageSize: Int
      switch contents {
      case .adapter(let configuration):
        qformer = configuration.imageText?.qformer ?? configuration.imageLanguage?.qformer
        languageSize = configuration.imageLanguage?.languageSize ?? 0
        adapter = Self.count(checkpoint)
        let store = ModelStore()
        let image = configuration.kind == .audioLanguage ? nil : configuration.encoder
        let audio = configuration.audio?.encoder.model
        let names = [image?.model, audio, configuration.text?.model, configuration.language?.model]
        frozen = names.compactMap { $0 }.map { name in
          let folder = try? store.frozenModel(name)
          return (name, folder.flatMap { try? Checkpoint(contentsOf: $0) }.map { Self.count($0) })
        }
        let patch = (try? ImageEncoder.patchSize(configuration.encoder, store: store)) ?? 14
        let side = configuration.encoder.imageSize / patch
        imageTokens = image == nil ? 0 : 1 + side * side
        video = VideoInspection(configuration, imageTokens: imageTokens)
        self.audio = configuration.audio.map(AudioInspection.init)
      case .blip(let configuration):
        qformer = configuration.qformer
        languageSize = configuration.language?.hiddenSize ?? 0
        let towers = ["vision_model", "language_model"]
        frozen = towers.map { tower in
          // The tower's last norm is trained with the adapter.
          (tower, Self.count(checkpoint) { $0.hasPrefix(tower + ".") && !$0.contains("post_layernorm") })
        }.filter { $0.count != 0 }
        adapter = Self.count(checkpoint) - frozen.reduce(0) { $0 + ($1.count ?? 0) }
        let side = configuration.vision.imageSize / configuration.vision.patchSize
        imageTokens = 1 + side * side
      }
      if let video {
        (tokens, cost) = (video.tokens, video.cost + (audio?.cost ?? 0))
      } else if let audio {
        (tokens, cost) = (audio.tokens, audio.cost)
      } else if let qformer {
        tokens = qformer.queries
        cost =
          qformer.multiplyAccumulates(imageTokens: imageTokens) + qformer.queries * qformer.hiddenSize * languageSize
      } else {
        throw PipelineError.badConfiguration(file: folder.path, reason: "lacks the sizes of its Q-Former")
      }
    }

    private static func count(_ checkpoint: Checkpoint, where isCounted: (String) -> Bool = { _ in true }) -> Int {
      checkpoint.names.filter(isCounted).reduce(0) { $0 + (checkpoint.shape($1) ?? []).reduce(1, *) }
    }

    func json() throws -> [String: Any] {
      var line = try JSONSerialization.jsonObject(with: configuration) as? [String: Any] ?? [:]
      line["parameters"] = ["adapter": adapter]
      let counts = frozen.compactMap { item in item.count.map { (item.name, $0) } }
      line["frozen"] = Dictionary(counts) { first, _ in first }
      line["tokens"] = ["read": imageTokens * (video?.frames ?? 1), "written": tokens]
      if let audio { line["audio_tokens"] = ["read": audio.pieces, "written": audio.tokens] }
      line["video"] = video?.json
      line["multiply_accumulates"] = cost
      line["tensors"] = Dictionary(
        uniqueKeysWithValues: checkpoint.names.map { ($0, checkpoint.shape($0) ?? []) })
      return line
    }
  }

  private static func millions(_ count: Int) -> String { String(format: "%.2f M", Double(count) / 1e6) }

  /// Names and shapes, equal layers drawn together.
  private static func tree(_ checkpoint: Checkpoint) -> [(String, String)] {
    var order: [String] = []
    var layers: [String: [String]] = [:]
    for name in checkpoint.names.sorted(by: { $0.compare($1, options: .numeric) == .orderedAscending }) {
      let parts = name.split(separator: ".").map(String.init)
      let number = parts.first { Int($0) != nil }
      let key = parts.map { Int($0) == nil ? $0 : "{i}" }.joined(separator: ".") + "\t\(checkpoint.shape(name) ?? [])"
      if layers[key] == nil { order.append(key) }
      layers[key, default: []].append(number ?? "")
    }
    return order.map { key in
      let parts = key.split(separator: "\t").map(String.init)
      let numbers = layers[key, default: []].filter { !$0.isEmpty }
      return (parts[0], parts[1] + (numbers.isEmpty ? "" : "  i = \(numbers.joined(separator: ", "))"))
    }
  }
}
