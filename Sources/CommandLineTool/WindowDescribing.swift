import ArgumentParser
import Foundation
import Media
import Pipelines

/// How a running video is read in windows, on the command line.
struct WindowOptions: ParsableArguments {
  @Option(help: "With --stream: frames of a window. Default: as many as the model was trained on.")
  var window: Int?

  @Option(help: "With --stream: frames from the start of a window to the start of the next. Default: a whole window.")
  var stride: Int?

  @Option(
    help: "With --stream: a pipe may stay silent for so many seconds (30), a file may stay as long as it is (5).")
  var patience: Double?

  func validate() throws {
    if let window, !(1...VideoFeatures.maximumFrames).contains(window) {
      throw ValidationError("--window \(window): expected 1 to \(VideoFeatures.maximumFrames)")
    }
    if let stride, stride < 1 { throw ValidationError("--stride \(stride): expected at least 1") }
    if let window, let stride, stride > window {
      throw ValidationError("--stride \(stride): expected at most the window of \(window) frames")
    }
    if let patience, !(patience > 0 && patience <= 86_400) {
      throw ValidationError("--patience \(patience): expected above 0, at most 86400")
    }
  }

  var isGiven: Bool { window != nil || stride != nil || patience != nil }

  /// Whether the input is a running video: standard input, or anything but a picture.
  ///
  /// - Throws: ``PipelineError/badInput(_:)`` for standard input and a model of pictures.
  func isVideo(_ arguments: [String], for model: ModelFolder) throws -> Bool {
    guard arguments != ["-"] else {
      guard model.readsVideo else { throw model.readsNoVideo("standard input") }
      return true
    }
    guard model.readsVideo, arguments.count == 1, let path = arguments.first else { return false }
    return !VisualFile.isPictureOrAnimation(URL(fileURLWithPath: path))
  }
}

/// `caption --stream` on a video: a line for each window, while the video runs.
struct WindowDescribing {
  let describing: Describing
  let windows: WindowOptions

  func run(_ arguments: [String], prompt: (QuestionTemplate) -> String?) throws {
    let frames = describing.frames
    guard frames.frames == nil, frames.framesFrom == nil, frames.seconds == nil else {
      throw ValidationError("--frames, --frames-from, --seconds: a stream is read at a rate, --fps")
    }
    let path = arguments.first ?? "-"
    let name = path == "-" ? "standard input" : path
    if path != "-", !FileManager.default.fileExists(atPath: path) { throw MediaError.noSuchFile(path) }
    let model = try describing.loadVideos().model
    let isHeard = model.sound != nil && isRegular(path)
    if model.sound != nil && !isHeard {
      Notes.write(
        "\(name): the sound of a stream is read from files alone: the model reads no tokens of sound", describing.common
      )
    }
    let file = URL(fileURLWithPath: path)
    let listen: @Sendable (ClosedRange<Double>) throws -> AudioClip? = { try AudioClip.track(of: file, during: $0) }
    var describer = try WindowDescriber(
      model, length: windows.window, stride: windows.stride, prompt: prompt(model.questions),
      options: describing.options, stops: describing.text.stop,
      listen: isHeard ? listen : nil)
    var last = Date()
    func show(_ window: DescribedWindow) {
      let seconds = Date().timeIntervalSince(last)
      last = Date()
      if describing.common.json {
        var object = Describing.object(window.answer, seconds: seconds)
        (object["input"], object["start"], object["end"]) = (path, window.span.lowerBound, window.span.upperBound)
        object["frames"] = window.seconds.rounded
        if model.configuration.audio != nil { object["audio_tokens"] = window.soundTokens }
        Output.json(object)
      } else {
        let span = String(format: "%.2f–%.2f s", window.span.lowerBound, window.span.upperBound)
        Output.line("\(span)\t\(Output.cell(window.answer.text))")
      }
    }

    // A stream that breaks off has said something before; it is an error all the same.
    var failure: MediaError?
    do {
      let lost = try forEachFrame(of: path, name: name) { frame in
        last = Date()
        if let window = try describer.append(frame) { show(window) }
      }
      if lost > 0 { Notes.lost(lost, of: name, describing.common) }
    } catch let error as MediaError {
      if case .cancelled = error, Interruption.isWanted {
        Notes.write("\(name): stopped", describing.common)
        return
      }
      failure = error
    }
    if let window = try describer.finish() { show(window) }
    if let failure { throw failure }
  }

  /// Frames at the rate asked for, as they come. An MP4 whose index comes last is whole: it is read as a file.
  ///
  /// - Returns: Compressed frames that were lost.
  private func forEachFrame(of path: String, name: String, _ body: (VideoFrame) throws -> Void) throws -> Int {
    let rate = describing.frames.fps ?? 2
    var isFirst = true
    func take(_ frame: VideoFrame) throws {
      if Interruption.isWanted { throw MediaError.cancelled(name) }
      isFirst = false
      try body(frame)
    }
    do {
      let stream = try open(path, name: name, every: 1 / rate)
      let cancellation = stream.cancellation
      Interruption.listen { cancellation.cancel() }
      while let frame = try stream.next() { try take(frame) }
      return stream.lostPackets
    } catch MediaError.unsupportedOrCorrupt where isFirst && isRegular(path) {
      return try VideoFile(contentsOf: URL(fileURLWithPath: path)).forEachFrame(.rate(rate), take)
    }
  }

  private func open(_ path: String, name: String, every interval: Double) throws -> VideoStream {
    var limits = MovieLimits.default
    guard path != "-" else {
      limits.maxSeconds = windows.patience ?? limits.maxSeconds
      return try VideoStream(descriptor: STDIN_FILENO, name: name, every: interval, limits: limits)
    }
    let patience = windows.patience ?? 5
    limits.maxSeconds =
      isRegular(path) ? patience + limits.maxSeconds : windows.patience ?? limits.maxSeconds
    return try VideoStream(
      following: URL(fileURLWithPath: path), patience: patience, every: interval, limits: limits)
  }

  /// Whether it is a file, not a pipe.
  private func isRegular(_ path: String) -> Bool {
    let attributes = try? FileManager.default.attributesOfItem(atPath: path)
    return attributes?[.type] as? FileAttributeType == .typeRegular
  }
}
