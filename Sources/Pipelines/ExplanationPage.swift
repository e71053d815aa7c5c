import Checkpoints
public import Foundation
public import Media
import QFormer
import Torch

/// A page that shows where the queries of a model look, with its pictures and tensors beside it.
///
/// `index.html` needs no other file. Beside it lie `NAME.png` for each input, the summary of all queries over the picture
/// or over all frames on one sheet, `NAME.frame-00.png` … for the frames of clips, and `attention.safetensors` with the
/// tensors of ``Explanation/tensors(isClip:)`` as `NAME.…`. NAME is the file's name without its ending; dots become
/// hyphens, and names that are taken get a number.
public struct ExplanationPage {
  /// What was written for one input.
  public struct Entry: Sendable {
    /// What the input is called in the names of files and tensors.
    public let name: String
    /// The overlay.
    public let overlay: URL
    /// Overlays of the frames of a clip.
    public let frames: [URL]
  }

  private let folder: URL
  private let model: String
  private var cards: [String] = []
  private var names: Set<String> = []
  private var tensors: [(name: String, tensor: Tensor)] = []

  /// The longer side of pictures as they are drawn, in pixels.
  public static let pictureSize = 480

  /// Makes the folder where there is none.
  ///
  /// - Parameters:
  ///   - folder: Where everything is written.
  ///   - model: What the model is called.
  /// - Throws: `CheckpointError.cannotWrite`.
  public init(in folder: URL, model: String) throws {
    (self.folder, self.model) = (folder, model)
    try Gallery.makeFolder(folder)
  }

  /// Draws one input and writes its overlays.
  ///
  /// - Parameters:
  ///   - file: The input, which gives it its name.
  ///   - explanation: Where the queries look.
  ///   - frames: T pictures.
  ///   - isClip: Whether there is a time.
  /// - Throws: ``PipelineError/badInput(_:)``, `MediaError`, `TorchError`, `CheckpointError.cannotWrite`.
  public mutating func add(
    _ file: URL, _ explanation: Explanation, frames: [Image], isClip: Bool
  ) throws -> Entry {
    guard frames.count == explanation.frames else {
      throw PipelineError.badInput("\(file.path): expected \(explanation.frames) frames, found \(frames.count)")
    }
    let name = freeName(file)
    let card = ExplanationCard(title: file.lastPathComponent, explanation: explanation, frames: frames, isClip: isClip)
    let overlays = try card.overlays(explanation.summary(), limit: Self.pictureSize)
    func write(_ image: Image, _ name: String) throws -> URL {
      let url = folder.appendingPathComponent(name)
      try AtomicFile.write(image.pngData(), to: url)
      return url
    }
    let whole = try write(isClip ? Sheet.joined(overlays) : overlays[0], "\(name).png")
    let digits = max(2, String(frames.count - 1).count)
    let parts = try (isClip ? overlays : []).enumerated().map { number, image in
      let padded = String(repeating: "0", count: digits - String(number).count) + String(number)
      return try write(image, "\(name).frame-\(padded).png")
    }
    cards.append(try card.html())
    tensors += try withError {
      explanation.tensors(isClip: isClip).map { (name: "\(name).\($0.name)", tensor: $0.tensor) }
    }
    return Entry(name: name, overlay: whole, frames: parts)
  }

  /// Writes the page and the tensors.
  ///
  /// - Throws: `CheckpointError.cannotWrite`.
  public func finish() throws -> (page: URL, tensors: URL) {
    let page = folder.appendingPathComponent("index.html")
    let file = folder.appendingPathComponent("attention.safetensors")
    try SafetensorsFile.write(tensors, metadata: ["model": model], to: file)
    try AtomicFile.write(Data(html.utf8), to: page)
    return (page, file)
  }

  /// A name that no other input has, also where file systems ignore case.
  private mutating func freeName(_ file: URL) -> String {
    let stem = file.deletingPathExtension().lastPathComponent.replacingOccurrences(of: ".", with: "-")
    let base = stem.isEmpty ? "input" : String(stem.prefix(60))
    var (name, number) = (base, 1)
    while !names.insert(name.lowercased()).inserted {
      number += 1
      name = "\(base)-\(number)"
    }
    return name
  }

