import Foundation
import Pipelines
import TestSupport
import Testing

@Suite("Where models lie")
struct ModelStoreTests {
  private func makeModel(_ folder: URL) throws {
    try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    try Data("{}".utf8).write(to: folder.appendingPathComponent("config.json"))
  }

  @Test("The environment names the folders; without it the usual ones are taken")
  func folders() {
    let store = ModelStore(environment: ["QFORMER_CACHE": "/somewhere/cache", "QFORMER_MODELS": "/somewhere/models"])
    #expect(store.cache.path == "/somewhere/cache")
    #expect(store.adapterFolders.map(\.path) == ["/somewhere/models"])
    let usual = ModelStore(environment: [:])
    #expect(usual.cache.path.hasSuffix("/.cache/swift-qformer"))
    #expect(usual.adapterFolders.allSatisfy { $0.lastPathComponent == "Models" })
    let current = URL(fileURLWithPath: FileManager.default.currentDirectoryPath).appendingPathComponent("Models")
    #expect(usual.adapterFolders.map(\.path).contains(current.path))
  }

  @Test("Models are found by name and by folder")
  func found() throws {
    try withTemporaryFolder { folder in
      let store = ModelStore(environment: ["QFORMER_CACHE": folder.path, "QFORMER_MODELS": folder.path + "/Models"])
      let frozen = folder.appendingPathComponent("models/minilm-l6")
      let own = folder.appendingPathComponent("models/of-my-own")
      let adapter = folder.appendingPathComponent("Models/image-match")
      let run = folder.appendingPathComponent("run/adapter")
      for model in [frozen, own, adapter, run] { try makeModel(model) }
      #expect(try store.frozenModel("minilm-l6").path == frozen.path)
      #expect(try store.frozenModel("of-my-own").path == own.path)
      #expect(try store.frozenModel(run.path).path == run.path)
      #expect(try store.adapter("image-match").path == adapter.path)
      #expect(try store.adapter(run.path).path == run.path)
    }
  }

  @Test("A model that is not there names the folder that was searched and the script that fetches it")
  func notFetched() throws {
    try withTemporaryFolder { folder in
      let store = ModelStore(environment: ["QFORMER_CACHE": folder.path, "QFORMER_MODELS": folder.path])
      let expected = PipelineError.notFetched(
        model: "dinov2-small-focus", searched: [folder.path + "/models"], command: "scripts/fetch-models")
      #expect(throws: expected) { try store.frozenModel("dinov2-small-focus") }
      #expect("\(expected)".contains("scripts/fetch-models"))
      #expect("\(expected)".contains(folder.path))
      // A folder without config.json is no model.
      try FileManager.default.createDirectory(
        at: folder.appendingPathComponent("models/dinov2-small-focus"), withIntermediateDirectories: true)
      #expect(throws: expected) { try store.frozenModel("dinov2-small-focus") }
      #expect { try store.adapter("image-caption") } throws: { error in
        guard case .notFetched(let model, _, let command) = error as? PipelineError else { return false }
        return model == "image-caption" && command.contains("QFORMER_MODELS")
      }
    }
  }

  @Test("An unknown name lists the known ones; it does not lead out of the folders")
  func unknown() throws {
    try withTemporaryFolder { folder in
      try makeModel(folder.appendingPathComponent("outside"))
      let store = ModelStore(
        environment: ["QFORMER_CACHE": folder.path + "/cache", "QFORMER_MODELS": folder.path + "/cache/models"])
      #expect(throws: PipelineError.unknownModel("gpt-9", known: ModelStore.frozen)) { try store.frozenModel("gpt-9") }
      #expect(throws: PipelineError.unknownModel("gpt-9", known: ModelStore.adapters)) { try store.adapter("gpt-9") }
      #expect(throws: PipelineError.self) { try store.frozenModel("../../outside") }
      #expect(throws: PipelineError.self) { try store.adapter("../../outside") }
    }
  }
}
