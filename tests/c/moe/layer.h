/* SPDX-License-Identifier: Apache-2.0 */
/* A distributed layer with random sizes, tokens, layout and split, for tests on threads. */
#ifndef NEAP_TEST_LAYER_H
#define NEAP_TEST_LAYER_H

#pragma GCC diagnostic ignored "-Wunused-function" /* no test uses all of it */

#include "moe/dense.h"
#include "moe/fp8.h"
#include "moe/scene.h"

/* A layer with its tokens, and how they are spread over ranks. */
typedef struct {
  uint64_t seed;
  dense model;
  int dtype, exact, router_acc;
  int travel;   /* how tokens do: NEAP_TRAVEL_ */
  double *sent; /* (T, H) what model.x then is for experts */
  bool gpu;     /* ranks compute on the first GPU */
  int32_t ranks, chunks, group;
  int64_t first_token[MOST + 1];
  const char *rule; /* NULL: a random split */
  neap_topology *topology;
  neap_layout *layout;
} scene;

/* ---- tensors --------------------------------------------------------------------------------- */

static neap_tensor *tensor(int dtype, int64_t rows, int64_t columns)
{
  neap_tensor *t = NULL;
  int64_t dims[] = {rows, columns};
  check_ok(neap_tensor_open(dtype, 2, dims, &t));
  check_ok(neap_tensor_fill(t, 0));
  return t;
}

/* The dtype of gradients, masters and logits beside a dtype. */
static int acc_of(int dtype)
{
  return dtype == NEAP_BF16 ? NEAP_F32 : dtype;
}

static const char *dtype_name(int dtype)
{
  return dtype == NEAP_BF16 ? "bf16" : dtype == NEAP_F32 ? "f32" : "f64";
}

/* The number of the dtype that is nearest to value. */
static double rounded(int dtype, double value)
{
  int exponent;
  double part = frexp(value, &exponent);
  if (dtype == NEAP_BF16)
    return ldexp(rint(ldexp(part, 8)), exponent - 8);
  return dtype == NEAP_F32 ? (double)(float)value : value;
}

static neap_tensor *host_tensor(int dtype, int64_t count)
{
  neap_tensor *t = NULL;
  check_ok(neap_tensor_open_host(dtype, 1, &count, &t));
  return t;
}

/* By way of host memory, since the tensor may be on a GPU, and of acc. */
static neap_tensor *tensor_of(int dtype, int64_t rows, int64_t columns, const double *values)
{
  int64_t count = rows * columns;
  neap_tensor *host = host_tensor(acc_of(dtype), count);
  neap_tensor *acc = tensor(acc_of(dtype), rows, columns), *t = acc;
  for (int64_t i = 0; i < count; i++)
    if (acc_of(dtype) == NEAP_F32)
      ((float *)neap_tensor_data(host))[i] = (float)values[i];
    else
      ((double *)neap_tensor_data(host))[i] = values[i];
  check_ok(neap_tensor_copy(acc, 0, host, 0, count));
  neap_tensor_close(host);
  if (dtype == NEAP_BF16) {
    t = tensor(dtype, rows, columns);
    check_ok(neap_tensor_copy(t, 0, acc, 0, count));
    neap_tensor_close(acc);
  }
  return t;
}

static void read_tensor(const neap_tensor *t, double *values)
{
  int dtype = neap_tensor_dtype(t);
  int64_t count = neap_tensor_count(t);
  neap_tensor *host = host_tensor(acc_of(dtype), count), *acc = tensor(acc_of(dtype), 1, count);
  check_ok(neap_tensor_copy(acc, 0, t, 0, count));
  check_ok(neap_tensor_copy(host, 0, acc, 0, count));
  for (int64_t i = 0; i < count; i++)
    values[i] = acc_of(dtype) == NEAP_F32 ? (double)((float *)neap_tensor_data(host))[i]
                                          : ((double *)neap_tensor_data(host))[i];
  neap_tensor_close(host);
  neap_tensor_close(acc);
}

/* ---- one rank -------------------------------------------------------------------------------- */

static void random_split(const scene *s, neap_split *split, const int64_t *load)
{
  int32_t slots = neap_topology_slots(s->topology);
  int64_t *table = calloc((size_t)(s->ranks * slots), sizeof *table);
  int32_t *replicas = malloc((size_t)slots * sizeof *replicas);
  dice d = {s->seed + 77, 0};
  for (int32_t r = 0; r < s->ranks; r++)
    for (int32_t e = 0; e < s->model.e; e++) {
      int32_t count = 0;
      for (int32_t i = 0; i < slots; i++)
        if (neap_layout_experts(s->layout)[i] == e)
          replicas[count++] = i;
      for (int64_t i = 0; i < load[r * s->model.e + e]; i++)
        table[r * slots + replicas[roll(&d, 0, count - 1)]]++;
    }
  check_ok(neap_split_set(split, s->layout, load, table));
  free(table);
  free(replicas);
}

