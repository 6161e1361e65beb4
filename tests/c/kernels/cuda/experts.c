/* SPDX-License-Identifier: Apache-2.0 */
/* The experts' operations on the GPU: against plain C, and free of a row's position to the bit.
 * With "small" what a sanitizer, which is 100 times slower, takes seconds for. */
#include "gpu_test.h"

#include <per_expert.h>

enum { MOST_SLOTS = 240 };

static bool small;

/* A layer's arrays on both sides. */
typedef struct {
  kernels *k;
  neapi_batch batches[MOST_SLOTS];
  neapi_slots slots;
  int64_t rows, hidden, largest; /* rows, and rows times F, of all batches; of the largest batch */
  twin weights, in, gate_up, activation, grad, out, dout, din, dlog, gradients;
} layer;

static twin scaled_normals(kernels *k, int64_t n, uint64_t seed, double scale)
{
  float *x = normals(neapi_kernels_f32(), n, seed);
  for (int64_t i = 0; i < n; i++)
    x[i] = (float)(x[i] * scale);
  return twin_of(k, x, n);
}

/* rows[slots] rows; F is f, or unless other is 0 f and other in turn. */
static void open_layer(layer *l, kernels *k, int64_t slots, const int64_t *rows, int64_t h,
                       int64_t f, int64_t other)
{
  *l = (layer){.k = k};
  for (int64_t i = 0; i < slots; i++) {
    int64_t ffn = other && i % 2 ? other : f;
    l->batches[i] = (neapi_batch){(int32_t)i, l->rows, rows[i], ffn, 0};
    l->rows += rows[i];
    l->largest = rows[i] * ffn > l->largest ? rows[i] * ffn : l->largest;
  }
  l->hidden = neapi_place_hidden(slots, l->batches);
  int64_t stride = 3 * h * (other > f ? other : f) + 64, floats = slots * stride;
  l->slots = (neapi_slots){slots, h, stride, other ? 0 : f, l->batches};
  l->weights = scaled_normals(k, slots * stride, 1, 1 / sqrt((double)h));
  l->in = twin_normals(k, l->rows * h, 2);
  l->dout = twin_normals(k, l->rows * h, 3);
  l->gate_up = twin_output(k, 2 * l->hidden);
  l->activation = twin_output(k, l->hidden);
  l->grad = twin_output(k, l->largest);
  l->out = twin_output(k, l->rows * h);
  l->din = twin_output(k, l->rows * h);
  l->dlog = twin_acc_output(l->rows);
  l->gradients = twin_acc_output(floats);
}

static int run_device(layer *l)
{
  kernels *k = l->k;
  int status = k->experts_forward(&l->slots, l->weights.device, l->in.device, l->gate_up.device,
                                  l->activation.device, l->out.device, NULL);
  if (!status)
    status = k->experts_backward(&l->slots, l->weights.device, l->dout.device, l->gate_up.device,
                                 l->activation.device, l->grad.device, l->din.device,
                                 l->dlog.device, NULL);
  if (!status)
    status = k->experts_gradients(&l->slots, l->in.device, l->gate_up.device, l->activation.device,
                                  l->dout.device, l->gradients.device, NULL);
  return status;
}

static void run_host(layer *l)
{
  kernels *k = neapi_kernels_f32();
  k->experts_forward(&l->slots, l->weights.host, l->in.host, l->gate_up.host, l->activation.host,
                     l->out.host, NULL);
  k->experts_backward(&l->slots, l->weights.host, l->dout.host, l->gate_up.host, l->activation.host,
                      l->grad.host, l->din.host, l->dlog.host, NULL);
  k->experts_gradients(&l->slots, l->in.host, l->gate_up.host, l->activation.host, l->dout.host,
                       l->gradients.host, NULL);
}

/* Of slots with rows; of others nothing may have been written. */
static void check_gradients(layer *l)
{
  const float *got = to_host(l->gradients.device, l->slots.count * l->slots.stride * 4);
  for (int64_t i = 0; i < l->slots.count; i++) {
    int64_t from = i * l->slots.stride, size = 3 * l->slots.h * l->batches[i].ffn;
    const float *want = l->gradients.host + from;
    if (!l->batches[i].rows)
      size = 0;
    check(distance(neapi_kernels_f32(), got + from, neapi_kernels_f32(), want, size) <=
              tolerance(l->k) * 2,
          "%s: gradients of slot %d", l->k->name, (int)i);
    bool stays = true;
    for (int64_t j = size; j < l->slots.stride; j++)
      stays &= isnan(got[from + j]);
    check(stays, "%s: what lies behind the gradients of slot %d has changed", l->k->name, (int)i);
  }
}

