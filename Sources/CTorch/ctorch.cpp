#include "ctorch.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Parallel.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/headeronly/version.h>

#include <cstring>
#include <string>
#ifdef __GLIBC__
#include <malloc.h>
#endif

static thread_local std::string message;

template <class Body> static int32_t guard(Body &&body) noexcept {
  try {
    body();
    return CT_OK;
  } catch (const c10::Error &error) {
    message = error.what_without_backtrace();
    return CT_TORCH_ERROR;
  } catch (const std::exception &error) {
    message = error.what();
    return CT_STD_ERROR;
  } catch (...) {
    message = "unknown C++ exception";
    return CT_UNKNOWN_ERROR;
  }
}

static at::Tensor &tensor(ct_tensor handle) {
  TORCH_CHECK(handle.ctx, "no tensor where one is needed");
  return *static_cast<at::Tensor *>(handle.ctx);
}

static at::Generator &generator(ct_generator handle) {
  TORCH_CHECK(handle.ctx, "no generator where one is needed");
  return *static_cast<at::Generator *>(handle.ctx);
}

static ct_tensor handle(at::Tensor value) {
  return {value.defined() ? new at::Tensor(std::move(value)) : nullptr};
}

static c10::IValue to_ivalue(const ct_value &value, const c10::Argument &argument) {
  switch (value.tag) {
    case CT_NONE: return {};
    case CT_TENSOR: return value.tensor.ctx ? c10::IValue(tensor(value.tensor)) : c10::IValue();
    case CT_INT: return value.i;
    case CT_DOUBLE: return value.d;
    case CT_BOOL: return value.i != 0;
    case CT_INTS: return c10::IntArrayRef(static_cast<const int64_t *>(value.pointer), value.count).vec();
    case CT_DOUBLES: {
      auto first = static_cast<const double *>(value.pointer);
      return std::vector<double>(first, first + value.count);
    }
    case CT_TENSORS: {
      c10::List<at::Tensor> list;
      list.reserve(value.count);
      for (size_t k = 0; k < value.count; k++) list.push_back(tensor(static_cast<const ct_tensor *>(value.pointer)[k]));
      return list;
    }
    case CT_OPTIONAL_TENSORS: {
      c10::List<std::optional<at::Tensor>> list;
      list.reserve(value.count);
      for (size_t k = 0; k < value.count; k++) {
        auto item = static_cast<const ct_tensor *>(value.pointer)[k];
        list.push_back(item.ctx ? std::optional<at::Tensor>(tensor(item)) : std::nullopt);
      }
      return list;
    }
    case CT_STRING: {
      std::string text(static_cast<const char *>(value.pointer), value.count);
      auto kind = argument.type()->kind();
      if (kind == c10::TypeKind::OptionalType) kind = argument.type()->castRaw<c10::OptionalType>()->getElementType()->kind();
      if (kind == c10::TypeKind::DeviceObjType) return c10::Device(text);
      return text;
    }
    case CT_GENERATOR: return generator(value.generator);
    case CT_INVALID: TORCH_CHECK(false, "the argument ", argument.name(), " is the result of an operator that failed");
  }
  TORCH_CHECK(false, "unknown argument tag ", static_cast<int>(value.tag));
}

static void append(ct_tensor *out, size_t capacity, size_t *written, const at::Tensor &value) {
  TORCH_CHECK(*written < capacity, "more results than the caller has room for (", capacity, ")");
  out[(*written)++] = handle(value);
}

