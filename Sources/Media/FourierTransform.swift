import Foundation

/// The discrete Fourier transform of any length whose prime factors are small, in double precision.
///
/// Decimation in time for mixed radices (Cooley and Tukey, "An algorithm for the machine calculation of complex Fourier
/// series", 1965): a transform of length r m is r transforms of length m, joined by twiddle factors.
struct FourierTransform {
  let count: Int
  private let factors: [Int]
  /// exp(-2 pi i k / count).
  private let cosines: [Double]
  private let sines: [Double]

  init(_ count: Int) {
    precondition(count > 0)
    self.count = count
    var factors: [Int] = []
    var rest = count
    for prime in [4, 2, 3, 5, 7, 11, 13] {
      while rest % prime == 0 {
        factors.append(prime)
        rest /= prime
      }
    }
    if rest > 1 { factors.append(rest) }
    self.factors = factors
    cosines = (0..<count).map { cos(2 * Double.pi * Double($0) / Double(count)) }
    sines = (0..<count).map { -sin(2 * Double.pi * Double($0) / Double(count)) }
  }

  /// The power |X_k|^2 for k = 0 ... count / 2 of two real signals at once: the transform of a + i b holds those of a and
  /// b as its even and odd parts.
  ///
  /// - Parameters:
  ///   - a: `count` values.
  ///   - b: `count` values.
  ///   - powerA: room for `count / 2 + 1` values.
  ///   - powerB: the same.
  ///   - work: room for `6 * count` values.
  func powers(
    _ a: UnsafePointer<Double>, _ b: UnsafePointer<Double>, _ powerA: UnsafeMutablePointer<Double>,
    _ powerB: UnsafeMutablePointer<Double>, work: UnsafeMutablePointer<Double>
  ) {
    let real = work
    let imaginary = work + count
    cosines.withUnsafeBufferPointer { cosines in
      sines.withUnsafeBufferPointer { sines in
        transform(
          a, b, stride: 1, real, imaginary, count, factor: 0, cosines.baseAddress!, sines.baseAddress!,
          scratch: work + 2 * count)
      }
    }
    for k in 0...count / 2 {
      let mirror = k == 0 ? 0 : count - k
      let evenReal = 0.5 * (real[k] + real[mirror])
      let evenImaginary = 0.5 * (imaginary[k] - imaginary[mirror])
      let oddReal = 0.5 * (imaginary[k] + imaginary[mirror])
      let oddImaginary = 0.5 * (real[mirror] - real[k])
      powerA[k] = evenReal * evenReal + evenImaginary * evenImaginary
      powerB[k] = oddReal * oddReal + oddImaginary * oddImaginary
    }
  }

  /// `length` values from every `stride`th of the input to the contiguous output.
  private func transform(
    _ inReal: UnsafePointer<Double>, _ inImaginary: UnsafePointer<Double>, stride: Int,
    _ outReal: UnsafeMutablePointer<Double>, _ outImaginary: UnsafeMutablePointer<Double>, _ length: Int, factor: Int,
    _ cosines: UnsafePointer<Double>, _ sines: UnsafePointer<Double>, scratch: UnsafeMutablePointer<Double>
  ) {
    if length == 1 {
      outReal[0] = inReal[0]
      outImaginary[0] = inImaginary[0]
      return
    }
    let radix = factors[factor]
    let part = length / radix
    for r in 0..<radix {
      transform(
        inReal + r * stride, inImaginary + r * stride, stride: stride * radix, outReal + r * part,
        outImaginary + r * part, part, factor: factor + 1, cosines, sines, scratch: scratch)
    }
    // X[k + q part] = sum over r of w^(r (k + q part)) Y_r[k], w = exp(-2 pi i / length)
    let sumReal = scratch
    let sumImaginary = scratch + radix
    for k in 0..<part {
      for q in 0..<radix {
        var real = 0.0
        var imaginary = 0.0
        let step = (k + q * part) * stride
        var angle = 0
        for r in 0..<radix {
          let x = outReal[r * part + k]
          let y = outImaginary[r * part + k]
          real += x * cosines[angle] - y * sines[angle]
          imaginary += x * sines[angle] + y * cosines[angle]
          angle += step
          if angle >= count { angle %= count }
        }
        sumReal[q] = real
        sumImaginary[q] = imaginary
      }
      for q in 0..<radix {
        outReal[q * part + k] = sumReal[q]
        outImaginary[q * part + k] = sumImaginary[q]
      }
    }
  }
}
