/* SPDX-License-Identifier: Apache-2.0 */
/* Sums and maxima of whole arrays. */
#include "bf16_test.h"

enum { SIZES = 7 };
static const int64_t sizes[SIZES] = {0, 1, 3, 17, 127, 129, 5000};

static void test_reduce(kernels *k)
{
  for (int s = 0; s < SIZES; s++) {
    int64_t n = sizes[s];
    void *x = normals(k, n, 1);
    double sum = 0, max = 0, got;
    for (int64_t i = 0; i < n; i++) {
      sum += get(k, x, i) * get(k, x, i);
      max = fmax(max, fabs(get(k, x, i)));
    }
    k->square_sum(n, x, &got, NULL);
    check_close(got, sum, 1e-13, "square_sum");
    k->max_abs(n, x, &got, NULL);
    check(got == max, "%s max_abs of %d is %g, not %g", k->name, (int)n, got, max);
    for (int bad = 0; bad < 3 && n; bad++) {
      put(k, x, n - 1, bad ? (bad == 1 ? INFINITY : -INFINITY) : NAN);
      k->max_abs(n, x, &got, NULL);
      check(isinf(got), "max_abs of a number that is not finite is %g", got);
    }
  }
}

/* Of numbers that both types hold, so that results are equal. */
static void test_bf16(void)
{
  enum { N = 481 };
  twin x = twin_normals(N, 1);
  double a, b;
  narrow->square_sum(N, x.narrow, &a, NULL);
  wide->square_sum(N, x.wide, &b, NULL);
  check(a == b, "square_sum is %.17g; expected %.17g", a, b);
  narrow->max_abs(N, x.narrow, &a, NULL);
  wide->max_abs(N, x.wide, &b, NULL);
  check(a == b, "max_abs is %g; expected %g", a, b);
}

int main(void)
{
  FOR_BOTH(test_reduce);
  FOR_BF16(test_bf16);
  return check_done();
}
