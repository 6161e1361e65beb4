/* SPDX-License-Identifier: Apache-2.0 */
/* Pouring work expert by expert ends at the least max level that the exact split finds: never below
 * it, close after the rounds that planner neap takes, as good as there after many. */
#include "plan/neap/levels.c" /* nothing of it is exported */
#include "plan/problem.h"

#include <neap.h>
#include <string.h>

enum { CASES = 150, TOKENS = 1 << 20 };

typedef struct {
  neapi_levels levels;
  float speed[RANKS];
  int32_t expert_of[SLOTS], head[EXPERTS], next[SLOTS], count[EXPERTS];
  neapi_lanes work[EXPERTS], part[SLOTS], load[RANKS];
} scene;

/* Work of every expert in all lanes alike, in units of what a mean rank does. */
static void fill(scene *s, const problem *c, const neap_layout *layout, const int64_t *tokens)
{
  const neap_topology *t = c->topology;
  double sum = 0, speed = 0;
  for (int32_t r = 0; r < c->ranks; r++)
    speed += t->speed[r];
  for (int32_t e = 0; e < c->experts; e++)
    sum += (double)tokens[e] * t->cost[e];
  for (int32_t r = 0; r < c->ranks; r++)
    s->speed[r] = (float)(t->speed[r] * c->ranks / speed);
  for (int32_t e = 0; e < c->experts; e++)
    for (int32_t i = 0; i < NEAPI_LANES; i++)
      s->work[e].of[i] = (float)((double)tokens[e] * t->cost[e] * c->ranks / sum);
  memcpy(s->expert_of, neap_layout_experts(layout), sizeof(int32_t) * (size_t)c->slots);
  s->levels = (neapi_levels){t,       s->speed, s->expert_of, s->work, s->part,
                             s->load, s->head,  s->next,      s->count};
}

static double fullest(scene *s, int32_t rounds)
{
  neapi_lanes most;
  neapi_levels_fill(&s->levels, rounds);
  neapi_levels_most(&s->levels, &most);
  return most.of[NEAPI_LANES / 2];
}

/* The exact split's imbalance. */
static double exact(const problem *c, const neap_layout *layout, const int64_t *tokens)
{
  static int64_t load[RANKS * EXPERTS];
  neap_split *split;
  neap_balance b = {0};
  memset(load, 0, sizeof load);
  memcpy(load, tokens, sizeof *tokens * (size_t)c->experts); /* all of them of rank 0 */
  check(!neap_split_open(c->topology, "minimax", &split) &&
            !neap_split_compute(split, layout, load) && !neap_split_balance(split, &b),
        "%s", neap_error_message());
  neap_split_close(split);
  return b.imbalance;
}

static void test_case(generator *g, double *after_few)
{
  static problem c;
  static scene s;
  int64_t tokens[EXPERTS];
  neap_planner *planner;
  neap_layout *layout;
  open_problem(g, &c, false);
  for (int32_t e = 0; e < c.experts; e++)
    tokens[e] = 1 + draw(g, TOKENS) * (int64_t)(draw(g, 4) ? 1 : 8);
  check(!neap_planner_open(c.topology, "eplb", &planner) &&
            !neap_planner_set(planner, "doubles", 0) && !neap_layout_open(c.topology, &layout) &&
            !neap_planner_plan(planner, c.load, NULL, 0, layout),
        "%s", neap_error_message());
  fill(&s, &c, layout, tokens);
  double least = exact(&c, layout, tokens), few = fullest(&s, 4), many = fullest(&s, 400);
  check(few > least * (1 - 1e-4) && many > least * (1 - 1e-4), "%g and %g; the least is %g", few,
        many, least);
  check(many < least * 1.005, "%g after 400 rounds; the least is %g", many, least);
  *after_few += few / least / CASES;
  neap_layout_close(layout);
  neap_planner_close(planner);
  neap_topology_close(c.topology);
}

int main(void)
{
  generator g = {77, 0};
  double after_few = 0;
  for (int32_t i = 0; i < CASES; i++)
    test_case(&g, &after_few);
  check(after_few < 1.03, "after 4 rounds %g times the least, on average", after_few);
  return check_done();
}
