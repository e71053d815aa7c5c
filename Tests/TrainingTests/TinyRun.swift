import Checkpoints
import Foundation
import Testing
import Torch

@testable import Training

extension Recipe {
  /// Few and large steps on tiny models, without dropout; the two splits of a data set in JSON Lines.
  static func tiny(_ data: URL) -> Recipe {
    var recipe = Recipe()
    recipe.encoder = TinyModels.encoder
    recipe.text = TinyModels.text
    recipe.adapter.queries = TinyModels.queries
    recipe.adapter.positions = 32
    // Dropout draws from the process's own generator, which tests that run beside this one use, too.
    recipe.adapter.hiddenDropout = 0
    recipe.train = [DataSource(format: .captionsJSONL, path: data.path, split: "train")]
    recipe.validation = [DataSource(format: .captionsJSONL, path: data.path, split: "val")]
    recipe.batchSize = 4
    recipe.optimizer.learningRate = 5e-3
    recipe.optimizer.inheritedFactor = 1
    recipe.imageText.rerank = 2
    recipe.imageLanguage.maximumTokens = 16
    recipe.logEvery = 1
    recipe.validateEvery = 5
    recipe.checkpointEvery = 4
    return recipe
  }
}

/// What a run has written.
enum RunFiles {
  /// All metrics but those of the clock.
  static func metrics(of run: URL) throws -> [NSDictionary] {
    let file = run.appendingPathComponent("metrics.jsonl")
    return try String(contentsOf: file, encoding: .utf8).split(separator: "\n").map { line in
      var values = try #require(
        try JSONSerialization.jsonObject(with: Data(line.utf8)) as? [String: Any], "\(line)")
      values["seconds"] = nil
      values["samplesPerSecond"] = nil
      return values as NSDictionary
    }
  }

  /// The bytes of every tensor.
  static func weights(of adapter: URL) throws -> [String: Data] {
    let checkpoint = try Checkpoint(contentsOf: adapter)
    return Dictionary(uniqueKeysWithValues: try checkpoint.names.map { ($0, try checkpoint.tensor($0).bytes()) })
  }
}
