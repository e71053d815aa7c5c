public import Foundation

/// Writes files under a temporary name beside the destination and renames them when they are complete.
public enum AtomicFile {
  /// Writes a file in pieces.
  ///
  /// - Parameters:
  ///   - url: The destination; an existing file is replaced only when everything has been written and flushed.
  ///   - body: Gets a function that appends bytes.
  /// - Throws: ``CheckpointError/cannotWrite(file:reason:)``, or what `body` throws; the temporary file is gone then.
  public static func write(to url: URL, _ body: ((UnsafeRawBufferPointer) throws -> Void) throws -> Void) throws {
    let temporary = url.deletingLastPathComponent()
      .appendingPathComponent(".\(url.lastPathComponent).\(getpid()).\(UInt32.random(in: 0 ... .max)).partial").path
    func failure() -> CheckpointError {
      .cannotWrite(file: url.path, reason: String(cString: strerror(errno)))
    }
    let descriptor = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0o644)
    guard descriptor >= 0 else { throw failure() }
    var isOpen = true
    do {
      try body { bytes in
        var rest = bytes
        while let start = rest.baseAddress, rest.count > 0 {
          let written = Foundation.write(descriptor, start, min(rest.count, 1 << 30))
          if written < 0 && errno == EINTR { continue }
          guard written > 0 else { throw failure() }
          rest = UnsafeRawBufferPointer(rebasing: rest[written...])
        }
      }
      guard fsync(descriptor) == 0 else { throw failure() }
      isOpen = false
      guard close(descriptor) == 0 else { throw failure() }
    } catch {
      if isOpen { close(descriptor) }
      unlink(temporary)
      throw error
    }
    guard rename(temporary, url.path) == 0 else {
      let error = failure()
      unlink(temporary)
      throw error
    }
  }

  /// Writes bytes that are in memory already.
  public static func write(_ data: Data, to url: URL) throws {
    try write(to: url) { append in try data.withUnsafeBytes(append) }
  }
}
