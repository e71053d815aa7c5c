import Checkpoints
public import Foundation
public import Pipelines
public import QFormer
import TorchNN
import Yams

/// What can be wrong with a recipe or a run.
public enum TrainingError: Error, Sendable, Equatable, CustomStringConvertible, LocalizedError {
  /// There is no such recipe.
  case noRecipe(file: String)
  /// The recipe cannot be read or holds something it should not.
  case badRecipe(file: String, reason: String)
  /// Training went wrong in a way that going on would not mend.
  case diverged(step: Int, reason: String)
  /// The run folder does not fit what was asked for.
  case badRun(folder: String, reason: String)

  /// One line.
  public var description: String {
    switch self {
    case .noRecipe(let file): "\(file): no such file; expected a recipe in YAML"
    case .badRecipe(let file, let reason): "\(file): \(reason)"
    case .diverged(let step, let reason): "step \(step): \(reason)"
    case .badRun(let folder, let reason): "\(folder): \(reason)"
    }
  }

  /// The same words as ``description``.
  public var errorDescription: String? { description }
}

/// Everything that decides the outcome of a training: read from YAML, with defaults, and saved beside the result.
public struct Recipe: Codable, Sendable, Equatable {
  /// Which loop runs.
  public enum Objective: String, Codable, Sendable, CaseIterable {
    /// Stage 1: contrastive, matching and generation losses.
    case imageText = "image-text"
    /// Between the stages: words of captions as the frozen language model embeds them.
    case imageWords = "image-words"
    /// Stage 2: the language model's loss through the frozen language model.
    case imageLanguage = "image-language"
    /// Stage 1 with clips in the place of images.
    case videoText = "video-text"
    /// Between the stages with clips in the place of images.
    case videoWords = "video-words"
    /// Stage 2 with clips in the place of images, on captions and questions.
    case videoLanguage = "video-language"

    /// Whether clips are read.
    public var readsVideo: Bool { self == .videoText || self == .videoWords || self == .videoLanguage }
  }

  /// Sizes of a new Q-Former, and its dropout.
  public struct Adapter: Codable, Sendable, Equatable {
    /// Adapter to start from, a name or a folder; without it the Q-Former starts from the text model.
    public var start: String?
    /// How new cross-attention starts.
    public enum CrossAttention: String, Codable, Sendable, CaseIterable {
      /// Small random weights, N(0, 0.02²), as in BLIP-2: at first hardly anything of the image comes through.
      case normal
      /// Values and output pass through and keys are small: queries start by reading the mean of the patches. Needs an
      /// encoder as wide as the Q-Former.
      case mean
      /// Uniform numbers that keep the variance (Glorot and Bengio, 2010), as PyTorch's attention starts: queries differ in
      /// what they read from the first step on.
      case xavier
      /// Every query reads a region of the picture, and the class token (`QFormer.startPooling`); the queries' feed-forward
      /// parts start silent. For new Q-Formers of images.
      case pooling
    }

    /// M, the number of queries.
    public var queries = 32
    /// Of a Q-Former of pictures, so many first layers of what it starts from; all when left out.
    public var layers: Int?
    /// How cross-attention of a new Q-Former starts.
    public var crossAttention = CrossAttention.normal
    /// Rows of the position table, at least the longest text.
    public var positions = 64
    /// Dropout of hidden states.
    public var hiddenDropout = 0.1
    /// Dropout of attention weights.
    public var attentionDropout = 0.0
  }

  /// The optimiser and its schedule.
  public struct Optimizer: Codable, Sendable, Equatable {
    /// The highest learning rate, of parameters that start afresh.
    public var learningRate = 5e-4
    /// The learning rate at the end, as a part of the highest.
    public var finalFactor = 0.02
    /// Learning rate of parameters that start from a trained model, as a part of that of the others.
    public var inheritedFactor = 0.3
    /// Linear warm-up, as a part of all steps.
    public var warmup = 0.1
    /// Decoupled weight decay, of parameters with more than one dimension.
    public var weightDecay = 0.05
    /// Limit of the gradients' common norm.
    public var clip = 1.0
    /// AdamW's second beta.
    public var beta2 = 0.98

