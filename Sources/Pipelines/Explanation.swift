// Where queries look, traced back to the patches of frames.
//
// T frames · N image tokens of a frame, the class token first · M queries · L text tokens · H heads · K what queries read
//
// Cross-attention gives each query weights over K things. Each thing is itself a weighted sum over patches of frames;
// weights through weights are products, summed over what lies between (attention rollout without residuals, after Abnar
// and Zuidema, arXiv 2005.00928). With C the cross-attention of a query, the map [T, N] is
//
//   image            C[n]                          T = 1
//   cascaded         Σₘ C[t, m] · F[t, m, n]       F: cross-attention of the frame Q-Former's query m in frame t
//   spatio-temporal  C[n] · P[t | n] + C[t] · S[n | t]    P, S: pooling of a place over frames, of a frame over patches
//
// and a word's map is Σₘ A[m] times the map of query m, A the word's self-attention to queries in the matching pass,
// made 1 together. All maps sum to 1.

public import Checkpoints
public import QFormer
public import Torch

/// Which attention weights are looked at; what is nil is averaged over.
public struct AttentionChoice: Sendable, Equatable {
  /// The number of a layer with cross-attention.
  public var layer: Int?
  /// A head, from 0.
  public var head: Int?
  /// A query, from 0; matters for summaries.
  public var query: Int?

  /// Makes a choice.
  public init(layer: Int? = nil, head: Int? = nil, query: Int? = nil) {
    (self.layer, self.head, self.query) = (layer, head, query)
  }

  /// Checks that a Q-Former has what is chosen.
  ///
  /// - Throws: ``PipelineError/badInput(_:)``, which says what there is.
  public func check(_ qformer: QFormer) throws {
    let layers = qformer.crossAttentionLayers
    if let layer, !layers.contains(layer) {
      throw PipelineError.badInput(
        "layer \(layer): expected one with cross-attention, \(layers.map(String.init).joined(separator: ", "))")
    }
    let sizes = qformer.configuration
    for (name, value, count) in [("head", head, sizes.heads), ("query", query, sizes.queries)] {
      if let value, !(0..<count).contains(value) {
        throw PipelineError.badInput("\(name) \(value): expected 0 to \(count - 1)")
      }
    }
  }

  /// `[…]` of weights `[layers, H, …]`; `numbers` says which layers those are.
  func chosen(_ weights: Tensor, numbers: [Int]) -> Tensor {
    let ofLayer = layer.flatMap(numbers.firstIndex).map { weights.select(0, $0) } ?? weights.mean(0)  // [H, …]
    return head.map { ofLayer.select(0, $0) } ?? ofLayer.mean(0)
  }
}

/// Where the queries of a model look in one picture or clip. A picture is a clip of one frame.
public struct Explanation: Sendable {
  /// Queries that look at the same things.
  public struct Group: Sendable, Equatable {
    /// What they are called.
    public let name: String
    /// Which of the queries.
    public let queries: Range<Int>
  }

  /// What a text attends to in the pass that compares it with the picture or clip.
  public struct Words: Sendable {
    /// The text.
    public let text: String
    /// Its L tokens.
    public let tokens: [String]
    /// Where each looks through the queries, `[L, T, N]`; rows sum to 1.
    public let maps: Tensor
    /// Self-attention of tokens to queries, `[L, M]`; rows sum to 1.
    public let toQueries: Tensor
  }

  /// Cross-attention weights of one clip as the model has them, `[layers, H, M, K]`. K is N for a picture, T · M′ for a
  /// cascade (frame after frame, M′ queries each), and N + T for a spatio-temporal Q-Former: places, then frames.
  public let crossAttention: Tensor
  /// The numbers of those layers.
  public let layers: [Int]
  /// Where each query looks, `[M, T, N]`; each sums to 1.
  public let maps: Tensor
  /// All queries in groups.
  public let groups: [Group]
  /// How much of the queries' attention goes to each frame, `[T]`, 1 together.
  public let frameAttention: [Double]
  /// How important each frame is, `[T]`, 1 together: what a spatio-temporal Q-Former pools frames with, else the same as
  /// ``frameAttention``.
  public let frameImportance: [Double]
  /// When each frame is shown, in seconds.
  public let seconds: [Double]
  /// What a text attends to, where there is one.
  public let words: Words?
  /// What was chosen.
  public let choice: AttentionChoice

