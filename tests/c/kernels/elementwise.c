/* SPDX-License-Identifier: Apache-2.0 */
/* Elementwise operations, sums of arrays, SwiGLU, AdamW. */
#include "bf16_test.h"

enum { T = 13, SIZES = 7 };
static const int64_t sizes[SIZES] = {0, 1, 3, 17, 127, 129, 5000};

static void test_arithmetic(kernels *k)
{
  for (int s = 0; s < SIZES; s++) {
    int64_t n = sizes[s];
    void *a = normals(k, n, 1), *b = normals(k, n, 2), *out = reals(k, n);
    double eps = k->size == 8 ? 1e-15 : 1e-6, worst = 0;
    k->add(n, a, b, out, NULL);
    for (int64_t i = 0; i < n; i++)
      worst = fmax(worst, fabs(get(k, out, i) - get(k, a, i) - get(k, b, i)));
    check(worst <= 10 * eps, "%s add: off by %g", k->name, worst);
    k->fill(n, 0.1, out, NULL);
    for (int64_t i = 0; i < n; i++)
      check(fabs(get(k, out, i) - 0.1) < eps, "%s fill", k->name);
  }
}

static void test_sum(kernels *k)
{
  for (int s = 0; s < SIZES; s++) {
    int64_t n = sizes[s];
    const void *parts[3] = {normals(k, n, 1), normals(k, n, 2), normals(k, n, 3)};
    const double *doubles[3];
    for (int p = 0; p < 3; p++) {
      double *as_double = poisoned(n * 8);
      k->to_double(n, parts[p], as_double, NULL);
      doubles[p] = as_double;
    }
    void *out = reals(k, n), *expected = reals(k, n), *zero = reals(k, n);
    double *out_double = poisoned(n * 8);
    for (int64_t i = 0; i < n; i++) {
      put(k, expected, i, get(k, parts[0], i) + get(k, parts[1], i));
      put(k, expected, i, get(k, expected, i) + get(k, parts[2], i));
    }
    k->sum(n, 3, parts, out, NULL);
    k->sum_double(n, 3, doubles, out_double, NULL);
    k->sum(n, 0, parts, zero, NULL);
    check_same(out, expected, n * k->size, "%s sum of %d elements", k->name, (int)n);
    for (int64_t i = 0; i < n; i++)
      check(fabs(out_double[i] - get(k, out, i)) < 1e-6 && get(k, zero, i) == 0, "sum_double");
    k->from_double(n, out_double, expected, NULL);
    check_near(k, expected, k, out, n, 1e-6, "from_double");
  }
}

typedef struct {
  int64_t f;
  double *gu, *h, *weight;
} gated;

static double gated_value(void *context)
{
  gated *c = context;
  neapi_kernels_f64()->swiglu(T, c->f, c->gu, c->h, NULL);
  return weighted(T * c->f, c->h, c->weight);
}

static void test_swiglu_gradient(void)
{
  kernels *k = neapi_kernels_f64();
  for (int s = 0; s < ODD_SIZES; s++) {
    int64_t f = odd_sizes[s];
    gated c = {f, normals(k, T * 2 * f, 1), reals(k, T * f), normals(k, T * f, 2)};
    double *dgu = reals(k, T * 2 * f);
    k->swiglu_backward(T, f, c.gu, c.weight, dgu, NULL);
    check_gradient("swiglu dgu", gated_value, &c, c.gu, T * 2 * f, dgu, 80);
    k->swiglu_backward(T, f, c.gu, c.weight, c.gu, NULL);
    check_same(c.gu, dgu, T * 2 * f * 8, "swiglu backward in place");
  }
  release_all();
}

static void test_swiglu(kernels *k)
{
  kernels *f64 = neapi_kernels_f64();
  for (int s = 0; s < ODD_SIZES; s++) {
    int64_t f = odd_sizes[s];
    void *h[2], *dgu[2];
    for (int i = 0; i < 2; i++) {
      kernels *of = i ? f64 : k;
      void *gu = normals(of, T * 2 * f, 1), *dh = normals(of, T * f, 2);
      h[i] = reals(of, T * f), dgu[i] = reals(of, T * 2 * f);
      of->swiglu(T, f, gu, h[i], NULL);
      of->swiglu_backward(T, f, gu, dh, dgu[i], NULL);
    }
    check_near(k, h[0], f64, h[1], T * f, 5e-7, "swiglu");
    check_near(k, dgu[0], f64, dgu[1], T * 2 * f, 1e-6, "swiglu dgu");
    void *gu = normals(k, T * 2 * f, 1), *dh = normals(k, T * f, 2);
    void *one = reals(k, f), *grad = reals(k, 2 * f);
    for (int64_t t = 0; t < T; t++) {
      k->swiglu(1, f, at(k, gu, t * 2 * f), one, NULL);
      k->swiglu_backward(1, f, at(k, gu, t * 2 * f), at(k, dh, t * f), grad, NULL);
      check_same(one, at(k, h[0], t * f), f * k->size, "%s swiglu: row alone", k->name);
      check_same(grad, at(k, dgu[0], t * 2 * f), 2 * f * k->size, "%s dgu: row alone", k->name);
    }
  }
}

