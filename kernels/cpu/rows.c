/* SPDX-License-Identifier: Apache-2.0 */
/* Rows by index: embedding, permutation of tokens, combine. */
#include "row.h"

int NAME(gather)(int64_t n, int64_t h, const int32_t *index, const void *x, void *out, STREAM)
{
  for (int64_t i = 0; i < n; i++)
    memcpy((real *)out + i * h, (const real *)x + index[i] * h, (size_t)h * sizeof(real));
  return NEAPI_KERNEL_OK;
}

int NAME(scatter)(int64_t t, int64_t k, int64_t h, const void *weights, const int32_t *position,
                  const void *x, void *out, STREAM)
{
  const real *w = weights;
  for (int64_t i = 0; i < t * k; i++) {
    const real *from = (const real *)x + i / k * h;
    real *to = (real *)out + position[i] * h;
    for (int64_t j = 0; j < h; j++)
      to[j] = w ? w[i] * from[j] : from[j];
  }
  return NEAPI_KERNEL_OK;
}

int NAME(scatter_add)(int64_t n, int64_t h, const int32_t *index, const void *x, void *out, STREAM)
{
  for (int64_t i = 0; i < n; i++) {
    const real *from = (const real *)x + i * h;
    real *to = (real *)out + index[i] * h;
    for (int64_t j = 0; j < h; j++)
      to[j] += from[j];
  }
  return NEAPI_KERNEL_OK;
}

int NAME(combine)(int64_t t, int64_t k, int64_t h, const void *weights, const int32_t *position,
                  const void *x, void *y, STREAM)
{
  const real *w = weights;
  for (int64_t i = 0; i < t; i++) {
    real *to = (real *)y + i * h;
    memset(to, 0, (size_t)h * sizeof(real));
    for (int64_t c = 0; c < k; c++) {
      const real *from = (const real *)x + position[i * k + c] * h;
      real weight = w ? w[i * k + c] : 1;
      for (int64_t j = 0; j < h; j++)
        to[j] += weight * from[j];
    }
  }
  return NEAPI_KERNEL_OK;
}

int NAME(row_dots)(int64_t t, int64_t h, const void *a, const void *b, void *out, STREAM)
{
  for (int64_t i = 0; i < t; i++)
    ((real *)out)[i] = row_dot(h, (const real *)a + i * h, (const real *)b + i * h);
  return NEAPI_KERNEL_OK;
}
