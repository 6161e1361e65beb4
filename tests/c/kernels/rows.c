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
    k->scatter(n, 1, h, order, there, back, NULL);
    check_same(back, x, n * h * k->size, "scatter does not undo gather");
    int32_t *position = random_order(n * K, 6);
    void *dealt = reals(k, n * K * h);
    k->scatter(n, K, h, position, x, dealt, NULL);
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
    double *dx = reals(k, R * h), *dw = reals(k, R);
    k->combine_backward(T, K, h, c.w, c.position, c.x, c.weight, dx, dw, NULL);
    check_gradient("combine dx", combine_value, &c, c.x, R * h, dx, 60);
    check_gradient("combine dweights", combine_value, &c, c.w, R, dw, R);
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

/* f32 against f64, and rows of the backward pass alone. */
static void test_combine_backward(kernels *k)
{
  kernels *exact = neapi_kernels_f64();
  int64_t h = 129;
  int32_t *position = random_order(R, 9);
  void *dx[2], *dw[2], *w = normals(k, R, 2), *x = normals(k, R * h, 1), *dy = normals(k, T * h, 3);
  for (int i = 0; i < 2; i++) {
    kernels *of = i ? exact : k;
    dx[i] = reals(of, R * h), dw[i] = reals(of, R);
    of->combine_backward(T, K, h, normals(of, R, 2), position, normals(of, R * h, 1),
                         normals(of, T * h, 3), dx[i], dw[i], NULL);
  }
  check_near(k, dx[0], exact, dx[1], R * h, 1e-6, "combine dx");
  check_near(k, dw[0], exact, dw[1], R, 1e-6, "combine dweights");
  void *dx_alone = reals(k, R * h), *dw_alone = reals(k, R);
  for (int64_t t = 0; t < T; t++)
    k->combine_backward(1, K, h, at(k, w, t * K), position + t * K, x, at(k, dy, t * h), dx_alone,
                        at(k, dw_alone, t * K), NULL);
  check_same(dx_alone, dx[0], R * h * k->size, "%s combine dx: tokens alone", k->name);
  check_same(dw_alone, dw[0], R * k->size, "%s combine dweights: tokens alone", k->name);
}

static void test_bf16(void)
{
  enum { T = 13, H = 37, K = 3 };
  twin x = twin_normals(T * K * H, 1), y = twin_output(T * H), dy = twin_normals(T * H, 2);
  twin weights = acc_normals(T * K, 3), dx = twin_output(T * K * H), dweights = acc_output(T * K);
  twin moved = twin_output(T * K * H), sum = acc_normals(7 * H, 4);
  int32_t *position = random_order(T * K, 5), *ids = random_ids(T, 7, 6);
  for (int weighted = 0; weighted < 2; weighted++) {
    narrow->combine(T, K, H, weighted ? weights.narrow : NULL, position, x.narrow, y.narrow, NULL);
    wide->combine(T, K, H, weighted ? weights.wide : NULL, position, x.wide, y.wide, NULL);
    check_real(y, T * H, "combine");
  }
  narrow->combine_backward(T, K, H, weights.narrow, position, x.narrow, dy.narrow, dx.narrow,
                           dweights.narrow, NULL);
  wide->combine_backward(T, K, H, weights.wide, position, x.wide, dy.wide, dx.wide, dweights.wide,
                         NULL);
  check_real(dx, T * K * H, "combine_backward dx");
  check_acc(dweights, T * K, "combine_backward dweights");
  narrow->gather(T * K, H, position, x.narrow, moved.narrow, NULL);
  for (int64_t i = 0; i < T * K; i++)
    check_same(at(narrow, moved.narrow, i * H), at(narrow, x.narrow, position[i] * H), H * 2,
               "gather: row %d", (int)i);
  void *dealt = reals(narrow, T * K * H);
  narrow->scatter(T, K, H, position, dy.narrow, dealt, NULL);
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
  FOR_BOTH(test_combine_backward);
  test_combine_gradient();
  test_dispatch_gradient();
  FOR_BF16(test_bf16);
  return check_done();
}
