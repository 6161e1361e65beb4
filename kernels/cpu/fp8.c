/* SPDX-License-Identifier: Apache-2.0 */
/* FP8 as it travels: quantised from the type of masters, dequantised into the working type. */
#include "e4m3.h"
#include "real.h"

/* The largest |x|; a NaN if there is one. */
static real largest_of(int64_t n, const real *x)
{
  real largest = 0;
  for (int64_t i = 0; i < n; i++) {
    real magnitude = x[i] < 0 ? -x[i] : x[i];
    if (magnitude != magnitude)
      return magnitude;
    largest = magnitude > largest ? magnitude : largest;
  }
  return largest;
}

int NAME(to_e4m3)(int64_t n, const void *x_, void *out_, STREAM)
{
  const real *x = x_;
  uint8_t *out = out_;
  for (int64_t at = 0; at < n; at += NEAPI_E4M3_BLOCK, out += NEAPI_E4M3_BYTES) {
    int64_t count = n - at < NEAPI_E4M3_BLOCK ? n - at : NEAPI_E4M3_BLOCK;
    float scale = neapi_e4m3_scale((double)largest_of(count, x + at));
    memset(out, 0, NEAPI_E4M3_BLOCK);
    for (int64_t i = 0; i < count && scale > 0; i++)
      out[i] = neapi_e4m3_of((float)(x[at + i] / scale));
    memcpy(out + NEAPI_E4M3_BLOCK, &scale, sizeof scale);
  }
  return NEAPI_KERNEL_OK;
}

int NAME(from_e4m3)(int64_t n, const void *packed_, void *out_, STREAM)
{
  const uint8_t *packed = packed_;
  real *out = out_;
  for (int64_t at = 0; at < n; at += NEAPI_E4M3_BLOCK, packed += NEAPI_E4M3_BYTES) {
    int64_t count = n - at < NEAPI_E4M3_BLOCK ? n - at : NEAPI_E4M3_BLOCK;
    float scale;
    memcpy(&scale, packed + NEAPI_E4M3_BLOCK, sizeof scale);
    for (int64_t i = 0; i < count; i++)
      out[at + i] = (real)neapi_e4m3_value(packed[i]) * (real)scale;
  }
  return NEAPI_KERNEL_OK;
}
