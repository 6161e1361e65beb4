/* Exact sums: elements rounded to multiples of a power of two, so that no addition rounds. */
#include "row.h"

#include <math.h>

/* Powers of two for |x| <= max at so many bits; kept above 2^-500, so that a product of two is a
 * normal number: what is smaller than that rounds to 0. */
static double power_grid(double max, int bits)
{
  if (!(max <= DBL_MAX))
    return NAN;
  if (max == 0)
    return 0;
  int exponent;
  frexp(max, &exponent); /* max < 2^exponent */
  exponent -= bits;
  return ldexp(1, exponent < -500 ? -500 : exponent);
}

/* The multiple of the grid nearest to x, in units of it. */
static inline double quantise(double x, double grid)
{
  double multiple = rint(x / grid);
  return grid == 0 ? 0 : multiple;
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

int NAME(exact_grid)(int64_t n, int bits, const double *max, double *grid, STREAM)
{
  for (int64_t i = 0; i < n; i++)
    grid[i] = power_grid(max[i], bits);
  return NEAPI_KERNEL_OK;
}

int NAME(exact_quantise)(int64_t t, int64_t h, const void *x_, int64_t ldx, const double *grid,
                         double *q, STREAM)
{
  for (int64_t i = 0; i < t; i++) {
    const real *x = (const real *)x_ + i * ldx;
    for (int64_t j = 0; j < h; j++)
      q[i * h + j] = quantise((double)x[j], grid[j]);
  }
  return NEAPI_KERNEL_OK;
}

static void add_row(int64_t h, const real *x, const double *grid, double *sum)
{
  for (int64_t j = 0; j < h; j++)
    sum[j] += quantise((double)x[j], grid[j]) * grid[j];
}

int NAME(exact_column_sum)(int64_t t, int64_t h, const void *x, int64_t ldx, const double *grid,
                           double *sum, STREAM)
{
  for (int64_t i = 0; i < t; i++)
    add_row(h, (const real *)x + i * ldx, grid, sum);
  return NEAPI_KERNEL_OK;
}

int NAME(exact_scatter_add)(int64_t n, int64_t h, const int32_t *index, const void *x,
                            const double *grid, double *sum, STREAM)
{
  for (int64_t i = 0; i < n; i++)
    add_row(h, (const real *)x + i * h, grid, sum + index[i] * h);
  return NEAPI_KERNEL_OK;
}

enum { DOUBLES = 16 }; /* lanes */

/* Splits each square at the two grids and adds the halves up; what is below both is dropped. */
static void add_squares(int64_t n, const real *x, double high_grid, double low_grid, double *sum)
{
  double high[DOUBLES] = {0}, low[DOUBLES] = {0};
  for (int64_t i = 0; i < n; i += DOUBLES) {
    int lanes = n - i < DOUBLES ? (int)(n - i) : DOUBLES;
    for (int l = 0; l < lanes; l++) {
      double square = (double)x[i + l] * (double)x[i + l];
      double upper = rint(square / high_grid) * high_grid;
      high[l] += upper;
      low[l] += rint((square - upper) / low_grid) * low_grid;
    }
  }
  for (int l = 0; l < DOUBLES; l++)
    sum[0] += high[l], sum[1] += low[l];
}

int NAME(exact_square_sum)(int64_t n, const void *x, double max, int64_t total, double *sum, STREAM)
{
  int bits = 52;
  while (total > (int64_t)1 << (52 - bits))
    bits--;
  double high = power_grid(max * max, bits);
  if (high > 0)
    add_squares(n, x, high, high * ldexp(1, -bits), sum);
  else if (high != 0)
    sum[0] = sum[1] = NAN;
  return NEAPI_KERNEL_OK;
}
