import Checkpoints
import Foundation
import TestSupport
import Testing
import Torch

/// Archives that lie about themselves.
@Suite struct ZipTests {
  let good = Zip(pickle: Pickle.whole(Pickle.dictionary(Pickle.tensor())))

  func changed(_ change: (inout Zip) -> Void) -> Data {
    var zip = good
    change(&zip)
    return zip.bytes
  }

  @Test func whatIsAllowed() throws {
    #expect(try PyTorchFile(parsing: good.bytes).names == ["w"])
    #expect(try PyTorchFile(parsing: changed { $0.comment = Data("PK\u{5}\u{6} a comment".utf8) }).names == ["w"])
  }

  @Test func compressedEntriesAreRefused() {
    // A bomb: four gigabytes that say to be in ten bytes.
    let bomb = changed {
      $0.entries[2].method = 8
      $0.entries[2].size = .max - 1
      $0.entries[2].storedSize = 10
    }
    #expect(refusal(bomb).contains("stored without compression, found x/data/0 with 10 bytes"))
    #expect(refusal(changed { $0.entries[0].method = 8 }).contains("x/data.pkl"))
    #expect(refusal(changed { $0.entries[2].storedSize = 15 }).contains("15 bytes for 16"))
    #expect(refusal(changed { $0.entries[2].flags = 1 }).contains("not encrypted"))
  }

  @Test func entriesOutsideTheFile() {
    #expect(refusal(changed { ($0.entries[2].size, $0.entries[2].storedSize) = (1 << 30, 1 << 30) }).contains("inside"))
    #expect(refusal(changed { $0.entries[2].offset = 1 << 30 }).contains("inside the zip archive"))
    #expect(refusal(changed { $0.entries[2].offset = 1 }).contains("something else"))
    #expect(refusal(changed { $0.entries[2].offset = .max }).contains("that are whole"))
    #expect(refusal(changed { $0.directoryOffset = 1 << 30 }).contains("a zip directory inside the file"))
    #expect(refusal(changed { $0.directoryOffset = 0 }).contains("0 that are whole"))
    #expect(refusal(changed { $0.count = 9 }).contains("9 entries"))
    #expect(refusal(changed { $0.count = .max }).contains("64-bit directory"))
    #expect(refusal(changed { $0.count = 0 }).contains("one data.pkl"))
    #expect(refusal(changed { $0.entries[2].localName = "x/data/1" }).contains("something else"))
  }

  @Test func entriesTwiceOrOverEachOther() {
    #expect(refusal(changed { $0.entries.append($0.entries[2]) }).contains("x/data/0 twice"))
    // The pickle's own bytes as a storage: its entry reaches over the next ones.
    let size = UInt32(good.entries[0].data.count + 40)
    #expect(refusal(changed { ($0.entries[0].size, $0.entries[0].storedSize) = (size, size) }).contains("overlap"))
    // Two names for one place.
    let same = changed {
      $0.entries.append(Zip.Entry(name: "x/data/0", data: Data(count: 16)))
      $0.entries[3].name = "x/data/7"
      $0.entries[3].localName = "x/data/0"
    }
    #expect(refusal(same).contains("something else"))
    #expect(
      refusal(
        changed {
          $0.entries[0].name = "data.pkl"; $0.entries[0].localName = nil
        }
      ).contains("one data.pkl"))
    #expect(refusal(changed { $0.entries.append(Zip.Entry(name: "y/data.pkl", data: Data())) }).contains("found 2"))
  }

  @Test func filesThatWereCutOff() {
    let bytes = good.bytes
    for count in 4..<bytes.count { _ = refusal(bytes.prefix(count)) }
    #expect(refusal(bytes + Data(count: 70_000)).contains("cut off?"))
    let old = stream(Pickle.whole(Pickle.dictionary(Pickle.tensor())))
    for count in 1..<old.count { _ = refusal(old.prefix(count)) }
  }

  @Test func aWideDirectoryThatLies() throws {
    // Every byte of the directory of the 64-bit archive, changed to extremes: an error, or the same tensors' places.
    let bytes = try Data(contentsOf: fixtures.appendingPathComponent("checkpoints/wide.pth"))
    for index in (bytes.count - 400)..<bytes.count {
      for value: UInt8 in [0, 0x7f, 0x80, 0xff] {
        var changed = bytes
        changed[index] = value
        survives(changed)
      }
    }
  }
}
