import Torch

/// What a pickle can hold here: data, and nothing that could act.
///
/// Containers are numbers into the arrays of ``PickleHeap``, so that a container of containers of containers is a row of
/// entries, not a tower whose visit or release would need as much stack.
enum PickleValue {
  case none
  case bool(Bool)
  case int(Int)
  /// An integer of more than 64 bits, as its little-endian bytes.
  case long(PickleSpan)
  case float(Double)
  case text(PickleSpan)
  case bytes(PickleSpan)
  case tuple(Int32)
  case list(Int32)
  case set(Int32)
  case dictionary(Int32)
  case global(PickleGlobal)
  case storage(Int32)
  case tensor(Int32)
  /// An object of a class that the caller allowed: its name is kept, its state dropped.
  case inert(Int32)

  /// The kind of value, for messages.
  var kind: String {
    switch self {
    case .none: "None"
    case .bool: "a truth value"
    case .int, .long: "an integer"
    case .float: "a number"
    case .text: "text"
    case .bytes: "bytes"
    case .tuple: "a tuple"
    case .list: "a list"
    case .set: "a set"
    case .dictionary: "a dictionary"
    case .global: "a class or function"
    case .storage: "a storage"
    case .tensor: "a tensor"
    case .inert: "an object"
    }
  }
}

/// A run of bytes in a pickle.
struct PickleSpan {
  let start: UInt32
  let count: UInt32
}

/// The classes and functions that a pickle may name. Naming one runs nothing: each stands for what the reader does.
enum PickleGlobal: Equatable {
  case orderedDictionary
  case counter
  case size
  case device
  case encode
  case byteArray
  case set
  case rebuildTensor
  case rebuildTensorV2
  case rebuildTensorV3
  case rebuildParameter
  case rebuildParameterWithState
  case storage(DType)
  case dtype(DType)
  /// A class that the caller allowed.
  case inert(Int32)

  /// All of them, by the names that PyTorch writes.
  static let known: [String: PickleGlobal] = [
    "collections.OrderedDict": .orderedDictionary, "collections.Counter": .counter,
    "torch.Size": .size, "torch.device": .device, "_codecs.encode": .encode,
    "__builtin__.bytearray": .byteArray, "builtins.bytearray": .byteArray,
    "__builtin__.set": .set, "builtins.set": .set, "__builtin__.frozenset": .set, "builtins.frozenset": .set,
    "torch._utils._rebuild_tensor": .rebuildTensor, "torch._utils._rebuild_tensor_v2": .rebuildTensorV2,
    "torch._utils._rebuild_tensor_v3": .rebuildTensorV3, "torch._utils._rebuild_parameter": .rebuildParameter,
    "torch._utils._rebuild_parameter_with_state": .rebuildParameterWithState,
    "torch.FloatStorage": .storage(.float32), "torch.DoubleStorage": .storage(.float64),
    "torch.HalfStorage": .storage(.float16), "torch.BFloat16Storage": .storage(.bfloat16),
    "torch.LongStorage": .storage(.int64), "torch.IntStorage": .storage(.int32),
    "torch.ShortStorage": .storage(.int16), "torch.CharStorage": .storage(.int8),
    "torch.ByteStorage": .storage(.uint8), "torch.BoolStorage": .storage(.bool),
    "torch.storage.UntypedStorage": .storage(.uint8), "torch.UntypedStorage": .storage(.uint8),
    "torch.float32": .dtype(.float32), "torch.float64": .dtype(.float64), "torch.float16": .dtype(.float16),
    "torch.bfloat16": .dtype(.bfloat16), "torch.int64": .dtype(.int64), "torch.int32": .dtype(.int32),
    "torch.int16": .dtype(.int16), "torch.int8": .dtype(.int8), "torch.uint8": .dtype(.uint8),
    "torch.bool": .dtype(.bool),
  ]
}

/// A storage that a pickle speaks of: elements that lie outside the pickle.
struct PickleStorage {
  let key: String
  let dtype: DType
  /// Elements of the whole storage.
  let count: Int
  /// Where a view into it starts, in elements, and how many it has; the whole storage when there is none.
  let view: Range<Int>
}

/// A tensor over a storage, in elements. Checked against the storage.
struct PickleTensor {
  let storage: Int32
  let dtype: DType
  let offset: Int
  let shape: [Int]
  let strides: [Int]
}

/// All containers that a pickle makes.
struct PickleHeap {
  var tuples: [[PickleValue]] = []
  var lists: [[PickleValue]] = []
  var sets: [[PickleValue]] = []
  /// Keys and values in turn.
  var dictionaries: [[PickleValue]] = []
  var storages: [PickleStorage] = []
  var tensors: [PickleTensor] = []
  /// Names of the classes of inert objects.
  var classes: [String] = []

  /// Containers and tensors together.
  var count: Int {
    tuples.count + lists.count + sets.count + dictionaries.count + storages.count + tensors.count
  }
}

/// What a pickle may cost at most.
struct PickleLimits {
  /// Bytes of the pickle, without what lies outside it.
  var bytes = 64 << 20
  /// Containers, storages and tensors.
  var objects = 1_000_000
  /// Values on the stack and in containers together.
  var values = 4_000_000
  /// Remembered values.
  var memo = 2_000_000
}
