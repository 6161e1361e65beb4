/* SPDX-License-Identifier: Apache-2.0 */
/* The experts' operations on the CPU: against plain loops in double, and their gradients against
 * differences. */
#include "kernel_test.h"

#include <per_expert.h>

enum { SLOTS = 5, H = 24 };

/* A layer of experts of different sizes, and everything that its operations read and write. */
typedef struct {
  kernels *k;
  neapi_batch batches[SLOTS];
  neapi_slots slots;
  int64_t rows, hidden; /* of all batches: rows, and rows times F */
  void *weights, *in, *gate_up, *activation, *grad, *out, *dout, *din, *dlog, *gradients;
} layer;

static layer open_layer(kernels *k, bool one_f)
{
  static const int64_t rows[SLOTS] = {7, 0, 1, 33, 0}, ffn[SLOTS] = {16, 9, 11, 8, 16};
  layer l = {.k = k};
  for (int i = 0; i < SLOTS; i++) {
    int64_t f = one_f ? 16 : ffn[i];
    l.batches[i] = (neapi_batch){i, l.rows, rows[i], f, l.hidden};
    l.rows += rows[i];
    l.hidden += rows[i] * f;
  }
  int64_t size = SLOTS * 3 * H * 16;
  l.slots = (neapi_slots){SLOTS, H, 3 * H * 16, one_f ? 16 : 0, NULL};
  l.weights = normals(k, size, 1);
  l.in = normals(k, l.rows * H, 2);
  l.dout = normals(k, l.rows * H, 3);
  l.gate_up = reals(k, 2 * l.hidden);
  l.activation = reals(k, l.hidden);
  l.grad = reals(k, 33 * 16);
  l.out = reals(k, l.rows * H);
  l.din = reals(k, l.rows * H);
  l.dlog = reals(k, l.rows);
  l.gradients = reals(k, size);
  return l;
}

static int forward(layer *l)
{
  l->slots.batches = l->batches;
  return l->k->experts_forward(&l->slots, l->weights, l->in, l->gate_up, l->activation, l->out,
                               NULL);
}

static int backward(layer *l)
{
  int status = l->k->experts_backward(&l->slots, l->weights, l->dout, l->gate_up, l->activation,
                                      l->grad, l->din, l->dlog, NULL);
  return status ? status
                : l->k->experts_gradients(&l->slots, l->in, l->gate_up, l->activation, l->dout,
                                          l->gradients, NULL);
}

/* Row `row` of slot i's output, in double. */
static void plain_row(const layer *l, int i, int64_t row, double *out)
{
  int64_t f = l->batches[i].ffn, w1 = i * l->slots.stride, w2 = w1 + 2 * H * f;
  for (int64_t c = 0; c < H; c++)
    out[c] = 0;
  for (int64_t j = 0; j < f; j++) {
    double gate = 0, up = 0;
    for (int64_t c = 0; c < H; c++) {
      double x = get(l->k, l->in, row * H + c);
      gate += x * get(l->k, l->weights, w1 + c * 2 * f + j);
      up += x * get(l->k, l->weights, w1 + c * 2 * f + f + j);
    }
    for (int64_t c = 0; c < H; c++)
      out[c] += gate / (1 + exp(-gate)) * up * get(l->k, l->weights, w2 + j * H + c);
  }
}

static void test_forward(kernels *k)
{
  for (int one_f = 0; one_f < 2; one_f++) {
    layer l = open_layer(k, one_f);
    check(!forward(&l), "%s: experts_forward", k->name);
    double worst = 0, row[H];
    for (int i = 0; i < SLOTS; i++)
      for (int64_t r = l.batches[i].first; r < l.batches[i].first + l.batches[i].rows; r++) {
        plain_row(&l, i, r, row);
        for (int64_t c = 0; c < H; c++) {
          double apart = fabs(get(k, l.out, r * H + c) - row[c]) / fmax(1, fabs(row[c]));
          worst = apart <= worst ? worst : apart;
        }
      }
    check(worst < (k->size == 8 ? 1e-12 : 1e-4), "%s: experts_forward is off by %g", k->name,
          worst);
    release_all();
  }
}

static double loss(void *of_layer)
{
  layer *l = of_layer;
  forward(l);
  return weighted(l->rows * H, l->out, l->dout);
}

/* Of a row with weight 1: the loss, dout . out, itself. */
static void check_dlog(const layer *l)
{
  double worst = 0;
  for (int64_t r = 0; r < l->rows; r++) {
    double sum = 0;
    for (int64_t c = 0; c < H; c++)
      sum += get(l->k, l->out, r * H + c) * get(l->k, l->dout, r * H + c);
    double apart = fabs(get(l->k, l->dlog, r) - sum) / fmax(1, fabs(sum));
    worst = apart <= worst ? worst : apart;
  }
  check(worst < (l->k->size == 8 ? 1e-12 : 1e-4), "%s: dlog is off by %g", l->k->name, worst);
}

static void test_backward(kernels *k)
{
  layer l = open_layer(k, false);
  forward(&l);
  void *activation = copy_of(l.activation, l.hidden * k->size);
  memset(l.activation, 0xff, (size_t)(l.hidden * k->size));
  check(!backward(&l), "%s: experts_backward", k->name);
  check_same(l.activation, activation, l.hidden * k->size, "%s: activation computed anew", k->name);
  check_dlog(&l);
  for (int i = 0; i < SLOTS; i++)
    if (!l.batches[i].rows)
      check(isnan(get(k, l.gradients, i * l.slots.stride)), "%s: slot %d has no rows", k->name, i);
  if (k->size == 8) {
    check_gradient("experts: in", loss, &l, l.in, l.rows * H, l.din, 60);
    for (int i = 0; i < SLOTS; i++)
      if (l.batches[i].rows) {
        int64_t at = i * l.slots.stride;
        check_gradient("experts: weights", loss, &l, (double *)l.weights + at,
                       3 * H * l.batches[i].ffn, (double *)l.gradients + at, 60);
      }
  }
  release_all();
}

/* Hidden values lie apart, and those of one F as one array whose start suits 16-byte access. */
static void check_places(uint64_t seed)
{
  enum { COUNT = 14 };
  neapi_batch b[COUNT];
  int64_t wrong = 0;
  for (int i = 0; i < COUNT; i++)
    b[i] = (neapi_batch){i, 0, pick(seed, (uint64_t)i, 0, 9),
                         pick(seed, 100 + (uint64_t)i, 1, 4) * (seed % 2 ? 8 : 3), 0};
  int64_t all = neapi_place_hidden(COUNT, b);
  for (int i = 0; i < COUNT; i++) {
    int first = 0;
    while (b[first].ffn != b[i].ffn)
      first++;
    wrong += b[first].hidden_at % 8 || (b[i].hidden_at - b[first].hidden_at) % b[i].ffn;
    wrong += b[i].hidden_at < 0 || b[i].hidden_at + b[i].rows * b[i].ffn > all;
    for (int j = 0; j < i; j++)
      wrong += b[i].hidden_at + b[i].rows * b[i].ffn > b[j].hidden_at &&
               b[j].hidden_at + b[j].rows * b[j].ffn > b[i].hidden_at;
  }
  check(!wrong, "seed %d: %d hidden places are wrong", (int)seed, (int)wrong);
}

int main(void)
{
  for (uint64_t seed = 0; seed < 200; seed++)
    check_places(seed);
  FOR_BOTH(test_forward);
  FOR_BOTH(test_backward);
  return check_done();
}
