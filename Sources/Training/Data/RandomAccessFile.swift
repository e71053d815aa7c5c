public import Foundation

#if canImport(Glibc)
  import Glibc
#elseif canImport(Musl)
  import Musl
#else
  import Darwin
#endif

/// A regular file that is open for reading at any place. Closed when the last reference goes.
final class RandomAccessFile: Sendable {
  let path: String
  /// The size in bytes when the file was opened.
  let count: Int
  private let descriptor: Int32

  /// Opens a regular file; a folder, pipe or device is refused at once.
  init(path: String) throws(DataError) {
    let descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)
    guard descriptor >= 0 else {
      if errno == ENOENT { throw .missing(path: path, expected: "a file") }
      throw .unreadable(path: path, reason: String(cString: strerror(errno)))
    }
    var status = stat()
    guard fstat(descriptor, &status) == 0, status.st_mode & S_IFMT == S_IFREG else {
      close(descriptor)
      throw .unreadable(path: path, reason: "expected a regular file, found something else")
    }
    self.path = path
    self.descriptor = descriptor
    count = Int(status.st_size)
  }

  deinit { close(descriptor) }

  /// Reads exactly `count` bytes at `offset`. The range is checked before memory is asked for.
  func read(at offset: Int, count length: Int) throws(DataError) -> Data {
    guard offset >= 0, length >= 0, offset <= count, length <= count - offset else {
      throw .malformed(
        path: path, place: "byte \(offset)", expected: "\(length) bytes", found: "\(max(0, count - offset)) to the end")
    }
    var data = Data(count: length)
    var done = 0
    while done < length {
      let start = done
      let got = data.withUnsafeMutableBytes { buffer in
        buffer.baseAddress.map { pread(descriptor, $0 + start, length - start, off_t(offset + start)) } ?? 0
      }
      if got < 0, errno == EINTR { continue }
      guard got > 0 else {
        let reason = got == 0 ? "the file became shorter while it was read" : String(cString: strerror(errno))
        throw .unreadable(path: path, reason: reason)
      }
      done += got
    }
    return data
  }
}

/// Where the bytes of one picture (or sound, or text) lie: a whole file, or a stretch of an archive.
public struct DataLocation: Codable, Hashable, Sendable, CustomStringConvertible {
  /// The file.
  public let path: String
  /// The name inside the archive, if the file is one.
  public let member: String?
  /// The first byte.
  public let offset: Int
  /// How many bytes, or nil for all to the end.
  public let count: Int?

  /// The most bytes that ``read(limit:)`` loads unless told otherwise: 256 MiB.
  public static let defaultLimit = 256 << 20

  /// A whole file.
  public init(path: String) {
    self.init(path: path, member: nil, offset: 0, count: nil)
  }

  /// A stretch of an archive.
  public init(path: String, member: String?, offset: Int, count: Int?) {
    self.path = path
    self.member = member
    self.offset = offset
    self.count = count
  }

  /// The file, and the member if there is one.
  public var description: String { member.map { "\(path):\($0)" } ?? path }

  /// Loads the bytes.
  ///
  /// - Throws: ``DataError`` when the file is missing, shorter than the stretch demands, or longer than `limit`.
  public func read(limit: Int = defaultLimit) throws(DataError) -> Data {
    let file = try RandomAccessFile(path: path)
    let length = count ?? max(0, file.count - offset)
    guard length <= limit else {
      throw .malformed(path: path, place: member ?? "size", expected: "at most \(limit) bytes", found: "\(length)")
    }
    return try file.read(at: offset, count: length)
  }
}
