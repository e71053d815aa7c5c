import ArgumentParser
import Foundation

/// `qformer VERB …`
struct QFormerCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "qformer",
    abstract: "The Q-Former: a native adapter between a frozen image encoder and a frozen language model.",
    discussion: """
      EXAMPLES:
        qformer caption photo.jpg
        qformer match photo.jpg --text "a dog on a beach" --text "a plate of food"
        qformer train Recipes/stamps-stage1.yaml

      EXIT CODES:
        0 done, 64 usage, 65 bad data, 66 no such input, 69 a needed thing is missing, 70 internal, 73 cannot write,
        74 cannot read
      """,
    version: "0.1.0",
    subcommands: [
      CaptionCommand.self, AskCommand.self, MatchCommand.self, EncodeCommand.self, ExplainCommand.self,
      GalleryCommand.self, TrainCommand.self, EvaluateCommand.self, CompareCommand.self, ConvertCommand.self,
      InspectCommand.self,
    ])
}

/// Runs the command and turns what it throws into one line and an exit code.
@main
enum Program {
  static func main() {
    do {
      var command = try QFormerCommand.parseAsRoot()
      try command.run()
    } catch {
      Failure.exit(error)
    }
  }
}
