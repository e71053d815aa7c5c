import Backbones
import Foundation
public import Pipelines
public import QFormer
import Torch
public import TorchNN

/// What is compared: ways from the features of frames to tokens of a language model.
public enum ComparedConnector: String, Codable, Sendable, CaseIterable {
  /// Means over frames and over places.
  case meanPooling = "mean-pooling"
  /// Means over the cells of a grid in time and space.
  case adaptivePooling = "adaptive-pooling"
  /// Flamingo's resampler.
  case perceiver
  /// An image Q-Former on every frame, with so many queries that all frames together have the common number of tokens.
  case imageQFormer = "image-qformer"
  /// The same with all its queries.
  case wholeImageQFormer = "image-qformer-all"
  /// An image Q-Former on every frame, then one over what it says.
  case cascaded
  /// An image Q-Former whose queries read the patches of all frames.
  case joint
  /// The spatio-temporal Q-Former: with a common number of M tokens, M spatial queries, M temporal ones and a summary.
  case spatioTemporal = "spatio-temporal"
  /// The same with M queries in all.
  case compactSpatioTemporal = "spatio-temporal-compact"
  /// ``spatioTemporal`` with means in the place of attentive pooling.
  case withoutAttentivePooling = "spatio-temporal-mean-pooling"
  /// ``spatioTemporal`` with one feed-forward part for all groups.
  case withoutExperts = "spatio-temporal-one-ffn"
  /// ``spatioTemporal`` whose groups all see places and frames.
  case withoutCrossMask = "spatio-temporal-no-cross-mask"
  /// ``spatioTemporal`` without a time.
  case withoutTime = "spatio-temporal-no-time"
  /// ``spatioTemporal`` with time told before pooling, and not after it.
  case timeBeforePooling = "spatio-temporal-time-before"

  /// Whether it is ``spatioTemporal`` with one part changed.
  public var isAblation: Bool {
    switch self {
    case .withoutAttentivePooling, .withoutExperts, .withoutCrossMask, .withoutTime, .timeBeforePooling: true
    default: false
    }
  }

  /// All but those that cost much more than the others.
  public static let usual = allCases.filter { $0 != .wholeImageQFormer }

  /// A few words for tables.
  public var title: String {
    switch self {
    case .meanPooling: "mean pooling"
    case .adaptivePooling: "2-D adaptive pooling"
    case .perceiver: "Perceiver resampler"
    case .imageQFormer: "image Q-Former, every frame"
    case .wholeImageQFormer: "image Q-Former, all its queries"
    case .cascaded: "cascaded Q-Former"
    case .joint: "joint Q-Former"
    case .spatioTemporal: "spatio-temporal Q-Former"
    case .compactSpatioTemporal: "spatio-temporal, compact"
    case .withoutAttentivePooling: "  pooling by means"
    case .withoutExperts: "  one FFN, no experts"
    case .withoutCrossMask: "  no cross mask"
    case .withoutTime: "  no time"
    case .timeBeforePooling: "  time before pooling"
    }
  }
}

/// Sizes that all connectors of a comparison share.
public struct ConnectorSizes: Sendable, Equatable {
  /// Layers, widths and heads; its number of queries is that of an image Q-Former whose tokens are not counted.
  public var qformer: QFormerConfiguration = {
    var configuration = QFormerConfiguration.small
    (configuration.readsText, configuration.separateDecoderToken) = (false, false)
    return configuration
  }()
  /// M, the number of tokens for the language model, where a connector lets one choose.
  public var tokens = 32
  /// T, the number of frames.
  public var frames = 16
  /// N, the number of tokens of a frame.
  public var imageTokens = 65
  /// The width of the language model's token embeddings.
  public var languageSize = 576
  /// How time is told.
  public var time = TimeConfiguration()
  /// Layers of a cascade's second Q-Former.
  public var temporalLayers = 2
  /// Heads of attentive pooling.
  public var poolingHeads = 16

  /// MiniLM's sizes, DINOv2-S features of 112 pixels, SmolLM2-135M.
  public init() {}

  /// The small scale of this package.
  public static let small = ConnectorSizes()

  /// BLIP-2's Q-Former on ViT-g features, for a language model of 2.7 B parameters.
  public static let blip2: ConnectorSizes = {
    var sizes = ConnectorSizes()
    sizes.qformer = .blip2
    (sizes.imageTokens, sizes.languageSize) = (257, 2560)
    return sizes
  }()
}

