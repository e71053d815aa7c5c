import ArgumentParser
import Checkpoints
import Foundation
import Torch

/// Options that every verb takes.
struct CommonOptions: ParsableArguments {
  /// Arithmetic of the model.
  enum Precision: String, ExpressibleByArgument, CaseIterable { case fp32, int8 }

  @Option(help: "Arithmetic of the models: fp32. (int8 is not in this version.)")
  var precision = Precision.fp32

  @Option(help: "Threads for the operators. Default: all cores.")
  var threads: Int?

  @Option(help: "Where the models run: cpu.")
  var device = "cpu"

  @Flag(help: "Print JSON Lines on standard output.")
  var json = false

  @Flag(help: "No progress on standard error.")
  var quiet = false

  @Flag(help: "Progress on standard error even when that is no terminal.")
  var progress = false

  @Option(help: "Everything random follows from it.")
  var seed: UInt64 = 0

  func validate() throws {
    if let threads, threads < 1 { throw ValidationError("--threads \(threads): expected at least 1") }
  }

  /// Whether progress is shown.
  var showsProgress: Bool { !quiet && (progress || isatty(2) == 1) }

  /// Puts the options into force.
  ///
  /// - Throws: ``CommandError/unavailable(_:)`` for what this build does not have.
  func apply() throws {
    guard precision == .fp32 else { throw CommandError.unavailable("--precision int8: this version computes in fp32") }
    guard device == "cpu" else { throw CommandError.unavailable("--device \(device): this version runs on the cpu") }
    if let threads { TorchRuntime.threads = threads }
  }
}

/// Keys that a model's file may lack.
struct MissingOptions: ParsableArguments {
  @Option(
    help: "A key that may be missing, or a pattern with * for anything. May be repeated. Default: none may.")
  var allowMissing: [String] = []

  /// Says on standard error what was made afresh for want of a key, when keys were allowed to be missing.
  func warn(_ report: LoadReport, _ common: CommonOptions) {
    guard !allowMissing.isEmpty, !report.initialised.isEmpty, !common.quiet else { return }
    let keys = report.initialised.joined(separator: ", ")
    FileHandle.standardError.write(Data("note: \(report.file): initialised afresh: \(keys)\n".utf8))
  }
}

/// Lines on standard output.
enum Output {
  /// Prints a value as one line of JSON.
  static func json(_ values: [String: Any]) {
    guard
      let data = try? JSONSerialization.data(withJSONObject: values, options: [.sortedKeys, .withoutEscapingSlashes])
    else { return }
    line(String(decoding: data, as: UTF8.self))
  }

  /// Prints a line at once, also into a pipe.
  static func line(_ text: String) { write(text + "\n") }

  /// Prints text at once. When that fails, the program ends with an error: what it writes is what it is for.
  static func write(_ text: String) {
    var rest = Array(text.utf8)[...]
    while !rest.isEmpty {
      let written = rest.withUnsafeBytes { Foundation.write(STDOUT_FILENO, $0.baseAddress, $0.count) }
      if written < 0 && errno == EINTR { continue }
      guard written > 0 else {
        Failure.exit(CheckpointError.cannotWrite(file: "standard output", reason: String(cString: strerror(errno))))
      }
      rest = rest.dropFirst(written)
    }
  }

  /// Text without tabs and line breaks, for tables.
  static func cell(_ text: String) -> String {
    text.split(whereSeparator: { $0.isNewline || $0 == "\t" }).joined(separator: " ")
  }
}
