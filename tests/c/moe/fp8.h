/* SPDX-License-Identifier: Apache-2.0 */
/* FP8 from its definition, in double and in plain loops: what tokens are after they have travelled.
 * Shares no code with the engine. */
#ifndef NEAP_TEST_FP8_H
#define NEAP_TEST_FP8_H

#include <math.h>
#include <stdint.h>

/* The number of E4M3 that is nearest to x, of two the one with an even mantissa; |x| <= 448. */
static double nearest_e4m3(double x)
{
  int exponent;
  frexp(x, &exponent);
  double step = ldexp(1, (exponent < -5 ? -5 : exponent) - 4);
  return rint(x / step) * step;
}

/* Row x[0] to x[h - 1] as it arrives, by blocks of 128, before it is rounded to a dtype. single:
 * the quotients are floats. */
static void travelled(const double *x, int64_t h, int single, double *out)
{
  for (int64_t first = 0; first < h; first += 128) {
    int64_t end = first + 128 < h ? first + 128 : h;
    double largest = 0;
    for (int64_t i = first; i < end; i++)
      largest = fmax(largest, fabs(x[i]));
    double scale = (double)((float)largest / 448);
    for (int64_t i = first; i < end; i++) {
      double quotient = scale > 0 ? x[i] / scale : 0;
      out[i] = nearest_e4m3(single ? (double)(float)quotient : quotient) * scale;
    }
  }
}

#endif
