/* SPDX-License-Identifier: Apache-2.0 */
/* Tensors: dense arrays on the host, views of them, and the checks of shapes. */
#include "tensor/tensor.h"

#include "base/dtype.h"
#include "base/memory.h"

#include <refusal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- life ------------------------------------------------------------------------------------ */

/* Writes "(4, 7)". */
static void describe(char *text, size_t size, int32_t ndim, const int64_t *dims)
{
  size_t used = (size_t)snprintf(text, size, "(");
  for (int32_t i = 0; i < ndim && used < size; i++) {
    const char *form = dims[i] == NEAPI_ANY ? "%sany" : "%s%lld";
    used += (size_t)snprintf(text + used, size - used, form, i ? ", " : "", (long long)dims[i]);
  }
  if (used < size)
    snprintf(text + used, size - used, ")");
}

static int check_dims(int dtype, int32_t ndim, const int64_t *dims, int64_t *count)
{
  if (ndim < 1 || ndim > NEAPI_DIMS)
    return neapi_fail(NEAP_ARGUMENT, "tensor: %d dimensions; allowed are 1 to %d", ndim,
                      NEAPI_DIMS);
  if (!neap_dtype_size(dtype))
    return neapi_fail(NEAP_ARGUMENT,
                      "tensor: dtype %d; allowed are those of bf16, f32, f64, i32, i64, u8", dtype);
  *count = 1;
  for (int32_t i = 0; i < ndim; i++) {
    if (dims[i] < 0)
      return neapi_fail(NEAP_ARGUMENT, "tensor: dimension %d is %lld; it must be 0 or more", i,
                        (long long)dims[i]);
    if (__builtin_mul_overflow(*count, dims[i], count) || *count > INT64_MAX / 64)
      return neapi_fail(NEAP_MEMORY, "tensor: too many elements from dimension %d on", i);
  }
  return NEAP_OK;
}

static neap_tensor *make(int dtype, int32_t ndim, const int64_t *dims, int64_t count,
                         neapi_memory_kind memory)
{
  neap_tensor *t = neapi_alloc_zero(sizeof *t, "tensor");
  if (!t)
    return NULL;
  t->dtype = dtype;
  t->ndim = ndim;
  memcpy(t->dims, dims, (size_t)ndim * sizeof *dims);
  t->count = count;
  t->memory = memory;
  t->references = 1;
  return t;
}

static neapi_memory_kind memory_of(int dtype)
{
  bool real = dtype == NEAP_F32 || dtype == NEAP_BF16 || dtype == NEAP_F64; /* F64: for sums */
  return real ? neapi_memory_of_reals() : neapi_memory_of_integers();
}

static int open_at(neapi_memory_kind memory, int dtype, int32_t ndim, const int64_t *dims,
                   neap_tensor **out)
{
  int64_t count;
  int status = check_dims(dtype, ndim, dims, &count);
  if (status)
    return status;
  neap_tensor *t = make(dtype, ndim, dims, count, memory);
  if (!t)
    return NEAP_MEMORY;
  t->data = neapi_memory_alloc(memory, count * neap_dtype_size(dtype), "tensor");
  if (!t->data) {
    free(t);
    return NEAP_MEMORY;
  }
  *out = t;
  return NEAP_OK;
}

int neap_tensor_open(int dtype, int32_t ndim, const int64_t *dims, neap_tensor **out)
{
  return open_at(memory_of(dtype), dtype, ndim, dims, out);
}

int neap_tensor_open_over(int dtype, int32_t ndim, const int64_t *dims, void *data,
                          neap_tensor **out)
{
  int64_t count;
  int status = check_dims(dtype, ndim, dims, &count);
  if (status)
    return status;
  static char nothing[64]; /* where the elements of an empty tensor are */
  if (!data && count)
    return neapi_fail(NEAP_ARGUMENT, "tensor over memory: NULL has no %lld elements",
                      (long long)count);
  neap_tensor *t = make(dtype, ndim, dims, count, memory_of(dtype));
  if (!t)
    return NEAP_MEMORY;
  t->data = data ? data : nothing;
  t->borrowed = true;
  *out = t;
  return NEAP_OK;
}

int neap_tensor_open_host(int dtype, int32_t ndim, const int64_t *dims, neap_tensor **out)
{
  return open_at(NEAPI_HOST, dtype, ndim, dims, out);
}

int neap_tensor_on_host(const neap_tensor *t)
{
  return t->memory != NEAPI_GPU;
}

