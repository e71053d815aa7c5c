// A Q-Former that looks at space and time at once, after "Video Q-Former: Multimodal Large Language Model with
// Spatio-Temporal Querying Transformer Towards Video Understanding" (submission to ICLR 2025). Its code and weights are
// not public: what its text leaves open is a field of the configuration with our reading as its default.
//
// A clip is pooled twice by attention: over the patches of each frame to one vector a frame, and over the frames at
// each patch to one vector a place. Three groups of queries read them: spatial queries the places, temporal queries the
// frames, summary queries both. Self-attention is shared by all groups and the text; each group has feed-forward
// weights of its own (experts with hard routing, VLMo, arXiv 2111.02358).
//
// What to expect: a vector a place blurs motion, a vector a frame blurs the layout, and the published gain over plain
// pooling is small. The length of the output does not depend on the number of frames.
//
// B batch · T frames · N patch tokens · Dv encoder width · M queries of all groups · D hidden · H heads of pooling
// d = Dv / H · L text tokens

public import Torch
public import TorchNN

/// A group of queries of a ``SpatioTemporalQFormer``.
public enum QueryGroup: String, Codable, Sendable, CaseIterable {
  /// Reads one vector for each place.
  case spatial
  /// Reads one vector for each frame.
  case temporal
  /// Reads both: one query that carries the whole clip. Accounts of the submission elsewhere take the name of its
  /// expert, SM, for semantic alignment.
  case summary
}

/// How a clip is pooled over patches and over frames.
public enum VideoPooling: String, Codable, Sendable, CaseIterable {
  /// Multi-head attention of one learned query, over the patches of each frame and over the frames at each place.
  case attentive
  /// Plain means.
  case mean
}

/// Where the time of a frame is told.
public enum TimeSite: String, Codable, Sendable, CaseIterable {
  /// On the vectors of frames.
  case afterPooling
  /// On every patch of a frame, before anything is pooled.
  case beforePooling
}

/// Sizes and choices of a ``SpatioTemporalQFormer``.
public struct SpatioTemporalConfiguration: Codable, Sendable, Equatable {
  /// The encoder; its number of queries follows from the groups.
  public var qformer = QFormerConfiguration.small { didSet { qformer.queries = queries } }
  /// Queries that read places.
  public var spatialQueries = 32 { didSet { qformer.queries = queries } }
  /// Queries that read frames.
  public var temporalQueries = 32 { didSet { qformer.queries = queries } }
  /// Queries that read both.
  public var summaryQueries = 1 { didSet { qformer.queries = queries } }
  /// How a clip is pooled.
  public var pooling = VideoPooling.attentive
  /// H, the heads of attentive pooling.
  public var poolingHeads = 16
  /// How time is told.
  public var time = TimeConfiguration()
  /// Where it is told.
  public var timeSite = TimeSite.afterPooling
  /// How many layers, counted from the last, have experts for the groups; nil for all.
  public var expertLayers: Int?
  /// Whether groups read only what is theirs; otherwise every query reads places and frames.
  public var hasCrossMask = true
  /// The groups whose queries go to the language model, in the order of the queries.
  public var languageGroups = QueryGroup.allCases
  /// Added to the variance by the LayerNorm on encoder features.
  public var visionNormEps = 1e-6
  /// The width of the language model's token embeddings; nil for a model without a projection.
  public var languageSize: Int? = 576
  /// The heads for comparing videos with texts; nil for none. They need text.
  public var objectives: ObjectiveConfiguration? = ObjectiveConfiguration()

  /// The small scale of this package: features of width 384, MiniLM's sizes, text included, for SmolLM2-135M.
  public init() { qformer.queries = queries }

  /// The small scale of this package.
  public static let small = SpatioTemporalConfiguration()

  /// The sizes of BLIP-2: base BERT, ViT-g features, a 2.7 B language model.
  public static let blip2: SpatioTemporalConfiguration = {
    var configuration = SpatioTemporalConfiguration()
    configuration.qformer = .blip2
    configuration.qformer.readsText = true
    configuration.qformer.vocabularySize = 30523
    configuration.languageSize = 2560
    return configuration
  }()

  /// M, the queries of all groups.
  public var queries: Int { spatialQueries + temporalQueries + summaryQueries }

