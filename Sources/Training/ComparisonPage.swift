import Evaluation
import Foundation

/// A comparison as one page that needs no other file: the table, and quality drawn against tokens and against latency.
struct ComparisonPage {
  private let comparison: Comparison

  init(_ comparison: Comparison) { self.comparison = comparison }

  /// The page.
  var html: String {
    """
    <!doctype html>
    <html lang="en"><head><meta charset="utf-8"><title>Connectors compared</title><style>
    body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:78rem;padding:0 1rem;color:#222;background:#fff}
    table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:13px}
    th,td{padding:.25rem .6rem;text-align:right;border-bottom:1px solid #ddd;white-space:nowrap}
    th:first-child,td:first-child{text-align:left;white-space:pre}
    .scroll{overflow-x:auto}
    .plots{display:flex;flex-wrap:wrap;gap:1rem}svg{background:#fafafa;border:1px solid #ddd}
    svg text{font:11px system-ui,sans-serif;fill:#222}
    </style></head><body>
    <h1>Connectors compared</h1>
    <p>\(Self.escaped("\(comparison.budget), \(comparison.clips) clips of \(comparison.validation) asked about. Accuracy in percent, mean ± standard deviation over seeds."))
    \(comparison.missing > 0 ? "\(comparison.missing) trainings are still to come." : "")</p>
    <div class="scroll">\(table)</div>
    <p>* the best, and what is equal to it: differences smaller than the spread √(s₁² + s₂²) over seeds count as none.</p>
    <ul>\(comparison.notes.map { "<li>\(Self.escaped($0))</li>" }.joined())</ul>
    \(comparison.tasks.map(plots).joined(separator: "\n"))
    </body></html>

    """
  }

  private var table: String {
    let rows = comparison.cells.enumerated().map { number, row in
      let tag = number == 0 ? "th" : "td"
      return "<tr>" + row.map { "<\(tag)>\(Self.escaped($0))</\(tag)>" }.joined() + "</tr>"
    }
    return "<table>\(rows.joined(separator: "\n"))</table>"
  }

  /// Both plots of one kind of question.
  private func plots(_ task: String) -> String {
    let points = comparison.rows.enumerated().compactMap { number, row -> Plot.Point? in
      guard let score = row.scores.first(where: { $0.task == task }) else { return nil }
      return Plot.Point(
        number: number + 1, name: row.connector.title.trimmingCharacters(in: .whitespaces),
        tokens: Double(row.cost.tokens), milliseconds: row.cost.milliseconds, score: score)
    }
    guard let chance = points.first?.score.chance else { return "" }
    let names = points.map { "\($0.number) \(Self.escaped($0.name))" }.joined(separator: " · ")
    return """
      <h2>\(Self.escaped(task))</h2>
      <div class="plots">
      \(Plot(points: points, chance: chance, label: "tokens for the language model") { $0.tokens }.svg)
      \(Plot(points: points, chance: chance, label: "milliseconds a clip") { $0.milliseconds }.svg)
      </div>
      <p>\(names)</p>
      """
  }

  static func escaped(_ text: String) -> String {
    text.replacingOccurrences(of: "&", with: "&amp;").replacingOccurrences(of: "<", with: "&lt;")
      .replacingOccurrences(of: ">", with: "&gt;").replacingOccurrences(of: "\"", with: "&quot;")
  }
}

/// Accuracy against a cost on a logarithmic axis, with a bar of a standard deviation to both sides; filled points are the best
/// and what is equal to it.
struct Plot {
  struct Point {
    let number: Int
    let name: String
    let tokens: Double
    let milliseconds: Double
    let score: Comparison.Score
  }

  let points: [Point]
  let chance: Double
  let label: String
  let x: (Point) -> Double

  private static let (width, height, margin) = (460.0, 320.0, 46.0)

  /// Round parts of 1 around the given ones, at least one step of them and within 0 … 1 wherever those are.
  static func scoreTicks(from low: Double, to high: Double) -> [Double] {
    let step = [0.01, 0.02, 0.05, 0.1].first { (high - low) / $0 <= 6 } ?? 0.2
    let first = (max(0, low) / step + 1e-9).rounded(.down)
    let last = max((min(1, high) / step - 1e-9).rounded(.up), first + 1)
    return stride(from: first, through: last, by: 1).map { $0 * step }
  }

