/* SPDX-License-Identifier: Apache-2.0 */
/* Cross-entropy. */
#include "bf16_test.h"

enum { T = 29 };

typedef struct {
  int64_t v;
  int32_t *ids;
  double *logits, *loss;
} softened;

static double loss_value(void *context)
{
  softened *c = context;
  neapi_kernels_f64()->cross_entropy(T, c->v, 0, c->logits, c->ids, c->loss, NULL, NULL);
  double sum = 0;
  for (int t = 0; t < T; t++)
    sum += c->loss[t];
  return sum;
}

static void test_loss_gradient(void)
{
  kernels *k = neapi_kernels_f64();
  for (int s = 0; s < ODD_SIZES; s++) {
    int64_t v = odd_sizes[s];
    softened c = {.v = v, .ids = random_ids(T, v, 3), .logits = normals(k, T * v, 1)};
    c.ids[4] = -1;
    c.loss = reals(k, T);
    double *dlogits = reals(k, T * v);
    k->cross_entropy(T, v, 1, c.logits, c.ids, NULL, dlogits, NULL);
    check_gradient("cross-entropy dlogits", loss_value, &c, c.logits, T * v, dlogits, 60);
  }
  release_all();
}

static void test_loss(kernels *k)
{
  static const int64_t sizes[] = {1, 3, 17, 256, 1000};
  for (int s = 0; s < 5; s++) {
    int64_t v = sizes[s];
    int32_t *target = random_ids(T, v, 3);
    target[2] = -1;
    void *logits = normals(k, T * v, 1), *loss = reals(k, T), *grad = reals(k, T * v);
    for (int64_t i = 0; i < T * v; i++)
      put(k, logits, i, 8 * get(k, logits, i));
    k->cross_entropy(T, v, 0.5, logits, target, loss, grad, NULL);
    for (int64_t t = 0; t < T; t++) {
      double sum = 0;
      for (int64_t i = 0; i < v; i++)
        sum += exp(get(k, logits, t * v + i));
      double expected = t == 2 ? 0 : log(sum) - get(k, logits, t * v + target[t]);
      check_close(get(k, loss, t), expected, k->size == 8 ? 1e-13 : 1e-6, "cross-entropy");
      for (int64_t i = 0; i < v; i++) {
        double p = exp(get(k, logits, t * v + i)) / sum - (i == target[t]);
        double apart = fabs(get(k, grad, t * v + i) - (t == 2 ? 0 : 0.5 * p));
        if (!(apart < (k->size == 8 ? 1e-14 : 5e-7)))
          check(false, "%s cross-entropy dlogits: off by %g", k->name, apart);
      }
      void *one = copy_of(at(k, logits, t * v), v * k->size), *alone = reals(k, 1);
      k->cross_entropy(1, v, 0.5, one, target + t, alone, one, NULL);
      check_same(one, at(k, grad, t * v), v * k->size, "%s dlogits: in place, alone", k->name);
      check_same(alone, at(k, loss, t), k->size, "%s cross-entropy: row alone", k->name);
    }
  }
}

static void test_bf16(void)
{
  enum { T = 13, E = 11 };
  twin logits = acc_normals(T * E, 1), grads = twin_output(T * E), loss = acc_output(T);
  int32_t *target = random_ids(T, E, 2);
  target[3] = -1;
  narrow->cross_entropy(T, E, 0.5, logits.narrow, target, loss.narrow, grads.narrow, NULL);
  wide->cross_entropy(T, E, 0.5, logits.wide, target, loss.wide, grads.wide, NULL);
  check_acc(loss, T, "cross_entropy");
  check_real(grads, T * E, "cross_entropy grads");
  narrow->cross_entropy(T, E, 0.5, logits.narrow, target, loss.narrow, NULL, NULL);
  check_acc(loss, T, "cross_entropy without grads");
}

int main(void)
{
  test_loss_gradient();
  FOR_BOTH(test_loss);
  FOR_BF16(test_bf16);
  return check_done();
}