/* Hidden values, so many per F, of each batch: between them may be gaps. */
static void check_hidden(const layer *l, twin x, int64_t per_f, const char *what)
{
  for (int64_t i = 0; i < l->slots.count; i++) {
    const neapi_batch *b = &l->batches[i];
    twin part = x;
    part.device = at(l->k, x.device, per_f * b->hidden_at);
    part.host = x.host + per_f * b->hidden_at;
    if (b->rows)
      check_twin(l->k, part, per_f * b->rows * b->ffn, tolerance(l->k) * 2, what);
  }
}

static void check_layer(kernels *k, int64_t slots, const int64_t *rows, int64_t h, int64_t f,
                        int64_t other)
{
  static layer l;
  open_layer(&l, k, slots, rows, h, f, other);
  check(!run_device(&l), "%s: experts, H %d, F %d", k->name, (int)h, (int)f);
  run_host(&l);
  check_hidden(&l, l.gate_up, 2, "gradient of gate_up");
  check_hidden(&l, l.activation, 1, "activation");
  check_twin(k, l.out, l.rows * h, tolerance(k) * 2, "out");
  check_twin(k, l.din, l.rows * h, tolerance(k) * 2, "din");
  check_acc(k, l.dlog, l.rows, tolerance(k) * 2, "dlog");
  check_gradients(&l);
  release_everything();
}

static void test_sizes(kernels *k)
{
  static const int64_t rows[] = {0, 1, 127, 129, 64, 300, 0, 65};
  check_layer(k, 8, rows, 192, 136, 0);
  if (small)
    return;
  check_layer(k, 8, rows, 200, 264, 132);
  check_layer(k, 8, rows, 200, 264, 400);
  check_layer(k, 7, rows + 1, 128, 32, 520);
  check_layer(k, 5, rows + 1, 64, 13, 24);
  check_layer(k, 3, rows, 33, 17, 0);
  check_layer(k, 5, rows + 1, 520, 256, 0);
  check_layer(k, 1, rows, 64, 64, 0);
}

/* More slots than one launch takes. */
static void test_many(kernels *k)
{
  int64_t rows[MOST_SLOTS], f = 32;
  for (int i = 0; i < MOST_SLOTS; i++)
    rows[i] = pick(1, (uint64_t)i, 0, 9);
  check_layer(k, MOST_SLOTS, rows, 2 * f, f, 0);
}

/* A slot's rows alone give the bits that they have among others. */
static void test_place(kernels *k)
{
  static const int64_t rows[] = {130, 700, 1, 257};
  static layer l;
  int64_t h = small ? 64 : 512, f = small ? 96 : 384;
  int rounds = small ? 2 : 24;
  open_layer(&l, k, 4, rows, h, f, 0);
  run_device(&l);
  void *out = device_poisoned(l.rows * h * k->size), *din = device_poisoned(l.rows * h * k->size);
  void *gate_up = device_poisoned(2 * l.hidden * k->size);
  void *activation = device_poisoned(l.hidden * k->size), *dlog = device_poisoned(l.rows * 4);
  for (int round = 0; round < rounds; round++) {
    neapi_batch b = l.batches[round % 4];
    int64_t skip = pick(5, (uint64_t)round, 0, b.rows - 1), row = (b.first + skip) * h;
    b.rows = pick(6, (uint64_t)round, 1, b.rows - skip);
    b.first = b.hidden_at = 0;
    neapi_slots one = {1, h, l.slots.stride, f, &b};
    const void *weights = at(k, l.weights.device, round % 4 * l.slots.stride);
    k->experts_forward(&one, weights, at(k, l.in.device, row), gate_up, activation, out, NULL);
    k->experts_backward(&one, weights, at(k, l.dout.device, row), gate_up, activation,
                        l.grad.device, din, dlog, NULL);
    check_equal(out, at(k, l.out.device, row), b.rows * h * k->size, "out of rows alone", k);
    check_equal(din, at(k, l.din.device, row), b.rows * h * k->size, "din of rows alone", k);
    const float *dlogs = (const float *)l.dlog.device + row / h;
    check_equal(dlog, dlogs, b.rows * 4, "dlog of rows alone", k);
  }
  release_everything();
}

int main(int argc, char **argv)
{
  if (gpu_absent())
    return 0;
  small = argc > 1 && !strcmp(argv[1], "small");
  FOR_TABLES(test_sizes);
  if (!small)
    FOR_TABLES(test_many);
  FOR_TABLES(test_place);
  return check_done();
}
