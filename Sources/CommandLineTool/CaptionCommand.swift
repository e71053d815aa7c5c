import ArgumentParser
import Backbones
import Pipelines

/// How text is generated, on the command line.
struct TextOptions: ParsableArguments {
  @Option(help: "The largest number of new tokens.")
  var maxTokens = 30

  @Option(help: "No end before this many new tokens.")
  var minTokens = 1

  @Option(help: "Beams; 1 for none. Default: what the adapter asks for; with --stream or a temperature 1.")
  var beams: Int?

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

  @Flag(help: "Print the text while it is generated (one input); caption reads a video while it runs.")
  var stream = false

  func validate() throws {
    func require(_ holds: Bool, _ words: String) throws { if !holds { throw ValidationError(words) } }
    try require((1...1_000_000).contains(maxTokens), "--max-tokens \(maxTokens): expected 1 to 1000000")
    try require(minTokens >= 0, "--min-tokens \(minTokens): expected 0 or more")
    let beams = beams ?? 1
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
    commandName: "caption", abstract: "Describe pictures, videos and sounds.",
    discussion: """
      Videos need a model that reads them; a picture is then a clip of one frame. With --stream a cascaded model reads a
      video in windows while it runs, from a file that grows or, with - as the input, from standard input, and prints a line
      for each: start and end in seconds, and the text. A model that hears reads the sound of a video before its frames; that
      of a stream is read from a file, not from a pipe.

      EXAMPLES:
        qformer caption photo.jpg
        qformer caption *.jpg --json
        find . -name '*.png' | qformer caption - --beams 3
        qformer caption clip.mp4 --model my-video-adapter --frames 16
        ffmpeg -i camera.mkv -c copy -f matroska - | qformer caption - --stream --model my-video-adapter --fps 1
      """)

  @Argument(
    help: """
      Pictures, videos or sounds; - reads a list of paths from standard input, or, with --stream, a running video itself.
      """)
  var inputs: [String] = []

  @Option(help: "Text that the caption continues.")
  var prompt: String?

  @Option(help: "Name or folder of the model.")
  var model = "image-caption"

  @OptionGroup var frames: FrameOptions
  @OptionGroup var sound: SoundOptions
  @OptionGroup var windows: WindowOptions
  @OptionGroup var text: TextOptions
  @OptionGroup var missing: MissingOptions
  @OptionGroup var common: CommonOptions

  func run() throws {
    try common.apply()
    try Describing(
      model: model, text: text, frames: frames, sound: sound, missing: missing, common: common, windows: windows
    ).run(inputs) { _ in prompt }
  }
}

/// `qformer ask INPUT QUESTION`
struct AskCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "ask", abstract: "Answer a question about a picture, a video or a sound.",
    discussion: """
      The question is put into the model's template: "Question: … Answer:" for BLIP-2; InstructBLIP reads it as it is. The default model has learnt to caption, not to answer: expect
      captions from it.

      EXAMPLES:
        qformer ask photo.jpg "What is the dog doing?"
        qformer ask clip.mp4 "Which way does it move?" --model my-video-adapter
      """)

  @Argument(help: "A picture, a video or a sound.")
  var input: String

  @Argument(help: "The question.")
  var question: String

  @Option(help: "Name or folder of the model.")
  var model = "image-caption"

  @OptionGroup var frames: FrameOptions
  @OptionGroup var sound: SoundOptions
  @OptionGroup var text: TextOptions
  @OptionGroup var missing: MissingOptions
  @OptionGroup var common: CommonOptions

  func run() throws {
    try common.apply()
    try Describing(
      model: model, text: text, frames: frames, sound: sound, missing: missing, common: common
    ).run([input]) { $0.prompt(question) }
  }
}
