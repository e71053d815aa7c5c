import Foundation

extension DataSource {
  /// A short name for logs: the folder's name and the split.
  var name: String {
    [URL(fileURLWithPath: path).lastPathComponent, split].compactMap { $0 }.joined(separator: "-")
  }
}
