import Backbones
import Foundation
import Media
import Pipelines
import QFormer
import TestSupport
import Testing

@Suite("caption --stream: a line for each window while a video runs", .serialized)
struct VideoStreamVerbTests {
  private let options = ["--stream", "--fps", "10", "--window", "3", "--max-tokens", "4"]

  /// What the library says of the same frames.
  private func expected(
    _ place: Workplace, _ model: String, _ clip: String, length: Int, stride: Int
  ) throws -> [DescribedWindow] {
    let pipeline = try VideoPipeline(model, store: place.models.store)
    var options = GenerationOptions()
    options.maxTokens = 4
    var describer = try WindowDescriber(pipeline, length: length, stride: stride, options: options)
    let stream = try VideoStream(following: URL(fileURLWithPath: clip), patience: 0.2, every: 0.1)
    var windows: [DescribedWindow] = []
    while let frame = try stream.next() { if let window = try describer.append(frame) { windows.append(window) } }
    return try windows + [describer.finish()].compactMap { $0 }
  }

  @Test("Lines appear before the end of standard input; at the end comes what is left")
  func pipe() throws {
    try withWorkplace { place in
      let model = try place.videoModels().cascaded
      let clip = Workplace.clip("transport.ts")
      let whole = try Data(contentsOf: URL(fileURLWithPath: clip))
      let windows = try expected(place, model, clip, length: 3, stride: 3)
      #expect(windows.count == 4 && windows.last?.seconds.count == 1)
      let lines = windows.map { window in
        String(format: "%.2f–%.2f s\t", window.span.lowerBound, window.span.upperBound)
          + window.answer.text.split(whereSeparator: { $0.isNewline || $0 == "\t" }).joined(separator: " ")
      }
      let input = Pipe()
      let running = try place.program.start(["caption", "-", "--model", model] + options, pipe: input)
      let most = whole.count * 9 / 10
      for start in stride(from: 0, to: most, by: 1500) {
        input.fileHandleForWriting.write(whole[start..<min(start + 1500, most)])
        usleep(5_000)
      }
      // The pipe is open and the film is not over.
      #expect(running.wait { running.outputSoFar.contains(lines[0]) }, "\(running.outputSoFar)")
      #expect(running.process.isRunning && !running.outputSoFar.contains(lines[3]))
      input.fileHandleForWriting.write(whole[most...])
      try input.fileHandleForWriting.close()
      let result = try running.finish()
      #expect(result.code == 0 && result.errors.isEmpty, "\(result)")
      #expect(result.output == lines.joined(separator: "\n") + "\n")
    }
  }

  @Test("JSON lines; windows that overlap; files of any container, a growing one too")
  func files() throws {
    try withWorkplace { place in
      let model = try place.videoModels().cascaded
      let clip = Workplace.clip("variable.mkv")
      let windows = try expected(place, model, clip, length: 3, stride: 1)
      let whole = try Data(contentsOf: URL(fileURLWithPath: clip))
      let growing = try place.write("grows.mkv", whole.prefix(6000))
      let arguments = ["--model", model, "--stride", "1", "--json", "--patience", "1", "--threads", "1"] + options
      let running = try place.program.start(["caption", growing] + arguments)
      let handle = try FileHandle(forWritingTo: URL(fileURLWithPath: growing))
      try handle.seekToEnd()
      for start in stride(from: 6000, to: whole.count, by: 2000) {
        usleep(50_000)
        try handle.write(contentsOf: whole[start..<min(start + 2000, whole.count)])
      }
      try handle.close()
      let result = try running.finish()
      #expect(result.code == 0 && result.errors.isEmpty, "\(result)")
      let objects = try result.json()
      #expect(objects.count == windows.count && windows.count > 5)
      for (object, window) in zip(objects, windows) {
        let keys = ["input", "start", "end", "text", "token_ids", "tokens_per_second", "seconds", "frames"]
        #expect(Set(object.keys) == Set(keys))
        #expect(object["input"] as? String == growing)
        #expect(object["start"] as? Double == window.span.lowerBound)
        #expect(object["end"] as? Double == window.span.upperBound)
        #expect(object["token_ids"] as? [Int] == window.answer.tokenIDs)
        #expect((object["frames"] as? [Double])?.count == window.seconds.count)
      }
      // An MP4 whose index comes last is no stream, but a file.
      let late = try place.program.start(
        ["caption", Workplace.clip("bframes.mp4")] + arguments
      ).finish()
      #expect(try late.code == 0 && late.json().count == 18, "\(late)")
      // A picture is no stream: its text grows.
      let picture = try place.program.run("caption", place.pictures[0], "--model", model, "--stream")
      let plain = try place.program.run("caption", place.pictures[0], "--model", model)
      #expect(picture.code == 0 && picture.output == plain.output, "\(picture)")
    }
  }

