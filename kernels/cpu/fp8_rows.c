/* SPDX-License-Identifier: Apache-2.0 */
/* Rows of tokens in FP8: quantised where they are put, dequantised where they have come. */
#include "e4m3.h"
#include "real.h"

int NAME(scatter_e4m3)(int64_t t, int64_t k, int64_t h, const int32_t *position, const void *x,
                       void *packed, void *stream)
{
  int64_t bytes = neapi_e4m3_bytes(h);
  for (int64_t i = 0; i < t * k; i++) {
    char *to = (char *)packed + position[i] * bytes;
    if (i % k)
      memcpy(to, (char *)packed + position[i - i % k] * bytes, (size_t)bytes);
    else
      NAME(to_e4m3)(h, (const real *)x + i / k * h, to, stream);
  }
  return NEAPI_KERNEL_OK;
}

int NAME(rows_from_e4m3)(int64_t n, int64_t h, const void *packed, void *out, void *stream)
{
  for (int64_t i = 0; i < n; i++)
    NAME(from_e4m3)(h, (const char *)packed + i * neapi_e4m3_bytes(h), (real *)out + i * h, stream);
  return NEAPI_KERNEL_OK;
}
