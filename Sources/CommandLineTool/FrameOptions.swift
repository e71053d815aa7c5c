import ArgumentParser
import Foundation
import Media
import Pipelines

/// Which frames of videos are read, on the command line.
struct FrameOptions: ParsableArguments {
  /// Where frames at even distances lie.
  enum Place: String, ExpressibleByArgument, CaseIterable {
    case uniform, middle
    case headTail = "head-tail"
  }

  @Option(help: "Of a video: how many frames are read. Default: as many as the model was trained on.")
  var frames: Int?

  @Option(
    help: """
      Of a video: uniform takes the left edge of each of N equal parts, middle its middle, head-tail half of the frames at \
      random from either half of the video, by --seed. Default: as the model was trained.
      """)
  var framesFrom: Place?

  @Option(help: "Of a video: frames a second, in place of a number. With --stream the default is 2.")
  var fps: Double?

  @Option(help: "Of a video: the frames shown at these seconds, ascending: 0,1.5,3.")
  var seconds: String?

  func validate() throws {
    let ways = [frames != nil || framesFrom != nil ? "--frames, --frames-from" : nil, fps.map { _ in "--fps" }]
    let given = (ways + [seconds.map { _ in "--seconds" }]).compactMap { $0 }
    guard given.count < 2 else {
      throw ValidationError("\(given.joined(separator: " and ")): expected one way to choose frames")
    }
    let most = VideoFeatures.maximumFrames
    if let frames, !(1...most).contains(frames) {
      throw ValidationError("--frames \(frames): expected 1 to \(most)")
    }
    if let fps, !(fps > 0 && fps <= 1000) { throw ValidationError("--fps \(fps): expected above 0, at most 1000") }
    if let seconds { _ = try Self.times(seconds) }
  }

  /// Whether anything was asked for.
  var isGiven: Bool { frames != nil || framesFrom != nil || fps != nil || seconds != nil }

  /// The frames to read.
  ///
  /// - Parameters:
  ///   - usual: What the model was trained on.
  ///   - seed: For frames at random.
  func choice(_ usual: AdapterConfiguration.Frames, seed: UInt64) throws -> FrameChoice {
    if let fps { return .rate(fps) }
    if let seconds { return .seconds(try Self.times(seconds)) }
    var chosen = usual
    if let frames { chosen.count = frames }
    switch framesFrom {
    case .headTail: return .headTail(chosen.count, seed: seed)
    case .uniform: chosen.place = .uniform
    case .middle: chosen.place = .uniformMiddle
    case nil: break
    }
    return chosen.choice
  }

  private static func times(_ text: String) throws -> [Double] {
    let times = text.split(separator: ",", omittingEmptySubsequences: false).map {
      Double($0.trimmingCharacters(in: .whitespaces)) ?? .nan
    }
    guard times.allSatisfy({ $0 >= 0 && $0 <= 1e9 }), zip(times, times.dropFirst()).allSatisfy({ $0 <= $1 }),
      times.count <= VideoFeatures.maximumFrames
    else { throw ValidationError("--seconds \(text): expected ascending numbers from 0 on, separated by commas") }
    return times
  }
}

/// Whether the sound of videos is read, on the command line.
struct SoundOptions: ParsableArguments {
  @Flag(help: "Of a model that hears: do not listen. It then reads no tokens of sound, as for a silent video.")
  var noAudio = false

  /// - Throws: A usage error when sound is turned off of a model that reads none.
  func check(_ model: ModelFolder) throws {
    guard !noAudio || model.hears && model.isVideoAdapter else {
      throw ValidationError("--no-audio: expected a model that reads videos with their sound, found \(model.name)")
    }
  }
}

/// Encodes the frames that were asked for, and the sound.
struct ClipReader {
  let encoder: ImageEncoder
  let choice: FrameChoice
  var sound: AudioBranch?

  /// Encodes the frames and the sound of a file that was opened before. Losses, and the lack of a sound track, are told on
  /// standard error.
  func read(_ file: VisualFile, path: String, _ common: CommonOptions) throws -> VideoFeatures {
    var clip = try encoder.features(of: file, frames: choice, name: path)
    if clip.lostPackets > 0 { Notes.lost(clip.lostPackets, of: path, common) }
    if let sound {
      clip.sound = try sound.features(of: URL(fileURLWithPath: path))
      if clip.sound == nil { Notes.silent(path, common) }
    }
    return clip
  }
}

/// A video adapter, and which frames it is given.
struct LoadedVideoModel {
  let model: VideoPipeline
  let reader: ClipReader

  /// - Parameters:
  ///   - writes: Whether its language model is needed.
  ///   - listens: Whether its audio encoder is.
  init(
    _ name: String, _ frames: FrameOptions, _ missing: MissingOptions, _ common: CommonOptions, writes: Bool,
    listens: Bool
  ) throws {
    model = try VideoPipeline(
      name, allowMissing: missing.allowMissing, loadsLanguageModel: writes, listens: listens)
    if writes { _ = try model.requireLanguage() }
    missing.warn(model.report, common)
    let usual = model.configuration.frames ?? AdapterConfiguration.Frames()
    reader = ClipReader(
      encoder: model.encoder, choice: try frames.choice(usual, seed: common.seed), sound: model.sound)
  }
}

/// Lines on standard error that are no errors.
enum Notes {
  static func write(_ words: String, _ common: CommonOptions) {
    guard !common.quiet else { return }
    FileHandle.standardError.write(Data("note: \(words)\n".utf8))
  }

  /// A clip without sound, for a model that hears.
  static func silent(_ path: String, _ common: CommonOptions) {
    write("\(path): no sound track: the model reads no tokens of sound", common)
  }

  /// Frames that are missing from a video.
  static func lost(_ count: Int, of path: String, _ common: CommonOptions) {
    write("\(path): \(count) damaged or missing compressed frames; the frames around them were read", common)
  }
}

extension [Double] {
  /// Seconds for JSON: microseconds are as exact as containers are.
  var rounded: [Double] { map { ($0 * 1e6).rounded() / 1e6 } }
}
