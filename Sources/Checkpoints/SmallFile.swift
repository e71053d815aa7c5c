package import Foundation

/// Reads whole files that are small by their nature: configurations and indices.
///
/// A model folder comes from elsewhere. A link in it to an endless device or to a pipe must neither fill the memory nor
/// wait for ever.
package enum SmallFile {
  /// No configuration is larger.
  package static let configurationLimit = 10_000_000

  /// The content of a regular file; links are followed.
  ///
  /// - Parameters:
  ///   - url: The file.
  ///   - limit: A file of as many bytes or more is refused before it is read.
  /// - Throws: ``CheckpointError/unreadable(file:reason:)``.
  package static func read(_ url: URL, limit: Int = configurationLimit) throws -> Data {
    func failure(_ reason: String) -> CheckpointError { .unreadable(file: url.path, reason: reason) }
    let descriptor = open(url.path, O_RDONLY | O_NONBLOCK | O_CLOEXEC)
    guard descriptor >= 0 else { throw failure(String(cString: strerror(errno))) }
    let handle = FileHandle(fileDescriptor: descriptor, closeOnDealloc: true)
    var status = stat()
    guard fstat(descriptor, &status) == 0 else { throw failure(String(cString: strerror(errno))) }
    guard status.st_mode & S_IFMT == S_IFREG else { throw failure("it is no regular file") }
    guard status.st_size < limit else { throw failure("\(status.st_size) bytes are too many, expected below \(limit)") }
    do {
      return try handle.read(upToCount: limit) ?? Data()
    } catch {
      throw failure(error.localizedDescription)
    }
  }
}
