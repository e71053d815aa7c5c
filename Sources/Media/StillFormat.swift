import CMedia
import Foundation

/// The still picture formats that are read, told apart by their first bytes, whatever the file is called.
enum StillFormat: String, CaseIterable {
  case jpeg = "JPEG"
  case png = "PNG"
  case webp = "WebP"
  case gif = "GIF"
  case tiff = "TIFF"
  case bmp = "BMP"
  case heif = "HEIF or AVIF"

  static let list = allCases.map(\.rawValue).joined(separator: ", ")

  /// `nil` when the bytes begin like none of them.
  init?(firstBytes bytes: UnsafeRawBufferPointer) {
    func has(_ text: StaticString, at offset: Int = 0) -> Bool {
      guard bytes.count >= offset + text.utf8CodeUnitCount else { return false }
      return text.withUTF8Buffer { $0.elementsEqual(bytes[offset..<offset + $0.count]) }
    }
    func has(_ values: [UInt8]) -> Bool {
      bytes.count >= values.count && bytes[..<values.count].elementsEqual(values)
    }
    if has([0xFF, 0xD8, 0xFF]) {
      self = .jpeg
    } else if has([0x89, 0x50, 0x4E, 0x47, 0x0D, 0x0A, 0x1A, 0x0A]) {
      self = .png
    } else if has("RIFF"), has("WEBP", at: 8) {
      self = .webp
    } else if has("GIF87a") || has("GIF89a") {
      self = .gif
    } else if has([0x49, 0x49, 42, 0]) || has([0x4D, 0x4D, 0, 42]) || has([0x49, 0x49, 43, 0])
      || has([0x4D, 0x4D, 0, 43])
    {
      self = .tiff
    } else if has("BM") {
      self = .bmp
    } else if has("ftyp", at: 4), StillFormat.pictureBrands.contains(where: { has($0, at: 8) }) {
      self = .heif
    } else {
      return nil
    }
  }

  /// The brands of ISO media files that hold pictures rather than a film.
  private static let pictureBrands: [StaticString] = [
    "heic", "heix", "heim", "heis", "hevc", "hevx", "mif1", "mif2", "msf1", "avif", "avis", "miaf",
  ]

  /// libvips' loader, or `nil` for BMP: libvips reads that with ImageMagick only, which is no decoder for files from
  /// strangers.
  var decoder: cm_still_format? {
    switch self {
    case .jpeg: CM_STILL_JPEG
    case .png: CM_STILL_PNG
    case .webp: CM_STILL_WEBP
    case .gif: CM_STILL_GIF
    case .tiff: CM_STILL_TIFF
    case .heif: CM_STILL_HEIF
    case .bmp: nil
    }
  }

  /// The first bytes in words, for errors: as text where they are printable, else in hexadecimal.
  static func describe(_ bytes: UnsafeRawBufferPointer) -> String {
    let start = bytes.prefix(12)
    if start.allSatisfy({ (32..<127).contains($0) || $0 == 9 || $0 == 10 || $0 == 13 }) {
      let text = start.map { $0 < 32 ? " " : String(UnicodeScalar($0)) }.joined()
      return "text beginning \"\(text)\""
    }
    return "bytes beginning " + start.map { String($0 >> 4, radix: 16) + String($0 & 15, radix: 16) }.joined()
  }
}
