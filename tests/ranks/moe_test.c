/*
 * The distributed layer on threads: against the dense one of dense.h, against finite differences,
 * and against itself under other layouts, splits and numbers of ranks, to the bit.
 */
#include "layer.h"

static scene current;
static dense_result got;           /* of current, of all ranks together */
static double *router_parts[MOST]; /* every rank's part of drouter */

/* ---- one rank ------------------------------------------------------------------------------ */

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

/* A step of other tokens under another layout, with or without backward: it may leave no trace. */
static void run_decoy(const scene *s, neap_moe *moe, neap_shards *shards, int32_t rank, int number)
{
  dice d = {s->seed * 16 + (uint64_t)number, 0}, own = {d.seed + 1000 * (uint64_t)rank, 9000};
  scene other = *s;
  check_ok(neap_layout_open(s->topology, &other.layout));
  random_layout(&d, other.layout);
  other.seed = d.seed;
  int64_t begin = roll(&own, 0, s->model.t), t = roll(&own, 0, s->model.t - begin);
  step p = open_step(&other, rank, begin, t, neap_shards_slot_size(shards));
  run_phases(&other, moe, shards, &p, roll(&d, 0, 1));
  close_step(&p);
  neap_layout_close(other.layout);
}

static void run_rank(neap_comm *comm, neap_world *world, int decoys)
{
  (void)world;
  const scene *s = &current;
  int32_t rank = neap_comm_rank(comm);
  neap_comm *second;
  check_ok(neap_comm_duplicate(comm, &second));
  neap_shards *shards = make_shards(s, second);
  neap_moe *moe = make_moe(s, comm);
  for (int i = 0; i < decoys; i++)
    run_decoy(s, moe, shards, rank, i);
  int64_t begin = s->first_token[rank], t = s->first_token[rank + 1] - begin;
  step p = open_step(s, rank, begin, t, neap_shards_slot_size(shards));
  run_phases(s, moe, shards, &p, true);
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

/* Runs the scene on its ranks, perhaps after other steps; the result is to be closed. */
static dense_result run_scene(const scene *s)
{
  int64_t size = s->model.h * s->model.e;
  current = *s;
  dense_result_open(&s->model, &got);
  for (int32_t r = 0; r < s->ranks; r++)
    router_parts[r] = zeros(size);
  run_threads(s->ranks, run_rank, (int)(s->seed % 3));
  for (int32_t r = 0; r < s->ranks; r++) {
    for (int64_t i = 0; i < size; i++)
      got.drouter[i] += router_parts[r][i];
    free(router_parts[r]);
  }
  return got;
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

/* The scene's model on 1 to 8 ranks, each with several layouts; closes the model. */
static void check_spreads(scene *s, dice *d, bool dense_too)
{
  static const int32_t ranks[] = {1, 1, 2, 2, 3, 4, 4, 8, 8};
  dense_result first = {0}, expected;
  for (size_t n = 0; n < sizeof ranks / sizeof *ranks; n++) {
    spread(s, d, ranks[n]);
    dense_result r = run_scene(s);
    if (n) {
      check_equal(s, &r, &first);
      dense_result_close(&s->model, &r);
    } else
      first = r;
    close_spread(s);
  }
  if (dense_too) {
    dense_run(&s->model, &expected);
    compare(s, &first, &expected);
    dense_result_close(&s->model, &expected);
  }
  dense_result_close(&s->model, &first);
  close_model(s);
}

static void test_bits(int models)
{
  for (int i = 0; i < models; i++) {
    dice d = {(uint64_t)i + 9000, 0};
    scene s = {.seed = d.seed, .dtype = i % 3 ? NEAP_F32 : NEAP_F64, .exact = i % 4 > 0};
    make_model(&s, &d, 64);
    check_spreads(&s, &d, false);
  }
}

/* Sizes at which products are cut into blocks. */
static void test_large(void)
{
  for (int exact = 0; exact < 2; exact++) {
    dice d = {9900, 0};
    scene s = {.seed = d.seed, .dtype = NEAP_F32, .exact = exact};
    s.model = (dense){.t = 350, .h = 270, .k = 2, .e = 3, .aux = 0.1, .ffn = {70, 33, 41}};
    fill_model(&s);
    check_spreads(&s, &d, true);
  }
}

int main(void)
{
  test_dense(1000);
  test_slopes();
  test_bits(24);
  test_large();
  return check_done();
}
