/*
 * The distributed layer on threads: against the dense one of dense.h, against finite differences,
 * and against itself under other layouts, splits and numbers of ranks, to the bit.
 */
#include "dense.h"
#include "scene.h"

/* A layer with its tokens, and how they are spread over ranks. */
typedef struct {
  uint64_t seed;
  dense model;
  int dtype, exact;
  int32_t ranks, chunks, group;
  int64_t first_token[MOST + 1];
  const char *rule; /* NULL: a random split */
  neap_topology *topology;
  neap_layout *layout;
} scene;

static scene current;
static dense_result got;           /* of current, of all ranks together */
static double *router_parts[MOST]; /* every rank's part of drouter */

/* ---- tensors ------------------------------------------------------------------------------- */

static neap_tensor *tensor(int dtype, int64_t rows, int64_t columns)
{
  neap_tensor *t = NULL;
  int64_t dims[] = {rows, columns};
  check_ok(neap_tensor_open(dtype, 2, dims, &t));
  check_ok(neap_tensor_fill(t, 0));
  return t;
}

static neap_tensor *tensor_of(int dtype, int64_t rows, int64_t columns, const double *values)
{
  neap_tensor *t = tensor(dtype, rows, columns);
  for (int64_t i = 0; i < rows * columns; i++)
    if (dtype == NEAP_F32)
      ((float *)neap_tensor_data(t))[i] = (float)values[i];
    else
      ((double *)neap_tensor_data(t))[i] = values[i];
  return t;
}

static void read_tensor(const neap_tensor *t, double *values)
{
  for (int64_t i = 0; i < neap_tensor_count(t); i++)
    values[i] = neap_tensor_dtype(t) == NEAP_F32 ? (double)((float *)neap_tensor_data(t))[i]
                                                 : ((double *)neap_tensor_data(t))[i];
}

/* ---- one rank ------------------------------------------------------------------------------ */

static void random_split(const scene *s, neap_split *split, const int64_t *load)
{
  int32_t slots = neap_topology_slots(s->topology);
  int64_t *amount = calloc((size_t)(s->ranks * slots), sizeof *amount);
  dice d = {s->seed + 77, 0};
  for (int32_t r = 0; r < s->ranks; r++)
    for (int32_t e = 0; e < s->model.e; e++) {
      const int32_t *replicas;
      int32_t count = neap_layout_replicas(s->layout, e, &replicas);
      for (int64_t i = 0; i < load[r * s->model.e + e]; i++)
        amount[r * slots + replicas[roll(&d, 0, count - 1)]]++;
    }
  check_ok(neap_split_set(split, s->layout, load, amount));
  free(amount);
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
  check_ok(neap_shards_open(comm, s->topology, s->dtype, s->exact, sizes, s->group, &shards));
  for (int32_t e = 0; e < s->model.e; e++) {
    neap_tensor *w = tensor_of(s->dtype, 1, sizes[e], s->model.w[e]);
    check_ok(neap_shards_set(shards, NEAP_SHARD_PARAMETER, e, w));
    neap_tensor_close(w);
  }
  check_ok(neap_shards_refresh_start(shards, &refresh));
  check_ok(neap_transfer_wait(refresh));
  return shards;
}

static void collect_weight_gradients(const scene *s, neap_shards *shards, int32_t rank)
{
  for (int32_t e = 0; e < s->model.e; e++) {
    neap_tensor *dw = tensor(s->dtype, 1, 3 * s->model.h * s->model.ffn[e]);
    check_ok(neap_shards_get(shards, NEAP_SHARD_GRADIENT, e, dw));
    if (!rank)
      read_tensor(dw, got.dw[e]);
    neap_tensor_close(dw);
  }
}

static neap_moe *make_moe(const scene *s, neap_comm *comm)
{
  neap_moe *moe = NULL;
  neap_moe_options options = {.hidden = s->model.h,
                              .top_k = (int32_t)s->model.k,
                              .dtype = s->dtype,
                              .renormalise = s->model.renormalise,
                              .exact = s->exact,
                              .chunks = s->chunks,
                              .aux_loss = s->model.aux};
  check_ok(neap_moe_open(comm, s->topology, &options, s->model.ffn, &moe));
  return moe;
}

