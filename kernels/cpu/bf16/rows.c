/* SPDX-License-Identifier: Apache-2.0 */
/* Rows of bf16 by index: embedding, permutation of tokens, combine. */
#include "bf16.h"

int BF16(gather)(int64_t n, int64_t h, const int32_t *index, const void *x, void *out, STREAM)
{
  for (int64_t i = 0; i < n; i++)
    memcpy((bf16 *)out + i * h, (const bf16 *)x + index[i] * h, (size_t)h * sizeof(bf16));
  return NEAPI_KERNEL_OK;
}

int BF16(scatter)(int64_t t, int64_t k, int64_t h, const void *weights, const int32_t *position,
                  const void *x, void *out, STREAM)
{
  const float *w = weights;
  for (int64_t i = 0; i < t * k; i++) {
    const bf16 *from = (const bf16 *)x + i / k * h;
    bf16 *to = (bf16 *)out + position[i] * h;
    for (int64_t j = 0; j < h; j++)
      to[j] = w ? narrow(w[i] * widen(from[j])) : from[j];
  }
  return NEAPI_KERNEL_OK;
}

int BF16(scatter_add)(int64_t n, int64_t h, const int32_t *index, const void *x, void *out, STREAM)
{
  float *wide = widen_all(FIRST, n * h, x);
  return wide ? FLOAT(scatter_add)(n, h, index, wide, out, NULL) : NEAPI_KERNEL_MEMORY;
}

int BF16(combine)(int64_t t, int64_t k, int64_t h, const void *weights, const int32_t *position,
                  const void *x, void *y, STREAM)
{
  const float *w = weights;
  for (int64_t i = 0; i < t; i++)
    for (int64_t j = 0; j < h; j++) {
      float sum = 0;
      for (int64_t c = 0; c < k; c++)
        sum += (w ? w[i * k + c] : 1) * widen(((const bf16 *)x)[position[i * k + c] * h + j]);
      ((bf16 *)y)[i * h + j] = narrow(sum);
    }
  return NEAPI_KERNEL_OK;
}

/* Float's launcher sees one row at a time, so that no more is widened. */
int BF16(row_dots)(int64_t t, int64_t h, const void *a, const void *b, void *out, STREAM)
{
  int status = NEAPI_KERNEL_OK;
  for (int64_t i = 0; !status && i < t; i++) {
    float *left = widen_all(FIRST, h, (const bf16 *)a + i * h);
    float *right = widen_all(SECOND, h, (const bf16 *)b + i * h);
    if (!left || !right)
      return NEAPI_KERNEL_MEMORY;
    status = FLOAT(row_dots)(1, h, left, right, (float *)out + i, NULL);
  }
  return status;
}
