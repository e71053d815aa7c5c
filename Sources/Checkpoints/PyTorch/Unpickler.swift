import Foundation
import Torch

/// Reads pickles as data. There is no interpreter: of the opcodes that would look up, call or build, only what PyTorch
/// needs for tensors has a meaning, and everything else is an error that names it.
///
/// Opcodes and their arguments follow Python's `pickletools`, protocols 2 to 5; the text forms of protocol 0 are refused.
struct Unpickler {
  private(set) var heap = PickleHeap()
  /// The byte behind what has been read.
  private(set) var position: Int

  private let bytes: UnsafeRawBufferPointer
  private let start: Int
  private let end: Int
  private let path: String
  private let inertClasses: Set<String>
  private let limits: PickleLimits
  private var stack: [PickleValue] = []
  private var marks: [Int] = []
  private var memo: [UInt32: PickleValue] = [:]
  private var storedValues = 0

  /// A reader of what starts at `range`; a pickle knows its own end.
  ///
  /// - Parameters:
  ///   - bytes: The whole file.
  ///   - range: What belongs to the pickle, or all that is left of the file.
  ///   - path: The file's name for errors.
  ///   - inertClasses: Further classes, whose objects are read as nothing.
  init(
    _ bytes: UnsafeRawBufferPointer, _ range: Range<Int>, path: String, inertClasses: Set<String> = [],
    limits: PickleLimits = PickleLimits()
  ) {
    self.bytes = bytes
    self.path = path
    self.inertClasses = inertClasses
    self.limits = limits
    start = range.lowerBound
    position = range.lowerBound
    end = min(range.upperBound, range.lowerBound + limits.bytes)
  }

  /// Reads one pickle to its end. What earlier ones made stays in the heap.
  ///
  /// - Throws: ``CheckpointError/malformed(file:expected:found:)``.
  mutating func load() throws -> PickleValue {
    stack.removeAll(keepingCapacity: true)
    marks.removeAll(keepingCapacity: true)
    memo.removeAll(keepingCapacity: true)
    while true {
      let opcode = try byte()
      if opcode == UInt8(ascii: ".") { return try pop() }
      try perform(opcode)
      guard stack.count + marks.count + storedValues <= limits.values, heap.count <= limits.objects,
        memo.count <= limits.memo
      else { throw failure("a pickle of reasonable size", "more than \(limits.objects) objects or their values") }
    }
  }

  /// An error at the present position.
  func failure(_ expected: String, _ found: String) -> CheckpointError {
    .malformed(file: path, expected: expected, found: "\(found) at byte \(position - start) of the pickle")
  }

  // MARK: Bytes

  private mutating func take(_ count: Int) throws -> Range<Int> {
    guard count >= 0, count <= end - position else {
      throw failure("a pickle with an end", end - start == limits.bytes ? "more than \(limits.bytes) bytes" : "its cut")
    }
    defer { position += count }
    return position..<position + count
  }

  private mutating func byte() throws -> UInt8 {
    let at = try take(1).lowerBound
    return bytes[at]
  }

  private mutating func number<Integer: FixedWidthInteger & BitwiseCopyable>(_: Integer.Type) throws -> Integer {
    let at = try take(MemoryLayout<Integer>.size).lowerBound
    return Integer(littleEndian: bytes.loadUnaligned(fromByteOffset: at, as: Integer.self))
  }

  private mutating func span<Integer: FixedWidthInteger>(_ count: Integer) throws -> PickleSpan {
    guard let count = Int(exactly: count) else { throw failure("a length", "\(count)") }
    let range = try take(count)
    return PickleSpan(start: UInt32(range.lowerBound - start), count: UInt32(count))
  }

  /// The bytes of a span.
  func raw(_ span: PickleSpan) -> UnsafeRawBufferPointer {
    let from = start + Int(span.start)
    return UnsafeRawBufferPointer(rebasing: bytes[from..<from + Int(span.count)])
  }

  /// The text of a span, or nil when it is no UTF-8.
  func text(_ span: PickleSpan) -> String? { String(validating: raw(span), as: UTF8.self) }

