import Checkpoints
import Foundation
import TestSupport
import Testing
import Torch

/// Files that lie. Each is refused with a message, without a crash, a hang or much memory.
@Suite struct MalformedFileTests {
  @Test(
    arguments: [
      ("", 0), (#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}"#, 8), ("[]", 0), ("null", 0), ("{", 0),
      ("not JSON at all", 0), (#""{}""#, 0), (#"{"a":1}"#, 0), (#"{"a":null}"#, 0), (#"{"a":[]}"#, 0),
      (#"{"a":{}}"#, 0),
      (#"{"a":{"dtype":"F32","shape":[2]}}"#, 8), (#"{"a":{"dtype":"F32","data_offsets":[0,8]}}"#, 8),
      (#"{"a":{"shape":[2],"data_offsets":[0,8]}}"#, 8), (#"{"a":{"dtype":32,"shape":[2],"data_offsets":[0,8]}}"#, 8),
      // Types that there are not.
      (#"{"a":{"dtype":"F33","shape":[2],"data_offsets":[0,8]}}"#, 8),
      (#"{"a":{"dtype":"f32","shape":[2],"data_offsets":[0,8]}}"#, 8),
      (#"{"a":{"dtype":"","shape":[2],"data_offsets":[0,8]}}"#, 8),
      (#"{"a":{"dtype":"F8_E4M3","shape":[8],"data_offsets":[0,8]}}"#, 8),
      // Sizes that are none.
      (#"{"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}}"#, 8),
      (#"{"a":{"dtype":"F32","shape":[-1,-2],"data_offsets":[0,8]}}"#, 8),
      (#"{"a":{"dtype":"F32","shape":[1.5],"data_offsets":[0,8]}}"#, 8),
      (#"{"a":{"dtype":"F32","shape":["2"],"data_offsets":[0,8]}}"#, 8),
      (#"{"a":{"dtype":"F32","shape":[true,2],"data_offsets":[0,8]}}"#, 8),
      (#"{"a":{"dtype":"F32","shape":[null],"data_offsets":[0,8]}}"#, 8),
      (#"{"a":{"dtype":"F32","shape":2,"data_offsets":[0,8]}}"#, 8),
      (#"{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,8]}}"#, 8),
      (#"{"a":{"dtype":"F32","shape":[Infinity],"data_offsets":[0,8]}}"#, 8),
      (#"{"a":{"dtype":"F32","shape":[1e400],"data_offsets":[0,8]}}"#, 8),
      (#"{"a":{"dtype":"F32","shape":[99999999999999999999],"data_offsets":[0,8]}}"#, 8),
      (#"{"a":{"dtype":"F32","shape":[18446744073709551617],"data_offsets":[0,8]}}"#, 8),
      // Products that overflow: 2⁶² · 4 and 2³² · 2³² are 0 in 64 bits.
      (#"{"a":{"dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,0]}}"#, 0),
      (#"{"a":{"dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,0]}}"#, 0),
      (#"{"a":{"dtype":"F64","shape":[2305843009213693953],"data_offsets":[0,8]}}"#, 8),
      // Offsets.
      (#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[-8,0]}}"#, 8),
      (#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}}"#, 8),
      (#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0]}}"#, 8),
      (#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8,8]}}"#, 8),
      (#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,7]}}"#, 8),
      (#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,16]}}"#, 8),
      (#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[9223372036854775800,9223372036854775807]}}"#, 8),
      (#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,1e300]}}"#, 8),
      (#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,8]}}"#, 8),
      // Overlap, gap in front, between, behind.
      (
        #"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}"#,
        12
      ),
      (
        #"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#,
        8
      ),
      (
        #"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[8,12]}}"#,
        12
      ),
      (#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}"#, 12),
      (#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#, 9), ("{}", 1),
      // One name twice.
      (
        #"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#,
        8
      ),
      (
        #"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"\u0061":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#,
        8
      ), (#"{"__metadata__":{"a":"b"},"__metadata__":{}}"#, 0),
      // Metadata that are none.
      (#"{"__metadata__":{"a":1}}"#, 0), (#"{"__metadata__":"x"}"#, 0), (#"{"__metadata__":{"a":{"b":"c"}}}"#, 0),
    ] as [(String, Int)]) func aHeaderThatLies(header: String, data: Int) throws
  {
    #expect(try malformation(safetensors(header, data: data)).contains("bad.safetensors: expected"))
  }

  @Test func theMessageNamesTheTensor() throws {
    let header = #"{"layer.7.weight":{"dtype":"F32","shape":[2],"data_offsets":[0,12]}}"#
    let words = try malformation(safetensors(header, data: 12))
    #expect(words.hasSuffix("expected 8 bytes for layer.7.weight F32 [2], found 12 bytes"), "\(words)")
    let type = try malformation(safetensors(#"{"q":{"dtype":"F33","shape":[2],"data_offsets":[0,8]}}"#, data: 8))
    #expect(type.contains("BF16, BOOL, F16") && type.hasSuffix("for q, found dtype F33"), "\(type)")
    let shape = try malformation(safetensors(#"{"q":{"dtype":"F32","shape":["x"],"data_offsets":[0,8]}}"#, data: 8))
    #expect(shape.contains("q.shape"), "\(shape)")
  }

  @Test func lengthsThatLie() throws {
    let good = #"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#
    let whole = safetensors(good, data: 8)
    for count in 0..<whole.count {
      _ = try malformation(whole.prefix(count))
    }
    let right = UInt64(good.utf8.count)
    for length: UInt64 in [
      0, 1, right - 1, right + 1, right + 9, 100, 1 << 32, 1 << 40, .max, .max - 7, 1 << 63, 100_000_001,
    ] {
      _ = try malformation(safetensors(good, data: 8, length: length))
    }
  }

  @Test func damageAnywhereIsNoCrash() throws {
    // Every byte of a header changed in turn: refused, or read with the tensors inside the file.
    let whole = safetensors(
      #"{"__metadata__":{"k":"v"},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#, data: 8)
    try withTemporaryFolder { folder in
      let url = folder.appendingPathComponent("x.safetensors")
      var refused = 0
      for index in 0..<(whole.count - 8) {
        for bits: UInt8 in [0x01, 0x10, 0x80, 0xff] {
          var bytes = whole
          bytes[index] ^= bits
          try bytes.write(to: url)
          do {
            let file = try SafetensorsFile(contentsOf: url)
            for name in file.names { #expect(try file.tensor(name).bytes().count <= 8) }
          } catch is CheckpointError { refused += 1 }
        }
      }
      #expect(refused > 200)
    }
  }

  @Test func deepNestingAndHugeLists() throws {
    let nested = #"{"a":"# + String(repeating: "[", count: 200_000) + String(repeating: "]", count: 200_000) + "}"
    _ = try malformation(safetensors(nested))
    let ones = Array(repeating: "1", count: 300_000).joined(separator: ",")
    _ = try malformation(safetensors(#"{"a":{"dtype":"U8","shape":[\#(ones)],"data_offsets":[0,1]}}"#, data: 1))
    let long = String(repeating: "x", count: 1_000_000)
    _ = try malformation(safetensors(#"{"a":{"dtype":"F32","shape":"\#(long)","data_offsets":[0,1]}}"#, data: 1))
  }

  @Test func otherEncodings() throws {
    for encoding in [String.Encoding.utf16LittleEndian, .utf16BigEndian, .utf32LittleEndian] {
      let text = try #require(#"{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}"#.data(using: encoding))
      _ = try malformation(withUnsafeBytes(of: UInt64(text.count).littleEndian) { Data($0) } + text)
    }
    let invalid = Data([0x7b, 0x22, 0xff, 0xfe, 0x22, 0x3a, 0x31, 0x7d])
    _ = try malformation(withUnsafeBytes(of: UInt64(invalid.count).littleEndian) { Data($0) } + invalid)
    _ = try malformation(safetensors("\u{feff}{}"))
  }

  @Test func emptyTensorsOfHugeExtent() throws {
    // No bytes, and extents that no memory could hold: this is no lie, and must stay without consequence.
    try withTemporaryFolder { folder in
      let url = folder.appendingPathComponent("x.safetensors")
      try safetensors(#"{"a":{"dtype":"F32","shape":[0,4611686018427387904],"data_offsets":[0,0]}}"#).write(to: url)
      do {
        let file = try SafetensorsFile(contentsOf: url)
        #expect(throws: TorchError.self) { try withError { try file.tensor("a").repeated(2, 4) } }
      } catch is CheckpointError {}
    }
  }

  @Test func whatIsNoFile() throws {
    try withTemporaryFolder { folder in
      let missing = folder.appendingPathComponent("none.safetensors")
      #expect(throws: CheckpointError.notFound(file: missing.path, expected: "a file")) {
        try SafetensorsFile(contentsOf: missing)
      }
      #expect(throws: CheckpointError.self) { try Checkpoint(contentsOf: missing) }
      for url in [folder, URL(fileURLWithPath: "/dev/null"), URL(fileURLWithPath: "/dev/zero")] {
        let error = #expect(throws: CheckpointError.self) { try SafetensorsFile(contentsOf: url) }
        #expect(error?.description.contains("a regular file") == true)
      }
      let pipe = folder.appendingPathComponent("pipe.safetensors")
      try #require(mkfifo(pipe.path, 0o600) == 0)
      // A plain open would wait for a writer for ever.
      let error = #expect(throws: CheckpointError.self) { try Checkpoint(contentsOf: pipe) }
      #expect(error?.description.contains("a regular file") == true)
    }
  }
}
