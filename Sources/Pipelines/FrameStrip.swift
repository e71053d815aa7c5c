import Foundation
import Media

/// Frames of a clip beside each other on a page, and what is told of each in the columns below.
struct FrameStrip {
  /// T pictures.
  let frames: [Image]
  /// When each was taken.
  let seconds: [Double]

  /// The longer side of a frame, in pixels.
  static let frameSize = 240
  /// More frames than this are scrolled.
  private static let visible = 12

  /// What a page with strips has among its styles.
  static let style = """
    .time { overflow-x: auto }
    .strip { display: grid; gap: 0 }
    .strip div { padding: 1px; text-align: center; font-size: .76rem; color: #5b6272;
                 font-variant-numeric: tabular-nums }
    .strip div.best { color: #8a5a00; font-weight: 700 }
    .strip img { width: 100% }
    svg.curve { display: block; width: 100%; height: 92px; background: #faf9f6; border-radius: 5px }
    """

  /// Parts under each other, with a common scroll bar where there are many frames.
  func block(_ parts: [String]) -> String {
    let focus = frames.count > Self.visible ? " tabindex=\"0\"" : ""
    return (["<div class=\"time\"\(focus)>"] + parts + ["</div>"]).joined(separator: "\n")
  }

  /// T cells in a row.
  func row(_ cells: [String]) -> String {
    let least = frames.count > Self.visible ? "80px" : "0"
    let columns = "style=\"grid-template-columns: repeat(\(frames.count), minmax(\(least), 1fr))\""
    return "<div class=\"strip\" \(columns)>\(cells.joined())</div>"
  }

  /// The frames with their times.
  func pictures() throws -> String {
    row(
      try zip(frames, times).map { frame, time in
        let small = try AttentionOverlay.scaled(frame, limit: Self.frameSize)
        return "<div>\(try Markup.image(small, "frame at \(time)"))\(time)</div>"
      })
  }

  /// As many pictures as there are frames, drawn on them.
  func overlays(_ images: [Image]) throws -> String {
    row(
      try zip(images, times).map { image, time in
        "<div>\(try Markup.image(image, "attention at \(time)"))</div>"
      })
  }

  /// T shares as bars and a curve, whose points stand under the middles of the frames, and as numbers; dashed: even.
  func importance(_ values: [Double]) -> String {
    let top = max(values.max() ?? 1, 1e-9) * 1.15
    func y(_ value: Double) -> String { Markup.number(90 - 86 * value / top, 2) }
    let points = values.enumerated().map { "\(Markup.number((Double($0) + 0.5) * 100, 1)),\(y($1))" }
    let bars = values.enumerated().map { number, value in
      "<rect x=\"\(number * 100 + 3)\" width=\"94\" y=\"\(y(value))\" height=\"\(Markup.number(86 * value / top, 2))\"/>"
    }
    let (width, even) = (values.count * 100, y(1 / Double(max(values.count, 1))))
    let curve = """
      <svg class="curve" viewBox="0 0 \(width) 92" preserveAspectRatio="none" role="img" \
      aria-label="importance of each frame"><g fill="#ffd9a0">\(bars.joined())</g>\
      <path d="M0 \(even) H\(width)" stroke="#9aa0ad" stroke-dasharray="4 4" vector-effect="non-scaling-stroke"/>\
      <polyline points="\(points.joined(separator: " "))" fill="none" stroke="#d97700" stroke-width="2" \
      vector-effect="non-scaling-stroke"/></svg>
      """
    let best = values.indices.max { values[$0] < values[$1] }
    let shares = values.enumerated().map { number, value in
      "<div\(number == best ? " class=\"best\"" : "")>\(Markup.number(100 * value, 1)) %</div>"
    }
    return curve + "\n" + row(shares)
  }

  private var times: [String] { seconds.map { Markup.number($0, 2) + " s" } }
}
