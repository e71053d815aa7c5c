import Foundation
import Pipelines
import QFormer
import TestSupport
import Testing

@testable import Training

@Suite("Recipes")
struct RecipeTests {
  private func recipe(_ yaml: String, _ settings: [String] = []) throws -> Recipe {
    try withTemporaryFolder { folder in
      let file = folder.appendingPathComponent("recipe.yaml")
      try Data(yaml.utf8).write(to: file)
      return try Recipe(contentsOf: file, settings: settings)
    }
  }

  /// The reason for which a recipe is refused.
  private func reason(_ yaml: String, _ settings: [String] = []) -> String {
    do {
      _ = try recipe(yaml, settings)
      return "nothing thrown"
    } catch TrainingError.badRecipe(let file, let reason) {
      return file.hasSuffix("recipe.yaml") ? reason : "no file named: \(reason)"
    } catch { return "another error: \(error)" }
  }

  @Test("What is left out keeps its default")
  func defaults() throws {
    #expect(try recipe("{}") == Recipe())
    var expected = Recipe()
    expected.batchSize = 8
    expected.optimizer.clip = 2
    expected.encoder.imageSize = 56
    expected.adapter.start = "image-match"
    let yaml = "batchSize: 8\noptimizer: {clip: 2}\nencoder: {image_size: 56}\nadapter: {start: image-match}"
    #expect(try recipe(yaml) == expected)
  }

  @Test("A recipe written out is the same recipe")
  func roundTrip() throws {
    var written = Recipe()
    written.objective = .imageLanguage
    written.paths = ["photos": "/data/photos"]
    written.train = [DataSource(format: .webDataset, path: "$photos", split: "train", repeats: 3)]
    written.optimizer.learningRate = 1.25e-4
    written.adapter.start = "image-match"
    written.language.template = try PromptTemplate("bee => A bee.\n{image} => {text}\n")
    #expect(try recipe(written.yaml()) == written)
    #expect(try recipe(Recipe().yaml()) == Recipe())
    written.objective = .videoLanguage
    written.imageLanguage.captionsPerImage = 0
    written.imageLanguage.questionsPerImage = 2
    written.video.family = .spatioTemporal
    written.video.baseline = .meanPooled
    written.video.freeze = .inheritedAttention
    written.video.time.interpolation = .linear
    written.video.spatioTemporal.temporalQueries = 8
    written.video.spatioTemporal.expertLayers = 2
    written.video.spatioTemporal.languageGroups = [.temporal, .summary]
    #expect(try recipe(written.yaml()) == written)
  }

  @Test("The recipes of this package can be read")
  func shipped() throws {
    let folder = fixtures.deletingLastPathComponent().deletingLastPathComponent().appendingPathComponent("Recipes")
    let names = try FileManager.default.contentsOfDirectory(atPath: folder.path).filter { $0.hasSuffix(".yaml") }
    #expect(names.count >= 2)
    for name in names {
      let recipe = try Recipe(
        contentsOf: folder.appendingPathComponent(name),
        settings: ["paths.photos=/somewhere/photos", "paths.videos=/somewhere"])
      #expect(!recipe.train.isEmpty, "\(name)")
    }
  }

  @Test("Settings change values by their path, whatever their type")
  func settings() throws {
    let changed = try recipe(
      "batchSize: 8",
      [
        "batchSize=16", "optimizer.learningRate=1e-3", "paths.photos=/data/a=b", "adapter.start=null", "mirrored=false",
        "encoder.block=null", "train=[{format: captions-jsonl, path: x}]",
      ])
    #expect(changed.batchSize == 16)
    #expect(changed.optimizer.learningRate == 1e-3)
    #expect(changed.paths == ["photos": "/data/a=b"])
    #expect(changed.adapter.start == nil)
    #expect(!changed.mirrored)
    #expect(changed.train == [DataSource(format: .captionsJSONL, path: "x")])
    #expect(reason("{}", ["batchSize"]).contains("--set batchSize: expected key=value"))
    #expect(reason("{}", ["=3"]).contains("expected key=value"))
  }

  @Test("Unknown keys are named, all of them, with their paths")
  func unknown() {
    #expect(reason("batchsize: 8") == "unknown keys: batchsize")
    let yaml = "optimizer: {lr: 3, clip: 1}\nimageText: {captions: 1}\nepoch: 3"
    #expect(reason(yaml) == "unknown keys: epoch, imageText.captions, optimizer.lr")
    #expect(reason("{}", ["adapter.widht=3"]) == "unknown keys: adapter.widht")
    #expect(reason("train: [{format: webdataset, path: x, spilt: train}]").contains("spilt"))
  }