    /// The learning rate of every step.
    func schedule(totalSteps: Int) -> WarmupCosine {
      WarmupCosine(
        peak: learningRate, floor: learningRate * finalFactor,
        warmupSteps: max(1, Int(Double(totalSteps) * warmup)), totalSteps: totalSteps)
    }
  }

  /// Stage 1 alone.
  public struct ImageText: Codable, Sendable, Equatable {
    /// The part of a batch's pairs that the matching loss is computed on, 0 … 1.
    public var matchingPart = 1.0
    /// The part of the matching loss's negatives that is drawn without regard to similarity, 0 … 1.
    public var uniformNegatives = 0.0
    /// The part of a batch's pairs that the generation loss is computed on, 0 … 1.
    public var generationPart = 1.0
    /// Captions of an image in a batch; they share the image's pass.
    public var captionsPerImage = 1
    /// Label smoothing of the contrastive and the generation loss.
    public var labelSmoothing = 0.1
    /// The temperature at the start.
    public var temperature = 0.07
    /// The temperature is kept at or above this.
    public var minimumTemperature = 0.01
    /// Whether the contrastive projections start from canonical correlations over the training pairs, and not at random.
    public var canonicalStart = false
    /// How many candidates of contrastive retrieval are re-ranked by matching in the last validation.
    public var rerank = 16
  }

  /// Word alignment alone.
  public struct ImageWords: Codable, Sendable, Equatable {
    /// Cosines are divided by it.
    public var temperature = 0.05
    /// Words of fewer images are left out.
    public var minimumCount = 3
    /// What a word counts.
    public enum Weighting: String, Codable, Sendable, CaseIterable {
      /// log(N / df) − 1, where df of N images have it: what stands in more than a third of all captions counts nothing.
      case rarity
      /// 1, unless it stands in more than half of all captions: what is said of many clips, directions for instance, counts
      /// as much as the name of a thing.
      case even
    }
    /// What a word counts.
    public var weighting = Weighting.rarity
  }

  /// Clips, and the Q-Former that reads them.
  public struct Video: Codable, Sendable, Equatable {
    /// Which video Q-Former is trained.
    public enum Family: String, Codable, Sendable, CaseIterable {
      /// `CascadedVideoQFormer`.
      case cascaded
      /// `SpatioTemporalQFormer`.
      case spatioTemporal = "spatio-temporal"
    }

    /// What the model gets to see of clips, in training and in evaluation.
    public enum Baseline: String, Codable, Sendable, CaseIterable {
      /// All frames.
      case none
      /// The middle frame alone.
      case singleFrame = "single-frame"
      /// The mean of all frames in the place of each.
      case meanPooled = "mean-pooled"
    }

    /// What stays as the adapter that training starts from has it.
    public enum Freeze: String, Codable, Sendable, CaseIterable {
      /// Nothing.
      case none
      /// The attention of the image Q-Former.
      case inheritedAttention = "inherited-attention"
      /// All that reads single frames in a cascaded Q-Former, as in Video-LLaMA.
      case frameQFormer = "frame-qformer"
    }

    /// Choices of a new cascaded Q-Former.
    public struct Cascaded: Codable, Sendable, Equatable {
      /// M′, the queries of the temporal Q-Former.
      public var queries = 32
      /// Layers of the temporal Q-Former.
      public var layers = 2
      /// Where the time of a frame is told.
      public var timeSite = FrameEmbeddingSite.afterFrameQFormer
    }

    /// Choices of a new spatio-temporal Q-Former.
    public struct SpatioTemporal: Codable, Sendable, Equatable {
      /// Queries that read places; `adapter.queries` when left out, or as many as the image adapter has.
      public var spatialQueries: Int?
      /// Queries that read frames; as many as read places when left out.
      public var temporalQueries: Int?
      /// Queries that read both.
      public var summaryQueries = 1
      /// How a clip is pooled.
      public var pooling = VideoPooling.attentive
      /// Heads of attentive pooling.
      public var poolingHeads = 16
      /// Where the time of a frame is told.
      public var timeSite = TimeSite.afterPooling
      /// How many layers, counted from the last, have experts; all when left out.
      public var expertLayers: Int?
      /// Whether groups of queries read only what is theirs.
      public var crossMask = true
      /// The groups whose queries go to the language model.
      public var languageGroups = QueryGroup.allCases
    }

