/* SPDX-License-Identifier: Apache-2.0 */
/* Elementwise operations of bf16, sums of arrays, and conversions. */
#include "bf16.h"

int BF16(fill)(int64_t n, double value, void *x, STREAM)
{
  for (int64_t i = 0; i < n; i++)
    BF16(from_double)(1, &value, (bf16 *)x + i, NULL);
  return NEAPI_KERNEL_OK;
}

int BF16(add)(int64_t n, const void *a, const void *b, void *out, STREAM)
{
  for (int64_t i = 0; i < n; i++)
    ((bf16 *)out)[i] = narrow(widen(((const bf16 *)a)[i]) + widen(((const bf16 *)b)[i]));
  return NEAPI_KERNEL_OK;
}

int BF16(sum)(int64_t n, int64_t count, const void *const *parts, void *out, STREAM)
{
  for (int64_t i = 0; i < n; i++) {
    float sum = 0;
    for (int64_t p = 0; p < count; p++)
      sum += widen(((const bf16 *)parts[p])[i]);
    ((bf16 *)out)[i] = narrow(sum);
  }
  return NEAPI_KERNEL_OK;
}

int BF16(swiglu)(int64_t t, int64_t f, const void *gu, void *h, STREAM)
{
  float *wide = widen_all(FIRST, t * 2 * f, gu), *out = neapi_bf16_scratch(SECOND, t * f);
  return wide && out ? narrow_all(FLOAT(swiglu)(t, f, wide, out, NULL), t * f, out, h)
                     : NEAPI_KERNEL_MEMORY;
}

int BF16(swiglu_backward)(int64_t t, int64_t f, const void *gu, const void *dh, void *dgu, STREAM)
{
  float *wide = widen_all(FIRST, t * 2 * f, gu), *grad = widen_all(SECOND, t * f, dh);
  if (!wide || !grad)
    return NEAPI_KERNEL_MEMORY;
  return narrow_all(FLOAT(swiglu_backward)(t, f, wide, grad, wide, NULL), t * 2 * f, wide, dgu);
}

int BF16(to_double)(int64_t n, const void *x, double *out, STREAM)
{
  for (int64_t i = 0; i < n; i++)
    out[i] = (double)widen(((const bf16 *)x)[i]);
  return NEAPI_KERNEL_OK;
}

/* Rounded once: where the nearest float lies halfway between two bf16, and x does not, the float on
 * x's side of it decides. */
static bf16 narrow_double(double x)
{
  float nearest = (float)x;
  uint32_t bits;
  memcpy(&bits, &nearest, sizeof bits);
  if ((bits & 0xffff) == 0x8000 && x == x && (double)nearest != x) {
    bits += fabs(x) > fabs((double)nearest) ? 1u : -1u;
    memcpy(&nearest, &bits, sizeof bits);
  }
  return narrow(nearest);
}

int BF16(from_double)(int64_t n, const double *x, void *out, STREAM)
{
  for (int64_t i = 0; i < n; i++)
    ((bf16 *)out)[i] = narrow_double(x[i]);
  return NEAPI_KERNEL_OK;
}

int BF16(to_acc)(int64_t n, const void *x, void *out, STREAM)
{
  for (int64_t i = 0; i < n; i++)
    ((float *)out)[i] = widen(((const bf16 *)x)[i]);
  return NEAPI_KERNEL_OK;
}

int BF16(from_acc)(int64_t n, const void *x, void *out, STREAM)
{
  for (int64_t i = 0; i < n; i++)
    ((bf16 *)out)[i] = narrow(((const float *)x)[i]);
  return NEAPI_KERNEL_OK;
}
