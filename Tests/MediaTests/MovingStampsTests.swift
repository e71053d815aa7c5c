import Foundation
import Media
import TestSupport
import Testing

/// `scripts/make-moving-stamps`: what it writes is what it says, and our own decoder reads it.
@Suite struct MovingStampsTests {
  /// A line of captions.jsonl.
  struct Line: Decodable {
    struct Question: Decodable {
      let question: String
      let answer: String
      let choices: [String]
      let task: String
    }
    struct Backwards: Decodable {
      let captions: [String]
      let questions: [Question]
    }
    struct Sound: Decodable {
      let use: String
      let name: String
    }
    let id: String
    let video: String
    let split: String
    let duration: Double
    let captions: [String]
    let questions: [Question]
    let reversed: Backwards
    let category: String
    let objects: [String]
    let sound: Sound?
  }

  /// A line of tracks.jsonl.
  struct Tracks: Decodable {
    struct Object: Decodable {
      let name: String
      let shape: [Double]
      let places: [[Double]?]
    }
    let id: String
    let objects: [Object]
  }

  static let tasks: Set = ["direction", "order", "count", "appear", "which", "size", "turn", "speed", "sound"]
  static let cache =
    ProcessInfo.processInfo.environment["QFORMER_CACHE"].map { URL(fileURLWithPath: $0) }
    ?? FileManager.default.homeDirectoryForCurrentUser.appendingPathComponent(".cache/swift-qformer")
  static let root = fixtures.deletingLastPathComponent().deletingLastPathComponent()

  /// Why clips cannot be made here; nil if they can.
  static var obstacle: String? {
    let files = FileManager.default
    let path = (ProcessInfo.processInfo.environment["PATH"] ?? "").split(separator: ":")
    if !files.isExecutableFile(atPath: root.path + "/.venv/bin/python") { return "no .venv; scripts/setup makes it" }
    if !path.contains(where: { files.isExecutableFile(atPath: $0 + "/ffmpeg") }) {
      return "no command ffmpeg; scripts/setup installs it"
    }
    if !files.fileExists(atPath: cache.path + "/data/cut-outs/made.json") {
      return "no cut-outs in \(cache.path); scripts/fetch-data cut-outs makes them"
    }
    return nil
  }

  /// Runs the script; gives its exit code and what it said on standard error.
  @discardableResult
  func run(_ arguments: [String], environment: [String: String] = [:]) throws -> (code: Int32, errors: String) {
    try withTemporaryFolder { folder in
      let process = Process()
      let errors = folder.appendingPathComponent("errors")
      try Data().write(to: errors)
      process.executableURL = Self.root.appendingPathComponent("scripts/make-moving-stamps")
      process.arguments = arguments
      process.environment = ProcessInfo.processInfo.environment.merging(environment) { $1 }
      process.standardInput = FileHandle.nullDevice
      process.standardOutput = FileHandle.nullDevice
      process.standardError = try FileHandle(forUpdating: errors)
      try process.run()
      process.waitUntilExit()
      return (process.terminationStatus, try String(contentsOf: errors, encoding: .utf8))
    }
  }

  /// Makes eight clips of each split.
  func make(_ folder: URL, seed: Int = 5, more: [String] = []) throws {
    let made = try run(["--clips", "8", "--size", "112", "--seed", "\(seed)", "--output", folder.path] + more)
    try #require(made.code == 0, "\(made.errors)")
  }

  func lines<Value: Decodable>(_ type: Value.Type, _ file: URL) throws -> [Value] {
    try String(contentsOf: file, encoding: .utf8).split(separator: "\n").map {
      try JSONDecoder().decode(type, from: Data($0.utf8))
    }
  }

  /// The names of a split of the cut-outs, in lower case, without article and full stop.
  func names(_ split: String) throws -> Set<String> {
    struct Entry: Decodable { let captions: [String] }
    let file = Self.cache.appendingPathComponent("data/cut-outs/\(split)/captions.jsonl")
    return Set(
      try lines(Entry.self, file).map {
        $0.captions[0].lowercased().trimmingCharacters(in: CharacterSet(charactersIn: ".! "))
          .replacingOccurrences(of: "^(an?|the) +", with: "", options: .regularExpression)
      })
  }

