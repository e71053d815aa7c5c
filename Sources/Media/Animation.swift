import CMedia

/// Animated GIF or WebP, opened by libvips.
final class Animation {
  let width: Int
  let height: Int
  /// When each page appears, in seconds.
  let times: [Double]
  /// Seconds of one round.
  let duration: Double

  private let name: String
  private let bytes: MovieBytes
  private var handle = cm_animation(ctx: nil)

  init(_ bytes: MovieBytes, format: StillFormat, name: String, limits: MovieLimits) throws {
    (self.name, self.bytes) = (name, bytes)
    var pages: Int32 = 0
    var sides = (width: Int64(0), height: Int64(0))
    let decoder = format == .gif ? CM_STILL_GIF : CM_STILL_WEBP
    let status = cm_animation_open(
      decoder, bytes.pointer, bytes.count, Int64(limits.maxPixels), Int32(clamping: limits.maxPages), &handle, &pages,
      &sides.width, &sides.height)
    (width, height) = (Int(sides.width), Int(sides.height))
    switch status {
    case CM_OK: break
    case CM_TOO_LARGE where width * height > limits.maxPixels:
      throw MediaError.tooLarge(name, width: width, height: height, limit: limits.maxPixels)
    case CM_TOO_LARGE:
      throw MediaError.outOfRange(
        name, expected: "at most \(limits.maxPages) pages and 10 million rows", found: lastMessage())
    case CM_NO_MEMORY: throw MediaError.outOfMemory(name, reason: lastMessage())
    default:
      throw MediaError.unsupportedOrCorrupt(
        name, expected: "a whole \(format.rawValue) file", found: "a damaged or cut off one (\(lastMessage()))")
    }
    var delays = [Int32](repeating: 0, count: Int(pages))
    _ = cm_animation_delays(handle, &delays, pages)
    var milliseconds = 0
    times = delays.map { delay in
      defer { milliseconds += delay <= 10 ? 100 : Int(delay) }  // as browsers and ffmpeg take delays nobody means
      return Double(milliseconds) / 1000
    }
    duration = Double(milliseconds) / 1000
  }

  deinit { cm_animation_close(handle) }

  /// The pages of a choice, in order of time.
  func forEachFrame(_ choice: FrameChoice, size: FrameSize, _ body: (VideoFrame) throws -> Void) throws {
    let pages: [Int]
    switch choice {
    case .uniform, .uniformMiddle, .headTail: pages = choice.places(of: times.count) ?? []
    case .rate(let rate):
      var found: [Int] = []
      for k in 0... {
        let time = Double(k) / rate
        guard time < duration, found.last != times.count - 1 else { break }
        let page = page(at: time)
        if found.last != page { found.append(page) }
      }
      pages = found
    case .seconds(let wanted):
      if let late = wanted.last, late > duration + 0.001 {
        throw MediaError.outOfRange(name, expected: "times up to the end at \(duration) seconds", found: "\(late)")
      }
      pages = wanted.map(page)
    }
    var given: (page: Int, frame: VideoFrame)?
    for page in pages {
      try Task.checkCancellation()
      if given?.page != page {
        given = (page, VideoFrame(image: try picture(page, size: size), seconds: times[page], isDamaged: false))
      }
      if let given { try body(given.frame) }
    }
  }

  /// The page shown at a time.
  private func page(at seconds: Double) -> Int {
    max(0, (times.firstIndex { $0 > seconds + 1e-6 } ?? times.count) - 1)
  }

  private func picture(_ page: Int, size: FrameSize) throws -> Image {
    let count = width * height * 3
    var status = CM_OK
    let pixels = [UInt8](unsafeUninitializedCapacity: count) { buffer, written in
      status = cm_animation_copy(handle, Int32(page), buffer.baseAddress, count)
      written = status == CM_OK ? count : 0
    }
    guard status == CM_OK else {
      if status == CM_NO_MEMORY { throw MediaError.outOfMemory(name, reason: lastMessage()) }
      throw MediaError.unsupportedOrCorrupt(
        name, expected: "a whole page \(page)", found: "a damaged or cut off one (\(lastMessage()))")
    }
    let image = try Image(width: width, height: height, pixels: pixels)
    let (newWidth, newHeight) = size.size(width: width, height: height)
    return newWidth == width && newHeight == height
      ? image : try image.resized(width: newWidth, height: newHeight)
  }
}
