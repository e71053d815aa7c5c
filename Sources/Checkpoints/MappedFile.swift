import Foundation

/// A whole file mapped into memory, copy-on-write: what is changed in memory never reaches the file.
final class MappedFile: @unchecked Sendable {
  let url: URL
  let bytes: UnsafeMutableRawBufferPointer

  /// - Throws: ``CheckpointError`` for what is missing, a folder, empty, or not readable.
  init(_ url: URL) throws {
    self.url = url
    let path = url.path
    let descriptor = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC)
    guard descriptor >= 0 else {
      if errno == ENOENT { throw CheckpointError.notFound(file: path, expected: "a file") }
      throw CheckpointError.unreadable(file: path, reason: String(cString: strerror(errno)))
    }
    defer { close(descriptor) }
    var status = stat()
    guard fstat(descriptor, &status) == 0 else {
      throw CheckpointError.unreadable(file: path, reason: String(cString: strerror(errno)))
    }
    guard status.st_mode & S_IFMT == S_IFREG else {
      throw CheckpointError.malformed(file: path, expected: "a regular file", found: "a folder or a device")
    }
    guard status.st_size > 0 else {
      throw CheckpointError.malformed(file: path, expected: "a file of weights", found: "an empty file")
    }
    let count = Int(status.st_size)
    guard let start = mmap(nil, count, PROT_READ | PROT_WRITE, MAP_PRIVATE, descriptor, 0), start != MAP_FAILED else {
      throw CheckpointError.unreadable(file: path, reason: String(cString: strerror(errno)))
    }
    bytes = UnsafeMutableRawBufferPointer(start: start, count: count)
  }

  deinit { munmap(bytes.baseAddress, bytes.count) }
}
