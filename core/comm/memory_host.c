/* SPDX-License-Identifier: Apache-2.0 */
/* Buffers in host memory: copies, and reductions that add in rank order. */
#include "comm/transport.h"

#include <string.h>

enum { BLOCK = 512 }; /* elements that a fold keeps in cache */

/* fold_f32(out, sources, ranks, count, op): block by block, so that out may be a source. A NaN of
 * any rank stays in a maximum or minimum. */
#define DEFINE_FOLD(name, type, sum_type)                                                          \
  static void combine_##name(type *restrict sum, const type *restrict x, int64_t n, int op)        \
  {                                                                                                \
    if (op == NEAP_SUM)                                                                            \
      for (int64_t i = 0; i < n; i++)                                                              \
        sum[i] = (type)((sum_type)sum[i] + (sum_type)x[i]);                                        \
    else if (op == NEAP_MAX)                                                                       \
      for (int64_t i = 0; i < n; i++)                                                              \
        sum[i] = x[i] > sum[i] || x[i] != x[i] ? x[i] : sum[i];                                    \
    else                                                                                           \
      for (int64_t i = 0; i < n; i++)                                                              \
        sum[i] = x[i] < sum[i] || x[i] != x[i] ? x[i] : sum[i];                                    \
  }                                                                                                \
                                                                                                   \
  static void fold_##name(type *out, const void *const *sources, int32_t ranks, int64_t count,     \
                          int op)                                                                  \
  {                                                                                                \
    type sum[BLOCK];                                                                               \
    for (int64_t from = 0; from < count; from += BLOCK) {                                          \
      int64_t n = count - from < BLOCK ? count - from : BLOCK;                                     \
      memcpy(sum, (const type *)sources[0] + from, (size_t)n * sizeof(type));                      \
      for (int32_t r = 1; r < ranks; r++)                                                          \
        combine_##name(sum, (const type *)sources[r] + from, n, op);                               \
      memcpy(out + from, sum, (size_t)n * sizeof(type));                                           \
    }                                                                                              \
  }

DEFINE_FOLD(f32, float, float)
DEFINE_FOLD(f64, double, double)
DEFINE_FOLD(i32, int32_t, uint32_t) /* sums wrap around */
DEFINE_FOLD(i64, int64_t, uint64_t)

static int fold(void *out, const void *const *sources, int32_t ranks, int64_t count, int dtype,
                int op)
{
  switch (dtype) {
  case NEAP_F32:
    fold_f32(out, sources, ranks, count, op);
    break;
  case NEAP_F64:
    fold_f64(out, sources, ranks, count, op);
    break;
  case NEAP_I32:
    fold_i32(out, sources, ranks, count, op);
    break;
  default:
    fold_i64(out, sources, ranks, count, op);
  }
  return NEAP_OK;
}

static int copy(void *to, const void *from, int64_t bytes)
{
  if (bytes && to != from)
    memmove(to, from, (size_t)bytes);
  return NEAP_OK;
}

static void *allocate(int64_t bytes, const char *what)
{
  return neapi_memory_alloc(NEAPI_HOST, bytes, what);
}

static void release(void *memory)
{
  neapi_memory_free(NEAPI_HOST, memory);
}

const neapi_memory_ops neapi_host_memory = {allocate, release, copy, fold};
