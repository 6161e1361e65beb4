/* SPDX-License-Identifier: Apache-2.0 */
/* Operations on rows by index, against plain loops, finite differences and parts of themselves. */
#include "bf16_test.h"

enum { T = 19, K = 3, R = T * K };

static void test_moves(kernels *k)
{
  for (int s = 0; s < ODD_SIZES; s++) {
    int64_t n = odd_sizes[s], h = odd_sizes[(s + 2) % ODD_SIZES];
    int32_t *order = random_order(n, 4), *ids = random_ids(n, 7, 5);
    void *x = normals(k, n * h, 1), *there = reals(k, n * h), *back = reals(k, n * h);
    k->gather(n, h, order, x, there, NULL);
    for (int64_t i = 0; i < n; i++)
      check_same(at(k, there, i * h), at(k, x, order[i] * h), h * k->size, "gather: row %d",
                 (int)i);
    k->scatter(n, 1, h, NULL, order, there, back, NULL);
    check_same(back, x, n * h * k->size, "scatter does not undo gather");
    int32_t *position = random_order(n * K, 6);
    void *dealt = reals(k, n * K * h);
    k->scatter(n, K, h, NULL, position, x, dealt, NULL);
    for (int64_t i = 0; i < n * K; i++)
      check_same(at(k, dealt, position[i] * h), at(k, x, i / K * h), h * k->size,
                 "scatter: choice %d", (int)i);
    void *table = normals(k, 7 * h, 2), *expected = copy_of(table, 7 * h * k->size);
    k->scatter_add(n, h, ids, x, table, NULL);
    for (int64_t i = 0; i < n * h; i++) {
      int64_t to = ids[i / h] * h + i % h;
      put(k, expected, to, get(k, expected, to) + get(k, x, i));
    }
    check_same(table, expected, 7 * h * k->size, "scatter_add of %d rows", (int)n);
  }
}

static void test_combine(kernels *k)
{
  for (int s = 0; s < ODD_SIZES; s++) {
    int64_t h = odd_sizes[s];
    int32_t *position = random_order(R, 3);
    void *x = normals(k, R * h, 1), *w = normals(k, R, 2);
    void *y = reals(k, T * h), *plain = reals(k, T * h), *one = reals(k, h);
    k->combine(T, K, h, w, position, x, y, NULL);
    k->combine(T, K, h, NULL, position, x, plain, NULL);
    double worst = 0;
    for (int64_t i = 0; i < T * h; i++) {
      double sum = 0, unweighted = 0;
      for (int64_t c = 0; c < K; c++) {
        double value = get(k, x, position[i / h * K + c] * h + i % h);
        sum += get(k, w, i / h * K + c) * value;
        unweighted += value;
      }
      worst = fmax(worst, fabs(sum - get(k, y, i)));
      worst = fmax(worst, fabs(unweighted - get(k, plain, i)));
    }
    check(worst < (k->size == 8 ? 1e-14 : 3e-6), "%s combine: off by %g", k->name, worst);
    for (int64_t t = 0; t < T; t++) {
      k->combine(1, K, h, at(k, w, t * K), position + t * K, x, one, NULL);
      check_same(one, at(k, y, t * h), h * k->size, "%s combine: row %d alone", k->name, (int)t);
    }
  }
}

typedef struct {
  int64_t h;
  int32_t *position;
  double *x, *w, *y, *weight;
} combined;

static double combine_value(void *context)
{
  combined *c = context;
  neapi_kernels_f64()->combine(T, K, c->h, c->w, c->position, c->x, c->y, NULL);
  return weighted(T * c->h, c->y, c->weight);
}

static double plain_value(void *context)
{
  combined *c = context;
  neapi_kernels_f64()->gather(R, c->h, c->position, c->x, c->y, NULL);
  return weighted(R * c->h, c->y, c->weight);
}

static void test_combine_gradient(void)
{
  kernels *k = neapi_kernels_f64();
  for (int s = 0; s < ODD_SIZES; s++) {
    int64_t h = odd_sizes[s];
    combined c = {h,
                  random_order(R, 6),
                  normals(k, R * h, 1),
                  normals(k, R, 2),
                  reals(k, R * h),
                  normals(k, R * h, 3)};
    double *dx = reals(k, R * h);
    k->scatter(T, K, h, c.w, c.position, c.weight, dx, NULL);
    check_gradient("combine dx", combine_value, &c, c.x, R * h, dx, 60);
  }
  release_all();
}

