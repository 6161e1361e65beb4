/* SPDX-License-Identifier: Apache-2.0 */
/*
 * exact.h: the arithmetic of exact sums, the same on both sides of a launch.
 *
 * An exact sum comes out the same to the bit in any order and any partition: each number is first
 * rounded to a multiple of a power of two, with so few bits that every partial sum is exact in
 * double (splitting after Ozaki et al. 2012, reproducible summation after Demmel and Nguyen 2013).
 * Its words:
 *
 *   maximum   the largest magnitude of all numbers of a sum, on all ranks; infinity if one is not
 *             finite
 *   quantum   the power of two to whose multiples they are rounded: the ulp of the sum. It follows
 *             from the maximum and the bits; 0 for a maximum of 0, NaN for one that is not finite.
 *             What is added up must have the same one
 *   bits      every number is at most 2^bits quanta. A sum is exact if the bits, of a product those
 *             of both factors, and log2 of how many are added, on all ranks, make 53 at most
 *   quantise  round a number to its multiple of the quantum and count the quanta
 *
 * In order: the maxima (exact_column_max, then an all-reduce with max), quanta from them
 * (exact_quantum), each rank's partial sums, their sum over ranks in double, from_double.
 */
#ifndef NEAPI_EXACT_H
#define NEAPI_EXACT_H

#include "kernels.h"

#include <float.h>
#include <math.h>

/* Kept above 2^-500, so that a product of two is a normal number: what is smaller rounds to 0. */
NEAPI_BOTH_SIDES static inline double neapi_quantum(double max, int bits)
{
  int exponent;
  if (!(max <= DBL_MAX))
    return (double)NAN;
  if (max == 0)
    return 0;
  frexp(max, &exponent); /* max < 2^exponent */
  exponent -= bits;
  return ldexp(1.0, exponent < -500 ? -500 : exponent);
}

NEAPI_BOTH_SIDES static inline double neapi_quantise(double x, double quantum)
{
  return quantum == 0 ? 0 : rint(x / quantum);
}

/* Two quanta, one above the other, for the sum of so many squares of numbers up to max. */
typedef struct {
  double high, low;
} neapi_square_quanta;

static inline neapi_square_quanta neapi_square_quanta_of(double max, int64_t total)
{
  int bits = 52;
  while (total > (int64_t)1 << (52 - bits))
    bits--;
  double high = neapi_quantum(max * max, bits);
  neapi_square_quanta quanta = {high, high * ldexp(1.0, -bits)};
  return quanta;
}

#endif
