import Foundation

/// Sound as a picture: energies in mel bands over time.
public struct MelSpectrogram: Sendable, Equatable {
  /// Mel bands, from low to high.
  public let bands: Int
  /// Points in time.
  public let frames: Int
  /// `bands * frames` values, all times of the lowest band first: `[bands, frames]`.
  public let values: [Float]
}

/// Features of 16 kHz sound, as the published audio encoders expect them.
public enum LogMel {
  /// Whisper's features: `[80, 3000]` for a window of 30 seconds.
  ///
  /// Sound is cut off at the window's end or filled up with silence. Frames of 400 samples every 160, centred, the
  /// window's ends mirrored; periodic Hann window; power spectrum; Slaney's mel scale and area normalisation from 0 to
  /// 8,000 Hz; `x = log10(max(power, 1e-10))`, raised to 8 below the window's maximum, then `(x + 4) / 4`. The last frame
  /// is left out.
  /// As OpenAI's Whisper (Radford et al., arXiv 2212.04356) and transformers' `WhisperFeatureExtractor`, whose
  /// `chunk_length` is `frames / 100`.
  ///
  /// - Parameters:
  ///   - samples: 16,000 a second.
  ///   - bands: 80, or 128 for large-v3.
  ///   - frames: The window's length, 100 a second, at least 2. Whisper was trained with 3,000.
  public static func whisper(_ samples: [Float], bands: Int = 80, frames: Int = 3000) -> MelSpectrogram {
    let (window, shift) = (400, 160)
    let length = frames * shift
    let bank = FilterBank.slaney(bands: bands, window: window)
    let hann = (0..<window).map { 0.5 - 0.5 * cos(2 * Double.pi * Double($0) / Double(window)) }
    let half = window / 2
    var values = energies(frames: frames, window: window, padded: window, bank: bank) { frame, target in
      for i in 0..<window {
        var place = frame * shift + i - half
        if place < 0 { place = -place }
        if place >= length { place = 2 * (length - 1) - place }
        target[i] = place < samples.count ? Double(samples[place]) * hann[i] : 0
      }
    }
    var most = -Double.infinity
    for i in values.indices {
      values[i] = log10(max(values[i], 1e-10))
      most = max(most, values[i])
    }
    return MelSpectrogram(
      bands: bands, frames: frames, values: values.map { Float((max($0, most - 8) + 4) / 4) })
  }

  /// Kaldi's filter bank features, `[bands, frames]` with `frames = 1 + (samples - 400) / 160` rounded down.
  ///
  /// Frames of 25 ms every 10 ms that lie wholly within the sound; each frame: mean removed, pre-emphasis 0.97,
  /// symmetric Hann window, zeros up to 512; power spectrum without the highest line; triangles in mel space
  /// (`1127 ln(1 + f / 700)`) from 20 to 8,000 Hz; natural logarithm of at least 2^-23. As Kaldi's `compute-fbank-feats`
  /// with `--window-type=hanning --dither=0 --use-energy=false --htk-compat=true`, and
  /// `torchaudio.compliance.kaldi.fbank`.
  ///
  /// - Parameters:
  ///   - samples: 16,000 a second. Fewer than 400 give no frame.
  ///   - bands: Mel bands, 4 to 256.
  public static func kaldi(_ samples: [Float], bands: Int = 128) -> MelSpectrogram {
    kaldi(samples.map(Double.init), bands: bands)
  }

  private static func kaldi(_ samples: [Double], bands: Int) -> MelSpectrogram {
    let (window, shift, padded) = (400, 160, 512)
    let bank = FilterBank.kaldi(bands: bands, window: padded)
    let hann = (0..<window).map { 0.5 - 0.5 * cos(2 * Double.pi * Double($0) / Double(window - 1)) }
    let frames = samples.count < window ? 0 : 1 + (samples.count - window) / shift
    let values = energies(frames: frames, window: window, padded: padded, bank: bank) { frame, target in
      var mean = 0.0
      for i in 0..<window { mean += samples[frame * shift + i] }
      mean /= Double(window)
      var before = samples[frame * shift] - mean
      for i in 0..<window {
        let value = samples[frame * shift + i] - mean
        target[i] = (value - 0.97 * before) * hann[i]
        before = value
      }
    }
    let least = Double(Float.ulpOfOne)
    return MelSpectrogram(bands: bands, frames: frames, values: values.map { Float(log(max($0, least))) })
  }

  /// ImageBind's picture of a clip: `[128, 204]`.
  ///
  /// The clip's mean is removed; ``kaldi(_:bands:)`` with 128 bands; cut off or filled up with zeros to 204 frames (two
  /// seconds are 198); then `(x + 4.268) / 9.138`. As `load_and_transform_audio_data` of ImageBind (arXiv 2305.05665),
  /// which Video-LLaMA's audio branch takes with eight clips.
  ///
  /// - Parameter samples: 16,000 a second, two seconds as a rule.
  public static func imageBind(_ samples: [Float]) -> MelSpectrogram {
    let mean = samples.isEmpty ? 0 : samples.reduce(0.0) { $0 + Double($1) } / Double(samples.count)
    let bands = kaldi(samples.map { Double($0) - mean }, bands: 128)
    let (length, center, deviation) = (204, -4.268, 9.138)
    var values = [Float](repeating: Float(-center / deviation), count: 128 * length)
    for band in 0..<128 {
      for frame in 0..<min(length, bands.frames) {
        let value = Double(bands.values[band * bands.frames + frame])
        values[band * length + frame] = Float((value - center) / deviation)
      }
    }
    return MelSpectrogram(bands: 128, frames: length, values: values)
  }

