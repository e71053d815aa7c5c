// A C interface to LibTorch: any operator through the dispatcher, autograd, generators, raw storage.
//
// Every function that can fail returns 0 on success or a status below; `ct_last_error` then gives the message on the
// same thread. No C++ exception crosses this line. Handles are one-pointer structs so that kinds never mix.
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct { void *ctx; } ct_tensor;     // owns an at::Tensor; ctx == NULL stands for "no tensor"
typedef struct { void *ctx; } ct_operator;   // borrowed from the process-wide table, never freed
typedef struct { void *ctx; } ct_generator;  // owns an at::Generator

enum { CT_OK = 0, CT_TORCH_ERROR = 1, CT_STD_ERROR = 2, CT_UNKNOWN_ERROR = 3 };

typedef enum {
  CT_NONE,
  CT_TENSOR,            // .tensor; ctx == NULL is None
  CT_INT,               // .i; also dtypes and memory formats
  CT_DOUBLE,            // .d
  CT_BOOL,              // .i != 0
  CT_INTS,              // .pointer to count int64_t
  CT_DOUBLES,           // .pointer to count double
  CT_TENSORS,           // .pointer to count ct_tensor
  CT_OPTIONAL_TENSORS,  // .pointer to count ct_tensor, NULL ones are None
  CT_STRING,            // .pointer to count bytes of UTF-8; devices too, where the schema asks for one
  CT_GENERATOR,         // .generator
  CT_INVALID            // the result of a call that failed; always an error
} ct_tag;

typedef struct {
  ct_tag tag;
  union {
    ct_tensor tensor;
    ct_generator generator;
    int64_t i;
    double d;
    const void *pointer;
  };
  size_t count;
} ct_value;

const char *ct_last_error(void);
const char *ct_version(void);

// Operators. Arguments that are left out at the end take the schema's defaults. Results are written to `out` in order,
// lists flattened; an undefined tensor becomes a NULL handle. `written` gets their number.
int32_t ct_find(const char *name, const char *overload, ct_operator *out);
int32_t ct_call(ct_operator op, const ct_value *arguments, size_t count, ct_tensor *out, size_t capacity, size_t *written);

// Tensors. `ct_wrap` borrows memory until `release(owner)` is called; `ct_copy_in` copies it.
int32_t ct_wrap(void *data, const int64_t *sizes, size_t rank, int32_t dtype, void *owner, void (*release)(void *),
                ct_tensor *out);
int32_t ct_copy_in(const void *data, const int64_t *sizes, size_t rank, int32_t dtype, ct_tensor *out);
int32_t ct_copy_out(ct_tensor tensor, void *data, size_t bytes);
int32_t ct_item(ct_tensor tensor, double *out);
int32_t ct_item_int(ct_tensor tensor, int64_t *out);
void ct_free(ct_tensor tensor);
size_t ct_rank(ct_tensor tensor);
void ct_sizes(ct_tensor tensor, int64_t *out);
int32_t ct_dtype(ct_tensor tensor);
bool ct_is_contiguous(ct_tensor tensor);
const void *ct_data(ct_tensor tensor);  // NULL unless contiguous, dense and on the CPU
int32_t ct_device(ct_tensor tensor, char *out, size_t capacity);

// Autograd. Grad mode is thread-local.
int32_t ct_set_requires_grad(ct_tensor tensor, bool on);
bool ct_requires_grad(ct_tensor tensor);
int32_t ct_backward(ct_tensor tensor, ct_tensor gradient);
ct_tensor ct_gradient(ct_tensor tensor);
int32_t ct_set_gradient(ct_tensor tensor, ct_tensor gradient);
bool ct_grad_enabled(void);
void ct_set_grad_enabled(bool on);

// Random numbers. `ct_default_generator` is the one that dropout and the like use.
int32_t ct_generator_new(uint64_t seed, ct_generator *out);
int32_t ct_default_generator(ct_generator *out);
int32_t ct_generator_seed(ct_generator generator, uint64_t seed);
int32_t ct_generator_state(ct_generator generator, ct_tensor *out);
int32_t ct_generator_set_state(ct_generator generator, ct_tensor state);
void ct_generator_free(ct_generator generator);

// Process. `ct_tune_allocator` keeps freed blocks in the process (glibc), which steadies training steps.
void ct_set_threads(int32_t count);
int32_t ct_threads(void);
void ct_tune_allocator(void);

#ifdef __cplusplus
}
#endif