  @Test func clipsAreWhatTheirLinesSay() throws {
    if let obstacle = Self.obstacle { return print("skipped: \(obstacle)") }
    try withTemporaryFolder { folder in
      let set = folder.appendingPathComponent("set")
      try make(set)
      let clips = try lines(Line.self, set.appendingPathComponent("captions.jsonl"))
      let tracks = try lines(Tracks.self, set.appendingPathComponent("tracks.jsonl"))
      #expect(clips.count == 16 && Set(clips.map(\.id)).count == 16)
      #expect(clips.map(\.id) == tracks.map(\.id))
      #expect(Set(clips.map { $0.sound == nil }).count == 2, "with and without a sound track")
      let known = ["train": try names("train"), "val": try names("val")]
      #expect(known["train"]!.isDisjoint(with: known["val"]!))
      var turns = 0

      // The answer stands at each place among the choices equally often.
      var places: [String: [Int]] = [:]
      for clip in clips {
        for question in clip.questions {
          let count = question.choices.count
          places["\(clip.split), \(question.task), \(count)", default: Array(repeating: 0, count: count)][
            try #require(question.choices.firstIndex(of: question.answer))] += 1
        }
      }
      #expect(places.values.allSatisfy { $0.max()! - $0.min()! <= 1 }, "\(places)")

      for (clip, track) in zip(clips, tracks) {
        #expect(clip.captions.count == 3 && clip.captions.allSatisfy { !$0.isEmpty })
        #expect((1...3).contains(clip.questions.count))
        for question in clip.questions {
          #expect(question.choices.contains(question.answer), "\(clip.id): \(question)")
          #expect(Set(question.choices).count == question.choices.count)
          #expect(Self.tasks.contains(question.task), "\(question.task)")
        }
        #expect((clip.questions.contains { $0.task == "sound" }) == (clip.sound.map { $0.use != "shown" } ?? false))

        // What is told of the clip played backwards.
        #expect(clip.reversed.captions.count == 3 && clip.reversed.questions.map(\.task) == clip.questions.map(\.task))
        #expect((clip.reversed.captions == clip.captions) == clip.captions[0].hasPrefix("there "), "\(clip.captions)")
        for (question, other) in zip(clip.questions, clip.reversed.questions) {
          #expect(other.choices.contains(other.answer), "\(other)")
          let changes = ["direction", "turn", "size", "appear", "order"].contains(question.task)
          #expect((question.answer != other.answer) == changes, "\(clip.id): \(question), \(other)")
        }

        // Held out: nothing is seen or heard in both splits.
        for name in clip.objects + (clip.sound.map { [$0.name] } ?? []) {
          #expect(known[clip.split]!.contains(name.lowercased()), "\(clip.id): \(name) is not of \(clip.split)")
        }

        let video = try VideoFile(contentsOf: set.appendingPathComponent(clip.video))
        let frames = Int((clip.duration * 8).rounded())
        #expect(video.codec == "h264" && video.width == 112 && video.height == 112)
        #expect(video.hasSound == (clip.sound != nil), "\(clip.id)")
        let decoded = try video.frames(.uniform(1000))
        #expect(decoded.lostPackets == 0)
        #expect(decoded.frames.count == frames, "\(clip.id)")
        #expect((2.0...4.0).contains(clip.duration))
        #expect(track.objects.allSatisfy { $0.places.count == frames })
        expectChanges(decoded.frames.map(\.image), follow: track)
        turns += expectTurns(decoded.frames.map(\.image), follow: track, clip)
      }
      #expect(turns > 0, "no clip of this seed has a turning object; take another")
    }
  }

  /// Where two frames in a row differ, an object that moved, turned, grew, came or went must be; and where one did, they
  /// must differ.
  func expectChanges(_ frames: [Image], follow track: Tracks) {
    for index in 1..<frames.count {
      let (before, after) = (frames[index - 1], frames[index])
      // Boxes that hold the objects however they are turned, in pixels, before and after.
      let changed = track.objects.filter { $0.places[index] != $0.places[index - 1] }
      let boxes = changed.flatMap { object in
        [object.places[index - 1], object.places[index]].compactMap { $0 }.map { place in
          let reach =
            place[2] * (object.shape[0] * object.shape[0] + object.shape[1] * object.shape[1]).squareRoot() / 2
          return (x: place[0] * 112, y: place[1] * 112, reach: reach * 112 + 5)
        }
      }
      var differing = 0
      var outside = 0
      for row in 0..<112 {
        for column in 0..<112 {
          let pixel = (row * 112 + column) * 3
          let difference = (0..<3).map { abs(Int(before.pixels[pixel + $0]) - Int(after.pixels[pixel + $0])) }.max()!
          guard difference > 48 else { continue }
          differing += 1
          let x = Double(column) + 0.5
          let y = Double(row) + 0.5
          if !boxes.contains(where: { abs($0.x - x) <= $0.reach && abs($0.y - y) <= $0.reach }) { outside += 1 }
        }
      }
      #expect(outside == 0, "\(track.id), frame \(index): \(outside) pixels change where nothing happens")
      let cameOrWent = changed.contains { ($0.places[index] == nil) != ($0.places[index - 1] == nil) }
      if cameOrWent {
        #expect(differing > 20, "\(track.id), frame \(index): \(changed.map(\.name)) came or went unseen")
      }
    }
  }

  /// The last frame of an object that turns on the spot is its first frame, turned the way that the answer says; gives the
  /// number of such objects.
  func expectTurns(_ frames: [Image], follow track: Tracks, _ clip: Line) -> Int {
    var count = 0
    for object in track.objects {
      guard let start = object.places.first ?? nil, let end = object.places.last ?? nil else { continue }
      guard start[0] == end[0], start[1] == end[1], start[3] != end[3] else { continue }
      let turn = clip.questions.first { $0.task == "turn" && $0.question.contains("the \(object.name) ") }
      let way =
        turn?.answer ?? (clip.captions[0].contains("\(object.name) turns clockwise") ? "clockwise" : "counterclockwise")
      let angle = (end[3] - start[3] + 360).truncatingRemainder(dividingBy: 360)
      #expect((way == "clockwise") == (angle < 180), "\(clip.id): \(way) by \(angle) degrees")
      // Mean difference to the first frame turned clockwise by an angle, over the disc around the object.
      func difference(_ degrees: Double) -> Double {
        let (sine, cosine) = (sin(degrees * .pi / 180), cos(degrees * .pi / 180))
        let reach = start[2] * 56
        var sum = 0.0
        var pixels = 0.0
        for row in stride(from: -reach, through: reach, by: 1) {
          for column in stride(from: -reach, through: reach, by: 1) where row * row + column * column <= reach * reach {
            let source = (column * cosine + row * sine, row * cosine - column * sine)
            let (x, y) = (start[0] * 112, start[1] * 112)
            let to = (Int(y + row) * 112 + Int(x + column)) * 3
            let from = (Int(y + source.1) * 112 + Int(x + source.0)) * 3
            for channel in 0..<3 {
              sum += abs(
                Double(frames[frames.count - 1].pixels[to + channel]) - Double(frames[0].pixels[from + channel]))
            }
            pixels += 3
          }
        }
        return sum / pixels
      }
      #expect(difference(angle) < 0.8 * difference(-angle), "\(clip.id): \(object.name) does not turn \(way)")
      count += 1
    }
    return count
  }

  @Test func stillsAreWhatTheirLinesSay() throws {
    struct Still: Decodable {
      let id: String
      let image: String
      let split: String
      let captions: [String]
      let objects: [String]
    }
    if let obstacle = Self.obstacle { return print("skipped: \(obstacle)") }
    try withTemporaryFolder { folder in
      let sets = try ["a", "b"].map { name in
        let set = folder.appendingPathComponent(name)
        let made = try run(["--stills", "24", "8", "--size", "112", "--output", set.path])
        try #require(made.code == 0, "\(made.errors)")
        return set
      }
      let stills = try lines(Still.self, sets[0].appendingPathComponent("captions.jsonl"))
      let tracks = try lines(Tracks.self, sets[0].appendingPathComponent("tracks.jsonl"))
      #expect(stills.filter { $0.split == "train" }.count == 24 && stills.filter { $0.split == "val" }.count == 8)
      let columns = ["one", "two", "three", "four", "five", "six", "seven", "eight"]
      let rows = ["first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth"]
      for (still, track) in zip(stills, tracks) {
        #expect(still.id == track.id && still.captions.count == track.objects.count)
        let picture = try Image(contentsOf: sets[0].appendingPathComponent(still.image))
        #expect(picture.width == 112 && picture.height == 112)
        for (caption, object) in zip(still.captions, track.objects) {
          let place = try #require(object.places.first ?? nil)
          let (column, row) = (columns[Int(place[0] * 8)], rows[Int(place[1] * 8)])
          #expect(caption.hasSuffix("\(object.name) in column \(column) of the \(row) row"), "\(caption)")
        }
      }
      // The same seed gives the same files, and a second run leaves them alone.
      for file in ["captions.jsonl"] + stills.map(\.image) {
        let bytes = try sets.map { try Data(contentsOf: $0.appendingPathComponent(file)) }
        #expect(bytes[0] == bytes[1], "\(file)")
      }
      let again = try run(["--stills", "24", "8", "--size", "112", "--output", sets[0].path])
      #expect(again.code == 0 && again.errors.contains("already there"))
      for option in ["--check", "--preview=x.png", "--clips=8"] {
        #expect(try run(["--stills", "8", option]).code == 64)
      }
      #expect(try run(["--stills", "0"]).code == 64)
    }
  }

  /// On straight paths nothing jumps from one edge to the other, and what moves moves the way its caption says.
  @Test func straightPathsDoNotWrap() throws {
    if let obstacle = Self.obstacle { return print("skipped: \(obstacle)") }
    try withTemporaryFolder { folder in
      /// Per clip the largest step of an object along an axis, and of a clip in which one thing moves how far it gets.
      func measured(_ more: [String]) throws -> (steps: [Double], moves: [(event: String, way: [Double])]) {
        let set = folder.appendingPathComponent("set\(more.count)")
        let made = try run(["--clips", "40", "1", "--size", "64", "--seed", "5", "--output", set.path] + more)
        try #require(made.code == 0, "\(made.errors)")
        let clips = try lines(Line.self, set.appendingPathComponent("captions.jsonl"))
        let tracks = try lines(Tracks.self, set.appendingPathComponent("tracks.jsonl"))
        func step(_ a: [Double], _ b: [Double]) -> [Double] { [b[0] - a[0], b[1] - a[1]] }
        let steps = tracks.map { track in
          track.objects.flatMap { object in
            zip(object.places, object.places.dropFirst()).compactMap { a, b in
              a.flatMap { a in b.map { step(a, $0).map(abs).max() ?? 0 } }
            }
          }.max() ?? 0
        }
        let moves = zip(clips, tracks).filter { $0.0.category == "move" }.map { clip, track in
          let places = track.objects[0].places.compactMap { $0 }
          return (event: clip.questions[0].answer, way: step(places[0], places[places.count - 1]))
        }
        return (steps, moves)
      }
      let straight = try measured(["--straight"])
      #expect(straight.steps.allSatisfy { $0 < 0.2 })
      #expect(straight.moves.count > 4)
      for (event, way) in straight.moves {
        let (axis, sign) = (["left", "right"].contains(event) ? 0 : 1, ["left", "up"].contains(event) ? -1.0 : 1)
        #expect(way[axis] * sign > 0.1 && abs(way[1 - axis]) < 1e-6, "\(event): \(way)")
      }
      #expect(try measured([]).steps.contains { $0 > 0.3 }, "otherwise they do")
      #expect(try run(["--straight", "--stills", "4"]).code == 64)
      #expect(try run(["--straight", "--check"]).code == 64)
    }
  }

  @Test func sameSeedGivesTheSameBytes() throws {
    if let obstacle = Self.obstacle { return print("skipped: \(obstacle)") }
    try withTemporaryFolder { folder in
      let sets = ["one", "two", "other"].map { folder.appendingPathComponent($0) }
      try make(sets[0], more: ["--jobs", "2"])
      try make(sets[1], more: ["--jobs", "1"])
      try make(sets[2], seed: 6, more: ["--jobs", "2"])
      let videos = try lines(Line.self, sets[0].appendingPathComponent("captions.jsonl")).map(\.video)
      for name in ["captions.jsonl", "tracks.jsonl"] + videos {
        let bytes = try sets.map { try Data(contentsOf: $0.appendingPathComponent(name)) }
        #expect(bytes[0] == bytes[1], "\(name)")
        #expect(bytes[0] != bytes[2], "\(name) does not depend on the seed")
      }

      // A second run leaves a whole set alone and repairs one that lost a clip.
      let marker = sets[0].appendingPathComponent("made.json")
      let lost = sets[0].appendingPathComponent(videos[3])
      let before = try FileManager.default.attributesOfItem(atPath: marker.path)[.modificationDate] as? Date
      try make(sets[0])
      let after = try FileManager.default.attributesOfItem(atPath: marker.path)[.modificationDate] as? Date
      #expect(before == after)
      try FileManager.default.removeItem(at: lost)
      try make(sets[0])
      #expect(try Data(contentsOf: lost) == Data(contentsOf: sets[1].appendingPathComponent(videos[3])))
    }
  }

  /// Regression: ffmpeg takes headerless frames that begin with the colour (73, 68, 51) for an ID3 tag, skips them all, and
  /// ends well. One clip in thousands was written without a picture. Whatever the frames are, each gets its place in the file.
  @Test func framesThatBeginLikeATagAreKept() throws {
    guard FileManager.default.isExecutableFile(atPath: Self.root.path + "/.venv/bin/python") else {
      return print("skipped: no .venv; scripts/setup makes it")
    }
    try withTemporaryFolder { folder in
      let script = """
        import sys
        from pathlib import Path
        sys.path.insert(0, sys.argv[1])
        from moving_stamps.render import encode
        plan = {"file": "tag.mp4", "frames": 5, "seconds": 0.625, "background": [[(73, 68, 51)]], "sound": None, "actors": []}
        encode([plan], None, 32, 8, Path(sys.argv[2]))
        """
      let process = Process()
      process.executableURL = Self.root.appendingPathComponent(".venv/bin/python")
      process.arguments = ["-c", script, Self.root.path + "/scripts", folder.path]
      try process.run()
      process.waitUntilExit()
      try #require(process.terminationStatus == 0)
      var frames = 0
      try VideoFile(contentsOf: folder.appendingPathComponent("tag.mp4")).forEachFrame(.rate(8)) { _ in frames += 1 }
      #expect(frames == 5)
    }
  }

  @Test func whatIsMissingIsNamed() throws {
    guard FileManager.default.isExecutableFile(atPath: Self.root.path + "/.venv/bin/python") else {
      return print("skipped: no .venv; scripts/setup makes it")
    }
    try withTemporaryFolder { folder in
      let output = ["--output", folder.path + "/set"]
      func expect(
        _ arguments: [String], _ code: Int32, _ words: String, environment: [String: String] = [:],
        sourceLocation: SourceLocation = #_sourceLocation
      ) throws {
        let result = try run(arguments, environment: environment)
        let errors = result.errors.split(separator: "\n").filter { $0.hasPrefix("error: ") }
        #expect(result.code == code, "\(result.errors)", sourceLocation: sourceLocation)
        #expect(errors.count == 1 && errors[0].contains(words), "\(result.errors)", sourceLocation: sourceLocation)
        #expect(!result.errors.contains("Traceback"), sourceLocation: sourceLocation)
      }
      try expect(output + ["--clips", "0"], 64, "--clips")
      try expect(output + ["--size", "111"], 64, "--size")
      try expect(output + ["--fps", "1"], 64, "--fps")
      // Programs other than ffmpeg, which bash and the wrapper want, from folders of their own.
      let tools = folder.appendingPathComponent("tools")
      try FileManager.default.createDirectory(at: tools, withIntermediateDirectories: true)
      for tool in ["bash", "dirname"] {
        let found = ["/usr/bin/", "/bin/"].map { $0 + tool }.first(where: FileManager.default.isExecutableFile)
        try FileManager.default.createSymbolicLink(
          atPath: tools.path + "/" + tool, withDestinationPath: try #require(found))
      }
      try expect(output, 69, "scripts/setup", environment: ["PATH": tools.path])
      guard Self.obstacle == nil else { return print("skipped in part: \(Self.obstacle!)") }
      try expect(output, 69, "scripts/fetch-data cut-outs", environment: ["QFORMER_CACHE": folder.path])
      let mine = folder.appendingPathComponent("mine")
      try FileManager.default.createDirectory(at: mine, withIntermediateDirectories: true)
      try Data("kept".utf8).write(to: mine.appendingPathComponent("notes.txt"))
      try expect(["--output", mine.path], 73, mine.path)
      #expect(FileManager.default.fileExists(atPath: mine.path + "/notes.txt"))
    }
  }
}