  /// Where `clips` clips of `length` seconds begin in a sound of `duration` seconds: even distances from the beginning
  /// to `duration - length`, as PyTorchVideo's `ConstantClipsPerVideoSampler` places ImageBind's. Shorter sounds begin
  /// all at 0.
  ///
  /// - Parameters:
  ///   - clips: at least 1.
  ///   - length: in seconds.
  ///   - duration: in seconds.
  public static func clipStarts(_ clips: Int, length: Double = 2, duration: Double) -> [Double] {
    let last = max(duration - length, 0)
    return (0..<max(clips, 0)).map { Double($0) * last / Double(max(clips - 1, 1)) }
  }

  /// Band energies `[bands, frames]`; `fill` writes the windowed samples of a frame, the rest up to `padded` is zero.
  private static func energies(
    frames: Int, window: Int, padded: Int, bank: FilterBank, fill: (Int, UnsafeMutablePointer<Double>) -> Void
  ) -> [Double] {
    let transform = FourierTransform(padded)
    let lines = padded / 2 + 1
    var result = [Double](repeating: 0, count: bank.bands * frames)
    var room = [Double](repeating: 0, count: 2 * padded + 2 * lines + 6 * padded)
    room.withUnsafeMutableBufferPointer { room in
      let first = room.baseAddress!
      let second = first + padded
      let powers = second + padded
      for frame in stride(from: 0, to: frames, by: 2) {
        let isPair = frame + 1 < frames
        fill(frame, first)
        if isPair { fill(frame + 1, second) } else { second.update(repeating: 0, count: padded) }
        transform.powers(first, second, powers, powers + lines, work: powers + 2 * lines)
        for band in 0..<bank.bands {
          result[band * frames + frame] = bank.energy(band, powers)
          if isPair { result[band * frames + frame + 1] = bank.energy(band, powers + lines) }
        }
      }
    }
    return result
  }
}

/// Triangles over the lines of a power spectrum of 16 kHz sound.
struct FilterBank {
  private struct Triangle {
    let first: Int
    let weights: [Double]
  }

  private let triangles: [Triangle]
  var bands: Int { triangles.count }

  private init(bands: Int, lines: Int, weight: (_ band: Int, _ line: Int) -> Double) {
    triangles = (0..<bands).map { band in
      let weights = (0..<lines).map { max(0, weight(band, $0)) }
      guard let first = weights.firstIndex(where: { $0 > 0 }), let last = weights.lastIndex(where: { $0 > 0 }) else {
        return Triangle(first: 0, weights: [])
      }
      return Triangle(first: first, weights: Array(weights[first...last]))
    }
  }

  func energy(_ band: Int, _ powers: UnsafePointer<Double>) -> Double {
    let triangle = triangles[band]
    return triangle.weights.withUnsafeBufferPointer { weights in
      var sum = 0.0
      for i in 0..<weights.count { sum += weights[i] * powers[triangle.first + i] }
      return sum
    }
  }

  /// Slaney's scale (Auditory Toolbox, 1998): linear below 1,000 Hz, 27 steps for each factor of 6.4 above; triangles in
  /// Hertz, each of area 1 (times the line distance), 0 to 8,000 Hz.
  static func slaney(bands: Int, window: Int) -> FilterBank {
    func mel(_ hertz: Double) -> Double {
      hertz < 1000 ? 3 * hertz / 200 : 15 + log(hertz / 1000) * 27 / log(6.4)
    }
    func hertz(_ mel: Double) -> Double {
      mel < 15 ? 200 * mel / 3 : 1000 * exp(log(6.4) / 27 * (mel - 15))
    }
    let edges = (0..<bands + 2).map { hertz(mel(8000) * Double($0) / Double(bands + 1)) }
    return FilterBank(bands: bands, lines: window / 2 + 1) { band, line in
      let frequency = 16_000 * Double(line) / Double(window)
      let rise = (frequency - edges[band]) / (edges[band + 1] - edges[band])
      let fall = (edges[band + 2] - frequency) / (edges[band + 2] - edges[band + 1])
      return min(rise, fall) * 2 / (edges[band + 2] - edges[band])
    }
  }

  /// Kaldi's: triangles in mel space, 20 to 8,000 Hz, without the line at 8,000.
  static func kaldi(bands: Int, window: Int) -> FilterBank {
    func mel(_ hertz: Double) -> Double { 1127 * log(1 + hertz / 700) }
    let low = mel(20)
    let step = (mel(8000) - low) / Double(bands + 1)
    return FilterBank(bands: bands, lines: window / 2) { band, line in
      let place = (mel(16_000 * Double(line) / Double(window)) - low) / step - Double(band)
      return min(place, 2 - place)
    }
  }
}
