import ArgumentParser
import Checkpoints
import Foundation
import Pipelines
import QFormer

/// `qformer inspect MODEL`
struct InspectCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "inspect", abstract: "Show an adapter: configuration, tree, parameters, tokens and cost.",
    discussion: """
      EXAMPLES:
        qformer inspect image-caption
        qformer inspect runs/stamps-stage1/adapter --json
      """)

  @Argument(help: "Name or folder of the adapter.")
  var model = "image-caption"

  @OptionGroup var common: CommonOptions

  func run() throws {
    try common.apply()
    let store = ModelStore()
    let folder = try store.adapter(model)
    let configuration = try AdapterConfiguration(folder: folder)
    let checkpoint = try Checkpoint(contentsOf: folder)
    guard let qformer = configuration.imageText?.qformer ?? configuration.imageLanguage?.qformer else {
      throw PipelineError.badConfiguration(file: folder.path, reason: "lacks the sizes of its Q-Former")
    }
    func count(_ checkpoint: Checkpoint) -> Int {
      checkpoint.names.reduce(0) { $0 + (checkpoint.shape($1) ?? []).reduce(1, *) }
    }
    let frozenNames = [configuration.encoder.model, configuration.text?.model, configuration.language?.model]
    let frozen = frozenNames.compactMap { $0 }.map { name in
      (name: name, count: (try? store.frozenModel(name)).flatMap { try? Checkpoint(contentsOf: $0) }.map(count))
    }
    let side = configuration.encoder.imageSize / 14
    let imageTokens = 1 + side * side
    let cost =
      qformer.multiplyAccumulates(imageTokens: imageTokens)
      + (configuration.imageLanguage.map { qformer.queries * qformer.hiddenSize * $0.languageSize } ?? 0)
    if common.json {
      let data = try JSONEncoder().encode(configuration)
      var line = try JSONSerialization.jsonObject(with: data) as? [String: Any] ?? [:]
      line["parameters"] = ["adapter": count(checkpoint)]
      line["frozen"] = Dictionary(frozen.compactMap { item in item.count.map { (item.name, $0) } }) { first, _ in first
      }
      line["tokens"] = ["read": imageTokens, "written": qformer.queries]
      line["multiply_accumulates"] = cost
      line["tensors"] = Dictionary(uniqueKeysWithValues: checkpoint.names.map { ($0, checkpoint.shape($0) ?? []) })
      Output.json(line)
      return
    }
    Output.line("\(folder.path)\n\(configuration.kind.rawValue)\n")
    Output.line("tokens         \(imageTokens) image tokens in, \(qformer.queries) out")
    Output.line("cost           \(String(format: "%.2f", Double(cost) / 1e9)) GMAC an image (adapter alone)")
    Output.line("adapter        \(Self.millions(count(checkpoint))) parameters, trained")
    for item in frozen {
      Output.line("frozen         \(item.count.map(Self.millions) ?? "not fetched"): \(item.name)")
    }
    Output.line("")
    for (path, shapes) in Self.tree(checkpoint) { Output.line("\(path)  \(shapes)") }
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
