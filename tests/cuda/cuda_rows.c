/* Row, elementwise, normalisation and softmax kernels on the GPU against plain C. */
#include "gpu_test.h"

static const int64_t row_counts[] = {0, 1, 127, 129}, widths[] = {1, 10, 64, 129, 512};
enum { ROW_COUNTS = 4, WIDTHS = 5 };

#define FOR_SIZES(t, h)                                                                            \
  for (int size = 0; size < ROW_COUNTS * WIDTHS; release_everything(), size++)                     \
    for (int64_t t = row_counts[size % ROW_COUNTS], h = widths[size / ROW_COUNTS], once = 1; once; \
         once = 0)

static kernels *plain;

static void test_moves(kernels *k)
{
  FOR_SIZES(t, h)
  {
    twin x = twin_normals(k, 150 * h, 1), y = twin_output(k, t * h);
    int32_t *ids = random_ids(t, 150, 2), *on_device = to_device(ids, t * 4);
    k->gather(t, h, on_device, x.device, y.device, NULL);
    plain->gather(t, h, ids, x.host, y.host, NULL);
    check_twin(k, y, t * h, 0, "gather");
    twin z = twin_normals(k, 300 * h, 3);
    twin sum = twin_stat(normals(plain, 150 * h, 4), 150 * h);
    int32_t *order = random_order(300, 5);
    k->scatter(t, 2, h, to_device(order, 1200), y.device, z.device, NULL);
    plain->scatter(t, 2, h, order, y.host, z.host, NULL);
    check_twin(k, z, 300 * h, 0, "scatter");
    for (int64_t i = 0; i < t; i++)
      ids[i] %= 7;
    k->scatter_add(t, h, to_device(ids, t * 4), y.device, sum.device, NULL);
    plain->scatter_add(t, h, ids, y.host, sum.host, NULL);
    check_stat(k, sum, 150 * h, 2e-5, "scatter_add");
  }
}

static void test_combine(kernels *k)
{
  enum { K = 3 };
  FOR_SIZES(t, h)
  {
    twin x = twin_normals(k, t * K * h, 1), dy = twin_normals(k, t * h, 2);
    twin weights = twin_stat(normals(plain, t * K, 3), t * K), dweights = twin_stat_output(t * K);
    twin y = twin_output(k, t * h), dx = twin_output(k, t * K * h);
    int32_t *position = random_order(t * K, 4), *on_device = to_device(position, t * K * 4);
    for (int weighted = 0; weighted < 2; weighted++) {
      k->combine(t, K, h, weighted ? weights.device : NULL, on_device, x.device, y.device, NULL);
      plain->combine(t, K, h, weighted ? weights.host : NULL, position, x.host, y.host, NULL);
      check_twin(k, y, t * h, tolerance(k), "combine");
    }
    k->combine_backward(t, K, h, weights.device, on_device, x.device, dy.device, dx.device,
                        dweights.device, NULL);
    plain->combine_backward(t, K, h, weights.host, position, x.host, dy.host, dx.host,
                            dweights.host, NULL);
    check_twin(k, dx, t * K * h, tolerance(k), "combine_backward dx");
    check_stat(k, dweights, t * K, 2e-5, "combine_backward dweights");
  }
}

static void test_norm(kernels *k)
{
  FOR_SIZES(t, h)
  {
    twin x = twin_normals(k, t * h, 1), gain = twin_normals(k, h, 2),
         dy = twin_normals(k, t * h, 3);
    twin y = twin_output(k, t * h), rstd = twin_stat_output(t), dx = twin_output(k, t * h);
    twin dgain = twin_stat(normals(plain, h, 4), h), terms = twin_stat_output(t * h);
    k->rmsnorm(t, h, x.device, gain.device, 1e-5, y.device, rstd.device, NULL);
    plain->rmsnorm(t, h, x.host, gain.host, 1e-5, y.host, rstd.host, NULL);
    check_twin(k, y, t * h, tolerance(k), "rmsnorm");
    check_stat(k, rstd, t, 1e-5, "rstd");
    k->rmsnorm_backward(t, h, x.device, gain.device, rstd.device, dy.device, dx.device,
                        dgain.device, NULL);
    plain->rmsnorm_backward(t, h, x.host, gain.host, rstd.host, dy.host, dx.host, dgain.host, NULL);
    check_twin(k, dx, t * h, tolerance(k), "rmsnorm dx");
    check_stat(k, dgain, h, 2e-5, "rmsnorm dgain");
    k->rmsnorm_gain_terms(t, h, x.device, rstd.device, dy.device, terms.device, NULL);
    plain->rmsnorm_gain_terms(t, h, x.host, rstd.host, dy.host, terms.host, NULL);
    check_stat(k, terms, t * h, 2e-5, "gain terms");
    void *one = device_poisoned(h * k->size), *scale = device_poisoned(4);
    for (int64_t i = 0; i < t; i += 61) {
      k->rmsnorm(1, h, at(k, x.device, i * h), gain.device, 1e-5, one, scale, NULL);
      check_equal(one, at(k, y.device, i * h), h * k->size, "rmsnorm: a row alone differs", k);
    }
  }
}

