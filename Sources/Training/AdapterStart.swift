import Checkpoints
import Foundation
import Pipelines
import QFormer
import Torch
import TorchNN

/// A Q-Former at the start of training; one of videos comes from an adapter of its own family, from an image adapter, or
/// from the text model alone.
struct AdapterStart {
  /// The model.
  let model: any VideoQFormer
  /// Its parameters.
  let parameters: Parameters
  /// Names of what a trained model has given, which learns more slowly.
  let inherited: Set<String>
  /// Whether the projection to the language model has been trained.
  let isProjecting: Bool
  /// The `config.json` that the trained adapter gets.
  let configuration: AdapterConfiguration

  /// As what is trained through a language model.
  var connector: ConnectorStart {
    ConnectorStart(video: model, parameters: parameters, inherited: inherited, isProjecting: isProjecting)
  }

  /// Word tables: the text model's own, frozen and not saved with the adapter.
  static let wordTables: Set<String> = [
    "embeddings.word_embeddings.weight", "temporal.embeddings.word_embeddings.weight",
  ]

  /// Whether a parameter is trained.
  static func isTrained(_ name: String, _ recipe: Recipe) -> Bool {
    if wordTables.contains(name) { return false }
    if recipe.audio?.freezeVideo == true { return name.hasPrefix("audio.") }
    guard recipe.objective.readsVideo else { return true }
    return switch recipe.video.freeze {
    case .none: true
    case .inheritedAttention: !SpatioTemporalQFormer.isInheritedAttention(name)
    case .frameQFormer: !CascadedVideoQFormer.isOfFrames(name)
    }
  }

  /// Makes the model that the recipe trains.
  ///
  /// - Parameters:
  ///   - encoderWidth: Dv.
  ///   - languageSize: The width of the language model's embeddings; nil to compare clips with texts.
  ///   - queries: How many queries an image adapter is made to have before it is expanded; as many as it has when left out.
  /// - Throws: ``TrainingError/badRecipe(file:reason:)`` for an adapter that does not fit; what loading one throws.
  static func make(
    _ recipe: Recipe, store: ModelStore, encoderWidth: Int, languageSize: Int?, queries: Int? = nil
  ) throws -> AdapterStart {
    let maker = Maker(recipe: recipe, store: store, encoderWidth: encoderWidth, languageSize: languageSize)
    guard let (folder, adapter) = try maker.source() else { return try maker.fresh() }
    guard languageSize != nil || adapter.text.map({ $0.model == recipe.text.model }) ?? true else {
      throw maker.bad(folder, "adapter.start was trained on another text model: \(adapter.text?.model ?? "none")")
    }
    guard adapter.audio == nil || recipe.audio != nil else {
      throw maker.bad(folder, "adapter.start has a branch for sound: go on with it by audio")
    }
    switch (adapter.kind, recipe.video.family) {
    case (.imageText, .cascaded), (.imageLanguage, .cascaded):
      return try maker.cascade(image: Checkpoint(contentsOf: folder), adapter)
    case (.imageText, .spatioTemporal), (.imageLanguage, .spatioTemporal):
      return try maker.expansion(of: maker.image(adapter, folder: folder).with(queries: queries, seed: recipe.seed))
    case (.cascadedVideo, .cascaded), (.spatioTemporalVideo, .spatioTemporal):
      return try maker.continuation(of: adapter, folder: folder)
    case (.cascadedVideo, .spatioTemporal), (.spatioTemporalVideo, .cascaded), (.audioLanguage, _):
      throw maker.bad(
        folder, "adapter.start is \(adapter.kind.rawValue), but video.family is \(recipe.video.family.rawValue)")
    }
  }

