/* SPDX-License-Identifier: Apache-2.0 */
/* Rotary position embedding. */
#include "real.h"

#include <math.h>

int NAME(rotary_table)(int64_t s, int64_t d, double base, void *table_, STREAM)
{
  real *table = table_;
  for (int64_t position = 0; position < s; position++, table += d)
    for (int64_t i = 0; i < d / 2; i++) {
      double angle = (double)position * pow(base, -2.0 * (double)i / (double)d);
      table[i] = (real)cos(angle);
      table[d / 2 + i] = (real)sin(angle);
    }
  return NEAPI_KERNEL_OK;
}

/* Turns one head, d = 2 half, by the angles of a row of the table; sign -1 turns back. */
static void turn(int64_t half, const real *table, real sign, real *x)
{
  for (int64_t i = 0; i < half; i++) {
    real cosine = table[i], sine = sign * table[half + i], a = x[i], b = x[half + i];
    x[i] = a * cosine - b * sine;
    x[half + i] = b * cosine + a * sine;
  }
}

int NAME(rotary)(int64_t t, int64_t s, int64_t heads, int64_t d, int inverse, const void *table,
                 void *x, int64_t ldx, STREAM)
{
  for (int64_t i = 0; i < t; i++)
    for (int64_t head = 0; head < heads; head++)
      turn(d / 2, (const real *)table + i % s * d, inverse ? -1 : 1,
           (real *)x + i * ldx + head * d);
  return NEAPI_KERNEL_OK;
}
