import Backbones
import Checkpoints
import Foundation
import Media
import Pipelines
import QFormer
import TestSupport
import Testing
import Torch
import TorchNN

@testable import Training

@Suite("Training with sound, on tiny models")
struct SoundTrainingTests {
  /// Five clips that look the same: two of a low tone, two of a high one, and a silent one.
  private struct Place {
    let folder: URL
    let models: TinyModels
    let data: URL
    var recipe: Recipe

    init(_ folder: URL) throws {
      self.folder = folder
      models = try TinyModels(in: folder)
      try models.addWhisper()
      try TinyModels.writeCascaded(to: models.adapters.appendingPathComponent("seeing"))
      data = folder.appendingPathComponent("clips")
      try FileManager.default.createDirectory(at: data, withIntermediateDirectories: true)
      for number in 0..<2 {
        try TinyPictures.picture(number).write(to: data.appendingPathComponent("\(number).png"))
      }
      try TinySounds.tone(200, to: data.appendingPathComponent("low.wav"))
      try TinySounds.tone(3000, to: data.appendingPathComponent("high.wav"))
      let tones = ["low", "high", "high", "low", nil]
      let lines = ["train", "val"].flatMap { split in
        tones.enumerated().map { number, tone in
          let sound = tone.map { "\"audio\": \"\($0).wav\", " } ?? ""
          let question = tone.map {
            """
            {"question": "what is heard?", "answer": "\($0)", "choices": ["low", "high"], "task": "sound"}
            """
          }
          return """
            {"id": "\(split)-\(number)", "images": ["0.png", "1.png"], "seconds": [0, 0.5], \(sound)\
            "split": "\(split)", "captions": ["red"], "questions": [\(question ?? "")]}
            """
        }
      }
      try Data((lines.joined(separator: "\n") + "\n").utf8).write(to: data.appendingPathComponent("captions.jsonl"))
      recipe = .tiny(data)
      recipe.objective = .videoLanguage
      recipe.adapter.start = models.adapters.appendingPathComponent("seeing").path
      recipe.video.frames = 4
      recipe.batchSize = 5
      recipe.epochs = 12
      recipe.imageLanguage.questionsPerImage = 1
      recipe.imageLanguage.tokenScale = 0.5
      var audio = Recipe.Audio(encoder: TinyModels.audioEncoder)
      (audio.queries, audio.layers, audio.freezeVideo) = (3, 2, true)
      recipe.audio = audio
    }

    func train(_ name: String, resumes: Bool = false, stop: () -> Bool = { false }) throws -> URL? {
      try ImageLanguageTraining.run(
        recipe, output: folder.appendingPathComponent(name), resumes: resumes, store: models.store,
        showsProgress: false, shouldStop: stop)
    }

    func sounds(
      _ configuration: AudioEncoderConfiguration = TinyModels.audioEncoder, encoder: (() throws -> AudioEncoder)? = nil
    ) throws -> SoundCache {
      let source = DataSource(format: .captionsJSONL, path: data.path, split: "train")
      return try SoundCache.open(
        .load(source), configuration: configuration, folder: folder.appendingPathComponent("features"),
        showsProgress: false, encoder: encoder ?? { try AudioEncoder(configuration, store: models.store) })
    }
  }

  private struct MustNotEncode: Error {}

  /// The reason for which a recipe is refused.
  private func reason(_ body: () throws -> Void) -> String {
    do {
      try body()
      return "nothing thrown"
    } catch TrainingError.badRecipe(_, let reason) { return reason } catch { return "another error: \(error)" }
  }

