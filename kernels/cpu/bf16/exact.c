/* SPDX-License-Identifier: Apache-2.0 */
/* Exact sums of bf16. */
#include "bf16.h"

int BF16(exact_column_max)(int64_t t, int64_t h, const void *x, int64_t ldx, int accumulate,
                           double *max, STREAM)
{
  float *wide = widen_rows(FIRST, t, h, x, ldx);
  return wide ? FLOAT(exact_column_max)(t, h, wide, h, accumulate, max, NULL) : NEAPI_KERNEL_MEMORY;
}

int BF16(exact_quantise)(int64_t t, int64_t h, const void *x, int64_t ldx, const double *quantum,
                         double *q, STREAM)
{
  float *wide = widen_rows(FIRST, t, h, x, ldx);
  return wide ? FLOAT(exact_quantise)(t, h, wide, h, quantum, q, NULL) : NEAPI_KERNEL_MEMORY;
}

int BF16(exact_column_sum)(int64_t t, int64_t h, const void *x, int64_t ldx, const double *quantum,
                           double *sum, STREAM)
{
  float *wide = widen_rows(FIRST, t, h, x, ldx);
  return wide ? FLOAT(exact_column_sum)(t, h, wide, h, quantum, sum, NULL) : NEAPI_KERNEL_MEMORY;
}

int BF16(exact_scatter_add)(int64_t n, int64_t h, const int32_t *index, const void *x,
                            const double *quantum, double *sum, STREAM)
{
  float *wide = widen_all(FIRST, n * h, x);
  return wide ? FLOAT(exact_scatter_add)(n, h, index, wide, quantum, sum, NULL)
              : NEAPI_KERNEL_MEMORY;
}

int BF16(exact_square_sum)(int64_t n, const void *x, double max, int64_t total, double *sum, STREAM)
{
  float *wide = widen_all(FIRST, n, x);
  return wide ? FLOAT(exact_square_sum)(n, wide, max, total, sum, NULL) : NEAPI_KERNEL_MEMORY;
}