  private mutating func line() throws -> String {
    let from = position
    while try byte() != UInt8(ascii: "\n") {
      guard position - from <= 1000 else { throw failure("a name", "more than 1000 bytes") }
    }
    return printable(UnsafeRawBufferPointer(rebasing: bytes[from..<position - 1]))
  }

  // MARK: Stack

  private mutating func pop() throws -> PickleValue {
    guard stack.count > marks.last ?? 0, let value = stack.popLast() else {
      throw failure("a value on the stack", "none")
    }
    return value
  }

  private mutating func popMark() throws -> [PickleValue] {
    guard let mark = marks.popLast() else { throw failure("a mark on the stack", "none") }
    let values = Array(stack[mark...])
    stack.removeSubrange(mark...)
    return values
  }

  private func top() throws -> PickleValue {
    guard stack.count > marks.last ?? 0, let value = stack.last else {
      throw failure("a value on the stack", "none")
    }
    return value
  }

  private mutating func pushTuple(_ values: [PickleValue]) {
    storedValues += values.count
    heap.tuples.append(values)
    stack.append(.tuple(Int32(heap.tuples.count - 1)))
  }

  private mutating func pushList(_ values: [PickleValue]) {
    storedValues += values.count
    heap.lists.append(values)
    stack.append(.list(Int32(heap.lists.count - 1)))
  }

  private mutating func pushSet(_ values: [PickleValue]) {
    storedValues += values.count
    heap.sets.append(values)
    stack.append(.set(Int32(heap.sets.count - 1)))
  }

  private mutating func pushDictionary(_ pairs: [PickleValue]) throws {
    guard pairs.count % 2 == 0 else { throw failure("keys and values in pairs", "\(pairs.count) of them") }
    storedValues += pairs.count
    heap.dictionaries.append(pairs)
    stack.append(.dictionary(Int32(heap.dictionaries.count - 1)))
  }

  private mutating func remember(_ index: UInt32) throws { memo[index] = try top() }

  private mutating func recall(_ index: UInt32) throws {
    guard let value = memo[index] else { throw failure("a remembered value", "number \(index), which is none") }
    stack.append(value)
  }

  // MARK: Opcodes

  private mutating func perform(_ opcode: UInt8) throws {
    switch opcode {
    case 0x80:  // PROTO
      let version = try byte()
      guard version <= 5 else { throw failure("pickle protocol 2 to 5", "\(version)") }
    case 0x95: _ = try number(UInt64.self)  // FRAME: a hint on buffering
    case UInt8(ascii: "("): marks.append(stack.count)
    case UInt8(ascii: "0"): _ = try pop()
    case UInt8(ascii: "1"): _ = try popMark()
    case UInt8(ascii: "2"): stack.append(try top())
    case UInt8(ascii: "N"): stack.append(.none)
    case 0x88: stack.append(.bool(true))
    case 0x89: stack.append(.bool(false))
    case UInt8(ascii: "J"): stack.append(.int(Int(try number(Int32.self))))
    case UInt8(ascii: "K"): stack.append(.int(Int(try byte())))
    case UInt8(ascii: "M"): stack.append(.int(Int(try number(UInt16.self))))
    case 0x8a: stack.append(integer(try span(byte())))
    case 0x8b: stack.append(integer(try span(number(Int32.self))))
    case UInt8(ascii: "G"): stack.append(.float(Double(bitPattern: try number(UInt64.self).byteSwapped)))
    case UInt8(ascii: "X"): stack.append(.text(try span(number(UInt32.self))))
    case 0x8c: stack.append(.text(try span(byte())))
    case 0x8d: stack.append(.text(try span(number(UInt64.self))))
    case UInt8(ascii: "U"): stack.append(.text(try span(byte())))  // Python 2's strings
    case UInt8(ascii: "T"): stack.append(.text(try span(number(Int32.self))))
    case UInt8(ascii: "C"): stack.append(.bytes(try span(byte())))
    case UInt8(ascii: "B"): stack.append(.bytes(try span(number(UInt32.self))))
    case 0x8e, 0x96: stack.append(.bytes(try span(number(UInt64.self))))
    case UInt8(ascii: "h"): try recall(UInt32(byte()))
    case UInt8(ascii: "j"): try recall(number(UInt32.self))
    case UInt8(ascii: "q"): try remember(UInt32(byte()))
    case UInt8(ascii: "r"): try remember(number(UInt32.self))
    case 0x94: try remember(UInt32(memo.count))
    default: if try !performContainer(opcode) { try performObject(opcode) }
    }
  }