  @Test("Each sound is encoded once; silence is a mask of zeros; another cut or another file is encoded anew")
  func cache() throws {
    try withTemporaryFolder { folder in
      let place = try Place(folder)
      let cache = try place.sounds()
      #expect(cache.count == 5 && cache.width == 12 && cache.sound(4) == nil)
      let sound = try AudioClip(contentsOf: place.data.appendingPathComponent("high.wav"))
      let expected = try AudioEncoder(TinyModels.audioEncoder, store: place.models.store).features([sound])
      let found = try #require(cache.sound(1))
      expectClose(found.features, expected.features, relative: 2e-3)
      #expect(found.mask.values(as: Int.self) == [1, 1, 1, 1])
      #expect(found.seconds.values(as: Float.self) == [0, 0.26, 0.52, 0.78])
      let sounds = try SoundStack(caches: [cache, cache]).sounds([4, 6, 0])
      #expect(sounds.rows == [1, 2] && sounds.clips == 3)
      let pieces = try #require(sounds.pieces)
      expectClose(pieces.features.narrow(0, 0, 1), found.features, relative: 1e-7)
      #expect(try SoundStack(caches: [cache]).sounds([4]).pieces == nil)

      _ = try place.sounds { throw MustNotEncode() }
      // Played backwards a clip sounds as it did.
      let clips = try CaptionedImages.load(DataSource(format: .captionsJSONL, path: place.data.path, split: "train"))
      let backwards = try #require(
        CaptionedImage(id: "b", captions: ["b"], frames: clips[1].frames, sound: clips[1].sound, isReversed: true))
      let both = try SoundCache.open(
        CaptionedImages(clips.items + [backwards]), configuration: TinyModels.audioEncoder,
        folder: folder.appendingPathComponent("features"), showsProgress: false
      ) { throw MustNotEncode() }
      #expect(both.count == 6)
      expectClose(try #require(both.sound(5)).features, found.features, relative: 1e-7)

      var other = TinyModels.audioEncoder
      other.tokensPerClip = 1
      #expect(throws: MustNotEncode.self) { try place.sounds(other) { throw MustNotEncode() } }
      try TinySounds.tone(400, seconds: 0.7, to: place.data.appendingPathComponent("low.wav"))
      #expect(throws: MustNotEncode.self) { try place.sounds { throw MustNotEncode() } }
      #expect(try place.sounds().sound(0)?.mask.values(as: Int.self) == [1, 1, 1, 0])

      // A file that does not fit is named.
      let stored = folder.appendingPathComponent("features")
      for name in try FileManager.default.contentsOfDirectory(atPath: stored.path) {
        try SafetensorsFile.write(
          [("features", .zeros([5, 3, 12])), ("mask", .zeros([5, 4])), ("seconds", .zeros([5, 4]))],
          to: stored.appendingPathComponent(name))
      }
      #expect(throws: CheckpointError.self) { try place.sounds() }
    }
  }

