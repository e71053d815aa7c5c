internal import CTorch

/// A seeded source of random numbers on the CPU.
public final class Generator: @unchecked Sendable {
  let handle: ct_generator

  /// A generator of its own.
  public init(seed: UInt64) {
    var handle = ct_generator(ctx: nil)
    check(ct_generator_new(seed, &handle))
    self.handle = handle
  }

  private init(owning handle: ct_generator) { self.handle = handle }

  deinit { ct_generator_free(handle) }

  /// The generator that operators without one of their own use, dropout among them.
  public static var `default`: Generator {
    var handle = ct_generator(ctx: nil)
    check(ct_default_generator(&handle))
    return Generator(owning: handle)
  }

  /// Starts the sequence anew.
  public func seed(_ seed: UInt64) { check(ct_generator_seed(handle, seed)) }

  /// The whole state `[bytes]` of `uint8`, to go on from later.
  public var state: Tensor {
    get {
      var out = ct_tensor(ctx: nil)
      check(ct_generator_state(handle, &out))
      return Tensor(owning: out)
    }
    set { check(ct_generator_set_state(handle, newValue.handle)) }
  }
}
