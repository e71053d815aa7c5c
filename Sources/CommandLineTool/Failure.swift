import ArgumentParser
import Backbones
import Checkpoints
import Evaluation
import Foundation
import Media
import Pipelines
import QFormer
import Tokenizers
import Torch
import Training

/// Exit codes, as in BSD's sysexits.
enum Failure: Int32 {
  case badData = 65
  case noInput = 66
  case unavailable = 69
  case `internal` = 70
  case cannotWrite = 73
  case cannotRead = 74

  /// The code for an error.
  init(_ error: any Error) {
    switch error {
    case let error as MediaError:
      switch error {
      case .noSuchFile: self = .noInput
      case .unreadable: self = .cannotRead
      case .cannotWrite: self = .cannotWrite
      case .outOfMemory: self = .internal
      default: self = .badData
      }
    case let error as CheckpointError:
      switch error {
      case .notFound: self = .noInput
      case .unreadable: self = .cannotRead
      case .cannotWrite: self = .cannotWrite
      case .malformed, .noSuchTensor, .mismatch: self = .badData
      }
    case let error as PipelineError:
      switch error {
      case .notFetched: self = .unavailable
      case .unknownModel: self = .noInput
      case .wrongModel, .badConfiguration, .badInput: self = .badData
      }
    case let error as DataError:
      switch error {
      case .missing: self = .noInput
      case .unreadable: self = .cannotRead
      default: self = .badData
      }
    case let error as CommandError: self = error.failure
    case TrainingError.noRecipe: self = .noInput
    case is TrainingError, is BackboneError, is TokenizerError, is QFormerError, is GenerationError, is EvaluationError:
      self = .badData
    default: self = .internal
    }
  }

  /// Prints one line on standard error and ends the process. Usage errors and help are ArgumentParser's, which knows no
  /// other error's code.
  static func exit(_ error: any Error) -> Never {
    guard QFormerCommand.exitCode(for: error) == .failure else { QFormerCommand.exit(withError: error) }
    report(error)
    Foundation.exit(Failure(error).rawValue)
  }

  /// Prints `error: …` on standard error.
  static func report(_ error: any Error) {
    FileHandle.standardError.write(Data("error: \(words(error))\n".utf8))
  }

  private static func words(_ error: any Error) -> String {
    let text = error is CocoaError || error is POSIXError ? error.localizedDescription : "\(error)"
    // Only a load report has more than one line: its keys are worth seeing.
    if case .mismatch = error as? CheckpointError { return text }
    return text.split(whereSeparator: \.isNewline).joined(separator: " ")
  }
}

/// What the command line itself finds wrong.
enum CommandError: Error, CustomStringConvertible {
  /// Something this build does not have.
  case unavailable(String)
  /// A file given on the command line does not exist.
  case noInput(String)
  /// Some of several inputs failed and have been reported.
  case someInputsFailed(Int, of: Int)

  var failure: Failure {
    switch self {
    case .unavailable: .unavailable
    case .noInput: .noInput
    case .someInputsFailed: .badData
    }
  }

  var description: String {
    switch self {
    case .unavailable(let words), .noInput(let words): words
    case .someInputsFailed(let count, let total): "\(count) of \(total) inputs could not be processed"
    }
  }
}