  private func integer(_ span: PickleSpan) -> PickleValue {
    guard span.count <= 8 else { return .long(span) }
    let bytes = raw(span)
    var value: UInt64 = (bytes.last ?? 0) >= 0x80 ? .max : 0
    for byte in bytes.reversed() { value = value << 8 | UInt64(byte) }
    return .int(Int(Int64(bitPattern: value)))
  }

  private mutating func performContainer(_ opcode: UInt8) throws -> Bool {
    switch opcode {
    case UInt8(ascii: ")"): pushTuple([])
    case UInt8(ascii: "t"): pushTuple(try popMark())
    case 0x85, 0x86, 0x87:
      var values: [PickleValue] = []
      for _ in 0..<Int(opcode - 0x84) { values.append(try pop()) }
      pushTuple(values.reversed())
    case UInt8(ascii: "]"): pushList([])
    case UInt8(ascii: "l"): pushList(try popMark())
    case UInt8(ascii: "}"): try pushDictionary([])
    case UInt8(ascii: "d"): try pushDictionary(popMark())
    case 0x8f: pushSet([])
    case 0x91: pushSet(try popMark())
    case UInt8(ascii: "a"): try extend([pop()], "append to")
    case UInt8(ascii: "e"): try extend(popMark(), "append to")
    case 0x90: try extend(popMark(), "add to")
    case UInt8(ascii: "s"):
      let value = try pop()
      try setItems([pop(), value])
    case UInt8(ascii: "u"): try setItems(popMark())
    default: return false
    }
    return true
  }

  private mutating func extend(_ values: [PickleValue], _ verb: String) throws {
    storedValues += values.count
    switch try top() {
    case .list(let index): heap.lists[Int(index)].append(contentsOf: values)
    case .set(let index): heap.sets[Int(index)].append(contentsOf: values)
    case .inert: break
    case let other: throw failure("a list to \(verb)", other.kind)
    }
  }

  private mutating func setItems(_ pairs: [PickleValue]) throws {
    guard pairs.count % 2 == 0 else { throw failure("keys and values in pairs", "\(pairs.count) of them") }
    storedValues += pairs.count
    switch try top() {
    case .dictionary(let index): heap.dictionaries[Int(index)].append(contentsOf: pairs)
    case .inert: break
    case let other: throw failure("a dictionary to set items of", other.kind)
    }
  }

  /// The opcodes that could do harm in Python.
  private mutating func performObject(_ opcode: UInt8) throws {
    switch opcode {
    case UInt8(ascii: "c"):
      let module = try line()
      stack.append(.global(try global("\(module).\(line())")))
    case 0x93:
      guard case .text(let name) = try pop(), case .text(let module) = try pop() else {
        throw failure("the name of a class", "something else")
      }
      stack.append(.global(try global("\(printable(raw(module))).\(printable(raw(name)))")))
    case UInt8(ascii: "R"), 0x81:  // REDUCE, NEWOBJ
      let arguments = try pop()
      guard case .global(let function) = try pop(), case .tuple(let index) = arguments else {
        throw failure("a call of one of PyTorch's functions", "a call of something else")
      }
      if opcode == 0x81 { try requireInert(function, "NEWOBJ") }
      try call(function, heap.tuples[Int(index)])
    case 0x92:  // NEWOBJ_EX
      _ = try pop()
      _ = try pop()
      guard case .global(let maker) = try pop() else { throw failure("a class", "something else") }
      try requireInert(maker, "NEWOBJ_EX")
      try call(maker, [])
    case UInt8(ascii: "b"):  // BUILD: the state of an object
      _ = try pop()
      switch try top() {
      // Attributes of a dictionary, the version numbers of `state_dict` for instance, are no weights.
      case .dictionary, .inert: break
      case let other: throw failure("no state for \(other.kind)", "a state (BUILD)")
      }
    case UInt8(ascii: "Q"): try persistentLoad(pop())
    case UInt8(ascii: "i"):
      let module = try line()
      throw refusal("\(module).\(try line())", "INST")
    case UInt8(ascii: "o"): throw failure("no objects of classes", "one (OBJ)")
    case 0x82: throw failure("no extension codes", "EXT1 \(try byte())")
    case 0x83: throw failure("no extension codes", "EXT2 \(try number(UInt16.self))")
    case 0x84: throw failure("no extension codes", "EXT4 \(try number(UInt32.self))")
    default:
      throw failure("opcodes of pickle protocol 2 to 5", "opcode 0x\(String(opcode, radix: 16))")
    }
  }

