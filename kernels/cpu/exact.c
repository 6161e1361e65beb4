/* SPDX-License-Identifier: Apache-2.0 */
/* Exact sums (exact.h). */
#include "exact.h"
#include "row.h"

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

int NAME(exact_quantum)(int64_t n, int bits, const double *max, double *quantum, STREAM)
{
  for (int64_t i = 0; i < n; i++)
    quantum[i] = neapi_quantum(max[i], bits);
  return NEAPI_KERNEL_OK;
}

int NAME(exact_quantise)(int64_t t, int64_t h, const void *x_, int64_t ldx, const double *quantum,
                         double *q, STREAM)
{
  for (int64_t i = 0; i < t; i++) {
    const real *x = (const real *)x_ + i * ldx;
    for (int64_t j = 0; j < h; j++)
      q[i * h + j] = neapi_quantise((double)x[j], quantum[j]);
  }
  return NEAPI_KERNEL_OK;
}

static void add_row(int64_t h, const real *x, const double *quantum, double *sum)
{
  for (int64_t j = 0; j < h; j++)
    sum[j] += neapi_quantise((double)x[j], quantum[j]) * quantum[j];
}

int NAME(exact_column_sum)(int64_t t, int64_t h, const void *x, int64_t ldx, const double *quantum,
                           double *sum, STREAM)
{
  for (int64_t i = 0; i < t; i++)
    add_row(h, (const real *)x + i * ldx, quantum, sum);
  return NEAPI_KERNEL_OK;
}

int NAME(exact_scatter_add)(int64_t n, int64_t h, const int32_t *index, const void *x,
                            const double *quantum, double *sum, STREAM)
{
  for (int64_t i = 0; i < n; i++)
    add_row(h, (const real *)x + i * h, quantum, sum + index[i] * h);
  return NEAPI_KERNEL_OK;
}

enum { DOUBLES = 16 }; /* lanes */

/* Splits each square at the two quanta and adds the halves up; what is below both is dropped. */
static void add_squares(int64_t n, const real *x, neapi_square_quanta quanta, double *sum)
{
  double high[DOUBLES] = {0}, low[DOUBLES] = {0};
  for (int64_t i = 0; i < n; i += DOUBLES) {
    int lanes = n - i < DOUBLES ? (int)(n - i) : DOUBLES;
    for (int l = 0; l < lanes; l++) {
      double square = (double)x[i + l] * (double)x[i + l];
      double upper = rint(square / quanta.high) * quanta.high;
      high[l] += upper;
      low[l] += rint((square - upper) / quanta.low) * quanta.low;
    }
  }
  for (int l = 0; l < DOUBLES; l++)
    sum[0] += high[l], sum[1] += low[l];
}

int NAME(exact_square_sum)(int64_t n, const void *x, double max, int64_t total, double *sum, STREAM)
{
  neapi_square_quanta quanta = neapi_square_quanta_of(max, total);
  if (quanta.high > 0)
    add_squares(n, x, quanta, sum);
  else if (quanta.high != 0)
    sum[0] = sum[1] = NAN;
  return NEAPI_KERNEL_OK;
}
