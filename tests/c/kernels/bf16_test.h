/* SPDX-License-Identifier: Apache-2.0 */
/* What tests of the CPU's bf16 kernels share: the same numbers in bf16 and in f64, whose kernels
 * are the reference, and comparisons within bf16's rounding. */
#ifndef NEAP_BF16_TEST_H
#define NEAP_BF16_TEST_H

#include "kernel_test.h"

static kernels *narrow, *wide; /* bf16, f64 */

/* The same numbers in both types. */
typedef struct {
  void *narrow;
  double *wide;
} twin;

static inline twin twin_output(int64_t n)
{
  return (twin){reals(narrow, n), reals(wide, n)};
}

static inline twin twin_normals(int64_t n, uint64_t seed)
{
  twin t = twin_output(n);
  double *drawn = normals(wide, n, seed);
  narrow->from_double(n, drawn, t.narrow, NULL);
  narrow->to_double(n, t.narrow, t.wide, NULL);
  return t;
}

/* Stats: float beside bf16. */
static inline twin acc_output(int64_t n)
{
  return (twin){reals(neapi_kernels_f32(), n), reals(wide, n)};
}

static inline twin acc_normals(int64_t n, uint64_t seed)
{
  return (twin){normals(neapi_kernels_f32(), n, seed), normals(wide, n, seed)};
}

static inline void check_real(twin t, int64_t n, const char *what)
{
  double *got = reals(wide, n);
  narrow->to_double(n, t.narrow, got, NULL);
  check_near(wide, got, wide, t.wide, n, 0x1p-8, what);
}

static inline void check_acc(twin t, int64_t n, const char *what)
{
  check_near(neapi_kernels_f32(), t.narrow, wide, t.wide, n, 1e-5, what);
}

/* Nearest multiple of the spacing of 8 significant bits, of two the even one. */
static inline double nearest(double x)
{
  int exponent;
  double part = frexp(x, &exponent);
  return ldexp(rint(ldexp(part, 8)), exponent - 8);
}

#define FOR_BF16(test)                                                                             \
  do {                                                                                             \
    narrow = neapi_kernels_bf16();                                                                 \
    wide = neapi_kernels_f64();                                                                    \
    test();                                                                                        \
    release_all();                                                                                 \
  } while (0)

#endif
