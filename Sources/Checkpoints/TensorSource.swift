import Foundation
import Torch

/// Named tensors in a file, or in what is made of files.
protocol TensorSource: Sendable {
  var url: URL { get }
  var names: [String] { get }
  var metadata: [String: String] { get }
  func shape(_ name: String) -> [Int]?
  func dtype(_ name: String) -> DType?
  func tensor(_ name: String) throws -> Tensor
  /// The tensor converted to a type, without more memory than the result and a little.
  func tensor(_ name: String, as dtype: DType) throws -> Tensor
  /// The tensor's bytes in its own type and order, a piece at a time.
  func forEachPiece(_ name: String, _ body: (UnsafeRawBufferPointer) throws -> Void) throws
}

/// A file whose tensors lie at known places.
protocol StoredTensors: TensorSource {
  var file: MappedFile { get }
  func stored(_ name: String) -> StoredTensor?
}

extension StoredTensors {
  func shape(_ name: String) -> [Int]? { stored(name)?.shape }

  func dtype(_ name: String) -> DType? { stored(name)?.dtype }

  func tensor(_ name: String) throws -> Tensor { try file.tensor(require(name)) }

  func tensor(_ name: String, as dtype: DType) throws -> Tensor { try file.tensor(require(name), as: dtype) }

  func forEachPiece(_ name: String, _ body: (UnsafeRawBufferPointer) throws -> Void) throws {
    try file.forEachPiece(require(name), body)
  }

  private func require(_ name: String) throws -> StoredTensor {
    guard let stored = stored(name) else { throw CheckpointError.noSuchTensor(file: file.url.path, name: name) }
    return stored
  }
}

/// How many bytes a shape takes, or nil when the number does not fit.
func byteCount(_ shape: [Int], _ dtype: DType) -> Int? {
  var bytes = dtype.byteCount
  for extent in shape {
    let (product, overflow) = bytes.multipliedReportingOverflow(by: extent)
    guard !overflow else { return nil }
    bytes = product
  }
  return bytes
}
