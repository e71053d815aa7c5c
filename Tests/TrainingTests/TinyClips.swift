import Foundation
import Media
import TestSupport

@testable import Training

/// Clips of two pictures each, one colour after another, whose captions and questions are about the order.
enum TinyClips {
  /// The numbers of the pictures of each clip: every pair and its reverse.
  static let pairs = [(0, 1), (1, 0), (2, 3), (3, 2)]
  static let colours = ["red", "green", "blue", "white"]

  /// Writes `captions.jsonl` and its pictures, the same clips for `train` and `val`.
  static func write(to folder: URL) throws {
    try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    for number in 0..<4 {
      try TinyPictures.picture(number).write(to: folder.appendingPathComponent("\(number).png"))
    }
    let lines = ["train", "val"].flatMap { split in
      pairs.map { first, second in
        let a = colours[first]
        return """
          {"id": "\(split)-\(first)\(second)", "images": ["\(first).png", "\(second).png"], "seconds": [0, 1.5], \
          "split": "\(split)", "captions": ["\(a) first"], "questions": [{"question": "what comes first?", \
          "answer": "\(a)", "choices": ["\(colours[min(first, second)])", "\(colours[max(first, second)])"], \
          "task": "order"}, {"question": "how many?", "answer": "two", "choices": ["one", "two", "three", "four"], \
          "task": "count"}]}
          """
      }
    }
    try Data((lines.joined(separator: "\n") + "\n").utf8).write(to: folder.appendingPathComponent("captions.jsonl"))
  }
}
