public import Checkpoints
public import Foundation
public import Testing
public import Torch

/// The folder `Tests/Fixtures`.
public let fixtures = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
  .appendingPathComponent("Fixtures")

/// Named tensors that a Python script beside them wrote.
public struct Fixture {
  /// The file.
  public let checkpoint: Checkpoint

  /// Opens `Tests/Fixtures/PATH`.
  public init(_ path: String) throws { checkpoint = try Checkpoint(contentsOf: fixtures.appendingPathComponent(path)) }

  /// A tensor; a missing one fails the test.
  public subscript(name: String) -> Tensor {
    do { return try checkpoint.tensor(name) } catch {
      Issue.record("\(error)")
      return Tensor.zeros([])
    }
  }
}

/// The largest difference of two tensors over the largest value of the second.
public func relativeError(_ actual: Tensor, _ expected: Tensor) -> Double {
  guard actual.shape == expected.shape else { return .infinity }
  let scale = expected.to(.float64).abs().max().item
  let difference = (actual.detached().to(.float64) - expected.to(.float64)).abs().max().item
  return difference.isNaN ? .infinity : difference / max(scale, 1e-12)
}

/// Set `QFORMER_SHOW_ERRORS` to have every comparison print what it measured.
private let showsErrors = ProcessInfo.processInfo.environment["QFORMER_SHOW_ERRORS"] != nil

/// Compares whole tensors: shape, then max |difference| / max |expected|.
public func expectClose(
  _ actual: Tensor, _ expected: Tensor, relative limit: Double = 1e-5, _ what: String = "",
  sourceLocation: SourceLocation = #_sourceLocation
) {
  let error = relativeError(actual, expected)
  if showsErrors { print("\(sourceLocation.fileName):\(sourceLocation.line) \(what) relative error \(error)") }
  #expect(
    error <= limit, "\(what) shapes \(actual.shape), \(expected.shape); relative error \(error)",
    sourceLocation: sourceLocation)
}

/// The folder of a fetched model, or nil with the reason printed when it is not in the cache.
public func fetchedModel(_ name: String) -> URL? {
  let cache =
    ProcessInfo.processInfo.environment["QFORMER_CACHE"].map { URL(fileURLWithPath: $0) }
    ?? FileManager.default.homeDirectoryForCurrentUser.appendingPathComponent(".cache/swift-qformer")
  let folder = cache.appendingPathComponent("models/\(name)")
  if FileManager.default.fileExists(atPath: folder.appendingPathComponent("model.safetensors").path) { return folder }
  print("skipped: the model \(name) is not in \(cache.path); scripts/fetch-models gets it")
  return nil
}

/// Resident memory of this process in bytes; nil where /proc/self/statm cannot be read.
public var residentMemory: Int? {
  guard let text = try? String(contentsOfFile: "/proc/self/statm", encoding: .utf8) else { return nil }
  let fields = text.split(separator: " ")
  guard fields.count > 1, let pages = Int(fields[1]) else { return nil }
  return pages * Int(sysconf(Int32(_SC_PAGESIZE)))
}

/// Runs `body` with an empty folder that is removed afterwards.
public func withTemporaryFolder<Result>(_ body: (URL) throws -> Result) throws -> Result {
  let folder = FileManager.default.temporaryDirectory.appendingPathComponent("qformer-\(UUID().uuidString)")
  try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
  defer { try? FileManager.default.removeItem(at: folder) }
  return try body(folder)
}
