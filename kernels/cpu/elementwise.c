/* SPDX-License-Identifier: Apache-2.0 */
/* Elementwise operations, sums of arrays, and conversions. */
#include "row.h"

int NAME(fill)(int64_t n, double value, void *x, STREAM)
{
  for (int64_t i = 0; i < n; i++)
    ((real *)x)[i] = (real)value;
  return NEAPI_KERNEL_OK;
}

int NAME(add)(int64_t n, const void *a, const void *b, void *out, STREAM)
{
  for (int64_t i = 0; i < n; i++)
    ((real *)out)[i] = ((const real *)a)[i] + ((const real *)b)[i];
  return NEAPI_KERNEL_OK;
}

/* Elements that are summed at a time, so that they stay in the first cache. */
enum { BLOCK = 1024 };

#define SUM_PARTS(type)                                                                            \
  for (int64_t first = 0; first < n; first += BLOCK) {                                             \
    int64_t size = n - first < BLOCK ? n - first : BLOCK;                                          \
    type *to = (type *)out + first;                                                                \
    for (int64_t i = 0; i < size; i++)                                                             \
      to[i] = count ? ((const type *)parts[0])[first + i] : 0;                                     \
    for (int64_t p = 1; p < count; p++)                                                            \
      for (int64_t i = 0; i < size; i++)                                                           \
        to[i] += ((const type *)parts[p])[first + i];                                              \
  }                                                                                                \
  return NEAPI_KERNEL_OK

int NAME(sum)(int64_t n, int64_t count, const void *const *parts, void *out, STREAM)
{
  SUM_PARTS(real);
}

int NAME(sum_double)(int64_t n, int64_t count, const double *const *parts, double *out, STREAM)
{
  SUM_PARTS(double);
}

int NAME(swiglu)(int64_t t, int64_t f, const void *gu, void *h, STREAM)
{
  for (int64_t i = 0; i < t; i++) {
    const real *g = (const real *)gu + i * 2 * f, *u = g + f;
    real *to = (real *)h + i * f;
    for (int64_t j = 0; j < f; j++)
      to[j] = g[j] / (1 + real_exp(-g[j])) * u[j];
  }
  return NEAPI_KERNEL_OK;
}

/* With s = 1 / (1 + exp(-g)): du = dh g s, dg = dh u s (1 + g (1 - s)). */
int NAME(swiglu_backward)(int64_t t, int64_t f, const void *gu, const void *dh, void *dgu, STREAM)
{
  for (int64_t i = 0; i < t; i++) {
    const real *g = (const real *)gu + i * 2 * f, *u = g + f, *grad = (const real *)dh + i * f;
    real *dg = (real *)dgu + i * 2 * f, *du = dg + f;
    for (int64_t j = 0; j < f; j++) {
      real gate = g[j], up = u[j], s = 1 / (1 + real_exp(-gate));
      dg[j] = grad[j] * up * s * (1 + gate * (1 - s));
      du[j] = grad[j] * gate * s;
    }
  }
  return NEAPI_KERNEL_OK;
}

int NAME(adamw)(int64_t n, const neapi_adamw *step, const void *grad_, void *param_, void *m_,
                void *v_, STREAM)
{
  const real *grad = grad_;
  real *param = param_, *m = m_, *v = v_;
  real beta1 = step->beta1, beta2 = step->beta2, rest1 = 1 - step->beta1, rest2 = 1 - step->beta2;
  real correct1 = 1 / step->correction1, correct2 = 1 / step->correction2;
  real rate = step->rate, eps = step->eps, decay = step->decay, scale = step->grad_scale;
  for (int64_t i = 0; i < n; i++) {
    real g = grad[i] * scale;
    m[i] = beta1 * m[i] + rest1 * g;
    v[i] = beta2 * v[i] + rest2 * (g * g);
    real root = __builtin_choose_expr(sizeof(real) == 4, __builtin_sqrtf(v[i] * correct2),
                                      __builtin_sqrt(v[i] * correct2));
    param[i] -= rate * (m[i] * correct1 / (root + eps) + decay * param[i]);
  }
  return NEAPI_KERNEL_OK;
}

int NAME(to_double)(int64_t n, const void *x, double *out, STREAM)
{
  for (int64_t i = 0; i < n; i++)
    out[i] = (double)((const real *)x)[i];
  return NEAPI_KERNEL_OK;
}

int NAME(from_double)(int64_t n, const double *x, void *out, STREAM)
{
  for (int64_t i = 0; i < n; i++)
    ((real *)out)[i] = (real)x[i];
  return NEAPI_KERNEL_OK;
}

int NAME(to_acc)(int64_t n, const void *x, void *out, STREAM)
{
  if (n)
    memmove(out, x, (size_t)n * sizeof(real));
  return NEAPI_KERNEL_OK;
}

int NAME(from_acc)(int64_t n, const void *x, void *out, STREAM)
{
  return NAME(to_acc)(n, x, out, NULL);
}