int neap_tensor_view(neap_tensor *parent, int64_t offset, int32_t ndim, const int64_t *dims,
                     neap_tensor **out)
{
  if (!parent)
    return neapi_fail(NEAP_ARGUMENT, "tensor view: the parent is NULL");
  int64_t count;
  int status = check_dims(parent->dtype, ndim, dims, &count);
  if (status)
    return status;
  if (offset < 0 || offset > parent->count || count > parent->count - offset)
    return neapi_fail(NEAP_SHAPE, "tensor view: elements %lld to %lld of a tensor of %lld elements",
                      (long long)offset, (long long)(offset + count), (long long)parent->count);
  neap_tensor *t = make(parent->dtype, ndim, dims, count, parent->memory);
  if (!t)
    return NEAP_MEMORY;
  t->data = parent->data + offset * neap_dtype_size(parent->dtype);
  t->parent = neapi_tensor_share(parent->parent ? parent->parent : parent);
  *out = t;
  return NEAP_OK;
}

neap_tensor *neapi_tensor_share(const neap_tensor *tensor)
{
  neap_tensor *t = (neap_tensor *)tensor;
  __atomic_add_fetch(&t->references, 1, __ATOMIC_RELAXED);
  return t;
}

void neap_tensor_close(neap_tensor *t)
{
  if (!t || __atomic_sub_fetch(&t->references, 1, __ATOMIC_ACQ_REL))
    return;
  if (t->parent)
    neap_tensor_close(t->parent);
  else if (!t->borrowed)
    neapi_memory_free(t->memory, t->data);
  free(t);
}

void *neap_tensor_data(const neap_tensor *t)
{
  return t->data;
}

int neap_tensor_dtype(const neap_tensor *t)
{
  return t->dtype;
}

int32_t neap_tensor_ndim(const neap_tensor *t)
{
  return t->ndim;
}

int64_t neap_tensor_dim(const neap_tensor *t, int32_t axis)
{
  return axis >= 0 && axis < t->ndim ? t->dims[axis] : 1;
}

int64_t neap_tensor_count(const neap_tensor *t)
{
  return t->count;
}

/* ---- checks ---------------------------------------------------------------------------------- */

static int expect(const char *operation, const char *argument, const neap_tensor *t, int dtype,
                  int32_t ndim, const int64_t *dims)
{
  if (!t)
    return neapi_fail(NEAP_ARGUMENT, "%s: %s is NULL", operation, argument);
  bool fits = t->dtype == dtype && t->ndim == ndim;
  for (int32_t i = 0; fits && i < ndim; i++)
    fits = dims[i] == NEAPI_ANY || dims[i] == t->dims[i];
  if (fits)
    return NEAP_OK;
  char got[128], wanted[128];
  describe(got, sizeof got, t->ndim, t->dims);
  describe(wanted, sizeof wanted, ndim, dims);
  return neapi_fail(NEAP_SHAPE, "%s: %s is %s %s; expected %s %s", operation, argument,
                    neapi_dtype_name(t->dtype), got, neapi_dtype_name(dtype), wanted);
}

int neapi_tensor_vector(const char *operation, const char *argument, const neap_tensor *tensor,
                        int dtype, int64_t rows)
{
  return expect(operation, argument, tensor, dtype, 1, &rows);
}

int neapi_tensor_matrix(const char *operation, const char *argument, const neap_tensor *tensor,
                        int dtype, int64_t rows, int64_t columns)
{
  return expect(operation, argument, tensor, dtype, 2, (const int64_t[]){rows, columns});
}

int neapi_tensor_elements(const char *operation, const char *argument, const neap_tensor *t,
                          int dtype, int64_t count)
{
  if (!t)
    return neapi_fail(NEAP_ARGUMENT, "%s: %s is NULL", operation, argument);
  if (t->dtype == dtype && (count == NEAPI_ANY || t->count == count))
    return NEAP_OK;
  char got[128];
  describe(got, sizeof got, t->ndim, t->dims);
  if (count == NEAPI_ANY)
    return neapi_fail(NEAP_SHAPE, "%s: %s is %s %s; expected %s", operation, argument,
                      neapi_dtype_name(t->dtype), got, neapi_dtype_name(dtype));
  return neapi_fail(NEAP_SHAPE, "%s: %s is %s %s; expected %s with %lld elements", operation,
                    argument, neapi_dtype_name(t->dtype), got, neapi_dtype_name(dtype),
                    (long long)count);
}

