import ArgumentParser
import Backbones
import Foundation
import Pipelines

/// How text is generated, on the command line.
struct TextOptions: ParsableArguments {
  @Option(help: "The largest number of new tokens.")
  var maxTokens = 30

  @Option(help: "No end before this many new tokens.")
  var minTokens = 1

  @Option(help: "Beams; 1 for none.")
  var beams = 1

  @Option(help: "0 takes the likeliest token, more samples.")
  var temperature = 0.0

  @Option(help: "Sample among the likeliest tokens that hold this much probability.")
  var topP = 1.0

  @Option(help: "Sample among this many likeliest tokens; 0 for all.")
  var topK = 0

  @Option(help: "Text that ends an answer; it is cut off. May be repeated.")
  var stop: [String] = []

  @Option(help: "Above 1: tokens that are there already become less likely.")
  var repetitionPenalty = 1.0

  @Option(help: "Beams are ranked by log-probability over length to this power.")
  var lengthPenalty = 1.0

  @Flag(help: "Print the text while it is generated (one input).")
  var stream = false

  func validate() throws {
    func require(_ holds: Bool, _ words: String) throws { if !holds { throw ValidationError(words) } }
    try require((1...1_000_000).contains(maxTokens), "--max-tokens \(maxTokens): expected 1 to 1000000")
    try require(minTokens >= 0, "--min-tokens \(minTokens): expected 0 or more")
    try require((1...64).contains(beams), "--beams \(beams): expected 1 to 64")
    try require(temperature >= 0 && temperature.isFinite, "--temperature \(temperature): expected 0 or more")
    try require(beams == 1 || temperature == 0, "--temperature \(temperature): beams do not sample")
    try require(topP > 0 && topP <= 1, "--top-p \(topP): expected above 0, at most 1")
    try require(topK >= 0, "--top-k \(topK): expected 0 or more")
    try require(stop.allSatisfy { !$0.isEmpty }, "--stop: expected some text")
    try require(
      repetitionPenalty > 0 && repetitionPenalty.isFinite,
      "--repetition-penalty \(repetitionPenalty): expected above 0")
    try require(lengthPenalty.isFinite, "--length-penalty \(lengthPenalty): expected a number")
  }

  func options(seed: UInt64) -> GenerationOptions {
    var options = GenerationOptions()
    options.maxTokens = maxTokens
    options.minTokens = min(minTokens, maxTokens)
    options.beams = beams
    options.temperature = temperature
    options.topP = topP
    options.topK = topK
    options.repetitionPenalty = repetitionPenalty
    options.lengthPenalty = lengthPenalty
    options.seed = seed
    return options
  }
}

/// `qformer caption INPUT…`
struct CaptionCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "caption", abstract: "Describe pictures.",
    discussion: """
      EXAMPLES:
        qformer caption photo.jpg
        qformer caption *.jpg --json
        find . -name '*.png' | qformer caption - --beams 3
      """)

  @Argument(help: "Pictures; - reads a list of paths from standard input.")
  var inputs: [String] = []

  @Option(help: "Text that the caption continues.")
  var prompt: String?

  @Option(help: "Name or folder of the model.")
  var model = "image-caption"

  @OptionGroup var text: TextOptions
  @OptionGroup var missing: MissingOptions
  @OptionGroup var common: CommonOptions

  func run() throws {
    try common.apply()
    try Describing(model: model, text: text, missing: missing, common: common).run(inputs) { _ in prompt }
  }
}

/// `qformer ask INPUT QUESTION`
struct AskCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "ask", abstract: "Answer a question about a picture.",
    discussion: """
      The question is put into the model's template: "Question: … Answer:" for BLIP-2; InstructBLIP reads it as it is. The default model has learnt to caption, not to answer: expect
      captions from it.

      EXAMPLES:
        qformer ask photo.jpg "What is the dog doing?"
      """)

  @Argument(help: "A picture.")
  var input: String

  @Argument(help: "The question.")
  var question: String

  @Option(help: "Name or folder of the model.")
  var model = "image-caption"

  @OptionGroup var text: TextOptions
  @OptionGroup var missing: MissingOptions
  @OptionGroup var common: CommonOptions

  func run() throws {
    try common.apply()
    try Describing(model: model, text: text, missing: missing, common: common).run([input]) { model in
      model.questions.prompt(question)
    }
  }
}

/// Text on standard output that grows while it is generated.
struct GrowingText {
  private var shown = ""

  /// Prints what is new. The last character waits while only some of its bytes are there.
  mutating func show(_ text: String, isWhole: Bool) {
    var text = text
    while !isWhole, text.last == "\u{FFFD}" { text.removeLast() }
    guard text.utf8.starts(with: shown.utf8) else { return }
    Output.write(String(decoding: text.utf8.dropFirst(shown.utf8.count), as: UTF8.self))
    shown = text
  }
}

/// What `caption` and `ask` share: pictures in, lines out.
struct Describing {
  let model: String
  let text: TextOptions
  let missing: MissingOptions
  let common: CommonOptions

  func run(_ arguments: [String], prompt: (ImageLanguagePipeline) -> String?) throws {
    var inputs = try Inputs(arguments)
    let isSingle = inputs.paths.count == 1
    let options = text.options(seed: common.seed)
    // Inputs are looked at before a model is loaded: a mistyped path should not cost seconds.
    var pipeline: ImageLanguagePipeline?
    try inputs.forEach(batch: 8) { group in
      let model = try pipeline ?? load()
      pipeline = model
      let start = Date()
      var shown = GrowingText()
      let streams = text.stream && isSingle && !common.json
      let answers = try model.describe(
        group.map(\.image), prompt: prompt(model), options: options, stops: text.stop,
        onText: streams ? { _, soFar in shown.show(soFar, isWhole: false) } : nil)
      let seconds = Date().timeIntervalSince(start) / Double(group.count)
      for (item, answer) in zip(group, answers) {
        if common.json {
          Output.json([
            "input": item.path, "text": answer.text, "token_ids": answer.tokenIDs, "seconds": seconds,
            "tokens_per_second": Double(answer.tokenIDs.count) / max(seconds, 1e-9),
          ])
        } else if streams {
          shown.show(answer.text + "\n", isWhole: true)
        } else {
          Output.line(isSingle ? answer.text : "\(item.path)\t\(Output.cell(answer.text))")
        }
      }
    }
    try inputs.finish()
  }

  private func load() throws -> ImageLanguagePipeline {
    let pipeline = try ImageLanguagePipeline(model, allowMissing: missing.allowMissing)
    missing.warn(pipeline.report, common)
    return pipeline
  }
}