  /// The number of tokens that the language model gets.
  public var languageTokens: Int { languageGroups.reduce(0) { $0 + size(of: $1) } }

  /// The number of queries of a group.
  public func size(of group: QueryGroup) -> Int {
    switch group {
    case .spatial: spatialQueries
    case .temporal: temporalQueries
    case .summary: summaryQueries
    }
  }

  /// The groups that have queries, with their numbers.
  var groups: [(group: QueryGroup, queries: Int)] {
    QueryGroup.allCases.map { ($0, size(of: $0)) }.filter { $0.1 > 0 }
  }

  enum CodingKeys: String, CodingKey {
    case qformer = "qformer_config"
    case spatialQueries = "num_spatial_queries"
    case temporalQueries = "num_temporal_queries"
    case summaryQueries = "num_summary_queries"
    case pooling
    case poolingHeads = "num_pooling_heads"
    case time = "time_encoding"
    case timeSite = "time_site"
    case expertLayers = "num_expert_layers"
    case hasCrossMask = "cross_mask"
    case languageGroups = "language_groups"
    case visionNormEps = "vision_norm_eps"
    case languageSize = "language_hidden_size"
    case objectives
  }

  /// The Q-Former must be there; of the other fields, those that are absent take the default, and a projection or heads
  /// that are absent are not built.
  ///
  /// - Throws: `DecodingError`, or ``QFormerError/invalidConfiguration(_:)`` where `num_query_tokens` is not the sum.
  public init(from decoder: any Decoder) throws {
    let fields = try decoder.container(keyedBy: CodingKeys.self)
    spatialQueries = try fields.decodeIfPresent(Int.self, forKey: .spatialQueries) ?? spatialQueries
    temporalQueries = try fields.decodeIfPresent(Int.self, forKey: .temporalQueries) ?? temporalQueries
    summaryQueries = try fields.decodeIfPresent(Int.self, forKey: .summaryQueries) ?? summaryQueries
    pooling = try fields.decodeIfPresent(VideoPooling.self, forKey: .pooling) ?? pooling
    poolingHeads = try fields.decodeIfPresent(Int.self, forKey: .poolingHeads) ?? poolingHeads
    time = try fields.decodeIfPresent(TimeConfiguration.self, forKey: .time) ?? time
    timeSite = try fields.decodeIfPresent(TimeSite.self, forKey: .timeSite) ?? timeSite
    expertLayers = try fields.decodeIfPresent(Int.self, forKey: .expertLayers)
    hasCrossMask = try fields.decodeIfPresent(Bool.self, forKey: .hasCrossMask) ?? hasCrossMask
    languageGroups = try fields.decodeIfPresent([QueryGroup].self, forKey: .languageGroups) ?? languageGroups
    visionNormEps = try fields.decodeIfPresent(Double.self, forKey: .visionNormEps) ?? visionNormEps
    languageSize = try fields.decodeIfPresent(Int.self, forKey: .languageSize)
    objectives = try fields.decodeIfPresent(ObjectiveConfiguration.self, forKey: .objectives)
    let named = try fields.decode([String: NumberOrOther].self, forKey: .qformer)["num_query_tokens"]?.number
    qformer = try fields.decode(QFormerConfiguration.self, forKey: .qformer)
    // Observers do not run in an initialiser.
    qformer.queries = spatialQueries + temporalQueries + summaryQueries
    if let named, named != qformer.queries {
      throw QFormerError.invalidConfiguration(
        "num_query_tokens is \(named), but the groups have \(qformer.queries) queries together")
    }
  }

  /// Reads whole numbers and passes over everything else.
  private struct NumberOrOther: Decodable {
    let number: Int?
    init(from decoder: any Decoder) throws { number = try? decoder.singleValueContainer().decode(Int.self) }
  }

