import Foundation
import TestSupport
import Testing

@testable import Training

@Suite("TensorBoard events")
struct EventFileTests {
  private let time = Date(timeIntervalSince1970: 1_700_000_000.25)
  private let expected = fixtures.appendingPathComponent("training/events.tfevents")

  private func write(_ file: EventFile, laterSteps: [Int] = []) throws {
    try file.append(step: 7, [("training/itc", 4.5), ("training/seconds", 61)], time: time)
    try file.append(step: 300, [("training/itc", -0.125)], time: time)
    for step in laterSteps { try file.append(step: step, [("training/itc", 9)]) }
  }

  @Test("Bytes are those of TensorBoard's own writer")
  func bytes() throws {
    try withTemporaryFolder { folder in
      let file = EventFile(folder: folder)
      try write(file)
      #expect(try Data(contentsOf: file.url) == Data(contentsOf: expected))
    }
  }

  @Test("What came after a step goes, also half a record")
  func cut() throws {
    try withTemporaryFolder { folder in
      let file = EventFile(folder: folder)
      try file.cut(after: 3)  // no file yet
      try write(file, laterSteps: [301, 40_000])
      let handle = try FileHandle(forWritingTo: file.url)
      try handle.seekToEnd()
      try handle.write(contentsOf: Data(repeating: 0x7F, count: 21))
      try handle.close()
      try file.cut(after: 300)
      #expect(try Data(contentsOf: file.url) == Data(contentsOf: expected))
    }
  }
}
