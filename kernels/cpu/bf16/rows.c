/* Rows of bf16 by index: embedding, permutation of tokens, combine. */
#include "bf16.h"

int BF16(gather)(int64_t n, int64_t h, const int32_t *index, const void *x, void *out, STREAM)
{
  for (int64_t i = 0; i < n; i++)
    memcpy((bf16 *)out + i * h, (const bf16 *)x + index[i] * h, (size_t)h * sizeof(bf16));
  return NEAPI_KERNEL_OK;
}

int BF16(scatter)(int64_t t, int64_t k, int64_t h, const int32_t *position, const void *x,
                  void *out, STREAM)
{
  for (int64_t i = 0; i < t * k; i++)
    memcpy((bf16 *)out + position[i] * h, (const bf16 *)x + i / k * h, (size_t)h * sizeof(bf16));
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

/* Float's launcher sees one choice at a time, so that a row of x is all that is widened. */
int BF16(combine_backward)(int64_t t, int64_t k, int64_t h, const void *weights,
                           const int32_t *position, const void *x, const void *dy, void *dx,
                           void *dweights, STREAM)
{
  static const int32_t first = 0;
  int status = NEAPI_KERNEL_OK;
  for (int64_t i = 0; !status && i < t * k; i++) {
    float *row = widen_all(FIRST, h, (const bf16 *)x + position[i] * h);
    float *grad = widen_all(SECOND, h, (const bf16 *)dy + i / k * h);
    float *out = neapi_bf16_scratch(THIRD, h);
    if (!row || !grad || !out)
      return NEAPI_KERNEL_MEMORY;
    status = FLOAT(combine_backward)(1, 1, h, (const float *)weights + i, &first, row, grad, out,
                                     (float *)dweights + i, NULL);
    status = narrow_all(status, h, out, (bf16 *)dx + position[i] * h);
  }
  return status;
}
