/// A text that is being cut up: one buffer of UTF-8 and the pieces of it, some of them tokens already.
struct SplitText {
  struct Piece {
    /// Range of the text in the buffer; of no meaning for tokens.
    var start: Int
    var end: Int
    /// The id of a token, or -1 for text that the model has yet to see.
    var id: Int
    /// How many bytes, counted from the start of the piece, stand for the first character of the original text.
    var startLength = 0
  }

  var bytes: [UInt8] = []
  var pieces: [Piece] = []

  mutating func append(token id: Int) {
    pieces.append(Piece(start: bytes.count, end: bytes.count, id: id))
  }

  /// Appends text; nothing for an empty one.
  mutating func append(text: some Collection<UInt8>, startLength: Int) {
    guard !text.isEmpty else { return }
    let start = bytes.count
    bytes.append(contentsOf: text)
    pieces.append(Piece(start: start, end: bytes.count, id: -1, startLength: startLength))
  }

  /// Replaces each text piece by what `body` reports of it; empty parts are dropped.
  ///
  /// `body` gets the whole buffer, the bounds of a piece, and a function that takes the bounds of a part.
  mutating func split(
    _ body: (_ bytes: UnsafeBufferPointer<UInt8>, _ start: Int, _ end: Int, _ emit: (Int, Int) -> Void) -> Void
  ) {
    var result: [Piece] = []
    result.reserveCapacity(pieces.count * 2)
    bytes.withUnsafeBufferPointer { buffer in
      for piece in pieces {
        if piece.id >= 0 {
          result.append(piece)
        } else {
          body(buffer, piece.start, piece.end) { start, end in
            guard start < end else { return }
            let startLength = max(0, piece.startLength - (start - piece.start))
            result.append(Piece(start: start, end: end, id: -1, startLength: startLength))
          }
        }
      }
    }
    pieces = result
  }

  /// Rewrites the text of every text piece into a new buffer.
  mutating func rewrite(
    capacity: Int,
    _ body: (_ piece: UnsafeBufferPointer<UInt8>, _ startsText: Bool, _ output: inout [UInt8]) -> Void
  ) {
    var output: [UInt8] = []
    output.reserveCapacity(capacity)
    bytes.withUnsafeBufferPointer { buffer in
      for index in pieces.indices where pieces[index].id < 0 {
        let start = output.count
        let piece = UnsafeBufferPointer(rebasing: buffer[pieces[index].start..<pieces[index].end])
        body(piece, pieces[index].startLength > 0, &output)
        pieces[index].start = start
        pieces[index].end = output.count
      }
    }
    bytes = output
  }
}