static neap_split *make_split(const scene *s, const int64_t *load)
{
  neap_split *split = NULL;
  check_ok(neap_split_open(s->topology, s->rule ? s->rule : "lite", &split));
  if (s->rule)
    check_ok(neap_split_compute(split, s->layout, load));
  else
    random_split(s, split, load);
  return split;
}

static neap_shards *make_shards(const scene *s, neap_comm *comm)
{
  neap_shards *shards = NULL;
  neap_transfer *refresh;
  int64_t sizes[DENSE_EXPERTS];
  for (int32_t e = 0; e < s->model.e; e++)
    sizes[e] = 3 * s->model.h * s->model.ffn[e];
  check_ok(neap_shards_open(comm, s->topology, s->dtype, NEAP_TRAVEL_DTYPE, s->exact, sizes,
                            s->group, &shards));
  for (int32_t e = 0; e < s->model.e; e++) {
    neap_tensor *w = tensor_of(acc_of(s->dtype), 1, sizes[e], s->model.w[e]);
    check_ok(neap_shards_set(shards, NEAP_SHARD_PARAMETER, e, w));
    neap_tensor_close(w);
  }
  check_ok(neap_shards_refresh_start(shards, &refresh));
  check_ok(neap_transfer_wait(refresh));
  return shards;
}

static neap_moe *make_moe(const scene *s, neap_comm *comm)
{
  neap_moe *moe = NULL;
  neap_moe_options options = {.hidden = s->model.h,
                              .top_k = (int32_t)s->model.k,
                              .dtype = s->dtype,
                              .scoring = s->model.sigmoid ? NEAP_SIGMOID : NEAP_SOFTMAX,
                              .router_acc = s->router_acc,
                              .renormalise = s->model.renormalise,
                              .exact = s->exact,
                              .chunks = s->chunks,
                              .hold_combine = s->ranks % 2,
                              .recompute = s->ranks % 3 == 0,
                              .travel = s->travel,
                              .aux_loss = s->model.aux};
  check_ok(neap_moe_open(comm, s->topology, &options, s->model.ffn, &moe));
  memcpy(neap_moe_bias(moe), s->model.bias, (size_t)s->model.e * sizeof *s->model.bias);
  return moe;
}

/* The tensors of one rank's step. */
typedef struct {
  neap_tensor *x, *dy, *router, *weights, *gradients, *y, *dx, *drouter;
} step;

/* Of t tokens from begin on. */
static step open_step(const scene *s, int32_t rank, int64_t begin, int64_t t, int64_t width)
{
  const int32_t *first = neap_topology_first_slot(s->topology);
  int64_t h = s->model.h;
  int32_t slots = first[rank + 1] - first[rank];
  int sum_dtype = s->exact ? NEAP_F64 : acc_of(s->dtype);
  return (step){.x = tensor_of(s->dtype, t, h, s->model.x + begin * h),
                .dy = tensor_of(s->dtype, t, h, s->model.dy + begin * h),
                .router = tensor_of(s->router_acc ? acc_of(s->dtype) : s->dtype, h, s->model.e,
                                    s->model.router),
                .weights = tensor(s->dtype, slots, width),
                .gradients = tensor(sum_dtype, slots, width),
                .y = tensor(s->dtype, t, h),
                .dx = tensor(s->dtype, t, h),
                .drouter = tensor(sum_dtype, h, s->model.e)};
}

static void close_step(step *p)
{
  neap_tensor *all[] = {p->x,         p->dy, p->router, p->weights, NULL,
                        p->gradients, p->y,  p->dx,     p->drouter};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++)
    neap_tensor_close(all[i]);
}

/* Starts to fetch the weights, in one to four parts. */
static neap_transfer *fetch(const scene *s, neap_shards *shards, step *p)
{
  neap_transfer *transfer = NULL;
  int32_t parts = 1 + (int32_t)(s->seed % 4);
  check_ok(neap_tensor_fill(p->weights, NAN));
  check_ok(neap_shards_unshard_start(shards, s->layout, p->weights, parts, &transfer));
  return transfer;
}

/* Half of the scenes wait for all weights before they compute, the others slot by slot. */
static void run_phases(const scene *s, neap_moe *moe, neap_shards *shards, step *p, bool backward)
{
  bool whole = s->seed / 4 % 2;
  neap_transfer *transfer = fetch(s, shards, p);
  check_ok(neap_moe_route(moe, p->x, p->router));
  neap_split *split = make_split(s, neap_moe_load(moe));
  check_ok(neap_moe_dispatch(moe, p->x, s->layout, split));
  if (whole)
    check_ok(neap_transfer_wait(transfer));
  check_ok(neap_moe_forward(moe, p->weights, whole ? NULL : transfer, p->y));
  if (!whole)
    check_ok(neap_transfer_wait(transfer));
  neap_split_close(split);
  if (!backward)
    return;
  transfer = fetch(s, shards, p);
  check_ok(neap_moe_backward_dispatch(moe, p->dy));
  check_ok(neap_moe_backward(moe, p->x, p->router, p->weights, transfer, p->gradients, p->dx,
                             p->drouter));
  check_ok(neap_transfer_wait(transfer));
  check_ok(neap_shards_reduce_start(shards, s->layout, p->gradients, neap_moe_slot_tokens(moe), 0,
                                    &transfer));
  check_ok(neap_transfer_wait(transfer));
}