    /// Which video Q-Former is trained.
    public var family = Family.cascaded
    /// T, the number of frames of a clip; shorter clips give all they have.
    public var frames = 8
    /// Where they lie.
    public var place = AdapterConfiguration.Frames.Place.uniformMiddle
    /// How time is told.
    public var time = TimeConfiguration()
    /// Standard deviation of a new learned table of times. Left out, it is 1 behind a frame Q-Former and in a Perceiver
    /// resampler, and else 0, so that a model starts from what the image adapter says of the mean of the frames.
    public var timeDeviation: Double?
    /// How queries are compared with a text.
    public var aggregation = QueryAggregation.max
    /// What matching reads.
    public var matchingHead = MatchingHead.meanLogits
    /// Choices of a new cascaded Q-Former.
    public var cascaded = Cascaded()
    /// Choices of a new spatio-temporal Q-Former.
    public var spatioTemporal = SpatioTemporal()
    /// What the model gets to see.
    public var baseline = Baseline.none
    /// What is not trained.
    public var freeze = Freeze.none

    /// Which frames are read.
    var frameChoice: AdapterConfiguration.Frames {
      var choice = AdapterConfiguration.Frames()
      (choice.count, choice.place) = (frames, place)
      return choice
    }
  }

  /// Sound beside clips, with the objective `video-language`: an audio Q-Former whose tokens stand before those of the frames.
  public struct Audio: Codable, Sendable, Equatable {
    /// The frozen audio encoder, and how a sound is cut for it.
    public var encoder = AudioEncoderConfiguration()
    /// Queries of a new audio Q-Former.
    public var queries = 8
    /// Layers of a new audio Q-Former.
    public var layers = 2
    /// Whether what reads the frames stays as the adapter that training starts from has it: the branch for sound alone is
    /// trained.
    public var freezeVideo = false

    /// The default encoder and sizes.
    public init(encoder: AudioEncoderConfiguration = AudioEncoderConfiguration()) { self.encoder = encoder }
  }

  /// Stage 2 alone.
  public struct ImageLanguage: Codable, Sendable, Equatable {
    /// Standard deviation of language tokens at the start, that of the language model's word embeddings.
    public var tokenScale = 0.136
    /// Captions of an image that a step learns from; they share the image's tokens, which costs less than a row each.
    public var captionsPerImage = 1
    /// Questions of an image or a clip that a step learns from beside its captions: together they are what is mixed.
    public var questionsPerImage = 0
    /// Longer captions are cut to so many tokens of the language model.
    public var maximumTokens = 32
    /// How many validation images are captioned at intervals.
    public var captions = 200
    /// Captions drawn from the model are learnt from as well, by how well they agree with those of people; nil: none.
    public var selfCritical: SelfCritical?
  }

  /// Self-critical training: captions that the model draws itself become likelier or less likely, by their CIDEr-D.
  public struct SelfCritical: Codable, Sendable, Equatable {
    /// Captions drawn for each picture, at least 2: each is judged against the mean of the others.
    public var samples = 5
    /// What this loss counts, above 0; the loss on people's captions counts the rest. At 1 those are references alone.
    public var part = 1.0
  }

  /// What `qformer compare` does with the recipe.
  public struct Compare: Codable, Sendable, Equatable {
    /// What is compared.
    public var connectors = ComparedConnector.usual
    /// Each connector is trained once with each of them.
    public var seeds: [UInt64] = [1, 2, 3]
    /// M, the number of tokens for the language model, where a connector lets one choose.
    public var tokens = 32
    /// The budget of a training: clips seen, in full batches.
    public var samples = 1600
    /// No training takes longer, in minutes; without it only ``samples`` count.
    public var minutes: Double?
    /// How many clips of the first validation set are asked about.
    public var clips = 200
    /// Words of captions, which every connector learns before the language model's loss; nil for none.
    public var words: Words?

    /// How words are learnt; what is a word, and what it counts, stands under `imageWords`.
    public struct Words: Codable, Sendable, Equatable {
      /// Clips seen, in full batches.
      public var samples = 12_800
      /// Clips in a batch.
      public var batchSize = 64
      /// The highest learning rate.
      public var learningRate = 1e-3

