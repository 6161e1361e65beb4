/* SPDX-License-Identifier: Apache-2.0 */
/* Sums and maxima over a row, and the exponential. */
#ifndef NEAPI_ROW_H
#define NEAPI_ROW_H

#include "real.h"

static inline real row_fold(real *lane)
{
  for (int width = ROW_LANES / 2; width; width /= 2)
    for (int l = 0; l < width; l++)
      lane[l] += lane[l + width];
  return lane[0];
}

static inline real row_sum(int64_t n, const real *x)
{
  real lane[ROW_LANES] = {0};
  int64_t i = 0;
  for (; i + ROW_LANES <= n; i += ROW_LANES)
    for (int l = 0; l < ROW_LANES; l++)
      lane[l] += x[i + l];
  for (int l = 0; i < n; i++, l++)
    lane[l] += x[i];
  return row_fold(lane);
}

static inline real row_dot(int64_t n, const real *x, const real *y)
{
  real lane[ROW_LANES] = {0};
  int64_t i = 0;
  for (; i + ROW_LANES <= n; i += ROW_LANES)
    for (int l = 0; l < ROW_LANES; l++)
      lane[l] += x[i + l] * y[i + l];
  for (int l = 0; i < n; i++, l++)
    lane[l] += x[i] * y[i];
  return row_fold(lane);
}

/* Sum of x * y * z. */
static inline real row_dot3(int64_t n, const real *x, const real *y, const real *z)
{
  real lane[ROW_LANES] = {0};
  int64_t i = 0;
  for (; i + ROW_LANES <= n; i += ROW_LANES)
    for (int l = 0; l < ROW_LANES; l++)
      lane[l] += x[i + l] * y[i + l] * z[i + l];
  for (int l = 0; i < n; i++, l++)
    lane[l] += x[i] * y[i] * z[i];
  return row_fold(lane);
}

/* Largest element, of NaNs none; -infinity for n = 0. */
static inline real row_max(int64_t n, const real *x)
{
  real lane[ROW_LANES];
  for (int l = 0; l < ROW_LANES; l++)
    lane[l] = -__builtin_inf();
  int64_t i = 0;
  for (; i + ROW_LANES <= n; i += ROW_LANES)
    for (int l = 0; l < ROW_LANES; l++)
      lane[l] = x[i + l] > lane[l] ? x[i + l] : lane[l];
  for (int l = 0; i < n; i++, l++)
    lane[l] = x[i] > lane[l] ? x[i] : lane[l];
  for (int l = 1; l < ROW_LANES; l++)
    lane[0] = lane[l] > lane[0] ? lane[l] : lane[0];
  return lane[0];
}

/* |x|, infinity if x is not finite. */
static inline real magnitude(real x)
{
  real size = x < 0 ? -x : x;
  return size <= REAL_MAX ? size : (real)__builtin_inf();
}

/* e^x within about 1 ulp: x = n ln 2 + r with |r| <= ln 2 / 2, the Taylor polynomial of e^r, and
 * 2^n put together from its bits. Below EXP_LOW the result is 0 (no subnormals), above EXP_HIGH
 * infinity; NaN stays. No branches and no calls, so that loops over it become vector code. */
#ifdef NEAP_REAL_f64
#define EXP_LOW -707.5
#define EXP_HIGH 709.78
#define EXP_ROUND 0x1.8p52 /* added and subtracted again, leaves the nearest integer */
#define LN2_HIGH 0x1.62e42fefap-1
#define LN2_LOW 0x1.cf79abc9e3b3ap-40
enum { EXP_MANTISSA = 52, EXP_BIAS = 1023 };
#else
#define EXP_LOW -86.6f
#define EXP_HIGH 88.72f
#define EXP_ROUND 0x1.8p23f
#define LN2_HIGH 0x1.62e4p-1f
#define LN2_LOW 0x1.7f7d1cp-20f
enum { EXP_MANTISSA = 23, EXP_BIAS = 127 };
#endif

/* 1 + r + r^2 (1/2! + r/3! + r^2/4! + ...), to where the next term is below half an ulp. */
static inline real exp_polynomial(real r)
{
#define TERM(factorial) sum = sum * r + (real)(1.0L / factorial##L)
#ifdef NEAP_REAL_f64
  real sum = 1.0 / 6227020800.0; /* 13! */
  TERM(479001600.0), TERM(39916800.0), TERM(3628800.0), TERM(362880.0), TERM(40320.0), TERM(5040.0);
#else
  real sum = 1.0f / 5040.0f; /* 7! */
#endif
  TERM(720.0), TERM(120.0), TERM(24.0), TERM(6.0), TERM(2.0);
#undef TERM
  return 1 + (r + r * r * sum);
}

static inline real real_exp(real x)
{
  real within = x < EXP_LOW ? EXP_LOW : x;
  within = within > EXP_HIGH ? EXP_HIGH : within;
  real shifted = within * (real)1.44269504088896340736L + EXP_ROUND;
  real n = shifted - EXP_ROUND;
  real r = (within - n * LN2_HIGH) - n * LN2_LOW;
  real_bits bits;
  memcpy(&bits, &shifted, sizeof bits);
#ifdef NEAP_REAL_f64
  bits = (real_bits)((uint64_t)(bits + EXP_BIAS - 1) << EXP_MANTISSA);
#else
  bits = (real_bits)((uint32_t)(bits + EXP_BIAS - 1) << EXP_MANTISSA);
#endif
  real half_power; /* 2^(n - 1): 2^n itself may overflow where e^x does not */
  memcpy(&half_power, &bits, sizeof half_power);
  real y = exp_polynomial(r) * half_power * 2;
  y = x < EXP_LOW ? 0 : y;
  return x > EXP_HIGH ? (real)__builtin_inf() : y;
}

#endif
