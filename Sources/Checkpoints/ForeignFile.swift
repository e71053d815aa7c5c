/// Files that people take for weights, known by their first bytes.
enum ForeignFile {
  private static let starts: [(String, String)] = [
    ("version https://git-lfs", "a Git LFS pointer; the weights themselves were not downloaded"),
    ("<!DOCTYPE", "a web page"), ("<!doctype", "a web page"), ("<html", "a web page"),
    ("GGUF", "a GGUF file"), ("\u{1f}\u{8b}", "gzip-compressed data"), ("PK\u{3}\u{4}", "a zip archive"),
    ("7z\u{bc}\u{af}", "a 7z archive"), ("Rar!", "a RAR archive"), ("\u{93}NUMPY", "a NumPy array"),
    ("\u{89}HDF", "an HDF5 file"), ("\u{7f}ELF", "a program"),
  ]

  /// What the bytes seem to be, when they are none of the formats that are read.
  static func recognise(_ bytes: UnsafeRawBufferPointer) -> String? {
    // The table's characters are bytes: none lies above U+00FF.
    starts.first { start, _ in
      bytes.starts(with: start.unicodeScalars.map { UInt8(truncatingIfNeeded: $0.value) })
    }?.1
  }
}