      /// ``samples`` in full batches.
      var whole: Int { max(1, samples / batchSize) * batchSize }

      /// The defaults.
      public init() {}
    }

    /// The defaults.
    public init() {}
  }

  /// Which loop runs.
  public var objective = Objective.imageText
  /// Everything random follows from it.
  public var seed: UInt64 = 1
  /// Folders that sources may name as `$NAME`.
  public var paths: [String: String?] = [:]
  /// The frozen image encoder.
  public var encoder = AdapterConfiguration.Encoder()
  /// Whether mirrored images are used as well; with objectives that read video they never are.
  public var mirrored = true
  /// The text model (stage 1).
  public var text = AdapterConfiguration.Text()
  /// The frozen language model (stage 2).
  public var language = AdapterConfiguration.Language()
  /// The Q-Former.
  public var adapter = Adapter()
  /// Training data.
  public var train: [DataSource] = []
  /// Validation data; the first one's numbers are the run's.
  public var validation: [DataSource] = []
  /// Images in a batch.
  public var batchSize = 64
  /// Passes over all training images, one caption of each a pass.
  public var epochs = 4.0
  /// The part of patch tokens that a training step sees, 0 … 1.
  public var patchPart = 1.0
  /// The optimiser.
  public var optimizer = Optimizer()
  /// Stage 1 alone.
  public var imageText = ImageText()
  /// Clips, and the Q-Former that reads them.
  public var video = Video()
  /// Sound beside clips; nil for a model that does not hear.
  public var audio: Audio?
  /// Word alignment alone.
  public var imageWords = ImageWords()
  /// Stage 2 alone.
  public var imageLanguage = ImageLanguage()
  /// What `qformer compare` does with the recipe; its defaults when left out.
  public var compare: Compare?
  /// A line of metrics every so many steps.
  public var logEvery = 10
  /// Validation every so many steps; 0 is only at the end.
  public var validateEvery = 0
  /// A checkpoint every so many steps.
  public var checkpointEvery = 50

  /// The defaults.
  public init() {}

  /// Reads a recipe.
  ///
  /// - Parameters:
  ///   - file: YAML; keys that are left out keep their defaults.
  ///   - settings: `key.path=value`, each value YAML, applied after the file.
  /// - Throws: ``TrainingError/noRecipe(file:)``; ``TrainingError/badRecipe(file:reason:)`` for unknown keys, wrong types,
  ///   values out of range, `$NAME` without a folder and broken YAML.
  public init(contentsOf file: URL, settings: [String] = []) throws {
    func bad(_ reason: String) -> TrainingError { .badRecipe(file: file.path, reason: reason) }
    guard FileManager.default.fileExists(atPath: file.path) else { throw TrainingError.noRecipe(file: file.path) }
    guard let data = FileManager.default.contents(atPath: file.path) else {
      throw bad("cannot be read; expected a recipe in YAML")
    }
    guard data.count < 1_000_000, let text = String(data: data, encoding: .utf8) else {
      throw bad("expected YAML in UTF-8 below 1 MB")
    }
    do {
      guard var given = try Yams.load(yaml: text) as? [String: Any] else { throw bad("expected keys and values") }
      for setting in settings {
        guard let equals = setting.firstIndex(of: "=") else { throw bad("--set \(setting): expected key=value") }
        let path = setting[..<equals].split(separator: ".").map(String.init)
        let value = try Yams.load(yaml: String(setting[setting.index(after: equals)...])) ?? NSNull()
        guard !path.isEmpty else { throw bad("--set \(setting): expected key=value") }
        Self.set(&given, path[...], value)
      }
      let defaults = try Yams.load(yaml: YAMLEncoder().encode(Recipe())) as? [String: Any] ?? [:]
      var optional: [String: Any] = [
        "adapter": ["start": NSNull(), "layers": NSNull()], "language": ["template": NSNull(), "beams": NSNull()],
        "video": [
          "time": ["interpolation": NSNull()], "timeDeviation": NSNull(),
          "spatioTemporal": ["spatialQueries": NSNull(), "temporalQueries": NSNull(), "expertLayers": NSNull()],
        ],
      ]
      if given["compare"] != nil {
        let compare = try Yams.load(yaml: YAMLEncoder().encode(Compare())) as? [String: Any] ?? [:]
        let words: Any =
          (given["compare"] as? [String: Any])?["words"] is [String: Any]
          ? try Yams.load(yaml: YAMLEncoder().encode(Compare.Words())) as? [String: Any] ?? [:] : NSNull()
        optional["compare"] = compare.merging(["minutes": NSNull(), "words": words]) { $1 }
      }
      if (given["imageLanguage"] as? [String: Any])?["selfCritical"] is [String: Any] {
        optional["imageLanguage"] = [
          "selfCritical": try Yams.load(yaml: YAMLEncoder().encode(SelfCritical())) as? [String: Any] ?? [:]
        ]
      } else {
        optional["imageLanguage"] = ["selfCritical": NSNull()]
      }
      var known = Self.merged(defaults, optional) { _ in }
      known["audio"] = NSNull()
      if given["audio"] is [String: Any] {
        let audio = try Yams.load(yaml: YAMLEncoder().encode(Audio())) as? [String: Any] ?? [:]
        known["audio"] = Self.merged(audio, ["encoder": ["window_seconds": NSNull()]]) { _ in }
      }
      var unknown: [String] = []
      let merged = Self.merged(known, given) { unknown.append($0) }
      guard unknown.isEmpty else { throw bad("unknown keys: \(unknown.sorted().joined(separator: ", "))") }
      self = try YAMLDecoder().decode(Recipe.self, from: Yams.dump(object: merged))
    } catch let error as TrainingError {
      throw error
    } catch let error as DecodingError {
      throw bad(Self.words(error))
    } catch {
      throw bad("\(error)".split(separator: "\n").joined(separator: " "))
    }
    try validate(file: file.path)
  }

