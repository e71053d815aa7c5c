import Checkpoints
public import Foundation
public import Media

/// One HTML page with pictures, captions, the best of some candidate captions, and where the queries look; and with videos,
/// what models say of them, and which frames they lean on.
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

  /// The longer side of a video's frames, in pixels.
  public static let frameSize = FrameStrip.frameSize

  /// One video of the page.
  public struct Clip {
    /// What one model says of it.
    public struct Account {
      /// What the model is called.
      public let model: String
      /// What it wrote.
      public let caption: String
      /// What it answered.
      public let answers: [(question: String, text: String)]
      /// T pictures, the frames that it saw.
      public let frames: [Image]
      /// When each was taken.
      public let seconds: [Double]
      /// How much it leans on each, 1 together.
      public let importance: [Double]

      /// Makes an account.
      public init(
        model: String, caption: String, answers: [(question: String, text: String)], frames: [Image],
        seconds: [Double], importance: [Double]
      ) {
        self.model = model
        self.caption = caption
        self.answers = answers
        self.frames = frames
        self.seconds = seconds
        self.importance = importance
      }
    }

    /// The video's name.
    public let name: String
    /// One for each model.
    public let accounts: [Account]
    /// Author and licence, where known.
    public let credit: String?

    /// Makes an entry.
    public init(name: String, accounts: [Account], credit: String?) {
      self.name = name
      self.accounts = accounts
      self.credit = credit
    }
  }

  /// Writes `index.html`, which needs no other file.
  ///
  /// - Throws: `MediaError` when a picture cannot be encoded, `CheckpointError.cannotWrite`.
  public static func write(_ entries: [Entry], clips: [Clip] = [], candidates: Int, to folder: URL) throws -> URL {
    try makeFolder(folder)
    let cards = try entries.map { try card($0) }.joined(separator: "\n")
    let films = try clips.map { try card($0) }.joined(separator: "\n")
    var leads: [String] = []
    if !entries.isEmpty {
      let isMatched = entries.contains { $0.matching != nil }
      leads.append(
        """
        <p class="lead">Left: the picture. Right: the mean cross-attention of all queries over its patches. Below: the
        generated caption, and the best of \(candidates) candidate captions by contrastive similarity
        (ITC)\(isMatched ? " and by matching probability (ITM)" : "").</p>
        """)
    }
    if !clips.isEmpty {
      leads.append(
        """
        <p class="lead">Videos: the frames that a model saw and when they were taken; what each model says; and how much it
        leans on each frame, 1 together (dashed: even).</p>
        """)
    }
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
      .films { grid-template-columns: 1fr; margin-top: 1.1rem }
      .films h2 { font-size: .86rem; color: #8a5a00; margin: 1rem 0 .2rem } .films h2 small { color: #868c99; font-weight: 400 }
      .films .caption { margin-top: .2rem } .films dl { grid-template-columns: minmax(8rem, max-content) 1fr }
      \(FrameStrip.style)
      </style>
      </head>
      <body>
      <h1>Captions, matches, and where the queries look</h1>
      \(leads.joined(separator: "\n"))
      <main>
      \(cards)
      </main>
      <main class="films">
      \(films)
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
    func row(_ name: String, _ best: (text: String, score: Double)?) -> String {
      guard let best else { return "" }
      let score = Markup.number(best.score, 2)
      return "<dt>\(name)</dt><dd>\(Markup.escaped(best.text))</dd><dd class=\"score\">\(score)</dd>"
    }
    return """
      <article>
      <div class="pair">\(try Markup.image(entry.picture, entry.name))
      \(try Markup.image(entry.overlay, "attention over \(entry.name)"))</div>
      <p class="caption">\(Markup.escaped(entry.caption))</p>
      <dl>\(row("ITC", entry.contrastive))\(row("ITM", entry.matching))</dl>
      \(credit(entry.name, entry.credit))
      </article>
      """
  }

  /// The frames once where all models saw the same, what each says, and its curve of importance.
  private static func card(_ clip: Clip) throws -> String {
    var parts: [String] = []
    var shown: [Double]?
    for account in clip.accounts {
      let strip = FrameStrip(frames: account.frames, seconds: account.seconds)
      if shown != account.seconds { parts.append(strip.block([try strip.pictures()])) }
      shown = account.seconds
      let answers = account.answers.map { "<dt>\(Markup.escaped($0.question))</dt><dd>\(Markup.escaped($0.text))</dd>" }
      parts += [
        "<h2>\(Markup.escaped(account.model))</h2>", "<p class=\"caption\">\(Markup.escaped(account.caption))</p>",
        answers.isEmpty ? "" : "<dl>\(answers.joined())</dl>", strip.block([strip.importance(account.importance)]),
      ]
    }
    return (["<article>"] + parts + [credit(clip.name, clip.credit), "</article>"]).joined(separator: "\n")
  }

  private static func credit(_ name: String, _ credit: String?) -> String {
    "<p class=\"credit\">\(Markup.escaped(name))\(credit.map { " · \(Markup.escaped($0))" } ?? "")</p>"
  }
}
