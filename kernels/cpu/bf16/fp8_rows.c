/* SPDX-License-Identifier: Apache-2.0 */
/* Rows of tokens in FP8, from bf16 and into it. */
#include "bf16.h"
#include "e4m3.h"

int BF16(scatter_e4m3)(int64_t t, int64_t k, int64_t h, const int32_t *position, const void *x,
                       void *packed, void *stream)
{
  int status = NEAPI_KERNEL_OK;
  for (int64_t i = 0; !status && i < t; i++) { /* one row at a time, so that no more is widened */
    float *wide = widen_all(FIRST, h, (const bf16 *)x + i * h);
    if (!wide)
      return NEAPI_KERNEL_MEMORY;
    status = FLOAT(scatter_e4m3)(1, k, h, position + i * k, wide, packed, stream);
  }
  return status;
}

int BF16(rows_from_e4m3)(int64_t n, int64_t h, const void *packed, void *out, void *stream)
{
  for (int64_t i = 0; i < n; i++)
    BF16(from_e4m3)(h, (const char *)packed + i * neapi_e4m3_bytes(h), (bf16 *)out + i * h, stream);
  return NEAPI_KERNEL_OK;
}
