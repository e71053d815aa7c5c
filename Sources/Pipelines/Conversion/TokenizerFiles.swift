import Checkpoints
import Foundation

/// The files that make up a tokenizer.
enum TokenizerFiles {
  static let names = [
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "merges.txt", "vocab.txt", "spiece.model", "tokenizer.model", "chat_template.jinja",
  ]

  /// Whether a folder has a tokenizer's vocabulary.
  static func areThere(in folder: URL) -> Bool {
    ["tokenizer.json", "vocab.json", "vocab.txt", "spiece.model", "tokenizer.model"].contains {
      FileManager.default.fileExists(atPath: folder.appendingPathComponent($0).path)
    }
  }

  /// Copies those that there are, and names the tokenizer's class where the source does not: transformers would else
  /// take the one that belongs to the whole model, which may be another.
  static func copy(from source: URL, to folder: URL) throws {
    try copy(names, from: source, to: folder)
    let file = folder.appendingPathComponent("tokenizer_config.json")
    var settings = FileManager.default.fileExists(atPath: file.path) ? try jsonObject(contentsOf: file) : [:]
    guard settings["tokenizer_class"] == nil else { return }
    let classes = [
      ("tokenizer.json", "PreTrainedTokenizerFast"), ("vocab.json", "GPT2Tokenizer"), ("spiece.model", "T5Tokenizer"),
      ("tokenizer.model", "LlamaTokenizer"), ("vocab.txt", "BertTokenizer"),
    ]
    for (name, className) in classes {
      guard FileManager.default.fileExists(atPath: folder.appendingPathComponent(name).path) else { continue }
      settings["tokenizer_class"] = className
      return try writeJSON(settings, to: file)
    }
  }

  /// Copies files that there are; links are followed.
  static func copy(_ names: [String], from source: URL, to folder: URL) throws {
    let manager = FileManager.default
    for name in names {
      let file = source.appendingPathComponent(name).resolvingSymlinksInPath()
      guard manager.fileExists(atPath: file.path) else { continue }
      do {
        try manager.createDirectory(at: folder, withIntermediateDirectories: true)
        try manager.copyItem(at: file, to: folder.appendingPathComponent(name))
      } catch {
        throw CheckpointError.cannotWrite(
          file: folder.appendingPathComponent(name).path, reason: error.localizedDescription)
      }
    }
  }
}
