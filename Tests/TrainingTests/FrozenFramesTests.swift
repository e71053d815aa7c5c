import Foundation
import QFormer
import TestSupport
import Testing
import Torch
import TorchNN

@testable import Training

@Suite("What a frame Q-Former that is not trained says of clips, kept")
struct FrozenFramesTests {
  /// Clips of two frames and one of one frame, whose times are told by a sinusoid.
  private func withClips(
    _ body: (_ recipe: Recipe, _ start: AdapterStart, _ features: FeatureStack) throws -> Void
  ) throws {
    try withTemporaryFolder { folder in
      let models = try TinyModels(in: folder)
      try models.strengthen()
      let clips = folder.appendingPathComponent("clips")
      try TinyClips.write(to: clips)
      let lines = clips.appendingPathComponent("captions.jsonl")
      let picture = #"{"id": "one", "images": ["2.png"], "seconds": [3], "split": "train", "captions": ["blue alone"]}"#
      try Data((String(contentsOf: lines, encoding: .utf8) + picture + "\n").utf8).write(to: lines)
      var recipe = Recipe.tiny(clips)
      recipe.objective = .videoWords
      recipe.video.frames = 4
      recipe.video.time.encoding = .sinusoid
      recipe.video.freeze = .frameQFormer
      recipe.adapter.start = "image-caption"
      recipe.adapter.hiddenDropout = 0.3
      let data = try TrainingData(recipe, store: models.store, showsProgress: false)
      let start = try AdapterStart.make(
        recipe, store: models.store, encoderWidth: TinyModels.encoderWidth, languageSize: 32)
      // Matrices that do not shrink what goes through them, as trained ones do not.
      for (_, tensor) in start.parameters.all where tensor.rank == 2 {
        try withError { withNoGrad { tensor.multiply(inPlace: Tensor(Float(3))) } }
      }
      try body(recipe, start, data.train.features)
    }
  }

  @Test("Gives the tokens of a pass through both Q-Formers, whatever is beside a clip in its batch")
  func tokens() throws {
    try withClips { recipe, start, features in
      let frozen = try #require(FrozenFrames(recipe, start.model, features))
      func values(_ tokens: Tensor) -> [Float] { tokens.detached().values(as: Float.self) }
      let rows = [4, 0, 3]
      let whole = values(try start.model.languageTokens(of: features.clips(rows), isTraining: false))
      let kept = values(try frozen.languageTokens(rows, isTraining: false))
      let scale = try #require(whole.map(abs).max())
      #expect(scale > 0.1)
      #expect(kept.count == whole.count && zip(kept, whole).allSatisfy { abs($0 - $1) < 0.01 * scale })
      // Clips differ by much more than what half precision takes away.
      let each = whole.count / rows.count
      #expect(zip(whole.prefix(each), whole.dropFirst(each)).contains { abs($0 - $1) > 0.05 * scale })

      // The frame Q-Former is not asked again.
      let name = "qformer.encoder.layer.0.output_query.dense.weight"
      try withError { withNoGrad { start.parameters[name]?.multiply(inPlace: Tensor(Float(0))) } }
      #expect(values(try frozen.languageTokens(rows, isTraining: false)) == kept)
      #expect(values(try start.model.languageTokens(of: features.clips(rows), isTraining: false)) != whole)
      let again = values(try FrozenFrames(recipe, start.model, features)!.languageTokens(rows, isTraining: false))
      #expect(again != kept)

      let trained = values(try frozen.languageTokens(rows, isTraining: true))
      #expect(trained != kept, "dropout of the temporal Q-Former is on")
    }
  }

  @Test("Nothing is kept where frames are read differently in every step")
  func notKept() throws {
    try withClips { recipe, start, features in
      #expect(FrozenFrames(recipe, start.model, features) != nil)
      var other = recipe
      other.video.freeze = .none
      #expect(FrozenFrames(other, start.model, features) == nil)
      other = recipe
      other.patchPart = 0.5
      #expect(FrozenFrames(other, start.model, features) == nil)
      other = recipe
      other.video.frames = 1 << 40
      #expect(FrozenFrames(other, start.model, features) == nil, "too many to keep")
    }
  }
}
