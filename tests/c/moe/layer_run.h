/* SPDX-License-Identifier: Apache-2.0 */
/* Runs a scene's layer on its ranks, and compares: with the dense one, and with other spreads of
 * the same tokens to the bit. */
#ifndef NEAP_TEST_LAYER_RUN_H
#define NEAP_TEST_LAYER_RUN_H

#include "moe/layer.h"

static scene current;
static dense_result got;           /* of current, of all ranks together */
static double *router_parts[MOST]; /* every rank's part of drouter */

/* ---- one rank -------------------------------------------------------------------------------- */

static void collect_weight_gradients(const scene *s, neap_shards *shards, int32_t rank)
{
  for (int32_t e = 0; e < s->model.e; e++) {
    neap_tensor *dw = tensor(acc_of(s->dtype), 1, 3 * s->model.h * s->model.ffn[e]);
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
  if (s->gpu && !check_ok(neap_device_use(0)))
    return;
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

/* ---- against the dense layer ----------------------------------------------------------------- */

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
        dtype_name(s->dtype), s->rule ? s->rule : "random", s->exact ? ", exact" : "", what, worst,
        largest);
}

static void compare(const scene *s, const dense_result *r, const dense_result *expected)
{
  const dense *m = &s->model;
  double tolerance = s->dtype == NEAP_BF16 ? 0.1 : s->dtype == NEAP_F32 ? 1e-5 : 1e-12;
  double sums = s->exact && s->dtype == NEAP_F64 ? 1e-5 : tolerance;
  check_near(s, "y", m->t * m->h, r->y, expected->y, tolerance);
  check_near(s, "dx", m->t * m->h, r->dx, expected->dx, tolerance);
  check_near(s, "drouter", m->h * m->e, r->drouter, expected->drouter, sums);
  check_near(s, "aux loss", 1, &r->aux_loss, &expected->aux_loss, tolerance);
  for (int64_t e = 0; e < m->e; e++)
    check_near(s, "dw", 3 * m->h * m->ffn[e], r->dw[e], expected->dw[e], sums);
}

/* ---- to the bit ------------------------------------------------------------------------------ */

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

#endif
