import Foundation
import Media
import Testing

@Suite struct AudioTests {
  /// The samples are ffmpeg's.
  @Test(arguments: VideoFixtures.manifest.sounds)
  func samples(_ fixture: VideoFixtures.Sound) throws {
    let file = VideoFixtures.file(fixture.file)
    let clip = try AudioClip(contentsOf: file)
    #expect(clip.samples.count == fixture.count && clip.lostPackets == 0)
    #expect(abs(clip.start - fixture.start) < 1.0 / 16_000)
    #expect(abs(clip.duration - Double(fixture.count) / 16_000) < 1e-9)
    let expected = try VideoFixtures.floats("sounds.safetensors", fixture.file).values
    let some = stride(from: 0, to: clip.samples.count, by: 37).map { clip.samples[$0] }
    try #require(some.count == expected.count)
    #expect(zip(some, expected).allSatisfy { abs($0 - $1) <= 1e-6 })
    #expect(try AudioClip(data: Data(contentsOf: file), name: "x") == clip)
  }

  /// A range is the part of the whole, up to what a lossy decoder makes of a beginning in the middle.
  @Test(arguments: [
    "speech.flac", "stereo.wav", "narrow.wav", "speech.mp3", "speech.ogg", "speech.m4a",
  ])
  func ranges(_ name: String) throws {
    let file = VideoFixtures.file(name)
    let whole = try AudioClip(contentsOf: file)
    let isExact = ["speech.flac", "stereo.wav", "narrow.wav"].contains(name)
    let length = whole.duration
    for (from, to) in [
      (0, 0.25), (0.1, 0.2), (length * 0.5, length * 0.6), (length * 0.8, length + 3), (length * 0.9, nil),
    ] as [(Double, Double?)] {
      let part = try AudioClip(contentsOf: file, from: from, to: to)
      let first = Int(((part.start - whole.start) * 16_000).rounded())
      #expect(part.start >= from - 1e-6 && part.start < from + 1.01 / 16_000 || part.start == whole.start)
      let end = min(to ?? .infinity, whole.start + length)
      #expect(abs(Double(part.samples.count) - (end - part.start) * 16_000) <= 1.01)
      try #require(first >= 0 && first + part.samples.count <= whole.samples.count)
      let expected = whole.samples[first..<first + part.samples.count]
      let most = zip(part.samples, expected).map { abs($0 - $1) }.max() ?? 1
      #expect(most <= (isExact ? 1e-6 : 0.02), "\(from) to \(String(describing: to)): \(most)")
    }
    for (from, to) in [(-1, nil), (0.2, 0.1), (.nan, nil), (0, Double.nan), (length + 5, nil), (0.1, 0.1)]
      as [(Double, Double?)]
    {
      #expect(throws: MediaError.self) { try AudioClip(contentsOf: file, from: from, to: to) }
    }
  }

  @Test func channelsAreAveraged() throws {
    // The right channel is minus half of the left: the mean is a quarter of it.
    let stereo = try AudioClip(contentsOf: VideoFixtures.file("stereo.wav")).samples
    let mono = try AudioClip(contentsOf: VideoFixtures.file("speech.flac"), to: 0.4).samples
    let most = zip(stereo, mono).dropFirst(100).dropLast(100).map { abs($0 - 0.25 * $1) }.max() ?? 1
    #expect(most < 0.03)
  }

  @Test func noSound() throws {
    let file = VideoFixtures.file("odd.webm")
    #expect(throws: MediaError.noTrack(file.path, expected: "a sound track", found: "video without sound")) {
      try AudioClip(contentsOf: file)
    }
    #expect(throws: MediaError.self) { try AudioClip(contentsOf: VideoFixtures.file("text.mp4")) }
    #expect(throws: MediaError.self) { try AudioClip(contentsOf: Fixtures.file("rgb.png")) }
  }

  private func compare(
    _ actual: MelSpectrogram, frames: [Int], _ name: String, sourceLocation: SourceLocation = #_sourceLocation
  ) throws {
    let (shape, values) = try VideoFixtures.floats("features.safetensors", name)
    try #require(shape == [actual.bands, frames.count], sourceLocation: sourceLocation)
    var most: Float = 0
    for band in 0..<actual.bands {
      for (i, frame) in frames.enumerated() {
        most = max(most, abs(actual.values[band * actual.frames + frame] - values[band * frames.count + i]))
      }
    }
    #expect(most <= 1e-4, "\(name): \(most)", sourceLocation: sourceLocation)
  }

  /// transformers' WhisperFeatureExtractor on the same speech.
  @Test func whisper() throws {
    let samples = try AudioClip(contentsOf: VideoFixtures.file("speech.flac")).samples
    let features = LogMel.whisper(samples)
    #expect(features.bands == 80 && features.frames == 3000 && features.values.count == 240_000)
    try compare(features, frames: Array(stride(from: 0, to: 300, by: 5)), "whisper")
    try compare(features, frames: [2997, 2998, 2999], "whisper_end")
    try compare(LogMel.whisper(samples, bands: 128), frames: Array(stride(from: 0, to: 300, by: 15)), "whisper_large")
  }

  /// torchaudio's kaldi.fbank on the same speech.
  @Test func kaldi() throws {
    let samples = try AudioClip(contentsOf: VideoFixtures.file("speech.flac")).samples
    let features = LogMel.kaldi(samples)
    #expect(features.bands == 128 && features.frames == 1 + (samples.count - 400) / 160)
    try compare(features, frames: Array(stride(from: 0, to: features.frames, by: 3)), "kaldi")
    let bind = LogMel.imageBind(Array(samples[8000..<40_000]))
    #expect(bind.bands == 128 && bind.frames == 204)
    try compare(bind, frames: Array(stride(from: 0, to: 204, by: 3)), "imagebind")
    #expect(LogMel.kaldi(Array(samples.prefix(399))).frames == 0)
    #expect(LogMel.kaldi(Array(samples.prefix(400))).frames == 1)
    #expect(LogMel.imageBind([]).values.allSatisfy { abs($0 - 4.268 / 9.138) < 1e-6 })
    #expect(LogMel.kaldi([Float](repeating: 0, count: 800)).values.allSatisfy { abs($0 - log(Float.ulpOfOne)) < 1e-5 })
  }

  @Test func clipStarts() {
    #expect(LogMel.clipStarts(8, duration: 16) == (0..<8).map { Double($0) * 2 })
    #expect(LogMel.clipStarts(3, duration: 10) == [0, 4, 8])
    #expect(LogMel.clipStarts(1, duration: 10) == [0])
    #expect(LogMel.clipStarts(2, duration: 1) == [0, 0])
  }
}