  @Test("Pipes that close early, stall, or bring no video")
  func faults() throws {
    try withWorkplace { place in
      let models = try place.videoModels()
      let whole = try Data(contentsOf: URL(fileURLWithPath: Workplace.clip("transport.ts")))
      func run(_ bytes: Data, closes: Bool, _ more: String...) throws -> Program.Result {
        let input = Pipe()
        let running = try place.program.start(
          ["caption", "-", "--model", models.cascaded] + options + more, pipe: input)
        signal(SIGPIPE, SIG_IGN)
        try? input.fileHandleForWriting.write(contentsOf: bytes)
        if closes { try input.fileHandleForWriting.close() }
        return try running.finish()
      }
      let early = try run(whole.prefix(whole.count * 6 / 10), closes: true)
      #expect(early.code == 0 && !early.lines.isEmpty && early.errorLines.isEmpty, "\(early)")
      let stalled = try run(whole.prefix(whole.count * 9 / 10), closes: false, "--patience", "1")
      #expect(stalled.code == 65 && stalled.lines.count >= 2, "\(stalled)")
      #expect(stalled.errorLines.count == 1 && stalled.errors.contains("standard input"), "\(stalled)")
      for bytes in [Data(), Data("this is no video\n".utf8)] {
        let none = try run(bytes, closes: true)
        #expect(none.code == 65 && none.output.isEmpty && none.errorLines.count == 1, "\(none)")
        #expect(none.errors.contains("standard input"), "\(none)")
      }
      let arguments = ["--stream", "--threads", "1", "--patience", "1", "--model"]
      let film = Workplace.clip("transport.ts")
      let other = try place.program.start(["caption", film] + arguments + [models.spatioTemporal]).finish()
      #expect(other.code == 65 && other.errors.contains("expected qformer_cascaded_video"), "\(other)")
      let missing = try place.program.start(
        ["caption", place.path("none.mkv")] + arguments + [models.cascaded]
      ).finish()
      #expect(missing.code == 66 && missing.errorLines.count == 1, "\(missing)")
      let deaf = try place.program.start(
        ["caption", Workplace.clip("speech.ogg")] + arguments + [models.cascaded]
      ).finish()
      #expect(deaf.code == 65 && deaf.errorLines.count == 1 && deaf.errors.contains("video track"), "\(deaf)")
      for wrong in [["--frames", "3"], ["--seconds", "1"], ["--frames-from", "uniform"]] {
        let result = try place.program.start(["caption", film] + arguments + [models.cascaded] + wrong).finish()
        #expect(result.code == 64, "\(result)")
      }
      let windows = try place.program.run("caption", film, "--model", models.cascaded, "--window", "3")
      #expect(windows.code == 64 && windows.errors.contains("--stream"), "\(windows)")
    }
  }

  @Test("The interrupt key ends a stream that waits")
  func interrupted() throws {
    try withWorkplace { place in
      let model = try place.videoModels().cascaded
      let whole = try Data(contentsOf: URL(fileURLWithPath: Workplace.clip("transport.ts")))
      let input = Pipe()
      let running = try place.program.start(["caption", "-", "--model", model] + options, pipe: input)
      input.fileHandleForWriting.write(whole.prefix(whole.count * 9 / 10))
      #expect(running.wait { running.outputSoFar.contains("\n") })
      usleep(300_000)
      kill(running.process.processIdentifier, SIGINT)
      let start = Date()
      let result = try running.finish()
      #expect(Date().timeIntervalSince(start) < 10)
      #expect(result.code == 0 && !result.lines.isEmpty, "\(result)")
      #expect(result.errors == "note: standard input: stopped\n", "\(result)")
    }
  }
}