  /// 1, 2 and 5 times powers of ten within the given ends; no more than the axis has room for.
  static func costTicks(from low: Double, to high: Double) -> [Double] {
    let all = (-6...12).flatMap { power in [1.0, 2, 5].map { $0 * pow(10, Double(power)) } }
    let within = all.filter { (low...high).contains($0) }
    return within.count <= 7 ? within : within.enumerated().filter { $0.offset % 3 == 0 }.map(\.element)
  }

  var svg: String {
    let costs = points.map { max(x($0), 1e-6) }
    let (least, most) = ((costs.min() ?? 1) / 1.3, (costs.max() ?? 1) * 1.3)
    func across(_ value: Double) -> Double {
      Self.margin + (Self.width - 2 * Self.margin) * log(max(value, 1e-6) / least) / log(most / least)
    }
    let ends = points.flatMap { point -> [Double] in
      let value = point.score.accuracy
      return [value.mean - value.standardDeviation, value.mean + value.standardDeviation]
    }
    let scores = Self.scoreTicks(from: min(ends.min() ?? 0, chance), to: max(ends.max() ?? 1, chance))
    let (bottom, top) = (scores.first ?? 0, scores.last ?? 1)
    func down(_ value: Double) -> Double {
      Self.height - Self.margin - (Self.height - 2 * Self.margin) * (value - bottom) / (top - bottom)
    }
    func line(_ from: (Double, Double), _ to: (Double, Double), _ style: String) -> String {
      String(
        format: #"<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" %@/>"#, from.0, from.1, to.0, to.1, style as NSString)
    }
    func text(_ place: (Double, Double), _ words: String, _ anchor: String = "middle") -> String {
      String(format: #"<text x="%.1f" y="%.1f" text-anchor="%@">"#, place.0, place.1, anchor as NSString)
        + ComparisonPage.escaped(words) + "</text>"
    }
    let (left, right) = (Self.margin, Self.width - Self.margin)
    var parts = [
      line((left, down(bottom)), (right, down(bottom)), ##"stroke="#888""##),
      line((left, down(bottom)), (left, down(top)), ##"stroke="#888""##),
      line((left, down(chance)), (right, down(chance)), ##"stroke="#c33" stroke-dasharray="4 3""##),
      text((right, down(chance) - 4), "chance", "end"), text((Self.width / 2, Self.height - 8), label),
    ]
    for value in scores {
      parts.append(text((left - 4, down(value) + 4), String(format: "%.0f %%", value * 100), "end"))
    }
    for cost in Self.costTicks(from: least, to: most) {
      parts.append(text((across(cost), Self.height - Self.margin + 16), String(format: "%g", cost)))
    }
    for point in points {
      let (place, value) = (across(x(point)), point.score.accuracy)
      let (low, high) = (
        down(max(bottom, value.mean - value.standardDeviation)), down(min(top, value.mean + value.standardDeviation))
      )
      parts.append(line((place, low), (place, high), ##"stroke="#36c""##))
      for end in [low, high] { parts.append(line((place - 3, end), (place + 3, end), ##"stroke="#36c""##)) }
      let fill = point.score.isBest == true ? "#36c" : "#fff"
      parts.append(
        String(
          format: ##"<circle cx="%.1f" cy="%.1f" r="4" stroke="#36c" fill="%@">"##, place, down(value.mean),
          fill as NSString)
          + "<title>\(ComparisonPage.escaped(point.name)): \(Comparison.percent(value))</title></circle>")
      parts.append(text((place + 6, down(value.mean) - 5), "\(point.number)", "start"))
    }
    let size = String(format: #"width="%.0f" height="%.0f""#, Self.width, Self.height)
    return "<svg xmlns=\"http://www.w3.org/2000/svg\" \(size) role=\"img\">\(parts.joined())</svg>"
  }
}
