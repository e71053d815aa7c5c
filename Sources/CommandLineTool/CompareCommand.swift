import ArgumentParser
import Foundation
import Pipelines
import QFormer
import Torch
import Training

/// `qformer compare RECIPE.yaml`
struct CompareCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "compare", abstract: "Train and measure video connectors beside each other.",
    discussion: """
      Every connector is trained with the same budget on the same features, with each of several seeds, and asked the
      validation set's questions. The table gives tokens, parameters, multiply–accumulates, latency and peak memory of one
      clip, training time, and the part answered rightly by kind of question, mean ± standard deviation over seeds, beside
      chance and the same model with another clip's frames. The output folder gets comparison.json and comparison.html.

      Interrupt once to stop with a checkpoint; the same command goes on. Seeds and connectors can be added later.

      --cost measures cost alone, from random features, with no data and no training: of a recipe's connectors, or at the
      sizes of --scale.

      CONNECTORS:
        \(ComparedConnector.allCases.map(\.rawValue).joined(separator: ", "))

      EXAMPLES:
        qformer compare Recipes/compare-moving-stamps.yaml
        qformer compare Recipes/compare-moving-stamps.yaml --connectors mean-pooling,spatio-temporal --seeds 1,2,3,4,5
        qformer compare --cost --scale blip2 --connectors cascaded,joint,spatio-temporal --frames 8,16 --json
      """)

  /// Sizes to measure at without a recipe.
  enum Scale: String, ExpressibleByArgument, CaseIterable {
    case small, blip2

    var sizes: ConnectorSizes { self == .small ? .small : .blip2 }
  }

  @Argument(help: "The recipe, a YAML file with objective video-language; optional with --cost --scale.")
  var recipe: String?

  @Option(name: .customLong("set"), help: "Change a value of the recipe: key.path=value. May be repeated.")
  var settings: [String] = []

  @Option(help: "The folder of results. Default: runs/ and the recipe's name.")
  var output: String?

  @Option(help: "What is compared: names with commas between them. Default: the recipe's.")
  var connectors: ConnectorList?

  @Option(
    help: "Seeds with commas between them. Default: the recipe's, at least three of them unless it says otherwise.")
  var seeds: SeedList?

  @Flag(help: "Measure tokens, cost, latency and peak memory alone.")
  var cost = false

  @Option(help: "With --cost and without a recipe, the sizes: small or blip2.")
  var scale: Scale?

  @Option(help: "With --cost, numbers of frames with commas between them. Default: the recipe's, or 16.")
  var frames: FrameList?

  @OptionGroup var common: CommonOptions

  func validate() throws {
    if !cost, let given = scale.map({ "--scale \($0.rawValue)" }) ?? frames.map({ _ in "--frames" }) {
      throw ValidationError("\(given) is for --cost; a recipe says it otherwise")
    }
    guard recipe == nil else {
      if let scale { throw ValidationError("--scale \(scale.rawValue) and a recipe exclude each other") }
      return
    }
    guard cost, scale != nil else { throw ValidationError("give a recipe, or --cost with --scale") }
    guard settings.isEmpty else { throw ValidationError("--set changes a recipe, and there is none") }
  }

  func run() throws {
    try common.apply()
    if cost { return try measure() }
    guard var recipe = try readRecipe() else { return }
    var compare = recipe.compare ?? Recipe.Compare()
    if let connectors { compare.connectors = connectors.values }
    if let seeds { compare.seeds = seeds.values }
    recipe.compare = compare
    let name = self.recipe.map { URL(fileURLWithPath: $0).deletingPathExtension().lastPathComponent } ?? ""
    TorchRuntime.tuneAllocator()
    Interruption.listen()
    let comparison = try ConnectorComparison.run(
      recipe, output: URL(fileURLWithPath: output ?? "runs/\(name)"), showsProgress: common.showsProgress,
      cost: { try child($0, frames: nil) }, shouldStop: { Interruption.isWanted })
    guard let comparison else {
      FileHandle.standardError.write(Data("stopped; the same command goes on\n".utf8))
      return
    }
    if common.json {
      Output.line(try Self.line(comparison))
    } else {
      for line in comparison.lines { Output.line(line) }
    }
  }

  private func readRecipe() throws -> Recipe? {
    try recipe.map { try Recipe(contentsOf: URL(fileURLWithPath: $0), settings: settings) }
  }

  private static func line(_ value: some Encodable) throws -> String {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
    return String(decoding: try encoder.encode(value), as: UTF8.self)
  }

  // MARK: Cost

  /// A measurement as a line of JSON.
  private struct Measurement: Codable {
    let connector: ComparedConnector
    let cost: ConnectorCost
  }

  /// Measures one connector at one number of frames in this process, and several in a process of its own each.
  private func measure() throws {
    let recipe = try readRecipe()
    let names = connectors?.values ?? recipe?.compare?.connectors ?? ComparedConnector.usual
    let counts = frames?.values ?? [recipe?.video.frames ?? ConnectorSizes().frames]
    let isAlone = names.count * counts.count == 1
    if !common.json { Output.line(Self.cells(nil)) }
    for name in names {
      for count in counts {
        let found = isAlone ? try measure(name, recipe, frames: count) : try child(name, frames: count)
        Output.line(
          common.json ? try Self.line(Measurement(connector: name, cost: found)) : Self.cells((name, found)))
      }
    }
  }

  private func measure(_ connector: ComparedConnector, _ recipe: Recipe?, frames: Int) throws -> ConnectorCost {
    guard var recipe else {
      var sizes = (scale ?? .small).sizes
      sizes.frames = frames
      sizes.time.maxFrames = max(sizes.time.maxFrames, frames)
      return try ConnectorCost.measure(connector, sizes)
    }
    recipe.video.frames = frames
    return try ConnectorCost.measure(connector, recipe)
  }

  /// Measures a connector in a process that has done nothing else: its peak memory is then the connector's own.
  private func child(_ connector: ComparedConnector, frames: Int?) throws -> ConnectorCost {
    guard let program = Bundle.main.executableURL else {
      throw CommandError.unavailable("the path of this program, which measures each connector in a process of its own")
    }
    let process = Process()
    process.executableURL = program
    process.arguments = ["compare"] + (recipe.map { [$0] } ?? [])
    process.arguments? += settings.flatMap { ["--set", $0] } + (scale.map { ["--scale", $0.rawValue] } ?? [])
    process.arguments? += ["--cost", "--json", "--connectors", connector.rawValue]
    process.arguments? += ["--threads", "\(TorchRuntime.threads)"] + (frames.map { ["--frames", "\($0)"] } ?? [])
    let pipe = Pipe()
    process.standardOutput = pipe
    try process.run()
    let data = pipe.fileHandleForReading.readDataToEndOfFile()
    process.waitUntilExit()
    guard process.terminationStatus == 0, let found = try? JSONDecoder().decode(Measurement.self, from: data) else {
      // The other process has said why.
      throw ExitCode(process.terminationStatus == 0 ? Failure.internal.rawValue : process.terminationStatus)
    }
    return found.cost
  }

  private static func cells(_ row: (connector: ComparedConnector, cost: ConnectorCost)?) -> String {
    let heads = ["connector", "frames", "tokens", "M parameters", "GMAC", "ms", "peak MB"]
    let cells =
      row.map { connector, cost in
        [
          connector.rawValue, "\(cost.frames)", "\(cost.tokens)", String(format: "%.2f", Double(cost.parameters) / 1e6),
          String(format: "%.3f", Double(cost.multiplyAccumulates) / 1e9), String(format: "%.1f", cost.milliseconds),
          cost.peakBytes.map { String(format: "%.1f", Double($0) / 1e6) } ?? "–",
        ]
      } ?? heads
    return zip(cells, heads).enumerated().map { number, pair in
      let width = number == 0 ? 30 : max(pair.1.count, 8)
      let space = String(repeating: " ", count: max(0, width - pair.0.count))
      return number == 0 ? pair.0 + space : space + pair.0
    }.joined(separator: "  ")
  }
}