  /// The image–language Q-Former that the recipe's image adapter, or the text model, gives, with so many queries.
  ///
  /// - Throws: As ``make(_:store:encoderWidth:languageSize:queries:)``.
  static func imageLanguage(
    _ recipe: Recipe, store: ModelStore, encoderWidth: Int, languageSize: Int, queries: Int
  ) throws -> (
    model: ImageLanguageQFormer, parameters: Parameters, inherited: Set<String>, isProjecting: Bool
  ) {
    let maker = Maker(recipe: recipe, store: store, encoderWidth: encoderWidth, languageSize: languageSize)
    let source = try maker.source()
    if let source, source.adapter.kind.readsVideo {
      throw maker.bad(source.folder, "adapter.start is \(source.adapter.kind.rawValue), expected an adapter of images")
    }
    let found = try source.map { try maker.image($0.adapter, folder: $0.folder) } ?? maker.freshImage()
    return try maker.imageLanguage(found.with(queries: queries, seed: recipe.seed))
  }
}

/// Answers with copies of what there is, and with fresh parameters where there is none.
private final class CopiedParameters: ParameterSource {
  private let source: Parameters
  private let fresh: FreshParameters
  private(set) var copied: Set<String> = []

  init(_ source: Parameters, seed: UInt64) {
    self.source = source
    fresh = FreshParameters(seed: seed)
  }

  func has(_ name: String) -> Bool { true }

  func parameter(_ name: String, shape: [Int], initializer: Initializer) -> Tensor {
    guard let tensor = source[name], tensor.shape == shape else {
      return fresh.parameter(name, shape: shape, initializer: initializer)
    }
    copied.insert(name)
    return tensor.detached().cloned()
  }
}

/// Makes video Q-Formers of what there is.
private struct Maker {
  let recipe: Recipe
  let store: ModelStore
  let encoderWidth: Int
  let languageSize: Int?

  /// An image Q-Former's parameters and sizes.
  struct Image {
    let parameters: Parameters
    let sizes: QFormerConfiguration
    let objectives: ObjectiveConfiguration?
    /// Names of what a trained model has given.
    let inherited: Set<String>

    /// The same with so many queries: the first ones, or where there are fewer all of them over again with noise
    /// N(0, 0.02²).
    func with(queries: Int?, seed: UInt64) throws -> Image {
      guard let queries, queries != sizes.queries, let tokens = parameters["query_tokens"]?.detached() else {
        return self
      }
      let count = sizes.queries
      var sizes = sizes
      sizes.queries = queries
      let changed = Parameters()
      for (name, tensor) in parameters.all { changed.insert(name, tensor) }
      try withError {
        let rows = tokens.indexSelect(1, Tensor((0..<queries).map { $0 % count }))  // [1, queries, D]
        let noise = Tensor.randn(rows.shape, generator: Generator(seed: seed &+ 2)) * 0.02
        let isNew = Tensor((0..<queries).map { Float($0 < count ? 0 : 1) }, [1, queries, 1])
        changed.insert("query_tokens", rows + noise * isNew)
      }
      return Image(parameters: changed, sizes: sizes, objectives: objectives, inherited: inherited)
    }
  }

  /// The adapter that the recipe starts from, if there is one.
  ///
  /// - Throws: ``TrainingError/badRecipe(file:reason:)`` for one of another encoder or text model.
  func source() throws -> (folder: URL, adapter: AdapterConfiguration)? {
    guard let name = recipe.adapter.start else { return nil }
    let folder = try store.adapter(name)
    let adapter = try AdapterConfiguration(folder: folder)
    guard adapter.encoder.givesFeatures(like: recipe.encoder) else {
      throw bad(
        folder,
        "adapter.start reads another encoder than the recipe's: \(adapter.encoder.model) at block "
          + (adapter.encoder.block.map(String.init) ?? "last"))
    }
    return (folder, adapter)
  }

  /// The text model, and the sizes of a new Q-Former that starts from it.
  private func textModel() throws -> (checkpoint: Checkpoint, sizes: QFormerConfiguration) {
    let folder = try store.frozenModel(recipe.text.model)
    return (
      try Checkpoint(contentsOf: folder),
      try QFormerStart.configuration(recipe, bert: folder, encoderWidth: encoderWidth)
    )
  }

