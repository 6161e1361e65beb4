/* SPDX-License-Identifier: Apache-2.0 */
/* Causal attention, against its definition and finite differences. */
#include "bf16_test.h"

typedef struct {
  int64_t sequences, s, heads, kv_heads, d;
  void *qkv, *out, *lse, *dout, *dqkv;
} attended;

static int64_t width(const attended *c)
{
  return (c->heads + 2 * c->kv_heads) * c->d;
}

static int64_t tokens(const attended *c)
{
  return c->sequences * c->s;
}

static attended prepare(kernels *k, int64_t sequences, int64_t s, int64_t heads, int64_t kv_heads,
                        int64_t d)
{
  attended c = {.sequences = sequences, .s = s, .heads = heads, .kv_heads = kv_heads, .d = d};
  int64_t t = tokens(&c);
  c.qkv = normals(k, t * width(&c), 1);
  c.out = reals(k, t * heads * d), c.lse = reals(k, t * heads);
  c.dout = normals(k, t * heads * d, 2), c.dqkv = reals(k, t * width(&c));
  return c;
}

static void run(kernels *k, attended *c)
{
  k->attention(c->sequences, c->s, c->heads, c->kv_heads, c->d, c->qkv, c->out, c->lse, NULL);
  k->attention_backward(c->sequences, c->s, c->heads, c->kv_heads, c->d, c->qkv, c->out, c->lse,
                        c->dout, c->dqkv, NULL);
}

/* Output column j of head i of a token at position p of the sequence that starts at row first. */
static double attend(const attended *c, int64_t first, int64_t p, int64_t i, int64_t j)
{
  const double *qkv = c->qkv, *q = qkv + (first + p) * width(c) + i * c->d;
  int64_t kv = i / (c->heads / c->kv_heads);
  double sum = 0, out = 0;
  for (int64_t at = 0; at <= p; at++) {
    const double *key = qkv + (first + at) * width(c) + (c->heads + kv) * c->d;
    double score = exp(weighted(c->d, q, key) / sqrt((double)c->d));
    sum += score;
    out += score * key[c->kv_heads * c->d + j];
  }
  return out / sum;
}

static void check_definition(int64_t sequences, int64_t s, int64_t heads, int64_t kv_heads,
                             int64_t d)
{
  kernels *k = neapi_kernels_f64();
  attended c = prepare(k, sequences, s, heads, kv_heads, d);
  run(k, &c);
  double worst = 0;
  for (int64_t t = 0; t < tokens(&c); t++)
    for (int64_t i = 0; i < heads * d; i++) {
      double expected = attend(&c, t / s * s, t % s, i / d, i % d);
      worst = fmax(worst, fabs(expected - get(k, c.out, t * heads * d + i)));
    }
  check(worst < 1e-12, "attention of %d x %d: off by %g", (int)sequences, (int)s, worst);
  release_all();
}

static double value(void *context)
{
  attended *c = context;
  neapi_kernels_f64()->attention(c->sequences, c->s, c->heads, c->kv_heads, c->d, c->qkv, c->out,
                                 c->lse, NULL);
  return weighted(tokens(c) * c->heads * c->d, c->out, c->dout);
}

static void check_backward(int64_t sequences, int64_t s, int64_t heads, int64_t kv_heads, int64_t d)
{
  kernels *k = neapi_kernels_f64();
  attended c = prepare(k, sequences, s, heads, kv_heads, d);
  run(k, &c);
  check_gradient("attention dqkv", value, &c, c.qkv, tokens(&c) * width(&c), c.dqkv, 80);
  release_all();
}

static void test_sizes(void)
{
  for (int i = 0; i < ODD_SIZES; i++) {
    check_definition(2, odd_sizes[i], 3, 1, 8);
    check_backward(2, odd_sizes[i], 2, 2, 6);
  }
  check_definition(3, 65, 6, 3, 17);
  check_backward(3, 65, 6, 2, 5);
}

static void test_precision(void)
{
  kernels *f32 = neapi_kernels_f32(), *f64 = neapi_kernels_f64();
  attended a = prepare(f32, 2, 127, 4, 2, 32), b = prepare(f64, 2, 127, 4, 2, 32);
  run(f32, &a);
  run(f64, &b);
  check_near(f32, a.out, f64, b.out, tokens(&a) * 4 * 32, 2e-6, "attention");
  check_near(f32, a.lse, f64, b.lse, tokens(&a) * 4, 1e-6, "attention log-sum-exp");
  check_near(f32, a.dqkv, f64, b.dqkv, tokens(&a) * width(&a), 3e-6, "attention dqkv");
  release_all();
}

/* A sequence alone, and the first tokens of a sequence alone, give the same. */
static void test_invariance(kernels *k)
{
  attended all = prepare(k, 3, 70, 4, 2, 9), one = prepare(k, 1, 70, 4, 2, 9);
  run(k, &all);
  int64_t row = 70 * width(&all), out_row = 70 * 36;
  one.qkv = at(k, all.qkv, 2 * row), one.dout = at(k, all.dout, 2 * out_row);
  run(k, &one);
  check_same(one.out, at(k, all.out, 2 * out_row), out_row * k->size, "%s sequence alone", k->name);
  check_same(one.dqkv, at(k, all.dqkv, 2 * row), row * k->size, "%s dqkv alone", k->name);
  for (int64_t s = 1; s < 70; s += 17) {
    attended start = prepare(k, 1, s, 4, 2, 9);
    start.qkv = one.qkv;
    run(k, &start);
    check_same(start.out, one.out, s * 36 * k->size, "%s: first %d tokens alone", k->name, (int)s);
  }
}

static void test_bf16(void)
{
  enum { S = 9, HEADS = 4, KV = 2, D = 6, ROWS = 2 * S, LD = (HEADS + 2 * KV) * D };
  twin qkv = twin_normals(ROWS * LD, 1), out = twin_output(ROWS * HEADS * D);
  twin lse = acc_output(ROWS * HEADS), dout = twin_normals(ROWS * HEADS * D, 2);
  twin dqkv = twin_output(ROWS * LD);
  narrow->attention(2, S, HEADS, KV, D, qkv.narrow, out.narrow, lse.narrow, NULL);
  wide->attention(2, S, HEADS, KV, D, qkv.wide, out.wide, lse.wide, NULL);
  check_real(out, ROWS * HEADS * D, "attention");
  check_acc(lse, ROWS * HEADS, "lse");
  narrow->attention_backward(2, S, HEADS, KV, D, qkv.narrow, out.narrow, lse.narrow, dout.narrow,
                             dqkv.narrow, NULL);
  wide->attention_backward(2, S, HEADS, KV, D, qkv.wide, out.wide, lse.wide, dout.wide, dqkv.wide,
                           NULL);
  check_real(dqkv, ROWS * LD, "attention_backward");
}

int main(void)
{
  test_sizes();
  test_precision();
  FOR_BOTH(test_invariance);
  FOR_BF16(test_bf16);
  return check_done();
}
