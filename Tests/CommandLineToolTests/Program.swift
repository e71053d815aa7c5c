import Foundation
import Media
import TestSupport
import Testing

/// The built program, run as a process of its own.
struct Program {
  /// What a run left behind.
  struct Result {
    let code: Int32
    let output: String
    let errors: String

    /// Lines of standard output.
    var lines: [String] { output.split(separator: "\n").map(String.init) }
    /// Lines of standard error that report an error.
    var errorLines: [String] { errors.split(separator: "\n").map(String.init).filter { $0.hasPrefix("error:") } }

    /// The objects of JSON Lines.
    func json(sourceLocation: SourceLocation = #_sourceLocation) throws -> [[String: Any]] {
      try lines.map {
        try #require(
          try JSONSerialization.jsonObject(with: Data($0.utf8)) as? [String: Any], sourceLocation: sourceLocation)
      }
    }
  }

  /// Where the models lie.
  let environment: [String: String]

  /// `qformer` lies where the tests were built, beside their bundle.
  static let url: URL = {
    let arguments = CommandLine.arguments
    let starts = arguments.prefix(1) + arguments.filter { $0.contains(".xctest") } + Bundle.allBundles.map(\.bundlePath)
    for start in starts {
      var folder = URL(fileURLWithPath: start).resolvingSymlinksInPath()
      for _ in 0..<5 {
        folder.deleteLastPathComponent()
        let file = folder.appendingPathComponent("qformer")
        if FileManager.default.isExecutableFile(atPath: file.path) { return file }
      }
    }
    return URL(fileURLWithPath: "/qformer-was-not-built")
  }()

  /// A process that runs, with its output in files.
  final class Running {
    let process = Process()
    private let folder: URL

    fileprivate init(
      _ executable: URL, _ arguments: [String], environment: [String: String], input: String = "", pipe: Pipe? = nil
    ) throws {
      folder = FileManager.default.temporaryDirectory.appendingPathComponent("qformer-run-\(UUID().uuidString)")
      try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
      func handle(_ name: String, _ content: String = "") throws -> FileHandle {
        let file = folder.appendingPathComponent(name)
        try Data(content.utf8).write(to: file)
        return try FileHandle(forUpdating: file)
      }
      process.executableURL = executable
      process.arguments = arguments
      process.environment = ProcessInfo.processInfo.environment.merging(environment) { $1 }
      process.standardInput = try pipe ?? handle("input", input)
      process.standardOutput = try handle("output")
      process.standardError = try handle("errors")
      try process.run()
    }

    /// Standard output so far.
    var outputSoFar: String {
      String(decoding: (try? Data(contentsOf: folder.appendingPathComponent("output"))) ?? Data(), as: UTF8.self)
    }

    /// Waits until something holds; false when the run ends, or a minute passes, before it does.
    func wait(until holds: () -> Bool) -> Bool {
      let end = Date().addingTimeInterval(60)
      while !holds() {
        guard process.isRunning, Date() < end else { return holds() }
        usleep(10_000)
      }
      return true
    }

    /// Waits for the end; a run that hangs is killed and reported.
    func finish(limit: TimeInterval = 240) throws -> Result {
      let end = Date().addingTimeInterval(limit)
      while process.isRunning && Date() < end { usleep(10_000) }
      if process.isRunning {
        Issue.record("still running after \(limit) s: \(process.arguments ?? [])")
        kill(process.processIdentifier, SIGKILL)
      }
      process.waitUntilExit()
      defer { try? FileManager.default.removeItem(at: folder) }
      func text(_ name: String) throws -> String {
        String(decoding: try Data(contentsOf: folder.appendingPathComponent(name)), as: UTF8.self)
      }
      return Result(code: process.terminationStatus, output: try text("output"), errors: try text("errors"))
    }
  }

  /// Starts `qformer` with these arguments.
  func start(_ arguments: [String], input: String = "") throws -> Running {
    try Running(Self.url, arguments, environment: environment, input: input)
  }

  /// Starts `qformer` with a pipe as its standard input.
  func start(_ arguments: [String], pipe: Pipe) throws -> Running {
    try Running(Self.url, arguments + ["--threads", "1"], environment: environment, pipe: pipe)
  }

  /// Runs `qformer` to its end, on one thread.
  func run(_ arguments: String..., input: String = "") throws -> Result {
    try start(arguments + (arguments.contains("--help") ? [] : ["--threads", "1"]), input: input).finish()
  }

  /// Runs `qformer` from a shell that first runs `setup`.
  func run(after setup: String, _ arguments: [String]) throws -> Result {
    try Running(
      URL(fileURLWithPath: "/bin/bash"), ["-c", "\(setup); exec \"$0\" \"$@\"", Self.url.path] + arguments,
      environment: environment, input: ""
    ).finish()
  }
}

/// Tiny models and pictures in a folder of the test's own, and the program that finds them.
struct Workplace {
  let folder: URL
  let models: TinyModels
  let program: Program
  let pictures: [String]

  init(_ folder: URL) throws {
    self.folder = folder
    models = try TinyModels(in: folder)
    program = Program(environment: models.environment)
    pictures = try (0..<3).map { number in
      let file = folder.appendingPathComponent("picture \(number).png")
      try TinyPictures.picture(number).write(to: file)
      return file.path
    }
  }

  /// A path in the folder.
  func path(_ name: String) -> String { folder.appendingPathComponent(name).path }

  /// Writes a file and returns its path.
  @discardableResult
  func write(_ name: String, _ text: String) throws -> String { try write(name, Data(text.utf8)) }

  @discardableResult
  func write(_ name: String, _ data: Data) throws -> String {
    try data.write(to: folder.appendingPathComponent(name))
    return path(name)
  }

  /// Writes a data set and a recipe for it; returns the recipe's path.
  func recipe(epochs: Double = 2, more: String = "") throws -> String {
    try TinyPictures.write(to: folder.appendingPathComponent("data"), train: 8, validation: 3)
    return try write(
      "tiny.yaml",
      """
      objective: image-text
      paths: {data: \(path("data"))}
      encoder: {block: 1, image_size: 56}
      text: {max_length: 12}
      adapter: {queries: 4, positions: 32}
      train: [{format: captions-jsonl, path: $data, split: train}]
      validation: [{format: captions-jsonl, path: $data, split: val}]
      batchSize: 4
      epochs: \(epochs)
      logEvery: 1
      \(more)
      """)
  }

  /// Losses by step, of a run's metrics.
  func losses(_ run: String) throws -> [Int: [String: Double]] {
    let file = folder.appendingPathComponent(run).appendingPathComponent("metrics.jsonl")
    var out: [Int: [String: Double]] = [:]
    for line in try String(contentsOf: file, encoding: .utf8).split(separator: "\n") {
      let values = try #require(try JSONSerialization.jsonObject(with: Data(line.utf8)) as? [String: Any])
      guard values["validation"] == nil, let step = values["step"] as? Int else { continue }
      #expect(out[step] == nil, "step \(step) twice in \(run)")
      out[step] = values.compactMapValues { $0 as? Double }.filter {
        !["seconds", "samplesPerSecond"].contains($0.key)
      }
    }
    return out
  }
}

/// Runs a test in a workplace of its own.
func withWorkplace(_ body: (Workplace) throws -> Void) throws {
  try withTemporaryFolder { try body(Workplace($0)) }
}
