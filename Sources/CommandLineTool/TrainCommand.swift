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
      EXAMPLES:
        qformer train Recipes/stamps-stage1.yaml --output runs/stamps-stage1
        qformer train Recipes/photos-stage1.yaml --set paths.photos=flickr8k --output runs/photos-stage1
        qformer train Recipes/photos-stage1.yaml --set paths.photos=flickr8k --output runs/photos-stage1 --resume
      """)

  @Argument(help: "The recipe, a YAML file.")
  var recipe: String

  @Option(name: .customLong("set"), help: "Change a value of the recipe: key.path=value. May be repeated.")
  var settings: [String] = []

  @Option(help: "The run folder. Default: runs/ and the recipe's name.")
  var output: String?

  @Flag(help: "Go on from the newest checkpoint in the run folder.")
  var resume = false

  @Option(help: "Threads for the operators. Default: all cores.")
  var threads: Int?

  func run() throws {
    let file = URL(fileURLWithPath: recipe)
    let recipe = try Recipe(contentsOf: file, settings: settings)
    let output = URL(fileURLWithPath: output ?? "runs/\(file.deletingPathExtension().lastPathComponent)")
    if let threads { TorchRuntime.threads = threads }
    TorchRuntime.tuneAllocator()
    let adapter =
      switch recipe.objective {
      case .imageText:
        try ImageTextTraining.run(recipe, output: output, resumes: resume, showsProgress: isatty(2) == 1)
      case .imageLanguage:
        try ImageLanguageTraining.run(recipe, output: output, resumes: resume, showsProgress: isatty(2) == 1)
      }
    if let adapter { print(adapter.path) }
  }
}
