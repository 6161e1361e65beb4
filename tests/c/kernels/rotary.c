/* SPDX-License-Identifier: Apache-2.0 */
/* Rotary position embedding. */
#include "bf16_test.h"

enum { T = 23 };

/* Turning and turning back, and the definition. */
static void test_rotary(kernels *k)
{
  enum { S = 9, HEADS = 3, D = 10, LD = HEADS * D + 7 };
  void *table = reals(k, S * D), *x = normals(k, T * LD, 1);
  void *turned = copy_of(x, T * LD * k->size);
  k->rotary_table(S, D, 100, table, NULL);
  k->rotary(T, S, HEADS, D, 0, table, turned, LD, NULL);
  double worst = 0;
  for (int64_t t = 0; t < T; t++)
    for (int64_t i = 0; i < HEADS * D / 2; i++) {
      int64_t a = t * LD + i / (D / 2) * D + i % (D / 2), b = a + D / 2;
      double angle = (double)(t % S) * pow(100, -2.0 * (double)(i % (D / 2)) / D);
      double xa = get(k, x, a), xb = get(k, x, b);
      worst = fmax(worst, fabs(get(k, turned, a) - (xa * cos(angle) - xb * sin(angle))));
      worst = fmax(worst, fabs(get(k, turned, b) - (xb * cos(angle) + xa * sin(angle))));
    }
  check(worst < (k->size == 8 ? 1e-14 : 1e-6), "%s rotary: off by %g", k->name, worst);
  for (int64_t t = 0; t < T; t++)
    check_same(at(k, turned, t * LD + HEADS * D), at(k, x, t * LD + HEADS * D), 7 * k->size,
               "rotary: columns after the heads have changed");
  void *late = copy_of(at(k, x, S * LD), S * LD * k->size);
  k->rotary(S, S, HEADS, D, 0, table, late, LD, NULL);
  check_same(late, at(k, turned, S * LD), S * LD * k->size, "%s rotary: rows alone", k->name);
  k->rotary(T, S, HEADS, D, 1, table, turned, LD, NULL);
  check_near(k, turned, k, x, T * LD, k->size == 8 ? 1e-15 : 1e-6, "rotary there and back");
}

static void test_bf16(void)
{
  enum { T = 13, S = 5, HEADS = 3, D = 10, LD = 34 };
  twin table = acc_output(S * D), x = twin_normals(T * LD, 1);
  for (int inverse = 0; inverse < 2; inverse++) {
    narrow->rotary_table(S, D, 100, table.narrow, NULL);
    wide->rotary_table(S, D, 100, table.wide, NULL);
    narrow->rotary(T, S, HEADS, D, inverse, table.narrow, x.narrow, LD, NULL);
    wide->rotary(T, S, HEADS, D, inverse, table.wide, x.wide, LD, NULL);
    check_real(x, T * LD, "rotary");
    narrow->to_double(T * LD, x.narrow, x.wide, NULL);
  }
}

int main(void)
{
  FOR_BOTH(test_rotary);
  FOR_BF16(test_bf16);
  return check_done();
}