/* The backward of a dispatch (scatter of each token to K rows) is combine without weights. */
static void test_dispatch_gradient(void)
{
  kernels *k = neapi_kernels_f64();
  int64_t h = 17;
  int32_t *position = random_order(R, 8), *token_of = poisoned(R * 4);
  for (int32_t i = 0; i < R; i++)
    token_of[position[i]] = i / K;
  combined c = {h, token_of, normals(k, T * h, 1), NULL, reals(k, R * h), normals(k, R * h, 3)};
  double *dx = reals(k, T * h);
  k->combine(T, K, h, NULL, position, c.weight, dx, NULL);
  check_gradient("dispatch dx", plain_value, &c, c.x, T * h, dx, 60);
  release_all();
}

/* Weighted rows: one product each, rounded once. */
static void test_weighted_scatter(kernels *k)
{
  int64_t h = 129;
  int32_t *position = random_order(R, 9);
  void *w = normals(k, R, 2), *x = normals(k, T * h, 3), *out = reals(k, R * h);
  k->scatter(T, K, h, w, position, x, out, NULL);
  bool same = true;
  for (int64_t i = 0; i < R; i++)
    for (int64_t j = 0; j < h; j++) {
      double product = get(k, w, i) * get(k, x, i / K * h + j),
             got = get(k, out, position[i] * h + j);
      same &= got == (k->size == 8 ? product : (double)(float)product);
    }
  check(same, "%s: scatter with weights", k->name);
}

static void test_row_dots(kernels *k)
{
  for (int s = 0; s < ODD_SIZES; s++) {
    int64_t h = odd_sizes[s];
    void *a = normals(k, T * h, 1), *b = normals(k, T * h, 2), *out = reals(k, T),
         *one = reals(k, 1);
    k->row_dots(T, h, a, b, out, NULL);
    double worst = 0;
    for (int64_t t = 0; t < T; t++) {
      double sum = 0, size = 0;
      for (int64_t j = 0; j < h; j++) {
        double term = get(k, a, t * h + j) * get(k, b, t * h + j);
        sum += term;
        size += fabs(term);
      }
      worst = fmax(worst, fabs(sum - get(k, out, t)) / size);
      k->row_dots(1, h, at(k, a, t * h), at(k, b, t * h), one, NULL);
      check_same(one, at(k, out, t), k->size, "%s row_dots: row %d alone", k->name, (int)t);
    }
    check(worst < (k->size == 8 ? 1e-14 : 1e-6), "%s row_dots: off by %g", k->name, worst);
  }
}

static void test_bf16(void)
{
  enum { T = 13, H = 37, K = 3 };
  twin x = twin_normals(T * K * H, 1), y = twin_output(T * H), dy = twin_normals(T * H, 2);
  twin weights = acc_normals(T * K, 3), dx = twin_output(T * K * H), dots = acc_output(T);
  twin moved = twin_output(T * K * H), sum = acc_normals(7 * H, 4);
  int32_t *position = random_order(T * K, 5), *ids = random_ids(T, 7, 6);
  for (int weighted = 0; weighted < 2; weighted++) {
    narrow->combine(T, K, H, weighted ? weights.narrow : NULL, position, x.narrow, y.narrow, NULL);
    wide->combine(T, K, H, weighted ? weights.wide : NULL, position, x.wide, y.wide, NULL);
    check_real(y, T * H, "combine");
  }
  narrow->scatter(T, K, H, weights.narrow, position, dy.narrow, dx.narrow, NULL);
  wide->scatter(T, K, H, weights.wide, position, dy.wide, dx.wide, NULL);
  check_real(dx, T * K * H, "scatter with weights");
  narrow->row_dots(T, H, x.narrow, dy.narrow, dots.narrow, NULL);
  wide->row_dots(T, H, x.wide, dy.wide, dots.wide, NULL);
  check_acc(dots, T, "row_dots");
  narrow->gather(T * K, H, position, x.narrow, moved.narrow, NULL);
  for (int64_t i = 0; i < T * K; i++)
    check_same(at(narrow, moved.narrow, i * H), at(narrow, x.narrow, position[i] * H), H * 2,
               "gather: row %d", (int)i);
  void *dealt = reals(narrow, T * K * H);
  narrow->scatter(T, K, H, NULL, position, dy.narrow, dealt, NULL);
  for (int64_t i = 0; i < T * K; i++)
    check_same(at(narrow, dealt, position[i] * H), at(narrow, dy.narrow, i / K * H), H * 2,
               "scatter: choice %d", (int)i);
  narrow->scatter_add(T, H, ids, dy.narrow, sum.narrow, NULL);
  wide->scatter_add(T, H, ids, dy.wide, sum.wide, NULL);
  check_acc(sum, 7 * H, "scatter_add");
}

int main(void)
{
  FOR_BOTH(test_moves);
  FOR_BOTH(test_combine);
  FOR_BOTH(test_weighted_scatter);
  FOR_BOTH(test_row_dots);
  test_combine_gradient();
  test_dispatch_gradient();
  FOR_BF16(test_bf16);
  return check_done();
}