static int any_float(const char *operation, const char *argument, const neap_tensor *t)
{
  if (t->dtype == NEAP_F32 || t->dtype == NEAP_F64 || t->dtype == NEAP_BF16)
    return NEAP_OK;
  return neapi_fail(NEAP_SHAPE, "%s: %s is %s; expected f32, f64 or bf16", operation, argument,
                    neapi_dtype_name(t->dtype));
}

int neapi_tensor_real(const char *operation, const char *argument, const neap_tensor *t)
{
  if (!t)
    return neapi_fail(NEAP_ARGUMENT, "%s: %s is NULL", operation, argument);
  if (t->dtype == NEAP_F64 && t->memory == NEAPI_GPU)
    return neapi_fail(NEAP_ABSENT, "%s: %s is f64 on a GPU, where only exact sums are; use f32",
                      operation, argument);
  return any_float(operation, argument, t);
}

int neapi_tensor_acc(const char *operation, const char *argument, const neap_tensor *t)
{
  if (t && t->dtype == NEAP_BF16)
    return neapi_fail(NEAP_SHAPE, "%s: %s is bf16; expected f32 or f64", operation, argument);
  return neapi_tensor_real(operation, argument, t);
}

int neapi_tensor_ids(const char *operation, const neap_tensor *ids, int64_t rows, int64_t least,
                     int64_t end)
{
  int status = neapi_tensor_vector(operation, "ids", ids, NEAP_I32, rows);
  if (status)
    return status;
  const int32_t *id = (const int32_t *)ids->data;
  for (int64_t i = 0; i < ids->count; i++)
    if (id[i] < least || id[i] >= end)
      return neapi_fail(NEAP_ARGUMENT, "%s: id %d of row %lld; allowed are %lld to %lld", operation,
                        id[i], (long long)i, (long long)least, (long long)end - 1);
  return NEAP_OK;
}

static const neapi_kernels *cpu_kernels(int dtype)
{
  if (dtype == NEAP_F64)
    return neapi_kernels_f64();
  return dtype == NEAP_BF16 ? neapi_kernels_bf16() : neapi_kernels_f32();
}

static const neapi_kernels *gpu_kernels(int dtype)
{
#ifdef NEAP_CUDA
  return dtype == NEAP_BF16 ? neapi_kernels_cuda_bf16() : neapi_kernels_cuda_f32();
#else
  (void)dtype;
  return NULL;
#endif
}

const neapi_kernels *neapi_kernels_of(int dtype)
{
  if (dtype == NEAP_F64 && neapi_require_cpu("f64"))
    return NULL;
  return neapi_on_gpu() ? gpu_kernels(dtype) : cpu_kernels(dtype);
}

const neapi_kernels *neapi_tensor_kernels(const neap_tensor *tensor)
{
  return tensor->memory == NEAPI_GPU ? gpu_kernels(tensor->dtype) : cpu_kernels(tensor->dtype);
}

int neapi_kernel_status_of(const char *operation, int result)
{
  if (result == NEAPI_KERNEL_OK)
    return NEAP_OK;
  if (result == NEAPI_KERNEL_MEMORY)
    return neapi_fail(NEAP_MEMORY, "%s: no memory for the kernel's scratch", operation);
#ifdef NEAP_CUDA
  return neapi_fail(NEAP_SYSTEM, "%s: %s", operation, neapi_kernels_cuda_refusal());
#else
  return neapi_fail(NEAP_SYSTEM, "%s: the device refused", operation);
#endif
}

/* ---- content --------------------------------------------------------------------------------- */

#define FILL(type)                                                                                 \
  do {                                                                                             \
    type *x = (type *)t->data;                                                                     \
    for (int64_t i = 0; i < t->count; i++)                                                         \
      x[i] = (type)value;                                                                          \
  } while (0)

static int check_whole(const neap_tensor *t, double value, double least, double most)
{
  if (value >= least && value <= most)
    return NEAP_OK;
  return neapi_fail(NEAP_ARGUMENT, "tensor fill: %g does not fit into %s", value,
                    neapi_dtype_name(t->dtype));
}

/* F64 on a GPU has no kernels of its own. */
static int fill_sums(neap_tensor *t, double value)
{
  if (value != 0)
    return neapi_fail(NEAP_ABSENT, "tensor fill: %g into f64 on a GPU; there it can be 0", value);
  neapi_memory_zero(NEAPI_GPU, t->data, t->count * 8);
  return NEAP_OK;
}

