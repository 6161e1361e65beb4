/* SPDX-License-Identifier: Apache-2.0 */
/* FP8 as it travels: codes and rounding against all values of E4M3, blocks against a plain loop. */
#include "kernel_test.h"

#include "e4m3.h"

/* The value of a code from its definition, in double. */
static double value_of(int code)
{
  int exponent = code >> 3 & 15, mantissa = code & 7;
  double value = exponent ? ldexp(8 + mantissa, exponent - 10) : ldexp(mantissa, -9);
  return code & 0x80 ? -value : value;
}

static void test_values(void)
{
  for (int code = 0; code < 256; code++) {
    bool nan = (code & 0x7f) == 0x7f;
    float value = neapi_e4m3_value((uint8_t)code);
    check(nan ? value != value : (double)value == value_of(code), "code %d is %g", code, value);
    check(nan || neapi_e4m3_of(value) == code, "%g becomes %d, not %d", value, neapi_e4m3_of(value),
          code);
  }
}

/* The nearest code to a number, of two that are as near the even one. */
static int nearest(double x)
{
  int best = 0;
  double distance = INFINITY;
  for (int code = 0; code < 0x7f; code++) {
    double away = fabs(fabs(x) - value_of(code));
    if (away < distance || (away == distance && !(code & 1)))
      best = code, distance = away;
  }
  return signbit(x) ? best | 0x80 : best;
}

static void check_rounding(float x)
{
  check(neapi_e4m3_of(x) == nearest((double)x), "%.9g becomes %d, nearest is %d", x,
        neapi_e4m3_of(x), nearest((double)x));
}

static void test_rounding(void)
{
  for (int code = 0; code + 1 < 0x7f; code++) {
    float middle = (float)((value_of(code) + value_of(code + 1)) / 2);
    float around[] = {middle, nextafterf(middle, 0), nextafterf(middle, 1000)};
    for (int i = 0; i < 3; i++) {
      check_rounding(around[i]);
      check_rounding(-around[i]);
    }
  }
  for (uint64_t i = 0; i < 20000; i++)
    check_rounding((float)ldexp(neap_random_normal(1, 1, i), (int)pick(1, i, -14, 9)));
  float large[] = {448, 449, 463.9f, 464, 1000, FLT_MAX, INFINITY};
  for (int i = 0; i < 7; i++)
    check(neapi_e4m3_of(large[i]) == 0x7e && neapi_e4m3_of(-large[i]) == 0xfe, "%g saturates",
          large[i]);
}

/* What comes back, without the kernels: in the type of the table's acc. */
static double expected(kernels *acc, const void *x, int64_t n, int64_t i)
{
  int64_t first = i / 128 * 128, end = first + 128 < n ? first + 128 : n;
  double largest = 0;
  for (int64_t j = first; j < end; j++)
    largest = fmax(largest, fabs(get(acc, x, j)));
  float scale = neapi_e4m3_scale(largest);
  if (scale == 0)
    return 0;
  double quotient =
      acc->size == 8 ? get(acc, x, i) / (double)scale : (double)((float)get(acc, x, i) / scale);
  return value_of(nearest(quotient)) * (double)scale;
}

static double real_at(kernels *k, const void *x, int64_t i)
{
  double value;
  k->to_double(1, (const char *)x + i * k->size, &value, NULL);
  return value;
}

static void *packed_of(kernels *k, int64_t n, const void *x)
{
  void *packed = poisoned(neapi_e4m3_bytes(n));
  k->to_e4m3(n, x, packed, NULL);
  return packed;
}

static void test_blocks(kernels *k, kernels *acc)
{
  static const int64_t sizes[] = {0, 1, 3, 127, 128, 129, 256, 1000};
  double eps = k->size == 2 ? 1.0 / 256 : k->size == 4 ? 1e-7 : 1e-15;
  for (int s = 0; s < 8; s++) {
    int64_t n = sizes[s];
    void *x = normals(acc, n, 3 + (uint64_t)s), *out = reals(k, n);
    for (int64_t i = 0; i < n; i++)
      put(acc, x, i, get(acc, x, i) * (i / 128 == 1 ? 0 : i / 128 == 2 ? 1e-30 : 1));
    const uint8_t *packed = packed_of(k, n, x);
    k->from_e4m3(n, packed, out, NULL);
    for (int64_t i = 0; i < n; i++) {
      double wanted = expected(acc, x, n, i);
      check(fabs(real_at(k, out, i) - wanted) <= eps * fabs(wanted), "%s, %d of %d: %g, not %g",
            k->name, (int)i, (int)n, real_at(k, out, i), wanted);
    }
    for (int64_t i = n; i < (n + 127) / 128 * 128; i++)
      check(packed[i / 128 * 132 + i % 128] == 0, "%s: what follows the last number", k->name);
  }
}

/* Numbers that are not finite spoil their block alone; a block is the same wherever it stands. */
static void test_alone(kernels *k, kernels *acc)
{
  enum { N = 384 };
  void *x = normals(acc, N, 9), *out = reals(k, N);
  put(acc, x, 130, INFINITY);
  uint8_t *packed = packed_of(k, N, x);
  k->from_e4m3(N, packed, out, NULL);
  for (int64_t i = 0; i < N; i++)
    check((real_at(k, out, i) != real_at(k, out, i)) == (i / 128 == 1), "%s: infinity at 130, %d",
          k->name, (int)i);
  put(acc, x, 130, NAN);
  packed = packed_of(k, N, x);
  float scale;
  memcpy(&scale, packed + 132 + 128, 4);
  check(scale != scale, "%s: NaN", k->name);
  const char *third = (const char *)x + 256 * acc->size;
  check_same(packed_of(k, 128, third), packed + 2 * 132, 132, "%s: a block alone", k->name);
}

static void test_tiny(kernels *k, kernels *acc)
{
  void *x = reals(acc, 2), *out = reals(k, 2);
  put(acc, x, 0, 1e-37);
  put(acc, x, 1, -3e-38);
  k->from_e4m3(2, packed_of(k, 2, x), out, NULL);
  check(fabs(real_at(k, out, 0) / 1e-37 - 1) < 0.07, "%s: %g of 1e-37", k->name,
        real_at(k, out, 0));
  check(real_at(k, out, 1) < 0, "%s: %g of -3e-38", k->name, real_at(k, out, 1));
}

int main(void)
{
  test_values();
  test_rounding();
  kernels *tables[] = {neapi_kernels_f32(), neapi_kernels_f64(), neapi_kernels_bf16()};
  for (int i = 0; i < 3; i++) {
    kernels *acc = tables[i]->acc_size == 8 ? neapi_kernels_f64() : neapi_kernels_f32();
    test_blocks(tables[i], acc);
    test_alone(tables[i], acc);
    test_tiny(tables[i], acc);
  }
  release_all();
  return check_done();
}
