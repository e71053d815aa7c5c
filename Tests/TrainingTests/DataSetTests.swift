import Foundation
import Testing
import Training

@Suite("Captioned pictures")
struct DataSetTests {
  @Test("WebDataset: JSON, text, one caption, frames, ids and categories", arguments: ["gnu.tar", "pax.tar"])
  func webDataset(name: String) throws {
    let set = try CaptionedImages.load(DataSource(format: .webDataset, path: dataFixture(name)))
    #expect(set.count == 3)
    #expect(set[0].id == "7")
    #expect(set[0].captions == ["a red dot", "red"])
    #expect(set[0].category == "colour")
    #expect(set[1].id == "folder/" + String(repeating: "long_", count: 35) + "name")
    #expect(set[1].captions == ["a green dot", "green"])
    #expect(set[2].id == "blau_ü")
    #expect(set[2].captions == ["ein blauer Punkt: ü"])
    #expect(try set[2].location.read().count > 60)
    let list = set.captionList
    #expect(list.captions.count == 5)
    #expect(list.imageOfCaption == [0, 0, 1, 1, 2])
  }

  @Test("WebDataset: splits, order of archives, frames in order")
  func splits() throws {
    let scratch = try ScratchFolder()
    func shard(_ keys: String...) -> [UInt8] {
      var builder = TarBuilder()
      builder.add("README", "about")
      for key in keys {
        for frame in ["01", "00", "10"] { builder.add("\(key).\(frame).JPG", "\(key)\(frame)") }
        builder.add("\(key).json", #"{"captions": ["of \#(key)"], "image_id": "\#(key)", "label": 4}"#)
      }
      builder.end()
      return builder.bytes
    }
    try scratch.write("set/train/00001.tar", shard("c", "b"))
    try scratch.write("set/train/00000.tar", shard("z", "a"))
    try scratch.write("set/train/captions.jsonl", "ignored")
    try scratch.write("set/val/00000.tar", shard("v"))
    let folder = URL(fileURLWithPath: scratch.path)
    let train = try CaptionedImages.load(
      DataSource(format: .webDataset, path: "set", split: "train"), relativeTo: folder)
    #expect(train.map(\.id) == ["z", "a", "c", "b"])
    #expect(train[0].category == nil)
    #expect(try train[1].frames.map { try $0.read() } == ["a00", "a01", "a10"].map { Data($0.utf8) })
    #expect(try CaptionedImages.load(DataSource(format: .webDataset, path: "set/train"), relativeTo: folder) == train)
    let both = try CaptionedImages.load(
      [
        DataSource(format: .webDataset, path: "set", split: "val", repeats: 2),
        DataSource(format: .webDataset, path: "set", split: "train", limit: 2),
      ], relativeTo: folder)
    #expect(both.count == 4)
    #expect(both[0] == both[1])

    let path = scratch.path + "/set"
    #expect(throws: DataError.badSetting("split of \(path)", expected: "train, val", found: "test")) {
      try CaptionedImages.load(DataSource(format: .webDataset, path: path, split: "test"))
    }
    #expect(throws: DataError.badSetting("split of \(path)", expected: "one of train, val", found: "none")) {
      try CaptionedImages.load(DataSource(format: .webDataset, path: path))
    }
    #expect(throws: DataError.missing(path: path + "x", expected: "a .tar file or a folder of them")) {
      try CaptionedImages.load(DataSource(format: .webDataset, path: path + "x"))
    }
  }

  @Test("WebDataset: a sample that lacks something is named")
  func badSamples() throws {
    let scratch = try ScratchFolder()
    let cases: [(KeyValuePairs<String, String>, String)] = [
      (
        ["k.json": #"{"captions": ["a"]}"#],
        "sample k: expected a picture (.jpeg, .jpg, .png, .webp) or a video (.avi, .gif, .mkv, .mov, .mp4, .mpg, .webm)"
          + ", found only .json"
      ),
      (["k.jpg": "x", "k.mp4": "x", "k.txt": "a"], "sample k: expected pictures or one video, found only .jpg"),
      (
        ["k.0.jpg": "x", "k.1.jpg": "x", "k.json": #"{"captions": ["a"], "seconds": [1]}"#],
        "sample k: expected 'seconds' of 2 pictures, found 1"
      ),
      (["k.jpg": "x"], "sample k: expected .json or .txt, found only .jpg"),
      (["k.jpg": "x", "k.txt": " \n "], "sample k: expected a caption"),
      (["k.jpg": "x", "k.json": "{}"], "sample k: expected a caption"),
      (["k.jpg": "x", "k.json": #"{"captions": ["", " "]}"#], "sample k: expected a caption"),
      (["k.jpg": "x", "k.json": #"{"captions": "a"}"#], "'captions' that is no Array"),
      (["k.jpg": "x", "k.json": #"{"captions": [1]}"#], "'captions.Index 0' that is no String"),
      (["k.jpg": "x", "k.json": "{"], "found no valid JSON"),
      (["k.jpg": "x", "k.json": #"{"captions": ["a"], "image_id": [1]}"#], "'image_id' that is no Int"),
      (["k.jpg": "x", "k.jpg": "y", "k.txt": "a"], "sample k: expected each part once, found two of .jpg"),
      (["README": "x", ".DS_Store": "y"], "expected at least one sample, found none"),
    ]
    for (files, words) in cases {
      let path = try scratch.write("a.tar", TarBuilder.archive(files))
      do {
        _ = try CaptionedImages.load(DataSource(format: .webDataset, path: path))
        Issue.record("read without complaint: \(words)")
      } catch {
        #expect(error.description.contains(words), "\(error)")
        #expect(error.description.hasPrefix(path))
      }
    }
    let empty = try ScratchFolder()
    #expect(throws: DataError.empty(path: empty.path, expected: ".tar file")) {
      try CaptionedImages.load(DataSource(format: .webDataset, path: empty.path))
    }
  }

  @Test("Flickr8k with Flickr8k.token.txt and lists of the parts")
  func flickr8kToken() throws {
    let scratch = try ScratchFolder()
    for name in ["a.jpg", "b.jpg", "c.jpg"] { try scratch.write("Flickr8k_Dataset/Flicker8k_Dataset/\(name)", name) }
    let captions = """
      b.jpg#0\tA dog , running .
      b.jpg#1\tDogs #1 !
      a.jpg#0\t A cat
      2258277193_586949ec62.jpg.1#0\tA picture that no copy holds
      c.jpg#0\tA cow

      """
    try scratch.write("Flickr8k_text/Flickr8k.token.txt", captions)
    let all = try load(scratch, nil)
    #expect(all.map(\.id) == ["b.jpg", "a.jpg", "c.jpg"])
    #expect(all[0].captions == ["A dog , running .", "Dogs #1 !"])
    #expect(try all[1].location.read() == Data("a.jpg".utf8))

    try scratch.write("Flickr8k_text/Flickr_8k.trainImages.txt", "a.jpg\r\nb.jpg\r\n")
    try scratch.write("Flickr8k_text/Flickr_8k.devImages.txt", "c.jpg\n")
    #expect(try load(scratch, "train").map(\.id) == ["b.jpg", "a.jpg"])
    #expect(try load(scratch, "dev").map(\.id) == ["c.jpg"])
    #expect(throws: DataError.self) { try load(scratch, "test") }
    #expect(
      throws: DataError.badSetting(
        "split of \(scratch.path)", expected: "train, val (or dev), test", found: "exam")
    ) { try load(scratch, "exam") }

    let file = try scratch.write("Flickr8k_text/Flickr8k.token.txt", captions + "d.jpg#0\tGone\n")
    #expect(
      throws: DataError.badSample(
        path: file, key: "d.jpg", expected: "a picture in \(scratch.path)/Flickr8k_Dataset/Flicker8k_Dataset",
        found: "none")
    ) { try load(scratch, nil) }
    try scratch.write("Flickr8k_text/Flickr8k.token.txt", "a.jpg#0\tx\nb.jpg A dog\n")
    #expect(
      throws: DataError.malformed(
        path: file, place: "line 2", expected: "NAME.jpg#0<TAB>CAPTION", found: "'b.jpg A dog'")
    ) { try load(scratch, nil) }
  }

  @Test("Flickr8k with captions.txt; parts by hash, together everything, never overlapping")
  func flickr8kCSV() throws {
    let scratch = try ScratchFolder()
    var csv = "\u{FEFF}image,caption\r\n"
    for index in 0..<200 {
      try scratch.write("Images/\(index).jpg", "x")
      csv += "\(index).jpg,\"A dog, said \"\"\(index)\"\" .\"\r\n\(index).jpg,Plain, unquoted\r\n"
    }
    try scratch.write("captions.txt", csv)
    let all = try load(scratch, nil)
    #expect(all.count == 200)
    #expect(all[3].captions == ["A dog, said \"3\" .", "Plain, unquoted"])
    let parts = try ["train", "val", "test"].map { Set(try load(scratch, $0).map(\.id)) }
    #expect(parts.map(\.count).reduce(0, +) == 200)
    #expect(parts.reduce(Set()) { $0.union($1) }.count == 200)
    // FNV-1a 64 of "0.jpg" and its like, worked out apart: the parts must never move.
    #expect(parts[1].sorted().prefix(3) == ["103.jpg", "105.jpg", "112.jpg"])
    #expect(parts[2].sorted().prefix(3) == ["100.jpg", "102.jpg", "119.jpg"])

    let file = try scratch.write("captions.txt", "image;caption\n")
    #expect(
      throws: DataError.malformed(
        path: file, place: "line 1", expected: "the header image,caption", found: "'image;caption'")
    ) { try load(scratch, nil) }
    try scratch.write("captions.txt", "image,caption\n1.jpg,\"open\n")
    #expect(
      throws: DataError.malformed(
        path: file, place: "line 2", expected: "a closing quote", found: "the end of the file")
    ) { try load(scratch, nil) }
    try scratch.write("captions.txt", "image,caption\n1.jpg\n")
    #expect(throws: DataError.malformed(path: file, place: "line 2", expected: "image,caption", found: "1 field")) {
      try load(scratch, nil)
    }
    try scratch.write("captions.txt", "image,caption\n1.jpg, \n")
    #expect(
      throws: DataError.badSample(path: file, key: "1.jpg", expected: "a caption", found: "none that is not empty")
    ) {
      try load(scratch, nil)
    }
    try scratch.write("captions.txt", "image,caption\n")
    #expect(throws: DataError.empty(path: scratch.path, expected: "captioned picture")) { try load(scratch, nil) }
  }

  @Test("captions.jsonl: relative paths, frames, splits, categories")
  func jsonl() throws {
    let scratch = try ScratchFolder()
    for name in ["p/bee.png", "p/0.jpg", "p/1.jpg", "cup.png"] { try scratch.write(name, name) }
    let lines = """
      {"image": "p/bee.png", "captions": ["a bee", " "], "image_id": "bee", "split": "train", "category": "animals"}

      {"images": ["p/0.jpg", "p/1.jpg"], "caption": "a bee moves", "split": "train", "category": "clips"}
      {"image": "cup.png", "caption": "a cup", "split": "val", "category": "things"}

      """
    let file = try scratch.write("captions.jsonl", lines)
    let all = try CaptionedImages.load(DataSource(format: .captionsJSONL, path: scratch.path))
    #expect(all.map(\.id) == ["bee", "p/0.jpg", "cup.png"])
    #expect(all[0].captions == ["a bee"])
    #expect(try all[1].frames.map { try $0.read() } == [Data("p/0.jpg".utf8), Data("p/1.jpg".utf8)])
    let val = try CaptionedImages.load(DataSource(format: .captionsJSONL, path: file, split: "val"))
    #expect(val.map(\.id) == ["cup.png"])
    let animals = try CaptionedImages.load(
      DataSource(format: .captionsJSONL, path: file, categories: ["animals", "things"]))
    #expect(animals.map(\.id) == ["bee", "cup.png"])
    #expect(
      throws: DataError.badSetting(
        "categories of \(file)", expected: "one of animals, clips, things", found: "letters")
    ) { try CaptionedImages.load(DataSource(format: .captionsJSONL, path: file, categories: ["letters"])) }
    #expect(throws: DataError.badSetting("split of \(file)", expected: "one of train, val", found: "test")) {
      try CaptionedImages.load(DataSource(format: .captionsJSONL, path: file, split: "test"))
    }
    for (bad, words) in [
      (#"{"image": "none.png", "caption": "a"}"#, "no such file"),
      (#"{"caption": "a"}"#, "'image', 'images' or 'video'"),
      (#"{"image": "cup.png"}"#, "expected a caption"), ("[]", "that is no"), ("{\"image", "no valid JSON"),
      (#"{"image": "cup.png", "captions": "a"}"#, "'captions' that is no Array"),
    ] {
      try scratch.write("captions.jsonl", bad)
      do {
        _ = try CaptionedImages.load(DataSource(format: .captionsJSONL, path: file))
        Issue.record("read without complaint: \(bad)")
      } catch {
        #expect(error.description.contains(words), "\(error)")
        #expect(error.description.contains("line 1"))
      }
    }
    try scratch.write("captions.jsonl", #"{"image": "cup.png", "caption": "a"}"#)
    #expect(throws: DataError.self) {
      try CaptionedImages.load(DataSource(format: .captionsJSONL, path: file, split: "train"))
    }
  }

  @Test("A source decodes, and what is unknown names the known")
  func sources() throws {
    func decode(_ json: String) throws -> DataSource {
      try JSONDecoder().decode(DataSource.self, from: Data(json.utf8))
    }
    let source = try decode(
      #"{"format": "webdataset", "path": "~/x", "split": "train", "repeat": 3, "limit": 5, "seed": 9, "categories": ["a"], "reversed": true}"#
    )
    #expect(
      source
        == DataSource(
          format: .webDataset, path: "~/x", split: "train", repeats: 3, limit: 5, seed: 9, categories: ["a"],
          reversed: true))
    #expect(try JSONDecoder().decode(DataSource.self, from: JSONEncoder().encode(source)) == source)
    #expect(!source.resolvedPath().hasPrefix("~"))
    #expect(try decode(#"{"format": "captions-jsonl", "path": "x"}"#).repeats == 1)
    for (json, words) in [
      (
        #"{"format": "coco", "path": "x"}"#, "expected one of webdataset, flickr8k-folder, captions-jsonl, found 'coco'"
      ),
      (
        #"{"format": "webdataset", "path": "x", "splits": "a"}"#,
        "expected one of format, path, split, repeat, limit, seed, categories, reversed, found the key 'splits'"
      ),
      (#"{"format": "webdataset", "path": ""}"#, "path: expected"),
      (#"{"format": "webdataset", "path": "x", "repeat": 0}"#, "repeat: expected 1 to 1000, found 0"),
      (#"{"format": "webdataset", "path": "x", "limit": 0}"#, "limit: expected at least 1, found 0"),
      (#"{"format": "webdataset", "path": "x", "categories": []}"#, "categories: expected"),
    ] {
      do {
        _ = try decode(json)
        Issue.record("decoded without complaint: \(json)")
      } catch DecodingError.dataCorrupted(let context) {
        #expect(context.debugDescription.contains(words), "\(context.debugDescription)")
      }
    }
  }

  private func load(_ scratch: ScratchFolder, _ split: String?) throws -> CaptionedImages {
    try CaptionedImages.load(DataSource(format: .flickr8kFolder, path: scratch.path, split: split))
  }
}