  /// Checks that the numbers make a model.
  ///
  /// - Throws: ``QFormerError/invalidConfiguration(_:)``.
  public func validate() throws {
    try qformer.validate()
    func require(_ holds: Bool, _ words: @autoclosure () -> String) throws {
      if !holds { throw QFormerError.invalidConfiguration(words()) }
    }
    for (name, value) in [
      ("num_spatial_queries", spatialQueries), ("num_temporal_queries", temporalQueries),
      ("num_summary_queries", summaryQueries),
    ] { try require((0...100_000).contains(value), "\(name) is \(value), expected 0 … 10⁵") }
    try require(
      poolingHeads >= 1 && qformer.encoderHiddenSize % poolingHeads == 0,
      "encoder_hidden_size \(qformer.encoderHiddenSize) is no multiple of \(poolingHeads) pooling heads")
    if let expertLayers {
      try require(
        (0...qformer.layers).contains(expertLayers),
        "num_expert_layers is \(expertLayers), expected 0 … \(qformer.layers)")
    }
    try require(Set(languageGroups).count == languageGroups.count, "language_groups names a group twice")
    if languageSize != nil {
      for group in languageGroups {
        try require(size(of: group) > 0, "language_groups names \(group.rawValue), which has no queries")
      }
      try require(!languageGroups.isEmpty, "language_groups is empty")
    }
    if let objectives, objectives.aggregation == .summary || objectives.matchingHead == .summary {
      try require(summaryQueries == 1, "a summary is compared with texts, but num_summary_queries is \(summaryQueries)")
    }
    try checkLanguageSize(languageSize)
  }
}

/// A clip after pooling.
public struct PooledVideo: Sendable {
  /// One vector for each place, `[B, N, Dv]`.
  public let places: Tensor
  /// One vector for each frame, `[B, T, Dv]`, its time told.
  public let frames: Tensor
  /// How much each frame counts in the vectors of places, `[B, T]`: at least 0, 0 for padding, 1 together.
  public let importance: Tensor
  /// Its masks and lengths.
  let clip: TimedFeatures

  /// The same clip with other vectors in the place of these, to see what the queries make of them.
  public func replacing(places: Tensor? = nil, frames: Tensor? = nil) -> PooledVideo {
    PooledVideo(places: places ?? self.places, frames: frames ?? self.frames, importance: importance, clip: clip)
  }

  /// The importance of equally long segments, `[B, segments]`: sums over the frames of each, 1 together.
  ///
  /// Frame t of the n that a clip has belongs to segment ⌊t · segments / n⌋.
  ///
  /// - Parameter segments: Their number, at least 1.
  /// - Throws: ``QFormerError/invalidInput(_:)``.
  public func segmentImportance(_ segments: Int) throws -> Tensor {
    guard segments >= 1 else { throw QFormerError.invalidInput("\(segments) segments of a clip, expected at least 1") }
    let places = clip.lengths.flatMap { length in
      (0..<clip.frames).map { min($0, length - 1) * segments / length }
    }
    let segment = Tensor(places, [clip.batch, clip.frames, 1])
    let belongs = segment.equal(Tensor.arange(segments)).to(.float32)  // [B, T, segments]
    return (belongs * importance.unsqueezed(2)).sum(1)
  }
}

/// What a ``SpatioTemporalQFormer`` says of a clip.
public struct SpatioTemporalOutput: Sendable {
  /// Hidden states of spatial, temporal and summary queries `[B, M, D]`; cross-attention weights, where asked for,
  /// `[B, H, M, N + T]`: places, then frames.
  public let queries: QFormerOutput
  /// The clip after pooling, with the importance of its frames.
  public let pooled: PooledVideo
}

/// One Q-Former over places and frames.
public struct SpatioTemporalQFormer: VideoQFormer {
  /// Its sizes and choices.
  public let configuration: SpatioTemporalConfiguration
  /// The encoder: queries of all groups, and text.
  public let textQFormer: QFormer
  /// The heads for comparing videos with texts, where there are any.
  public let heads: ObjectiveHeads?
  private let visionNorm: LayerNorm
  private let overPatches: AttentivePooling?
  private let overFrames: AttentivePooling?
  private let time: TimeEmbedding
  /// λ, how strongly queries are drawn to important frames.
  private let importanceScale: Tensor?
  private let projection: Linear?