/* ---- scenes ---------------------------------------------------------------------------------- */

static double *normal(const scene *s, uint64_t stream, int64_t count, double scale)
{
  double *values = zeros(count);
  for (int64_t i = 0; i < count; i++) {
    values[i] = rounded(s->dtype, scale * neap_random_normal(s->seed, stream, (uint64_t)i));
  }
  return values;
}

/* Moves tokens whose choice hangs on the last bits. */
static void avoid_ties(scene *s)
{
  dense *m = &s->model;
  for (int64_t t = 0; t < m->t; t++)
    for (uint64_t i = 0; dense_margin(m, m->x + t * m->h) < 1e-3; i++)
      m->x[t * m->h + (int64_t)i % m->h] =
          rounded(s->dtype == NEAP_BF16 ? NEAP_BF16 : NEAP_F32,
                  neap_random_normal(s->seed, 6, (uint64_t)t * 1000 + i));
}

/* What experts get of the tokens as they are now. */
static void send_tokens(scene *s)
{
  dense *m = &s->model;
  if (s->travel == NEAP_TRAVEL_DTYPE)
    return;
  free(s->sent);
  m->sent = s->sent = zeros(m->t * m->h);
  for (int64_t t = 0; t < m->t; t++)
    travelled(m->x + t * m->h, m->h, s->dtype != NEAP_F64, s->sent + t * m->h);
  for (int64_t i = 0; i < m->t * m->h; i++)
    s->sent[i] = rounded(s->dtype, s->sent[i]);
}

/* Tokens, parameters and gradients of a model whose sizes are set. */
static void fill_model(scene *s)
{
  dense *m = &s->model;
  double scale = m->h > 20 ? 0.1 : 0.5;
  m->x = normal(s, 0, m->t * m->h, 1);
  m->dy = normal(s, 1, m->t * m->h, 1);
  m->router = normal(s, 2, m->h * m->e, m->h > 20 ? 0.1 : 0.7);
  for (int64_t e = 0; e < m->e; e++)
    m->w[e] = normal(s, 10 + (uint64_t)e, 3 * m->h * m->ffn[e], scale);
  avoid_ties(s);
  send_tokens(s);
}

/* A small model of random sizes. */
static void make_model(scene *s, dice *d, int64_t tokens)
{
  static const int64_t ffn[] = {13, 24, 7, 1, 16, 5};
  dense *m = &s->model;
  m->e = roll(d, 1, 9);
  m->k = roll(d, 1, m->e < 4 ? m->e : 4);
  m->h = roll(d, 1, 20);
  m->t = tokens;
  m->renormalise = (int)roll(d, 0, 1);
  m->aux = roll(d, 0, 1) ? 0 : 0.3;
  m->sigmoid = s->seed / 4 % 2;
  s->router_acc = s->seed % 5 < 2;
  for (int64_t e = 0; e < m->e && s->seed % 3 == 0; e++)
    m->bias[e] = 0.2 * neap_random_normal(s->seed, 3, (uint64_t)e);
  for (int64_t e = 0; e < m->e; e++)
    m->ffn[e] = ffn[roll(d, 0, 5)];
  fill_model(s);
}

static void close_model(scene *s)
{
  free(s->sent);
  free(s->model.x);
  free(s->model.dy);
  free(s->model.router);
  for (int64_t e = 0; e < s->model.e; e++)
    free(s->model.w[e]);
}

/* Spreads the tokens over ranks in random runs, and draws topology, layout and the rest. */
static void spread(scene *s, dice *d, int32_t ranks)
{
  static const char *const rules[] = {NULL, "lite", "even", "minimax", NULL};
  s->ranks = ranks;
  s->chunks = (int32_t)roll(d, 1, 3);
  s->group = (int32_t)roll(d, NEAP_GROUP_NODE, s->ranks < 3 ? s->ranks : 3);
  s->rule = rules[roll(d, 0, 4)];
  for (int32_t r = 0; r <= ranks; r++)
    s->first_token[r] = r == 0 ? 0 : r == ranks ? s->model.t : roll(d, 0, s->model.t);
  for (int32_t i = 1; i < ranks; i++)
    for (int32_t j = i; j > 1 && s->first_token[j] < s->first_token[j - 1]; j--) {
      int64_t other = s->first_token[j];
      s->first_token[j] = s->first_token[j - 1];
      s->first_token[j - 1] = other;
    }
  s->topology = random_topology(d, ranks, (int32_t)s->model.e);
  check_ok(neap_layout_open(s->topology, &s->layout));
  random_layout(d, s->layout);
}

static void close_spread(scene *s)
{
  neap_layout_close(s->layout);
  neap_topology_close(s->topology);
}

#endif
