/* SPDX-License-Identifier: Apache-2.0 */
/* Root mean square normalisation. */
#include "row.h"

#include <math.h>

int NAME(rmsnorm)(int64_t t, int64_t h, const void *x_, const void *gain_, double eps, void *y_,
                  void *rstd, STREAM)
{
  const real *gain = gain_;
  for (int64_t i = 0; i < t; i++) {
    const real *x = (const real *)x_ + i * h;
    real *y = (real *)y_ + i * h;
    real scale = 1 / (real)sqrt((double)row_dot(h, x, x) / (double)h + eps);
    ((real *)rstd)[i] = scale;
    for (int64_t j = 0; j < h; j++)
      y[j] = x[j] * scale * gain[j];
  }
  return NEAPI_KERNEL_OK;
}

/* With u = x rstd: dx = rstd (gain dy - u mean(gain dy u)). */
int NAME(rmsnorm_backward)(int64_t t, int64_t h, const void *x_, const void *gain_,
                           const void *rstd, const void *dy_, void *dx_, void *dgain_, STREAM)
{
  const real *gain = gain_;
  real *dgain = dgain_;
  for (int64_t i = 0; i < t; i++) {
    const real *x = (const real *)x_ + i * h, *dy = (const real *)dy_ + i * h;
    real *dx = (real *)dx_ + i * h, scale = ((const real *)rstd)[i];
    real along = row_dot3(h, dy, gain, x) * scale * scale / (real)h;
    for (int64_t j = 0; j < h; j++)
      dx[j] = scale * (gain[j] * dy[j] - along * x[j]);
    for (int64_t j = 0; dgain && j < h; j++)
      dgain[j] += dy[j] * x[j] * scale;
  }
  return NEAPI_KERNEL_OK;
}

int NAME(rmsnorm_gain_terms)(int64_t t, int64_t h, const void *x_, const void *rstd,
                             const void *dy_, void *terms_, STREAM)
{
  for (int64_t i = 0; i < t; i++) {
    const real *x = (const real *)x_ + i * h, *dy = (const real *)dy_ + i * h;
    real *terms = (real *)terms_ + i * h, scale = ((const real *)rstd)[i];
    for (int64_t j = 0; j < h; j++)
      terms[j] = dy[j] * x[j] * scale;
  }
  return NEAPI_KERNEL_OK;
}
