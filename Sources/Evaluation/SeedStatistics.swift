/// Mean and spread of one figure over several runs.
public struct SeedStatistics: Codable, Sendable, Equatable {
  /// The mean.
  public let mean: Double
  /// The sample standard deviation (divisor n − 1); zero for a single run.
  public let standardDeviation: Double
  /// How many runs there were.
  public let count: Int

  /// Sums up one figure of several runs.
  ///
  /// - Throws: ``EvaluationError/empty(what:)`` without a run.
  public init(_ values: [Double]) throws(EvaluationError) {
    guard !values.isEmpty else { throw .empty(what: "run") }
    let mean = values.reduce(0, +) / Double(values.count)
    let squares = values.reduce(0) { $0 + ($1 - mean) * ($1 - mean) }
    self.mean = mean
    standardDeviation = values.count > 1 ? (squares / Double(values.count - 1)).squareRoot() : 0
    count = values.count
  }
}