/* silu from -90 to 90 against libm: 4 ulp. */
static void test_silu_range(kernels *k)
{
  enum { N = 20001 };
  void *gu = reals(k, 2 * N), *h = reals(k, N);
  for (int i = 0; i < N; i++) {
    put(k, gu, i, (i - N / 2) * 0.009);
    put(k, gu, N + i, 1);
  }
  k->swiglu(1, N, gu, h, NULL);
  double worst = 0;
  for (int i = 0; i < N; i++) {
    double g = get(k, gu, i), expected = g / (1 + exp(-g));
    if (fabs(expected) > 1e-30)
      worst = fmax(worst, fabs(get(k, h, i) / expected - 1));
  }
  check(worst < (k->size == 8 ? 1e-15 : 5e-7), "%s silu: off by %g", k->name, worst);
}

/* Two steps against the formula in double; and the same in pieces. */
static void test_adamw(kernels *k)
{
  for (int s = 0; s < SIZES; s++) {
    int64_t n = sizes[s];
    void *grad = normals(k, n, 1), *param = normals(k, n, 2), *m = normals(k, n, 3);
    void *v = reals(k, n), *before[3];
    for (int64_t i = 0; i < n; i++)
      put(k, v, i, fabs(get(k, m, i)) + 0.1);
    before[0] = copy_of(param, n * k->size), before[1] = copy_of(m, n * k->size);
    before[2] = copy_of(v, n * k->size);
    neapi_adamw step = {0.01, 0.9, 0.95, 1e-8, 0.1, 1 - 0.9 * 0.9, 1 - 0.95 * 0.95, 0.5};
    k->adamw(n, &step, grad, param, m, v, NULL);
    double worst = 0;
    for (int64_t i = 0; i < n; i++) {
      double g = 0.5 * get(k, grad, i), p = get(k, before[0], i);
      double mi = 0.9 * get(k, before[1], i) + 0.1 * g, vi = 0.95 * get(k, before[2], i);
      vi += 0.05 * g * g;
      p -= 0.01 * (mi / 0.19 / (sqrt(vi / (1 - 0.95 * 0.95)) + 1e-8) + 0.1 * p);
      worst = fmax(worst, fabs(p - get(k, param, i)));
      worst = fmax(worst, fabs(mi - get(k, m, i)) + fabs(vi - get(k, v, i)));
    }
    check(worst < (k->size == 8 ? 1e-14 : 2e-6), "%s adamw: off by %g", k->name, worst);
    for (int64_t i = 0, size; i < n; i += size) {
      size = pick(5, (uint64_t)i, 1, n - i);
      k->adamw(size, &step, at(k, grad, i), at(k, before[0], i), at(k, before[1], i),
               at(k, before[2], i), NULL);
    }
    check_same(before[0], param, n * k->size, "%s adamw in pieces", k->name);
    check_same(before[2], v, n * k->size, "%s adamw in pieces: v", k->name);
  }
}

static void test_bf16(void)
{
  enum { T = 13, H = 37 };
  int64_t n = T * H;
  twin a = twin_normals(n, 1), b = twin_normals(n, 2), c = twin_normals(n, 3), out = twin_output(n);
  narrow->add(n, a.narrow, b.narrow, out.narrow, NULL);
  wide->add(n, a.wide, b.wide, out.wide, NULL);
  check_real(out, n, "add");
  const void *parts[] = {a.narrow, b.narrow, c.narrow}, *same[] = {a.wide, b.wide, c.wide};
  narrow->sum(n, 3, parts, out.narrow, NULL);
  wide->sum(n, 3, same, out.wide, NULL);
  check_real(out, n, "sum");
  narrow->fill(n, 0.1, out.narrow, NULL);
  wide->fill(n, nearest(0.1), out.wide, NULL);
  check_real(out, n, "fill");
  twin gu = twin_normals(2 * n, 4), dh = twin_normals(n, 5);
  narrow->swiglu(T, H, gu.narrow, out.narrow, NULL);
  wide->swiglu(T, H, gu.wide, out.wide, NULL);
  check_real(out, n, "swiglu");
  narrow->swiglu_backward(T, H, gu.narrow, dh.narrow, gu.narrow, NULL); /* in place */
  wide->swiglu_backward(T, H, gu.wide, dh.wide, gu.wide, NULL);
  check_real(gu, 2 * n, "swiglu_backward");
}

int main(void)
{
  FOR_BOTH(test_arithmetic);
  FOR_BOTH(test_sum);
  test_swiglu_gradient();
  FOR_BOTH(test_swiglu);
  FOR_BOTH(test_silu_range);
  FOR_BOTH(test_adamw);
  FOR_BF16(test_bf16);
  return check_done();
}
