import Foundation
public import Torch

/// AdamW with one step counter and two moments for each parameter (arXiv 1711.05101).
public final class AdamW {
  /// Parameters that share a learning-rate factor and a weight decay.
  public struct Group {
    /// Names and tensors, in a fixed order.
    public var parameters: [(name: String, tensor: Tensor)]
    /// Multiplies the learning rate of every step.
    public var learningRateFactor: Double
    /// Decoupled weight decay.
    public var weightDecay: Double

    /// Makes a group.
    public init(parameters: [(name: String, tensor: Tensor)], learningRateFactor: Double = 1, weightDecay: Double) {
      self.parameters = parameters
      self.learningRateFactor = learningRateFactor
      self.weightDecay = weightDecay
    }
  }

  private struct Moments {
    let first: Tensor
    let second: Tensor
    let step: Tensor
  }

  /// All groups.
  public let groups: [Group]
  private let betas: (Double, Double)
  private let eps: Double
  private var moments: [String: Moments] = [:]

  /// Makes an optimiser; moments start at zero.
  public init(_ groups: [Group], betas: (Double, Double) = (0.9, 0.98), eps: Double = 1e-8) {
    self.groups = groups
    self.betas = betas
    self.eps = eps
    for (name, tensor) in groups.flatMap(\.parameters) {
      moments[name] = Moments(first: .zeros(tensor.shape), second: .zeros(tensor.shape), step: .zeros([]))
    }
  }

  /// Groups as is usual for transformers: no weight decay for biases and other parameters of one dimension.
  public static func groups(
    _ parameters: [(name: String, tensor: Tensor)], weightDecay: Double, factor: (String) -> Double = { _ in 1 }
  ) -> [Group] {
    struct Kind: Hashable { let factor: Double, decays: Bool }
    var order: [Kind] = []
    var members: [Kind: [(name: String, tensor: Tensor)]] = [:]
    for parameter in parameters {
      let kind = Kind(factor: factor(parameter.name), decays: parameter.tensor.rank > 1)
      if members[kind] == nil { order.append(kind) }
      members[kind, default: []].append(parameter)
    }
    return order.map {
      Group(parameters: members[$0]!, learningRateFactor: $0.factor, weightDecay: $0.decays ? weightDecay : 0)
    }
  }

  /// Updates every parameter that has a gradient.
  public func step(learningRate: Double) {
    withNoGrad {
      for group in groups {
        var tensors: [Tensor] = []
        var gradients: [Tensor] = []
        var state: [Moments] = []
        for (name, tensor) in group.parameters {
          guard let gradient = tensor.grad, let moment = moments[name] else { continue }
          // The fused operator walks all memory in order and heeds no strides.
          guard tensor.isContiguous else {
            _ = Tensor.failed("AdamW: the elements of \(name) do not lie in order")
            return
          }
          tensors.append(tensor)
          gradients.append(gradient.contiguous())
          state.append(moment)
        }
        if tensors.isEmpty { continue }
        for moment in state { moment.step.add(inPlace: Tensor(Float(1))) }
        fusedAdamW(
          tensors, gradients: gradients, firstMoments: state.map(\.first), secondMoments: state.map(\.second),
          steps: state.map(\.step), learningRate: learningRate * group.learningRateFactor, beta1: betas.0,
          beta2: betas.1, weightDecay: group.weightDecay, eps: eps)
      }
    }
  }

  /// Removes all gradients.
  public func clearGradients() {
    for (_, tensor) in groups.flatMap(\.parameters) where tensor.grad != nil { tensor.grad = nil }
  }

  /// Moments and counters under `first.NAME`, `second.NAME` and `step.NAME`, to be saved and restored.
  public var state: [(name: String, tensor: Tensor)] {
    groups.flatMap(\.parameters).flatMap { name, _ -> [(name: String, tensor: Tensor)] in
      guard let moment = moments[name] else { return [] }
      return [("first.\(name)", moment.first), ("second.\(name)", moment.second), ("step.\(name)", moment.step)]
    }
  }

  /// Overwrites moments and counters with saved ones.
  ///
  /// - Throws: `TorchError` that names the first missing or mis-shaped entry.
  public func restore(_ saved: (String) -> Tensor?) throws {
    for (name, tensor) in state {
      guard let value = saved(name) else { throw TorchError("the optimiser state lacks \(name)") }
      guard value.shape == tensor.shape else {
        throw TorchError("the optimiser state \(name) has the shape \(value.shape), expected \(tensor.shape)")
      }
      tensor.copy(from: value)
    }
  }
}

/// Scales all gradients down so that their common Euclidean norm is at most `limit`.
///
/// - Returns: The norm before.
@discardableResult
public func clipGradients(_ parameters: [(name: String, tensor: Tensor)], limit: Double) -> Double {
  withNoGrad {
    let gradients = parameters.compactMap(\.tensor.grad)
    guard !gradients.isEmpty else { return 0 }
    let norm = Tensor.stack(gradients.map { $0.norm() }).norm().item
    if norm > limit, norm.isFinite {
      let factor = Tensor(Float(limit / (norm + 1e-6)))
      for gradient in gradients { gradient.multiply(inPlace: factor) }
    }
    return norm
  }
}

/// Linear warm-up, then a half cosine down to a floor.
public struct WarmupCosine: Sendable, Codable, Equatable {
  /// The highest learning rate.
  public var peak: Double
  /// The learning rate at the end.
  public var floor: Double
  /// Steps from 0 to the peak.
  public var warmupSteps: Int
  /// All steps, warm-up included.
  public var totalSteps: Int

  /// Makes a schedule.
  public init(peak: Double, floor: Double, warmupSteps: Int, totalSteps: Int) {
    self.peak = peak
    self.floor = floor
    self.warmupSteps = warmupSteps
    self.totalSteps = totalSteps
  }

  /// The learning rate of a step, counted from 0.
  public func callAsFunction(_ step: Int) -> Double {
    if step < warmupSteps { return peak * Double(step + 1) / Double(warmupSteps) }
    let span = max(totalSteps - warmupSteps, 1)
    let progress = min(Double(step - warmupSteps) / Double(span), 1)
    return floor + (peak - floor) * 0.5 * (1 + cos(.pi * progress))
  }
}
