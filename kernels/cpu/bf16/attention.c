/* SPDX-License-Identifier: Apache-2.0 */
/* Attention of bf16. */
#include "bf16.h"

int BF16(attention)(int64_t sequences, int64_t s, int64_t heads, int64_t kv_heads, int64_t d,
                    const void *qkv, void *out, void *lse, STREAM)
{
  int64_t rows = sequences * s, size = rows * heads * d;
  float *wide = widen_all(FIRST, rows * (heads + 2 * kv_heads) * d, qkv);
  float *attended = neapi_bf16_scratch(SECOND, size);
  if (!wide || !attended)
    return NEAPI_KERNEL_MEMORY;
  int status = FLOAT(attention)(sequences, s, heads, kv_heads, d, wide, attended, lse, NULL);
  return narrow_all(status, size, attended, out);
}

int BF16(attention_backward)(int64_t sequences, int64_t s, int64_t heads, int64_t kv_heads,
                             int64_t d, const void *qkv, const void *out, const void *lse,
                             const void *dout, void *dqkv, STREAM)
{
  int64_t rows = sequences * s, width = rows * (heads + 2 * kv_heads) * d;
  float *wide = widen_all(FIRST, width, qkv);
  float *wide_out = widen_all(SECOND, rows * heads * d, out);
  float *grad = widen_all(THIRD, rows * heads * d, dout);
  float *result = neapi_bf16_scratch(FOURTH, width);
  if (!wide || !wide_out || !grad || !result)
    return NEAPI_KERNEL_MEMORY;
  int status = FLOAT(attention_backward)(sequences, s, heads, kv_heads, d, wide, wide_out, lse,
                                         grad, result, NULL);
  return narrow_all(status, width, result, dqkv);
}