extension ComparedConnector {
  /// How many queries of an image Q-Former stand for a frame.
  func queriesOfFrame(_ sizes: ConnectorSizes) -> Int {
    self == .wholeImageQFormer ? sizes.qformer.queries : max(1, sizes.tokens / sizes.frames)
  }

  /// The number of spatial, temporal and summary queries.
  func groups(tokens: Int) -> (spatial: Int, temporal: Int, summary: Int) {
    self == .compactSpatioTemporal ? (tokens / 2, tokens - tokens / 2 - 1, 1) : (tokens, tokens, 1)
  }

  /// The connector with new weights.
  ///
  /// - Throws: `QFormerError.invalidConfiguration`.
  public func fresh(_ sizes: ConnectorSizes, _ scope: ParameterScope) throws -> any CountedConnector {
    func image(queries: Int) throws -> ImageLanguageQFormer {
      var configuration = ImageLanguageConfiguration()
      configuration.qformer = sizes.qformer
      configuration.qformer.queries = queries
      configuration.languageSize = sizes.languageSize
      return try ImageLanguageQFormer(configuration, scope)
    }
    switch self {
    case .meanPooling, .adaptivePooling, .perceiver: return try pooling(sizes, scope)
    case .imageQFormer, .wholeImageQFormer: return FramewiseConnector(try image(queries: queriesOfFrame(sizes)))
    case .joint: return try JointConnector(image(queries: sizes.tokens), time: sizes.time, scope)
    case .cascaded:
      var configuration = CascadedVideoConfiguration()
      configuration.frame = sizes.qformer
      configuration.temporal = sizes.qformer
      configuration.temporal.layers = sizes.temporalLayers
      configuration.temporal.crossAttentionFrequency = 1
      configuration.temporal.queries = sizes.tokens
      configuration.temporal.encoderHiddenSize = sizes.qformer.hiddenSize
      (configuration.time, configuration.languageSize, configuration.objectives) = (sizes.time, sizes.languageSize, nil)
      return try CascadedVideoQFormer(configuration, scope)
    default:
      var configuration = SpatioTemporalConfiguration()
      configuration.qformer = sizes.qformer
      let groups = groups(tokens: sizes.tokens)
      (configuration.spatialQueries, configuration.temporalQueries) = (groups.spatial, groups.temporal)
      configuration.summaryQueries = groups.summary
      configuration.poolingHeads = sizes.poolingHeads
      (configuration.time, configuration.languageSize, configuration.objectives) = (sizes.time, sizes.languageSize, nil)
      if self == .withoutAttentivePooling { configuration.pooling = .mean }
      if self == .withoutExperts { configuration.expertLayers = 0 }
      if self == .withoutCrossMask { configuration.hasCrossMask = false }
      if self == .withoutTime { configuration.time.encoding = .none }
      if self == .timeBeforePooling { configuration.timeSite = .beforePooling }
      return try SpatioTemporalQFormer(configuration, scope)
    }
  }

  /// Those that have nothing of a Q-Former, at the widths and heads of one.
  private func pooling(_ sizes: ConnectorSizes, _ scope: ParameterScope) throws -> any CountedConnector {
    var projection = PooledProjectionConfiguration()
    projection.encoderHiddenSize = sizes.qformer.encoderHiddenSize
    projection.hiddenSize = sizes.qformer.hiddenSize
    projection.languageSize = sizes.languageSize
    if self == .meanPooling { return try MeanPoolingConnector(projection, scope) }
    if self == .adaptivePooling {
      var configuration = AdaptivePoolingConfiguration(tokens: sizes.tokens)
      configuration.projection = projection
      return try AdaptivePoolingConnector(configuration, scope)
    }
    var configuration = PerceiverConfiguration()
    configuration.encoderHiddenSize = sizes.qformer.encoderHiddenSize
    configuration.hiddenSize = sizes.qformer.hiddenSize
    configuration.layers = sizes.qformer.layers
    configuration.heads = sizes.qformer.heads
    configuration.intermediateSize = sizes.qformer.intermediateSize
    configuration.latents = sizes.tokens
    (configuration.time, configuration.languageSize) = (sizes.time, sizes.languageSize)
    return try PerceiverResampler(configuration, scope)
  }