  /// Takes the Q-Former and `vision_model.post_layernorm` from the scope under Hugging Face's names, with
  /// `intermediate_GROUP` and `output_GROUP` where there are experts, then `pooling.*`, `time_embedding`,
  /// `importance_scale`, `language_projection` and the heads.
  ///
  /// - Throws: ``QFormerError/invalidConfiguration(_:)``.
  public init(_ configuration: SpatioTemporalConfiguration, _ scope: ParameterScope) throws {
    try configuration.validate()
    self.configuration = configuration
    textQFormer = try QFormer(
      configuration.qformer,
      experts: QueryExperts(
        groups: configuration.groups.map { ($0.group.rawValue, $0.queries) },
        lastLayers: configuration.expertLayers ?? configuration.qformer.layers), scope)
    let width = configuration.qformer.encoderHiddenSize
    visionNorm = LayerNorm(width, eps: configuration.visionNormEps, scope["vision_model.post_layernorm"])
    if configuration.pooling == .attentive {
      overPatches = AttentivePooling(width, heads: configuration.poolingHeads, scope["pooling.over_patches"])
      overFrames = AttentivePooling(width, heads: configuration.poolingHeads, scope["pooling.over_frames"])
      importanceScale = scope.parameter("importance_scale", [], .zeros)
    } else {
      // All frames are equally important: there is nothing to be drawn to.
      (overPatches, overFrames, importanceScale) = (nil, nil, nil)
    }
    time = try TimeEmbedding(configuration.time, width, scope["time_embedding"], initializer: .zeros)
    projection = configuration.languageSize.map {
      Linear(configuration.qformer.hiddenSize, $0, scope["language_projection"])
    }
    let qformer = textQFormer
    heads = try configuration.objectives.map { try ObjectiveHeads($0, on: qformer, scope) }
  }

  /// Whether a parameter is attention inherited from an image Q-Former, which the first step of training leaves as it
  /// is.
  public static func isInheritedAttention(_ name: String) -> Bool {
    name.hasPrefix("qformer.encoder.layer.") && (name.contains(".attention.") || name.contains(".crossattention."))
  }

  // MARK: Passes

  /// Encoder features `[…, Dv]` after the LayerNorm that the adapter has on them.
  public func imageEmbeds(_ features: Tensor) -> Tensor { visionNorm(features) }

  /// Pools a clip over patches and over frames.
  ///
  /// - Parameter clip: Encoder features `[B, T, N, Dv]`.
  /// - Throws: ``QFormerError``.
  public func pool(_ clip: TimedFeatures) throws -> PooledVideo {
    let times = try time(clip)
    let x = try toPool(clip, times)
    let weights = clip.weights
    var frames: Tensor
    let places: Tensor
    let importance: Tensor
    if let overPatches, let overFrames {
      frames = overPatches.overPatches(x)
      (places, importance) = overFrames.overFrames(x, mask: clip.mask == nil ? nil : weights)
    } else {
      importance = weights / weights.sum(1, keepDimension: true)
      frames = x.mean(2)
      places = (x * importance.reshaped(clip.batch, -1, 1, 1)).sum(1)  // [B, T] → [B, T, 1, 1]
    }
    if configuration.timeSite == .afterPooling, let times { frames = frames + times }
    return PooledVideo(places: places, frames: frames, importance: importance, clip: clip)
  }

  /// What is pooled, `[B, T, N, Dv]`: after the LayerNorm, and with its time where that is told before pooling.
  private func toPool(_ clip: TimedFeatures, _ times: Tensor?) throws -> Tensor {
    let width = configuration.qformer.encoderHiddenSize
    try clip.requireFrames(width: width)
    let x = clip.areEmbeds ? clip.cleaned : visionNorm(clip.cleaned)
    guard configuration.timeSite == .beforePooling, let times else { return x }
    return x + times.unsqueezed(2)  // [B, T, Dv] → [B, T, 1, Dv]
  }

  /// What pooling weighs a clip with, averaged over its heads.
  ///
  /// - Parameter clip: Encoder features `[B, T, N, Dv]`.
  /// - Returns: How much each patch counts in the vector of its frame, which sums to 1 over patches, and how much each
  ///   frame counts in the vector of a place, which sums to 1 over frames; `[B, T, N]` both.
  /// - Throws: ``QFormerError``.
  public func poolingWeights(_ clip: TimedFeatures) throws -> (overPatches: Tensor, overFrames: Tensor) {
    let weights = clip.weights
    let x = try toPool(clip, try time(clip))
    guard let overPatches, let overFrames else {
      let patches = clip.features.size(2)
      let ofFrames = (weights / weights.sum(1, keepDimension: true)).unsqueezed(2)  // [B, T, 1]
      return (.full([clip.batch, clip.frames, patches], 1 / Double(patches)), ofFrames.expanded(-1, -1, patches))
    }
    return (
      overPatches.patchWeights(x).mean(3), overFrames.frameWeights(x, mask: clip.mask == nil ? nil : weights).mean(3)
    )
  }