  @Test("A video's own track is heard, from a file and from a shard; one that is named takes its place")
  func tracks() throws {
    try withTemporaryFolder { folder in
      let place = try Place(folder)
      let video = fixtures.appendingPathComponent("media/video/bframes.mp4").path
      let silent = fixtures.appendingPathComponent("media/video/one.mp4").path
      let lines = [
        #"{"video": "\#(video)", "caption": "a"}"#, #"{"video": "\#(silent)", "caption": "b"}"#,
        #"{"video": "\#(silent)", "caption": "c", "id": "c", "audio": "high.wav"}"#,
      ]
      let file = place.data.appendingPathComponent("videos.jsonl")
      try Data(lines.joined(separator: "\n").utf8).write(to: file)
      let cache = try SoundCache.open(
        .load(DataSource(format: .captionsJSONL, path: file.path)), configuration: TinyModels.audioEncoder,
        folder: folder.appendingPathComponent("features"), showsProgress: false
      ) { try AudioEncoder(TinyModels.audioEncoder, store: place.models.store) }
      let encoder = try AudioEncoder(TinyModels.audioEncoder, store: place.models.store)
      let own = try encoder.features([AudioClip(contentsOf: URL(fileURLWithPath: video))])
      expectClose(try #require(cache.sound(0)).features, own.features, relative: 2e-3)
      #expect(cache.sound(1) == nil && cache.sound(2) != nil)
      try Data(#"{"video": "\#(video)", "caption": "a", "audio": "none.wav"}"#.utf8).write(to: file)
      #expect(throws: DataError.self) {
        try CaptionedImages.load(DataSource(format: .captionsJSONL, path: file.path))
      }
    }
  }

  @Test("Of a batch with silent clips each reads what it reads alone; the losses are the means of those alone")
  func silentRows() throws {
    try withTemporaryFolder { folder in
      let place = try Place(folder)
      try place.models.strengthen(["smollm2-135m-instruct"])
      let parameters = ParameterScope(FreshParameters(seed: 3))
      let video = try CascadedVideoQFormer(TinyModels.cascaded, parameters)
      let connector = ClipConnector(video: video, audio: try AudioQFormer(TinyModels.audio.sizes, parameters["audio"]))
      let data = try TrainingData(place.recipe, store: place.models.store, showsProgress: false).train
      let language = try LanguageModel(folder: place.models.frozen("smollm2-135m-instruct"))
      let rows = [0, 4, 1]
      let texts = [["low"], ["a red dog", "red"], ["high"]].map { list in
        list.map { LanguageTexts.caption($0, language, maximum: 8) }
      }
      try withNoGrad {
        let seen = try connector.languageTokens(of: data.clips(rows), isTraining: false)
        #expect(seen.absent == [0, 3, 0] && seen.tokens.shape == [3, 6, TinyModels.languageWidth])
        #expect(seen.rows.map { $0.size(0) } == [6, 3, 6])
        let together = LanguageTexts.meanLogLikelihoods(language, tokens: seen, texts: texts)
        var alone: [Double] = []
        for (place, row) in rows.enumerated() {
          let one = try connector.languageTokens(of: data.clips([row]), isTraining: false)
          #expect(one.absent == [0])
          expectClose(seen.rows[place], one.tokens.select(0, 0))
          alone += LanguageTexts.meanLogLikelihoods(language, tokens: one, texts: [texts[place]])
        }
        #expect(zip(together, alone).allSatisfy { abs($0 - $1) < 1e-5 * abs($1) }, "\(together) \(alone)")
        let deaf = try connector.languageTokens(of: data.clips(rows).silent, isTraining: false)
        #expect(deaf.tokens.size(1) == 3)
      }
    }
  }

  @Test("Beside a frozen visual branch the sound is learnt; deaf, the same model guesses")
  func learns() throws {
    try withTemporaryFolder { folder in
      var place = try Place(folder)
      try place.models.strengthen(["smollm2-135m-instruct"])
      place.recipe.imageLanguage.captionsPerImage = 0
      place.recipe.epochs = 150
      place.recipe.validateEvery = 0
      place.recipe.checkpointEvery = 1000
      place.recipe.optimizer.learningRate = 1e-2
      let adapter = try #require(try place.train("run"))
      let losses = try RunFiles.metrics(of: folder.appendingPathComponent("run")).compactMap { $0["lm"] as? Double }
      let configuration = try AdapterConfiguration(folder: adapter)
      #expect(
        configuration.audio?.encoder == TinyModels.audioEncoder && configuration.audio?.sizes.qformer.queries == 3)
      let start = try RunFiles.weights(of: place.models.adapters.appendingPathComponent("seeing"))
      let written = try RunFiles.weights(of: adapter)
      let seeing = written.keys.filter { !$0.hasPrefix("audio.") }
      #expect(seeing.count > 20 && seeing.allSatisfy { written[$0] == start[$0] })

      let evaluation = try AdapterEvaluation.run(
        place.recipe, model: adapter.path, split: nil, store: place.models.store, showsProgress: false)
      let tasks = try #require(evaluation.results.first?.answers?.tasks)
      #expect(tasks.map(\.task) == ["all", "sound"] && tasks[1].questions == 4)
      #expect(tasks[1].accuracy == 1 && tasks[1].deaf == 0.5 && tasks[1].chance == 0.5, "\(tasks) \(losses.suffix(3))")
      let lines = evaluation.results.first?.answers?.lines ?? []
      #expect(lines.last?.contains("sound 100.0") == true && lines.last?.contains("deaf 50.0") == true, "\(lines)")
      let last = try #require(try RunFiles.metrics(of: folder.appendingPathComponent("run")).last)
      #expect(last["qa.sound"] as? Double == 100 && last["qa.sound.deaf"] as? Double == 50, "\(last)")
      // The adapter is what the pipeline reads.
      let pipeline = try VideoPipeline(adapter.path, store: place.models.store)
      #expect(pipeline.sound?.tokens == 3)
    }
  }

