/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The distributed layer on threads: against the dense one of dense.h, against finite differences,
 * and against itself under other layouts, splits and numbers of ranks, to the bit.
 * Runs on: threads.
 */
#include "moe/layer_run.h"

static const int dtypes[] = {NEAP_F32, NEAP_F64, NEAP_BF16};

static void test_dense(int cases)
{
  static const int32_t ranks[] = {1, 2, 3, 4, 8};
  for (int i = 0; i < cases; i++) {
    dice d = {(uint64_t)i, 0};
    scene s = {.seed = (uint64_t)i,
               .dtype = dtypes[i % 3],
               .exact = i % 4 > 1,
               .travel = i % 7 < 3 ? NEAP_TRAVEL_E4M3 : NEAP_TRAVEL_DTYPE};
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

/* ---- finite differences ---------------------------------------------------------------------- */

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

/* What the gradients are of where tokens travel in FP8: experts get x and what rounding has added,
 * which does not follow x. */
static double straight_loss(const scene *s)
{
  const dense *m = &s->model;
  dense_result r;
  dense_run(m, &r);
  double loss = r.aux_loss;
  for (int64_t i = 0; i < m->t * m->h; i++)
    loss += r.y[i] * m->dy[i];
  dense_result_close(m, &r);
  return loss;
}

/* The slope of straight_loss along a random direction of x, to which both x and what is sent move:
 * the layer's gradient must give it. */
static void check_straight_slope(scene *s, const double *gradient)
{
  dense *m = &s->model;
  int64_t count = m->t * m->h;
  double slope = 0, step = 1e-5, sides[2];
  for (int side = 0; side < 2; side++) {
    for (int64_t i = 0; i < count; i++) {
      double by = (side ? 2 * step : -step) * neap_random_normal(s->seed, 98, (uint64_t)i);
      m->x[i] += by;
      s->sent[i] += by;
    }
    sides[side] = straight_loss(s);
  }
  for (int64_t i = 0; i < count; i++)
    slope += gradient[i] * neap_random_normal(s->seed, 98, (uint64_t)i);
  check_close((sides[1] - sides[0]) / (2 * step), slope, 1e-6, "straight-through slope along x");
}

/* Along parameters the layer itself is smooth, whatever its tokens are rounded to. */
static void test_straight_through(void)
{
  for (uint64_t seed = 0; seed < 12; seed++) {
    dice d = {seed + 6000, 0};
    scene s = {.seed = seed + 6000, .dtype = NEAP_F64, .travel = NEAP_TRAVEL_E4M3};
    make_model(&s, &d, 17);
    spread(&s, &d, (int32_t)roll(&d, 1, 4));
    dense *m = &s.model;
    dense_result r = run_scene(&s);
    check_slope(&s, "slope along router", m->router, m->h * m->e, r.drouter);
    for (int64_t e = 0; e < m->e; e += 2)
      check_slope(&s, "slope along weights", m->w[e], 3 * m->h * m->ffn[e], r.dw[e]);
    check_straight_slope(&s, r.dx);
    dense_result_close(m, &r);
    close_spread(&s);
    close_model(&s);
  }
}

/* ---- to the bit ------------------------------------------------------------------------------ */

static void test_bits(int models)
{
  for (int i = 0; i < models; i++) {
    dice d = {(uint64_t)i + 9000, 0};
    scene s = {.seed = d.seed, .dtype = dtypes[i % 3], .exact = i % 4 > 0, .travel = i / 2 % 2};
    make_model(&s, &d, 64);
    check_spreads(&s, &d, false);
  }
}

/* Sizes at which products are cut into blocks. */
static void test_large(void)
{
  for (int i = 0; i < 4; i++) {
    dice d = {9900, 0};
    scene s = {.seed = d.seed,
               .dtype = i / 2 ? NEAP_BF16 : NEAP_F32,
               .exact = i % 2,
               .travel = (i + i / 2) % 2};
    s.model = (dense){.t = 350, .h = 270, .k = 2, .e = 3, .aux = 0.1, .ffn = {70, 33, 41}};
    fill_model(&s);
    check_spreads(&s, &d, true);
  }
}

int main(void)
{
  test_dense((int)check_cases(1000, 10000));
  test_slopes();
  test_straight_through();
  test_bits((int)check_cases(24, 240) + 6);
  test_large();
  return check_done();
}