  /// T.
  public var frames: Int { seconds.count }

  /// The map of the chosen query, or the mean over the queries of a group, or over all: `[T, N]`.
  public func summary(_ group: Group? = nil) -> Tensor {
    if let query = choice.query { return maps.select(0, query) }
    guard let group else { return maps.mean(0) }
    return maps.narrow(0, group.queries.lowerBound, group.queries.count).mean(0)
  }

  /// The patches of one frame of a map `[T, N]`, row by row, without the class token.
  public func patches(_ map: Tensor, frame: Int) -> [Float] { map.select(0, frame).slice(0, 1).values() }

  /// Sums of ``frameImportance`` over equally long segments: frame t belongs to segment ⌊t · segments / T⌋.
  public func segmentImportance(_ segments: Int) -> [Double] {
    var sums = Array(repeating: 0.0, count: max(segments, 1))
    for (frame, value) in frameImportance.enumerated() { sums[frame * sums.count / frames] += value }
    return sums
  }

  /// All tensors with the names they have in a file behind `NAME.`: `cross_attention [layers, H, M, K]`, `query_maps
  /// [M, N]`, and for text `text_attention [L, N]` and `text_to_queries [L, M]`. For a clip the maps are `[M, T, N]` and
  /// `[L, T, N]`, and there are `frame_importance`, `frame_attention` and `seconds`, `[T]`.
  ///
  /// - Parameter isClip: Whether there is a time; else there is one frame.
  public func tensors(isClip: Bool) -> [(name: String, tensor: Tensor)] {
    func shaped(_ maps: Tensor) -> Tensor { isClip ? maps : maps.select(1, 0) }
    func row(_ values: [Double]) -> Tensor { Tensor(values.map(Float.init)) }
    var all = [("cross_attention", crossAttention), ("query_maps", shaped(maps))]
    if isClip {
      all += [
        ("frame_importance", row(frameImportance)), ("frame_attention", row(frameAttention)), ("seconds", row(seconds)),
      ]
    }
    if let words { all += [("text_attention", shaped(words.maps)), ("text_to_queries", words.toQueries)] }
    return all.map { ($0, $1.contiguous()) }
  }
}

/// Finds where the queries of a model look: image adapters, video adapters of either family, published folders.
///
/// Attention weights are computed here and nowhere else: passes that describe or compare use fused attention.
public final class Explainer: Sendable {
  private enum Model: Sendable {
    case language(ImageLanguagePipeline)
    case text(ImageTextPipeline)
    case video(VideoPipeline)
  }

  /// What a model looks at, and how that leads back to patches.
  private struct View {
    let qformer: QFormer
    let image: ImageKeyValues
    let groups: [Explanation.Group]
    /// `[R, K]` to `[R, T, N]`.
    let toPatches: (Tensor) -> Tensor
    /// `[T]`, where the model itself weighs frames.
    var importance: Tensor?
  }

  private let model: Model

  /// The most frames of a clip: a page shows them all.
  public static let maximumFrames = 64

  /// Loads a model; of video adapters no language model.
  ///
  /// - Parameters:
  ///   - model: A name, or a folder.
  ///   - store: Where models lie.
  ///   - allowMissing: As in ``VideoPipeline``.
  /// - Throws: ``PipelineError``, `CheckpointError`.
  public init(_ model: String, store: ModelStore = ModelStore(), allowMissing: [String] = []) throws {
    let contents = try ModelFolder(store.adapter(model))
    if contents.isVideoAdapter {
      self.model = .video(
        try VideoPipeline(model, store: store, allowMissing: allowMissing, loadsLanguageModel: false, listens: false))
    } else if contents.comparesTexts {
      self.model = .text(try ImageTextPipeline(model, store: store, allowMissing: allowMissing))
    } else {
      self.model = .language(try ImageLanguagePipeline(model, store: store, allowMissing: allowMissing))
    }
  }

  /// Looks into a video adapter that is loaded already.
  public init(_ pipeline: VideoPipeline) { model = .video(pipeline) }

