import Foundation

/// Windows bitmaps: uncompressed, 1, 4, 8, 16, 24 or 32 bits a pixel, bottom-up or top-down, OS/2 and Windows headers.
///
/// Field layout after Microsoft's description of BITMAPCOREHEADER, BITMAPINFOHEADER, BITMAPV4HEADER and
/// BITMAPV5HEADER. Run-length, JPEG and PNG compression are refused.
enum BitmapFile {
  /// Colour of a pixel of 16 or 32 bits: where each channel's bits lie.
  private struct Mask {
    let shift: UInt32
    let most: UInt32

    /// `nil` unless the set bits are contiguous.
    init?(_ mask: UInt32) {
      guard mask != 0 else {
        shift = 0
        most = 0
        return
      }
      shift = UInt32(mask.trailingZeroBitCount)
      most = mask >> shift
      guard most & (most &+ 1) == 0 else { return nil }
    }

    /// The channel's level, scaled to 0 ... 255 and rounded.
    func level(_ pixel: UInt32) -> UInt8 {
      guard most != 0 else { return 0 }
      let value = UInt64((pixel >> shift) & most)
      return UInt8((value * 255 + UInt64(most) / 2) / UInt64(most))
    }
  }

  private enum Layout {
    case palette([UInt8])
    case blueGreenRed(bytes: Int)
    case masks(red: Mask, green: Mask, blue: Mask, alpha: Mask)
  }

  /// Decodes a whole file; every offset is checked before it is used.
  static func decode(_ bytes: UnsafeRawBufferPointer, name: String, limits: ImageLimits) throws -> Image {
    func bad(_ expected: String, _ found: String) -> MediaError {
      .unsupportedOrCorrupt(name, expected: "a BMP file with \(expected)", found: found)
    }
    func field16(_ offset: Int) -> UInt16 {
      UInt16(littleEndian: bytes.loadUnaligned(fromByteOffset: offset, as: UInt16.self))
    }
    func field32(_ offset: Int) -> UInt32 {
      UInt32(littleEndian: bytes.loadUnaligned(fromByteOffset: offset, as: UInt32.self))
    }

    // File header: "BM", size, two reserved fields, offset of the pixels. Then the picture's header, its size first.
    guard bytes.count >= 26 else { throw bad("a header of at least 26 bytes", "\(bytes.count) bytes") }
    let pixelsAt = Int(field32(10))
    let headerSize = Int(field32(14))
    let isCore = headerSize == 12
    guard isCore || (40...65_536).contains(headerSize) else {
      throw bad("a known header", "one of \(headerSize) bytes")
    }
    guard bytes.count >= 14 + headerSize else {
      throw bad("a header of \(headerSize) bytes", "a file of \(bytes.count) bytes")
    }
    let width: Int
    let storedHeight: Int
    let bits: Int
    let compression: Int
    if isCore {
      (width, storedHeight, bits, compression) = (Int(field16(18)), Int(field16(20)), Int(field16(24)), 0)
    } else {
      width = Int(Int32(bitPattern: field32(18)))
      storedHeight = Int(Int32(bitPattern: field32(22)))
      (bits, compression) = (Int(field16(28)), Int(field32(30)))
    }
    let height = abs(storedHeight)
    guard width > 0, height > 0 else { throw bad("sides of at least 1", "\(width) x \(storedHeight)") }
    let (area, overflow) = width.multipliedReportingOverflow(by: height)
    guard !overflow, area <= limits.maxPixels else {
      throw MediaError.tooLarge(name, width: width, height: height, limit: limits.maxPixels)
    }
    guard [0, 3, 6].contains(compression) else { throw bad("uncompressed pixels", "compression \(compression)") }
    guard [1, 4, 8, 16, 24, 32].contains(bits) else { throw bad("1, 4, 8, 16, 24 or 32 bits", "\(bits)") }
    guard compression == 0 || bits == 16 || bits == 32 else { throw bad("16 or 32 bits with masks", "\(bits)") }

    // Every row is filled up to a multiple of four bytes; all of them must lie within the file.
    let rowBytes = (width * bits + 31) / 32 * 4
    guard pixelsAt >= 14 + headerSize, pixelsAt <= bytes.count, (bytes.count - pixelsAt) / height >= rowBytes else {
      throw bad("\(height) rows of \(rowBytes) bytes from byte \(pixelsAt)", "a file of \(bytes.count) bytes")
    }

    let layout: Layout
    switch bits {
    case 1, 4, 8:
      let entry = isCore ? 3 : 4
      let most = 1 << bits
      let used = isCore ? 0 : Int(field32(46))
      let room = (pixelsAt - 14 - headerSize) / entry
      let count = min(used == 0 ? most : used, most, room)
      guard count > 0 else { throw bad("a palette", "none") }
      var palette = [UInt8](repeating: 0, count: most * 3)  // an index beyond the palette is black
      for i in 0..<count {
        let at = 14 + headerSize + i * entry
        (palette[3 * i], palette[3 * i + 1], palette[3 * i + 2]) = (bytes[at + 2], bytes[at + 1], bytes[at])
      }
      layout = .palette(palette)
    case 24: layout = .blueGreenRed(bytes: 3)
    case 32 where compression == 0: layout = .blueGreenRed(bytes: 4)
    default:
      var values: [UInt32] = [0x7C00, 0x03E0, 0x001F, 0]
      if compression != 0 {
        // Masks follow the 40-byte header or belong to a longer one: in both cases they begin at byte 54.
        let hasAlpha = compression == 6 || headerSize >= 56
        let end = 54 + (hasAlpha ? 16 : 12)
        guard bytes.count >= end, pixelsAt >= end else { throw bad("channel masks", "none") }
        values = [field32(54), field32(58), field32(62), hasAlpha ? field32(66) : 0]
      }
      let masks = values.compactMap(Mask.init)
      guard masks.count == 4 else {
        throw bad("channel masks of contiguous bits", values.map { String($0, radix: 16) }.joined(separator: ", "))
      }
      layout = .masks(red: masks[0], green: masks[1], blue: masks[2], alpha: masks[3])
    }

    let rows = UnsafeRawBufferPointer(rebasing: bytes[pixelsAt..<pixelsAt + rowBytes * height])
    let pixels = [UInt8](unsafeUninitializedCapacity: area * 3) { result, written in
      for y in 0..<height {
        let from = (storedHeight < 0 ? y : height - 1 - y) * rowBytes
        let row = UnsafeRawBufferPointer(rebasing: rows[from..<from + rowBytes])
        let target = UnsafeMutableBufferPointer(rebasing: result[y * width * 3..<(y + 1) * width * 3])
        fill(target, from: row, bits: bits, layout: layout)
      }
      written = area * 3
    }
    return try Image(width: width, height: height, pixels: pixels)
  }