  private static func set(_ dictionary: inout [String: Any], _ path: ArraySlice<String>, _ value: Any) {
    guard let first = path.first else { return }
    if path.count == 1 {
      dictionary[first] = value
    } else {
      var inner = dictionary[first] as? [String: Any] ?? [:]
      set(&inner, path.dropFirst(), value)
      dictionary[first] = inner
    }
  }

  /// `given` over `base`; names of keys that the base does not have are reported. `paths` takes any key.
  private static func merged(
    _ base: [String: Any], _ given: [String: Any], path: String = "", unknown: (String) -> Void
  ) -> [String: Any] {
    var out = base
    for (key, value) in given {
      let name = path.isEmpty ? key : "\(path).\(key)"
      guard base[key] != nil || path == "paths" else {
        unknown(name)
        out[key] = value
        continue
      }
      if let inner = base[key] as? [String: Any], let value = value as? [String: Any] {
        out[key] = merged(inner, value, path: name, unknown: unknown)
      } else {
        out[key] = value
      }
    }
    return out
  }

  private static func words(_ error: DecodingError) -> String {
    func path(_ context: DecodingError.Context, _ last: String = "") -> String {
      (context.codingPath.map(\.stringValue) + [last]).filter { !$0.isEmpty }.joined(separator: ".")
    }
    return switch error {
    case .keyNotFound(let key, let context): "\(path(context, key.stringValue)) is missing"
    case .typeMismatch(let type, let context): "\(path(context)): expected \(type)"
    case .valueNotFound(let type, let context): "\(path(context)): expected \(type), found nothing"
    case .dataCorrupted(let context): "\(path(context)): \(context.debugDescription)"
    @unknown default: "\(error)"
    }
  }

