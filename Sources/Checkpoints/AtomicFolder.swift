public import Foundation

/// Writes whole folders under a temporary name beside the destination and renames them when they are complete.
///
/// Who fills a temporary folder holds a lock on it, which ends with the process however that ends. What a killed process
/// has left is therefore known from what another one is still filling, and goes when the same destination is written again.
public enum AtomicFolder {
  /// Makes a folder.
  ///
  /// - Parameters:
  ///   - url: The destination. It must not exist, or be an empty folder; the folder above it is made where needed.
  ///   - body: Gets the temporary folder to fill.
  /// - Throws: ``CheckpointError/cannotWrite(file:reason:)``, or what `body` throws; the temporary folder is gone then.
  public static func write<Result>(to url: URL, _ body: (URL) throws -> Result) throws -> Result {
    let manager = FileManager.default
    if manager.fileExists(atPath: url.path) {
      let isEmpty = try? manager.contentsOfDirectory(atPath: url.path).isEmpty
      guard isEmpty == true else {
        throw CheckpointError.cannotWrite(
          file: url.path, reason: isEmpty == nil ? "it is a file" : "the folder exists and is not empty")
      }
    }
    removeLeftovers(of: url)
    let temporary = try TemporaryFolder(for: url)
    defer { temporary.unlock() }
    do {
      let result = try body(temporary.url)
      guard rename(temporary.url.path, url.path) == 0 else {
        throw CheckpointError.cannotWrite(file: url.path, reason: String(cString: strerror(errno)))
      }
      return result
    } catch {
      try? manager.removeItem(at: temporary.url)
      guard case CheckpointError.cannotWrite(let file, let reason) = error, file.hasPrefix(temporary.url.path + "/")
      else { throw error }
      // What people asked for, not what it was called on the way.
      throw CheckpointError.cannotWrite(file: url.path + file.dropFirst(temporary.url.path.count), reason: reason)
    }
  }

  /// Removes the temporary folders of the same destination that nobody fills any more.
  private static func removeLeftovers(of url: URL) {
    let parent = url.deletingLastPathComponent()
    let (start, end) = (".\(url.lastPathComponent).", ".partial")
    for name in (try? FileManager.default.contentsOfDirectory(atPath: parent.path)) ?? []
    where name.hasPrefix(start) && name.hasSuffix(end) {
      let middle = name.dropFirst(start.count).dropLast(end.count)
      let numbers = middle.split(separator: ".", omittingEmptySubsequences: false)
      guard numbers.count == 2, numbers.allSatisfy({ UInt32($0) != nil }) else { continue }
      let folder = parent.appendingPathComponent(name)
      guard let lock = lock(folder) else { continue }
      try? FileManager.default.removeItem(at: folder)
      close(lock)
    }
  }

  /// An open folder that is locked for this process; nil when it is gone, no folder, or locked and not waited for.
  private static func lock(_ folder: URL, waits: Bool = false) -> Int32? {
    let descriptor = open(folder.path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)
    guard descriptor >= 0 else { return nil }
    guard flock(descriptor, waits ? LOCK_EX : LOCK_EX | LOCK_NB) == 0 else {
      close(descriptor)
      return nil
    }
    return descriptor
  }

  /// A folder of a new name that this process has locked.
  private struct TemporaryFolder {
    let url: URL
    /// Nil where the file system knows no locks: nobody can then take the folder for a leftover either.
    private let descriptor: Int32?

    init(for destination: URL) throws {
      url = destination.deletingLastPathComponent().appendingPathComponent(
        ".\(destination.lastPathComponent).\(getpid()).\(UInt32.random(in: 0 ... .max)).partial")
      do {
        try FileManager.default.createDirectory(at: url, withIntermediateDirectories: true)
      } catch {
        throw CheckpointError.cannotWrite(file: destination.path, reason: error.localizedDescription)
      }
      // Another process may come before the lock and take the folder for a leftover: it holds the lock until it is gone.
      descriptor = AtomicFolder.lock(url, waits: true)
      guard FileManager.default.fileExists(atPath: url.path) else {
        unlock()
        throw CheckpointError.cannotWrite(
          file: destination.path, reason: "another process is writing the same folder")
      }
    }

    func unlock() { if let descriptor { close(descriptor) } }
  }
}
