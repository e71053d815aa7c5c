import ArgumentParser

/// `qformer VERB …`
@main
struct QFormerCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "qformer",
    abstract: "The Q-Former, the adapter between a frozen image encoder and a frozen language model.",
    subcommands: [TrainCommand.self])
}
