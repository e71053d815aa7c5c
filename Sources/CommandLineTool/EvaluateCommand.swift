import ArgumentParser
import Backbones
import Foundation
import Training

/// `qformer evaluate RECIPE.yaml`
struct EvaluateCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "evaluate", abstract: "Measure an adapter on the validation sets of a recipe, beside baselines.",
    discussion: """
      An image-text adapter: retrieval both ways with ITC and with ITM re-ranking, beside ridge regression from the same
      features. An image-language adapter: CIDEr-D and BLEU-4, beside the blind model and the nearest training picture,
      and, where the set has questions, the part answered rightly by kind, beside the blind model and chance. A video
      adapter: whichever of these it is for, on clips; one that hears also beside the deaf model, without any sound.

      EXAMPLES:
        qformer evaluate Recipes/photos-stage1.yaml --set paths.photos=flickr8k --model image-match
      """)

  @Argument(help: "The recipe, a YAML file.")
  var recipe: String

  @Option(name: .customLong("set"), help: "Change a value of the recipe: key.path=value. May be repeated.")
  var settings: [String] = []

  @Option(help: "Name or folder of the adapter. Default: what the recipe's objective trains.")
  var model: String?

  @Option(help: "Use this split of every validation set.")
  var split: String?

  @Option(help: "Beams of captions. Default: what the adapter asks for, else 1.")
  var beams: Int?

  @OptionGroup var common: CommonOptions

  func run() throws {
    try common.apply()
    let recipe = try Recipe(contentsOf: URL(fileURLWithPath: recipe), settings: settings)
    let model = try model ?? defaultModel(recipe)
    var options = TextOptions.parseOrDefault().options(seed: common.seed)
    options.beams = beams
    let evaluation = try AdapterEvaluation.run(
      recipe, model: model, split: split, showsProgress: common.showsProgress, options: options)
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
    if common.json || isatty(1) == 0 {
      Output.line(String(decoding: try encoder.encode(evaluation), as: UTF8.self))
    } else {
      for result in evaluation.results {
        Output.line("\(result.set) (\(result.images) \(recipe.objective.readsVideo ? "clips" : "pictures"))")
        if let retrieval = result.retrieval {
          Output.line("  \(retrieval.summary)")
          if retrieval.reranked == nil, recipe.imageText.rerank > 0 {
            Output.line("  ITM re-ranks nothing: the adapter has no matching head")
          }
        }
        if let ridge = result.ridge { Output.line("  ridge \(ridge.summary)") }
        if let canonical = result.canonical { Output.line("  canonical correlations \(canonical.summary)") }
        if let captions = result.captions { Output.line("  \(captions.summary)") }
        for line in result.answers?.lines ?? [] { Output.line("  \(line)") }
      }
    }
  }

  private func defaultModel(_ recipe: Recipe) throws -> String {
    switch recipe.objective {
    case .imageText: return "image-match"
    case .imageWords, .imageLanguage: return "image-caption"
    case .videoText, .videoWords, .videoLanguage:
      throw ValidationError("give the adapter with --model: none of videos comes along")
    }
  }
}

extension TextOptions {
  /// The defaults.
  static func parseOrDefault() -> TextOptions { (try? TextOptions.parse([])) ?? TextOptions() }
}
