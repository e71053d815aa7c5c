/// A table that turns the names of a model into the names of a file, and back.
///
/// A rule is two paths, in which `*` stands for one component: `layer.*.attention.self` fits `layer.3.attention.self.query`
/// and carries the `3` and the rest over. Rules are tried in order; the first that fits the start of a name is applied.
/// A fusion says that tensors of the file, one below the other, are tensors of the model, one below the other.
public struct KeyMap: Sendable, Equatable {
  /// One row of the table.
  public struct Rule: Sendable, Equatable {
    /// The start of the model's name; empty fits every name.
    public let model: String
    /// What stands there in the file; of several the one that the file has.
    public let files: [String]

    /// What stands there in the file, or the first of what may stand there.
    public var file: String { files.first ?? "" }

    /// Makes a row.
    public init(_ model: String, _ file: String) { self.init(model, anyOf: [file]) }

    /// Makes a row for files that name the same thing differently.
    ///
    /// - Parameters:
    ///   - model: The start of the model's name.
    ///   - files: What may stand there; the first is what a new file is written with.
    public init(_ model: String, anyOf files: [String]) {
      self.model = model
      self.files = files
    }
  }

  /// A piece of a fusion.
  public enum Piece: Sendable, Equatable, ExpressibleByStringLiteral {
    /// A tensor; its path may hold `*` for one component.
    case tensor(String)
    /// As many zeros as each of the other pieces has elements.
    case zeros

    /// A tensor.
    public init(stringLiteral path: String) { self = .tensor(path) }

    var path: String? { if case .tensor(let path) = self { path } else { nil } }
  }

  /// Pieces of equal size on both sides, joined along the first dimension. One of the sides has one piece.
  public struct Fusion: Sendable, Equatable {
    /// The model's pieces.
    public let model: [Piece]
    /// The file's pieces.
    public let file: [Piece]

    /// Makes a row.
    public init(model: [Piece], file: [Piece]) {
      self.model = model
      self.file = file
    }
  }

  /// A tensor that a file repeats under a second name.
  public struct Copy: Sendable, Equatable {
    /// The second name in the file. It is not loaded.
    public let file: String
    /// The name in the file that it must equal.
    public let original: String

    /// Makes a row.
    public init(_ file: String, of original: String) {
      self.file = file
      self.original = original
    }
  }

  /// All rules in order.
  public let rules: [Rule]
  /// Tensors that are joined or taken apart.
  public let fusions: [Fusion]
  /// Tensors that a file holds twice.
  public let copies: [Copy]
  /// Patterns (`*` stands for anything) of names in the file that are no weights: tables that the code recomputes.
  public let ignorable: [String]

  /// Makes a table.
  public init(_ rules: [Rule], fusions: [Fusion] = [], copies: [Copy] = [], ignorable: [String] = []) {
    self.rules = rules
    self.fusions = fusions
    self.copies = copies
    self.ignorable = ignorable
  }

  /// Every name stands for itself.
  public static let identity = KeyMap([])

  /// The table read from right to left: for a file in the model's names that becomes one in the file's.
  ///
  /// Of names that may stand in a file the first is written. Copies are not written: they are for reading.
  public var inverted: KeyMap {
    KeyMap(
      rules.map { Rule($0.file, $0.model) }, fusions: fusions.map { Fusion(model: $0.file, file: $0.model) })
  }

  /// Whether a key fits a pattern in which `*` stands for any run of characters.
  public static func fits(_ name: String, _ pattern: String) -> Bool { matches(name, pattern: pattern) }

  /// The file's name for a name of the model.
  public func callAsFunction(_ name: String) -> String { candidates(name)[0] }

  /// The names that a file may have for a name of the model; at least one.
  func candidates(_ name: String) -> [String] {
    for rule in rules {
      let found = rule.files.compactMap { replace(rule.model, $0, in: name) }
      if !found.isEmpty { return found }
    }
    return [name]
  }

