import Foundation
import Tokenizers

private let file = FileManager.default.temporaryDirectory.appendingPathComponent("fuzz-\(getpid())-tokenizer.json")

/// libFuzzer calls this with every input.
@_cdecl("LLVMFuzzerTestOneInput")
public func fuzz(_ start: UnsafePointer<UInt8>, _ count: Int) -> CInt {
  do {
    try Data(bytes: start, count: count).write(to: file)
    let tokenizer = try Tokenizer(contentsOf: file)
    _ = tokenizer.decode(tokenizer.encode("A héllo, 12 wörlds 🙂\n  <s>"))
  } catch is TokenizerError {} catch { fatalError("\(error)") }
  return 0
}