  @Test("Interrupted and resumed, training with sound computes the same losses and weights bit by bit")
  func resumes() throws {
    for freezes in [true, false] {
      try withTemporaryFolder { folder in
        var place = try Place(folder)
        place.recipe.audio?.freezeVideo = freezes
        let whole = try #require(try place.train("whole"))
        var asked = 0
        let stop = {
          asked += 1
          return asked == 5 || asked == 6
        }
        #expect(try place.train("parts", stop: stop) == nil)
        #expect(try place.train("parts", resumes: true, stop: stop) == nil)
        let parts = try #require(try place.train("parts", resumes: true))
        let metrics = try RunFiles.metrics(of: folder.appendingPathComponent("whole"))
        #expect(try RunFiles.metrics(of: folder.appendingPathComponent("parts")) == metrics)
        #expect(metrics.compactMap { $0["validation"] == nil ? $0["step"] as? Int : nil } == Array(1...12))
        let weights = try RunFiles.weights(of: whole)
        #expect(try RunFiles.weights(of: parts) == weights)
        // Both branches go on from an adapter that has both.
        let start = try RunFiles.weights(of: place.models.adapters.appendingPathComponent("seeing"))
        #expect((weights["query_tokens"] == start["query_tokens"]) == freezes)
        place.recipe.adapter.start = whole.path
        place.recipe.optimizer.learningRate = 1e-12
        place.recipe.epochs = 1
        let again = try #require(try place.train("again"))
        let same = try RunFiles.weights(of: again)
        #expect(same.keys.sorted() == weights.keys.sorted())
        for name in ["audio.query_tokens", "audio.language_projection.weight", "query_tokens"] {
          #expect(same[name] == weights[name], "\(name)")
        }
        place.recipe.audio = nil
        #expect(reason { _ = try place.train("deaf") }.contains("has a branch for sound"))
        place.recipe.audio = Recipe.Audio()
        #expect(reason { _ = try place.train("other") }.contains("reads another sound"))
      }
    }
  }

  @Test("A step without any sound leaves the branch as it is")
  func silentStep() throws {
    try withTemporaryFolder { folder in
      var place = try Place(folder)
      let file = place.data.appendingPathComponent("captions.jsonl")
      let lines = try String(contentsOf: file, encoding: .utf8).split(separator: "\n")
      let silent = lines.filter { !$0.contains("audio") }.flatMap { line in (0..<2).map { _ in line } }
      try Data(silent.joined(separator: "\n").utf8).write(to: file)
      place.recipe.batchSize = 1
      place.recipe.epochs = 2
      let adapter = try #require(try place.train("run"))
      #expect(try RunFiles.weights(of: adapter).keys.contains("audio.query_tokens"))
      let norms = try RunFiles.metrics(of: folder.appendingPathComponent("run")).compactMap {
        $0["gradientNorm"] as? Double
      }
      #expect(norms == [0, 0, 0, 0])
    }
  }

  @Test("Recipes: keys of audio, their defaults, and what is refused")
  func recipes() throws {
    try withTemporaryFolder { folder in
      func recipe(_ yaml: String) throws -> Recipe {
        let file = folder.appendingPathComponent("recipe.yaml")
        try Data(yaml.utf8).write(to: file)
        return try Recipe(contentsOf: file)
      }
      #expect(try recipe("objective: video-language").audio == nil)
      #expect(try recipe("objective: video-language\naudio: {}").audio == Recipe.Audio())
      let full = try recipe(
        """
        objective: video-language
        adapter: {start: image-caption}
        audio: {queries: 4, layers: 1, freezeVideo: true, encoder: {clips: 3, window_seconds: 30, stride_seconds: null}}
        """)
      #expect(full.audio?.queries == 4 && full.audio?.layers == 1 && full.audio?.freezeVideo == true)
      #expect(full.audio?.encoder.clips == 3 && full.audio?.encoder.windowSeconds == 30)
      #expect(full.audio?.encoder.strideSeconds == nil && full.audio?.encoder.model == "whisper-tiny-en")
      #expect(try recipe(full.yaml()) == full)
      for (yaml, words) in [
        ("objective: video-language\naudio: {loudness: 1}", "unknown keys: audio.loudness"),
        ("objective: video-language\naudio: {encoder: {bands: 1}}", "unknown keys: audio.encoder.bands"),
        ("objective: video-text\naudio: {}", "audio: expected the objective video-language, found video-text"),
        ("objective: video-language\naudio: {freezeVideo: true}", "nothing that has learnt to see"),
        ("objective: video-language\naudio: {queries: 0}", "audio.queries is 0"),
      ] {
        let found = reason { _ = try recipe(yaml) }
        #expect(found.contains(words), "\(words): \(found)")
      }
      var place = try Place(folder)
      place.recipe.adapter.start = "image-match"
      #expect(reason { _ = try place.train("run") }.contains("has no projection to this language model"))
    }
  }
}
