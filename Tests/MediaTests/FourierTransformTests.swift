import Foundation
import Testing

@testable import Media

@Suite struct FourierTransformTests {
  /// Both signals of a pair, against the sum that defines the transform.
  @Test(arguments: [1, 2, 3, 4, 8, 12, 60, 97, 400, 512])
  func asTheDefinition(_ count: Int) {
    let a = (0..<count).map { sin(Double($0 * $0)) + 0.3 }
    let b = (0..<count).map { cos(1.7 * Double($0)) - 0.1 * Double($0 % 5) }
    let lines = count / 2 + 1
    var powers = [Double](repeating: .nan, count: 2 * lines)
    var work = [Double](repeating: 0, count: 6 * count)
    powers.withUnsafeMutableBufferPointer { powers in
      work.withUnsafeMutableBufferPointer { work in
        FourierTransform(count).powers(
          a, b, powers.baseAddress!, powers.baseAddress! + lines, work: work.baseAddress!)
      }
    }
    for (signal, offset) in [(a, 0), (b, lines)] {
      for k in 0..<lines {
        var (real, imaginary) = (0.0, 0.0)
        for (n, value) in signal.enumerated() {
          let angle = 2 * Double.pi * Double(k * n % count) / Double(count)
          real += value * cos(angle)
          imaginary -= value * sin(angle)
        }
        let expected = real * real + imaginary * imaginary
        #expect(abs(powers[offset + k] - expected) < 1e-9 * max(1, expected))
      }
    }
  }
}
