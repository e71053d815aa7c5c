/// Tokens that stand for one byte: `<0x00>` to `<0xFF>`.
enum ByteTokens {
  /// The token of a byte.
  static func token(of byte: UInt8) -> [UInt8] {
    let digits = Array("0123456789ABCDEF".utf8)
    return Array("<0x".utf8) + [digits[Int(byte >> 4)], digits[Int(byte & 15)], UInt8(ascii: ">")]
  }

  /// The byte of a token written in upper case.
  static func byte(of token: [UInt8]) -> UInt8? {
    guard let byte = byteInAnyCase(of: token), Self.token(of: byte) == token else { return nil }
    return byte
  }

  /// The byte of a token, as the decoder of `tokenizer.json` reads it: lower case and a plus sign count as well.
  static func byteInAnyCase(of token: [UInt8]) -> UInt8? {
    guard token.count == 6, token.starts(with: "<0x".utf8), token[5] == UInt8(ascii: ">") else { return nil }
    if token[3] == UInt8(ascii: "+") { return digit(token[4]) }
    guard let high = digit(token[3]), let low = digit(token[4]) else { return nil }
    return high << 4 | low
  }

  private static func digit(_ byte: UInt8) -> UInt8? {
    switch byte {
    case UInt8(ascii: "0")...UInt8(ascii: "9"): byte - UInt8(ascii: "0")
    case UInt8(ascii: "a")...UInt8(ascii: "f"): byte - UInt8(ascii: "a") + 10
    case UInt8(ascii: "A")...UInt8(ascii: "F"): byte - UInt8(ascii: "A") + 10
    default: nil
    }
  }
}
