import Foundation
import Tokenizers

private let folder = FileManager.default.temporaryDirectory.appendingPathComponent("fuzz-\(getpid())-sentencepiece")
private let files = ["spiece.model", "tokenizer.model"].map { folder.appendingPathComponent($0) }

/// libFuzzer calls this with every input: a model of SentencePiece, read as T5's and as Llama's.
@_cdecl("LLVMFuzzerTestOneInput")
public func fuzz(_ start: UnsafePointer<UInt8>, _ count: Int) -> CInt {
  for file in files {
    do {
      try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
      try Data(bytes: start, count: count).write(to: file)
      let tokenizer = try Tokenizer(contentsOf: file)
      _ = tokenizer.decode(tokenizer.encode("A héllo, 12 wörlds 🙂\n  <s>"))
    } catch is TokenizerError {} catch { fatalError("\(error)") }
  }
  return 0
}
