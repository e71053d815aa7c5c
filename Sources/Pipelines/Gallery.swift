import Checkpoints
public import Foundation
public import Media

/// One HTML page with pictures, captions, the best of some candidate captions, and where the queries look.
public struct Gallery {
  /// One picture of the page.
  public struct Entry {
    /// The picture's name.
    public let name: String
    /// What the model wrote.
    public let caption: String
    /// The best candidate by contrastive score, and the score.
    public let contrastive: (text: String, score: Double)?
    /// The best candidate by matching probability, and the probability.
    public let matching: (text: String, score: Double)?
    /// A small version of the picture.
    public let picture: Image
    /// The same with the queries' attention over it.
    public let overlay: Image
    /// Author and licence, where known.
    public let credit: String?

    /// Makes an entry.
    public init(
      name: String, caption: String, contrastive: (text: String, score: Double)?,
      matching: (text: String, score: Double)?, picture: Image, overlay: Image, credit: String?
    ) {
      self.name = name
      self.caption = caption
      self.contrastive = contrastive
      self.matching = matching
      self.picture = picture
      self.overlay = overlay
      self.credit = credit
    }
  }

  /// Writes `index.html`, which needs no other file.
  ///
  /// - Throws: `MediaError` when a picture cannot be encoded, `CheckpointError.cannotWrite`.
  public static func write(_ entries: [Entry], candidates: Int, to folder: URL) throws -> URL {
    try makeFolder(folder)
    let cards = try entries.map { try card($0) }.joined(separator: "\n")
    let page = """
      <!doctype html>
      <html lang="en">
      <head>
      <meta charset="utf-8">
      <meta name="viewport" content="width=device-width, initial-scale=1">
      <title>swift-qformer: captions and where the queries look</title>
      <style>
      body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 1180px; padding: 0 1rem;
             color: #1d2230; background: #f6f6f3; }
      h1 { font-size: 1.4rem; margin-bottom: .2rem }
      p.lead { color: #5b6272; margin-top: 0 }
      main { display: grid; grid-template-columns: repeat(auto-fill, minmax(350px, 1fr)); gap: 1.1rem }
      article { background: #fff; border-radius: 10px; padding: .8rem; box-shadow: 0 1px 3px #0002 }
      .pair { display: grid; grid-template-columns: 1fr 1fr; gap: .4rem }
      .pair img { width: 100%; height: 150px; object-fit: contain; background: #eee; border-radius: 6px }
      .caption { font-weight: 600; margin: .6rem 0 .3rem }
      dl { display: grid; grid-template-columns: 2.6rem 1fr 3.2rem; gap: .1rem .5rem; margin: 0; font-size: .87rem }
      dt { color: #8a5a00; font-weight: 600 } dd { margin: 0 } dd.score { text-align: right; color: #5b6272 }
      .credit { color: #868c99; font-size: .78rem; margin: .5rem 0 0 }
      </style>
      </head>
      <body>
      <h1>Captions, matches, and where the queries look</h1>
      <p class="lead">Left: the picture. Right: the mean cross-attention of all queries over its patches. Below: the
      generated caption, and the best of \(candidates) candidate captions by contrastive similarity (ITC) and by matching
      probability (ITM).</p>
      <main>
      \(cards)
      </main>
      </body>
      </html>

      """
    let file = folder.appendingPathComponent("index.html")
    try AtomicFile.write(Data(page.utf8), to: file)
    return file
  }

  /// Makes a folder where there is none.
  ///
  /// - Throws: `CheckpointError.cannotWrite`.
  static func makeFolder(_ folder: URL) throws {
    do {
      try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    } catch {
      throw CheckpointError.cannotWrite(file: folder.path, reason: error.localizedDescription)
    }
  }

  private static func card(_ entry: Entry) throws -> String {
    func source(_ image: Image) throws -> String {
      "data:image/jpeg;base64,\(try image.jpegData(quality: 85).base64EncodedString())"
    }
    func row(_ name: String, _ best: (text: String, score: Double)?) -> String {
      guard let best else { return "" }
      let score = String(format: "%.2f", best.score)
      return "<dt>\(name)</dt><dd>\(escaped(best.text))</dd><dd class=\"score\">\(score)</dd>"
    }
    return """
      <article>
      <div class="pair"><img src="\(try source(entry.picture))" alt="\(escaped(entry.name))">
      <img src="\(try source(entry.overlay))" alt="attention over \(escaped(entry.name))"></div>
      <p class="caption">\(escaped(entry.caption))</p>
      <dl>\(row("ITC", entry.contrastive))\(row("ITM", entry.matching))</dl>
      <p class="credit">\(escaped(entry.name))\(entry.credit.map { " · \(escaped($0))" } ?? "")</p>
      </article>
      """
  }

  /// Text as it stands in a page, and in an attribute between double quotes.
  static func escaped(_ text: String) -> String {
    text.replacingOccurrences(of: "&", with: "&amp;").replacingOccurrences(of: "<", with: "&lt;")
      .replacingOccurrences(of: ">", with: "&gt;").replacingOccurrences(of: "\"", with: "&quot;")
  }
}