  /// The model's name for a name in a file, or nil when the model's own names could not lead there.
  func modelName(_ name: String) -> String? {
    for rule in rules {
      for file in rule.files {
        guard let model = replace(file, rule.model, in: name) else { continue }
        if candidates(model).contains(name) { return model }
      }
    }
    return candidates(name) == [name] ? name : nil
  }

  /// How a tensor of the model is made of a file's, where `has` says what the file holds.
  func recipe(_ name: String, where has: (String) -> Bool) -> Recipe {
    var incomplete: Recipe?
    for fusion in fusions {
      for (number, piece) in fusion.model.enumerated() {
        guard let path = piece.path, let captured = capture(path, name) else { continue }
        let files = fusion.file.map { $0.path.map { fill($0, captured) } }
        let recipe: Recipe
        if fusion.model.count == 1 {
          recipe = .joined(files)
        } else if files.count == 1, let whole = files[0] {
          recipe = .part(of: whole, number, fusion.model.count)
        } else {
          continue
        }
        if recipe.names.allSatisfy(has) { return recipe }
        incomplete = incomplete ?? recipe
      }
    }
    let candidates = candidates(name)
    return candidates.first(where: has).map { .same($0) } ?? incomplete ?? .same(candidates[0])
  }

  /// Where the fusion's pieces end up when a file's names are turned into the model's.
  func fusion(ofFile name: String) -> (fusion: Fusion, captured: [Substring])? {
    for fusion in fusions {
      for piece in fusion.file {
        if let path = piece.path, let captured = capture(path, name) { return (fusion, captured) }
      }
    }
    return nil
  }
}

/// How a tensor is made of a file's.
enum Recipe: Sendable, Equatable {
  case same(String)
  /// Joined along the first dimension; nil stands for zeros.
  case joined([String?])
  /// One of equal parts along the first dimension.
  case part(of: String, Int, Int)

  /// The names in the file.
  var names: [String] {
    switch self {
    case .same(let name), .part(of: let name, _, _): [name]
    case .joined(let names): names.compactMap { $0 }
    }
  }
}

/// The components that stand for `*`, when a whole name fits a path.
func capture(_ path: String, _ name: String) -> [Substring]? {
  let (pattern, name) = (path.split(separator: "."), name.split(separator: "."))
  guard pattern.count == name.count else { return nil }
  var captured: [Substring] = []
  for (expected, found) in zip(pattern, name) {
    if expected == "*" { captured.append(found) } else if expected != found { return nil }
  }
  return captured
}

/// A path with components in place of its `*`, in order.
func fill(_ path: String, _ captured: [Substring]) -> String {
  var rest = captured[...]
  return path.split(separator: ".").map { component in
    component == "*" ? rest.popFirst() ?? component : component
  }.joined(separator: ".")
}

/// A name with its start exchanged, or nil when it starts otherwise.
private func replace(_ start: String, _ replacement: String, in name: String) -> String? {
  let pattern = start.split(separator: ".")
  let components = name.split(separator: ".", omittingEmptySubsequences: false)
  guard pattern.count <= components.count else { return nil }
  var captured: [Substring] = []
  for (expected, found) in zip(pattern, components) {
    if expected == "*" { captured.append(found) } else if expected != found { return nil }
  }
  let parts = fill(replacement, captured)
  let rest = components.dropFirst(pattern.count).joined(separator: ".")
  return parts.isEmpty || rest.isEmpty ? parts + rest : "\(parts).\(rest)"
}

/// Whether a name fits a pattern in which `*` stands for any run of characters.
func matches(_ name: String, pattern: String) -> Bool {
  let parts = pattern.split(separator: "*", omittingEmptySubsequences: false)
  guard parts.count > 1, let first = parts.first, let last = parts.last else { return name == pattern }
  guard name.hasPrefix(first), name.count >= first.count + last.count else { return false }
  var rest = name.dropFirst(first.count)
  for part in parts.dropFirst().dropLast() where !part.isEmpty {
    guard let range = rest.firstRange(of: part) else { return false }
    rest = rest[range.upperBound...]
  }
  return rest.hasSuffix(last)
}
