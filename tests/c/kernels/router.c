/* SPDX-License-Identifier: Apache-2.0 */
/* Router. */
#include "bf16_test.h"

enum { T = 29 };

/* What experts are chosen by, as the kernels round it. */
static double key_of(kernels *k, const void *scores, const double *bias, int64_t i)
{
  if (!bias)
    return get(k, scores, i);
  return k->size == 8 ? get(k, scores, i) + bias[i]
                      : (double)((float)get(k, scores, i) + (float)bias[i]);
}

/* Scores and weights by the definition; ids by a count of what has a larger key. */
static void check_routed(kernels *k, int64_t e, int64_t top, int sigmoid, int renormalise,
                         const double *bias, const void *logits, const void *scores,
                         const int32_t *ids, const void *weights)
{
  double sum = 0, selected = 0, eps = k->size == 8 ? 1e-14 : 1e-6;
  for (int64_t i = 0; i < e; i++)
    sum += exp(get(k, logits, i));
  for (int64_t i = 0; i < e; i++)
    check_close(get(k, scores, i),
                sigmoid ? 1 / (1 + exp(-get(k, logits, i))) : exp(get(k, logits, i)) / sum, eps,
                "router score");
  for (int64_t c = 0; c < top; c++) {
    int64_t before = 0;
    for (int64_t i = 0; i < e; i++) {
      double key = key_of(k, scores, bias, i), chosen = key_of(k, scores, bias, ids[c]);
      before += key > chosen || (key == chosen && i < ids[c]);
    }
    check(before == c, "%s router: choice %d is %d, behind %d others", k->name, (int)c, ids[c],
          (int)before);
    selected += get(k, scores, ids[c]);
  }
  for (int64_t c = 0; c < top; c++)
    check_close(get(k, weights, c), get(k, scores, ids[c]) / (renormalise ? selected : 1), eps,
                "router weight");
}

static double *biases(int64_t e)
{
  double *bias = normals(neapi_kernels_f64(), e, 5);
  for (int64_t i = 0; i < e; i += 3)
    bias[i] = 0;
  return bias;
}

static void test_scoring(kernels *k, int sigmoid, bool biased)
{
  static const int64_t experts[] = {1, 3, 17, 64, 129}, tops[] = {1, 2, 4, 6, 8};
  for (int s = 0; s < 10; s++) {
    int64_t e = experts[s / 2], top = tops[s / 2] < e ? tops[s / 2] : e, bad;
    void *logits = normals(k, T * e, 1), *scores = reals(k, T * e), *weights = reals(k, T * top);
    double *bias = biased ? biases(e) : NULL;
    int32_t *ids = poisoned(T * top * 4);
    for (int64_t i = 0; i < T * e; i += 2) /* many ties */
      put(k, logits, i, floor(get(k, logits, i)));
    k->router(T, e, top, sigmoid, s % 2, bias, logits, scores, ids, weights, &bad, NULL);
    check(bad == -1, "%s router: token %d called bad", k->name, (int)bad);
    void *p = reals(k, e), *w = reals(k, top);
    int32_t *id = poisoned(top * 4);
    for (int64_t t = 0; t < T; t++) {
      check_routed(k, e, top, sigmoid, s % 2, bias, at(k, logits, t * e), at(k, scores, t * e),
                   ids + t * top, at(k, weights, t * top));
      k->router(1, e, top, sigmoid, s % 2, bias, at(k, logits, t * e), p, id, w, &bad, NULL);
      check_same(p, at(k, scores, t * e), e * k->size, "%s router: scores alone", k->name);
      check_same(w, at(k, weights, t * top), top * k->size, "%s router: weights alone", k->name);
      check_same(id, ids + t * top, top * 4, "%s router: ids alone", k->name);
    }
  }
}

static void test_router(kernels *k)
{
  for (int i = 0; i < 4; i++)
    test_scoring(k, i % 2, i / 2);
}

/* A bias alone decides, and no weight has it in it; sigmoids that are all 0 give weights of 0. */
static void test_bias(kernels *k)
{
  enum { E = 4, TOP = 2 };
  double bias[E] = {0, 9, 0, 10};
  void *logits = normals(k, E, 1), *scores = reals(k, E), *weights = reals(k, TOP);
  int32_t ids[TOP];
  int64_t bad;
  k->router(1, E, TOP, 1, 0, bias, logits, scores, ids, weights, &bad, NULL);
  check(ids[0] == 3 && ids[1] == 1, "%s: bias chooses %d and %d", k->name, ids[0], ids[1]);
  check(get(k, weights, 0) == get(k, scores, 3), "%s: a weight with bias in it", k->name);
  for (int64_t i = 0; i < E; i++)
    put(k, logits, i, -1e4);
  k->router(1, E, TOP, 1, 1, NULL, logits, scores, ids, weights, &bad, NULL);
  check(bad == -1 && get(k, weights, 0) == 0 && get(k, weights, 1) == 0,
        "%s: weights of scores that are 0", k->name);
}

