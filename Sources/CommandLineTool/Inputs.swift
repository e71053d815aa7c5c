import ArgumentParser
import Foundation
import Media

/// Pictures named on the command line; `-` reads a list of paths from standard input.
struct Inputs {
  let paths: [String]
  private var failures: [any Error] = []

  /// - Throws: A usage error when nothing is named.
  init(_ arguments: [String]) throws {
    paths = arguments.flatMap { argument -> [String] in
      guard argument == "-" else { return [argument] }
      return sequence(state: (), next: { _ in readLine() }).filter { !$0.isEmpty }
    }
    if paths.isEmpty { throw ValidationError("expected at least one input") }
  }

  /// Decodes all pictures, in groups, and hands them on. One that cannot be decoded is reported and does not stop the
  /// others.
  mutating func forEach(batch size: Int, _ body: ([(path: String, image: Image)]) throws -> Void) throws {
    var group: [(path: String, image: Image)] = []
    for path in paths {
      do {
        group.append((path, try Image(contentsOf: URL(fileURLWithPath: path))))
      } catch {
        failures.append(error)
        if paths.count > 1 { Failure.report(error) }
      }
      if group.count == size {
        try body(group)
        group = []
      }
    }
    if !group.isEmpty { try body(group) }
  }

  /// Throws when some input failed: its own error when it was the only one, else how many.
  func finish() throws {
    guard let first = failures.first else { return }
    throw paths.count == 1 ? first : CommandError.someInputsFailed(failures.count, of: paths.count)
  }
}