/// Names of connectors with commas between them.
struct ConnectorList: ExpressibleByArgument {
  let values: [ComparedConnector]

  init?(argument: String) {
    let names = argument.split(separator: ",", omittingEmptySubsequences: false)
    values = names.compactMap { ComparedConnector(rawValue: $0.trimmingCharacters(in: .whitespaces)) }
    guard values.count == names.count, Set(values).count == names.count else { return nil }
  }

  static var allValueStrings: [String] { ComparedConnector.allCases.map(\.rawValue) }
  static var defaultCompletionKind: CompletionKind { .list(allValueStrings) }
}

/// Seeds with commas between them.
struct SeedList: ExpressibleByArgument {
  let values: [UInt64]

  init?(argument: String) {
    let parts = argument.split(separator: ",", omittingEmptySubsequences: false)
    values = parts.compactMap { UInt64($0.trimmingCharacters(in: .whitespaces)) }
    guard values.count == parts.count, Set(values).count == parts.count else { return nil }
  }
}

/// Numbers of frames with commas between them.
struct FrameList: ExpressibleByArgument {
  let values: [Int]

  init?(argument: String) {
    let parts = argument.split(separator: ",", omittingEmptySubsequences: false)
    values = parts.compactMap { Int($0.trimmingCharacters(in: .whitespaces)) }.filter { (1...4096).contains($0) }
    guard values.count == parts.count else { return nil }
  }
}