  /// The connector as a recipe starts it: Q-Formers from the recipe's image adapter, or from the text model; what has nothing
  /// of a Q-Former anew.
  ///
  /// - Parameters:
  ///   - recipe: What it starts from.
  ///   - sizes: From ``ConnectorSizes/init(_:store:)``.
  ///   - store: Where models lie.
  /// - Throws: ``TrainingError/badRecipe(file:reason:)``; what loading an adapter throws.
  func start(_ recipe: Recipe, _ sizes: ConnectorSizes, store: ModelStore) throws -> ConnectorStart {
    var recipe = recipe
    let (width, language) = (sizes.qformer.encoderHiddenSize, sizes.languageSize)
    switch self {
    case .meanPooling, .adaptivePooling, .perceiver:
      let parameters = Parameters()
      let model = try withError {
        try fresh(sizes, ParameterScope(FreshParameters(seed: recipe.seed), parameters: parameters))
      }
      try TimeStart.apply(recipe, to: parameters)
      return ConnectorStart(video: model, parameters: parameters, inherited: [], isProjecting: false)
    case .imageQFormer, .wholeImageQFormer, .joint:
      let found = try AdapterStart.imageLanguage(
        recipe, store: store, encoderWidth: width, languageSize: language,
        queries: self == .joint ? sizes.tokens : queriesOfFrame(sizes))
      let model: any VideoConnector =
        self == .joint
        ? try JointConnector(
          found.model, time: sizes.time,
          ParameterScope(FreshParameters(seed: recipe.seed &+ 3), parameters: found.parameters))
        : FramewiseConnector(found.model)
      try TimeStart.apply(recipe, to: found.parameters)
      return ConnectorStart(
        video: model, parameters: found.parameters, inherited: found.inherited, isProjecting: found.isProjecting)
    case .cascaded:
      recipe.video.family = .cascaded
      recipe.video.cascaded.queries = sizes.tokens
      return try AdapterStart.make(recipe, store: store, encoderWidth: width, languageSize: language).connector
    default:
      recipe.video.family = .spatioTemporal
      let groups = groups(tokens: sizes.tokens)
      recipe.video.spatioTemporal.spatialQueries = groups.spatial
      recipe.video.spatioTemporal.temporalQueries = groups.temporal
      recipe.video.spatioTemporal.summaryQueries = groups.summary
      recipe.video.spatioTemporal.languageGroups = QueryGroup.allCases
      recipe.adapter.queries = max(groups.spatial, groups.temporal)
      if self == .withoutAttentivePooling { recipe.video.spatioTemporal.pooling = .mean }
      if self == .withoutExperts { recipe.video.spatioTemporal.expertLayers = 0 }
      if self == .withoutCrossMask { recipe.video.spatioTemporal.crossMask = false }
      if self == .withoutTime { recipe.video.time.encoding = .none }
      if self == .timeBeforePooling { recipe.video.spatioTemporal.timeSite = .beforePooling }
      return try AdapterStart.make(
        recipe, store: store, encoderWidth: width, languageSize: language, queries: recipe.adapter.queries
      ).connector
    }
  }
}

extension ConnectorSizes {
  /// The sizes of a recipe's comparison: those of its image adapter, or of a new Q-Former from its text model.
  ///
  /// No weight is read.
  ///
  /// - Throws: ``TrainingError/badRecipe(file:reason:)`` for a recipe that compares nothing, or starts from an adapter of
  ///   videos; what reading configurations throws.
  public init(_ recipe: Recipe, store: ModelStore = ModelStore()) throws {
    self.init()
    guard recipe.objective == .videoLanguage else {
      throw TrainingError.badRecipe(
        file: "recipe", reason: "objective is \(recipe.objective.rawValue); connectors are compared by video-language")
    }
    let compare = recipe.compare ?? Recipe.Compare()
    let encoder = try ImageEncoder.sizes(recipe.encoder, store: store)
    let side = recipe.encoder.imageSize / encoder.patchSize
    imageTokens = 1 + side * side
    languageSize = try readConfiguration(
      LanguageTowerConfiguration.self, folder: store.frozenModel(recipe.language.model)
    ).hiddenSize
    if let name = recipe.adapter.start {
      let folder = try store.adapter(name)
      let adapter = try AdapterConfiguration(folder: folder)
      guard let found = adapter.imageText?.qformer ?? adapter.imageLanguage?.qformer else {
        throw TrainingError.badRecipe(
          file: folder.path, reason: "adapter.start is \(adapter.kind.rawValue), expected an adapter of images")
      }
      qformer = found
    } else {
      qformer = try QFormerStart.configuration(
        recipe, bert: store.frozenModel(recipe.text.model), encoderWidth: encoder.width)
    }
    (qformer.readsText, qformer.separateDecoderToken) = (false, false)
    (tokens, frames, time) = (compare.tokens, recipe.video.frames, recipe.video.time)
    (temporalLayers, poolingHeads) = (recipe.video.cascaded.layers, recipe.video.spatioTemporal.poolingHeads)
  }
}