  private func validate(file: String) throws {
    func require(_ holds: Bool, _ reason: String) throws {
      if !holds { throw TrainingError.badRecipe(file: file, reason: reason) }
    }
    try require((1...65_536).contains(batchSize), "batchSize is \(batchSize), expected 1 … 65536")
    try require(epochs > 0 && epochs <= 10_000, "epochs is \(epochs), expected 0 < epochs ≤ 10000")
    try require(patchPart > 0 && patchPart <= 1, "patchPart is \(patchPart), expected 0 < part ≤ 1")
    for (name, part) in [
      ("matchingPart", imageText.matchingPart), ("generationPart", imageText.generationPart),
      ("uniformNegatives", imageText.uniformNegatives),
    ] {
      try require((0...1).contains(part), "imageText.\(name) is \(part), expected 0 … 1")
    }
    try require(
      objective != .videoText || imageText.matchingPart == 0 || video.matchingHead != .none,
      "video.matchingHead is none, but imageText.matchingPart is \(imageText.matchingPart)")
    try require(
      (1...1000).contains(imageText.captionsPerImage),
      "imageText.captionsPerImage is \(imageText.captionsPerImage), expected 1 … 1000")
    let (captions, questions) = (imageLanguage.captionsPerImage, imageLanguage.questionsPerImage)
    try require((0...1000).contains(questions), "imageLanguage.questionsPerImage is \(questions), expected 0 … 1000")
    try require(
      ((questions > 0 ? 0 : 1)...1000).contains(captions),
      "imageLanguage.captionsPerImage is \(captions), expected 1 … 1000, or 0 beside questionsPerImage")
    try require(
      optimizer.learningRate > 0 && optimizer.learningRate < 1, "optimizer.learningRate is \(optimizer.learningRate)")
    try require((0...1).contains(optimizer.warmup), "optimizer.warmup is \(optimizer.warmup), expected 0 … 1")
    try require(
      adapter.layers == nil || !objective.readsVideo,
      "adapter.layers is for pictures: a video Q-Former has as many layers as the image adapter that it starts from")
    try require(
      adapter.positions >= text.maximumLength,
      "adapter.positions \(adapter.positions) is below text.max_length \(text.maximumLength)")
    try require(
      imageLanguage.maximumTokens >= 2 && imageLanguage.maximumTokens <= 65_536,
      "imageLanguage.maximumTokens is \(imageLanguage.maximumTokens), expected 2 … 65536")
    if let critical = imageLanguage.selfCritical {
      try require(
        (2...64).contains(critical.samples),
        "imageLanguage.selfCritical.samples is \(critical.samples), expected 2 … 64")
      try require(
        critical.part > 0 && critical.part <= 1,
        "imageLanguage.selfCritical.part is \(critical.part), expected above 0, at most 1")
      try require(
        [.imageLanguage, .videoLanguage].contains(objective),
        "imageLanguage.selfCritical is for image-language and video-language, not \(objective.rawValue)")
    }
    try require(imageLanguage.captions > 0, "imageLanguage.captions is \(imageLanguage.captions), expected at least 1")
    try require(
      (0..<1).contains(imageText.labelSmoothing),
      "imageText.labelSmoothing is \(imageText.labelSmoothing), expected 0 ≤ smoothing < 1")
    for (name, value) in [
      ("temperature", imageText.temperature), ("minimumTemperature", imageText.minimumTemperature),
    ] {
      try require(value > 0 && value <= 0.5, "imageText.\(name) is \(value), expected 0 < temperature ≤ 0.5")
    }
    try require(
      imageWords.temperature > 0 && imageWords.temperature <= 1,
      "imageWords.temperature is \(imageWords.temperature), expected 0 < temperature ≤ 1")
    try require(
      imageWords.minimumCount > 0, "imageWords.minimumCount is \(imageWords.minimumCount), expected 1 or more")
    if let beams = language.beams {
      try require((1...64).contains(beams), "language.beams is \(beams), expected 1 … 64")
    }
    if let deviation = video.timeDeviation {
      try require(
        (0...100).contains(deviation), "video.timeDeviation is \(deviation), expected 0 … 100")
      try require(
        video.time.encoding == .learned,
        "video.timeDeviation is for a learned table, but video.time.encoding is \(video.time.encoding.rawValue)")
    }
    try require((1...4096).contains(video.frames), "video.frames is \(video.frames), expected 1 … 4096")
    for (name, count) in [
      ("cascaded.queries", video.cascaded.queries), ("cascaded.layers", video.cascaded.layers),
      ("spatioTemporal.poolingHeads", video.spatioTemporal.poolingHeads),
    ] {
      try require((1...100_000).contains(count), "video.\(name) is \(count), expected at least 1")
    }
    try require(
      adapter.crossAttention != .pooling || !objective.readsVideo,
      "adapter.crossAttention is pooling, which is for pictures: start from an image adapter (adapter.start)")
    try require(
      video.freeze == .none || adapter.start != nil,
      "video.freeze is \(video.freeze.rawValue), but without adapter.start nothing is inherited")
    try require(
      video.freeze != .frameQFormer || video.family == .cascaded,
      "video.freeze is frame-qformer, but video.family is \(video.family.rawValue): cascaded ones alone have one")
    if let audio {
      try require(
        objective == .videoLanguage, "audio: expected the objective video-language, found \(objective.rawValue)")
      for (name, count) in [("queries", audio.queries), ("layers", audio.layers)] {
        try require((1...100_000).contains(count), "audio.\(name) is \(count), expected at least 1")
      }
      try require(
        !audio.freezeVideo || adapter.start != nil,
        "audio.freezeVideo is true, but without adapter.start there is nothing that has learnt to see")
    }
    try require((0..<1).contains(optimizer.beta2), "optimizer.beta2 is \(optimizer.beta2), expected 0 ≤ beta2 < 1")
    try require(optimizer.clip > 0, "optimizer.clip is \(optimizer.clip), expected above 0")
    for source in train + validation {
      guard let name = Self.folderName(source) else { continue }
      try require(
        name == "cache" || paths[name] ?? nil != nil,
        "the folder \(source.path) is not known: give it with --set paths.\(name)=FOLDER")
    }
    try require(logEvery > 0 && checkpointEvery > 0, "logEvery and checkpointEvery must be above 0")
    guard let compare else { return }
    try require(
      (4...100_000).contains(compare.tokens), "compare.tokens is \(compare.tokens), expected 4 … 10⁵")
    try require(
      (batchSize...1_000_000_000).contains(compare.samples),
      "compare.samples is \(compare.samples), expected at least a batch of \(batchSize)")
    if let words = compare.words {
      try require(
        (1...65_536).contains(words.batchSize),
        "compare.words.batchSize is \(words.batchSize), expected 1 … 65536")
      try require(
        (words.batchSize...1_000_000_000).contains(words.samples),
        "compare.words.samples is \(words.samples), expected at least a batch of \(words.batchSize)")
      try require(
        words.learningRate > 0 && words.learningRate < 1, "compare.words.learningRate is \(words.learningRate)")
    }
    try require(compare.clips > 0, "compare.clips is \(compare.clips), expected at least 1")
    if let minutes = compare.minutes { try require(minutes > 0, "compare.minutes is \(minutes), expected above 0") }
    try require(
      !compare.seeds.isEmpty && Set(compare.seeds).count == compare.seeds.count,
      "compare.seeds: expected at least one seed, each once")
    try require(
      !compare.connectors.isEmpty && Set(compare.connectors).count == compare.connectors.count,
      "compare.connectors: expected at least one connector, each once")
  }

