public import Foundation
public import Torch

/// A file that `torch.save` wrote: `.pth`, `.pt`, `.bin`, `.ckpt`.
///
/// Both of PyTorch's formats are read: the zip archive (since 1.6) and the older stream of pickles and raw storages. The
/// file is memory-mapped; tensors that lie in order and aligned borrow its bytes, others are copied when they are asked
/// for. Tensors may share storages, skip elements and start anywhere in them.
///
/// A pickle is a program, and this reader does not run it: classes and functions other than PyTorch's for tensors are
/// refused by name. A file that also holds the arguments of its training run as an object can be opened by naming that
/// class in `inertClasses`; its objects are then read as nothing, and still nothing runs.
///
/// **Which tensors.** The outermost object is a dictionary. Where it holds a dictionary of tensors under `model`,
/// `state_dict`, `model_state_dict` or `module`, those are the file's tensors; more than one such entry is an error
/// unless `section` chooses. Otherwise they are the dictionary's own. Entries that are no tensors (epochs, settings) are
/// listed in ``otherKeys``.
public final class PyTorchFile: Sendable, StoredTensors {
  /// The entries in which training code keeps a model, in the order in which they are looked for.
  public static let usualSections = ["model", "state_dict", "model_state_dict", "module"]

  let file: MappedFile
  private let entries: [String: StoredTensor]
  /// The names of all tensors, in the order of the file.
  public let names: [String]
  /// The entry of the outermost dictionary that the tensors come from; nil for that dictionary itself.
  public let section: String?
  /// Entries beside the tensors that are none, with `section.` in front when they lie there.
  public let otherKeys: [String]

  /// Where the file lies.
  public var url: URL { file.url }

  /// PyTorch's files have none.
  public var metadata: [String: String] { [:] }

  /// Maps a file and reads its table of tensors.
  ///
  /// - Parameters:
  ///   - url: The file.
  ///   - section: The entry of the outermost dictionary to take, or `""` for that dictionary itself; by the rule above
  ///     when nil.
  ///   - inertClasses: Classes, as in `argparse.Namespace`, whose objects are read as nothing instead of being refused.
  /// - Throws: ``CheckpointError`` that says what was expected and found.
  public convenience init(contentsOf url: URL, section: String? = nil, inertClasses: Set<String> = []) throws {
    try self.init(MappedFile(url), section: section, inertClasses: inertClasses)
  }

  /// Reads bytes that are in memory.
  ///
  /// - Parameters:
  ///   - bytes: A whole file.
  ///   - name: What stands for the file in errors.
  ///   - section: As for a file.
  ///   - inertClasses: As for a file.
  /// - Throws: ``CheckpointError`` that says what was expected and found.
  public convenience init(
    parsing bytes: Data, name: String = "memory.pth", section: String? = nil, inertClasses: Set<String> = []
  ) throws {
    try self.init(MappedFile(bytes, name: name), section: section, inertClasses: inertClasses)
  }

  init(_ file: MappedFile, section: String? = nil, inertClasses: Set<String> = []) throws {
    self.file = file
    let bytes = UnsafeRawBufferPointer(file.bytes)
    let path = file.url.path
    let content: PyTorchContent
    if bytes.starts(with: [0x50, 0x4b, 0x03, 0x04]) {
      content = try PyTorchContent(zip: bytes, path, inertClasses)
    } else if bytes.count > 2, bytes[0] == 0x80, bytes[1] <= 5 {
      content = try PyTorchContent(stream: bytes, path, inertClasses)
    } else {
      let isTar = bytes.count > 262 && bytes[257..<262].elementsEqual("ustar".utf8)
      throw CheckpointError.malformed(
        file: path, expected: "a file that torch.save wrote",
        found: ForeignFile.recognise(bytes) ?? (isTar ? "a tar archive" : "something else"))
    }
    let state = try StateDictionary(content, section: section, path)
    self.section = state.section
    otherKeys = state.otherKeys
    names = state.tensors.map(\.name)
    var entries: [String: StoredTensor] = [:]
    for (name, index) in state.tensors {
      let stored = content.stored(index)
      guard entries.updateValue(stored, forKey: name) == nil else {
        throw CheckpointError.malformed(
          file: path, expected: "each tensor once", found: "\(printable(name)) twice")
      }
    }
    self.entries = entries
  }

  /// The shape of a tensor, or nil when there is none of this name.
  public func shape(_ name: String) -> [Int]? { entries[name]?.shape }

  /// The element type of a tensor, or nil when there is none of this name.
  public func dtype(_ name: String) -> DType? { entries[name]?.dtype }

  /// A tensor in the type it has in the file, on the file's own memory where it lies in order and aligned.
  ///
  /// - Throws: ``CheckpointError/noSuchTensor(file:name:)``.
  public func tensor(_ name: String) throws -> Tensor {
    guard let entry = entries[name] else { throw CheckpointError.noSuchTensor(file: url.path, name: name) }
    return try file.tensor(entry)
  }

