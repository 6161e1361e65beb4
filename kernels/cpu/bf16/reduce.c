/* SPDX-License-Identifier: Apache-2.0 */
/* Sums and maxima of whole arrays of bf16. */
#include "bf16.h"

int BF16(square_sum)(int64_t n, const void *x, double *out, STREAM)
{
  float *wide = widen_all(FIRST, n, x);
  return wide ? FLOAT(square_sum)(n, wide, out, NULL) : NEAPI_KERNEL_MEMORY;
}

int BF16(max_abs)(int64_t n, const void *x, double *out, STREAM)
{
  float *wide = widen_all(FIRST, n, x);
  return wide ? FLOAT(max_abs)(n, wide, out, NULL) : NEAPI_KERNEL_MEMORY;
}