  private func requireInert(_ maker: PickleGlobal, _ opcode: String) throws {
    guard case .inert = maker else {
      throw failure("objects made by calls of PyTorch's functions", "\(maker) made in another way (\(opcode))")
    }
  }

  private func refusal(_ name: String, _ opcode: String) -> CheckpointError {
    .malformed(
      file: path, expected: "tensors, numbers, text and containers of them",
      found: "\(printable(name)) (\(opcode)), which is not read because loading it would run code")
  }

  private mutating func global(_ name: String) throws -> PickleGlobal {
    if let known = PickleGlobal.known[name] { return known }
    guard inertClasses.contains(name) else { throw refusal(name, "GLOBAL") }
    heap.classes.append(name)
    guard heap.classes.count <= limits.objects else { throw failure("a pickle of reasonable size", "more classes") }
    return .inert(Int32(heap.classes.count - 1))
  }

  // MARK: What PyTorch's functions make

  private mutating func call(_ function: PickleGlobal, _ arguments: [PickleValue]) throws {
    switch (function, arguments.count) {
    case (.inert(let name), _): stack.append(.inert(name))
    case (.orderedDictionary, 0), (.counter, 0): try pushDictionary([])
    case (.orderedDictionary, 1), (.counter, 1): try pushDictionary(pairs(arguments[0]))
    case (.set, 0): pushSet([])
    case (.set, 1): pushSet(try elements(arguments[0]))
    case (.byteArray, 0), (.device, 1...2): stack.append(.none)
    case (.byteArray, 1...2), (.encode, 1...2): stack.append(arguments[0])
    case (.size, 1): pushTuple(try elements(arguments[0]))
    case (.rebuildTensor, 4), (.rebuildTensorV2, 6...7):
      try rebuild(arguments, dtype: nil, metadata: arguments.count == 7 ? arguments[6] : .none)
    case (.rebuildTensorV3, 7...8):
      guard case .global(.dtype(let dtype)) = arguments[6] else {
        throw failure("the element type of a tensor", arguments[6].kind)
      }
      try rebuild(arguments, dtype: dtype, metadata: arguments.count == 8 ? arguments[7] : .none)
    case (.rebuildParameter, 3), (.rebuildParameterWithState, 4):
      guard case .tensor = arguments[0] else { throw failure("a tensor as parameter", arguments[0].kind) }
      stack.append(arguments[0])
    default: throw failure("a call that PyTorch writes", "\(function) with \(arguments.count) arguments")
    }
  }

  private func elements(_ value: PickleValue) throws -> [PickleValue] {
    switch value {
    case .tuple(let index): return heap.tuples[Int(index)]
    case .list(let index): return heap.lists[Int(index)]
    default: throw failure("a list or tuple", value.kind)
    }
  }

  private func pairs(_ value: PickleValue) throws -> [PickleValue] {
    if case .dictionary(let index) = value { return heap.dictionaries[Int(index)] }
    return try elements(value).flatMap { pair in
      let both = try elements(pair)
      guard both.count == 2 else { throw failure("pairs of key and value", "\(both.count) values") }
      return both
    }
  }

  private func integers(_ value: PickleValue, _ what: String) throws -> [Int] {
    guard case .tuple(let index) = value else { throw failure("\(what) in a tuple", value.kind) }
    let values = heap.tuples[Int(index)]
    guard values.count <= 64 else { throw failure("at most 64 dimensions", "\(values.count)") }
    return try values.map { value in
      guard case .int(let number) = value, number >= 0 else {
        if case .int(let number) = value { throw failure("\(what) of at least 0", "\(number)") }
        throw failure("\(what) as 64-bit integers", value.kind)
      }
      return number
    }
  }

