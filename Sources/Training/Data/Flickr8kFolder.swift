import Foundation

/// Flickr8k as people have it: a folder with a folder of pictures and a caption file.
///
/// Pictures: `Flicker8k_Dataset/`, `Flickr8k_Dataset/` (perhaps one inside the other) or `Images/`. Captions:
/// `Flickr8k.token.txt` with lines `NAME.jpg#0<TAB>CAPTION`, or `captions.txt`, a CSV file with the header `image,caption`.
/// Text files may lie in `Flickr8k_text/`. The parts `train`, `val` (or `dev`) and `test` follow
/// `Flickr_8k.trainImages.txt`, `Flickr_8k.devImages.txt` and `Flickr_8k.testImages.txt` if these are there (they name 8,000
/// of the 8,091 pictures); else a hash of the file name decides: FNV-1a 64 modulo 10 is 0 for `val`, 1 for `test`.
public enum Flickr8kFolder {
  private static let pictureFolders = [
    "Flicker8k_Dataset", "Flickr8k_Dataset/Flicker8k_Dataset", "Flickr8k_Dataset", "Images", "images",
  ]
  private static let splitFiles = [
    "train": "Flickr_8k.trainImages.txt", "val": "Flickr_8k.devImages.txt", "test": "Flickr_8k.testImages.txt",
  ]
  /// The original caption file has five lines for this name, which is no file in any copy of the data set.
  private static let knownMisprint = "2258277193_586949ec62.jpg.1"

  static func captionedImages(path: String, split: String?) throws(DataError) -> [CaptionedImage] {
    guard DataFolder.isFolder(path) == true else { throw .missing(path: path, expected: "a folder with Flickr8k") }
    let part = try split.map { (name) throws(DataError) -> String in
      let canonical = name == "dev" || name == "validation" ? "val" : name
      guard splitFiles[canonical] != nil else {
        throw .badSetting("split of \(path)", expected: "train, val (or dev), test", found: name)
      }
      return canonical
    }
    guard let pictures = pictureFolders.first(where: { DataFolder.isFolder("\(path)/\($0)") == true }) else {
      throw .missing(path: path, expected: "a folder \(pictureFolders.joined(separator: ", "))")
    }
    let folder = "\(path)/\(pictures)"
    let files = Set(try DataFolder.names(folder))
    let (order, captions, source) = try readCaptions(path)
    let chosen = try part.map { (part) throws(DataError) in try members(of: part, path: path) }

    var items: [CaptionedImage] = []
    for name in order where chosen?(name) ?? true {
      guard files.contains(name) else {
        if name == knownMisprint { continue }
        throw .badSample(path: source, key: name, expected: "a picture in \(folder)", found: "none")
      }
      guard
        let item = CaptionedImage(
          id: name, captions: captions[name] ?? [], frames: [DataLocation(path: "\(folder)/\(name)")])
      else { throw .badSample(path: source, key: name, expected: "a caption", found: "none that is not empty") }
      items.append(item)
    }
    return items
  }

  /// What tells whether a picture belongs to a part.
  private static func members(of part: String, path: String) throws(DataError) -> (String) -> Bool {
    if let name = splitFiles[part], let file = textFile(name, path) {
      let listed = Set(try DataFolder.lines(file).map { $0.trimmingCharacters(in: .whitespaces) })
      return { listed.contains($0) }
    }
    if let other = splitFiles.values.sorted().first(where: { textFile($0, path) != nil }) {
      throw .missing(path: path, expected: "\(splitFiles[part] ?? part) beside \(other)")
    }
    return { hashedPart($0) == part }
  }

  /// The part that a hash of the name chooses.
  static func hashedPart(_ name: String) -> String {
    var hash: UInt64 = 0xCBF2_9CE4_8422_2325
    for byte in name.utf8 { hash = (hash ^ UInt64(byte)) &* 0x100_0000_01B3 }
    switch hash % 10 {
    case 0: return "val"
    case 1: return "test"
    default: return "train"
    }
  }