  /// An image–language Q-Former with the sizes and parameters of an image Q-Former, as far as it has them.
  func imageLanguage(_ image: Image) throws -> (
    model: ImageLanguageQFormer, parameters: Parameters, inherited: Set<String>, isProjecting: Bool
  ) {
    var configuration = ImageLanguageConfiguration()
    configuration.qformer = adapted(image.sizes, readsText: false)
    configuration.languageSize = languageSize ?? 0
    let (parameters, source) = (Parameters(), CopiedParameters(image.parameters, seed: recipe.seed))
    let model = try withError {
      try ImageLanguageQFormer(configuration, ParameterScope(source, parameters: parameters))
    }
    let inherited = source.copied.intersection(image.inherited)
    return (model, parameters, inherited, inherited.contains("language_projection.weight"))
  }

  var readsText: Bool { languageSize == nil }

  /// Where the word table of an adapter lies.
  private func words(_ adapter: AdapterConfiguration) throws -> [BaseCheckpoint] {
    try adapter.text.map { [try $0.wordTable(in: store)] } ?? []
  }

  func bad(_ folder: URL, _ reason: String) -> TrainingError { .badRecipe(file: folder.path, reason: reason) }

  /// From the text model alone.
  func fresh() throws -> AdapterStart {
    switch recipe.video.family {
    case .cascaded: try cascade(image: nil, nil)
    case .spatioTemporal: try expansion(of: freshImage())
    }
  }

  // MARK: Sizes

  /// With the recipe's dropout, and text or none.
  private func adapted(_ sizes: QFormerConfiguration, readsText: Bool) -> QFormerConfiguration {
    var sizes = sizes
    sizes.hiddenDropout = recipe.adapter.hiddenDropout
    sizes.attentionDropout = recipe.adapter.attentionDropout
    if !readsText { sizes.separateDecoderToken = false }
    sizes.readsText = readsText
    return sizes
  }

  /// The same for what reads frames: without dropout where it stays as it is.
  private func ofFrames(_ sizes: QFormerConfiguration, readsText: Bool) -> QFormerConfiguration {
    var sizes = adapted(sizes, readsText: readsText)
    if recipe.video.freeze == .frameQFormer { (sizes.hiddenDropout, sizes.attentionDropout) = (0, 0) }
    return sizes
  }

  private func objectives(_ source: ObjectiveConfiguration?) -> ObjectiveConfiguration? {
    guard readsText else { return nil }
    var objectives = source ?? ObjectiveConfiguration()
    if source == nil { objectives.temperature = recipe.imageText.temperature }
    objectives.aggregation = recipe.video.aggregation
    objectives.matchingHead = recipe.video.matchingHead
    return objectives
  }

  /// The `config.json` that the trained adapter gets, before its sizes.
  private func described(_ adapter: AdapterConfiguration) -> AdapterConfiguration {
    var adapter = adapter
    (adapter.encoder, adapter.frames) = (recipe.encoder, recipe.video.frameChoice)
    (adapter.text, adapter.language) = (readsText ? recipe.text : nil, readsText ? nil : recipe.language)
    return adapter
  }

  // MARK: Cascaded

