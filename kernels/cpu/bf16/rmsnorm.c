/* SPDX-License-Identifier: Apache-2.0 */
/* Root mean square normalisation of bf16. */
#include "bf16.h"

int BF16(rmsnorm)(int64_t t, int64_t h, const void *x, const void *gain, double eps, void *y,
                  void *rstd, STREAM)
{
  float *wide = widen_all(FIRST, t * h, x), *wide_gain = widen_all(SECOND, h, gain);
  float *out = neapi_bf16_scratch(THIRD, t * h);
  if (!wide || !wide_gain || !out)
    return NEAPI_KERNEL_MEMORY;
  return narrow_all(FLOAT(rmsnorm)(t, h, wide, wide_gain, eps, out, rstd, NULL), t * h, out, y);
}

int BF16(rmsnorm_backward)(int64_t t, int64_t h, const void *x, const void *gain, const void *rstd,
                           const void *dy, void *dx, void *dgain, STREAM)
{
  float *wide = widen_all(FIRST, t * h, x), *wide_gain = widen_all(SECOND, h, gain);
  float *grad = widen_all(THIRD, t * h, dy), *out = neapi_bf16_scratch(FOURTH, t * h);
  if (!wide || !wide_gain || !grad || !out)
    return NEAPI_KERNEL_MEMORY;
  int status = FLOAT(rmsnorm_backward)(t, h, wide, wide_gain, rstd, grad, out, dgain, NULL);
  return narrow_all(status, t * h, out, dx);
}

int BF16(rmsnorm_gain_terms)(int64_t t, int64_t h, const void *x, const void *rstd, const void *dy,
                             void *terms, STREAM)
{
  float *wide = widen_all(FIRST, t * h, x), *grad = widen_all(SECOND, t * h, dy);
  return wide && grad ? FLOAT(rmsnorm_gain_terms)(t, h, wide, rstd, grad, terms, NULL)
                      : NEAPI_KERNEL_MEMORY;
}