/* The tensors of one rank's step. */
typedef struct {
  neap_tensor *x, *dy, *router, *weights, *gradients, *y, *dx, *drouter;
} step;

static step open_step(const scene *s, int32_t rank, int64_t width)
{
  const int32_t *first = neap_topology_first_slot(s->topology);
  int64_t begin = s->first_token[rank], t = s->first_token[rank + 1] - begin, h = s->model.h;
  int32_t slots = first[rank + 1] - first[rank];
  int sum_dtype = s->exact ? NEAP_F64 : s->dtype;
  return (step){.x = tensor_of(s->dtype, t, h, s->model.x + begin * h),
                .dy = tensor_of(s->dtype, t, h, s->model.dy + begin * h),
                .router = tensor_of(s->dtype, h, s->model.e, s->model.router),
                .weights = tensor(s->dtype, slots, width),
                .gradients = tensor(sum_dtype, slots, width),
                .y = tensor(s->dtype, t, h),
                .dx = tensor(s->dtype, t, h),
                .drouter = tensor(sum_dtype, h, s->model.e)};
}

static void close_step(step *p)
{
  neap_tensor *all[] = {p->x, p->dy, p->router, p->weights, p->gradients, p->y, p->dx, p->drouter};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++)
    neap_tensor_close(all[i]);
}

static void run_phases(const scene *s, neap_moe *moe, neap_shards *shards, step *p)
{
  neap_transfer *transfer;
  check_ok(neap_shards_unshard_start(shards, s->layout, p->weights, &transfer));
  check_ok(neap_moe_route(moe, p->x, p->router));
  neap_split *split = make_split(s, neap_moe_load(moe));
  check_ok(neap_moe_dispatch(moe, p->x, s->layout, split));
  check_ok(neap_transfer_wait(transfer));
  check_ok(neap_moe_forward(moe, p->weights, p->y));
  check_ok(neap_moe_backward_dispatch(moe, p->dy));
  check_ok(neap_moe_backward(moe, p->x, p->router, p->weights, p->gradients, p->dx, p->drouter));
  check_ok(neap_shards_reduce_start(shards, s->layout, p->gradients, neap_moe_slot_tokens(moe), 0,
                                    &transfer));
  check_ok(neap_transfer_wait(transfer));
  neap_split_close(split);
}

static void run_rank(neap_comm *comm, neap_world *world, int which)
{
  (void)world;
  (void)which;
  const scene *s = &current;
  int32_t rank = neap_comm_rank(comm);
  neap_comm *second;
  check_ok(neap_comm_duplicate(comm, &second));
  neap_shards *shards = make_shards(s, second);
  neap_moe *moe = make_moe(s, comm);
  step p = open_step(s, rank, neap_shards_slot_size(shards));
  run_phases(s, moe, shards, &p);
  read_tensor(p.y, got.y + s->first_token[rank] * s->model.h);
  read_tensor(p.dx, got.dx + s->first_token[rank] * s->model.h);
  read_tensor(p.drouter, router_parts[rank]);
  collect_weight_gradients(s, shards, rank);
  if (!rank)
    got.aux_loss = neap_moe_aux_loss(moe);
  close_step(&p);
  neap_moe_close(moe);
  neap_shards_close(shards);
  neap_comm_close(second);
}

/* Runs the scene on its ranks; the result is to be closed. */
static dense_result run_scene(const scene *s)
{
  int64_t size = s->model.h * s->model.e;
  current = *s;
  dense_result_open(&s->model, &got);
  for (int32_t r = 0; r < s->ranks; r++)
    router_parts[r] = zeros(size);
  run_threads(s->ranks, run_rank, 0);
  for (int32_t r = 0; r < s->ranks; r++) {
    for (int64_t i = 0; i < size; i++)
      got.drouter[i] += router_parts[r][i];
    free(router_parts[r]);
  }
  return got;
}

