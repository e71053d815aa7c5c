import CMedia
import Foundation

/// The first bytes of a regular file.
func firstBytes(of name: String) throws -> Data {
  var bytes: UnsafeMutablePointer<UInt8>?
  var count = 0
  try checkRead(cm_file_read_start(name, 64, &bytes, &count), name, count: count, limit: 0)
  defer { cm_free(bytes) }
  guard count > 0, let bytes else { throw MediaError.empty(name) }
  return Data(bytes: bytes, count: count)
}

/// A whole regular file.
func readWhole(_ name: String, limit: Int) throws -> Data {
  var bytes: UnsafeMutablePointer<UInt8>?
  var count = 0
  try checkRead(cm_file_read(name, max(limit, 0), &bytes, &count), name, count: count, limit: limit)
  defer { cm_free(bytes) }
  guard count > 0, let bytes else { throw MediaError.empty(name) }
  return Data(bytes: bytes, count: count)
}

/// The error for a status of `cm_file_read`.
func checkRead(_ status: cm_status, _ name: String, count: Int, limit: Int) throws {
  switch status {
  case CM_OK: return
  case CM_NO_SUCH_FILE: throw MediaError.noSuchFile(name)
  case CM_IS_DIRECTORY, CM_NOT_REGULAR: throw MediaError.notAFile(name, found: lastMessage())
  case CM_TOO_LARGE: throw MediaError.fileTooLarge(name, bytes: count, limit: limit)
  case CM_NO_MEMORY: throw MediaError.outOfMemory(name, reason: lastMessage())
  default: throw MediaError.unreadable(name, reason: lastMessage())
  }
}

/// Opens a movie; bytes that no container begins with are described in the error.
func openMovie(_ source: MovieSource, start: Data, name: String, limits: MovieLimits) throws -> Movie {
  do {
    return try Movie(source, name: name, limits: limits)
  } catch MediaError.unsupportedOrCorrupt(_, let expected, let found) {
    let words = start.withUnsafeBytes { StillFormat.describe($0) }
    throw MediaError.unsupportedOrCorrupt(name, expected: expected, found: "\(found), \(words)")
  }
}