extern "C" {

const char *ct_last_error(void) { return message.c_str(); }
const char *ct_version(void) { return TORCH_VERSION; }

int32_t ct_find(const char *name, const char *overload, ct_operator *out) {
  return guard([&] {
    out->ctx = new c10::OperatorHandle(c10::Dispatcher::singleton().findSchemaOrThrow(name, overload));
  });
}

int32_t ct_call(ct_operator op, const ct_value *arguments, size_t count, ct_tensor *out, size_t capacity,
                size_t *written) {
  *written = 0;
  auto status = guard([&] {
    TORCH_CHECK(op.ctx, "no operator");
    auto &operation = *static_cast<c10::OperatorHandle *>(op.ctx);
    auto &schema = operation.schema().arguments();
    TORCH_CHECK(count <= schema.size(), operation.schema().name(), " takes ", schema.size(), " arguments, not ", count);
    torch::jit::Stack stack;
    stack.reserve(schema.size());
    for (size_t k = 0; k < count; k++) stack.push_back(to_ivalue(arguments[k], schema[k]));
    for (size_t k = count; k < schema.size(); k++) {
      TORCH_CHECK(schema[k].default_value(), operation.schema().name(), " lacks the argument ", schema[k].name());
      stack.push_back(*schema[k].default_value());
    }
    operation.callBoxed(stack);
    for (auto &result : stack) {
      if (result.isTensor()) {
        append(out, capacity, written, result.toTensor());
      } else if (result.isTensorList()) {
        for (const at::Tensor &item : result.toTensorList()) append(out, capacity, written, item);
      } else {
        TORCH_CHECK(result.isNone(), operation.schema().name(), " returned a ", result.tagKind(), ", not a tensor");
        append(out, capacity, written, {});
      }
    }
  });
  if (status != CT_OK) {
    for (size_t k = 0; k < *written; k++) ct_free(out[k]);
    *written = 0;
  }
  return status;
}

int32_t ct_wrap(void *data, const int64_t *sizes, size_t rank, int32_t dtype, void *owner, void (*release)(void *),
                ct_tensor *out) {
  return guard([&] {
    auto options = at::TensorOptions().dtype(static_cast<at::ScalarType>(dtype));
    *out = handle(at::from_blob(data, {sizes, rank}, [owner, release](void *) { release(owner); }, options));
  });
}

int32_t ct_copy_in(const void *data, const int64_t *sizes, size_t rank, int32_t dtype, ct_tensor *out) {
  return guard([&] {
    auto value = at::empty({sizes, rank}, at::TensorOptions().dtype(static_cast<at::ScalarType>(dtype)));
    if (value.nbytes()) std::memcpy(value.mutable_data_ptr(), data, value.nbytes());
    *out = handle(std::move(value));
  });
}

int32_t ct_copy_out(ct_tensor source, void *data, size_t bytes) {
  return guard([&] {
    auto value = tensor(source).detach().cpu().contiguous();
    TORCH_CHECK(value.nbytes() == bytes, "the tensor has ", value.nbytes(), " bytes, the buffer ", bytes);
    if (bytes) std::memcpy(data, value.const_data_ptr(), bytes);
  });
}

int32_t ct_item(ct_tensor source, double *out) {
  return guard([&] { *out = tensor(source).item().toDouble(); });
}

int32_t ct_item_int(ct_tensor source, int64_t *out) {
  return guard([&] { *out = tensor(source).item().toLong(); });
}

void ct_free(ct_tensor source) { delete static_cast<at::Tensor *>(source.ctx); }

size_t ct_rank(ct_tensor source) { return source.ctx ? static_cast<at::Tensor *>(source.ctx)->dim() : 0; }

void ct_sizes(ct_tensor source, int64_t *out) {
  if (!source.ctx) return;
  auto sizes = static_cast<at::Tensor *>(source.ctx)->sizes();
  for (size_t k = 0; k < sizes.size(); k++) out[k] = sizes[k];
}

int32_t ct_dtype(ct_tensor source) {
  return source.ctx ? static_cast<int32_t>(static_cast<at::Tensor *>(source.ctx)->scalar_type()) : -1;
}

bool ct_is_contiguous(ct_tensor source) {
  return source.ctx && static_cast<at::Tensor *>(source.ctx)->is_contiguous();
}

const void *ct_data(ct_tensor source) {
  if (!source.ctx) return nullptr;
  auto &value = *static_cast<at::Tensor *>(source.ctx);
  if (!value.device().is_cpu() || value.layout() != at::kStrided || !value.is_contiguous()) return nullptr;
  return value.const_data_ptr();
}

int32_t ct_device(ct_tensor source, char *out, size_t capacity) {
  return guard([&] {
    auto text = tensor(source).device().str();
    TORCH_CHECK(text.size() < capacity, "device name too long");
    std::memcpy(out, text.c_str(), text.size() + 1);
  });
}

int32_t ct_set_requires_grad(ct_tensor source, bool on) {
  return guard([&] {
    TORCH_CHECK(on || tensor(source).is_leaf(), "gradients of a computed tensor cannot be turned off: detach it");
    tensor(source).set_requires_grad(on);
  });
}

bool ct_requires_grad(ct_tensor source) {
  return source.ctx && static_cast<at::Tensor *>(source.ctx)->requires_grad();
}

int32_t ct_backward(ct_tensor source, ct_tensor gradient) {
  return guard([&] {
    torch::autograd::backward({tensor(source)}, gradient.ctx ? torch::autograd::variable_list{tensor(gradient)}
                                                             : torch::autograd::variable_list{});
  });
}

ct_tensor ct_gradient(ct_tensor source) {
  if (!source.ctx) return {nullptr};
  return handle(static_cast<at::Tensor *>(source.ctx)->grad());
}

int32_t ct_set_gradient(ct_tensor source, ct_tensor gradient) {
  return guard([&] {
    auto &value = tensor(source);
    if (!gradient.ctx) {
      value.mutable_grad() = at::Tensor();
      return;
    }
    auto &given = tensor(gradient);
    TORCH_CHECK(given.sizes() == value.sizes() && given.scalar_type() == value.scalar_type(), "a gradient of ",
                given.scalar_type(), " ", given.sizes(), " for a tensor of ", value.scalar_type(), " ", value.sizes());
    value.mutable_grad() = given;
  });
}

bool ct_grad_enabled(void) { return at::GradMode::is_enabled(); }
void ct_set_grad_enabled(bool on) { at::GradMode::set_enabled(on); }

int32_t ct_generator_new(uint64_t seed, ct_generator *out) {
  return guard([&] { out->ctx = new at::Generator(at::detail::createCPUGenerator(seed)); });
}

int32_t ct_default_generator(ct_generator *out) {
  return guard([&] { out->ctx = new at::Generator(at::detail::getDefaultCPUGenerator()); });
}

int32_t ct_generator_seed(ct_generator source, uint64_t seed) {
  return guard([&] {
    std::lock_guard<std::mutex> lock(generator(source).mutex());
    generator(source).set_current_seed(seed);
  });
}

int32_t ct_generator_state(ct_generator source, ct_tensor *out) {
  return guard([&] {
    std::lock_guard<std::mutex> lock(generator(source).mutex());
    *out = handle(generator(source).get_state());
  });
}

int32_t ct_generator_set_state(ct_generator source, ct_tensor state) {
  return guard([&] {
    std::lock_guard<std::mutex> lock(generator(source).mutex());
    generator(source).set_state(tensor(state));
  });
}

void ct_generator_free(ct_generator source) { delete static_cast<at::Generator *>(source.ctx); }

void ct_set_threads(int32_t count) { at::set_num_threads(count); }
int32_t ct_threads(void) { return at::get_num_threads(); }

void ct_tune_allocator(void) {
#ifdef __GLIBC__
  mallopt(M_MMAP_MAX, 0);
  mallopt(M_TRIM_THRESHOLD, 1 << 30);
#endif
}

}  // extern "C"
