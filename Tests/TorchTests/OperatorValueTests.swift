import TestSupport
import Testing
import Torch

/// Operators against values from PyTorch and NumPy.
@Suite struct OperatorValueTests {
  let expected: Fixture

  init() throws { expected = try Fixture("torch/operators.safetensors") }

  func check(_ values: [(String, Tensor)], relative limit: Double = 2e-6) {
    for (name, value) in values { expectClose(value, expected[name], relative: limit, name) }
  }

  @Test func arithmetic() {
    let (x, y, row) = (expected["x"], expected["y"], expected["row"])
    check([
      ("add", x + row), ("sub", 1.5 - x), ("mul", x * y), ("div", x / y), ("rdiv", 2 / x), ("pow", x.abs().pow(1.7)),
      ("exp", x.exp()), ("log", x.abs().log()), ("sqrt", x.abs().sqrt()), ("rsqrt", x.abs().rsqrt()),
      ("cos", x.cos()), ("sin", x.sin()), ("round", (x * 3).rounded()), ("clamp", x.clamped(min: -0.5, max: 0.7)),
      ("clampmin", x.clamped(min: 0.1)), ("addcmul", x.addingProduct(y, row)),
      ("le", x.lessOrEqual(y).to(.float32)), ("where", x.chosen(where: x.less(0), else: y)),
    ])
    expectClose(-x, x * -1)
    expectClose(x + 2, 2 + x)
    expectClose(x * 3, 3 * x)
    expectClose(x - 2, x + -2)
    expectClose(x / 4, x * 0.25)
    expectClose(x - y, x + -y)
  }

  @Test func masksAndComparisons() {
    let x = Tensor([Float(1), 2, .nan, .infinity, 2])
    #expect(x.equal(2).values(as: Int.self) == [0, 1, 0, 0, 1])
    #expect(x.notEqual(2).values(as: Int.self) == [1, 0, 1, 1, 0])
    #expect(x.isFinite().values(as: Int.self) == [1, 1, 0, 0, 1])
    #expect(x.less(1.5).values(as: Int.self) == [1, 0, 0, 0, 0])
    #expect(x.maskedFill(x.equal(2), -1).values(as: Float.self)[4] == -1)
    #expect(x.equal(x).all().intItem == 0 && x.equal(x).any().intItem == 1)
    #expect(Tensor([Float(0.5), 1.5, 2.5, -0.5]).rounded().values(as: Float.self) == [0, 2, 2, 0])
  }

  @Test func reductions() {
    let x = expected["x"]
    check([
      ("sum", x.sum()), ("sum1", x.sum(1, keepDimension: true)), ("mean0", x.mean(0)), ("std", x.std()),
      ("max1", x.max(1).values), ("max1", x.amax(1)), ("argmax1", x.argmax(1)), ("topk", x.topK(2, 1).values),
      ("topk_at", x.topK(2, 1).indices), ("sorted", x.sorted(0, descending: true).values),
      ("cumsum", x.cumulativeSum(1)), ("norm", x.norm()), ("norm1", x.norm(1, keepDimension: true)),
      ("normalized", x.normalized()),
    ])
    #expect(x.max(1).indices.values(as: Int.self) == expected["argmax1"].values(as: Int.self))
    #expect(x.max().item == x.values(as: Double.self).max())
    expectClose(x.mean(), x.sum() / 12)
    #expect(Tensor.zeros([2, 3]).normalized().values(as: Float.self) == [0, 0, 0, 0, 0, 0])
  }