  /// What the queries look at: places, then frames, with what each group does not see masked. Queries that see frames
  /// are drawn to them by λ · log(max(T · importance, 10⁻⁶)), where T counts the clip's own frames.
  ///
  /// - Throws: ``QFormerError``.
  public func keyValues(_ pooled: PooledVideo) throws -> ImageKeyValues {
    let keys = Tensor.cat([pooled.places, pooled.frames], 1)  // [B, N + T, Dv]
    let patches = pooled.places.size(1)
    var ofFrames = Tensor.zeros([pooled.clip.batch, pooled.clip.frames])
    if pooled.clip.mask != nil { ofFrames = QFormer.additive(pooled.clip.weights) }
    if let importanceScale {
      let count = pooled.clip.weights.sum(1, keepDimension: true)  // [B, 1]
      let relative = (pooled.importance * count).clamped(min: 1e-6)
      ofFrames = ofFrames + relative.log() * importanceScale
    }
    var bias = Tensor.cat([.zeros([pooled.clip.batch, patches]), ofFrames], 1).unsqueezed(1)  // [B, 1, N + T]
    if configuration.hasCrossMask { bias = bias + crossMask(patches: patches, frames: pooled.clip.frames) }
    return try textQFormer.imageKeyValues(keys, bias: bias.unsqueezed(1))  // [B, 1, 1 or M, N + T]
  }

  /// 0 for what a query sees and −10,000 for what it does not, `[M, N + T]`.
  private func crossMask(patches: Int, frames: Int) -> Tensor {
    let rows = configuration.groups.map { group, queries in
      QFormer.additive(
        .cat(
          [
            .full([queries, patches], group == .temporal ? 0 : 1), .full([queries, frames], group == .spatial ? 0 : 1),
          ], 1))
    }
    return .cat(rows, 0)
  }

  /// What the queries look at, for objectives.
  ///
  /// - Parameters:
  ///   - clip: Encoder features `[B, T, N, Dv]`.
  ///   - isTraining: Whether dropout is on.
  /// - Throws: ``QFormerError``.
  public func keyValues(_ clip: TimedFeatures, isTraining: Bool = false) throws -> ImageKeyValues {
    try keyValues(pool(clip))
  }

  /// All groups of queries read a clip.
  ///
  /// - Parameters:
  ///   - clip: Encoder features `[B, T, N, Dv]`.
  ///   - keepsAttention: Whether to return cross-attention weights.
  ///   - isTraining: Whether dropout is on.
  /// - Throws: ``QFormerError``.
  public func readVideo(
    _ clip: TimedFeatures, keepsAttention: Bool = false, isTraining: Bool = false
  ) throws -> SpatioTemporalOutput {
    let pooled = try pool(clip)
    return SpatioTemporalOutput(
      queries: textQFormer.readImage(try keyValues(pooled), keepsAttention: keepsAttention, isTraining: isTraining),
      pooled: pooled)
  }

  /// The hidden states of one group `[B, group, D]` of all `[B, M, D]`.
  public func queries(_ group: QueryGroup, of hidden: Tensor) -> Tensor {
    let sizes = configuration.groups
    let first = sizes.prefix { $0.group != group }.reduce(0) { $0 + $1.queries }
    return hidden.narrow(1, first, configuration.size(of: group))
  }

  /// Hidden states `[B, M, D]` as token embeddings of the language model, `[B, tokens, languageSize]`: those of the
  /// groups that the configuration sends there.
  ///
  /// - Throws: ``QFormerError/missingPart(_:)`` without a projection.
  public func languageTokens(_ hidden: Tensor) throws -> Tensor {
    guard let projection else { throw QFormerError.missingPart("projection to a language model") }
    let sent = configuration.groups.map(\.group).filter(configuration.languageGroups.contains)
    return projection(.cat(sent.map { queries($0, of: hidden) }, 1))
  }
}

// MARK: - Pooling