  private mutating func rebuild(_ arguments: [PickleValue], dtype: DType?, metadata: PickleValue) throws {
    guard case .storage(let index) = arguments[0] else { throw failure("a tensor over a storage", arguments[0].kind) }
    guard case .int(let offset) = arguments[1], offset >= 0 else {
      throw failure("an offset of at least 0", arguments[1].kind)
    }
    switch metadata {
    case .none: break
    case .dictionary(let index) where heap.dictionaries[Int(index)].isEmpty: break
    default: throw failure("a plain tensor", "one that is conjugated or negated")
    }
    let shape = try integers(arguments[2], "sizes")
    let strides = try integers(arguments[3], "strides")
    guard shape.count == strides.count else {
      throw failure("a stride for each of \(shape.count) sizes", "\(strides.count) strides")
    }
    let storage = heap.storages[Int(index)]
    // Views of another type are made over storages of bytes alone.
    let type = dtype ?? storage.dtype
    guard type == storage.dtype || storage.dtype == .uint8 else {
      throw failure("\(type) elements", "a storage of \(storage.dtype)")
    }
    let room = storage.view.count * storage.dtype.byteCount / type.byteCount
    let tensor = PickleTensor(storage: index, dtype: type, offset: offset, shape: shape, strides: strides)
    guard let span = tensor.span, offset <= room, span <= room - offset else {
      throw failure(
        "a tensor inside its storage of \(room) elements", "sizes \(shape), strides \(strides) from element \(offset)")
    }
    // A few elements can be spread over any shape by strides of 0.
    guard let bytes = byteCount(shape, type), bytes <= max(room * type.byteCount, 64 << 20) else {
      throw failure("a tensor no larger than its storage", "sizes \(shape) over \(room) elements")
    }
    heap.tensors.append(tensor)
    stack.append(.tensor(Int32(heap.tensors.count - 1)))
  }

  private mutating func persistentLoad(_ value: PickleValue) throws {
    guard case .tuple(let index) = value, case let id = heap.tuples[Int(index)], id.count == 5 || id.count == 6,
      case .text(let kind) = id[0], raw(kind).elementsEqual("storage".utf8), case .global(.storage(let dtype)) = id[1],
      case .text(let keySpan) = id[2], keySpan.count <= 1000, let key = text(keySpan), case .int(let count) = id[4],
      count >= 0, byteCount([count], dtype) != nil
    else { throw failure("the type, key, place and size of a storage", "something else") }
    var view = 0..<count
    if id.count == 6, case .tuple(let index) = id[5] {
      let fields = heap.tuples[Int(index)]
      guard fields.count == 3, case .int(let offset) = fields[1], case .int(let length) = fields[2], offset >= 0,
        length >= 0, offset <= count, length <= count - offset
      else { throw failure("a view inside its storage", "something else") }
      view = offset..<offset + length
    }
    heap.storages.append(PickleStorage(key: key, dtype: dtype, count: count, view: view))
    stack.append(.storage(Int32(heap.storages.count - 1)))
  }
}

extension PickleTensor {
  /// The number of storage elements from the first to behind the last that is used, or nil when it does not fit.
  var span: Int? {
    guard !shape.contains(0) else { return 0 }
    var last = 0
    for (extent, stride) in zip(shape, strides) {
      let (step, overflow) = (extent - 1).multipliedReportingOverflow(by: stride)
      let (sum, overflowToo) = last.addingReportingOverflow(step)
      guard !overflow, !overflowToo else { return nil }
      last = sum
    }
    return last.addingReportingOverflow(1).overflow ? nil : last + 1
  }

  /// Whether the elements lie in order without gaps.
  var isContiguous: Bool {
    guard !shape.contains(0) else { return true }
    var expected = 1
    for (extent, stride) in zip(shape, strides).reversed() where extent != 1 {
      guard stride == expected else { return false }
      expected *= extent  // Fits: the tensor lies inside its storage.
    }
    return true
  }
}
