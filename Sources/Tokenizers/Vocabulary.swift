/// The tokens of a model and their ids, both ways.
struct Vocabulary: Sendable {
  private(set) var ids: TokenTable
  private var tokens: [Int: [UInt8]]

  /// How many tokens there are; ids may have holes.
  var count: Int { ids.count }

  init() {
    ids = TokenTable()
    tokens = [:]
  }

  /// Reads an object of token → id.
  init(_ node: JSONNode) throws {
    let members = try node.members()
    ids = TokenTable(minimumCapacity: members.count)
    tokens = Dictionary(minimumCapacity: members.count)
    for (key, value) in members {
      guard case .integer(let id) = value, id >= 0, id < Int(UInt32.max) else {
        throw node.child(key.quoted, value).failure(expected: "an id from 0 to \(UInt32.max - 1)")
      }
      ids[key] = id
      tokens[id] = key
    }
  }

  /// Takes tokens whose ids are their places in the list.
  ///
  /// - Parameter duplicate: The error for a token at the first index that stands at the second index already.
  init(_ list: [[UInt8]], duplicate: (_ index: Int, _ first: Int) -> TokenizerError) throws {
    ids = TokenTable(minimumCapacity: list.count)
    tokens = Dictionary(minimumCapacity: list.count)
    for (id, token) in list.enumerated() {
      if let first = ids[token] { throw duplicate(id, first) }
      ids[token] = id
      tokens[id] = token
    }
  }

  /// Takes the pieces of a SentencePiece file.
  init(_ file: SentencePieceFile) throws {
    try self.init(file.pieces.map(\.text)) { index, first in
      file.failure("pieces[\(index)]", expected: "another piece than pieces[\(first)]", found: "the same")
    }
  }

  func id(of token: [UInt8]) -> Int? { ids[token] }

  func token(of id: Int) -> [UInt8]? { tokens[id] }

  /// The id of a token that the model needs.
  func requiredID(of token: [UInt8], _ node: JSONNode) throws -> Int {
    guard let id = ids[token] else {
      throw node.failure(expected: "a token of the vocabulary", found: token.quoted)
    }
    return id
  }
}