  /// The image encoder.
  public var encoder: ImageEncoder {
    switch model {
    case .language(let pipeline): pipeline.encoder
    case .text(let pipeline): pipeline.encoder
    case .video(let pipeline): pipeline.encoder
    }
  }

  /// The Q-Former whose queries are looked at: of a cascade the one over time.
  public var qformer: QFormer {
    switch model {
    case .language(let pipeline): pipeline.adapter.qformer
    case .text(let pipeline): pipeline.adapter.qformer
    case .video(let pipeline): pipeline.adapter.textQFormer
    }
  }

  /// The frames that a video adapter was trained on; nil for models of pictures.
  public var usualFrames: AdapterConfiguration.Frames? {
    guard case .video(let pipeline) = model else { return nil }
    return pipeline.configuration.frames ?? AdapterConfiguration.Frames()
  }

  /// What became of the keys of the model's own file.
  public var report: LoadReport {
    switch model {
    case .language(let pipeline): pipeline.report
    case .text(let pipeline): pipeline.report
    case .video(let pipeline): pipeline.report
    }
  }

  /// What turns a text into tokens; nil where the model reads none.
  private var texts: TextEncoder? {
    switch model {
    case .language(let pipeline): pipeline.instructions
    case .text(let pipeline): pipeline.texts
    case .video(let pipeline): pipeline.texts
    }
  }

  /// Whether the queries read text also when nothing is compared: an instruction (InstructBLIP).
  private var readsInstructions: Bool {
    if case .language(let pipeline) = model { pipeline.instructions != nil } else { false }
  }

  /// Checks before any input is read that the model has what is chosen, and reads a text that is given.
  ///
  /// - Throws: ``PipelineError/badInput(_:)``; `QFormerError.missingPart` for a text and a model that reads none.
  public func check(_ choice: AttentionChoice, text: String?) throws {
    try choice.check(qformer)
    if text != nil, texts == nil { throw QFormerError.missingPart("text input: it reads pictures or videos alone") }
  }

  /// Where the queries look in one clip, and what a text attends to.
  ///
  /// - Parameters:
  ///   - clip: Encoder features; a picture is a clip of one frame.
  ///   - text: A text that is compared with it, or the instruction of a model that reads one.
  ///   - choice: Which layer, head and query. A choice of layer and head holds for self-attention of the text, too; the
  ///     frame Q-Former of a cascade and pooling are averaged always.
  /// - Throws: As ``check(_:text:)``; `QFormerError`, `TorchError`.
  public func explain(
    _ clip: VideoFeatures, text: String? = nil, choice: AttentionChoice = AttentionChoice()
  ) throws -> Explanation {
    try check(choice, text: text)
    return try withError {
      try withNoGrad {
        let view = try view(clip)
        let numbers = view.qformer.crossAttentionLayers
        let reads = text ?? (readsInstructions ? "" : nil)
        let pair = try reads.flatMap { text in try texts.map { ($0, try self.pair(view, $0, text)) } }
        let alone =
          readsInstructions ? pair?.1 : view.qformer.readImage(view.image, keepsAttention: true)
        guard let alone else { throw QFormerError.missingPart("text input") }
        let cross = Tensor.stack(alone.crossAttention).select(1, 0)  // [layers, 1, H, M, K] → [layers, H, M, K]
        let maps = view.toPatches(choice.chosen(cross, numbers: numbers))  // [M, T, N]
        let looked = choice.query.map { maps.select(0, $0) } ?? maps.mean(0)  // [T, N]
        let attention = looked.sum(1).values(as: Double.self)
        return Explanation(
          crossAttention: cross, layers: numbers, maps: maps, groups: view.groups, frameAttention: attention,
          frameImportance: view.importance?.values(as: Double.self) ?? attention, seconds: clip.seconds,
          words: text == nil ? nil : pair.map { words($1, view, $0, text ?? "", choice) }, choice: choice)
      }
    }
  }

  /// Queries and text together, with all weights.
  private func pair(_ view: View, _ encoder: TextEncoder, _ text: String) throws -> QFormerOutput {
    let batch = encoder.batch([text])
    return try view.qformer.readImageAndText(
      view.image, batch.ids, mask: batch.mask, keepsAttention: true, keepsSelfAttention: true)
  }