static void test_rotary(kernels *k)
{
  enum { S = 9, HEADS = 3, D = 10, LD = 37, T = 40 };
  twin table = twin_stat_output(S * D), x = twin_normals(k, T * LD, 1);
  k->rotary_table(S, D, 100, table.device, NULL);
  plain->rotary_table(S, D, 100, table.host, NULL);
  check_stat(k, table, S * D, 1e-6, "rotary_table");
  for (int inverse = 0; inverse < 2; inverse++) {
    k->rotary(T, S, HEADS, D, inverse, table.device, x.device, LD, NULL);
    plain->rotary(T, S, HEADS, D, inverse, table.host, x.host, LD, NULL);
    check_twin(k, x, T * LD, tolerance(k), "rotary");
  }
}

static void test_elementwise(kernels *k)
{
  FOR_SIZES(t, h)
  {
    int64_t n = t * h;
    twin a = twin_normals(k, n, 1), b = twin_normals(k, n, 2), out = twin_output(k, n);
    k->add(n, a.device, b.device, out.device, NULL);
    plain->add(n, a.host, b.host, out.host, NULL);
    check_twin(k, out, n, tolerance(k), "add");
    k->scale(n, -0.7, a.device, out.device, NULL);
    plain->scale(n, -0.7, a.host, out.host, NULL);
    check_twin(k, out, n, tolerance(k), "scale");
    k->axpy(n, 0.3, a.device, b.device, NULL);
    plain->axpy(n, 0.3, a.host, b.host, NULL);
    check_twin(k, b, n, tolerance(k), "axpy");
    k->fill(n, 0.375, out.device, NULL);
    plain->fill(n, 0.375, out.host, NULL);
    check_twin(k, out, n, 0, "fill");
    twin gu = twin_normals(k, 2 * n, 3), dh = twin_normals(k, n, 4), dgu = twin_output(k, 2 * n);
    k->swiglu(t, h, gu.device, out.device, NULL);
    plain->swiglu(t, h, gu.host, out.host, NULL);
    check_twin(k, out, n, tolerance(k), "swiglu");
    k->swiglu_backward(t, h, gu.device, dh.device, dgu.device, NULL);
    plain->swiglu_backward(t, h, gu.host, dh.host, dgu.host, NULL);
    check_twin(k, dgu, 2 * n, tolerance(k), "swiglu_backward");
    double *wide = device_poisoned(n * 8);
    k->to_double(n, a.device, wide, NULL);
    k->from_double(n, wide, out.device, NULL);
    memcpy(out.host, a.host, (size_t)n * 4);
    check_twin(k, out, n, 0, "to double and back");
    twin stat = twin_stat(normals(plain, n, 6), n), same = twin_output(k, n);
    k->from_stat(n, stat.device, same.device, NULL);
    plain->scale(n, 1, stat.host, same.host, NULL);
    check_twin(k, same, n, k->size == 4 ? 0 : 0x1p-8, "from stat");
    k->to_stat(n, a.device, stat.device, NULL);
    memcpy(stat.host, a.host, (size_t)n * 4);
    check_stat(k, stat, n, 0, "to stat");
  }
}

static void test_sums(kernels *k)
{
  enum { PARTS = 70, N = 131 };
  const void *on_host[PARTS], *on_device[PARTS];
  for (int i = 0; i < PARTS; i++) {
    twin part = twin_normals(k, N, (uint64_t)i);
    on_host[i] = part.host;
    on_device[i] = part.device;
  }
  static const int counts[] = {1, 3, PARTS};
  for (int i = 0; i < 3; i++) {
    twin out = twin_output(k, N);
    k->sum(N, counts[i], on_device, out.device, NULL);
    plain->sum(N, counts[i], on_host, out.host, NULL);
    check_twin(k, out, N, tolerance(k), "sum");
  }
  for (int size = 0; size < WIDTHS; size++) {
    int64_t n = widths[size] * 1000 - 3;
    twin x = twin_normals(k, n, 5);
    double *out = device_poisoned(16), expected[2];
    k->square_sum(n, x.device, out, NULL);
    k->max_abs(n, x.device, out + 1, NULL);
    neapi_kernels_f32()->square_sum(n, x.host, &expected[0], NULL);
    neapi_kernels_f32()->max_abs(n, x.host, &expected[1], NULL);
    double *got = to_host(out, 16);
    check_close(got[0] / expected[0], 1, 1e-12, "square_sum");
    check_close(got[1], expected[1], 0, "max_abs");
  }
}

