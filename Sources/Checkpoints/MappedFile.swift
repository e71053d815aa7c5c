import Foundation

/// A whole file mapped into memory, copy-on-write: what is changed in memory never reaches the file.
final class MappedFile: @unchecked Sendable {
  let url: URL
  let bytes: UnsafeMutableRawBufferPointer
  /// The open file, or -1 when the bytes were given in memory.
  private let descriptor: Int32

  /// - Throws: ``CheckpointError`` for what is missing, a folder, empty, or not readable.
  init(_ url: URL) throws {
    self.url = url
    let path = url.path
    let descriptor = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC)
    guard descriptor >= 0 else {
      if errno == ENOENT { throw CheckpointError.notFound(file: path, expected: "a file") }
      throw CheckpointError.unreadable(file: path, reason: String(cString: strerror(errno)))
    }
    do {
      bytes = try Self.map(descriptor, path)
    } catch {
      close(descriptor)
      throw error
    }
    self.descriptor = descriptor
  }

  private static func map(_ descriptor: Int32, _ path: String) throws -> UnsafeMutableRawBufferPointer {
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
    return UnsafeMutableRawBufferPointer(start: start, count: count)
  }

  /// Bytes that are in memory already, copied; `name` stands for the file in errors.
  init(_ data: Data, name: String) throws {
    url = URL(fileURLWithPath: name)
    guard !data.isEmpty else {
      throw CheckpointError.malformed(file: url.path, expected: "a file of weights", found: "an empty file")
    }
    let memory = UnsafeMutableRawBufferPointer.allocate(byteCount: data.count, alignment: 64)
    data.withUnsafeBytes { memory.copyMemory(from: $0) }
    bytes = memory
    descriptor = -1
  }

  /// Copies a range of the file elsewhere. The map's pages are not touched, so that they do not count as memory in use.
  ///
  /// - Throws: ``CheckpointError/unreadable(file:reason:)``, also when the file has become shorter.
  func read(_ range: Range<Int>, into destination: UnsafeMutableRawPointer) throws {
    guard descriptor >= 0 else {
      destination.copyMemory(from: UnsafeRawPointer(bytes.baseAddress!) + range.lowerBound, byteCount: range.count)
      return
    }
    var done = 0
    while done < range.count {
      let count = pread(
        descriptor, destination + done, min(range.count - done, 1 << 30), off_t(range.lowerBound + done))
      if count < 0 && errno == EINTR { continue }
      guard count > 0 else {
        let reason = count == 0 ? "it has become shorter" : String(cString: strerror(errno))
        throw CheckpointError.unreadable(file: url.path, reason: reason)
      }
      done += count
    }
  }

  deinit {
    if descriptor >= 0 {
      munmap(bytes.baseAddress, bytes.count)
      close(descriptor)
    } else {
      bytes.deallocate()
    }
  }
}