  private func words(
    _ pass: QFormerOutput, _ view: View, _ encoder: TextEncoder, _ text: String, _ choice: AttentionChoice
  ) -> Explanation.Words {
    let queries = view.qformer.configuration.queries
    let seen = choice.chosen(
      Tensor.stack(pass.selfAttention).select(1, 0), numbers: Array(0..<pass.selfAttention.count))  // [M + L, M + L]
    let rows = seen.slice(0, queries).slice(1, 0, queries)  // [L, M]
    let toQueries = rows / rows.sum(1, keepDimension: true)
    let cross = choice.chosen(
      Tensor.stack(pass.crossAttention).select(1, 0), numbers: view.qformer.crossAttentionLayers)  // [M, K]
    let ids = encoder.ids(text)
    let tokens = ids.enumerated().map { index, id in
      index == 0 ? "[CLS]" : index == ids.count - 1 ? "[SEP]" : encoder.text([id])
    }
    return Explanation.Words(
      text: text, tokens: tokens, maps: view.toPatches(toQueries.matmul(cross)), toQueries: toQueries)
  }

  // MARK: Families

  private func view(_ clip: VideoFeatures) throws -> View {
    switch model {
    case .language(let pipeline):
      return try view(pipeline.adapter.qformer, pipeline.adapter.imageEmbeds(clip.features))
    case .text(let pipeline):
      return try view(pipeline.adapter.qformer, pipeline.adapter.imageEmbeds(clip.features))
    case .video(let pipeline):
      let clip = try VideoFeatures.batch([clip])
      if let cascade = pipeline.adapter as? CascadedVideoQFormer { return try view(cascade, clip) }
      if let whole = pipeline.adapter as? SpatioTemporalQFormer { return try view(whole, clip) }
      throw QFormerError.missingPart("attention that is traced back to patches")
    }
  }

  private func view(_ qformer: QFormer, _ embeds: Tensor) throws -> View {
    guard embeds.size(0) == 1 else {
      throw QFormerError.wrongShape(what: "features of a picture", expected: "[1, N, Dv]", found: embeds.shape)
    }
    return View(
      qformer: qformer, image: try qformer.imageKeyValues(embeds),
      groups: [.init(name: "queries", queries: 0..<qformer.configuration.queries)],
      toPatches: { $0.unsqueezed(1) })  // [R, N] → [R, 1, N]
  }

  private func view(_ cascade: CascadedVideoQFormer, _ clip: TimedFeatures) throws -> View {
    let ofFrames = try cascade.frameAttention(clip).select(0, 0).mean(1).mean(1)  // [T, layers, H, M, N] → [T, M, N]
    let (frames, queries) = (clip.frames, ofFrames.size(1))
    return View(
      qformer: cascade.textQFormer, image: try cascade.keyValues(clip),
      groups: [.init(name: "queries", queries: 0..<cascade.textQFormer.configuration.queries)],
      toPatches: { rows in
        let byFrame = rows.reshaped(-1, frames, queries).transposed(0, 1)  // [R, T · M] → [T, R, M]
        return byFrame.matmul(ofFrames).transposed(0, 1)  // [T, R, N] → [R, T, N]
      })
  }

  private func view(_ whole: SpatioTemporalQFormer, _ clip: TimedFeatures) throws -> View {
    let pooled = try whole.pool(clip)
    let weights = try whole.poolingWeights(clip)
    let (ofFrame, ofPlace) = (weights.overPatches.select(0, 0), weights.overFrames.select(0, 0))  // [T, N]
    let places = pooled.places.size(1)
    var first = 0
    let groups = QueryGroup.allCases.compactMap { group -> Explanation.Group? in
      let count = whole.configuration.size(of: group)
      defer { first += count }
      let name = "\(group.rawValue) \(count == 1 ? "query" : "queries")"
      return count == 0 ? nil : .init(name: name, queries: first..<first + count)
    }
    return View(
      qformer: whole.textQFormer, image: try whole.keyValues(pooled), groups: groups,
      toPatches: { rows in
        let throughPlaces = rows.narrow(1, 0, places).unsqueezed(1) * ofPlace  // [R, 1, N] · [T, N]
        return throughPlaces + rows.slice(1, places).unsqueezed(2) * ofFrame  // [R, T, 1] · [T, N]
      }, importance: pooled.importance.select(0, 0))
  }
}