  @Test func shapes() {
    let (x, y, image) = (expected["x"], expected["y"], expected["image"])
    let rows = Tensor([Int64(2), 0, 2])
    check(
      [
        ("permute", image.permuted(0, 2, 3, 1)), ("cat", .cat([x, y], 1)), ("stack", .stack([x, y], 1)),
        ("slice", image.slice(2, 1, 8, step: 3)), ("flip", x.flipped(1)),
        ("repeat_interleave", x.repeatInterleaved(2, 1)), ("repeat", x.repeated(2, 3)),
        ("gather", x.gather(0, expected["index"].unsqueezed(0).expanded(2, 3))), ("tril", .causal(5)),
        ("embedding", x.indexSelect(0, rows)),
      ], relative: 0)
    #expect(x.reshaped(2, -1).shape == [2, 6] && x.flattened().shape == [12])
    #expect(x.unsqueezed(-1).shape == [3, 4, 1] && x.unsqueezed(-1).squeezed(-1).shape == [3, 4])
    #expect(x.select(0, -1).values(as: Float.self) == Array(x.values(as: Float.self)[8...]))
    #expect(x.transposed(0, 1).shape == [4, 3] && !x.transposed(0, 1).isContiguous)
    let parts = x.chunked(2, 1)
    #expect(parts.count == 2 && parts.allSatisfy { $0.shape == [3, 2] })
    #expect(x.size(-1) == 4 && x.size(2) == 0 && x.rank == 2 && x.count == 12)
    #expect(Tensor.arange(2, 5).values(as: Int.self) == [2, 3, 4] && Tensor.arange(3).dtype == .int64)
  }

  @Test func linearAlgebraAndLayers() {
    let (x, row, square) = (expected["x"], expected["row"], expected["square"])
    let unit = Tensor.causal(4) * Tensor.causal(4).transposed(0, 1)
    check(
      [
        ("matmul", x.matmul(expected["y"].transposed(0, 1))), ("solve", square.solve(unit)),
        ("linear", x.linear(square, row)), ("embedding", x.embedding(expected["index"])),
        ("layernorm", x.layerNorm(row, row, eps: 0.01)), ("gelu", x.gelu()), ("silu", x.silu()),
        ("softmax", x.softmax(0)), ("logsoftmax", x.logSoftmax()),
        ("ce", x.crossEntropy(expected["classes"], labelSmoothing: 0.1)),
        ("ce_soft", x.crossEntropy(expected["soft"], labelSmoothing: 0.2)),
      ], relative: 1e-5)
  }

  @Test func attention() {
    let (q, k, v) = (expected["q"], expected["k"], expected["v"])
    let grouped = (k.narrow(1, 0, 2), v.narrow(1, 0, 2))
    check(
      [
        ("attention", q.attention(k, v, mask: expected["bias"])),
        ("attention_causal", q.attention(k, v, causal: true, scale: 0.3)),
        ("attention_grouped", q.attention(grouped.0, grouped.1, groupedQuery: true)),
      ], relative: 1e-5)
  }

  @Test func images() {
    let image = expected["image"]
    check(
      [
        ("conv", image.conv2d(expected["kernel"], expected["offset"], stride: 2)),
        ("bicubic", image.bicubic(height: 13, width: 7)),
        ("bicubic_corners", image.bicubic(height: 13, width: 7, alignCorners: true)),
        ("bicubic_antialias", image.bicubicAntialiased(height: 5, width: 6)),
      ], relative: 1e-5)
    // One dimension is two of which one has size 1.
    let (line, kernel) = (image.select(2, 0), expected["kernel"].select(2, 0))
    let border = Tensor.zeros([line.size(0), line.size(1), 2])
    let padded = Tensor.cat([border, line, border], 2).unsqueezed(2)
    expectClose(
      line.conv1d(kernel, expected["offset"], stride: 3, padding: 2),
      padded.conv2d(kernel.unsqueezed(2), expected["offset"], stride: 3).squeezed(2))
  }

  @Test func gradients() {
    let (x, square) = (expected["x"].cloned(), expected["square"].cloned())
    x.requiresGrad = true
    square.requiresGrad = true
    x.layerNorm(nil, nil, eps: 1e-3).linear(square).gelu().pow(2).sum().backward()
    expectClose(x.grad ?? .zeros([]), expected["gradient.x"])
    expectClose(square.grad ?? .zeros([]), expected["gradient.square"])
  }

  @Test func inPlace() {
    let x = Tensor([Float(1), 2, 3])
    let view = x.narrow(0, 1, 2)
    view.add(inPlace: Tensor(Float(10)))
    view.multiply(inPlace: Tensor([Float(2), -1]))
    #expect(x.values(as: Float.self) == [1, 24, -13])
    let copy = x.cloned()
    x.copy(from: Tensor(Float(5)))
    #expect(x.values(as: Float.self) == [5, 5, 5] && copy.values(as: Float.self) == [1, 24, -13])
    x.zero()
    #expect(x.values(as: Float.self) == [0, 0, 0])
  }
}
