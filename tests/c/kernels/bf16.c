/* SPDX-License-Identifier: Apache-2.0 */
/* Rounding to bf16 against the definition. */
#include "bf16_test.h"

static void check_rounded(double x)
{
  uint16_t bits, from_float;
  double back;
  float as_float = (float)x;
  narrow->from_double(1, &x, &bits, NULL);
  narrow->to_double(1, &bits, &back, NULL);
  check(back == nearest(x), "%a becomes %a; expected %a", x, back, nearest(x));
  narrow->from_acc(1, &as_float, &from_float, NULL);
  narrow->to_double(1, &from_float, &back, NULL);
  check(back == nearest((double)as_float), "%a becomes %a", (double)as_float, back);
}

static void test_rounding(void)
{
  for (uint64_t i = 0; i < 20000; i++) {
    double x = neap_random_normal(1, 1, i) * ldexp(1, (int)pick(2, i, -60, 60));
    check_rounded(x);
    double half = nearest(x) + ldexp(1, ilogb(nearest(x)) - 8); /* between two of them */
    check_rounded(half);
    check_rounded(nextafter(half, 1e300));
    check_rounded(nextafter(half, -1e300));
  }
  const float special[] = {0, -0.0f, INFINITY, -INFINITY, 3.4e38f};
  const uint16_t expected[] = {0, 0x8000, 0x7f80, 0xff80, 0x7f80};
  for (int i = 0; i < 5; i++) {
    uint16_t bits;
    narrow->from_acc(1, &special[i], &bits, NULL);
    check(bits == expected[i], "%g becomes %x", (double)special[i], bits);
  }
  for (uint64_t i = 0; i < 1000; i++) { /* a NaN stays one, whatever its bits */
    uint32_t bits = 0x7f800001 + (uint32_t)pick(3, i, 0, 0x7ffffe) + (i % 2 << 31);
    float nan, back;
    memcpy(&nan, &bits, 4);
    uint16_t rounded;
    narrow->from_acc(1, &nan, &rounded, NULL);
    narrow->to_acc(1, &rounded, &back, NULL);
    check(isnan(back), "a NaN becomes %g", (double)back);
  }
}

int main(void)
{
  FOR_BF16(test_rounding);
  return check_done();
}
