/* SPDX-License-Identifier: Apache-2.0 */
/* Root mean square normalisation. */
#include "bf16_test.h"

enum { T = 23 };
static const double EPS = 1e-5;

typedef struct {
  int64_t h;
  double *x, *gain, *y, *rstd, *weight;
} normed;

static double norm_value(void *context)
{
  normed *c = context;
  neapi_kernels_f64()->rmsnorm(T, c->h, c->x, c->gain, EPS, c->y, c->rstd, NULL);
  return weighted(T * c->h, c->y, c->weight);
}

static void test_norm_gradient(void)
{
  kernels *k = neapi_kernels_f64();
  for (int s = 0; s < ODD_SIZES; s++) {
    int64_t h = odd_sizes[s];
    normed c = {h,           normals(k, T * h, 1), normals(k, h, 2), reals(k, T * h),
                reals(k, T), normals(k, T * h, 3)};
    double *dx = reals(k, T * h), *dgain = reals(k, h), *terms = reals(k, T * h);
    k->fill(h, 0, dgain, NULL);
    norm_value(&c);
    k->rmsnorm_backward(T, h, c.x, c.gain, c.rstd, c.weight, dx, dgain, NULL);
    k->rmsnorm_gain_terms(T, h, c.x, c.rstd, c.weight, terms, NULL);
    for (int64_t j = 0; j < h; j++) {
      double sum = 0;
      for (int64_t t = 0; t < T; t++)
        sum += terms[t * h + j];
      check_close(sum, dgain[j], 1e-14, "rmsnorm gain terms");
    }
    check_gradient("rmsnorm dx", norm_value, &c, c.x, T * h, dx, 60);
    check_gradient("rmsnorm dgain", norm_value, &c, c.gain, h, dgain, 30);
  }
  release_all();
}

/* f32 against f64, and tokens alone. */
static void test_norm(kernels *k)
{
  kernels *f64 = neapi_kernels_f64();
  for (int s = 0; s < ODD_SIZES; s++) {
    int64_t h = odd_sizes[s];
    void *y[2], *rstd[2], *dx[2];
    for (int i = 0; i < 2; i++) {
      kernels *of = i ? f64 : k;
      void *x = normals(of, T * h, 1), *gain = normals(of, h, 2), *dy = normals(of, T * h, 3);
      y[i] = reals(of, T * h), rstd[i] = reals(of, T), dx[i] = reals(of, T * h);
      of->rmsnorm(T, h, x, gain, EPS, y[i], rstd[i], NULL);
      of->rmsnorm_backward(T, h, x, gain, rstd[i], dy, dx[i], NULL, NULL);
    }
    check_near(k, y[0], f64, y[1], T * h, 1e-6, "rmsnorm");
    check_near(k, rstd[0], f64, rstd[1], T, 1e-6, "rmsnorm rstd");
    check_near(k, dx[0], f64, dx[1], T * h, 1e-5, "rmsnorm dx");
    void *x = normals(k, T * h, 1), *gain = normals(k, h, 2), *dy = normals(k, T * h, 3);
    void *one = reals(k, h), *scale = reals(k, 1), *grad = reals(k, h);
    for (int64_t t = 0; t < T; t++) {
      k->rmsnorm(1, h, at(k, x, t * h), gain, EPS, one, scale, NULL);
      check_same(one, at(k, y[0], t * h), h * k->size, "%s rmsnorm: row alone", k->name);
      k->rmsnorm_backward(1, h, at(k, x, t * h), gain, scale, at(k, dy, t * h), grad, NULL, NULL);
      check_same(grad, at(k, dx[0], t * h), h * k->size, "%s rmsnorm dx: row alone", k->name);
    }
  }
}

static void test_bf16(void)
{
  enum { T = 13, H = 37 };
  twin x = twin_normals(T * H, 1), gain = twin_normals(H, 2), dy = twin_normals(T * H, 3);
  twin y = twin_output(T * H), rstd = acc_output(T), dx = twin_output(T * H);
  twin dgain = acc_normals(H, 4), terms = acc_output(T * H);
  narrow->rmsnorm(T, H, x.narrow, gain.narrow, 1e-5, y.narrow, rstd.narrow, NULL);
  wide->rmsnorm(T, H, x.wide, gain.wide, 1e-5, y.wide, rstd.wide, NULL);
  check_real(y, T * H, "rmsnorm");
  check_acc(rstd, T, "rstd");
  narrow->rmsnorm_backward(T, H, x.narrow, gain.narrow, rstd.narrow, dy.narrow, dx.narrow,
                           dgain.narrow, NULL);
  wide->rmsnorm_backward(T, H, x.wide, gain.wide, rstd.wide, dy.wide, dx.wide, dgain.wide, NULL);
  check_real(dx, T * H, "rmsnorm dx");
  check_acc(dgain, H, "rmsnorm dgain");
  narrow->rmsnorm_gain_terms(T, H, x.narrow, rstd.narrow, dy.narrow, terms.narrow, NULL);
  wide->rmsnorm_gain_terms(T, H, x.wide, rstd.wide, dy.wide, terms.wide, NULL);
  check_acc(terms, T * H, "gain terms");
  for (int64_t t = 0; t < T; t++) {
    void *one = reals(narrow, H), *scale = poisoned(4);
    narrow->rmsnorm(1, H, at(narrow, x.narrow, t * H), gain.narrow, 1e-5, one, scale, NULL);
    check_same(one, at(narrow, y.narrow, t * H), H * 2, "rmsnorm: row %d alone", (int)t);
  }
}

int main(void)
{
  test_norm_gradient();
  FOR_BOTH(test_norm);
  FOR_BF16(test_bf16);
  return check_done();
}
