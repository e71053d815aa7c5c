import Foundation

/// A progress line on standard error: bar, count, time left and a few words. Silent unless asked for.
public final class Progress {
  private let isOn: Bool
  private let total: Int
  private let label: String
  private let start = Date()
  private var first: Int?
  private var last = Date.distantPast

  /// A line for `total` steps.
  ///
  /// - Parameters:
  ///   - label: What is going on.
  ///   - total: All steps.
  ///   - isOn: Whether anything is printed; usually whether standard error is a terminal.
  public init(_ label: String, total: Int, isOn: Bool) {
    self.label = label
    self.total = max(total, 1)
    self.isOn = isOn
  }

  /// Shows that `done` steps are complete, at most five times a second.
  public func update(_ done: Int, _ words: @autoclosure () -> String = "") {
    let begin = first ?? done
    first = begin
    guard isOn, done >= total || Date().timeIntervalSince(last) > 0.2 else { return }
    last = Date()
    let width = 24
    let filled = min(done * width / total, width)
    let bar = String(repeating: "█", count: filled) + String(repeating: "·", count: width - filled)
    let left =
      done > begin
      ? Self.clock(Date().timeIntervalSince(start) / Double(done - begin) * Double(max(total - done, 0))) : "--:--"
    FileHandle.standardError.write(
      Data("\r\u{1B}[K\(label) \(bar) \(done)/\(total) left \(left) \(words())\(done >= total ? "\n" : "")".utf8))
  }

  /// Prints a line that stays, above the progress line.
  public func note(_ words: String) {
    if isOn { FileHandle.standardError.write(Data("\r\u{1B}[K\(words)\n".utf8)) }
  }

  private static func clock(_ seconds: Double) -> String {
    let seconds = Int(min(seconds, 359_999))
    return seconds >= 3600
      ? String(format: "%d:%02d:%02d", seconds / 3600, seconds / 60 % 60, seconds % 60)
      : String(format: "%02d:%02d", seconds / 60, seconds % 60)
  }
}