/* ---- scenes -------------------------------------------------------------------------------- */

static double *normal(const scene *s, uint64_t stream, int64_t count, double scale)
{
  double *values = zeros(count);
  for (int64_t i = 0; i < count; i++) {
    values[i] = scale * neap_random_normal(s->seed, stream, (uint64_t)i);
    values[i] = s->dtype == NEAP_F32 ? (double)(float)values[i] : values[i];
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
          (double)(float)neap_random_normal(s->seed, 6, (uint64_t)t * 1000 + i);
}

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
  m->x = normal(s, 0, m->t * m->h, 1);
  m->dy = normal(s, 1, m->t * m->h, 1);
  m->router = normal(s, 2, m->h * m->e, 0.7);
  for (int64_t e = 0; e < m->e; e++) {
    m->ffn[e] = ffn[roll(d, 0, 5)];
    m->w[e] = normal(s, 10 + (uint64_t)e, 3 * m->h * m->ffn[e], 0.5);
  }
  avoid_ties(s);
}

static void close_model(scene *s)
{
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
  s->group = (int32_t)roll(d, NEAP_GROUP_NODE, 3);
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

/* ---- against the dense layer --------------------------------------------------------------- */

/* Relative to the largest; what is nearly 0 may be so by cancellation of terms of order 1. */
static void check_near(const scene *s, const char *what, int64_t count, const double *values,
                       const double *expected, double tolerance)
{
  double worst = 0, largest = 0;
  for (int64_t i = 0; i < count; i++) {
    double error = fabs(values[i] - expected[i]);
    worst = error > worst || error != error ? error : worst;
    largest = fmax(largest, fabs(expected[i]));
  }
  check(worst <= tolerance * fmax(largest, 0.1),
        "seed %d, %d ranks, %s, %s%s: %s is off by %g of %g", (int)s->seed, s->ranks,
        s->dtype == NEAP_F32 ? "f32" : "f64", s->rule ? s->rule : "random",
        s->exact ? ", exact" : "", what, worst, largest);
}

static void compare(const scene *s, const dense_result *r, const dense_result *expected)
{
  const dense *m = &s->model;
  double tolerance = s->dtype == NEAP_F32 ? 1e-5 : 1e-12;
  double sums = s->exact && s->dtype == NEAP_F64 ? 1e-5 : tolerance;
  check_near(s, "y", m->t * m->h, r->y, expected->y, tolerance);
  check_near(s, "dx", m->t * m->h, r->dx, expected->dx, tolerance);
  check_near(s, "drouter", m->h * m->e, r->drouter, expected->drouter, sums);
  check_near(s, "aux loss", 1, &r->aux_loss, &expected->aux_loss, tolerance);
  for (int64_t e = 0; e < m->e; e++)
    check_near(s, "dw", 3 * m->h * m->ffn[e], r->dw[e], expected->dw[e], sums);
}

static void test_dense(int cases)
{
  static const int32_t ranks[] = {1, 2, 3, 4, 8};
  for (int i = 0; i < cases; i++) {
    dice d = {(uint64_t)i, 0};
    scene s = {.seed = (uint64_t)i, .dtype = i % 2 ? NEAP_F64 : NEAP_F32, .exact = i % 4 > 1};
    make_model(&s, &d, roll(&d, 0, 5) ? roll(&d, 1, 40) : roll(&d, 0, 3));
    spread(&s, &d, ranks[i % 5]);
    dense_result expected, result = run_scene(&s);
    dense_run(&s.model, &expected);
    compare(&s, &result, &expected);
    dense_result_close(&s.model, &result);
    dense_result_close(&s.model, &expected);
    close_spread(&s);
    close_model(&s);
  }
}

/* ---- finite differences -------------------------------------------------------------------- */

/* What the gradients are of: dy . y and the auxiliary loss. */
static double loss_of(const scene *s)
{
  dense_result r = run_scene(s);
  double loss = r.aux_loss;
  for (int64_t i = 0; i < s->model.t * s->model.h; i++)
    loss += r.y[i] * s->model.dy[i];
  dense_result_close(&s->model, &r);
  return loss;
}

/* The slope along a random direction of values, which the gradient must give. */
static void check_slope(scene *s, const char *what, double *values, int64_t count,
                        const double *gradient)
{
  double *kept = zeros(count), slope = 0, step = 1e-5, sides[2];
  memcpy(kept, values, (size_t)count * sizeof *kept);
  for (int side = 0; side < 2; side++) {
    for (int64_t i = 0; i < count; i++)
      values[i] = kept[i] + (side ? step : -step) * neap_random_normal(s->seed, 99, (uint64_t)i);
    sides[side] = loss_of(s);
  }
  for (int64_t i = 0; i < count; i++)
    slope += gradient[i] * neap_random_normal(s->seed, 99, (uint64_t)i);
  memcpy(values, kept, (size_t)count * sizeof *kept);
  check_close((sides[1] - sides[0]) / (2 * step), slope, 1e-6, what);
  free(kept);
}

static void test_slopes(void)
{
  for (uint64_t seed = 0; seed < 12; seed++) {
    dice d = {seed + 5000, 0};
    scene s = {.seed = seed + 5000, .dtype = NEAP_F64};
    make_model(&s, &d, 17);
    spread(&s, &d, (int32_t)roll(&d, 1, 4));
    dense *m = &s.model;
    dense_result r = run_scene(&s);
    check_slope(&s, "slope along x", m->x, m->t * m->h, r.dx);
    check_slope(&s, "slope along router", m->router, m->h * m->e, r.drouter);
    for (int64_t e = 0; e < m->e; e += 2)
      check_slope(&s, "slope along weights", m->w[e], 3 * m->h * m->ffn[e], r.dw[e]);
    dense_result_close(m, &r);
    close_spread(&s);
    close_model(&s);
  }
}

/* ---- to the bit ---------------------------------------------------------------------------- */

static void check_bits(const scene *s, const char *what, int64_t count, const double *values,
                       const double *expected)
{
  check_same(values, expected, count * 8, "seed %d, %d ranks, %s%s: %s differs", (int)s->seed,
             s->ranks, s->rule ? s->rule : "random", s->exact ? ", exact" : "", what);
}

static void check_equal(const scene *s, const dense_result *r, const dense_result *first)
{
  const dense *m = &s->model;
  check_bits(s, "y", m->t * m->h, r->y, first->y);
  check_bits(s, "dx", m->t * m->h, r->dx, first->dx);
  check_bits(s, "aux loss", 1, &r->aux_loss, &first->aux_loss);
  if (s->exact)
    check_bits(s, "drouter", m->h * m->e, r->drouter, first->drouter);
  for (int64_t e = 0; s->exact && e < m->e; e++)
    check_bits(s, "dw", 3 * m->h * m->ffn[e], r->dw[e], first->dw[e]);
}

/* The same tokens and parameters on 1, 2, 4 and 8 ranks, each with several layouts. */
static void test_bits(int models)
{
  static const int32_t ranks[] = {1, 1, 2, 2, 2, 3, 4, 4, 4, 8, 8, 8};
  for (int i = 0; i < models; i++) {
    dice d = {(uint64_t)i + 9000, 0};
    scene s = {
        .seed = (uint64_t)i + 9000, .dtype = i % 3 ? NEAP_F32 : NEAP_F64, .exact = i % 4 > 0};
    make_model(&s, &d, 64);
    dense_result first = {0};
    for (size_t n = 0; n < sizeof ranks / sizeof *ranks; n++) {
      spread(&s, &d, ranks[n]);
      dense_result r = run_scene(&s);
      if (n) {
        check_equal(&s, &r, &first);
        dense_result_close(&s.model, &r);
      } else
        first = r;
      close_spread(&s);
    }
    dense_result_close(&s.model, &first);
    close_model(&s);
  }
}

int main(void)
{
  test_dense(1000);
  test_slopes();
  test_bits(24);
  return check_done();
}
