import Foundation
import Tokenizers

private let folder = FileManager.default.temporaryDirectory.appendingPathComponent("fuzz-\(getpid())-vocabulary")

/// Reads a folder that holds the given files and nothing else.
private func read(_ files: [String: Data]) throws {
  try? FileManager.default.removeItem(at: folder)
  try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
  for (name, data) in files { try data.write(to: folder.appendingPathComponent(name)) }
  do {
    let tokenizer = try Tokenizer(contentsOf: folder)
    _ = tokenizer.decode(tokenizer.encode("A héllo, 12 wörlds 🙂\n  <s>"))
  } catch is TokenizerError {}
}

/// libFuzzer calls this with every input: `vocab.json`, a zero byte, `merges.txt`, a zero byte, `tokenizer_config.json`;
/// without a zero byte `vocab.txt`.
@_cdecl("LLVMFuzzerTestOneInput")
public func fuzz(_ start: UnsafePointer<UInt8>, _ count: Int) -> CInt {
  let parts = Data(bytes: start, count: count).split(separator: 0, maxSplits: 2, omittingEmptySubsequences: false)
  do {
    switch parts.count {
    case 1: try read(["vocab.txt": parts[0]])
    case 2: try read(["vocab.json": parts[0], "merges.txt": parts[1]])
    default: try read(["vocab.json": parts[0], "merges.txt": parts[1], "tokenizer_config.json": parts[2]])
    }
  } catch { fatalError("\(error)") }
  return 0
}
