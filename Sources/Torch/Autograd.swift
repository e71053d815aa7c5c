internal import CTorch

extension Tensor {
  /// Whether autograd records operations on this tensor.
  public var requiresGrad: Bool {
    get { ct_requires_grad(handle) }
    set { check(ct_set_requires_grad(handle, newValue)) }
  }

  /// The gradient that ``backward(_:)`` has summed up, or none.
  public var grad: Tensor? {
    get {
      let gradient = ct_gradient(handle)
      return gradient.ctx == nil ? nil : Tensor(owning: gradient)
    }
    set { check(ct_set_gradient(handle, newValue?.handle ?? ct_tensor(ctx: nil))) }
  }

  /// Adds the gradient of this tensor to every leaf that requires one.
  ///
  /// - Parameter gradient: The gradient with respect to this tensor, of its shape; 1 when it has one element.
  public func backward(_ gradient: Tensor? = nil) {
    check(ct_backward(handle, gradient?.handle ?? ct_tensor(ctx: nil)))
  }

  /// The same values outside the graph; shares storage.
  public func detached() -> Tensor { Ops.detach(.tensor(self)) }
}

/// Runs `body` without recording for autograd. Synchronous, since the mode belongs to the thread.
public func withNoGrad<Result>(_ body: () throws -> Result) rethrows -> Result {
  let before = ct_grad_enabled()
  ct_set_grad_enabled(false)
  defer { ct_set_grad_enabled(before) }
  return try body()
}

/// Settings of the whole process.
public enum TorchRuntime {
  /// The number of threads an operator may use.
  public static var threads: Int {
    get { Int(ct_threads()) }
    set { ct_set_threads(Int32(clamping: max(newValue, 1))) }
  }

  /// LibTorch's version.
  public static var version: String { String(cString: ct_version()) }

  /// Keeps freed memory in the process (glibc only): large blocks are otherwise returned and faulted in at every step.
  public static func tuneAllocator() { ct_tune_allocator() }
}
