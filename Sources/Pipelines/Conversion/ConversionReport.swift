public import Checkpoints
import Foundation
import Torch

/// What became of a model that was converted.
public struct ConversionReport: Sendable {
  /// A part of the model and where it came from.
  public struct Part: Sendable, Equatable, Codable {
    /// `vision tower`, `adapter` or `language model`.
    public let name: String
    /// How many tensors were written.
    public let tensors: Int
    /// How many numbers they have.
    public let elements: Int
    /// Their element types.
    public let types: [String]
    /// The files that they were read from.
    public let sources: [String]
  }

  /// The folder that was written.
  public let destination: String
  /// Its layout.
  public let layout: ModelConversion.Layout
  /// The model, in transformers' words.
  public let architecture: BLIPConfiguration.Architecture
  /// What became of the keys of the source. What was allowed to be missing stands under `initialised`: it was left out.
  public let load: LoadReport
  /// What was written.
  public let parts: [Part]
  /// Keys that the layout has no place for.
  public let leftOut: [String]
  /// The files written, relative to the destination.
  public let files: [String]

  /// A table for people.
  public var summary: String {
    let rows =
      [["part", "tensors", "numbers", "types", "from"]]
      + parts.map { part in
        [
          part.name, "\(part.tensors)", String(format: "%.2f M", Double(part.elements) / 1e6),
          part.types.joined(separator: ", "), part.sources.joined(separator: ", "),
        ]
      }
    let widths = (0..<4).map { column in rows.map { $0[column].count }.max() ?? 0 }
    var lines = ["\(load.file) → \(destination)", "\(architecture.rawValue), layout \(layout.rawValue)", ""]
    lines += rows.map { row in
      let cells = row.prefix(4).enumerated().map { index, cell in
        cell.padding(toLength: widths[index], withPad: " ", startingAt: 0)
      }
      return cells.joined(separator: "  ") + "  " + row[4]
    }
    lines.append("")
    let lists = [
      ("missing, as allowed", load.initialised), ("ignored in the source", load.ignored),
      ("left out by the layout", leftOut),
    ]
    for (title, keys) in lists where !keys.isEmpty {
      lines.append("\(title): \(keys.prefix(8).joined(separator: ", "))\(keys.count > 8 ? " … (\(keys.count))" : "")")
    }
    return (lines + ["files: \(files.joined(separator: ", "))"]).joined(separator: "\n")
  }

  /// The names of a checkpoint, summed up by the parts of the model.
  static func parts(_ names: [String], _ weights: Checkpoint) -> [Part] {
    let groups = Dictionary(grouping: names, by: ConvertibleModel.Part.init(key:))
    return ConvertibleModel.Part.allCases.compactMap { part in
      guard let names = groups[part] else { return nil }
      return Part(
        name: part.rawValue, tensors: names.count,
        elements: names.reduce(0) { $0 + (weights.shape($1) ?? []).reduce(1, *) },
        types: Set(names.compactMap { weights.dtype($0).map { "\($0)" } }).sorted(),
        sources: Set(names.compactMap { weights.file(of: $0)?.path }).sorted())
    }
  }
}