  private var html: String {
    """
    <!doctype html>
    <html lang="en">
    <head>
    <meta charset="utf-8">
    <meta name="viewport" content="width=device-width, initial-scale=1">
    <title>swift-qformer: where the queries look</title>
    <style>
    body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 1180px; padding: 0 1rem;
           color: #1d2230; background: #f6f6f3 }
    h1 { font-size: 1.4rem; margin-bottom: .2rem } h2 { font-size: 1.05rem; margin: 0 0 .7rem; overflow-wrap: anywhere }
    h3 { font-size: .86rem; font-weight: 600; color: #8a5a00; margin: 1.1rem 0 .35rem }
    h3 small { color: #868c99; font-weight: 400; font-size: .8rem }
    p.lead { color: #5b6272; margin-top: 0; max-width: 52rem }
    article { background: #fff; border-radius: 10px; padding: 1rem 1.1rem 1.2rem; box-shadow: 0 1px 3px #0002;
              margin-bottom: 1.2rem }
    img { display: block; border-radius: 5px }
    .pair { display: grid; grid-template-columns: 1fr 1fr; gap: .6rem }
    .pair img { width: 100%; max-height: 400px; object-fit: contain; background: #f3f3f0 }
    \(FrameStrip.style)
    .many { display: grid; grid-template-columns: repeat(auto-fill, minmax(112px, 1fr)); gap: .6rem .5rem }
    .words { grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)) }
    figure { margin: 0 } figure img { width: 100% }
    figcaption { font-size: .8rem; color: #1d2230; font-weight: 600; text-align: center; overflow-wrap: anywhere }
    figcaption small { color: #868c99; font-weight: 400 }
    .words figcaption { font-size: .92rem }
    </style>
    </head>
    <body>
    <h1>Where the queries look</h1>
    <p class="lead">Cross-attention of \(Markup.escaped(model)), traced back to the patches of the encoder. Bright and
    warm is what is looked at, dark is what is not; each picture has a scale of its own. The class token has a share that
    no picture shows. Attention says what is read, not why an answer comes out.</p>
    <main>
    \(cards.joined(separator: "\n"))
    </main>
    </body>
    </html>

    """
  }
}

/// One input on the page.
private struct ExplanationCard {
  let title: String
  let explanation: Explanation
  let frames: [Image]
  let isClip: Bool

  private static let thumbnail = 176

  /// Overlays of a map `[T, N]` on all frames.
  func overlays(_ map: Tensor, limit: Int) throws -> [Image] {
    try frames.indices.map { try overlay(map, frame: $0, limit: limit) }
  }

  private func overlay(_ map: Tensor, frame: Int, limit: Int) throws -> Image {
    let weights = try withError { explanation.patches(map, frame: frame) }
    return try AttentionOverlay.draw(frames[frame], weights: weights, limit: limit)
  }

  func html() throws -> String {
    let choice = explanation.choice
    let chosen = [("layer", choice.layer), ("head", choice.head), ("query", choice.query)].compactMap { name, value in
      value.map { "\(name) \($0)" }
    }
    let note = chosen.isEmpty ? "mean over layers and heads" : chosen.joined(separator: ", ")
    var parts = ["<article>", "<h2>\(Markup.escaped(title))</h2>"]
    parts.append(isClip ? try timeline(note) : try pair(note))
    for group in explanation.groups where group.queries.count > 1 { parts.append(try queries(of: group)) }
    if let words = explanation.words { parts.append(try self.words(words)) }
    return (parts + ["</article>"]).joined(separator: "\n")
  }

  // MARK: Parts

  private func pair(_ note: String) throws -> String {
    let summary = try overlay(explanation.summary(), frame: 0, limit: ExplanationPage.pictureSize)
    return """
      <h3>\(explanation.choice.query == nil ? "All queries" : "One query") <small>\(note)</small></h3>
      <div class="pair">\(try Markup.image(frames[0], title))\(try Markup.image(summary, "attention over \(title)"))</div>
      """
  }

