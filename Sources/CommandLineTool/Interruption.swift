import Foundation
import Synchronization

/// The interrupt key: once asks for a clean stop, twice ends the process.
enum Interruption {
  private static let count = Atomic<Int>(0)
  /// The end of a pipe that the first key press is written to; −1 while nobody waits for it.
  private static let wakes = Atomic<Int32>(-1)

  /// Starts listening, also where the parent process had the signal blocked.
  ///
  /// - Parameter onFirst: Called on a thread of its own at the first key press: for what waits for something else.
  static func listen(onFirst: (@Sendable () -> Void)? = nil) {
    if let onFirst { wait(onFirst) }
    var interrupt = sigset_t()
    sigemptyset(&interrupt)
    sigaddset(&interrupt, SIGINT)
    pthread_sigmask(SIG_UNBLOCK, &interrupt, nil)
    signal(SIGINT) { _ in
      if Interruption.count.add(1, ordering: .relaxed).newValue > 1 { _exit(130) }
      // Of all functions that could wake another thread, a signal handler may call write.
      var byte: UInt8 = 0
      let end = Interruption.wakes.load(ordering: .relaxed)
      if end >= 0 { _ = write(end, &byte, 1) }
    }
  }

  /// Whether the key was pressed.
  static var isWanted: Bool { count.load(ordering: .relaxed) > 0 }

  private static func wait(_ body: @escaping @Sendable () -> Void) {
    let pipe = Pipe()
    wakes.store(pipe.fileHandleForWriting.fileDescriptor, ordering: .relaxed)
    Thread.detachNewThread {
      // The pipe lives as long as the thread, which ends with the process.
      if (try? pipe.fileHandleForReading.read(upToCount: 1)) != nil { body() }
      withExtendedLifetime(pipe) { while true { sleep(.max) } }
    }
  }
}