static void test_shares(kernels *k)
{
  enum { E = 19 };
  double eps = k->size == 8 ? 1e-14 : 1e-6;
  void *scores = normals(k, T * E, 1), *shares = reals(k, T * E);
  for (int64_t i = 0; i < T * E; i++)
    put(k, scores, i, i / E == 3 ? 0 : fabs(get(k, scores, i)));
  k->router_shares(T, E, scores, shares, NULL);
  for (int64_t t = 0; t < T; t++) {
    double sum = 0;
    for (int64_t i = 0; i < E; i++)
      sum += get(k, scores, t * E + i);
    for (int64_t i = 0; i < E; i++)
      check_close(get(k, shares, t * E + i), sum > 0 ? get(k, scores, t * E + i) / sum : 0, eps,
                  "share of scores");
  }
}

/* Every expert as often as any other, but for one; weights by the definition. */
static void test_balanced(kernels *k)
{
  static const int64_t experts[] = {1, 3, 17, 64, 129}, tops[] = {1, 2, 4, 6, 8};
  for (int s = 0; s < 10; s++) {
    int64_t e = experts[s / 2], top = tops[s / 2] < e ? tops[s / 2] : e, first = 5 * s % e, bad;
    void *logits = normals(k, T * e, 1), *probs = reals(k, T * e), *weights = reals(k, T * top);
    int32_t *ids = poisoned(T * top * 4);
    int64_t *count = poisoned(e * 8), fewest = T * top, most = 0;
    memset(count, 0, e * 8);
    k->router(T, e, top, s / 2 % 2, s % 2, NULL, logits, probs, ids, weights, &bad, NULL);
    k->balanced_choices(T, e, top, s % 2, first, probs, ids, weights, NULL);
    for (int64_t t = 0; t < T; t++) {
      double sum = 0, eps = k->size == 8 ? 1e-14 : 1e-6;
      for (int64_t c = t * top; c < (t + 1) * top; c++) {
        check(ids[c] == (first + c) % e, "%s: balanced choice %d is %d", k->name, (int)c, ids[c]);
        sum += get(k, probs, t * e + ids[c]);
        count[ids[c]]++;
      }
      for (int64_t c = t * top; c < (t + 1) * top; c++)
        check_close(get(k, weights, c), get(k, probs, t * e + ids[c]) / (s % 2 ? sum : 1), eps,
                    "balanced weight");
    }
    for (int64_t i = 0; i < e; i++) {
      fewest = count[i] < fewest ? count[i] : fewest;
      most = count[i] > most ? count[i] : most;
    }
    check(most - fewest <= 1, "%s: experts have %d to %d tokens", k->name, (int)fewest, (int)most);
  }
}

static void test_bad(kernels *k, int sigmoid)
{
  enum { E = 5, TOP = 2 };
  static const double poison[] = {NAN, INFINITY, -INFINITY};
  for (int what = 0; what < 3; what++) {
    void *logits = normals(k, T * E, 1), *probs = reals(k, T * E), *weights = reals(k, T * TOP);
    int32_t *ids = poisoned(T * TOP * 4);
    int64_t bad;
    for (int64_t i = 0; i < E; i++) { /* for a softmax, -infinity is bad only if all are */
      if (what == 2 || i == 3)
        put(k, logits, 7 * E + i, poison[what]);
      if (i == 1 && !sigmoid)
        put(k, logits, 9 * E + i, -INFINITY);
    }
    put(k, logits, 20 * E, NAN);
    k->router(T, E, TOP, sigmoid, 1, NULL, logits, probs, ids, weights, &bad, NULL);
    check(bad == 7, "router: first bad token is %d, not 7", (int)bad);
    check(ids[14] == 0 && ids[15] == 1 && ids[40] == 0 && ids[41] == 1, "ids of a bad token");
    check(isnan(get(k, weights, 14)) && isnan(get(k, probs, 7 * E)), "weights of a bad token");
    check(sigmoid || get(k, probs, 9 * E + 1) == 0, "probability of a logit of -infinity");
  }
}

static void test_router_bad(kernels *k)
{
  test_bad(k, 0);
  test_bad(k, 1);
}

