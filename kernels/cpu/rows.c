/* Rows by index: embedding, permutation of tokens, combine. */
#include "row.h"

int NAME(gather)(int64_t n, int64_t h, const int32_t *index, const void *x, void *out, STREAM)
{
  for (int64_t i = 0; i < n; i++)
    memcpy((real *)out + i * h, (const real *)x + index[i] * h, (size_t)h * sizeof(real));
  return NEAPI_KERNEL_OK;
}

int NAME(scatter)(int64_t t, int64_t k, int64_t h, const int32_t *position, const void *x,
                  void *out, STREAM)
{
  for (int64_t i = 0; i < t * k; i++)
    memcpy((real *)out + position[i] * h, (const real *)x + i / k * h, (size_t)h * sizeof(real));
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

int NAME(combine_backward)(int64_t t, int64_t k, int64_t h, const void *weights,
                           const int32_t *position, const void *x, const void *dy, void *dx,
                           void *dweights, STREAM)
{
  const real *w = weights;
  for (int64_t i = 0; i < t; i++) {
    const real *grad = (const real *)dy + i * h;
    for (int64_t c = 0; c < k; c++) {
      int64_t row = position[i * k + c] * h;
      real *to = (real *)dx + row;
      for (int64_t j = 0; j < h; j++)
        to[j] = w[i * k + c] * grad[j];
      ((real *)dweights)[i * k + c] = row_dot(h, grad, (const real *)x + row);
    }
  }
  return NEAPI_KERNEL_OK;
}