  /// The frame Q-Former and the projection from an image adapter, the rest from the text model.
  func cascade(image: Checkpoint?, _ adapter: AdapterConfiguration?) throws -> AdapterStart {
    let options = recipe.video.cascaded
    let (bert, bertSizes) = try textModel()
    var configuration = CascadedVideoConfiguration()
    configuration.frame = ofFrames(
      adapter?.imageText?.qformer ?? adapter?.imageLanguage?.qformer ?? bertSizes, readsText: false)
    configuration.temporal = adapted(bertSizes, readsText: readsText)
    configuration.temporal.layers = options.layers
    configuration.temporal.crossAttentionFrequency = 1
    configuration.temporal.queries = options.queries
    configuration.temporal.encoderHiddenSize = configuration.frame.hiddenSize
    configuration.time = recipe.video.time
    configuration.site = options.timeSite
    configuration.languageSize = languageSize
    configuration.objectives = objectives(nil)
    let parameters = Parameters()
    let model = try withError {
      try CascadedVideoQFormer(
        configuration, ParameterScope(FreshParameters(seed: recipe.seed), parameters: parameters))
    }
    var inherited = try QFormerStart.copy(bert, into: parameters, recipe, below: "temporal.")
    let described = described(AdapterConfiguration(cascaded: configuration))
    try TimeStart.apply(recipe, to: parameters)
    guard let image else {
      inherited.formUnion(try QFormerStart.copy(bert, into: parameters, recipe))
      return AdapterStart(
        model: model, parameters: parameters, inherited: inherited, isProjecting: false, configuration: described)
    }
    let ofFrames = parameters.names.filter(CascadedVideoQFormer.isOfFrames)
    let projection = parameters.names.filter {
      $0.hasPrefix("language_projection.") && image.shape($0) == parameters[$0]?.shape
    }
    try copy(image, ofFrames + projection, into: parameters)
    inherited.formUnion(ofFrames + projection)
    return AdapterStart(
      model: model, parameters: parameters, inherited: inherited, isProjecting: !projection.isEmpty,
      configuration: described)
  }

  private func copy(_ checkpoint: Checkpoint, _ names: [String], into parameters: Parameters) throws {
    try withError {
      try withNoGrad {
        for name in names {
          let source = try checkpoint.tensor(name)
          let shape = parameters[name]?.shape ?? []
          guard source.shape == shape else {
            throw CheckpointError.malformed(
              file: checkpoint.url.path, expected: "\(name) \(shape)", found: "\(source.shape)")
          }
          parameters[name]?.copy(from: source)
        }
      }
    }
  }

  // MARK: Spatio-temporal

  /// An image Q-Former made of the text model.
  func freshImage() throws -> Image {
    let (bert, bertSizes) = try textModel()
    let sizes = adapted(bertSizes, readsText: readsText)
    let parameters = Parameters()
    try withError {
      let scope = ParameterScope(FreshParameters(seed: recipe.seed), parameters: parameters)
      if readsText {
        var configuration = ImageTextConfiguration()
        configuration.qformer = sizes
        configuration.objectives.temperature = recipe.imageText.temperature
        _ = try ImageTextQFormer(configuration, scope)
      } else {
        var configuration = ImageLanguageConfiguration()
        configuration.qformer = sizes
        configuration.languageSize = languageSize ?? 0
        _ = try ImageLanguageQFormer(configuration, scope)
      }
    }
    let inherited = try QFormerStart.copy(bert, into: parameters, recipe)
    return Image(parameters: parameters, sizes: sizes, objectives: nil, inherited: inherited)
  }

  /// The Q-Former of an image adapter.
  func image(_ adapter: AdapterConfiguration, folder: URL) throws -> Image {
    let parameters = Parameters()
    func keep(_ scope: ParameterScope) {
      for (name, tensor) in scope.parameters.all { parameters.insert(name, tensor) }
    }
    let checkpoint = try Checkpoint(contentsOf: folder)
    if let configuration = adapter.imageText {
      _ = try loadModel(from: checkpoint, bases: words(adapter)) { scope in
        defer { keep(scope) }
        return try ImageTextQFormer(configuration, scope)
      }
      return Image(
        parameters: parameters, sizes: configuration.qformer, objectives: configuration.objectives,
        inherited: Set(parameters.names))
    }
    guard let configuration = adapter.imageLanguage, !readsText else {
      throw bad(folder, "adapter.start has no text side: video-text starts from an adapter that compares with texts")
    }
    _ = try loadModel(from: checkpoint) { scope in
      defer { keep(scope) }
      return try ImageLanguageQFormer(configuration, scope)
    }
    return Image(
      parameters: parameters, sizes: configuration.qformer, objectives: nil, inherited: Set(parameters.names))
  }

