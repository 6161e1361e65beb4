/* Sums and maxima of whole arrays, and conversion from and to double. */
#include "real.h"

#include <math.h>

enum { DOUBLES = 16 }; /* lanes */

int NAME(square_sum)(int64_t n, const void *x_, double *out, STREAM)
{
  const real *x = x_;
  double lane[DOUBLES] = {0};
  int64_t i = 0;
  for (; i + DOUBLES <= n; i += DOUBLES)
    for (int l = 0; l < DOUBLES; l++)
      lane[l] += (double)x[i + l] * (double)x[i + l];
  for (int l = 0; i < n; i++, l++)
    lane[l] += (double)x[i] * (double)x[i];
  for (int l = 1; l < DOUBLES; l++)
    lane[0] += lane[l];
  *out = lane[0];
  return NEAPI_KERNEL_OK;
}

/* |x|, infinity if x is not finite. */
static inline real magnitude(real x)
{
  real size = x < 0 ? -x : x;
  return size <= REAL_MAX ? size : (real)INFINITY;
}

int NAME(max_abs)(int64_t n, const void *x_, double *out, STREAM)
{
  const real *x = x_;
  real lane[ROW_LANES] = {0}, max = 0;
  int64_t i = 0;
  for (; i + ROW_LANES <= n; i += ROW_LANES)
    for (int l = 0; l < ROW_LANES; l++) {
      real size = magnitude(x[i + l]);
      lane[l] = size > lane[l] ? size : lane[l];
    }
  for (int l = 0; i < n; i++, l++)
    lane[l] = magnitude(x[i]) > lane[l] ? magnitude(x[i]) : lane[l];
  for (int l = 0; l < ROW_LANES; l++)
    max = lane[l] > max ? lane[l] : max;
  *out = (double)max;
  return NEAPI_KERNEL_OK;
}

int NAME(exact_column_max)(int64_t t, int64_t h, const void *x_, int64_t ldx, int accumulate,
                           double *max, STREAM)
{
  for (int64_t j = 0; !accumulate && j < h; j++)
    max[j] = 0;
  for (int64_t i = 0; i < t; i++) {
    const real *x = (const real *)x_ + i * ldx;
    for (int64_t j = 0; j < h; j++) {
      double size = (double)magnitude(x[j]);
      max[j] = size > max[j] ? size : max[j];
    }
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

int NAME(to_stat)(int64_t n, const void *x, void *out, STREAM)
{
  if (n)
    memmove(out, x, (size_t)n * sizeof(real));
  return NEAPI_KERNEL_OK;
}

int NAME(from_stat)(int64_t n, const void *x, void *out, STREAM)
{
  return NAME(to_stat)(n, x, out, NULL);
}