/// Multi-head attention of one learned query without biases: Wo Σ softmax((Wq q)ₕ · (Wk x)ₕ / √d) (Wv x)ₕ.
///
/// With one query the projections can change places with the sums, exactly: (Wq q)ₕ · (Wk x)ₕ = (Wkₕᵀ (Wq q)ₕ) · x, so
/// that the scores need one vector u of width Dv for each head, and Σ A Wv x = Wv Σ A x, so that what is projected is
/// what has been pooled. At first q = 0 and Wv = Wo = 1: the mean.
private struct AttentivePooling: Sendable {
  let token: Tensor
  let query: Linear
  let key: Linear
  let value: Linear
  let output: Linear
  let heads: Int
  let width: Int

  init(_ width: Int, heads: Int, _ scope: ParameterScope) {
    token = scope.parameter("query_token", [1, width], .zeros)
    query = Linear(width, width, scope["query"], bias: false)
    key = Linear(width, width, scope["key"], bias: false)
    value = Linear(width, width, scope["value"], bias: false, initializer: .identity)
    output = Linear(width, width, scope["output"], bias: false, initializer: .identity)
    self.heads = heads
    self.width = width
  }

  /// `[B, T, N, Dv]` to one vector for each frame, `[B, T, Dv]`.
  func overPatches(_ x: Tensor) -> Tensor {
    let (batch, frames, patches) = (x.size(0), x.size(1), x.size(2))
    let weights = patchWeights(x).reshaped(batch * frames, patches, heads)  // [B, T, N, H] → [B · T, N, H]
    let flat = x.reshaped(batch * frames, patches, width)  // [B, T, N, Dv] → [B · T, N, Dv]
    return project(weights.transposed(1, 2).matmul(flat)).reshaped(batch, frames, width)  // [B · T, Dv] → [B, T, Dv]
  }

  /// `[B, T, N, Dv]` to one vector for each place, `[B, N, Dv]`, and the weight of each frame, `[B, T]`, averaged over
  /// places and heads.
  ///
  /// - Parameter mask: `float32 [B, T]`.
  func overFrames(_ x: Tensor, mask: Tensor?) -> (places: Tensor, importance: Tensor) {
    let (batch, frames, patches) = (x.size(0), x.size(1), x.size(2))
    let weights = frameWeights(x, mask: mask)
    let byPlace = weights.permuted(0, 2, 3, 1).reshaped(batch * patches, heads, frames)  // [B, N, H, T] → [B · N, H, T]
    let flat = x.permuted(0, 2, 1, 3).reshaped(batch * patches, frames, width)  // [B, N, T, Dv] → [B · N, T, Dv]
    let places = project(byPlace.matmul(flat)).reshaped(batch, patches, width)  // [B · N, Dv] → [B, N, Dv]
    return (places, weights.mean(3).mean(2))
  }

  /// The weights of a frame's patches, `[B, T, N, H]`: 1 together over N.
  func patchWeights(_ x: Tensor) -> Tensor { scores(x).softmax(2) }

  /// The weights of a place's frames, `[B, T, N, H]`: 1 together over T.
  func frameWeights(_ x: Tensor, mask: Tensor?) -> Tensor {
    let scores = scores(x)
    guard let mask else { return scores.softmax(1) }
    return (scores + QFormer.additive(mask).reshaped(x.size(0), x.size(1), 1, 1)).softmax(1)  // [B, T] → [B, T, 1, 1]
  }

  /// Scores `[…, H]` of `[…, Dv]`.
  private func scores(_ x: Tensor) -> Tensor {
    let d = width / heads
    let projected = query(token).reshaped(heads, 1, d)  // [1, Dv] → [H, 1, d]
    let keys = key.weight.reshaped(heads, d, width)  // [Dv, Dv] → [H, d, Dv]
    let absorbed = projected.matmul(keys).reshaped(heads, width)  // [H, 1, Dv] → [H, Dv]
    return x.linear(absorbed * (1 / Double(d).squareRoot()))
  }

  /// Sums for each head `[K, H, Dv]` through values and output, `[K, Dv]`.
  private func project(_ pooled: Tensor) -> Tensor {
    let values = value.weight.reshaped(heads, width / heads, width).transposed(1, 2)  // [Dv, Dv] → [H, Dv, d]
    let byHead = pooled.transposed(0, 1).matmul(values)  // [H, K, d]
    return output(byHead.transposed(0, 1).reshaped(pooled.size(0), width))  // [K, H, d] → [K, Dv]
  }
}