  /// A spatio-temporal Q-Former that starts as an image Q-Former on the mean of the frames.
  func expansion(of image: Image) throws -> AdapterStart {
    let options = recipe.video.spatioTemporal
    var configuration = SpatioTemporalConfiguration()
    configuration.qformer = adapted(image.sizes, readsText: readsText)
    configuration.spatialQueries = options.spatialQueries ?? image.sizes.queries
    configuration.temporalQueries = options.temporalQueries ?? image.sizes.queries
    configuration.summaryQueries = options.summaryQueries
    configuration.pooling = options.pooling
    configuration.poolingHeads = options.poolingHeads
    configuration.time = recipe.video.time
    configuration.timeSite = options.timeSite
    configuration.expertLayers = options.expertLayers
    configuration.hasCrossMask = options.crossMask
    configuration.languageGroups = options.languageGroups
    configuration.languageSize = languageSize
    configuration.objectives = objectives(image.objectives)
    let expansion = try withError {
      try SpatioTemporalQFormer.fromImageQFormer(image.parameters, configuration, seed: recipe.seed)
    }
    try TimeStart.apply(recipe, to: expansion.parameters)
    let groups = QueryGroup.allCases.map { "_\($0.rawValue)." }
    let inherited = expansion.parameters.names.filter { name in
      let source = groups.reduce(name) { $0.replacingOccurrences(of: $1, with: "_query.") }
      return image.inherited.contains(source) && !expansion.fresh.contains(name)
    }
    return AdapterStart(
      model: expansion.model, parameters: expansion.parameters, inherited: Set(inherited),
      isProjecting: inherited.contains("language_projection.weight"),
      configuration: described(AdapterConfiguration(spatioTemporal: configuration)))
  }

  // MARK: Video

  /// What is not trained through a language model stays behind: the text side and the heads.
  private static let textSide = [
    "embeddings.*", "temporal.embeddings.*", "vision_projection.*", "text_projection.*", "itm_head.*", "temp", "cls.*",
    "*.intermediate.*", "*.output.dense.*", "*.output.LayerNorm.*",
  ]

  /// An adapter of the same family goes on; its sizes stay.
  func continuation(of adapter: AdapterConfiguration, folder: URL) throws -> AdapterStart {
    guard readsText == false || adapter.text != nil else {
      throw bad(folder, "adapter.start has no text side: video-text starts from an adapter that compares with texts")
    }
    var adapter = adapter
    let projected = adapter.cascaded?.languageSize ?? adapter.spatioTemporal?.languageSize
    let isProjecting = languageSize != nil && projected == languageSize
    if var sizes = adapter.cascaded {
      sizes.frame = ofFrames(sizes.frame, readsText: sizes.frame.readsText)
      sizes.temporal = adapted(sizes.temporal, readsText: readsText)
      sizes.languageSize = languageSize
      if !readsText { sizes.objectives = nil }
      adapter.cascaded = sizes
    }
    if var sizes = adapter.spatioTemporal {
      sizes.qformer = adapted(sizes.qformer, readsText: readsText)
      sizes.languageSize = languageSize
      if !readsText { sizes.objectives = nil }
      adapter.spatioTemporal = sizes
    }
    let parameters = Parameters()
    let projection = "language_projection.*"
    let unused = (readsText ? [] : Self.textSide) + (isProjecting ? [] : [projection]) + ["audio.*"]
    // A projection to another language model would not fit: a new one takes its place.
    let keyMap =
      isProjecting ? KeyMap.identity : KeyMap([KeyMap.Rule("language_projection", "new.language_projection")])
    let model = try loadModel(
      from: Checkpoint(contentsOf: folder), keyMap: keyMap,
      bases: readsText ? words(adapter) : [], ignoring: unused,
      allowMissing: isProjecting ? [] : [projection], seed: recipe.seed
    ) { scope in
      defer { for (name, tensor) in scope.parameters.all { parameters.insert(name, tensor) } }
      return try adapter.videoQFormer(scope, folder: folder)
    }.model
    let inherited = parameters.names.filter { isProjecting || !$0.hasPrefix("language_projection.") }
    return AdapterStart(
      model: model, parameters: parameters, inherited: Set(inherited), isProjecting: isProjecting,
      configuration: described(adapter))
  }
}