  /// The recipe as YAML, with every default written out.
  ///
  /// - Throws: What the encoder throws.
  public func yaml() throws -> String { try YAMLEncoder().encode(self) }

  /// `NAME` of a path that starts with `$NAME`.
  private static func folderName(_ source: DataSource) -> String? {
    guard source.path.hasPrefix("$") else { return nil }
    return String(source.path.dropFirst().prefix { $0 != "/" })
  }

  /// A source with `$NAME` in its path replaced by what ``paths`` says; `$cache` is the data folder of the cache.
  ///
  /// - Throws: ``TrainingError/badRecipe(file:reason:)`` when the name has no folder.
  func resolved(_ source: DataSource, store: ModelStore, file: String = "recipe") throws -> DataSource {
    guard let name = Self.folderName(source) else { return source }
    let parts = source.path.split(separator: "/", maxSplits: 1).map(String.init)
    let folder = name == "cache" ? store.cache.appendingPathComponent("data").path : paths[name] ?? nil
    guard let folder else {
      throw TrainingError.badRecipe(
        file: file, reason: "the folder \(source.path) is not known: give it with --set paths.\(name)=FOLDER")
    }
    var source = source
    source.path = parts.count > 1 ? "\(folder)/\(parts[1])" : folder
    return source
  }
}