int neap_tensor_fill(neap_tensor *t, double value)
{
  int status = NEAP_OK;
  switch (t->dtype) {
  case NEAP_I32:
    status = check_whole(t, value, INT32_MIN, INT32_MAX);
    if (!status)
      FILL(int32_t);
    return status;
  case NEAP_I64:
    status = check_whole(t, value, -0x1p63, 0x1.fffffffffffffp62);
    if (!status)
      FILL(int64_t);
    return status;
  case NEAP_U8:
    status = check_whole(t, value, 0, UINT8_MAX);
    if (!status)
      FILL(uint8_t);
    return status;
  case NEAP_F64:
    if (t->memory == NEAPI_GPU)
      return fill_sums(t, value);
  /* fall through */
  default:
    return neapi_kernel_status_of(
        "tensor fill", neapi_tensor_kernels(t)->fill(t->count, value, t->data, neapi_stream()));
  }
}

static void draw(int dtype, void *data, int64_t count, uint64_t seed, uint64_t stream,
                 int64_t first, double scale)
{
  for (int64_t i = 0; i < count; i++) {
    double value = scale * neap_random_normal(seed, stream, (uint64_t)(first + i));
    if (dtype == NEAP_F32)
      ((float *)data)[i] = (float)value;
    else if (dtype == NEAP_BF16)
      neapi_kernels_bf16()->from_double(1, &value, (uint16_t *)data + i, NULL);
    else
      ((double *)data)[i] = value;
  }
}

int neapi_draw(neapi_memory_kind memory, int dtype, void *data, int64_t count, uint64_t seed,
               uint64_t stream, int64_t first, double scale)
{
  if (memory != NEAPI_GPU) {
    draw(dtype, data, count, seed, stream, first, scale);
    return NEAP_OK;
  }
  if (dtype == NEAP_F32)
    return neapi_gpu_draw(data, count, seed, stream, first, scale);
  int64_t bytes = count * neap_dtype_size(dtype);
  void *values = neapi_alloc(bytes, "random numbers");
  if (!values)
    return NEAP_MEMORY;
  draw(dtype, values, count, seed, stream, first, scale);
  int status = neapi_copy(data, values, bytes);
  free(values);
  return status;
}

int neap_tensor_normal(neap_tensor *t, uint64_t seed, uint64_t stream, int64_t first, double scale)
{
  int status = neapi_tensor_real("tensor normal", "tensor", t);
  if (status)
    return status;
  return neapi_draw(t->memory, t->dtype, t->data, t->count, seed, stream, first, scale);
}

static int check_range(const char *argument, const neap_tensor *t, int64_t offset, int64_t count)
{
  int status = t ? any_float("tensor copy", argument, t)
                 : neapi_fail(NEAP_ARGUMENT, "tensor copy: %s is NULL", argument);
  if (!status && (offset < 0 || count < 0 || offset > t->count || count > t->count - offset))
    status = neapi_fail(NEAP_SHAPE, "tensor copy: %lld elements at %lld of %s, which has %lld",
                        (long long)count, (long long)offset, argument, (long long)t->count);
  return status;
}

/* Between two dtypes, of which one is F64 or BF16. */
static int convert(const neap_tensor *to, void *target, const neap_tensor *from, const void *source,
                   int64_t count)
{
  const neapi_kernels *k_to = neapi_tensor_kernels(to), *k_from = neapi_tensor_kernels(from);
  if (to->dtype == NEAP_F64)
    return k_from->to_double(count, source, target, neapi_stream());
  if (from->dtype == NEAP_F64)
    return k_to->from_double(count, source, target, neapi_stream());
  if (to->dtype == NEAP_BF16)
    return k_to->from_acc(count, source, target, neapi_stream());
  return k_from->to_acc(count, source, target, neapi_stream());
}

int neap_tensor_copy(neap_tensor *to, int64_t to_offset, const neap_tensor *from,
                     int64_t from_offset, int64_t count)
{
  int status = check_range("to", to, to_offset, count);
  if (!status)
    status = check_range("from", from, from_offset, count);
  if (status)
    return status;
  char *target = to->data + to_offset * neap_dtype_size(to->dtype);
  const char *source = from->data + from_offset * neap_dtype_size(from->dtype);
  if (to->dtype == from->dtype) {
    status = neapi_copy(target, source, count * neap_dtype_size(to->dtype));
    return status || to->memory == from->memory ? status : neapi_stream_wait();
  }
  if (to->memory != from->memory)
    return neapi_fail(NEAP_SHAPE, "tensor copy: from %s to %s between host and GPU; convert first",
                      neapi_dtype_name(from->dtype), neapi_dtype_name(to->dtype));
  return neapi_kernel_status_of("tensor copy", convert(to, target, from, source, count));
}
