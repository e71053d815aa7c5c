import CMedia
public import Foundation

/// How large a picture may be. Checked against the file's size before it is read, and against its header before it is
/// decoded.
public struct ImageLimits: Sendable {
  /// The most pixels (width times height) a picture may have. Decoding takes 4 to 8 bytes for each (up to 20 for
  /// interlaced or tiled 16-bit files), and the result 3.
  public var maxPixels: Int
  /// The most bytes a file may have.
  public var maxFileBytes: Int

  /// 100 million pixels and 512 MiB, unless said otherwise.
  public init(maxPixels: Int = 100_000_000, maxFileBytes: Int = 512 << 20) {
    self.maxPixels = maxPixels
    self.maxFileBytes = maxFileBytes
  }

  /// 100 million pixels, 512 MiB.
  public static let `default` = ImageLimits()
}

/// A picture in memory: 8-bit sRGB, interleaved RGB, rows from top to bottom, no padding.
///
/// Reading understands JPEG, PNG, WebP, GIF, TIFF, BMP (uncompressed), HEIF and AVIF, told apart by their first bytes;
/// of several frames or pages the first is taken. What comes out does not depend on how the file keeps its pixels:
///
/// - the EXIF orientation is applied;
/// - transparency is laid over white;
/// - grey, palette, 1-bit and CMYK pictures become RGB; 16- and 32-bit integers keep their upper 8 bits;
/// - an ICC profile is applied (relative colorimetric with black point compensation), unless it is sRGB by another
///   name, whose pixels stay untouched; CMYK without a profile is `(255 - ink) (255 - black) / 255`;
/// - float samples are linear light from 0 to 1; CIELAB is converted.
///
/// A cut off or damaged file is an error, never a half picture.
public struct Image: Sendable, Equatable {
  /// Pixels in a row.
  public let width: Int
  /// Rows.
  public let height: Int
  /// `height * width * 3` levels: red, green, blue of each pixel.
  public var pixels: [UInt8]

  /// A picture of given pixels.
  ///
  /// - Parameters:
  ///   - width: In pixels.
  ///   - height: In pixels.
  ///   - pixels: `height * width * 3` bytes.
  /// - Throws: ``MediaError/invalidSize(expected:found:)`` when a side is below 1 or the count does not fit.
  public init(width: Int, height: Int, pixels: [UInt8]) throws {
    try Image.check(width: width, height: height, count: pixels.count)
    self.width = width
    self.height = height
    self.pixels = pixels
  }

  /// Reads a picture from a file.
  ///
  /// - Throws: ``MediaError``: the path leads nowhere or to something that is no regular file, the file is empty,
  ///   larger than `limits`, of no known format, damaged or cut off.
  public init(contentsOf file: URL, limits: ImageLimits = .default) throws {
    let name = file.isFileURL ? file.path(percentEncoded: false) : file.absoluteString
    guard file.isFileURL else { throw MediaError.notAFile(name, found: "an address that is no file") }
    var bytes: UnsafeMutablePointer<UInt8>?
    var count = 0
    let status = cm_file_read(name, max(limits.maxFileBytes, 0), &bytes, &count)
    defer { cm_free(bytes) }
    try checkRead(status, name, count: count, limit: limits.maxFileBytes)
    self = try Image.decode(UnsafeRawBufferPointer(start: bytes, count: count), name: name, limits: limits)
  }

  /// Reads a picture from bytes in memory.
  ///
  /// - Parameters:
  ///   - data: a whole file.
  ///   - name: what errors call it.
  ///   - limits: The largest picture and file that are read.
  /// - Throws: ``MediaError`` as for files.
  public init(data: Data, name: String, limits: ImageLimits = .default) throws {
    guard data.count <= limits.maxFileBytes else {
      throw MediaError.fileTooLarge(name, bytes: data.count, limit: limits.maxFileBytes)
    }
    self = try data.withUnsafeBytes { try Image.decode($0, name: name, limits: limits) }
  }

  /// The picture as PNG, without loss.
  public func pngData() throws -> Data {
    try encoded(as: CM_STILL_PNG, quality: 100)
  }

  /// The picture as JPEG.
  ///
  /// - Parameter quality: 1 (smallest) to 100 (best).
  /// - Throws: ``MediaError/invalidSize(expected:found:)`` for another quality, or sides above 65,500 pixels.
  public func jpegData(quality: Int) throws -> Data {
    try encoded(as: CM_STILL_JPEG, quality: quality)
  }

  /// Writes the picture as PNG or JPEG (quality 90), by the extension `.png`, `.jpg` or `.jpeg`.
  ///
  /// The file appears whole or not at all: it is written under a temporary name in the same folder and renamed.
  ///
  /// - Throws: ``MediaError/cannotWrite(_:reason:)``.
  public func write(to file: URL) throws {
    let name = file.path(percentEncoded: false)
    let data: Data
    switch file.pathExtension.lowercased() {
    case "png": data = try pngData()
    case "jpg", "jpeg": data = try jpegData(quality: 90)
    case let other:
      throw MediaError.cannotWrite(name, reason: "expected the extension .png, .jpg or .jpeg, found \".\(other)\"")
    }
    do {
      try data.write(to: file, options: .atomic)
    } catch let error as CocoaError {
      let cause = (error.underlying as? POSIXError).map { String(cString: strerror($0.code.rawValue)) }
      throw MediaError.cannotWrite(name, reason: cause ?? error.localizedDescription)
    } catch {
      throw MediaError.cannotWrite(name, reason: error.localizedDescription)
    }
  }