static void test_adamw(kernels *k)
{
  enum { N = 1003 };
  neapi_adamw step = {1e-2, 0.9, 0.95, 1e-8, 0.1, 0.1, 0.05, 0.5};
  twin grad = twin_stat(normals(plain, N, 1), N), param = twin_stat(normals(plain, N, 2), N);
  twin m = twin_stat(normals(plain, N, 3), N), v = twin_stat(normals(plain, N, 4), N);
  for (int i = 0; i < N; i++)
    v.host[i] = fabsf(v.host[i]);
  v = twin_stat(v.host, N);
  k->adamw(N, &step, grad.device, param.device, m.device, v.device, NULL);
  plain->adamw(N, &step, grad.host, param.host, m.host, v.host, NULL);
  check_stat(k, param, N, 1e-6, "adamw");
  check_stat(k, m, N, 1e-6, "adamw m");
  check_stat(k, v, N, 1e-6, "adamw v");
}

static void test_loss(kernels *k)
{
  FOR_SIZES(t, h)
  {
    twin logits = twin_stat(normals(plain, t * h, 1), t * h), slopes = twin_output(k, t * h);
    twin loss = twin_stat_output(t);
    int32_t *target = random_ids(t, h, 2);
    for (int64_t i = 0; i < t; i += 5)
      target[i] = -1;
    int32_t *on_device = to_device(target, t * 4);
    k->cross_entropy(t, h, 0.5, logits.device, on_device, loss.device, slopes.device, NULL);
    plain->cross_entropy(t, h, 0.5, logits.host, target, loss.host, slopes.host, NULL);
    check_stat(k, loss, t, 1e-5, "cross_entropy");
    check_twin(k, slopes, t * h, tolerance(k), "cross_entropy slope");
    if (k->size != k->stat_size)
      continue;
    k->cross_entropy(t, h, 0.5, logits.device, on_device, NULL, logits.device, NULL);
    check_equal(logits.device, slopes.device, t * h * k->size, "cross_entropy in place differs", k);
  }
}

static void test_router(kernels *k)
{
  FOR_SIZES(t, e)
  {
    int64_t top = e < 3 ? 1 : 3, choices = t * top;
    twin logits = twin_stat(normals(plain, t * e, 1), t * e), probs = twin_stat_output(t * e);
    twin weights = twin_stat_output(choices), slopes = twin_output(k, t * e);
    twin dweights = twin_stat(normals(plain, choices, 2), choices);
    twin dprobs = twin_stat(normals(plain, t * e, 3), t * e);
    int32_t *ids = poisoned(choices * 4), *on_device = device_poisoned(choices * 4);
    int64_t bad, *bad_on_device = device_poisoned(8);
    for (int renormalise = 0; renormalise < 2; renormalise++) {
      k->router(t, e, top, renormalise, logits.device, probs.device, on_device, weights.device,
                bad_on_device, NULL);
      plain->router(t, e, top, renormalise, logits.host, probs.host, ids, weights.host, &bad, NULL);
      check_stat(k, probs, t * e, 1e-5, "router probs");
      check_stat(k, weights, choices, 1e-5, "router weights");
      check_same(to_host(on_device, choices * 4), ids, choices * 4, "%s: router ids", k->name);
      check(*(int64_t *)to_host(bad_on_device, 8) == -1, "a token is bad");
      k->router_backward(t, e, top, renormalise, probs.device, on_device, weights.device,
                         dweights.device, renormalise ? dprobs.device : NULL, slopes.device, NULL);
      plain->router_backward(t, e, top, renormalise, probs.host, ids, weights.host, dweights.host,
                             renormalise ? dprobs.host : NULL, slopes.host, NULL);
      check_twin(k, slopes, t * e, tolerance(k), "router_backward");
    }
  }
  float *logits = normals(plain, 5 * 8, 9);
  logits[3 * 8 + 2] = NAN;
  logits[4 * 8] = NAN;
  twin x = twin_stat(logits, 5 * 8), probs = twin_stat_output(5 * 8), w = twin_stat_output(10);
  int32_t *ids = device_poisoned(40);
  int64_t *bad = device_poisoned(8);
  k->router(5, 8, 2, 1, x.device, probs.device, ids, w.device, bad, NULL);
  check(*(int64_t *)to_host(bad, 8) == 3, "%s: the bad token is %d", k->name,
        (int)*(int64_t *)to_host(bad, 8));
}

int main(void)
{
  if (gpu_absent())
    return 0;
  plain = neapi_kernels_f32();
  FOR_TABLES(test_moves);
  FOR_TABLES(test_combine);
  FOR_TABLES(test_norm);
  FOR_TABLES(test_rotary);
  FOR_TABLES(test_elementwise);
  FOR_TABLES(test_sums);
  FOR_TABLES(test_adamw);
  FOR_TABLES(test_loss);
  FOR_TABLES(test_router);
  return check_done();
}