  /// One row: `target` holds `width * 3` bytes, `row` the padded bytes of the file.
  private static func fill(
    _ target: UnsafeMutableBufferPointer<UInt8>, from row: UnsafeRawBufferPointer, bits: Int, layout: Layout
  ) {
    let width = target.count / 3
    switch layout {
    case .palette(let palette):
      let most = (1 << bits) - 1
      for x in 0..<width {
        let bit = x * bits
        let index = Int(row[bit / 8]) >> (8 - bits - bit % 8) & most
        for channel in 0..<3 { target[3 * x + channel] = palette[3 * index + channel] }
      }
    case .blueGreenRed(let bytes):
      for x in 0..<width {
        target[3 * x] = row[x * bytes + 2]
        target[3 * x + 1] = row[x * bytes + 1]
        target[3 * x + 2] = row[x * bytes]
      }
    case .masks(let red, let green, let blue, let alpha):
      for x in 0..<width {
        let pixel: UInt32
        if bits == 16 {
          pixel = UInt32(row[2 * x]) | UInt32(row[2 * x + 1]) << 8
        } else {
          pixel = UInt32(littleEndian: row.loadUnaligned(fromByteOffset: 4 * x, as: UInt32.self))
        }
        let opacity = alpha.most == 0 ? 255 : Int(alpha.level(pixel))
        for (channel, mask) in [red, green, blue].enumerated() {
          let level = Int(mask.level(pixel))
          target[3 * x + channel] = UInt8((level * opacity + 255 * (255 - opacity) + 127) / 255)
        }
      }
    }
  }
}