  /// The picture at another size, by antialiased bicubic resampling (a = -0.5, the kernel widened by the scale when
  /// shrinking; two passes, each rounded to 8 bits).
  ///
  /// The levels are exactly those of Pillow 13's `resize(…, BICUBIC)`, which the published processors of vision models use.
  /// libvips' own resizing differs from it by up to 12 levels when shrinking and far more when enlarging, so this is a
  /// resampler of our own.
  ///
  /// - Parameters:
  ///   - newWidth: pixels, at least 1.
  ///   - newHeight: pixels, at least 1.
  /// - Throws: ``MediaError/invalidSize(expected:found:)`` for sides below 1 or a result of more pixels than
  ///   ``ImageLimits/default`` allows.
  public func resized(width newWidth: Int, height newHeight: Int) throws -> Image {
    try Image.check(width: width, height: height, count: pixels.count)
    let limit = ImageLimits.default.maxPixels
    let (count, overflow) = newWidth.multipliedReportingOverflow(by: newHeight)
    guard newWidth > 0, newHeight > 0, !overflow, count <= limit else {
      throw MediaError.invalidSize(
        expected: "sides of at least 1 and at most \(limit) pixels", found: "\(newWidth) x \(newHeight)")
    }
    var status = CM_OK
    let result = pixels.withUnsafeBufferPointer { source in
      [UInt8](unsafeUninitializedCapacity: count * 3) { destination, written in
        status = cm_resize_bicubic(
          source.baseAddress, Int64(width), Int64(height), destination.baseAddress, Int64(newWidth), Int64(newHeight))
        written = status == CM_OK ? count * 3 : 0
      }
    }
    guard status == CM_OK else {
      if status == CM_NO_MEMORY { throw MediaError.outOfMemory("resizing", reason: lastMessage()) }
      throw MediaError.invalidSize(expected: "sides within range", found: lastMessage())
    }
    return try Image(width: newWidth, height: newHeight, pixels: result)
  }
}

// MARK: - Behind it

extension Image {
  static func check(width: Int, height: Int, count: Int) throws {
    let (area, overflow) = width.multipliedReportingOverflow(by: height)
    let (bytes, overflow3) = area.multipliedReportingOverflow(by: 3)
    guard width > 0, height > 0, !overflow, !overflow3, count == bytes else {
      throw MediaError.invalidSize(
        expected: "sides of at least 1 and height * width * 3 bytes", found: "\(width) x \(height) and \(count) bytes")
    }
  }

  static func decode(_ bytes: UnsafeRawBufferPointer, name: String, limits: ImageLimits) throws -> Image {
    guard !bytes.isEmpty else { throw MediaError.empty(name) }
    guard let format = StillFormat(firstBytes: bytes) else {
      throw MediaError.unsupportedOrCorrupt(
        name, expected: "a picture (\(StillFormat.list))", found: StillFormat.describe(bytes))
    }
    guard let decoder = format.decoder else { return try BitmapFile.decode(bytes, name: name, limits: limits) }

    var still = cm_still(ctx: nil)
    var width: Int64 = 0
    var height: Int64 = 0
    let status = cm_still_decode(
      decoder, bytes.bindMemory(to: UInt8.self).baseAddress, bytes.count, Int64(limits.maxPixels), &still, &width,
      &height)
    defer { cm_still_free(still) }
    switch status {
    case CM_OK: break
    case CM_TOO_LARGE:
      throw MediaError.tooLarge(name, width: Int(width), height: Int(height), limit: limits.maxPixels)
    case CM_NO_MEMORY: throw MediaError.outOfMemory(name, reason: lastMessage())
    default:
      throw MediaError.unsupportedOrCorrupt(
        name, expected: "a whole \(format.rawValue) file", found: "a damaged or cut off one (\(lastMessage()))")
    }
    let count = Int(width) * Int(height) * 3
    var copied = CM_OK
    let pixels = [UInt8](unsafeUninitializedCapacity: count) { buffer, written in
      copied = cm_still_copy(still, buffer.baseAddress, count)
      written = copied == CM_OK ? count : 0
    }
    guard copied == CM_OK else { throw MediaError.outOfMemory(name, reason: lastMessage()) }
    return try Image(width: Int(width), height: Int(height), pixels: pixels)
  }

  private func encoded(as format: cm_still_format, quality: Int) throws -> Data {
    try Image.check(width: width, height: height, count: pixels.count)
    guard (1...100).contains(quality) else {
      throw MediaError.invalidSize(expected: "a quality of 1 to 100", found: "\(quality)")
    }
    var bytes: UnsafeMutablePointer<UInt8>?
    var count = 0
    let status = pixels.withUnsafeBufferPointer {
      cm_still_encode(format, $0.baseAddress, Int64(width), Int64(height), Int32(quality), &bytes, &count)
    }
    defer { cm_free(bytes) }
    guard status == CM_OK, let bytes else {
      if status == CM_NO_MEMORY { throw MediaError.outOfMemory("encoding", reason: lastMessage()) }
      throw MediaError.invalidSize(expected: "a picture the format can hold", found: lastMessage())
    }
    return Data(bytes: bytes, count: count)
  }
}

/// The C side's line about the last failure on this thread.
func lastMessage() -> String { String(cString: cm_last_message()) }