  func stored(_ name: String) -> StoredTensor? { entries[name] }
}

/// What a file holds: the unpickled object, and where its storages lie.
struct PyTorchContent {
  let root: PickleValue
  let pickle: Unpickler
  /// Where each of the heap's storages lies in the file.
  private let places: [Range<Int>]

  /// The archive: `NAME/data.pkl`, `NAME/byteorder`, `NAME/data/KEY`.
  init(zip bytes: UnsafeRawBufferPointer, _ path: String, _ inertClasses: Set<String>) throws {
    func malformed(_ expected: String, _ found: String) -> CheckpointError {
      .malformed(file: path, expected: expected, found: found)
    }
    let archive = try ZipArchive(bytes, path: path)
    let tables = archive.entries.keys.filter { $0.hasSuffix("/data.pkl") && !$0.dropLast(9).contains("/") }
    guard tables.count == 1, let table = tables.first, let range = archive.entries[table] else {
      throw malformed("a zip archive with one data.pkl", tables.isEmpty ? "none" : "\(tables.count)")
    }
    let folder = table.dropLast("data.pkl".count)
    guard archive.entries["\(folder)constants.pkl"] == nil else {
      throw malformed("a file that torch.save wrote", "a TorchScript program (torch.jit.save)")
    }
    if let order = archive.entries["\(folder)byteorder"] {
      let word = UnsafeRawBufferPointer(rebasing: bytes[order])
      guard word.elementsEqual("little".utf8) else {
        throw malformed("little-endian tensors", "byte order \(printable(word))")
      }
    }
    var unpickler = Unpickler(bytes, range, path: path, inertClasses: inertClasses)
    root = try unpickler.load()
    pickle = unpickler
    places = try unpickler.heap.storages.map { storage in
      guard let place = archive.entries["\(folder)data/\(storage.key)"] else {
        throw malformed("the storage \(printable(storage.key)) in the archive", "no such entry")
      }
      let size = storage.count * storage.dtype.byteCount
      guard size <= place.count, place.count - size < storage.dtype.byteCount else {
        throw malformed("\(size) bytes in the storage \(printable(storage.key))", "\(place.count)")
      }
      return place
    }
  }

  /// The stream: magic number, version, system, object, storage keys, then for each its length and its elements.
  init(stream bytes: UnsafeRawBufferPointer, _ path: String, _ inertClasses: Set<String>) throws {
    func malformed(_ expected: String, _ found: String) -> CheckpointError {
      .malformed(file: path, expected: expected, found: found)
    }
    var unpickler = Unpickler(bytes, 0..<bytes.count, path: path, inertClasses: inertClasses)
    let magic: [UInt8] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19]
    guard case .long(let number) = try unpickler.load(), unpickler.raw(number).elementsEqual(magic) else {
      throw malformed("a file that torch.save wrote", "a pickle of another origin")
    }
    guard case .int(1001) = try unpickler.load() else {
      throw malformed("version 1001 of PyTorch's older format", "another")
    }
    guard case .dictionary(let index) = try unpickler.load() else {
      throw malformed("the byte order", "none")
    }
    guard case .bool(true) = unpickler.value("little_endian", in: index) else {
      throw malformed("little-endian tensors", "big-endian ones")
    }
    root = try unpickler.load()
    guard case .list(let keyIndex) = try unpickler.load() else { throw malformed("a list of storage keys", "none") }
    pickle = unpickler
    let heap = unpickler.heap
    var size: [String: (count: Int, dtype: DType)] = [:]
    for storage in heap.storages {
      let first = size[storage.key] ?? (storage.count, storage.dtype)
      guard first.count == storage.count, first.dtype == storage.dtype else {
        throw malformed("one size and type for the storage \(printable(storage.key))", "two")
      }
      size[storage.key] = first
    }
    let reader = LittleEndianReader(bytes)
    var position = unpickler.position
    var placeOfKey: [String: Range<Int>] = [:]
    for value in heap.lists[Int(keyIndex)] {
      guard case .text(let span) = value, let key = unpickler.text(span), let (count, dtype) = size[key],
        placeOfKey[key] == nil
      else { throw malformed("each storage of the tensors once", "another key, or one twice") }
      guard let stored = reader.uint64(position), stored == UInt64(count) else {
        throw malformed("\(count) elements in the storage \(printable(key))", "another number, or the file's end")
      }
      let length = count * dtype.byteCount
      guard length <= bytes.count - position - 8 else {
        throw malformed(
          "\(length) bytes in the storage \(printable(key))", "\(bytes.count - position - 8) until the end")
      }
      placeOfKey[key] = position + 8..<position + 8 + length
      position += 8 + length
    }
    guard position == bytes.count else {
      throw malformed("the file's end after its storages", "\(bytes.count - position) bytes more")
    }
    places = try heap.storages.map { storage in
      guard let place = placeOfKey[storage.key] else {
        throw malformed("the storage \(printable(storage.key)) in the file", "none")
      }
      return place
    }
  }

  /// Where a tensor of the heap lies. The unpickler has checked it against its storage.
  func stored(_ index: Int32) -> StoredTensor {
    let tensor = pickle.heap.tensors[Int(index)]
    let storage = pickle.heap.storages[Int(tensor.storage)]
    let start =
      places[Int(tensor.storage)].lowerBound + storage.view.lowerBound * storage.dtype.byteCount
      + tensor.offset * tensor.dtype.byteCount
    let length = (tensor.span ?? 0) * tensor.dtype.byteCount
    return StoredTensor(
      dtype: tensor.dtype, shape: tensor.shape, strides: tensor.isContiguous ? nil : tensor.strides,
      range: start..<start + length)
  }
}

