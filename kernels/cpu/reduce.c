/* SPDX-License-Identifier: Apache-2.0 */
/* Sums and maxima of whole arrays. */
#include "row.h"

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