typedef struct {
  int64_t v, k;
  int sigmoid, renormalise;
  int32_t *ids;
  double *logits, *scores, *weights, *grad, *grad_shares;
} routed;

static double router_value(void *context)
{
  routed *c = context;
  kernels *k = neapi_kernels_f64();
  int64_t bad, count = T * c->v;
  k->router(T, c->v, c->k, c->sigmoid, c->renormalise, NULL, c->logits, c->scores, c->ids,
            c->weights, &bad, NULL);
  double auxiliary = 0;
  if (c->grad_shares) {
    double *shares = malloc((size_t)count * sizeof *shares);
    k->router_shares(T, c->v, c->scores, shares, NULL);
    auxiliary = weighted(count, shares, c->grad_shares);
    free(shares);
  }
  return weighted(T * c->k, c->weights, c->grad) + auxiliary;
}

/* dlog at random places, for gradients of weights. */
static double *place(int64_t choices, const int32_t *position, const double *weights,
                     const double *dweights)
{
  double *dlog = poisoned(choices * 8);
  for (int64_t i = 0; i < choices; i++)
    dlog[position[i]] = weights[i] * dweights[i];
  return dlog;
}

static void test_router_gradient(void)
{
  kernels *k = neapi_kernels_f64();
  for (int s = 0; s < 8 * ODD_SIZES; s++) {
    int64_t e = odd_sizes[s / 8], top = e < 4 ? e : 4;
    int sigmoid = s / 4 % 2;
    routed c = {e,
                top,
                sigmoid,
                s % 2,
                poisoned(T * top * 4),
                normals(k, T * e, 1),
                reals(k, T * e),
                reals(k, T * top),
                normals(k, T * top, 2),
                s % 4 < 2 ? NULL : normals(k, T * e, 3)};
    double *dlogits = reals(k, T * e), *alone = reals(k, e);
    int32_t *position = random_order(T * top, (uint64_t)s);
    router_value(&c);
    double *dlog = place(T * top, position, c.weights, c.grad);
    k->router_backward(T, e, top, sigmoid, s % 2, c.scores, c.ids, c.weights, position, dlog,
                       c.grad_shares, dlogits, NULL);
    for (int64_t t = 0; t < T; t++) {
      k->router_backward(1, e, top, sigmoid, s % 2, c.scores + t * e, c.ids + t * top,
                         c.weights + t * top, position + t * top, dlog,
                         c.grad_shares ? c.grad_shares + t * e : NULL, alone, NULL);
      check_same(alone, dlogits + t * e, e * 8, "router dlogits: row alone");
    }
    check_gradient("router dlogits", router_value, &c, c.logits, T * e, dlogits, 60);
  }
  release_all();
}

static void test_bf16_of(int sigmoid)
{
  enum { T = 13, E = 11, K = 3 };
  twin logits = acc_normals(T * E, 1), grads = twin_output(T * E);
  int32_t *ids = poisoned(T * K * 4), *same = poisoned(T * K * 4);
  twin scores = acc_output(T * E), weights = acc_output(T * K), shares = acc_output(T * E);
  twin dlog = acc_normals(T * K, 3), dshares = acc_normals(T * E, 4);
  int32_t *position = random_order(T * K, 5);
  double *bias = biases(E);
  int64_t bad;
  narrow->router(T, E, K, sigmoid, 1, bias, logits.narrow, scores.narrow, ids, weights.narrow, &bad,
                 NULL);
  wide->router(T, E, K, sigmoid, 1, bias, logits.wide, scores.wide, same, weights.wide, &bad, NULL);
  check_acc(scores, T * E, "router scores");
  check_same(ids, same, T * K * 4, "router ids");
  narrow->router_shares(T, E, scores.narrow, shares.narrow, NULL);
  wide->router_shares(T, E, scores.wide, shares.wide, NULL);
  check_acc(shares, T * E, "router shares");
  narrow->router_backward(T, E, K, sigmoid, 1, scores.narrow, ids, weights.narrow, position,
                          dlog.narrow, dshares.narrow, grads.narrow, NULL);
  wide->router_backward(T, E, K, sigmoid, 1, scores.wide, same, weights.wide, position, dlog.wide,
                        dshares.wide, grads.wide, NULL);
  check_real(grads, T * E, "router_backward");
}

static void test_bf16(void)
{
  test_bf16_of(0);
  test_bf16_of(1);
}

int main(void)
{
  FOR_BOTH(test_router);
  FOR_BOTH(test_bias);
  FOR_BOTH(test_shares);
  FOR_BOTH(test_balanced);
  FOR_BOTH(test_router_bad);
  test_router_gradient();
  FOR_BF16(test_bf16);
  return check_done();
}