extension Unpickler {
  /// The value of a text key of a dictionary; of several the last, as in Python.
  func value(_ key: String, in dictionary: Int32) -> PickleValue? {
    let pairs = heap.dictionaries[Int(dictionary)]
    for index in stride(from: pairs.count - 2, through: 0, by: -2) {
      if case .text(let span) = pairs[index], raw(span).elementsEqual(key.utf8) { return pairs[index + 1] }
    }
    return nil
  }
}

/// The dictionary of tensors in a file, chosen by the rule of ``PyTorchFile``.
private struct StateDictionary {
  let section: String?
  let tensors: [(name: String, index: Int32)]
  let otherKeys: [String]

  init(_ content: PyTorchContent, section asked: String?, _ path: String) throws {
    func malformed(_ expected: String, _ found: String) -> CheckpointError {
      .malformed(file: path, expected: expected, found: found)
    }
    let pickle = content.pickle
    guard case .dictionary(let root) = content.root else {
      throw malformed("a dictionary of tensors", content.root.kind)
    }
    func holdsTensors(_ dictionary: Int32) -> Bool {
      let pairs = pickle.heap.dictionaries[Int(dictionary)]
      return stride(from: 1, to: pairs.count, by: 2).contains { if case .tensor = pairs[$0] { true } else { false } }
    }
    func dictionary(_ key: String) -> Int32? {
      guard case .dictionary(let index) = pickle.value(key, in: root), holdsTensors(index) else { return nil }
      return index
    }
    var chosen = root
    var section: String?
    if let asked, !asked.isEmpty {
      guard let index = dictionary(asked) else {
        throw malformed("tensors under \(printable(asked))", Self.description(root, pickle))
      }
      (chosen, section) = (index, asked)
    } else if asked == nil {
      let found = PyTorchFile.usualSections.compactMap { key in dictionary(key).map { (key, $0) } }
      guard Set(found.map(\.1)).count <= 1 else {
        throw malformed(
          "one dictionary of tensors, or a section chosen",
          "several: \(found.map(\.0).joined(separator: ", "))")
      }
      if let first = found.first {
        section = first.0
        chosen = first.1
      }
    }
    guard holdsTensors(chosen) else {
      throw malformed(
        "tensors, or \(PyTorchFile.usualSections.joined(separator: ", ")) with tensors",
        Self.description(root, pickle))
    }
    self.section = section
    var tensors: [(name: String, index: Int32)] = []
    var others: [String] = []
    let pairs = pickle.heap.dictionaries[Int(chosen)]
    for index in stride(from: 0, to: pairs.count, by: 2) {
      if case .text(let span) = pairs[index], span.count <= 10_000, let name = pickle.text(span) {
        switch pairs[index + 1] {
        case .tensor(let tensor): tensors.append((name, tensor))
        case .dictionary(let inner) where holdsTensors(inner) && chosen != root:
          throw malformed("tensors", "a dictionary of tensors under \(printable(name)) beside them")
        default: others.append(section.map { "\($0).\(name)" } ?? name)
        }
      } else if case .tensor = pairs[index + 1] {
        throw malformed("names of tensors as text", pairs[index].kind)
      }
    }
    if chosen != root { others += Self.keys(root, pickle).filter { $0 != section } }
    self.tensors = tensors
    otherKeys = others
  }

  private static func keys(_ dictionary: Int32, _ pickle: Unpickler) -> [String] {
    let pairs = pickle.heap.dictionaries[Int(dictionary)]
    return stride(from: 0, to: pairs.count, by: 2).compactMap { index in
      guard case .text(let span) = pairs[index], span.count <= 10_000 else { return nil }
      return pickle.text(span)
    }
  }

  private static func description(_ root: Int32, _ pickle: Unpickler) -> String {
    let keys = keys(root, pickle)
    if Set(keys).isSuperset(of: ["state", "param_groups"]) { return "the state of an optimizer" }
    let first = keys.prefix(12).map(printable).joined(separator: ", ")
    return keys.isEmpty ? "a dictionary without names" : "a dictionary of \(first)\(keys.count > 12 ? " …" : "")"
  }
}