  private static func textFile(_ name: String, _ path: String) -> String? {
    ["\(path)/\(name)", "\(path)/Flickr8k_text/\(name)"].first { DataFolder.isFolder($0) == false }
  }

  private static func readCaptions(
    _ path: String
  ) throws(DataError) -> (order: [String], captions: [String: [String]], source: String) {
    var order: [String] = []
    var captions: [String: [String]] = [:]
    func add(_ name: String, _ caption: String) {
      if captions[name] == nil { order.append(name) }
      captions[name, default: []].append(caption)
    }
    if let file = textFile("Flickr8k.token.txt", path) {
      for (index, line) in try DataFolder.lines(file).enumerated() where !line.isEmpty {
        guard let tab = line.firstIndex(of: "\t"), let hash = line[..<tab].lastIndex(of: "#"), hash > line.startIndex
        else {
          throw .malformed(
            path: file, place: "line \(index + 1)", expected: "NAME.jpg#0<TAB>CAPTION", found: "'\(line.prefix(60))'")
        }
        add(String(line[..<hash]), String(line[line.index(after: tab)...]))
      }
      return (order, captions, file)
    }
    guard let file = textFile("captions.txt", path) else {
      throw .missing(path: path, expected: "Flickr8k.token.txt or captions.txt")
    }
    let rows = try CSV.rows(path: file)
    guard let header = rows.first, header.fields.map({ $0.lowercased() }) == ["image", "caption"] else {
      let found = rows.first.map { "'\($0.fields.joined(separator: ",").prefix(60))'" } ?? "an empty file"
      throw .malformed(path: file, place: "line 1", expected: "the header image,caption", found: found)
    }
    for row in rows.dropFirst() {
      guard row.fields.count >= 2 else {
        throw .malformed(
          path: file, place: "line \(row.line)", expected: "image,caption", found: "\(row.fields.count) field")
      }
      // Some copies leave captions with commas unquoted.
      add(row.fields[0], row.fields[1...].joined(separator: ","))
    }
    return (order, captions, file)
  }
}

/// Comma-separated values as RFC 4180 has them: quoted fields may hold commas, line ends and doubled quotes.
enum CSV {
  struct Row {
    var line: Int
    var fields: [String]
  }

  static func rows(path: String) throws(DataError) -> [Row] {
    let bytes = [UInt8](try DataLocation(path: path).read())
    guard String(validating: bytes, as: UTF8.self) != nil else {
      throw .malformed(path: path, place: "text", expected: "UTF-8", found: "other bytes")
    }
    var rows: [Row] = []
    var fields: [String] = []
    var field: [UInt8] = []
    var line = 1
    var rowLine = 1
    var quoted = false
    var position = bytes.starts(with: [0xEF, 0xBB, 0xBF]) ? 3 : 0
    func endField() {
      fields.append(String(decoding: field, as: UTF8.self))
      field.removeAll(keepingCapacity: true)
    }
    func endRow() {
      endField()
      if fields != [""] { rows.append(Row(line: rowLine, fields: fields)) }
      fields = []
    }
    while position < bytes.count {
      let byte = bytes[position]
      let next = position + 1 < bytes.count ? bytes[position + 1] : 0
      if byte == 0x0A { line += 1 }
      switch byte {
      case UInt8(ascii: "\"") where quoted && next == byte:
        field.append(byte)
        position += 1
      case UInt8(ascii: "\"") where quoted || field.isEmpty: quoted.toggle()
      case UInt8(ascii: ",") where !quoted: endField()
      case 0x0D where !quoted && next == 0x0A: break
      case 0x0A where !quoted:
        endRow()
        rowLine = line
      default: field.append(byte)
      }
      position += 1
    }
    guard !quoted else {
      throw .malformed(path: path, place: "line \(rowLine)", expected: "a closing quote", found: "the end of the file")
    }
    if !field.isEmpty || !fields.isEmpty { endRow() }
    return rows
  }
}
