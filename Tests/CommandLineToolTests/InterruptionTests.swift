import Checkpoints
import Foundation
import TestSupport
import Testing

@Suite("Training that is killed, stopped and out of disk", .serialized)
struct InterruptionTests {
  /// Starts training with one thread, so that sums are the same each time.
  private func train(_ place: Workplace, _ recipe: String, _ run: String, resumes: Bool = false) throws
    -> Program.Running
  {
    try place.program.start(
      ["train", recipe, "--output", place.path(run), "--threads", "1"] + (resumes ? ["--resume"] : []))
  }

  private func names(_ place: Workplace, _ run: String) -> [String] {
    (try? FileManager.default.contentsOfDirectory(atPath: place.path("\(run)/checkpoints"))) ?? []
  }

  /// Waits until something holds; false when the process ended or ten minutes passed before.
  private func wait(_ running: Program.Running, _ holds: () -> Bool) -> Bool {
    let end = Date().addingTimeInterval(600)
    while !holds() {
      if !running.process.isRunning || Date() > end { return holds() }
      usleep(200)
    }
    return true
  }

  /// Every checkpoint that counts can be read.
  private func expectWhole(_ place: Workplace, _ run: String) throws {
    for name in names(place, run) where name.hasPrefix("step-") {
      for file in ["model", "state"] {
        let url = URL(fileURLWithPath: place.path("\(run)/checkpoints/\(name)/\(file).safetensors"))
        let checkpoint = try Checkpoint(contentsOf: url)
        #expect(!checkpoint.names.isEmpty)
      }
    }
  }

  @Test("kill -9 at any moment: the next run goes on and ends with the same losses")
  func killed() throws {
    try withWorkplace { place in
      // Dropout, left-out patches and negatives are all random; a checkpoint after every step.
      let recipe = try place.recipe(epochs: 10, more: "patchPart: 0.75\ncheckpointEvery: 1")
      let whole = try train(place, recipe, "whole").finish()
      #expect(whole.code == 0, "\(whole)")
      let expected = try place.losses("whole")
      #expect(expected.count == 20)

      var random = SystemRandomNumberGenerator()
      var kills = 0
      for step in [2, 7, 12] {
        let running = try train(place, recipe, "killed", resumes: step > 2)
        func newest() -> Int { names(place, "killed").compactMap { Int($0.dropFirst(5)) }.max() ?? 0 }
        // Once in the middle of a checkpoint, as far as one can aim, else anywhere.
        let aims = step == 7
        let isReached = wait(running) {
          newest() >= step && (!aims || names(place, "killed").contains { $0.hasSuffix(".partial") })
        }
        #expect(isReached)
        if !aims { usleep(UInt32.random(in: 0...30_000, using: &random)) }
        if running.process.isRunning {
          kill(running.process.processIdentifier, SIGKILL)
          kills += 1
        }
        _ = try running.finish()
        try expectWhole(place, "killed")
      }
      #expect(kills > 0)
      let last = try train(place, recipe, "killed", resumes: true).finish()
      #expect(last.code == 0, "\(last)")
      #expect(try place.losses("killed") == expected)
      #expect(names(place, "killed").sorted() == ["step-19", "step-20"])
      let adapters = try ["whole", "killed"].map {
        try Data(contentsOf: URL(fileURLWithPath: place.path("\($0)/adapter/model.safetensors")))
      }
      #expect(adapters[0] == adapters[1])
    }
  }

  @Test("The interrupt key ends with a checkpoint and exit 0")
  func interrupted() throws {
    try withWorkplace { place in
      let recipe = try place.recipe(epochs: 100, more: "checkpointEvery: 1000")
      let whole = try train(place, recipe, "whole").finish()
      let running = try train(place, recipe, "stopped")
      let metrics = place.path("stopped/metrics.jsonl")
      #expect(wait(running) { FileManager.default.fileExists(atPath: metrics) })
      kill(running.process.processIdentifier, SIGINT)
      let stopped = try running.finish()
      #expect(stopped.code == 0 && stopped.output.isEmpty, "\(stopped)")
      #expect(stopped.errors == "stopped; go on with --resume\n")
      #expect(names(place, "stopped").count == 1)
      let resumed = try train(place, recipe, "stopped", resumes: true).finish()
      #expect(whole.code == 0 && resumed.code == 0, "\(resumed)")
      #expect(try place.losses("stopped") == place.losses("whole"))
    }
  }

  @Test("A full disk is an error; the checkpoint before stays, and the run goes on from it")
  func fullDisk() throws {
    try withWorkplace { place in
      let recipe = try place.recipe(epochs: 10, more: "checkpointEvery: 1")
      let running = try train(place, recipe, "run")
      #expect(wait(running) { names(place, "run").contains("step-2") })
      kill(running.process.processIdentifier, SIGKILL)
      _ = try running.finish()
      let before = names(place, "run").filter { $0.hasPrefix("step-") }.sorted()
      // No file may grow beyond 8 blocks: writing a checkpoint fails half-way, as on a full disk.
      let full = try place.program.run(
        after: "trap '' XFSZ; ulimit -f 8",
        ["train", recipe, "--output", place.path("run"), "--threads", "1", "--resume"])
      #expect(full.code == 73 && full.output.isEmpty, "\(full)")
      #expect(full.errorLines.count == 1 && full.errors.contains(place.path("run/checkpoints/")), "\(full)")
      #expect(names(place, "run").sorted() == before)
      try expectWhole(place, "run")
      let resumed = try train(place, recipe, "run", resumes: true).finish()
      #expect(resumed.code == 0, "\(resumed)")
      #expect(try place.losses("run").count == 20)
    }
  }
}
