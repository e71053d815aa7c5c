public import Foundation

extension Checkpoint {
  /// A name here and what it is called in a new file.
  public typealias Renaming = (name: String, newName: String)

  /// The largest file that ``writeModel(_:to:shardSize:)`` writes unless told otherwise: 5 GB.
  public static let shardSize = 5_000_000_000

  /// Writes tensors into a folder as transformers names its files: `model.safetensors`, or shards with their index.
  ///
  /// Tensors keep their type and every bit. They are read and written a piece at a time: memory for the largest one that
  /// is joined of others or lies in the file in another order is all that is needed.
  ///
  /// - Parameters:
  ///   - names: What to write, in order.
  ///   - folder: A folder that exists.
  ///   - shardSize: The largest size of a file in bytes; one tensor that is larger has a file to itself.
  /// - Returns: The names of the files written, the index among them.
  /// - Throws: ``CheckpointError/noSuchTensor(file:name:)``, ``CheckpointError/cannotWrite(file:reason:)``, and what
  ///   reading throws.
  @discardableResult
  public func writeModel(_ names: [Renaming], to folder: URL, shardSize: Int = shardSize) throws -> [String] {
    let entries = try names.map { name, newName in
      guard let dtype = dtype(name), let shape = shape(name) else {
        throw CheckpointError.noSuchTensor(file: url.path, name: name)
      }
      return SafetensorsFile.Entry(name: newName, dtype: dtype, shape: shape)
    }
    let shards = Self.shards(entries.map(\.byteCount), limit: shardSize)
    var files: [String] = []
    var places: [String: String] = [:]
    for (number, shard) in shards.enumerated() {
      let file =
        shards.count == 1
        ? "model.safetensors" : String(format: "model-%05d-of-%05d.safetensors", number + 1, shards.count)
      try SafetensorsFile.write(
        Array(entries[shard]), metadata: ["format": "pt"], to: folder.appendingPathComponent(file)
      ) { index, append in try forEachPiece(names[shard.lowerBound + index].name, append) }
      files.append(file)
      for entry in entries[shard] { places[entry.name] = file }
    }
    guard shards.count > 1 else { return files }
    let index: [String: Any] = [
      "metadata": ["total_size": entries.reduce(0) { $0 + $1.byteCount }], "weight_map": places,
    ]
    let json = try JSONSerialization.data(
      withJSONObject: index, options: [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes])
    let name = "model.safetensors.index.json"
    try AtomicFile.write(json, to: folder.appendingPathComponent(name))
    return files + [name]
  }

  /// Runs of sizes whose sums stay within the limit; at least one run.
  private static func shards(_ sizes: [Int], limit: Int) -> [Range<Int>] {
    var shards: [Range<Int>] = []
    var (start, sum) = (0, 0)
    for (index, size) in sizes.enumerated() {
      if index > start, sum + size > limit {
        shards.append(start..<index)
        (start, sum) = (index, 0)
      }
      sum += size
    }
    return shards + [start..<sizes.count]
  }
}
