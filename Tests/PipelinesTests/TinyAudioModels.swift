import Backbones
import Checkpoints
import Foundation
import Media
import Pipelines
import QFormer
import TestSupport
import Torch
import TorchNN

/// A tiny Whisper, and adapters that hear.
///
/// One source, linked into every test target that needs it.
extension TinyModels {
  /// Two clips of half a second and a little more, two tokens each, from a Whisper of width 12.
  static let audioEncoder: AudioEncoderConfiguration = {
    var configuration = AudioEncoderConfiguration()
    (configuration.clips, configuration.tokensPerClip) = (2, 2)
    (configuration.clipSeconds, configuration.strideSeconds) = (0.52, 0.52)
    return configuration
  }()

  /// Three queries over the four pieces.
  static let audio: AdapterConfiguration.Audio = {
    var sizes = AudioQFormerConfiguration.small
    sizes.qformer = imageLanguage.qformer
    sizes.qformer.crossAttentionFrequency = 1
    (sizes.qformer.encoderHiddenSize, sizes.qformer.queries) = (12, 3)
    sizes.time.maxFrames = 4
    sizes.languageSize = languageWidth
    return AdapterConfiguration.Audio(encoder: audioEncoder, sizes: sizes)
  }()

  /// Puts a small Whisper among the frozen models, under the name of the real one.
  func addWhisper() throws {
    let folder = frozen("whisper-tiny-en")
    try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    let fixture = try Fixture("audio/pipeline.safetensors").checkpoint
    try FileManager.default.copyItem(
      at: fixtures.appendingPathComponent("audio/pipeline.json"), to: folder.appendingPathComponent("config.json"))
    try SafetensorsFile.write(
      fixture.names.filter { $0.hasPrefix("model.") }.map { ($0, try fixture.tensor($0)) },
      to: folder.appendingPathComponent("model.safetensors"))
  }

  /// Writes the cascaded adapter with a branch for sound.
  static func writeHearing(
    to folder: URL, audio: AdapterConfiguration.Audio = audio, cascaded: CascadedVideoConfiguration = cascaded
  ) throws {
    var configuration = AdapterConfiguration(
      cascaded: cascaded, frames: frames, encoder: encoder, text: cascaded.objectives.map { _ in text })
    configuration.audio = audio
    try writeVideo(configuration, to: folder, seed: 8)
  }

  /// Writes an adapter for sound alone.
  static func writeListening(to folder: URL) throws {
    let configuration = AdapterConfiguration(audio: audio)
    let parameters = Parameters()
    _ = try configuration.audioQFormer(ParameterScope(FreshParameters(seed: 9), parameters: parameters))
    try AdapterFolder.write(
      configuration, parameters.all.map { ($0.name, $0.tensor.rank == 2 ? $0.tensor * 5 : $0.tensor) }, to: folder)
  }
}

/// Sounds that a tiny model can tell apart.
enum TinySounds {
  /// Writes a WAV file of a pure tone, 16 kHz, one channel, 16 bits.
  static func tone(_ hertz: Double, seconds: Double = 1, to file: URL) throws {
    let count = Int(seconds * 16_000)
    var data = Data()
    func put<Value: FixedWidthInteger>(_ value: Value) {
      withUnsafeBytes(of: value.littleEndian) { data.append(contentsOf: $0) }
    }
    data.append(contentsOf: Array("RIFF".utf8))
    put(UInt32(36 + 2 * count))
    data.append(contentsOf: Array("WAVEfmt ".utf8))
    put(UInt32(16))
    put(UInt16(1))
    put(UInt16(1))
    put(UInt32(16_000))
    put(UInt32(32_000))
    put(UInt16(2))
    put(UInt16(16))
    data.append(contentsOf: Array("data".utf8))
    put(UInt32(2 * count))
    for sample in 0..<count { put(Int16(20_000 * sin(2 * .pi * hertz * Double(sample) / 16_000))) }
    try data.write(to: file)
  }
}
