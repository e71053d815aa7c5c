import ArgumentParser
import Foundation
import Pipelines
import Torch
import Training

/// `qformer train RECIPE.yaml`
struct TrainCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "train", abstract: "Train an adapter as a recipe says.",
    discussion: """
      The run folder gets config.yaml, metrics.jsonl, checkpoints/ and, at the end, adapter/. Interrupt once to stop with a
      checkpoint, twice to stop at once.

      EXAMPLES:
        qformer train Recipes/stamps-stage1.yaml
        qformer train Recipes/photos-stage1.yaml --set paths.photos=flickr8k
        qformer train Recipes/photos-stage1.yaml --set paths.photos=flickr8k --resume
      """)

  @Argument(help: "The recipe, a YAML file.")
  var recipe: String

  @Option(name: .customLong("set"), help: "Change a value of the recipe: key.path=value. May be repeated.")
  var settings: [String] = []

  @Option(help: "The run folder. Default: runs/ and the recipe's name.")
  var output: String?

  @Flag(help: "Go on from the newest checkpoint in the run folder.")
  var resume = false

  @OptionGroup var common: CommonOptions

  func run() throws {
    try common.apply()
    let file = URL(fileURLWithPath: recipe)
    let recipe = try Recipe(contentsOf: file, settings: settings)
    let output = URL(fileURLWithPath: output ?? "runs/\(file.deletingPathExtension().lastPathComponent)")
    TorchRuntime.tuneAllocator()
    Interruption.listen()
    let train =
      switch recipe.objective {
      case .imageText, .videoText: ImageTextTraining.run
      case .imageWords, .videoWords: WordsTraining.run
      case .imageLanguage, .videoLanguage: ImageLanguageTraining.run
      }
    let adapter = try train(recipe, output, resume, ModelStore(), common.showsProgress, { Interruption.isWanted })
    guard let adapter else {
      FileHandle.standardError.write(Data("stopped; go on with --resume\n".utf8))
      return
    }
    if common.json { Output.json(["adapter": adapter.path]) } else { Output.line(adapter.path) }
  }
}