  /// Frames with their times, importance as a curve under them, and each group's attention on every frame.
  private func timeline(_ note: String) throws -> String {
    let strip = FrameStrip(frames: frames, seconds: explanation.seconds)
    var parts = [
      "<h3>Frames</h3>", try strip.pictures(),
      "<h3>Importance of each frame <small>1 together; dashed: even</small></h3>",
      strip.importance(explanation.frameImportance),
    ]
    func row(_ name: String, _ map: Tensor) throws {
      parts.append("<h3>\(Markup.escaped(name)) <small>\(note)</small></h3>")
      parts.append(try strip.overlays(overlays(map, limit: FrameStrip.frameSize)))
    }
    try row(explanation.choice.query == nil ? "All queries" : "One query", explanation.summary())
    if explanation.choice.query == nil, explanation.groups.count > 1 {
      for group in explanation.groups { try row(group.name.capitalizedFirst, explanation.summary(group)) }
    }
    return strip.block(parts)
  }

  /// Every query of a group, of a clip on the frame that it looks at most.
  private func queries(of group: Explanation.Group) throws -> String {
    let mean = explanation.maps.narrow(0, group.queries.lowerBound, group.queries.count).mean(0)
    let figures = try group.queries.map { query in
      try figure(explanation.maps.select(0, query), mean: mean, caption: "\(query)")
    }
    let place = isClip ? "each on the frame it looks at most; " : ""
    return """
      <h3>Each of the \(group.queries.count) \(Markup.escaped(group.name)) <small>\(place)the share of its attention \
      that lies elsewhere than their mean</small></h3>
      <div class="many">\(figures.joined())</div>
      """
  }

  /// What each word of the text looks at.
  private func words(_ words: Explanation.Words) throws -> String {
    let mean = words.maps.mean(0)
    let figures = try words.tokens.enumerated().dropFirst().dropLast().map { number, token in
      try figure(words.maps.select(0, number), mean: mean, caption: token)
    }
    let note = """
      self-attention to queries, then their cross-attention; the share of its attention that lies elsewhere than the mean \
      of all tokens
      """
    return """
      <h3>What the words of “\(Markup.escaped(words.text))” look at through the queries <small>\(note)</small></h3>
      <div class="many words">\(figures.joined())</div>
      """
  }

  /// One map with how far it lies from a mean: half the sum of absolute differences, 0 for the same, 1 for no overlap.
  private func figure(_ map: Tensor, mean: Tensor, caption: String) throws -> String {
    let (ofFrames, apart): ([Double], Double) = try withError {
      (map.sum(1).values(), (map - mean).abs().sum().item / 2)
    }
    let frame = ofFrames.indices.max { ofFrames[$0] < ofFrames[$1] } ?? 0
    let time = isClip ? "\(Markup.number(explanation.seconds[frame], 2)) s · " : ""
    let image = try overlay(map, frame: frame, limit: Self.thumbnail)
    return """
      <figure>\(try Markup.image(image, caption))<figcaption>\(Markup.escaped(caption)) <small>\(time)\
      \(Markup.number(100 * apart, 0)) %</small></figcaption></figure>
      """
  }
}

/// Several pictures of one size on one.
private enum Sheet {
  /// Row by row, at most eight beside each other.
  static func joined(_ images: [Image]) throws -> Image {
    let columns = min(images.count, 8)
    let small = try images.map { try AttentionOverlay.scaled($0, limit: columns > 2 ? 240 : 480) }
    let (width, height) = (small.map(\.width).max() ?? 1, small.map(\.height).max() ?? 1)
    let rows = (small.count + columns - 1) / columns
    var pixels = [UInt8](repeating: 255, count: width * columns * height * rows * 3)
    for (number, image) in small.enumerated() {
      let (left, top) = (number % columns * width, number / columns * height)
      for y in 0..<image.height {
        let start = ((top + y) * width * columns + left) * 3
        let row = y * image.width * 3
        pixels.replaceSubrange(start..<start + image.width * 3, with: image.pixels[row..<row + image.width * 3])
      }
    }
    return try Image(width: width * columns, height: height * rows, pixels: pixels)
  }
}

extension String {
  fileprivate var capitalizedFirst: String { prefix(1).uppercased() + dropFirst() }
}