  @Test("Values of another type and values out of range are named")
  func badValues() {
    #expect(reason("batchSize: many").contains("batchSize"))
    #expect(reason("optimizer: 3").contains("optimizer"))
    #expect(reason("objective: image-sound").contains("image-sound"))
    #expect(reason("train: [{format: zip, path: x}]").contains("zip"))
    #expect(reason("video: {family: joint}").contains("joint"))
    #expect(reason("video: {baseline: last-frame}").contains("last-frame"))
    #expect(reason("video: {freeze: inherited-attention}").contains("adapter.start"))
    #expect(reason("video: {timeDeviation: -1}").contains("video.timeDeviation is -1"))
    #expect(reason("video: {timeDeviation: 1, time: {encoding: sinusoid}}").contains("for a learned table"))
    #expect(reason("objective: video-words\nadapter: {layers: 3}").contains("adapter.layers is for pictures"))
    #expect(
      reason("adapter: {start: a}\nvideo: {family: spatio-temporal, freeze: frame-qformer}")
        .contains("cascaded ones alone"))
    #expect(reason("objective: video-text\nadapter: {crossAttention: pooling}").contains("for pictures"))
    #expect(reason("objective: video-text\nvideo: {matchingHead: none}").contains("video.matchingHead is none"))
    #expect(reason("video: {time: {encoding: seconds}}").contains("seconds"))
    #expect(reason("language: {beams: 65}").contains("language.beams is 65, expected 1 … 64"))
    #expect(reason("video: {queries: 8}") == "unknown keys: video.queries")
    for (setting, key) in [
      ("batchSize=0", "batchSize"), ("epochs=0", "epochs"), ("epochs=.nan", "epochs"), ("patchPart=1.5", "patchPart"),
      ("imageText.matchingPart=-1", "matchingPart"), ("imageText.captionsPerImage=0", "captionsPerImage"),
      ("imageLanguage.selfCritical={samples: 1}", "selfCritical.samples"),
      ("imageLanguage.selfCritical={part: 0}", "selfCritical.part"),
      ("imageLanguage.selfCritical={sample: 3}", "unknown keys: imageLanguage.selfCritical.sample"),
      ("imageLanguage.selfCritical={}", "selfCritical is for image-language"),
      ("imageLanguage.maximumTokens=0", "maximumTokens"), ("imageLanguage.captions=0", "captions"),
      ("imageLanguage.questionsPerImage=-1", "questionsPerImage"), ("video.frames=0", "video.frames"),
      ("video.cascaded.layers=0", "cascaded.layers"), ("imageLanguage.captionsPerImage=0", "captionsPerImage"),
      ("optimizer.learningRate=2", "learningRate"), ("optimizer.beta2=1", "beta2"), ("optimizer.clip=0", "clip"),
      ("optimizer.warmup=2", "warmup"), ("adapter.positions=8", "positions"), ("logEvery=0", "logEvery"),
      ("imageText.temperature=0", "temperature"), ("imageText.labelSmoothing=1", "labelSmoothing"),
    ] {
      #expect(reason("{}", [setting]).contains(key), "\(setting): \(reason("{}", [setting]))")
    }
  }

  @Test("Files that are no recipe")
  func noRecipe() throws {
    #expect(reason("a: [").contains("2:") || reason("a: [").contains("1:"), "\(reason("a: ["))")
    #expect(reason("- 1") == "expected keys and values")
    #expect(reason("") == "expected keys and values")
    try withTemporaryFolder { folder in
      let file = folder.appendingPathComponent("none.yaml")
      #expect(throws: TrainingError.noRecipe(file: file.path)) { try Recipe(contentsOf: file) }
      #expect(throws: TrainingError.self) { try Recipe(contentsOf: folder) }
      try Data([0xFF, 0xFE, 0x00]).write(to: file)
      #expect(throws: TrainingError.self) { try Recipe(contentsOf: file) }
      try Data(repeating: 0x20, count: 1_000_000).write(to: file)
      #expect(throws: TrainingError.self) { try Recipe(contentsOf: file) }
    }
  }

  @Test("$NAME stands for a folder; one that is not given is asked for")
  func paths() throws {
    let yaml = "train: [{format: webdataset, path: $photos/part}, {format: webdataset, path: $cache/stamps}]"
    #expect(
      reason(yaml) == "the folder $photos/part is not known: give it with --set paths.photos=FOLDER", "\(reason(yaml))")
    let recipe = try recipe(yaml, ["paths.photos=/data/photos"])
    let store = ModelStore(environment: ["QFORMER_CACHE": "/cache"])
    #expect(
      try recipe.train.map { try recipe.resolved($0, store: store).path } == [
        "/data/photos/part", "/cache/data/stamps",
      ])
    var without = recipe
    without.paths = [:]
    #expect(throws: TrainingError.self) { try without.resolved(recipe.train[0], store: store) }
    let plain = DataSource(format: .webDataset, path: "folder/$photos")
    #expect(try without.resolved(plain, store: store) == plain)
  }
}
