import Foundation
import Torch

extension Checkpoint {
  /// The same tensors under the model's names, joined and taken apart as the table says. Nothing is read until a tensor is
  /// asked for.
  ///
  /// To write a file in the other project's names, rename by the table's `inverted`.
  ///
  /// - Throws: ``CheckpointError/malformed(file:expected:found:)`` when a piece of a fusion is missing, or when two names
  ///   become one.
  public func renamed(by keyMap: KeyMap) throws -> Checkpoint {
    guard keyMap != .identity else { return self }
    let view = try RenamedTensors(self, keyMap)
    return Checkpoint(
      url: url, [view], Dictionary(uniqueKeysWithValues: view.names.map { ($0, 0) }), names: view.names)
  }

  /// Names that are no weights of their own: those that the table lists as such, and copies that equal their original.
  func ignored(by keyMap: KeyMap, also patterns: [String] = []) -> [String] {
    names.filter { name in
      if (keyMap.ignorable + patterns).contains(where: { matches(name, pattern: $0) }) { return true }
      guard let copy = keyMap.copies.first(where: { $0.file == name }), let dtype = dtype(name),
        self.dtype(copy.original) == dtype, shape(name) == shape(copy.original),
        let tensor = try? self.tensor(name), let original = try? self.tensor(copy.original)
      else { return false }
      return tensor.withBytes { bytes in
        original.withBytes { other in
          guard let start = bytes.baseAddress, let otherStart = other.baseAddress else { return bytes.isEmpty }
          return bytes.count == other.count && memcmp(start, otherStart, bytes.count) == 0
        }
      }
    }
  }
}

/// A source in other names.
private struct RenamedTensors: TensorSource {
  private let base: Checkpoint
  private let recipes: [String: Recipe]
  let names: [String]

  init(_ base: Checkpoint, _ keyMap: KeyMap) throws {
    self.base = base
    let ignored = Set(base.ignored(by: keyMap))
    var recipes: [String: Recipe] = [:]
    var names: [String] = []
    func add(_ name: String, _ recipe: Recipe) throws {
      if let other = recipes[name], other == recipe { return }
      guard recipes.updateValue(recipe, forKey: name) == nil else {
        throw CheckpointError.malformed(
          file: base.url.path, expected: "one tensor for \(printable(name))",
          found: "\(recipe.names.map { printable($0) }.joined(separator: ", ")) and another")
      }
      names.append(name)
    }
    for name in base.names where !ignored.contains(name) {
      if let (fusion, captured) = keyMap.fusion(ofFile: name) {
        for piece in fusion.model {
          guard let path = piece.path else { continue }
          let target = fill(path, captured)
          let recipe = keyMap.recipe(target) { base.shape($0) != nil }
          let missing = recipe.names.filter { base.shape($0) == nil }
          guard missing.isEmpty else {
            throw CheckpointError.malformed(
              file: base.url.path, expected: "\(printable(missing[0])) beside \(printable(name))", found: "none")
          }
          try add(target, recipe)
        }
        try Self.checkZeros(fusion, name, base)
      } else {
        try add(keyMap.modelName(name) ?? name, .same(name))
      }
    }
    self.recipes = recipes
    self.names = names
  }

  /// A part that the other side leaves out because it is zero must be zero.
  private static func checkZeros(_ fusion: KeyMap.Fusion, _ name: String, _ base: Checkpoint) throws {
    for (number, piece) in fusion.model.enumerated() where piece == .zeros {
      let recipe = Recipe.part(of: name, number, fusion.model.count)
      let part = try recipe.tensor(in: base)
      let largest = try withError { part.count == 0 ? 0 : part.to(.float32).abs().max().item }
      guard largest == 0 else {
        throw CheckpointError.malformed(
          file: base.url.path, expected: "zeros in part \(number + 1) of \(fusion.model.count) of \(printable(name))",
          found: "\(largest)")
      }
    }
  }

  var url: URL { base.url }
  var metadata: [String: String] { base.metadata }
  func shape(_ name: String) -> [Int]? { recipes[name].flatMap { $0.shape(in: base) } }
  func dtype(_ name: String) -> DType? { recipes[name].flatMap { $0.names.first.flatMap(base.dtype) } }

  func tensor(_ name: String) throws -> Tensor {
    guard let recipe = recipes[name] else { throw CheckpointError.noSuchTensor(file: url.path, name: name) }
    return try recipe.tensor(in: base)
  }

  func tensor(_ name: String, as dtype: DType) throws -> Tensor {
    guard let recipe = recipes[name] else { throw CheckpointError.noSuchTensor(file: url.path, name: name) }
    return try recipe.tensor(in: base, as: dtype)
  }

  func forEachPiece(_ name: String, _ body: (UnsafeRawBufferPointer) throws -> Void) throws {
    if case .same(let original) = recipes[name] { return try base.forEachPiece(original, body) }
    let tensor = try tensor(name)
    try withError { try tensor.withBytes(body) }
  }
}

extension Recipe {
  /// The shape of what is made, or nil when a piece is missing or none fits another.
  func shape(in base: some TensorSource) -> [Int]? {
    switch self {
    case .same(let name): return base.shape(name)
    case .joined(let names):
      let shapes = names.compactMap { $0.map(base.shape) }
      guard let first = shapes.first, let piece = first, !piece.isEmpty, shapes.allSatisfy({ $0 == piece }) else {
        return nil
      }
      let (rows, overflow) = piece[0].multipliedReportingOverflow(by: names.count)
      return overflow ? nil : [rows] + piece.dropFirst()
    case .part(of: let name, _, let count):
      guard let whole = base.shape(name), let rows = whole.first, rows % count == 0 else { return nil }
      return [rows / count] + whole.dropFirst()
    }
  }

  /// Makes the tensor, in its own type or another.
  func tensor(in base: some TensorSource, as dtype: DType? = nil) throws -> Tensor {
    func read(_ name: String) throws -> Tensor {
      try dtype.map { try base.tensor(name, as: $0) } ?? base.tensor(name)
    }
    if case .same(let name) = self { return try read(name) }
    guard shape(in: base) != nil else {
      let found = names.map { "\(printable($0)) \(base.shape($0) ?? [])" }.joined(separator: ", ")
      throw CheckpointError.malformed(file: base.url.path, expected: "pieces of one shape", found: found)
    }
    switch self {
    case .same(let name): return try read(name)
    case .joined(let names):
      let pieces = try names.map { try $0.map(read) }
      return try withError {
        guard let model = pieces.compactMap({ $0 }).first else { return Tensor.zeros([0]) }
        return Tensor.cat(pieces.map { $0 ?? Tensor.zeros(model.shape, dtype: model.dtype) }, 0)
      }
    case .part(of: let name, let number, let count):
      let whole = try read(name)
      return try withError {
        let rows = whole.size(0) / count
        return whole.narrow(0, number * rows, rows).contiguous()
      }
    }
  }
}
